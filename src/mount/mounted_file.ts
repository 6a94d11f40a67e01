/**
 * A disk that is mounted as a file: what it is made of, and how it ends.
 *
 * @module
 */

import type { VirtualDisk } from "../disk/disk.ts";
import { DiskError } from "../errors.ts";
import type { NbdServer } from "../nbd/server.ts";
import { keepOnThread } from "../one_thread.ts";
import type { FuseToolName } from "./fuse_tool.ts";
import type { MountOutcome, MountShell } from "./mount_shell.ts";

/** How a mount ended. */
export interface MountEnd {
  /**
   * Whether the file was in use for longer than it was waited for: its name is
   * gone, and whoever has it open gets ENOTCONN from now on.
   */
  readonly busy: boolean;
  /** What failed; `null` if it was closed, or unmounted by somebody. */
  readonly error: DiskError | null;
}

/** The longest that the server waits for its clients, in ms, once unmounted. */
export const LEAVE_MS = 1000;

/**
 * A disk that is a file for as long as this is open: see {@linkcode asFile}.
 */
export class MountedFile implements AsyncDisposable {
  readonly #parts: MountParts;
  /** When it is unmounted, whoever did it. Never rejects. */
  readonly closed: Promise<MountEnd>;
  #closing = false;
  #fault: Error | null = null;

  /**
   * Takes over what was started; {@linkcode asFile} is for everybody else.
   *
   * @param parts What the mount is made of.
   */
  constructor(parts: MountParts) {
    keepOnThread(this, "a MountedFile");
    this.#parts = parts;
    parts.faults.then((fault) => {
      // Others of its connections may be left: a file that works at times.
      this.#fault = fault;
      parts.shell.end();
    });
    this.closed = this.#follow();
  }

  /** Where the file is. */
  get path(): string {
    return this.#parts.path;
  }

  /** What makes a file of the disk. */
  get tool(): FuseToolName {
    return this.#parts.tool;
  }

  /**
   * Unmounts. What programs wrote has reached the disk by then; it is not
   * flushed unless they asked for that. A file that is in use is waited for,
   * for 2 s; then its name is taken away, which {@linkcode MountEnd.busy} tells,
   * and whoever has it open gets errors. A disk stays open, a backend is closed.
   * Idempotent.
   *
   * @returns How it ended.
   * @throws {DiskError} With kind `io` if it cannot be unmounted.
   */
  async close(): Promise<MountEnd> {
    this.#closing = true;
    this.#parts.shell.end();
    const end = await this.closed;
    if (end.error?.operation === "unmount") throw end.error;
    return end;
  }

  /** Unmounts, for `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #follow(): Promise<MountEnd> {
    const { shell, server, own, onError } = this.#parts;
    const outcome = await shell.ended;
    const closing = this.#closing;
    await server.close(LEAVE_MS);
    let error = this.#errorOf(outcome, closing);
    try {
      await own?.close();
    } catch (cause) {
      error ??= mountError("unmount", this.path, String(cause), cause);
    }
    if (error !== null) onError?.(error);
    return { busy: outcome.busy, error };
  }

  #errorOf(
    { stuck, code, said }: MountOutcome,
    closing: boolean,
  ): DiskError | null {
    const { path, tool } = this.#parts;
    if (stuck) return mountError("unmount", path, `fusermount3 fails: ${said}`);
    const fault = this.#fault;
    if (closing || (code === 0 && fault === null)) return null;
    const ended = code === null ? "" : ` with code ${code}`;
    const reason = fault?.message ?? `${tool} ended${ended}: ${said}`;
    return mountError("mount", path, reason, fault);
  }
}

/** What a mount is made of. */
export interface MountParts {
  /** What watches over it. */
  readonly shell: MountShell;
  /** What its tool is connected to. */
  readonly server: NbdServer;
  /** The disk, if it is closed with the mount. */
  readonly own: VirtualDisk | null;
  /** Where the file is. */
  readonly path: string;
  /** What makes a file of the disk. */
  readonly tool: FuseToolName;
  /** What was wrong with a connection of the tool; it may never come. */
  readonly faults: Promise<Error>;
  /** Hears of what failed, but for what {@linkcode asFile} throws. */
  readonly onError: ((error: DiskError) => void) | undefined;
}

/**
 * Says that a mount failed, or that it has ended.
 *
 * @param operation `"mount"` or `"unmount"`.
 * @param path Where the file is, or was to be.
 * @param reason Why, in words.
 * @param cause What was thrown, if anything.
 * @returns The error to throw.
 */
export function mountError(
  operation: "mount" | "unmount",
  path: string,
  reason: string,
  cause?: unknown,
): DiskError {
  return new DiskError(
    "io",
    `Cannot ${operation} a disk at "${path}" as ${reason.trim()}`,
    { operation, path, cause },
  );
}
