/**
 * What User Mode Linux needs of a machine, told by starting it: for the stage,
 * and for whoever asks what there is.
 *
 * @module
 */

import type { Need } from "../programs.ts";

/** What it says, before it starts its kernel, if it may trace. */
const MAY_TRACE = "ptrace can change system call numbers...OK";

/**
 * What it says and ends, before it starts its kernel, if its memory cannot be
 * executed (check_tmpexec, arch/um/os-Linux/mem.c): `/dev/shm` of most containers.
 */
const NOT_EXECUTABLE = "must be not mounted noexec";

/** What its kernel says first. */
const STARTED = "Linux version";

/**
 * What its kernel says at the first process if its buffer for floating point
 * registers, of a fixed size in Linux 6.1, is not what PTRACE_SETREGSET wants: as
 * large as the processor's whole state (xstateregs_set, arch/x86/kernel/fpu/regset.c),
 * which is 11,008 bytes with AMX.
 */
const NO_ROOM = "ptrace set fp regs failed";

/**
 * Starts User Mode Linux, which must be there, for a process that ends at once.
 *
 * @param signal Ends it.
 * @returns What it needs of the machine.
 * @throws {unknown} The signal's reason.
 */
export async function tryUml(signal?: AbortSignal): Promise<readonly Need[]> {
  const said = await bootOnce(signal);
  return [
    {
      what: "the right to trace a process (ptrace)",
      from: null,
      isThere: () => Promise.resolve(said.includes(MAY_TRACE)),
    },
    {
      what:
        "a /dev/shm that is not mounted noexec (mount -o remount,exec /dev/shm)",
      from: null,
      isThere: () => Promise.resolve(!said.includes(NOT_EXECUTABLE)),
    },
    {
      what: "room for its memory in /dev/shm (df -h /dev/shm)",
      from: null,
      isThere: () => Promise.resolve(said.includes(STARTED)),
    },
    {
      what:
        "a processor whose registers User Mode Linux has room for, that is, without AMX (stage qemu runs on any)",
      from: null,
      isThere: () => Promise.resolve(!said.includes(NO_ROOM)),
    },
  ];
}

/** Returns all that it said. */
async function bootOnce(signal: AbortSignal | undefined): Promise<string> {
  signal?.throwIfAborted();
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
      ...(signal === undefined ? {} : { signal }),
    }).output();
    signal?.throwIfAborted();
    return [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes))
      .join("");
  } finally {
    await Deno.remove(home, { recursive: true });
  }
}
