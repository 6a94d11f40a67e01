/**
 * What a program is started with: its streams, its arguments.
 *
 * @module
 */

import fs from "node:fs";
import process from "node:process";
import { runtime } from "./system.ts";

/** A stream to write to. */
export interface StandardOutput {
  /** Whether it is a terminal. */
  isTerminal(): boolean;
  /** Writes some of it; `EAGAIN` if there is no room in it for now. */
  write(bytes: Uint8Array): Promise<number>;
  /** The same, at once. */
  writeSync(bytes: Uint8Array): number;
}

// Deno's own streams do without these modules, which take long to load.
function outputOf(fd: number): StandardOutput {
  const tty = process.getBuiltinModule("node:tty");
  const { promisify } = process.getBuiltinModule("node:util");
  const fsWrite = promisify(fs.write);
  return {
    isTerminal: () => tty.isatty(fd),
    write: async (bytes) => (await fsWrite(fd, bytes)).bytesWritten,
    writeSync: (bytes) => fs.writeSync(fd, bytes),
  };
}

/** Standard output. */
export const stdout: StandardOutput = runtime === "deno"
  ? Deno.stdout
  : outputOf(1);

/** Standard error. */
export const stderr: StandardOutput = runtime === "deno"
  ? Deno.stderr
  : outputOf(2);

/**
 * Standard input, from here on.
 *
 * @returns A stream of it.
 */
export function stdin(): ReadableStream<Uint8Array> {
  if (runtime === "deno") return Deno.stdin.readable;
  const { Readable } = process.getBuiltinModule("node:stream");
  return Readable.toWeb(process.stdin) as unknown as ReadableStream<
    Uint8Array
  >;
}

/**
 * Characters in a line of the terminal.
 *
 * @returns Their number; 0 if it was never set, and without a terminal.
 */
export function terminalColumns(): number {
  if (runtime !== "deno") return process.stdout.columns ?? 0;
  try {
    return Deno.consoleSize().columns;
  } catch {
    return 0;
  }
}

/**
 * What the program was called with.
 *
 * @returns Its arguments.
 */
export function programArguments(): string[] {
  return runtime === "deno" ? Deno.args : process.argv.slice(2);
}

/**
 * Whether the program was started with a module, where `import.meta.main` does not
 * say: in Node.js before 24.2.
 *
 * @param url The module's `import.meta.url`.
 * @returns Whether it was.
 */
export function isProgram(url: string): boolean {
  const { createRequire } = process.getBuiltinModule("node:module");
  const { pathToFileURL } = process.getBuiltinModule("node:url");
  try {
    // It may have been started through a link, or without its extension.
    const path = createRequire(url).resolve(process.argv[1] ?? "");
    return pathToFileURL(path).href === url;
  } catch {
    return false;
  }
}

/**
 * Whether a stream could not be written to as nobody reads it.
 *
 * @param error What was thrown.
 * @returns Whether that is so: `EPIPE`, which Deno has a class for.
 */
export function isUnread(error: unknown): boolean {
  return is(error, "EPIPE", "BrokenPipe");
}

/**
 * Whether a stream takes nothing for now.
 *
 * @param error What was thrown.
 * @returns Whether that is so: `EAGAIN`, which Deno has a class for.
 */
export function isFull(error: unknown): boolean {
  return is(error, "EAGAIN", "WouldBlock");
}

function is(error: unknown, code: string, name: string): boolean {
  return error instanceof Error &&
    ((error as { code?: unknown }).code === code || error.name === name);
}
