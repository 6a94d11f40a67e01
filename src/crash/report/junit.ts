/**
 * A report as JUnit XML, which build servers show: one test case for each way to
 * fail and each doubt, or a single one that passed.
 *
 * A way to fail is a `failure`; states that cannot be judged, or not the same
 * each time, are an `error`: the test is broken then, and not the program.
 *
 * The elements and attributes are those that Jenkins' schema has (junit-10.xsd
 * of its xUnit plug-in); `testsuites` may be the root there.
 *
 * @module
 */

import { tellStory } from "../../testing/crash_story.ts";
import type { CrashReportData, ReportDoubt, ReportGroup } from "./data.ts";
import { Markup, markup } from "./markup.ts";
import { counted, headline, lostOf, sectorsOf, summary } from "./words.ts";

/** What the suite and the class of its test cases are called. */
const SUITE = "platter.crash";

/** How every such document begins, and nobody else's. */
export const JUNIT_START = `<?xml version="1.0" encoding="UTF-8"?>
<testsuites>
<testsuite name="${SUITE}" `;

/**
 * Writes a report as JUnit XML.
 *
 * @param data The report.
 * @returns An XML document.
 */
export function reportJunit(data: CrashReportData): string {
  const { groups, unstable, unjudged, explored } = data;
  const seconds = (explored.durationMs / 1000).toFixed(3);
  const cases = [
    ...groups.map(writeFailure),
    ...unstable.map((doubt) => writeDoubt("unstable", doubt)),
    ...unjudged.map((doubt) => writeDoubt("not judged", doubt)),
  ];
  const failures = groups.length;
  const errors = unstable.length + unjudged.length;
  if (cases.length === 0) {
    cases.push(
      markup`<testcase classname="${SUITE}" name="${
        counted(explored.states, "crash state")
      }" time="${seconds}"/>
`,
    );
  }
  const { text } = markup`${new Markup(
    JUNIT_START,
  )}tests="${cases.length}" failures="${failures}" errors="${errors}" skipped="0" time="${seconds}">
<properties>
<property name="states" value="${explored.states}"/>
<property name="recoveryStates" value="${explored.recoveryStates}"/>
<property name="exhaustive" value="${String(explored.exhaustive)}"/>
<property name="seed" value="${explored.seed}"/>
<property name="device" value="${data.device.promises}"/>
${
    data.commands.map(({ role, text }) =>
      markup`<property name="${role}" value="${text}"/>
`
    )
  }</properties>
${cases}<system-out>${headline(data)}. ${summary(data)}</system-out>
</testsuite>
</testsuites>
`;
  return withoutForbidden(text);
}

function writeFailure(group: ReportGroup): Markup {
  const { kind, message, count, token, replay, story, output } = group;
  const lost = lostOf(group).filter(({ path }) => path.length > 0)
    .map(({ path, ...range }) => `${sectorsOf(range)}: ${path.join(" > ")}`);
  const parts = [
    story === null ? message : tellStory(story),
    lost.length > 0 && `What is lost:\n${lost.join("\n")}`,
    output !== "" && output !== story?.error.join("\n") &&
    `The check printed:\n${output}`,
    `${counted(count, "state")} fail so. See it again: ${replay ?? token}`,
  ];
  return markup`<testcase classname="${SUITE}" name="${kind}">
<failure type="failed" message="${message}">${
    parts.filter((part) => part !== false).join("\n\n")
  }</failure>
</testcase>
`;
}

function writeDoubt(type: string, doubt: ReportDoubt): Markup {
  const { verdicts, count, token, replay, output } = doubt;
  const said = verdicts.join(", then ");
  return markup`<testcase classname="${SUITE}" name="${type}: ${said}">
<error type="${type}" message="${said}">${
    output === "" ? "" : `${output}\n\n`
  }${counted(count, "state")}. See it again: ${replay ?? token}</error>
</testcase>
`;
}

/** XML 1.0 has no way to write these (section 2.2, Char). */
function withoutForbidden(text: string): string {
  return text.replace(
    // deno-lint-ignore no-control-regex
    /[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]|\p{Surrogate}/gu,
    "\ufffd",
  );
}
