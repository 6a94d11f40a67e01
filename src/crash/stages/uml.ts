/**
 * Stage uml: commands run in User Mode Linux, a kernel that is an ordinary program
 * of an ordinary user. It needs no root, no kernel module and no virtualisation,
 * but ptrace(2), which some containers forbid, and a processor whose registers it
 * has room for. Its root is the host's, read-only; the disk is a vhost-user device
 * of ours.
 *
 * @module
 */

import type { GuestUser } from "../guests/guest.ts";
import { UmlMachine } from "../guests/uml_machine.ts";
import { type Need, program, requireAll } from "../programs.ts";
import { GUEST_NEEDS, GuestStage } from "./guest_stage.ts";
import { tryUml } from "./uml_trial.ts";

/** How the stage is set up. */
export interface UmlStageOptions {
  /**
   * Mebibytes of memory of each guest, of which there is one for each check that
   * runs at the same time. They are memory of the host's `/dev/shm`.
   *
   * @default {512}
   */
  memoryMib?: number | undefined;
  /** Who runs the guests; this process' user if not given. */
  user?: GuestUser | undefined;
}

const PROGRAM = program("linux.uml", "user-mode-linux");

const PROGRAMS: readonly Need[] = [
  PROGRAM,
  {
    what: "insmod or busybox",
    from: "kmod or busybox",
    isThere: async () =>
      await program("insmod", "kmod").isThere() ||
      await program("busybox", "busybox").isThere(),
  },
  ...GUEST_NEEDS,
];

/**
 * Makes the stage.
 *
 * @param options How.
 * @returns The stage.
 */
export function umlStage(options: UmlStageOptions = {}): GuestStage {
  const { memoryMib = 512, user } = options;
  return new GuestStage({
    name: "uml",
    require: requireUml,
    boot: (_like, signal) => UmlMachine.boot({ memoryMib, user, signal }),
  });
}

/**
 * Finds out whether the stage can be used.
 *
 * @throws {ProgramError} If not: with what is missing.
 */
async function requireUml(): Promise<void> {
  const ofMachine = await PROGRAM.isThere() ? await tryUml() : [];
  await requireAll("use stage uml", [...PROGRAMS, ...ofMachine]);
}
