/**
 * Shells that stay, and run one command after the other: to start a command
 * takes them two processes and not five, and this one, which is large, none.
 *
 * ```text
 * setsid, setpriv, unshare    as for a single command: `isolation.ts`
 *   sh                        reads from a pipe what to run, process 1 of a
 *                             namespace that it has for that alone
 *     unshare                 namespaces of the command
 *       sh -c SCRIPT          as `run_shell.ts` says
 * ```
 *
 * A command's output comes by one pipe, and behind it a mark with its exit code.
 * When that is written, the kernel has ended all processes of its namespace, so
 * nothing of it can come later. To end a command before its time is to end the
 * shell, with all that is below it (pid_namespaces(7)); the next command gets
 * another one. Without namespaces there are no such shells: only a command that
 * has its own ends for certain.
 *
 * @module
 */

import { BoundedOutput } from "./bounded_output.ts";
import { searchPath } from "./programs.ts";

/** How long output is waited for after a shell ended, in ms. */
const PATIENCE_MS = 1000;

/** How long a shell may take to end when it is told to, in ms. */
const END_MS = 5000;

/** What a shell adds to the number of the signal that ended a command. */
const SIGNAL = 128;

/** A command for such a shell. */
export interface ServedCommand {
  /** The program and its arguments. */
  readonly args: readonly string[];
  /** Variables for it, beside those of this process. */
  readonly environment: Readonly<Record<string, string>>;
  /** Where to make a file for what it writes to standard error. */
  readonly complaint: string;
  /**
   * Told what it writes to standard output.
   *
   * @param chunk Bytes, which are the receiver's.
   */
  onOutput(chunk: Uint8Array): void;
}

/** How such a command ended. */
export interface ServedOutcome {
  /** What it exited with; 128 and the signal's number if one ended it. */
  readonly code: number;
  /**
   * What it wrote to standard error, or why it did not run, unless it exited
   * with 0.
   */
  readonly complaint: string;
}

/** A command that runs. */
export interface ServedProcess {
  /** How it ended, when it has. */
  readonly ended: Promise<ServedOutcome>;
  /** Ends it. */
  kill(): void;
}

/** Shells for commands: as many as there are commands at the same time. */
export class ForkServers implements AsyncDisposable {
  readonly #idle: ForkServer[] = [];

  /**
   * Runs a command.
   *
   * @param prefix What starts a shell that can isolate commands.
   * @param command The command.
   * @returns The command, which has not ended yet.
   * @throws {TypeError} If a shell cannot be told of it.
   */
  run(prefix: readonly string[], command: ServedCommand): ServedProcess {
    const line = lineOf(command);
    let server = this.#idle.pop();
    while (server?.hasEnded) server = this.#idle.pop();
    const used = server ?? new ForkServer(prefix);
    const ended = used.run(line, command).then(async (outcome) => {
      // A signal that ended it may be about to end the shell, too.
      if (outcome.code > SIGNAL) await used.end();
      if (!used.hasEnded) this.#idle.push(used);
      return outcome;
    }, async (error) => {
      await used.end();
      throw error;
    });
    return { ended, kill: () => used.kill() };
  }

  /** Ends those that run nothing. */
  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#idle.splice(0).map((server) => server.end()));
  }
}

/** What is told while a command runs. */
interface Listener {
  onOutput(chunk: Uint8Array): void;
  onEnd(code: number): void;
}

/** One such shell. */
class ForkServer {
  /** Whether it is no more, or will be in a moment. */
  hasEnded = false;
  readonly #child: Deno.ChildProcess;
  readonly #input: WritableStreamDefaultWriter<Uint8Array>;
  readonly #mark: Uint8Array;
  readonly #markText = crypto.randomUUID();
  readonly #ended: Promise<void>;
  readonly #said = new BoundedOutput();
  #listener: Listener | null = null;
  /** The end of the output so far, which may be part of a mark. */
  #rest = new Uint8Array(0);

  constructor(prefix: readonly string[]) {
    const [program, ...args] = prefix;
    this.#mark = new TextEncoder().encode(`\x04${this.#markText}`);
    this.#child = new Deno.Command(program!, {
      args: [...args, "sh"],
      env: { PATH: searchPath() },
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    this.#input = this.#child.stdin.getWriter();
    this.#ended = this.#follow();
    // It would say there by which signal a command ended.
    this.#input.write(new TextEncoder().encode("exec 2> /dev/null\n"))
      .catch(() => {});
  }

  /** Runs a line, when the one before has ended. */
  async run(
    line: string,
    { onOutput, complaint }: ServedCommand,
  ): Promise<ServedOutcome> {
    const { promise, resolve } = Promise.withResolvers<number>();
    this.#listener = { onOutput, onEnd: resolve };
    const mark = `printf '\\004%s%03d\\n' ${this.#markText} $?\n`;
    try {
      await this.#input.write(new TextEncoder().encode(line + mark));
    } catch {
      // It is no more, which is told as soon as it is known how it ended.
      this.hasEnded = true;
    }
    const code = await promise;
    if (code === 0) return { code, complaint: "" };
    try {
      return { code, complaint: Deno.readTextFileSync(complaint) };
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
      const said = this.#said.text().trim() || `${complaint} was not made`;
      return { code, complaint: said };
    }
  }

  kill(): void {
    const { hasEnded } = this;
    this.hasEnded = true;
    try {
      Deno.kill(-this.#child.pid, "SIGKILL");
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
      // Before it has made its session, it is alone.
      if (!hasEnded) this.#child.kill("SIGKILL");
    }
  }

  async end(): Promise<void> {
    this.hasEnded = true;
    const timer = setTimeout(() => this.kill(), END_MS);
    this.#input.close().catch(() => {});
    await this.#ended;
    clearTimeout(timer);
  }

  async #follow(): Promise<void> {
    const output = this.#child.stdout.getReader();
    const errors = this.#child.stderr.getReader();
    const reading = Promise.all([
      each(output, (chunk) => this.#hear(chunk)),
      each(errors, (chunk) => this.#said.add(chunk)),
    ]);
    const { code } = await this.#child.status;
    this.hasEnded = true;
    this.#input.close().catch(() => {});
    // A process that no signal ends may keep it open.
    const timer = setTimeout(() => {
      void output.cancel();
      void errors.cancel();
    }, PATIENCE_MS);
    await reading;
    clearTimeout(timer);
    this.#listener?.onOutput(this.#rest);
    this.#listener?.onEnd(code);
  }

  #hear(chunk: Uint8Array): void {
    const bytes = new Uint8Array(this.#rest.length + chunk.length);
    bytes.set(this.#rest);
    bytes.set(chunk, this.#rest.length);
    const mark = this.#mark;
    // The mark, three digits and the end of the line: nothing comes after that.
    const at = bytes.length - mark.length - 4;
    if (at >= 0 && mark.every((byte, i) => bytes[at + i] === byte)) {
      const digits = bytes.subarray(at + mark.length, -1);
      const listener = this.#listener;
      this.#listener = null;
      this.#rest = new Uint8Array(0);
      listener?.onOutput(bytes.subarray(0, at));
      listener?.onEnd(Number(new TextDecoder().decode(digits)));
      return;
    }
    const kept = Math.min(bytes.length, mark.length + 3);
    this.#listener?.onOutput(bytes.subarray(0, bytes.length - kept));
    this.#rest = bytes.slice(bytes.length - kept);
  }
}

/** Hands on everything that a stream has, to its end. */
async function each(
  reader: ReadableStreamDefaultReader<Uint8Array>,
  use: (chunk: Uint8Array) => void,
): Promise<void> {
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    use(value);
  }
}

/** A command as a line for a shell. */
function lineOf({ args, environment, complaint }: ServedCommand): string {
  const named: string[] = [];
  const others: string[] = [];
  for (const [name, value] of Object.entries(environment)) {
    if (/^(PATH|PLATTER_[A-Z]+)$/.test(name)) {
      named.push(`${name}=${quoted(value)}`);
    } else others.push(quoted(`${name}=${value}`));
  }
  return [
    // A shell of its own, which becomes the program: what the one that stays says
    // of it is not its own.
    "(",
    ...named,
    // What a shell may have no variable of: it has rules of its own for some.
    ...others.length === 0 ? [] : ["env", ...others],
    ...args.map(quoted),
    `< /dev/null 2> ${quoted(complaint)} )\n`,
  ].join(" ");
}

function quoted(word: string): string {
  if (word.includes("\0")) {
    throw new TypeError(
      `Cannot run a command as it must have no byte of zero: current value is ${
        JSON.stringify(word)
      }`,
    );
  }
  return `'${word.replaceAll("'", "'\\''")}'`;
}
