/**
 * Runs a command line of somebody else's: in a session of its own, that is
 * killed as a whole when its time is over or it is given up, with its output in
 * bounded memory, isolated if that is wanted ({@linkcode findIsolation}).
 *
 * The shell is started like this, each by the one before:
 *
 * ```text
 * setsid                      a session of its own, so that Ctrl-C is for this process
 * setpriv --pdeathsig KILL    ends with this process
 *   unshare --kill-child      namespaces; ends with the one above
 *     sh -c SCRIPT            process 1 there: opens the acknowledgements, mounts
 *       sh -c COMMAND         what the user wrote
 * ```
 *
 * @module
 */

import {
  ACKNOWLEDGE_DESCRIPTOR,
  AcknowledgementPipe,
} from "./acknowledgement_pipe.ts";
import { BoundedOutput } from "./bounded_output.ts";
import { findIsolation, withoutIsolation } from "./isolation.ts";
import { Lines } from "./lines.ts";
import { ProgramError, searchPath } from "./programs.ts";
import type { RunOptions, RunOutcome } from "./stage.ts";

/** What lines of standard output are acknowledgements, unless it is said. */
export const ACKNOWLEDGEMENT: RegExp = /^ACK(?: (.*))?$/;

/** How long output is waited for after the command ended, in ms. */
const PATIENCE_MS = 1000;

/** What the command is given to by default: the user's line, as a child. */
const PLAIN = 'sh -c "$1"; exit $?';

/**
 * Process numbers of `prepare` and `run` begin with this in their namespace,
 * and those of checks with 1: so one in a pid file is nobody's in a check that
 * has not started as many. Where that cannot be said (who is not root has no
 * right to write `ns_last_pid`), 64 are used up, in some 50 ms.
 */
const FIRST_PROCESS = 16_384;

/** Says so; a number that the system does not have is an error, too. */
const NUMBERED = `if ! echo ${FIRST_PROCESS} > /proc/sys/kernel/ns_last_pid
then
  number=1
  while [ "$number" -lt 64 ]; do (:); number=$((number + 1)); done
fi 2> /dev/null
`;

/** How to run a command line, beside what {@linkcode RunOptions} say. */
export interface ShellOptions extends RunOptions {
  /** A folder for the pipe and the file of acknowledgements. */
  readonly directory: string;
  /**
   * A script of `sh` that runs the command, which is `"$1"`, among other
   * things. The script's own exit code is that of the outcome.
   */
  readonly script?: string | undefined;
}

/**
 * Runs a command line.
 *
 * @param command The command line.
 * @param options What it gets, and how long it may take.
 * @returns How it ended.
 * @throws The reason of the signal, if that is aborted; nothing runs then.
 * @throws {ProgramError} If it was not run, as what isolates it failed: that says
 * nothing of the command.
 */
export async function runShell(
  command: string,
  options: ShellOptions,
): Promise<RunOutcome> {
  const { directory, signal, timeoutMs, onAcknowledge } = options;
  const { script = PLAIN } = options;
  const { source, flags } = options.ackPattern ?? ACKNOWLEDGEMENT;
  // Without what would remember where the last one ended.
  const ackPattern = new RegExp(source, flags.replaceAll(/[gy]/g, ""));
  signal?.throwIfAborted();
  const { prefix, namespaces } = options.isolated
    ? await findIsolation()
    : await withoutIsolation();
  const environment: Record<string, string> = {
    PATH: searchPath(),
    ...options.environment,
  };
  if (options.acknowledged !== undefined) {
    environment.PLATTER_ACKED = `${directory}/acknowledged`;
    await Deno.writeTextFile(
      environment.PLATTER_ACKED,
      options.acknowledged.map((line) => `${line}\n`).join(""),
    );
  }
  let failure: { readonly error: unknown } | null = null;
  const pipe = onAcknowledge === undefined
    ? null
    : await AcknowledgementPipe.create(`${directory}/ack`, onAcknowledge);
  if (pipe !== null) environment.PLATTER_ACK = String(ACKNOWLEDGE_DESCRIPTOR);
  const numbered = namespaces && options.acknowledged === undefined;
  // In one stream, in order, unless standard output has to be told apart.
  const before = (numbered ? NUMBERED : "") +
    (pipe === null ? "exec 2>&1\n" : `exec ${ACKNOWLEDGE_DESCRIPTOR}>"$2"\n`);
  const [program, ...args] = [
    ...prefix,
    ...["sh", "-c", before + script, "sh", command, pipe?.path ?? ""],
  ];
  let timedOut = false;
  const output = new BoundedOutput();
  // What comes before the shell says: with one stream, all that is left here.
  const complaint = pipe === null ? new BoundedOutput() : output;
  let code: number;
  try {
    const child = new Deno.Command(program!, {
      args,
      env: environment,
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    let hasEnded = false;
    const kill = () => {
      // Before it has made its session, it is alone.
      if (killSession(child.pid) || hasEnded) return;
      try {
        child.kill("SIGKILL");
      } catch {
        // It has just ended, which is told in a moment.
      }
    };
    signal?.addEventListener("abort", kill);
    const timer = timeoutMs === undefined ? undefined : setTimeout(() => {
      timedOut = true;
      kill();
    }, timeoutMs);
    try {
      const lines = new Lines((line, isWhole) => {
        const found = isWhole ? ackPattern.exec(line) : null;
        if (found === null || failure !== null) return;
        try {
          onAcknowledge?.(found[1] ?? found[0]);
        } catch (error) {
          failure = { error };
          kill();
        }
      });
      const readers = [
        reading(child.stdout, (chunk) => {
          output.add(chunk);
          if (pipe !== null) lines.add(chunk);
        }),
        reading(child.stderr, (chunk) => complaint.add(chunk)),
      ];
      ({ code } = await child.status);
      hasEnded = true;
      // With process 1 the kernel has ended all others of its namespace.
      if (!namespaces) kill();
      await Promise.all(readers.map((reader) => reader.end()));
      // One who ended in good order has written all of its last line.
      if (code === 0 && !timedOut) lines.end();
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", kill);
    }
  } finally {
    await pipe?.end();
  }
  signal?.throwIfAborted();
  if (failure !== null) throw (failure as { error: unknown }).error;
  const complained = pipe === null ? complaint.text().trim() : "";
  if (code !== 0 && !timedOut && complained !== "") {
    throw new ProgramError(
      `Cannot run a command in namespaces of its own as it says: ${complained}`,
    );
  }
  return { code, output: output.text(), timedOut };
}

/**
 * Kills all processes of a session that are still in its first group; whether
 * there were any.
 */
function killSession(pid: number): boolean {
  try {
    Deno.kill(-pid, "SIGKILL");
    return true;
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    return false;
  }
}

/** Reads a stream to its end, which must come soon after the program's. */
function reading(
  stream: ReadableStream<Uint8Array>,
  onChunk: (chunk: Uint8Array) => void,
): { end(): Promise<void> } {
  const reader = stream.getReader();
  const read = async () => {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      onChunk(value);
    }
  };
  const done = read();
  return {
    async end() {
      // Who left the session, and no namespace holds, may keep it open.
      const timer = setTimeout(() => void reader.cancel(), PATIENCE_MS);
      try {
        await done;
      } finally {
        clearTimeout(timer);
      }
    },
  };
}
