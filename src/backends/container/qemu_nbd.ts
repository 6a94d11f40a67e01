/**
 * A `qemu-nbd` of one's own: it opens an image, and serves one client over a
 * socket in a private folder. It lives as long as that client is connected:
 *
 * - it is told to serve one connection and to end with it (without
 *   `--persistent`), which closes the image in good order. The kernel closes the
 *   connection with this process, however that ends.
 * - until somebody is connected it has a parent-death signal (PR_SET_PDEATHSIG of
 *   prctl(2)), where there is setpriv(1) and Deno lets it be run.
 *
 * The folder is removed once the client is connected: nobody else can connect,
 * and a process that is killed leaves none. It has a session of its own, so that
 * Ctrl-C does not end it before the disk is closed. What it says on its standard
 * error is kept, for errors.
 *
 * @module
 */

import { lstat } from "node:fs/promises";
import { isGranted, isNotCapable } from "../../platform/permissions.ts";
import { os } from "../../platform/system.ts";
import { makeTempDir, remove } from "../../platform/files.ts";
import {
  type Child,
  type ExitStatus,
  startChild,
} from "../../platform/child_process.ts";
import { DiskError, type DiskErrorKind } from "../../errors.ts";
import { printable } from "../../printable.ts";
import { asDiskError } from "../image_options.ts";
import type { QemuNode } from "./graph.ts";

/** How an image is served. */
export interface QemuNbdOptions {
  /** What the image is called. */
  readonly path: string;
  /** What it is opened as. */
  readonly format: string;
  /** Whether writes are refused. */
  readonly readOnly: boolean;
  /** How long it may take until it serves, in ms. */
  readonly timeoutMs: number;
  /** Gives it up. */
  readonly signal?: AbortSignal;
}

/** How often it is looked whether it serves, in ms. */
const POLL_MS = 4;

/** Characters of its standard error that are kept. */
const MAX_SAID = 2000;

/** How long it may take to end when it is told to, in ms. */
const END_MS = 2000;

/** In so many steps is waited until it ends. */
const STEPS = 4;

/** What setpriv(1) and env(1) exit with if there is no such program. */
const NO_SUCH_PROGRAM = 127;

/** What it says, and what that means. */
const KINDS: readonly (readonly [said: RegExp, kind: DiskErrorKind])[] = [
  [/Failed to get .*lock/, "locked"],
  [/Permission denied|Operation not permitted/, "permission"],
  [/read.?only/i, "read-only"],
  [/No space left/, "no-space"],
  [/No such file/, "not-found"],
  [/socket path/i, "platform"],
  [/key-secret|is encrypted/, "unsupported"],
  [/Input\/output error|Cannot allocate/, "io"],
];

/** A child that serves an image. */
export class QemuNbd {
  readonly #child: Child;
  readonly #options: QemuNbdOptions;
  readonly #dir: string;
  readonly #json: string;
  #said = "";
  #hasEnded = false;
  /** When it has ended and all it said is known. Never rejects. */
  readonly ended: Promise<ExitStatus>;

  private constructor(
    child: Child,
    dir: string,
    json: string,
    options: QemuNbdOptions,
  ) {
    this.#child = child;
    this.#dir = dir;
    this.#json = json;
    this.#options = options;
    this.ended = this.#follow();
    // An idle disk keeps no program from ending.
    child.unref();
  }

  /**
   * Starts one.
   *
   * @param node What it opens.
   * @param options How.
   * @returns The child, which serves.
   * @throws {DiskError} If it cannot be had (`platform`, with the name of the
   * package), may not be run (`permission`), or cannot open the image.
   */
  static async start(
    node: QemuNode,
    options: QemuNbdOptions,
  ): Promise<QemuNbd> {
    const { path, readOnly } = options;
    const dir = await privateFolder(path);
    let nbd: QemuNbd;
    try {
      const json = `json:${JSON.stringify(node)}`;
      const args = [
        ...["--socket", `${dir}/nbd`, "--pid-file", `${dir}/pid`],
        ...["--shared", "1", "--discard", "unmap"],
        ...(readOnly ? ["--read-only"] : []),
        json,
      ];
      nbd = new QemuNbd(await spawn(args, options), dir, json, options);
    } catch (error) {
      await remove(dir, { recursive: true }).catch(() => {});
      throw error;
    }
    try {
      await nbd.#serving();
      return nbd;
    } catch (error) {
      await nbd.end(0);
      throw error;
    }
  }

  /** The path of its socket, until {@linkcode QemuNbd.hide}. */
  get socket(): string {
    return `${this.#dir}/nbd`;
  }

  /** Whether it runs no more. */
  get hasEnded(): boolean {
    return this.#hasEnded;
  }

  /** What it said on its standard error so far, fit to be printed. */
  get said(): string {
    const prefix = /^qemu-nbd: (Failed to blk_new_open ')?/;
    return printable(
      this.#said.replaceAll(`${this.#json}': `, "").trim().split("\n")
        .map((line) => line.replace(prefix, "")).join("; "),
      500,
    );
  }

  /** Removes the folder with its socket: who is connected stays so. */
  async hide(): Promise<void> {
    await remove(this.#dir, { recursive: true }).catch(() => {});
  }

  /**
   * Waits until it has ended, and ends it if it does not.
   *
   * @param patienceMs How long it may take by itself, in ms.
   * @returns How it ended; `null` if it had to be ended.
   */
  async end(patienceMs: number): Promise<ExitStatus | null> {
    this.#child.ref();
    let status = await this.within(patienceMs);
    if (status === null) {
      // This closes the image in good order, too.
      for (const signal of ["SIGTERM", "SIGKILL"] as const) {
        if (this.#hasEnded) break;
        try {
          this.#child.kill(signal);
        } catch {
          // It has ended by itself.
        }
        if (await this.within(END_MS) !== null) break;
      }
    }
    status = patienceMs > 0 ? status : null;
    await this.hide();
    return status;
  }

  /**
   * The error for an image that it does not open.
   *
   * @returns The error.
   */
  openError(): DiskError {
    const { path, format } = this.#options;
    const said = this.said || "it ended without saying why";
    const kind = KINDS.find(([pattern]) => pattern.test(said))?.[1] ?? "format";
    return new DiskError(
      kind,
      `Cannot open "${path}" as ${format} as qemu-nbd does not: ${said}`,
      { operation: "open", path },
    );
  }

  /**
   * Waits for a while until it has ended: in steps, so that a program that was
   * held up itself hears of an end before it takes the time for over.
   *
   * @param ms How long, in ms.
   * @returns How it ended; `null` if it has not.
   */
  async within(ms: number): Promise<ExitStatus | null> {
    for (let step = 0; step < STEPS; step++) {
      let timer: ReturnType<typeof setTimeout> | undefined;
      const status = await Promise.race([
        this.ended,
        new Promise<null>((resolve) => {
          timer = setTimeout(resolve, ms / STEPS, null);
        }),
      ]);
      clearTimeout(timer);
      if (status !== null) return status;
    }
    return null;
  }

  /** Waits until it serves: its file with its number comes after its socket. */
  async #serving(): Promise<void> {
    const { path, format, signal, timeoutMs } = this.#options;
    const end = performance.now() + timeoutMs;
    for (;;) {
      signal?.throwIfAborted();
      if (await isThere(`${this.#dir}/pid`)) return;
      if (this.#hasEnded) {
        const { code } = await this.ended;
        throw code === NO_SUCH_PROGRAM ? notInstalled(path, format) : this
          .openError();
      }
      if (performance.now() > end) {
        throw new DiskError(
          "io",
          `Cannot open "${path}" as ${format} as qemu-nbd has not opened it for ${timeoutMs} ms`,
          { operation: "open", path, code: "ETIMEDOUT" },
        );
      }
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  }

  async #follow(): Promise<ExitStatus> {
    const reader = this.#child.stderr.pipeThrough(new TextDecoderStream())
      .getReader();
    const reading = (async () => {
      try {
        for (;;) {
          const { done, value } = await reader.read();
          if (done) return;
          this.#said = (this.#said + value).slice(0, MAX_SAID);
        }
      } catch {
        // The pipe is gone, and so is who wrote to it.
      }
    })();
    const status = await this.#child.status;
    await reading;
    this.#hasEnded = true;
    return status;
  }
}

/** Makes a folder that only this user may look into. */
async function privateFolder(path: string): Promise<string> {
  try {
    return await makeTempDir({ prefix: "platter-" });
  } catch (error) {
    const reason = asDiskError(error, path);
    throw new DiskError(
      reason.kind,
      `Cannot open "${path}" as a container as qemu-nbd needs a private folder for its socket: ${
        error instanceof Error ? error.message : error
      }`,
      { operation: "open", path, cause: error },
    );
  }
}

/** Runs it, with a parent-death signal if that can be had. */
async function spawn(
  args: readonly string[],
  { path, format }: QemuNbdOptions,
): Promise<Child> {
  const options = {
    stdin: "null",
    stdout: "null",
    stderr: "piped",
    detached: true,
  } as const;
  if (os === "linux" && mayRun("setpriv") && mayRun("qemu-nbd")) {
    try {
      return await startChild("setpriv", {
        args: ["--pdeathsig", "TERM", "--", "qemu-nbd", ...args],
        ...options,
      });
    } catch (error) {
      if ((error as { code?: unknown }).code !== "ENOENT") throw error;
    }
  }
  try {
    return await startChild("qemu-nbd", { args, ...options });
  } catch (error) {
    if ((error as { code?: unknown }).code === "ENOENT") {
      throw notInstalled(path, format);
    }
    if (!isNotCapable(error)) {
      throw asDiskError(error, path);
    }
    throw new DiskError(
      "permission",
      `Cannot open "${path}" as ${format} as that is read and written by qemu-nbd, which takes --allow-run=qemu-nbd: ${error.message}`,
      { operation: "open", path, cause: error },
    );
  }
}

function mayRun(command: string): boolean {
  return isGranted({ name: "run", command });
}

function notInstalled(path: string, format: string): DiskError {
  return new DiskError(
    "platform",
    `Cannot open "${path}" as ${format} as that is read and written by qemu-nbd, which is not installed: it is in Debian's package qemu-utils, elsewhere in QEMU's own`,
    { operation: "open", path },
  );
}

async function isThere(path: string): Promise<boolean> {
  try {
    await lstat(path);
    return true;
  } catch {
    return false;
  }
}
