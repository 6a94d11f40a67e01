/**
 * Reports of crash tests: {@linkcode makeReport} makes plain data of what was
 * found, and that becomes a page, a JUnit file or text for a terminal; as JSON
 * it is a file format of its own.
 *
 * Only {@linkcode makeReport} touches anything outside: to tell what was lost, it
 * looks into disks, and runs programs of the system on private copies of them.
 *
 * @module
 */

export type * from "./data.ts";
export { reportPage } from "./html.ts";
export { reportJunit } from "./junit.ts";
export { makeReport, type MakeReportOptions } from "./make_report.ts";
export { reportText } from "./terminal.ts";
