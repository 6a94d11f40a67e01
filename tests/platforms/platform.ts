/**
 * A platform: somewhere that Platter runs, and can be run by this machine.
 *
 * @module
 */

import {
  add,
  type Outcome,
  type Place,
  runSuites,
  type Shell,
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

/** What a platform tells while it runs. */
export type Report = (line: string) => void;

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
   * @param places Names of those that are wanted.
   * @param report Is told of progress.
   * @param found Is given each row when it is known.
   * @throws {Missing} If it cannot be had here.
   */
  run(
    places: readonly string[],
    report: Report,
    found: (row: Row) => void,
  ): Promise<void>;
}

/** A platform, or a place of it, that this machine cannot have. */
export class Missing extends Error {
  /** Always `"Missing"`. */
  override readonly name = "Missing";
}

/**
 * Runs the suites of a place.
 *
 * @param shell Whose.
 * @param name The platform's.
 * @param kernel Its kernel.
 * @param place The place.
 * @param report Is told of each suite, and of what failed.
 * @returns Its row.
 */
export async function runPlace(
  shell: Shell,
  name: string,
  kernel: string,
  place: Place,
  report: Report,
): Promise<Row> {
  let known: Outcome = {
    passed: 0,
    failed: 0,
    skipped: 0,
    failures: [],
    differences: [],
  };
  const title = `${name}:${place.name}`;
  let began = performance.now();
  try {
    await runSuites(shell, place, (suite, outcome, output) => {
      known = add(known, outcome);
      const { passed, failed, skipped } = outcome;
      const seconds = ((performance.now() - began) / 1000).toFixed(0);
      began = performance.now();
      report(
        `${title} ${suite}: ${passed} passed, ${failed} failed, ${skipped} skipped in ${seconds} s`,
      );
      if (failed > 0) {
        report(output.trimEnd().split("\n").slice(-400).join("\n"));
      }
    });
  } catch (error) {
    const text = error instanceof Error ? error.message : String(error);
    report(`${title}: ${text}`);
    const failures = [text.split("\n")[0]!];
    known = add(known, { ...known, ...NO_COUNTS, failed: 1, failures });
  }
  return { name: title, kernel, outcome: known };
}

const NO_COUNTS = { passed: 0, skipped: 0, differences: [] };
