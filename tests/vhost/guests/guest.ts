/**
 * A shell in a guest, over the standard streams of the program that runs the
 * guest: commands go in, and what they print and how they end comes out.
 *
 * @module
 */

/** How long a guest may take to start, in ms: an emulated one is slow. */
const START_MS = 240_000;

/** How long a command may take, in ms. */
const COMMAND_MS = 240_000;

/** How long a guest may take to stop, in ms, before it is killed. */
const STOP_MS = 30_000;

/** What a command did. */
export interface Outcome {
  /** How it ended. */
  readonly code: number;
  /** What it printed, to both streams. */
  readonly output: string;
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

/** A shell in a guest. */
export class Guest implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #stdin: WritableStreamDefaultWriter<Uint8Array<ArrayBuffer>>;
  readonly #said: Promise<string>;
  readonly #reading: Promise<void>;
  readonly #ended: Promise<unknown>;
  readonly #log: () => Promise<string>;
  #text = "";
  #heard = Promise.withResolvers<void>();
  #over = false;
  #count = 0;

  private constructor(child: Deno.ChildProcess, log: () => Promise<string>) {
    this.#child = child;
    this.#log = log;
    this.#stdin = child.stdin.getWriter();
    this.#said = new Response(child.stderr).text();
    this.#reading = this.#read();
    this.#ended = child.status.finally(() => {
      this.#over = true;
      this.#heard.resolve();
    });
  }

  /**
   * Starts a program that runs a guest, and waits for the guest's shell.
   *
   * @param command The program.
   * @param args Its arguments.
   * @param log What else is known of the guest, such as its kernel's messages.
   * @param options Which user it runs as, and in which environment.
   * @returns The shell.
   */
  static async start(
    command: string,
    args: readonly string[],
    log: () => Promise<string>,
    options: { uid?: number; gid?: number; env?: Record<string, string> } = {},
  ): Promise<Guest> {
    const child = new Deno.Command(command, {
      ...options,
      args: [...args],
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const guest = new Guest(child, log);
    try {
      await guest.#greet();
      return guest;
    } catch (error) {
      await guest[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Waits for the shell to answer, which hears nothing before it is there. */
  async #greet(): Promise<void> {
    const end = performance.now() + START_MS;
    // A question gets lost if nobody listens yet, and is asked again, but not so
    // often that the terminal is full of it. Of the first one, the shell may get
    // a part only: whatever part that is, it is no quote that is never closed.
    while (!this.#text.includes("@@hello@@")) {
      if (performance.now() > end) await this.#fail("does not start");
      await this.#send("echo @@hel\\lo@@\n");
      await new Promise((resolve) => setTimeout(resolve, 500));
    }
  }

  /**
   * Runs a command that must succeed.
   *
   * @param command A line for the shell.
   * @returns What it printed.
   */
  async run(command: string): Promise<string> {
    const { code, output } = await this.try(command);
    if (code !== 0) {
      throw new Error(
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
   * @returns What it did.
   */
  async try(command: string): Promise<Outcome> {
    const mark = `@@${++this.#count}@@`;
    const [first, rest] = [mark.slice(0, 3), mark.slice(3)];
    // The mark does not stand in what is echoed.
    await this.#send(
      `echo ${first}''${rest}begin; (${command}\n) </dev/null 2>&1; echo ${first}''${rest}$?end\n`,
    );
    const pattern = new RegExp(
      `${mark}begin\\r?\\n([\\s\\S]*?)${mark}(\\d+)end`,
    );
    const deadline = performance.now() + COMMAND_MS;
    for (;;) {
      const match = pattern.exec(this.#text);
      if (match !== null) {
        this.#text = this.#text.slice(match.index + match[0].length);
        return {
          code: Number(match[2]),
          output: match[1]!.replaceAll("\r", "").trimEnd(),
        };
      }
      if (performance.now() > deadline) {
        await this.#fail(`does not end "${command}"`);
      }
      await this.#hear(1000);
    }
  }

  /** Tells the guest to stop, and waits for it. */
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

  /** Ends it, however it is. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#over) this.#child.kill("SIGKILL");
    await this.#ended;
    await this.#stdin.abort().catch(() => {});
    await this.#reading;
    await this.#said;
  }

  async #fail(what: string): Promise<never> {
    if (!this.#over) this.#child.kill("SIGKILL");
    await this.#ended;
    throw new Error(
      `The guest ${what}: ${this.#text.slice(-2000)}\n${await this
        .#said}\n${await this.#log()}`,
    );
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
  async #hear(timeoutMs: number): Promise<void> {
    if (this.#over) await this.#fail("has ended");
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, timeoutMs);
    });
    await Promise.race([this.#heard.promise, late]);
    clearTimeout(timer);
  }

  async #read(): Promise<void> {
    const decoder = new TextDecoder();
    try {
      for await (const bytes of this.#child.stdout) {
        this.#text += decoder.decode(bytes, { stream: true });
        this.#heard.resolve();
        this.#heard = Promise.withResolvers();
      }
    } catch {
      // It was killed.
    }
    this.#heard.resolve();
  }
}
