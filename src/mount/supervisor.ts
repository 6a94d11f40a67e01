/**
 * A shell that holds something of the system's for this process (a mount, a
 * loop device) and gives it back when it is told to, or when this process is no
 * more, however it ended.
 *
 * Both are one event to the shell: its standard input ends. The other end of
 * that pipe is held here and nowhere else, and the kernel closes it with the
 * process. But a process that was killed while a thread of it waits for what
 * the shell holds (for a file that this very process serves) closes nothing
 * until that wait has an end. So, where there is setpriv(1), the shell is also
 * sent SIGUSR1 when the thread that started it is no more (PR_SET_PDEATHSIG of
 * prctl(2)): that is the one that serves.
 *
 * What the shell reports comes as lines on its standard output; what goes
 * wrong, on its standard error. It has a session of its own, so that neither
 * Ctrl-C nor a signal to the group of this process reaches it, and its scripts
 * ignore signals that ask politely: what it holds is given back in one way only.
 *
 * @module
 */

/** How a shell ended, and what it said. */
export interface SupervisorOutcome {
  /** Its lines on standard output. */
  readonly lines: readonly string[];
  /** The last lines on standard error, joined; that of its children, too. */
  readonly said: string;
}

/** Characters of standard error that are kept. */
const MAX_SAID = 2000;

/** With a trap that does nothing, a signal ends a wait and not the shell. */
const PREAMBLE = "trap '' HUP INT PIPE QUIT TERM\ntrap : USR1\n";

/** Becomes the command that follows, with a parent-death signal if it can. */
const START = `PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
if command -v setpriv > /dev/null; then
  set -- setpriv --pdeathsig USR1 "$@"
fi
exec "$@"`;

/** A shell with a script. */
export class Supervisor {
  readonly #child: Deno.ChildProcess;
  readonly #input: WritableStreamDefaultWriter<Uint8Array>;
  readonly #lines: string[] = [];
  readonly #waiting = new Set<() => void>();
  #said = "";
  #rest = "";
  #hasEnded = false;
  #isSilent = false;
  #timer: ReturnType<typeof setTimeout> | undefined;
  /** When the shell has ended, by itself or by a signal. Never rejects. */
  readonly ended: Promise<SupervisorOutcome>;

  /**
   * Starts a shell.
   *
   * @param script What it does, in the words of POSIX sh. It must end soon after
   * its standard input has and after SIGUSR1,
   * which ends its waiting.
   * @param args Its arguments, from `$1` on.
   * @throws {Deno.errors.NotCapable} Without `--allow-run=sh`.
   * @throws {Deno.errors.NotFound} If there is no `sh`.
   */
  constructor(script: string, args: readonly string[]) {
    this.#child = new Deno.Command("sh", {
      args: [
        ...["-c", START, "sh"],
        ...["sh", "-c", PREAMBLE + script, "platter-mount", ...args],
      ],
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
      detached: true,
    }).spawn();
    this.#input = this.#child.stdin.getWriter();
    this.ended = this.#follow();
  }

  /**
   * Waits for the first line that begins with a word.
   *
   * @param word The word.
   * @returns The rest of the line; `null` once the shell has ended without one.
   */
  async line(word: string): Promise<string | null> {
    for (;;) {
      const line = this.#lines.find((line) =>
        line === word || line.startsWith(`${word} `)
      );
      if (line !== undefined) return line.slice(word.length + 1);
      if (this.#isSilent) return null;
      await new Promise<void>((resolve) => this.#waiting.add(resolve));
    }
  }

  /**
   * Tells the shell to give back what it holds, and to end; ends it by force if
   * it does not in time. Idempotent.
   *
   * @param limitMs The longest that it may take, in ms.
   * @returns How it ended, {@linkcode Supervisor.ended}.
   */
  end(limitMs: number): Promise<SupervisorOutcome> {
    if (this.#timer === undefined && !this.#hasEnded) {
      this.#timer = setTimeout(() => this.#child.kill("SIGKILL"), limitMs);
      this.#closeInput();
    }
    return this.ended;
  }

  async #follow(): Promise<SupervisorOutcome> {
    const output = this.#child.stdout.pipeThrough(new TextDecoderStream())
      .getReader();
    const errors = this.#child.stderr.pipeThrough(new TextDecoderStream())
      .getReader();
    const reading = Promise.all([
      each(output, (text) => this.#hear(text)),
      each(errors, (text) => this.#said = (this.#said + text).slice(-MAX_SAID)),
    ]);
    await this.#child.status;
    clearTimeout(this.#timer);
    this.#hasEnded = true;
    this.#closeInput();
    // What a shell started may have its pipes still, if it was killed.
    const timer = setTimeout(() => {
      output.cancel().catch(() => {});
      errors.cancel().catch(() => {});
    }, 500);
    await reading;
    clearTimeout(timer);
    this.#isSilent = true;
    this.#wake();
    return { lines: this.#lines, said: this.#said.trim() };
  }

  #closeInput(): void {
    // A shell that has ended takes no word any more, and needs none.
    this.#input.close().catch(() => {});
  }

  #hear(text: string): void {
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop()!;
    this.#lines.push(...lines);
    this.#wake();
  }

  #wake(): void {
    for (const resolve of this.#waiting) resolve();
    this.#waiting.clear();
  }
}

/** Hands on everything that a stream has, to its end. */
async function each(
  reader: ReadableStreamDefaultReader<string>,
  use: (text: string) => void,
): Promise<void> {
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      use(value);
    }
  } catch {
    // The pipe is gone, and so is who wrote to it.
  }
}
