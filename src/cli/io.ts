/**
 * What a command talks to: three streams, a clock and Ctrl-C. Commands take it
 * as an argument, so that tests can run them in their own process.
 *
 * @module
 */

/** Somewhere that a command writes to. */
export interface CliOutput {
  /** Whether a person is watching. */
  readonly isTerminal: boolean;
  /** Characters in a line of the terminal. */
  readonly columns: number;
  /**
   * Writes bytes, all of them.
   *
   * @param bytes The bytes.
   * @returns When they are written.
   */
  write(bytes: Uint8Array): Promise<void>;
}

/** What a command talks to. */
export interface CliIo {
  /** Standard output: the answer. */
  readonly stdout: CliOutput;
  /** Standard error: progress and complaints. */
  readonly stderr: CliOutput;
  /** Whether errors are shown with their stack. */
  readonly debug: boolean;
  /**
   * Standard input.
   *
   * @returns A stream of it.
   */
  stdin(): ReadableStream<Uint8Array>;
  /**
   * The clock, for rates.
   *
   * @returns Milliseconds since some fixed moment.
   */
  now(): number;
  /**
   * Listens for the wish to stop (Ctrl-C, or a polite kill), once.
   *
   * @param listener Called when it is uttered.
   * @returns A function that stops listening.
   */
  onInterrupt(listener: () => void): () => void;
}

const DEFAULT_COLUMNS = 80;

const encoder = new TextEncoder();

/**
 * Writes text.
 *
 * @param output Where to.
 * @param text The text, with its own ends of lines.
 * @returns When it is written.
 */
export function print(output: CliOutput, text: string): Promise<void> {
  return output.write(encoder.encode(text));
}

/**
 * The process' own streams, clock and signals.
 *
 * @returns What a command talks to.
 */
export function processIo(): CliIo {
  return {
    stdout: outputOf(Deno.stdout),
    stderr: outputOf(Deno.stderr),
    debug: wantsDebug(),
    stdin: () => Deno.stdin.readable,
    now: () => performance.now(),
    onInterrupt,
  };
}

function outputOf(stream: typeof Deno.stdout): CliOutput {
  return {
    isTerminal: stream.isTerminal(),
    get columns() {
      try {
        // A terminal that nobody told its size says 0.
        return Deno.consoleSize().columns || DEFAULT_COLUMNS;
      } catch {
        return DEFAULT_COLUMNS;
      }
    },
    async write(bytes) {
      for (let at = 0; at < bytes.length;) {
        at += await stream.write(bytes.subarray(at));
      }
    },
  };
}

/** Looks at PLATTER_DEBUG, but never asks for the permission to. */
function wantsDebug(): boolean {
  const name = "PLATTER_DEBUG";
  const { state } = Deno.permissions.querySync({ name: "env", variable: name });
  return state === "granted" && Boolean(Deno.env.get(name));
}

function onInterrupt(listener: () => void): () => void {
  // Windows has no polite kill.
  const signals: Deno.Signal[] = Deno.build.os === "windows"
    ? ["SIGINT", "SIGBREAK"]
    : ["SIGINT", "SIGTERM"];
  function forget(): void {
    for (const signal of signals) Deno.removeSignalListener(signal, stop);
  }
  // Whoever asks twice does not want to wait: without a listener it is the
  // end of the process.
  function stop(): void {
    forget();
    listener();
  }
  for (const signal of signals) Deno.addSignalListener(signal, stop);
  return forget;
}
