/**
 * What a command talks to: three streams, a clock and Ctrl-C. Commands take it
 * as an argument, so that tests can run them in their own process.
 *
 * @module
 */

import { readFileSync } from "node:fs";
import process from "node:process";
import {
  type FileIdentity,
  identifyDescriptor,
} from "../backends/same_file.ts";
import { listen, type Signal, unlisten } from "../platform/signals.ts";
import { os } from "../platform/system.ts";
import { isGranted } from "../platform/permissions.ts";
import {
  isFull,
  isUnread,
  type StandardOutput,
  stderr,
  stdin,
  stdout,
  terminalColumns,
} from "../platform/terminal.ts";

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
  /** Which file it comes from; `null` if that is not known. */
  readonly stdinFile: FileIdentity | null;
  /** Which file standard output goes to; `null` if that is not known. */
  readonly stdoutFile: FileIdentity | null;
  /**
   * The clock, for rates.
   *
   * @returns Milliseconds since some fixed moment.
   */
  now(): number;
  /**
   * Listens for an interrupt (SIGINT, SIGHUP or SIGTERM), once.
   *
   * @param listener Called when it comes.
   * @returns A function that stops listening.
   */
  onInterrupt(listener: () => void): () => void;
}

/** Standard output that cannot be written: its reader is gone (EPIPE), or it is full. */
export class OutputError extends Error {
  /** Always `"OutputError"`. */
  override readonly name = "OutputError";
  /** Whether its reader is gone (EPIPE). */
  readonly unread: boolean;
  /** Whether it comes after something that was done, and should be known. */
  readonly matters: boolean;

  /**
   * Constructs a new instance.
   *
   * @param cause What the stream failed with.
   * @param done What was done all the same; nothing by default.
   */
  constructor(cause: unknown, done = "") {
    const unread = isUnread(cause);
    const reason = unread
      ? "nobody reads it"
      : cause instanceof Error
      ? cause.message
      : String(cause);
    super(
      `Cannot write to standard output as ${reason}${done && `: ${done}`}`,
      { cause },
    );
    this.unread = unread;
    this.matters = done !== "";
  }
}

const DEFAULT_COLUMNS = 80;

/** The descriptors that a program is started with. */
const [STDIN, STDOUT] = [0, 1];

/** How long to wait for a stream that is full, in ms. */
const FULL_MS = 5;

const encoder = new TextEncoder();

/**
 * Writes bytes to standard output.
 *
 * @param output Standard output.
 * @param bytes The bytes.
 * @returns When they are written.
 * @throws {OutputError} If they cannot be.
 */
export async function send(
  output: CliOutput,
  bytes: Uint8Array,
): Promise<void> {
  try {
    await output.write(bytes);
  } catch (error) {
    throw new OutputError(error);
  }
}

/**
 * Writes text to standard output: the answer of a verb that only looks.
 *
 * @param output Standard output.
 * @param text The text, with its own ends of lines.
 * @returns When it is written.
 * @throws {OutputError} If it cannot be.
 */
export function print(output: CliOutput, text: string): Promise<void> {
  return send(output, encoder.encode(text));
}

/**
 * Says on standard output what was done. Everything must have been flushed and
 * closed by then: output without a reader is no reason to undo or to leave out
 * anything, and the error says so.
 *
 * @param io What to talk to.
 * @param text The text, with its own ends of lines.
 * @param done The same in few words, for the error.
 * @returns When it is said.
 * @throws {OutputError} If it cannot be.
 */
export async function announce(
  io: CliIo,
  text: string,
  done: string,
): Promise<void> {
  try {
    await print(io.stdout, text);
  } catch (error) {
    throw new OutputError((error as OutputError).cause, done);
  }
}

/**
 * Writes text to standard error as far as that goes: that it cannot be written
 * is never an error of its own.
 *
 * @param io What to talk to.
 * @param text The text, with its own ends of lines.
 * @returns When it is written, or cannot be.
 */
export async function printError(io: CliIo, text: string): Promise<void> {
  try {
    await io.stderr.write(encoder.encode(text));
  } catch {
    // There is nowhere left to complain.
  }
}

/**
 * The process' own streams, clock and signals.
 *
 * @returns What a command talks to.
 */
export function processIo(): CliIo {
  return {
    stdout: outputOf(stdout),
    stderr: outputOf(stderr),
    debug: wantsDebug(),
    stdin,
    stdinFile: identifyDescriptor(STDIN),
    stdoutFile: identifyDescriptor(STDOUT),
    now: () => performance.now(),
    onInterrupt,
  };
}

function outputOf(stream: StandardOutput): CliOutput {
  return {
    isTerminal: stream.isTerminal(),
    get columns() {
      // A terminal whose size was never set says 0.
      return terminalColumns() || DEFAULT_COLUMNS;
    },
    write: (bytes) => writeAll(stream, bytes),
  };
}

/**
 * Writes all of some bytes to a stream that takes some at a time. A terminal or
 * a pipe that another program made non-blocking (it is shared) takes none while
 * it is full (EAGAIN): that is waited for.
 *
 * @param stream The stream.
 * @param bytes The bytes.
 * @returns When they are written.
 */
export async function writeAll(
  stream: { write(bytes: Uint8Array): Promise<number> },
  bytes: Uint8Array,
): Promise<void> {
  for (let at = 0; at < bytes.length;) {
    try {
      at += await stream.write(bytes.subarray(at));
    } catch (error) {
      if (!isFull(error)) throw error;
      await new Promise((resolve) => setTimeout(resolve, FULL_MS));
    }
  }
}

/** Looks at PLATTER_DEBUG, but never asks for the permission to. */
function wantsDebug(): boolean {
  const name = "PLATTER_DEBUG";
  return isGranted({ name: "env", variable: name }) &&
    Boolean(process.env[name]);
}

function onInterrupt(listener: () => void): () => void {
  // Windows has no polite kill. A terminal that is closed says SIGHUP.
  const signals: Signal[] = os === "windows"
    ? ["SIGINT", "SIGBREAK"]
    : ["SIGINT", "SIGTERM"];
  // With the first listener Deno handles SIGHUP by itself, and ends by it even
  // if it was to be ignored: so that is done here.
  if (ignoresHangUp()) listen("SIGHUP", () => {});
  else if (os !== "windows") signals.push("SIGHUP");
  function forget(): void {
    for (const signal of signals) unlisten(signal, stop);
  }
  // A second interrupt does not want to wait: without a listener it is the
  // end of the process.
  function stop(): void {
    forget();
    listener();
  }
  for (const signal of signals) listen(signal, stop);
  return forget;
}

/**
 * Whether this process was begun to outlive its terminal, by nohup(1). As `SigIgn` of proc_pid_status(5)
 * has it, a mask in hexadecimal in which SIGHUP is the lowest bit.
 */
function ignoresHangUp(): boolean {
  const path = "/proc/self/status";
  try {
    if (!isGranted({ name: "read", path })) return false;
    const mask = /^SigIgn:\s*([0-9a-f]+)$/m.exec(readFileSync(path, "utf8"));
    return mask !== null && (BigInt(`0x${mask[1]}`) & 1n) === 1n;
  } catch {
    return false;
  }
}
