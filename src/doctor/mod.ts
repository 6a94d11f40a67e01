/**
 * What a machine, a runtime, its permissions and a file system give to virtual
 * disks: the engine, direct I/O, what a flush reaches, locks, programs; by
 * trials, with what would mend each lack. `platter doctor` prints it.
 *
 * ```ts
 * import { diagnose } from "@platter/disk/doctor";
 *
 * const { findings } = await diagnose("/var/tmp");
 * console.log(findings.direct?.answer, findings.direct?.remedy ?? "");
 * ```
 *
 * @module
 */

export { diagnose, type DiagnoseOptions } from "./diagnose.ts";
export type {
  Diagnosis,
  Finding,
  GrantedPermissions,
  Subject,
  Tool,
  Verdict,
} from "./diagnosis.ts";
export type { DiskInfo } from "../disk/disk.ts";
