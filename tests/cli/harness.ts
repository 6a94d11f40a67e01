/**
 * Runs commands in this process, and in processes of their own.
 *
 * @module
 */

import { identify } from "../../src/backends/same_file.ts";
import type { CliIo, CliOutput } from "../../src/cli/io.ts";
import { main } from "../../src/cli/main.ts";
import { type TempDir, tempDir } from "../helpers.ts";

/** What a command is given, and how it behaves. */
export interface Conditions {
  /**
   * Standard input, in pieces, after which it ends, or interrupts if the last is
   * `"wait"`; or all that it is.
   */
  stdin?: (Uint8Array | "wait")[] | ReadableStream<Uint8Array>;
  /** The file that standard input comes from. */
  stdinPath?: string;
  /** The file that standard output goes to. */
  stdoutPath?: string;
  /** Whether the outputs are terminals. */
  terminal?: boolean;
  /** Called with everything that is written, to do things at a moment. */
  onOutput?: (text: string, interrupt: () => void) => void;
  /** Called when it begins to listen for interrupts. */
  onListening?: (interrupt: () => void) => void;
  /** What writing to an output fails with. */
  failing?: { stdout?: Error; stderr?: Error };
  /** Milliseconds between two looks at the clock. */
  tickMs?: number;
}

/** What a command did. */
export interface Outcome {
  code: number;
  /** Standard output as text. */
  out: string;
  /** Standard output as it is. */
  bytes: Uint8Array;
  /** Standard error as text. */
  err: string;
  /** Whether it listens for interrupts still. */
  listening: boolean;
}

/** Runs a command in this process. */
export async function platter(
  args: string[],
  conditions: Conditions = {},
): Promise<Outcome> {
  const listeners = new Set<() => void>();
  const interrupt = () => listeners.forEach((listener) => listener());
  let clockMs = 0;
  function collector(failure?: Error): CliOutput & { all(): Uint8Array } {
    const chunks: Uint8Array[] = [];
    return {
      isTerminal: conditions.terminal ?? false,
      columns: 80,
      write(bytes) {
        conditions.onOutput?.(new TextDecoder().decode(bytes), interrupt);
        if (failure !== undefined) return Promise.reject(failure);
        chunks.push(bytes.slice());
        return Promise.resolve();
      },
      all: () => concat(chunks),
    };
  }
  const { failing } = conditions;
  const stdout = collector(failing?.stdout);
  const stderr = collector(failing?.stderr);
  const io: CliIo = {
    stdout,
    stderr,
    debug: false,
    stdin: () => streamOf(conditions.stdin ?? [], interrupt),
    stdinFile: await identify(conditions.stdinPath ?? ""),
    stdoutFile: await identify(conditions.stdoutPath ?? ""),
    now: () => clockMs += conditions.tickMs ?? 1,
    onInterrupt(listener) {
      listeners.add(listener);
      conditions.onListening?.(interrupt);
      return () => void listeners.delete(listener);
    },
  };
  const code = await main(args, io);
  return {
    code,
    out: new TextDecoder().decode(stdout.all()),
    bytes: stdout.all(),
    err: new TextDecoder().decode(stderr.all()),
    listening: listeners.size > 0,
  };
}

function streamOf(
  pieces: (Uint8Array | "wait")[] | ReadableStream<Uint8Array>,
  interrupt: () => void,
): ReadableStream<Uint8Array> {
  if (pieces instanceof ReadableStream) return pieces;
  const rest = [...pieces];
  return new ReadableStream({
    async pull(controller) {
      const piece = rest.shift();
      if (piece === "wait") {
        setTimeout(interrupt, 10);
        await new Promise(() => {});
      } else if (piece === undefined) controller.close();
      else controller.enqueue(piece);
    },
  }, { highWaterMark: 0 });
}

/** Joins bytes. */
export function concat(chunks: Uint8Array[]): Uint8Array {
  const all = new Uint8Array(chunks.reduce((sum, it) => sum + it.length, 0));
  let at = 0;
  for (const chunk of chunks) {
    all.set(chunk, at);
    at += chunk.length;
  }
  return all;
}

/** A folder for scratch files that goes away with its scope. */
export class Scratch implements AsyncDisposable {
  readonly #dir: TempDir;

  private constructor(dir: TempDir) {
    this.#dir = dir;
  }

  static async make(): Promise<Scratch> {
    return new Scratch(await tempDir());
  }

  get path(): string {
    return this.#dir.path;
  }

  /** The path of a file in it. */
  of(name: string): string {
    return this.#dir.join(name);
  }

  /** Makes a file of zeroes with data at some offsets. */
  async image(
    name: string,
    size: number,
    data: Record<number, string | Uint8Array> = {},
  ): Promise<string> {
    using file = await Deno.open(this.of(name), {
      write: true,
      createNew: true,
    });
    await file.truncate(size);
    for (const [offset, content] of Object.entries(data)) {
      const bytes = typeof content === "string"
        ? new TextEncoder().encode(content)
        : content;
      await file.seek(Number(offset), Deno.SeekMode.Start);
      for (let at = 0; at < bytes.length;) {
        at += await file.write(bytes.subarray(at));
      }
    }
    return this.of(name);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#dir[Symbol.asyncDispose]();
  }
}

/** Whether a file exists. */
export async function exists(path: string): Promise<boolean> {
  try {
    await Deno.lstat(path);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

/** The command line of a process of its own. */
export function processOf(
  args: string[],
  options: Deno.CommandOptions = {},
): Deno.Command {
  const script = new URL("../../src/cli/main.ts", import.meta.url).pathname;
  return new Deno.Command(Deno.execPath(), {
    args: ["run", "--no-check", "-A", script, ...args],
    stdin: "null",
    ...options,
  });
}

/** The parts that stay when the drawing of a terminal is taken away. */
export function undrawn(text: string): string[] {
  return text.split("\r\x1b[2K").filter((line) => line !== "");
}
