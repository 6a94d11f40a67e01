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
 * Checks are started by shells that stay, which have done the first two of these
 * once (`fork_server.ts`).
 *
 * @module
 */

import {
  ACKNOWLEDGE_DESCRIPTOR,
  AcknowledgementPipe,
  printedAcknowledgements,
} from "./acknowledgement_pipe.ts";
import { BoundedOutput } from "./bounded_output.ts";
import type { ForkServers, ServedCommand } from "./fork_server.ts";
import { findIsolation, withoutIsolation } from "./isolation.ts";
import { ProgramError, searchPath } from "./programs.ts";
import type { RunOptions, RunOutcome } from "./stage.ts";

/** How long output is waited for after the command ended, in ms. */
const PATIENCE_MS = 1000;

/** What the command is given to by default: the user's line, as a child. */
const PLAIN = { text: 'sh -c "$1"; exit $?', args: [] };

/**
 * Process numbers of `prepare` and `run` begin with this in their namespace,
 * and those of checks with 1: so one in a pid file is nobody's in a check that
 * has not started as many. Where that cannot be said (who is not root has no
 * right to write `ns_last_pid`), 64 are used up, in some 50 ms.
 */
const FIRST_PROCESS = 16_384;

/**
 * Says so; a number that the system does not have is an error, too. In a shell of
 * its own: the command may have a variable of that name.
 */
const NUMBERED = `if ! echo ${FIRST_PROCESS} > /proc/sys/kernel/ns_last_pid
then (
  number=1
  while [ "$number" -lt 64 ]; do (:); number=$((number + 1)); done
) fi 2> /dev/null
`;

/**
 * What commands are told by. Those of the caller's, who may be a command of
 * another test, are kept from them: they would stand for another disk.
 */
const VARIABLES = [
  ...["PLATTER_DIR", "PLATTER_IMAGE", "PLATTER_DEVICE", "PLATTER_NBD"],
  ...["PLATTER_ACK", "PLATTER_ACKED", "PLATTER_STATE"],
];

/** How to run a command line, beside what {@linkcode RunOptions} say. */
export interface ShellOptions extends RunOptions {
  /** A folder for the pipe and the file of acknowledgements. */
  readonly directory: string;
  /**
   * A script of `sh` that runs the command, which is `"$1"`, among other
   * things, and what it finds in `"$3"` and so on. The script's own exit code is
   * that of the outcome.
   */
  readonly script?:
    | { readonly text: string; readonly args: readonly string[] }
    | undefined;
  /**
   * What starts it, if it is isolated and nothing is acknowledged; else, and
   * where no namespaces can be made within others, this process does.
   */
  readonly servers?: ForkServers | undefined;
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
  const { directory, signal, onAcknowledge, servers } = options;
  const { text, args: given } = options.script ?? PLAIN;
  signal?.throwIfAborted();
  const { prefix, namespaces, nested } = options.isolated
    ? await findIsolation()
    : await withoutIsolation();
  const environment: Record<string, string> = {
    PATH: searchPath(),
    ...options.environment,
  };
  if (options.acknowledged !== undefined) {
    environment.PLATTER_ACKED = `${directory}/acknowledged`;
    writeLines(environment.PLATTER_ACKED, options.acknowledged);
  }
  let failure: { readonly error: unknown } | null = null;
  const pipe = onAcknowledge === undefined
    ? null
    : await AcknowledgementPipe.create(`${directory}/ack`, onAcknowledge);
  if (pipe !== null) environment.PLATTER_ACK = String(ACKNOWLEDGE_DESCRIPTOR);
  const numbered = namespaces && options.acknowledged === undefined;
  const unset = VARIABLES.filter((name) => !(name in environment));
  // In one stream, in order, unless standard output has to be told apart.
  const before = (numbered ? NUMBERED : "") + `unset ${unset.join(" ")}\n` +
    (pipe === null ? "exec 2>&1\n" : `exec ${ACKNOWLEDGE_DESCRIPTOR}>"$2"\n`);
  const shell = [
    ...["sh", "-c", before + text, "sh", command, pipe?.path ?? ""],
    ...given,
  ];
  if (servers !== undefined && nested !== null && pipe === null) {
    return await runServed(options, servers, nested.server, {
      args: [...nested.command, ...shell],
      environment,
      complaint: `${directory}/complaint`,
    });
  }
  const [program, ...args] = [...prefix, ...shell];
  const output = new BoundedOutput();
  // What comes before the shell says: with one stream, all that is left here.
  const complaint = pipe === null ? new BoundedOutput() : output;
  let code: number;
  let timedOut: boolean;
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
    timedOut = await limited(options, kill, async (isOver) => {
      const lines = printedAcknowledgements((line) => {
        if (failure !== null) return;
        try {
          onAcknowledge?.(line);
        } catch (error) {
          failure = { error };
          kill();
        }
      }, options.ackPattern);
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
      if (code === 0 && !isOver()) lines.end();
    });
  } finally {
    await pipe?.end();
  }
  signal?.throwIfAborted();
  if (failure !== null) throw (failure as { error: unknown }).error;
  const outcome = { code: code!, output: output.text(), timedOut };
  return ran(outcome, pipe === null ? complaint.text() : "");
}

/** At once, as to wait for a thread that does it takes longer. */
function writeLines(path: string, lines: readonly string[]): void {
  Deno.writeTextFileSync(path, lines.map((line) => `${line}\n`).join(""));
}

/** Runs a command by a shell that stays. */
async function runServed(
  options: Pick<RunOptions, "signal" | "timeoutMs">,
  servers: ForkServers,
  prefix: readonly string[],
  command: Omit<ServedCommand, "onOutput">,
): Promise<RunOutcome> {
  const output = new BoundedOutput();
  const onOutput = (chunk: Uint8Array) => output.add(chunk);
  const served = servers.run(prefix, { ...command, onOutput });
  let [code, complaint] = [0, ""];
  const timedOut = await limited(options, served.kill, async () => {
    ({ code, complaint } = await served.ended);
  });
  options.signal?.throwIfAborted();
  return ran({ code, output: output.text(), timedOut }, complaint);
}

/**
 * Waits for what is killed when its time is over or it is given up.
 *
 * @returns Whether its time was over.
 */
async function limited(
  { signal, timeoutMs }: Pick<RunOptions, "signal" | "timeoutMs">,
  kill: () => void,
  run: (isOver: () => boolean) => Promise<void>,
): Promise<boolean> {
  let timedOut = false;
  signal?.addEventListener("abort", kill);
  // It may have been given up while what it needs was made.
  if (signal?.aborted) kill();
  const timer = timeoutMs === undefined ? undefined : setTimeout(() => {
    timedOut = true;
    kill();
  }, timeoutMs);
  try {
    await run(() => timedOut);
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", kill);
  }
  return timedOut;
}

/** An outcome, unless what isolates the command complained. */
function ran(outcome: RunOutcome, complaint: string): RunOutcome {
  const complained = complaint.trim();
  if (outcome.code !== 0 && !outcome.timedOut && complained !== "") {
    throw new ProgramError(
      `Cannot run a command in namespaces of its own as it says: ${complained}`,
    );
  }
  return outcome;
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
