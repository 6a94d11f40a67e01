/**
 * Runs a command line in a machine's guest. What happens there is a shell script,
 * which the guest reads from a file of the host:
 *
 * ```text
 * unshare --kill-child    its own processes, System V objects and mounts
 *   sh                    process 1 there: puts a root together, mounts the disk
 *     sh -c COMMAND       what the user wrote
 * ```
 *
 * It finds the files of the host, and may write to them all: they are the lower
 * layer of an overlay, and the upper one is memory, new for each command. Programs
 * are dear there (some 20 ms to start one), so that all is mounted by one.
 *
 * What it prints comes by the guest's console. Where acknowledgements are wanted,
 * that and the descriptor for them are pipes to processes outside of these
 * namespaces that hand it on to the control disk. They have real-time priority on
 * the guest's one processor, so that a line is on its way when the write that
 * brought it returns to the program.
 *
 * When process 1 ends, the kernel ends all that it left running and takes down its
 * mounts, and only then does `unshare` end (pid_namespaces(7)). A command that
 * takes too long is ended with the guest, as if by a power cut.
 *
 * @module
 */

import {
  ACKNOWLEDGE_DESCRIPTOR,
  checkAcknowledgement,
  printedAcknowledgements,
} from "../acknowledgement_pipe.ts";
import { BoundedOutput } from "../bounded_output.ts";
import { Lines } from "../lines.ts";
import type { RunOptions, RunOutcome } from "../stage.ts";
import { type Channel, speaker } from "./control_disk.ts";
import { GuestError, GuestTimeout, type Outcome } from "./guest.ts";
import { fileFor, type Machine } from "./machine.ts";

/** Where a guest mounts the disk. */
export const MOUNT_POINT = "/platter";

/** How long a command may take unless it is said, in ms: a day. */
const LONGEST_MS = 86_400_000;

/** Where the roots of commands are put together: memory. */
const WORKSHOP = "/dev/platter";

/**
 * A namespace counts its processes from 1, so that what a check starts has small
 * numbers: those of other commands begin here or a little later, and one that a
 * check finds on the disk is nobody's. Where that cannot be said (`ns_last_pid`; to
 * User Mode Linux it cannot), so many are used up, which takes some ms each.
 */
const FIRST_PROCESS = 64;

/** What a guest that is no more exited with. */
const GUEST_ENDED = 255;

/** A command, and what is mounted for it. */
export interface GuestCommand {
  /** The command line. */
  readonly command: string;
  /** The disk as the guest calls it. */
  readonly device: string;
  /** The type of the file system to mount; `null` if none. */
  readonly fileSystem: string | null;
  /** Options of the mount. */
  readonly mountOptions?: string | undefined;
  /** The folder to run in, if the guest has it. */
  readonly workingDirectory: string;
}

/**
 * Runs a command line.
 *
 * @param machine Where.
 * @param what The command, and what is mounted for it.
 * @param options What it gets, and how long it may take.
 * @returns How it ended. A kernel that stops is an outcome.
 * @throws {GuestError} If something else than the command fails.
 * @throws What `onAcknowledge` threw, and RangeError for a line above 1 MiB to the
 * descriptor.
 * @throws The reason of the signal, if that is aborted: the guest has ended then.
 */
export async function runInGuest(
  machine: Machine,
  what: GuestCommand,
  options: RunOptions,
): Promise<RunOutcome> {
  const { timeoutMs = LONGEST_MS, signal, onAcknowledge } = options;
  const acknowledges = onAcknowledge !== undefined;
  signal?.throwIfAborted();
  const environment = { ...options.environment };
  if (options.acknowledged !== undefined) {
    environment.PLATTER_ACKED = await fileFor(
      machine,
      "acked",
      options.acknowledged.map((line) => `${line}\n`).join(""),
    );
  }
  const output = new BoundedOutput();
  let failure: { readonly error: unknown } | null = null;
  const tell = (line: string, isWhole: boolean) => {
    if (failure !== null) return;
    try {
      checkAcknowledgement(line, isWhole);
      onAcknowledge?.(line);
    } catch (error) {
      failure = { error };
    }
  };
  const acknowledgements = new Lines(tell);
  const printed = printedAcknowledgements(
    (line) => tell(line, true),
    options.ackPattern,
  );
  machine.control.listener = (channel, bytes) => {
    if (channel === "ack") return acknowledgements.add(bytes);
    output.add(bytes);
    if (channel === "output") printed.add(bytes);
  };
  const files = [environment.PLATTER_ACKED];
  let outcome: Outcome;
  try {
    const place = `${WORKSHOP}/${crypto.randomUUID()}`;
    const table = await fileFor(machine, "fstab", mountTable(what, place));
    const inner = await fileFor(
      machine,
      "inner",
      innerScript({ ...what, place, table, environment }, {
        acknowledges,
        isCheck: options.acknowledged !== undefined,
      }),
    );
    const outer = await fileFor(
      machine,
      "outer",
      outerScript({ machine, inner, place }, acknowledges),
    );
    files.push(table, inner, outer);
    outcome = await machine.guest.try(`. ${outer}`, { timeoutMs, signal });
  } catch (error) {
    if (!(error instanceof GuestError)) throw error;
    // Its kernel has stopped, or nothing there moves any more: that is what a
    // disk can do to a machine.
    output.add(new TextEncoder().encode(`${error.output}\n${error.message}`));
    return {
      code: GUEST_ENDED,
      output: output.text(),
      timedOut: error instanceof GuestTimeout,
    };
  } finally {
    machine.control.listener = null;
    for (const file of files) if (file !== undefined) await Deno.remove(file);
  }
  const found = /\n?code (\d+)$/.exec(outcome.output);
  // One who ended in good order has written all of its last line.
  if (Number(found?.[1]) === 0) printed.end();
  if (failure !== null) throw (failure as { error: unknown }).error;
  if (found === null) {
    throw new GuestError(
      `Cannot run a command in the guest: ${outcome.output}`,
    );
  }
  const rest = outcome.output.slice(0, found.index);
  if (rest !== "") output.add(new TextEncoder().encode(rest));
  return { code: Number(found[1]), output: output.text(), timedOut: false };
}

/** What runs outside of the command's namespaces, and says how it ended. */
function outerScript(
  { machine, inner, place }: { machine: Machine; inner: string; place: string },
  acknowledges: boolean,
): string {
  const run =
    `unshare --mount --pid --ipc --fork --kill-child sh ${inner} 2>&1`;
  const report = `echo "code $?" >&8`;
  const lines = [
    `mkdir -p ${place}/upper${MOUNT_POINT} ${place}/work ${place}/root`,
  ];
  if (acknowledges) {
    const speak = (channel: Channel) =>
      `chrt -f 1 ${speaker(machine.controlDevice, channel)}`;
    // Descriptors: 8 is this script's own output, 6 and 7 are pipes on their way
    // to where they are used.
    lines.push(
      "exec 8>&1",
      `{ { { ${run} 2>&6 ${ACKNOWLEDGE_DESCRIPTOR}>&7 6>&- 7>&- 8>&-; ${report}; } |`,
      `${speak("output")} 6>&- 7>&- 8>&-; } 6>&1 |`,
      `${speak("errors")} 7>&- 8>&-; } 7>&1 | ${speak("ack")} 8>&-`,
    );
  } else {
    // A pipe, as programs say other things to a terminal.
    lines.push(`{ ${run}; echo "\ncode $?"; } | cat`);
  }
  lines.push(`rm -rf ${place}`);
  return lines.join("\n") + "\n";
}

/** What is mounted for a command, in order, as in fstab(5). */
function mountTable(what: GuestCommand, place: string): string {
  const { device, fileSystem, mountOptions = "defaults" } = what;
  const root = `${place}/root`;
  const layers =
    `lowerdir=/,upperdir=${place}/upper,workdir=${place}/work,xino=off`;
  const lines = [
    ["overlay", root, "overlay", layers],
    ["/dev", `${root}/dev`, "none", "bind"],
    ["devpts", `${root}/dev/pts`, "devpts", "defaults"],
    ["memory", `${root}/dev/shm`, "tmpfs", "mode=1777"],
    ["memory", `${root}/run`, "tmpfs", "mode=755"],
    ["proc", `${root}/proc`, "proc", "defaults"],
    ["/sys", `${root}/sys`, "none", "bind"],
  ];
  if (fileSystem !== null) {
    lines.push([device, `${root}${MOUNT_POINT}`, fileSystem, mountOptions]);
  }
  return lines.map((fields) =>
    `${
      fields.map((field) => field.replaceAll(/[\s\\]/g, escaped)).join(" ")
    } 0 0\n`
  ).join("");
}

/** A character as fstab(5) wants it: its number in octal. */
function escaped(character: string): string {
  return `\\${character.charCodeAt(0).toString(8).padStart(3, "0")}`;
}

/** What is process 1 of the command's namespaces. */
function innerScript(
  what: GuestCommand & {
    place: string;
    table: string;
    environment: Readonly<Record<string, string>>;
  },
  { acknowledges, isCheck }: { acknowledges: boolean; isCheck: boolean },
): string {
  const { command, place, table, environment } = what;
  // What mount exits with differs by whether others could be mounted.
  const lines = [`mount -n -a -T ${table} || exit 32`];
  if (!isCheck) {
    const first = FIRST_PROCESS + Math.floor(Math.random() * FIRST_PROCESS);
    lines.push(
      `{ echo ${first} >${place}/root/proc/sys/kernel/ns_last_pid; } 2>/dev/null ||`,
      `{ i=0; while [ $i -lt ${first} ]; do (:); i=$((i + 1)); done; }`,
    );
  }
  for (const [name, value] of Object.entries(environment)) {
    lines.push(`export ${name}=${quoted(value)}`);
  }
  if (acknowledges) lines.push(`export PLATTER_ACK=${ACKNOWLEDGE_DESCRIPTOR}`);
  const body = [
    `cd ${quoted(what.workingDirectory)} 2>/dev/null || cd /`,
    // Not in place of this shell, which is process 1 and takes no signals.
    `sh -c ${quoted(command)} </dev/null`,
    "exit $?",
  ];
  lines.push(`exec chroot ${place}/root sh -c ${quoted(body.join("\n"))}`);
  return lines.join("\n") + "\n";
}

/** A word for a shell. */
function quoted(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}
