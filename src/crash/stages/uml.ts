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

/** What User Mode Linux says, before it starts its kernel, if it may trace. */
const MAY_TRACE = "ptrace can change system call numbers...OK";

/**
 * What its kernel says at the first process if its buffer for floating point
 * registers, of a fixed size in Linux 6.1, is not what PTRACE_SETREGSET wants: as
 * large as the processor's whole state (xstateregs_set, arch/x86/kernel/fpu/regset.c),
 * which is 11,008 bytes with AMX.
 */
const NO_ROOM = "ptrace set fp regs failed";

/**
 * Finds out whether the stage can be used.
 *
 * @throws {ProgramError} If not: with what is missing.
 */
async function requireUml(): Promise<void> {
  const said = await PROGRAM.isThere() ? await tryToBoot() : null;
  const whenSaid = (isGood: (said: string) => boolean) => () =>
    Promise.resolve(said === null || isGood(said));
  await requireAll("use stage uml", [
    ...PROGRAMS,
    {
      what: "the right to trace a process (ptrace)",
      from: null,
      isThere: whenSaid((said) => said.includes(MAY_TRACE)),
    },
    {
      what:
        "a processor whose registers User Mode Linux has room for, that is, without AMX (stage qemu runs on any)",
      from: null,
      isThere: whenSaid((said) => !said.includes(NO_ROOM)),
    },
  ]);
}

/** Starts User Mode Linux for a process that ends at once; returns all it said. */
async function tryToBoot(): Promise<string> {
  const home = await Deno.makeTempDir({ prefix: "platter-uml-" });
  try {
    const { stdout, stderr } = await new Deno.Command("timeout", {
      args: [
        ...["-s", "KILL", "60", "linux.uml", "mem=64M", "root=/dev/root"],
        ...["rootfstype=hostfs", "rootflags=/", "ro", "init=/bin/true"],
        ...["con=none", "con0=null,fd:2", "panic=-1"],
      ],
      env: { HOME: home, TMPDIR: "/dev/shm" },
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
      detached: true,
    }).output();
    return [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes))
      .join("");
  } finally {
    await Deno.remove(home, { recursive: true });
  }
}
