/**
 * Stage uml: commands run in User Mode Linux, a kernel that is an ordinary program
 * of an ordinary user. It needs no root, no kernel module and no virtualisation,
 * but ptrace(2), which some containers forbid. Its root is the host's, read-only;
 * the disk is a vhost-user device of ours.
 *
 * @module
 */

import type { GuestUser } from "../guests/guest.ts";
import { UmlMachine } from "../guests/uml_machine.ts";
import { type Need, program, requireAll } from "../programs.ts";
import { GUEST_NEEDS, GuestStage } from "./guest_stage.ts";

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

const NEEDS: readonly Need[] = [
  program("linux.uml", "user-mode-linux"),
  {
    what: "insmod or busybox",
    from: "kmod or busybox",
    isThere: async () =>
      await program("insmod", "kmod").isThere() ||
      await program("busybox", "busybox").isThere(),
  },
  {
    what: "the right to trace a process (ptrace)",
    from: null,
    isThere: canTrace,
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
    require: () => requireAll("use stage uml", NEEDS),
    boot: (_like, signal) => UmlMachine.boot({ memoryMib, user, signal }),
  });
}

/** What User Mode Linux says, before it starts its kernel, if it may trace. */
const MAY_TRACE = "ptrace can change system call numbers...OK";

/** Whether User Mode Linux may trace: it is started without a root, and stops. */
async function canTrace(): Promise<boolean> {
  if (!await program("linux.uml", "user-mode-linux").isThere()) return true;
  const home = await Deno.makeTempDir({ prefix: "platter-uml-" });
  try {
    const { stdout, stderr } = await new Deno.Command("timeout", {
      args: ["-s", "KILL", "60", "linux.uml", "mem=32M", "root=/dev/nothing"],
      env: { HOME: home, TMPDIR: "/dev/shm" },
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
      detached: true,
    }).output();
    return [stdout, stderr].some((bytes) =>
      new TextDecoder().decode(bytes).includes(MAY_TRACE)
    );
  } finally {
    await Deno.remove(home, { recursive: true });
  }
}
