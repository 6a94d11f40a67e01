import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import type {
  CrashReportData,
  ReportGroup,
} from "../../../src/crash/report/data.ts";
import { reportJunit } from "../../../src/crash/report/junit.ts";
import { makeReport } from "../../../src/crash/report/make_report.ts";
import { reportText } from "../../../src/crash/report/terminal.ts";
import { regionsOf } from "../../../src/crash/report/regions.ts";
import { makeTimeline } from "../../../src/crash/report/timeline.ts";
import { counted, share } from "../../../src/crash/report/words.ts";
import { tellStory } from "../../../src/testing/crash_story.ts";
import type { DoubtfulState } from "../../../src/testing/crash_verdict.ts";
import { openBackend } from "../../../src/disk/open.ts";
import { hasTool, needs, run, tempDir } from "../../helpers.ts";
import {
  explore,
  LOG,
  LONG_LOG,
  LOST,
  type Subject,
  withLost,
} from "./found.ts";

/** A report of a failing log, with doubts. */
async function report(): Promise<CrashReportData> {
  const { found, recording } = await explore(LOG);
  const doubt = (token: string, message: string): DoubtfulState => ({
    token,
    verdicts: [
      { outcome: "failed", message, output: "a\u001b[1mb\u0000" },
      { outcome: "sound" },
    ],
  });
  return withLost(
    await makeReport(
      {
        ...found,
        unstable: [doubt("crash1:1", "No"), doubt("crash1:2", "No")],
        unjudged: [doubt("crash1:3", "Never")],
        counts: { ...found.counts, unstable: 2, unjudged: 1 },
      },
      recording,
      {
        commands: [{ role: "check", text: "./check <&>" }],
        replay: (token) => `platter crash --only ${token}`,
        explain: false,
      },
    ),
  );
}

Deno.test("makeReport() gives plain data that JSON keeps", async () => {
  const data = await report();
  assertEquals(JSON.parse(JSON.stringify(data)), data);
  assertEquals([data.format, data.version], ["platter-crash-report", 1]);
  assertEquals(data.verdict, "failed");
  const [first, second] = data.groups;
  assert(first!.count >= second!.count);
  assertEquals(data.explored.failed, first!.count + second!.count);
  assertEquals(first!.replay, `platter crash --only ${first!.token}`);
  assertEquals(first!.lost, LOST);
  assertEquals(
    data.unstable.map(({ count, token, verdicts, output }) => ({
      count,
      token,
      verdicts,
      output,
    })),
    [{
      count: 2,
      token: "crash1:1",
      verdicts: ["failed: No", "sound"],
      output: "ab\\u{0}",
    }],
  );
});

Deno.test("docs/crash_report.md names every member of the JSON format", async () => {
  const page = await Deno.readTextFile(
    new URL("../../../docs/crash_report.md", import.meta.url),
  );
  const named = new Set(page.match(/(?<=`)\w+(?=`)/g));
  const missing = new Set<string>();
  const visit = (value: unknown) => {
    if (Array.isArray(value)) { for (const each of value) visit(each); }
    else if (typeof value === "object" && value !== null) {
      for (const [key, inner] of Object.entries(value)) {
        if (!named.has(key)) missing.add(key);
        visit(inner);
      }
    }
  };
  visit(await report());
  assertEquals([...missing], []);
});

Deno.test(
  "makeReport() tells which file on ext4 was lost",
  needs("mkfs.ext4", "debugfs", "dumpe2fs", "sfdisk"),
  async () => {
    await using dir = await tempDir();
    const image = await dir.file("disk.img", 8 * 2 ** 20);
    await Deno.mkdir(dir.join("root"));
    await Deno.writeFile(dir.join("root/ledger"), new Uint8Array(4096).fill(1));
    const args = ["-q", "-F", "-b", "1024", "-d", dir.join("root"), image];
    await run("mkfs.ext4", args);
    const text = await run("debugfs", ["-R", "blocks /ledger", image]);
    const sector = 2 * Number(text.trim().split(" ")[0]);
    const base = await openBackend(image, { readOnly: true });
    const subject: Subject = {
      device: {},
      base,
      maxStates: 20,
      async workload(disk, acknowledge) {
        await disk.write(sector, new Uint8Array(1024).fill(2));
        acknowledge("paid");
        await disk.flush();
      },
      async check(disk, acknowledged) {
        const [byte] = await disk.read(sector, 1);
        if (acknowledged.length > 0 && byte !== 2) throw new Error("Not paid");
      },
    };
    try {
      const { found, recording } = await explore(subject);
      const { groups: [group] } = await makeReport(found, recording);
      assertEquals(group!.message, "Not paid");
      const [range] = group!.lost!.ranges;
      assertEquals([range!.sector, range!.count], [sector, 1]);
      const [kind, inode, path] = range!.path;
      assertEquals([kind, path], ["ext4", "/ledger"]);
      assert(/^inode \d+$/.test(inode!));
      // The line of this test is known, which is more than a process.
      assertEquals(group!.lost!.notes, []);
      const unexplained = await makeReport(found, recording, {
        explain: false,
      });
      assertEquals(unexplained.groups[0]!.lost, null);
    } finally {
      await base.close();
    }
  },
);

Deno.test("makeReport() bounds what a check printed, and keeps its end", async () => {
  const { found, recording } = await explore(LOG);
  const lines = Array.from({ length: 10_000 }, (_, i) => `line ${i}`);
  const groups = found.groups.map((group) => ({
    ...group,
    output: `${
      lines.join("\r\n")
    }\n\u0007 5 %\r 9 %\r\tdone \u001b[31mred\u001b[0m\n`,
  }));
  const { groups: [group] } = await makeReport(
    { ...found, groups },
    recording,
    {
      explain: false,
    },
  );
  const output = group!.output.split("\n");
  assertEquals(output[0], "… what came before is left out");
  assertEquals(output.at(-1), "    done red");
  assertEquals(output.at(-2), "line 9999");
  assert(output.length < 410 && group!.output.length < 17_000);
});

Deno.test("makeReport() tells the verdict by what there is of each", async () => {
  const { found, recording } = await explore(LOG);
  const verdict = async (
    failed: number,
    unstable: number,
    unjudged: number,
    seenEachGroup = true,
    only = false,
  ) => {
    const counts = { ...found.counts, failed, unstable, unjudged };
    const report = { ...found.report, states: 9 };
    const data = { ...found, groups: [], counts, report, seenEachGroup };
    return (await makeReport(data, recording, { only })).verdict;
  };
  assertEquals(await verdict(1, 1, 1), "failed");
  assertEquals(await verdict(0, 1, 1), "unstable");
  assertEquals(await verdict(0, 0, 9), "unjudged");
  assertEquals(await verdict(0, 0, 1), "safe");
  assertEquals(await verdict(0, 0, 0, false), "unfinished");
  assertEquals(await verdict(0, 0, 0, false, true), "safe");
});

Deno.test("makeReport() tells many groups by their message only", async () => {
  const { found, recording } = await explore(LOG);
  const groups = Array.from({ length: 100 }, (_, i) => ({
    ...found.groups[0]!,
    kind: `kind ${i}`,
    count: i,
  }));
  const data = await makeReport({ ...found, groups }, recording, {
    explain: false,
  });
  const whole = (group: ReportGroup) => group.story !== null;
  assertEquals(
    data.groups.map(({ count }) => count),
    [...Array(100).keys()].reverse(),
  );
  assertEquals(data.groups.filter(whole), data.groups.slice(0, 24));
});

Deno.test("makeTimeline() counts every event once", async () => {
  for (const subject of [LOG, LONG_LOG]) {
    const { recording, found } = await explore(subject);
    const timeline = makeTimeline(recording, found.points);
    const sum = (values: readonly number[]) =>
      values.reduce((a, b) => a + b, 0);
    assertEquals(timeline.events, recording.events.length);
    assertEquals(sum(timeline.acknowledged), recording.acknowledged.length);
    assertEquals(sum(timeline.flushes), found.report.flushes);
    assertEquals(
      sum(timeline.regions.map(({ written }) => sum(written))),
      sum(recording.requests.map(({ count }) => count)),
    );
    assertEquals(sum(timeline.judged), found.report.states);
    assertEquals(sum(timeline.failed), found.counts.failed);
    for (
      const row of [
        timeline.flushes,
        ...timeline.regions.map((r) => r.written),
      ]
    ) {
      assertEquals(row.length, timeline.columns);
    }
  }
});

Deno.test("regionsOf() keeps the widest gaps and divides what is large", () => {
  const at = (sector: number, count = 1) => ({ sector, count });
  assertEquals(regionsOf([], 4), []);
  assertEquals(regionsOf([at(9), at(8), at(8, 2)], 4), [at(8, 2)]);
  assertEquals(
    regionsOf([at(1000), at(0), at(10), at(2000), at(12)], 3),
    [at(0, 13), at(1000), at(2000)],
  );
  assertEquals(regionsOf([at(0, 128)], 2), [at(0, 64), at(64, 64)]);
  assertEquals(regionsOf([at(0, 63)], 4), [at(0, 63)]);
});

Deno.test("reportText() tells the simplest failure as its story", async () => {
  const data = await report();
  const text = reportText(data);
  const [group] = data.groups;
  assertStringIncludes(text, "A power cut breaks it.\n");
  assertStringIncludes(text, tellStory(group!.story!));
  assertStringIncludes(
    text,
    "sector 2,040: partition 1 > ext4 > inode 12 > /var/lib/log/count",
  );
  assertStringIncludes(
    text,
    `See it again: platter crash --only ${group!.token}`,
  );
  assertStringIncludes(text, "All ways to fail:");
  assertStringIncludes(
    text,
    "Not the same when tried again:\n  2 states: failed: No, then sound",
  );
  assertStringIncludes(text, "Not judged:\n  1 state: ");
  // deno-lint-ignore no-control-regex
  assert(!/[\x00-\x09\x0b-\x1f]/.test(text));
});

Deno.test("reportText() says so where no write is missing", async () => {
  const { found, recording } = await explore({
    ...LOG,
    check: () => Promise.reject(new Error("Never")),
  });
  const [group] = found.groups;
  const data = await makeReport(found, recording, { explain: false });
  const events = group!.story.crashes[0]!.events.filter(({ kind }) =>
    kind !== "write"
  );
  const story = { ...group!.story, crashes: [{ point: 1, events }] };
  const nothing = "Nothing that was written is lost";
  const told = { ...data, groups: [{ ...data.groups[0]!, story }] };
  assertStringIncludes(reportText(told), nothing);
  assert(!reportText(await report()).includes(nothing));
});

Deno.test("reportText() of what is safe is a few lines", async () => {
  const { found, recording } = await explore({
    ...LOG,
    check: () => Promise.resolve(),
  });
  const text = reportText(await makeReport(found, recording));
  assertEquals(text.split("\n").length, 4);
  assertStringIncludes(text, "No power cut was found that breaks it.");
});

/** The elements and attributes of Jenkins' schema that are used here. */
const JUNIT: Record<string, { inside: string; attributes: string[] }> = {
  testsuites: { inside: "", attributes: [] },
  testsuite: {
    inside: "testsuites",
    attributes: ["name", "tests", "failures", "errors", "skipped", "time"],
  },
  properties: { inside: "testsuite", attributes: [] },
  property: { inside: "properties", attributes: ["name", "value"] },
  testcase: { inside: "testsuite", attributes: ["classname", "name", "time"] },
  failure: { inside: "testcase", attributes: ["type", "message"] },
  error: { inside: "testcase", attributes: ["type", "message"] },
  "system-out": { inside: "testsuite", attributes: [] },
};

/** How often each element is there; throws if it is not well-formed. */
function elementsOf(xml: string): Record<string, number> {
  const open: string[] = [];
  const counts: Record<string, number> = {};
  for (
    const [, end, name, attributes, empty] of xml.replace(/^<\?xml.*\?>\n/, "")
      .matchAll(/<(\/?)([\w-]+)((?: [\w-]+="[^"<]*")*)(\/?)>/g)
  ) {
    if (end) {
      assertEquals(open.pop(), name);
      continue;
    }
    const rule = JUNIT[name!]!;
    assertEquals(open.at(-1) ?? "", rule.inside, name!);
    for (const [, attribute] of attributes!.matchAll(/ ([\w-]+)=/g)) {
      assert(rule.attributes.includes(attribute!), `${name} ${attribute}`);
    }
    counts[name!] = (counts[name!] ?? 0) + 1;
    if (!empty) open.push(name!);
  }
  assertEquals(open, []);
  return counts;
}

Deno.test("reportJunit() has a case for each way to fail and each doubt", async () => {
  const data = await report();
  const xml = reportJunit(data);
  const { testcase, failure, error } = elementsOf(xml);
  assertEquals([testcase, failure, error], [4, 2, 2]);
  assertStringIncludes(xml, 'tests="4" failures="2" errors="2"');
  assertStringIncludes(xml, 'value="./check &lt;&amp;&gt;"');
  assertStringIncludes(xml, "reading &lt;records&gt; &amp; counting");
  const safe = reportJunit({ ...data, groups: [], unstable: [], unjudged: [] });
  assertEquals(elementsOf(safe).testcase, 1);
  assertStringIncludes(safe, 'tests="1" failures="0" errors="0"');
  assert(!safe.includes("<failure"));
});

Deno.test("reportJunit() writes what XML can have", async () => {
  const data = await report();
  const evil = "a\u0001\ufffe\ud800]]></failure>\u000b";
  const [group] = data.groups;
  const xml = reportJunit({
    ...data,
    groups: [{ ...group!, kind: evil, message: evil, output: evil }],
  });
  elementsOf(xml);
  // Section 2.2 of XML 1.0.
  // deno-lint-ignore no-control-regex
  assert(!/[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]/.test(xml));
  assert(xml.isWellFormed());
  if (hasTool("xmllint")) {
    await using dir = await tempDir();
    await Deno.writeTextFile(dir.join("junit.xml"), xml);
    await run("xmllint", ["--noout", dir.join("junit.xml")]);
  }
});

Deno.test("share() says 0 % and 100 % of nothing and all only", () => {
  assertEquals(
    [
      share(0, 5),
      share(1, 10_000),
      share(1, 30),
      share(1, 2),
      share(9999, 10_000),
      share(5, 5),
      share(0, 0),
    ],
    ["0 %", "< 0.1 %", "3.3 %", "50 %", "> 99.9 %", "100 %", "0 %"],
  );
  assertEquals([counted(1, "state"), counted(12_345, "state")], [
    "1 state",
    "12,345 states",
  ]);
});
