/**
 * A guest: a program that runs a kernel, such as `linux.uml` or QEMU, and a shell
 * in it, over the program's standard streams: commands go in, and what they print
 * and how they end comes out.
 *
 * The program and all that it starts end with this process, however that ends. A
 * shell stands between the two: it is sent SIGTERM when the guest is disposed of,
 * or by the kernel when this process is no more (`setpriv --pdeathsig`, prctl(2)),
 * and kills the process group of the program, which User Mode Linux makes for
 * itself, and its own. To kill the program alone is not enough: the processes of
 * User Mode Linux live on, and some of them spin. It has a session of its own, so
 * that Ctrl-C is for this process to hear.
 *
 * @module
 */

import { BoundedOutput } from "../bounded_output.ts";
import { searchPath } from "../programs.ts";

/** How long a guest may take to start, in ms: an emulated one is slow. */
const START_MS = 240_000;

/** How long a command may take, in ms, unless it is said. */
const COMMAND_MS = 240_000;

/** How long a guest may take to stop, in ms, before it is killed. */
const STOP_MS = 30_000;

/** How often the shell is asked whether it is there, in ms. */
const ASK_MS = 500;

/** Characters of what it says that are kept before some are left out. */
const MOST_TEXT = 1 << 20;

/** Characters that are kept then, of the beginning and of the end. */
const HEAD_TEXT = 16_384;
const TAIL_TEXT = 49_152;

/**
 * Runs `"$@"` with these standard streams, and ends with all that it started:
 * when it ends by itself, and at SIGTERM. Background commands of a shell have no
 * standard input unless they are given one.
 */
const KEEPER = `child=
end() { kill -KILL -"$child"; kill -KILL "$child"; } 2>/dev/null
trap 'end; kill -KILL 0' TERM
exec 3<&0
"$@" <&3 3<&- &
child=$!
exec </dev/null 3<&- >/dev/null
wait "$child"
code=$?
end
exit "$code"`;

/** What a command did. */
export interface Outcome {
  /** How it ended. */
  readonly code: number;
  /** What it printed, to both streams. Of a long output both ends. */
  readonly output: string;
}

/** A program that runs a guest. */
export interface GuestProgram {
  /** Its path or name. */
  readonly command: string;
  /** Its arguments. */
  readonly args: readonly string[];
  /** Variables for it, beside those of this process. */
  readonly env?: Readonly<Record<string, string>> | undefined;
  /** Who runs it; this process' user if not given. */
  readonly user?: GuestUser | undefined;
  /** What else is known of the guest, such as its kernel's messages. */
  readonly log?: (() => Promise<string>) | undefined;
}

/** A user of the host, by number. */
export interface GuestUser {
  /** The user. */
  readonly uid: number;
  /** The user's group; there is no other one. */
  readonly gid: number;
}

/** A guest did not start, has ended, or does not answer. */
export class GuestError extends Error {
  /** Always `"GuestError"`. */
  override readonly name: string = "GuestError";
  /** What a command had printed by then. */
  readonly output: string;

  /**
   * Constructs a new instance.
   *
   * @param message What happened.
   * @param options What a command had printed by then, and the cause.
   */
  constructor(
    message: string,
    options: ErrorOptions & { output?: string | undefined } = {},
  ) {
    super(message, options);
    this.output = options.output ?? "";
  }
}

/** A command in a guest took longer than it may. */
export class GuestTimeout extends GuestError {
  /** Always `"GuestTimeout"`. */
  override readonly name = "GuestTimeout";
}

/**
 * What the guest's first process ends with: a shell whose script is a terminal. An
 * interactive one would edit lines and print prompts.
 *
 * @param terminal The terminal.
 * @returns A line of a shell script.
 */
export function shellOn(terminal: string): string {
  return `stty -F ${terminal} raw -echo
exec setsid sh -c 'exec sh ${terminal} >${terminal} 2>&1'
`;
}

/** A command that runs in a guest. */
interface Running {
  /** What its output comes after. */
  readonly begin: RegExp;
  /** What comes after its output, with its code. */
  readonly end: RegExp;
  /** What it did, once that is known. */
  outcome: Outcome | null;
}

/** A guest, and a shell in it. */
export class Guest implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #stdin: WritableStreamDefaultWriter<Uint8Array<ArrayBuffer>>;
  #said = new BoundedOutput();
  readonly #reading: Promise<unknown>;
  readonly #ended: Promise<unknown>;
  readonly #log: () => Promise<string>;
  /** What it said since the command that runs began. */
  #text = "";
  #running: Running | null = null;
  #heard = Promise.withResolvers<void>();
  #over = false;
  #count = 0;

  private constructor(child: Deno.ChildProcess, log: () => Promise<string>) {
    this.#child = child;
    this.#log = log;
    this.#stdin = child.stdin.getWriter();
    this.#reading = Promise.all([this.#read(), this.#readErrors()]);
    this.#ended = child.status.finally(() => {
      this.#over = true;
      this.#heard.resolve();
    });
  }

  /**
   * Starts a program that runs a guest, and waits for the guest's shell.
   *
   * @param program The program.
   * @param signal Gives up the wait.
   * @returns The guest.
   * @throws {GuestError} If it ends, or does not answer in time: with what it and
   * its kernel said.
   * @throws The reason of the signal, if that is aborted.
   */
  static async start(
    program: GuestProgram,
    signal?: AbortSignal,
  ): Promise<Guest> {
    signal?.throwIfAborted();
    const { command, args, env = {}, user, log } = program;
    const child = new Deno.Command("setpriv", {
      ...user,
      env: { PATH: searchPath(), ...env },
      args: [
        ...["--pdeathsig", "TERM", "--", "sh", "-c", KEEPER, "sh"],
        ...[command, ...args],
      ],
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
      detached: true,
    }).spawn();
    const guest = new Guest(child, log ?? (() => Promise.resolve("")));
    try {
      await guest.#greet(signal);
      // What it says of its start is of no use once it has started.
      guest.#said = new BoundedOutput();
      return guest;
    } catch (error) {
      await guest[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Whether it has ended. */
  get over(): boolean {
    return this.#over;
  }

  /** Waits for the shell to answer, which hears nothing before it is there. */
  async #greet(signal?: AbortSignal): Promise<void> {
    const end = performance.now() + START_MS;
    // A question gets lost if nobody listens yet, and is asked again, but not so
    // often that the terminal is full of it. Of the first one, the shell may get
    // a part only: whatever part that is, it is no quote that is never closed.
    while (!this.#text.includes("@@hello@@")) {
      if (performance.now() > end) await this.#fail("does not start");
      await this.#send("echo @@hel\\lo@@\n");
      const asked = performance.now();
      while (
        !this.#text.includes("@@hello@@") &&
        performance.now() - asked < ASK_MS
      ) await this.#hear(ASK_MS, signal);
    }
  }

  /**
   * Runs a command that must succeed.
   *
   * @param command A line for the shell.
   * @returns What it printed.
   * @throws {GuestError} If it fails, or the guest does.
   */
  async run(command: string): Promise<string> {
    const { code, output } = await this.try(command);
    if (code !== 0) {
      throw new GuestError(
        `"${command}" ends with ${code} in the guest: ${output}\n${await this
          .#log()}`,
      );
    }
    return output;
  }

  /**
   * Runs a command, which may fail, in a shell of its own.
   *
   * @param command A line for the shell.
   * @param options How long it may take, and what gives it up: the guest is
   * killed then.
   * @returns What it did.
   * @throws {GuestTimeout} If it does not end in time.
   * @throws {GuestError} If the guest ends.
   * @throws The reason of the signal, if that is aborted.
   */
  async try(
    command: string,
    options: {
      timeoutMs?: number | undefined;
      signal?: AbortSignal | undefined;
    } = {},
  ): Promise<Outcome> {
    const { timeoutMs = COMMAND_MS, signal } = options;
    const mark = `@@${++this.#count}@@`;
    const [first, rest] = [mark.slice(0, 3), mark.slice(3)];
    const running: Running = {
      begin: new RegExp(`${mark}begin\\r?\\n`),
      end: new RegExp(`${mark}(\\d+)end`),
      outcome: null,
    };
    // What commands before have left running may have spoken meanwhile.
    this.#text = "";
    this.#running = running;
    // The mark does not stand in what is echoed.
    await this.#send(
      `echo ${first}''${rest}begin; (${command}\n) </dev/null 2>&1; echo ${first}''${rest}$?end\n`,
    );
    const deadline = performance.now() + timeoutMs;
    for (;;) {
      if (running.outcome !== null) return running.outcome;
      if (performance.now() > deadline) {
        await this.#fail(`does not end "${command}"`, GuestTimeout);
      }
      await this.#hear(1000, signal);
    }
  }

  /**
   * Tells the guest to stop, and waits for it.
   *
   * @param command What stops it.
   * @throws {GuestError} If it does not.
   */
  async stop(command = "poweroff -f"): Promise<void> {
    await this.#send(`sync; ${command}\n`);
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, STOP_MS);
    });
    await Promise.race([this.#ended, late]);
    clearTimeout(timer);
    if (!this.#over) await this.#fail("does not stop");
  }

  /** Ends it, however it is, and waits until nothing of it is left. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#kill();
    await this.#ended;
    await this.#stdin.abort().catch(() => {});
    await this.#reading;
  }

  #kill(): void {
    if (!this.#over) this.#child.kill("SIGTERM");
  }

  async #fail(
    what: string,
    Kind: typeof GuestError = GuestError,
  ): Promise<never> {
    this.#kill();
    await this.#ended;
    await this.#reading;
    const said = `${this.#said.text().slice(-4000)}\n${await this.#log()}`;
    const output = this.#text.slice(-2000);
    throw new Kind(`The guest ${what}. Its kernel said:\n${said.trim()}`, {
      output,
    });
  }

  async #send(text: string): Promise<void> {
    if (this.#over) await this.#fail("has ended");
    try {
      await this.#stdin.write(new TextEncoder().encode(text));
    } catch {
      await this.#ended;
      await this.#fail("has ended");
    }
  }

  /** Waits until it says something more. */
  async #hear(timeoutMs: number, signal?: AbortSignal): Promise<void> {
    if (this.#over) await this.#fail("has ended");
    const given = Promise.withResolvers<void>();
    const timer = setTimeout(given.resolve, timeoutMs);
    const giveUp = () => given.resolve();
    signal?.addEventListener("abort", giveUp);
    if (!signal?.aborted) {
      await Promise.race([this.#heard.promise, given.promise]);
    }
    signal?.removeEventListener("abort", giveUp);
    clearTimeout(timer);
    if (!signal?.aborted) return;
    this.#kill();
    await this.#ended;
    throw signal.reason;
  }

  async #read(): Promise<void> {
    const decoder = new TextDecoder();
    try {
      for await (const bytes of this.#child.stdout) {
        this.#take(decoder.decode(bytes, { stream: true }));
        this.#heard.resolve();
        this.#heard = Promise.withResolvers();
      }
    } catch {
      // It was killed.
    }
    this.#heard.resolve();
  }

  /**
   * Takes what it says: looks for the marks of the command that runs, and leaves
   * something out only then. Others may speak on the same terminal before a mark,
   * after it, and within the first one, without which all counts as output.
   */
  #take(said: string): void {
    this.#text += said;
    const running = this.#running;
    if (running !== null) {
      const begin = running.begin.exec(this.#text);
      if (begin !== null) {
        this.#text = this.#text.slice(begin.index + begin[0].length);
      }
      const end = running.end.exec(this.#text);
      if (end !== null) {
        running.outcome = {
          code: Number(end[1]),
          output: this.#text.slice(0, end.index).replaceAll("\r", "").trimEnd(),
        };
        this.#running = null;
        this.#text = "";
      }
    }
    if (this.#text.length > MOST_TEXT) {
      this.#text = this.#text.slice(0, HEAD_TEXT) +
        "\n… some is left out here …\n" + this.#text.slice(-TAIL_TEXT);
    }
  }

  async #readErrors(): Promise<void> {
    try {
      for await (const bytes of this.#child.stderr) this.#said.add(bytes);
    } catch {
      // It was killed.
    }
  }
}
