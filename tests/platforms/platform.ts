/**
 * A platform: somewhere that Platter runs, and can be run by this machine.
 *
 * @module
 */

import {
  add,
  hasSuite,
  NOTHING,
  type Outcome,
  type Place,
  readOutcome,
  type RunDeno,
  runSuite,
  type SuiteName,
} from "./suites.ts";

/** What came about in one place of a platform. */
export interface Row {
  /** The platform's name, and the place's. */
  readonly name: string;
  /** Its kernel. */
  readonly kernel: string;
  /** What came about; `null` if it could not be run. */
  readonly outcome: Outcome | null;
  /** Why it could not. */
  readonly reason?: string;
}

/** What is wanted of a platform, and who is told of it. */
export interface Run {
  /** Names of the places that are wanted. */
  readonly places: readonly string[];
  /** Names of the suites that are wanted; all if not given. */
  readonly suites: readonly string[] | undefined;
  /** Is told of progress. */
  readonly report: (line: string) => void;
  /** Is given each row when it is known. */
  readonly found: (row: Row) => void;
}

/** Somewhere to run. */
export interface Platform {
  /** Its name on the command line. */
  readonly name: string;
  /** What it is, for the list. */
  readonly about: string;
  /** Names of its places. */
  readonly places: readonly string[];
  /**
   * Runs it, and undoes whatever it started.
   *
   * @throws {Missing} If it cannot be had here.
   */
  run(run: Run): Promise<void>;
}

/** A platform, or a place of it, that this machine cannot have. */
export class Missing extends Error {
  /** Always `"Missing"`. */
  override readonly name = "Missing";
}

/**
 * Runs the suites of places, and tells of their rows.
 *
 * @param runDeno Who runs Deno there.
 * @param name The platform's name.
 * @param kernel Its kernel.
 * @param places The places.
 * @param run Which suites, and who is told.
 */
export async function runPlaces(
  runDeno: RunDeno,
  name: string,
  kernel: string,
  places: readonly Place[],
  { suites, report, found }: Run,
): Promise<void> {
  const wanted = (suite: SuiteName) => suites?.includes(suite) ?? true;
  const tell = (
    title: string,
    suite: SuiteName,
    { passed, failed, skipped }: Outcome,
  ) =>
    report(
      `${title} ${suite}: ${passed} passed, ${failed} failed, ${skipped} skipped`,
    );
  // A program of its own for each would take longer to start than to run.
  const facts = wanted("facts") && places.length > 0
    ? await runSuite(runDeno, "facts", ...places.map(({ where }) => where))
    : null;
  for (const place of places) {
    const title = `${name}:${place.name}`;
    let sum = NOTHING;
    for (const suite of place.suites) {
      if (!wanted(suite) || !hasSuite(place, suite)) continue;
      let outcome: Outcome;
      try {
        const { code, output } = suite === "facts"
          ? facts!
          : await runSuite(runDeno, suite, place.where);
        outcome = readOutcome(suite, code, output, place.where);
        if (outcome.failed > 0) report(output.trimEnd());
      } catch (error) {
        const text = error instanceof Error ? error.message : String(error);
        report(`${title}: ${text}`);
        outcome = {
          ...NOTHING,
          failed: 1,
          failures: [`${suite}: ${text.split("\n")[0]}`],
        };
      }
      tell(title, suite, outcome);
      sum = add(sum, outcome);
    }
    found({ name: title, kernel, outcome: sum });
  }
}
