/**
 * Other programs, run as children of this one. Deno's own are used there, with
 * its permissions; elsewhere those of `node:child_process` are made to look like
 * them.
 *
 * @module
 */

import type { ChildProcess } from "node:child_process";
import os from "node:os";
import process from "node:process";
import { Readable, Writable } from "node:stream";
import { runtime } from "./system.ts";

/** Where a stream of a child's leads. */
type Stdio = "null" | "piped" | "inherit";

/** How a program is run. */
export interface ChildOptions {
  /** Its arguments. */
  readonly args: readonly string[];
  /** Its standard input. */
  readonly stdin: Stdio;
  /** Its standard output. */
  readonly stdout: Stdio;
  /** Its standard error. */
  readonly stderr: Stdio;
  /** Whether it has a session of its own, which Ctrl-C does not reach. */
  readonly detached?: boolean;
}

/** How a program ended. */
export interface ExitStatus {
  /** Whether it exited with 0. */
  readonly success: boolean;
  /** What it exited with; 128 and the signal's number if it was a signal. */
  readonly code: number;
  /** The signal that ended it. */
  readonly signal: string | null;
}

/** A program that runs. */
export interface Child {
  /** Its number. */
  readonly pid: number;
  /** Its standard input, if it is piped. */
  readonly stdin: WritableStream<Uint8Array<ArrayBufferLike>>;
  /** Its standard output, if it is piped. */
  readonly stdout: ReadableStream<Uint8Array<ArrayBuffer>>;
  /** Its standard error, if it is piped. */
  readonly stderr: ReadableStream<Uint8Array<ArrayBuffer>>;
  /** When it has ended. */
  readonly status: Promise<ExitStatus>;
  /** Sends it a signal. */
  kill(signal: "SIGTERM" | "SIGKILL"): void;
  /** Has this program wait for it before it ends. */
  ref(): void;
  /** Takes that back. */
  unref(): void;
}

/**
 * Runs a program.
 *
 * @param command Its name, for `PATH` to be searched, or its path.
 * @param options How.
 * @returns The child, which runs.
 * @throws {Error} With the system's `code`: `ENOENT` if there is none; or as the
 * runtime does not allow it.
 */
export async function startChild(
  command: string,
  options: ChildOptions,
): Promise<Child> {
  if (runtime === "deno") {
    const args = [...options.args];
    return new Deno.Command(command, { ...options, args }).spawn();
  }
  const { spawn } = process.getBuiltinModule("node:child_process");
  const stdio = [options.stdin, options.stdout, options.stderr].map((where) =>
    where === "null" ? "ignore" : where === "piped" ? "pipe" : where
  );
  const child = spawn(command, options.args, {
    stdio: stdio as ("ignore" | "pipe" | "inherit")[],
    detached: options.detached ?? false,
  });
  const status = new Promise<ExitStatus>((resolve) =>
    child.once("exit", (code, signal) =>
      resolve({
        success: code === 0,
        code: code ??
          128 + (signal === null ? 0 : os.constants.signals[signal]),
        signal,
      }))
  );
  await new Promise<void>((resolve, reject) => {
    child.once("spawn", resolve);
    child.once("error", reject);
  });
  // That a signal could not be sent is told where it is sent.
  child.on("error", () => {});
  return childOf(child, status);
}

function childOf(child: ChildProcess, status: Promise<ExitStatus>): Child {
  const streams = [child.stdin, child.stdout, child.stderr] as (
    | { ref?(): void; unref?(): void }
    | null
  )[];
  const web = {
    stdin: child.stdin && Writable.toWeb(child.stdin),
    stdout: child.stdout && Readable.toWeb(child.stdout),
    stderr: child.stderr && Readable.toWeb(child.stderr),
  };
  return {
    pid: child.pid!,
    get stdin() {
      return web.stdin as Child["stdin"];
    },
    get stdout() {
      return web.stdout as unknown as Child["stdout"];
    },
    get stderr() {
      return web.stderr as unknown as Child["stderr"];
    },
    status,
    kill(signal) {
      child.kill(signal);
    },
    ref() {
      child.ref();
      for (const stream of streams) stream?.ref?.();
    },
    unref() {
      child.unref();
      for (const stream of streams) stream?.unref?.();
    },
  };
}
