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
  /** A folder for images, or a device, whose content is destroyed. */
  readonly where: string;
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
  run(command: string, timeoutMs: number): Promise<Ended>;
}

/** How a program ended, and what it printed. */
export interface Ended {
  readonly code: number;
  readonly output: string;
}

/** Runs Deno on a platform, in this repository. */
export type RunDeno = (
  args: readonly string[],
  env: Readonly<Record<string, string>>,
  timeoutMs: number,
) => Promise<Ended>;

/**
 * Runs Deno by a shell.
 *
 * @param shell The shell.
 * @returns What runs it.
 */
export function byShell(shell: Shell): RunDeno {
  return (args, env, timeoutMs) => {
    const words = Object.entries({ ...env, DENO_DIR: shell.denoDir })
      .map(([name, value]) => `${name}=${value}`);
    return shell.run(
      `cd ${shell.repository} && ${words.join(" ")} ${shell.deno} ${
        args.join(" ")
      } 2>&1`,
      timeoutMs,
    );
  };
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
  choice: `${TEST} tests/engines/choice_test.ts`,
  direct:
    `${TEST} tests/backends/direct/contract_test.ts tests/backends/direct/backend_test.ts`,
  ffi: `${TEST} tests/ffi`,
} as const;

/** The name of a suite. */
export type SuiteName = keyof typeof SUITES;

/** Names of all suites. */
export const SUITE_NAMES = Object.keys(SUITES) as readonly SuiteName[];

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
 * Runs one suite, in one place or, if it takes several, in more.
 *
 * @param run Who runs Deno.
 * @param suite Its name.
 * @param where Folders or devices.
 * @returns How it ended, and what it printed.
 */
export function runSuite(
  run: RunDeno,
  suite: SuiteName,
  ...where: readonly string[]
): Promise<Ended> {
  const variable = where[0]!.startsWith("/dev/vd")
    ? "PLATTER_TEST_DEVICE"
    : "PLATTER_TEST_DIR";
  return run(
    SUITES[suite].replace("PLACE", where.join(" ")).split(" "),
    {
      NO_COLOR: "1",
      DENO_NO_UPDATE_CHECK: "1",
      PLATTER_PATIENCE: "15",
      [variable]: where[0]!,
    },
    SUITE_MS,
  );
}

/** Whether a suite has anything to do there: the example makes a file. */
export function hasSuite({ where, suites }: Place, suite: SuiteName): boolean {
  return suites.includes(suite) &&
    !(suite === "alignment" && where.startsWith("/dev/vd"));
}

/** Nothing came about. */
export const NOTHING: Outcome = {
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
 * @param where The place, of several.
 * @returns What came about; what did not end as it must has failed.
 */
export function readOutcome(
  suite: SuiteName,
  code: number,
  output: string,
  where: string,
): Outcome {
  const outcome = suite === "facts"
    ? readFacts(output, where)
    : suite === "alignment"
    ? readSteps(output)
    : readTests(output);
  // The facts say what is wrong, and end well.
  const failed = outcome !== null && outcome.failed > 0 && suite !== "facts";
  if (outcome !== null && (code !== 0) === failed) {
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

function readFacts(output: string, where: string): Outcome | null {
  const start = `FACTS ${where} `;
  const line = output.split("\n").find((line) => line.startsWith(start));
  if (line === undefined) return null;
  const found: Record<"direct" | "portable", Facts | string> = JSON.parse(
    line.slice(start.length),
  );
  const { direct, portable } = found;
  const failures = Object.entries(found).flatMap(([backend, facts]) =>
    (typeof facts === "string" ? [facts] : facts.wrong)
      .map((text) => `${backend}: ${text}`)
  );
  return {
    ...NOTHING,
    passed: 2 - new Set(failures.map((text) => text.split(":")[0])).size,
    failed: failures.length,
    failures,
    differences: typeof direct === "string" || typeof portable === "string"
      ? []
      : differences(direct, portable),
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
