/**
 * Why a test says nothing of the program, and how it says that the program
 * fails.
 *
 * @module
 */

import { reportText } from "./report/terminal.ts";
import type { CrashReportData } from "./report/data.ts";

/**
 * A test that cannot say anything: the workload failed, it promised nothing, or
 * the check is wrong.
 */
export class CrashTestError extends Error {
  /** Always `"CrashTestError"`. */
  override readonly name = "CrashTestError";
  /** What the command printed that is to blame; empty if none is. */
  readonly output: string;

  /**
   * Constructs a new instance.
   *
   * @param message What is wrong.
   * @param output What a command printed.
   */
  constructor(message: string, output = "") {
    const said = output.trim();
    super(said === "" ? message : `${message}:\n${said}`);
    this.output = output;
  }
}

/**
 * A program that does not survive, or of which that cannot be said yet. The
 * message is all of it, for people.
 */
export class CrashTestFailure extends Error {
  /** Always `"CrashTestFailure"`. */
  override readonly name = "CrashTestFailure";
  /** What was found. */
  readonly report: CrashReportData;

  /**
   * Constructs a new instance.
   *
   * @param report What was found.
   */
  constructor(report: CrashReportData) {
    super(reportText(report));
    this.report = report;
  }
}
