/**
 * Testing whatever writes to disks: power cuts explored, in this process and in
 * programs that nobody here wrote; faults and other layers, assertions about what
 * is on disks, and disks that clean up after themselves.
 *
 * {@linkcode exploreCrashes} is where to start with code that uses a disk of this
 * package, {@linkcode crashTest} with a program.
 *
 * @example Is what was acknowledged still there after a power cut?
 * ```ts
 * import { exploreCrashes } from "@platter/disk/testing";
 *
 * await exploreCrashes<string>({
 *   device: { sectors: 64 },
 *   async workload(disk, acknowledge) {
 *     await disk.write(8, new TextEncoder().encode("paid".padEnd(512)));
 *     await disk.flush();
 *     acknowledge("paid");
 *   },
 *   async recover(disk, acknowledged) {
 *     const text = new TextDecoder().decode(await disk.read(8, 1)).trim();
 *     if (acknowledged.includes("paid") && text !== "paid") {
 *       throw new Error("The payment is gone");
 *     }
 *   },
 * });
 * ```
 *
 * @module
 */

export * from "../testing/mod.ts";
export {
  assertDisksEqual,
  type AssertDisksOptions,
} from "./assertions/assert_disks_equal.ts";
export {
  assertGolden,
  type AssertGoldenOptions,
} from "./assertions/assert_golden.ts";
export { crashTest } from "./run_crash_test.ts";
export { CrashTestError, CrashTestFailure } from "./crash_test_error.ts";
export type { CrashTestOptions, CrashTestStep } from "./crash_test_options.ts";
export { ProgramError } from "./programs.ts";
export type * from "./report/data.ts";
export { reportPage } from "./report/html.ts";
export { reportJunit } from "./report/junit.ts";
export { makeReport, type MakeReportOptions } from "./report/make_report.ts";
export { reportText } from "./report/terminal.ts";
export type * from "./stage.ts";
