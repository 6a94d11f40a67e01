/**
 * What is run on a platform, and how its output is read: the same programs and
 * tests everywhere, by a shell there.
 *
 * @module
 */

import { differences, type Facts } from "./differences.ts";

/** Where a suite runs. */
export interface Place {
  /** What it is called in the table, such as `"ext4"`. */
  readonly name: string;
  /** A folder for images. */
  readonly folder?: string;
  /** A device instead, whose content is destroyed. */
  readonly device?: string;
  /** The suites. */
  readonly suites: readonly SuiteName[];
}

/** A shell of a platform. */
export interface Shell {
  /** Deno's path there. */
  readonly deno: string;
  /** The path of this repository there. */
  readonly repository: string;
  /** A folder of memory or of a disk, with Deno's cache. */
  readonly denoDir: string;
  /** Runs a line. */
  run(
    command: string,
    timeoutMs: number,
  ): Promise<{ code: number; output: string }>;
}

/** How often what came about. */
export interface Outcome {
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
  /** What failed, with what it said. */
  readonly failures: readonly string[];
  /** What differs from the usual, if the suite says so. */
  readonly differences: readonly string[];
}

const TEST = "test -A --no-check --no-lock --quiet";

/** How a suite is run: Deno's arguments. A place stands for itself in them. */
const SUITES = {
  facts: "run -A --no-check --no-lock --quiet tests/platforms/facts.ts PLACE",
  alignment:
    "run -A --no-check --no-lock --quiet examples/direct_io_alignment.ts PLACE",
  contract: `${TEST} tests/platforms/place.ts`,
  probe: `${TEST} tests/backends/direct/probe_test.ts`,
  choice: `${TEST} tests/backends/direct/choice_test.ts`,
  direct:
    `${TEST} tests/backends/direct/contract_test.ts tests/backends/direct/backend_test.ts`,
  ffi: `${TEST} tests/ffi`,
} as const;

/** The name of a suite. */
export type SuiteName = keyof typeof SUITES;

/** What every place runs. */
export const EVERYWHERE: readonly SuiteName[] = [
  "facts",
  "alignment",
  "contract",
];

/** What one place of each kernel runs. */
export const WHOLE: readonly SuiteName[] = [
  ...EVERYWHERE,
  "probe",
  "choice",
  "ffi",
  "direct",
];

/** What a suite may take, in ms: processors that are emulated are slow. */
const SUITE_MS = 20 * 60_000;

/**
 * Runs the suites of a place, one after the other.
 *
 * @param shell Whose.
 * @param place The place.
 * @param heard Called with the name of each suite, what came about, and all that
 * it printed.
 * @returns The sum.
 */
export async function runSuites(
  shell: Shell,
  place: Place,
  heard: (suite: SuiteName, outcome: Outcome, output: string) => void,
): Promise<Outcome> {
  const where = place.device ?? place.folder!;
  const variable = place.device === undefined
    ? `PLATTER_TEST_DIR=${where}`
    : `PLATTER_TEST_DEVICE=${where}`;
  let sum: Outcome = NOTHING;
  for (const suite of place.suites) {
    // The alignment example makes a file of its own.
    if (suite === "alignment" && place.folder === undefined) continue;
    const { code, output } = await shell.run(
      `cd ${shell.repository} && NO_COLOR=1 DENO_NO_UPDATE_CHECK=1 DENO_DIR=${shell.denoDir} ${variable} ` +
        `${shell.deno} ${SUITES[suite].replace("PLACE", where)} 2>&1`,
      SUITE_MS,
    );
    const outcome = readOutcome(suite, code, output);
    heard(suite, outcome, output);
    sum = add(sum, outcome);
  }
  return sum;
}

const NOTHING: Outcome = {
  passed: 0,
  failed: 0,
  skipped: 0,
  failures: [],
  differences: [],
};

/** The sum of two. */
export function add(one: Outcome, other: Outcome): Outcome {
  return {
    passed: one.passed + other.passed,
    failed: one.failed + other.failed,
    skipped: one.skipped + other.skipped,
    failures: [...one.failures, ...other.failures],
    differences: [...one.differences, ...other.differences],
  };
}

/**
 * Reads what a suite printed.
 *
 * @param suite Its name.
 * @param code How it ended.
 * @param output What it printed.
 * @returns What came about; what did not end as it must has failed.
 */
export function readOutcome(
  suite: SuiteName,
  code: number,
  output: string,
): Outcome {
  const outcome = suite === "facts"
    ? readFacts(output)
    : suite === "alignment"
    ? readSteps(output)
    : readTests(output);
  if (outcome !== null && (code === 0) === (outcome.failed === 0)) {
    return {
      ...outcome,
      failures: outcome.failures.map((text) => `${suite}: ${text}`),
    };
  }
  const last = output.trimEnd().split("\n").slice(-12).join("\n");
  return {
    ...NOTHING,
    failed: 1,
    failures: [`${suite}: ends with ${code}: ${last}`],
  };
}

function readFacts(output: string): Outcome | null {
  const line = /^FACTS (.*)$/m.exec(output)?.[1];
  if (line === undefined) return null;
  const { direct, portable }: { direct: Facts; portable: Facts } = JSON.parse(
    line,
  );
  const wrong = [
    ...direct.wrong.map((text) => `direct: ${text}`),
    ...portable.wrong.map((text) => `portable: ${text}`),
  ];
  return {
    passed: 2 - [direct, portable].filter((one) => one.wrong.length > 0).length,
    // The program ends well: what is wrong is found here.
    failed: 0,
    skipped: 0,
    failures: [],
    differences: differences(direct, portable),
    ...(wrong.length === 0 ? {} : { failed: wrong.length, failures: wrong }),
  };
}

/** Lines "  ok  (a) …" of the alignment example, and others that failed. */
function readSteps(output: string): Outcome | null {
  const steps = [...output.matchAll(/^ +(\S+) +(\([a-d]\) .*)$/gm)];
  if (steps.length === 0) return null;
  const failures = steps.filter(([, word]) => word !== "ok")
    .map(([, word, text]) => `${word} ${text}`);
  return {
    ...NOTHING,
    passed: steps.length - failures.length,
    failed: failures.length,
    failures,
  };
}

/** "ok | 12 passed (3 steps) | 0 failed | 2 ignored (1s)" of `deno test`. */
function readTests(output: string): Outcome | null {
  const line = /^(?:ok|FAILED) \| (\d+) passed.*$/m.exec(output);
  if (line === null) return null;
  const count = (word: string) =>
    Number(new RegExp(`\\| (\\d+) ${word}`).exec(line[0])?.[1] ?? 0);
  const failures = [...output.matchAll(/^(.+) \.\.\. FAILED/gm)]
    .map(([, name]) => name!);
  return {
    ...NOTHING,
    passed: Number(line[1]),
    failed: count("failed"),
    skipped: count("ignored"),
    failures,
  };
}
