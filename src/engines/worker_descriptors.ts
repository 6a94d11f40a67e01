/**
 * Descriptors that C functions made, under numbers that Deno and Node.js close when
 * a Worker ends, even if it is terminated: they close what their own functions
 * opened, by number, and never learn that something else is behind it by then. Bun
 * closes nothing.
 *
 * @module
 */

import { closeSync, openSync } from "node:fs";
import type { DescriptorKeeper, Libc } from "../../ffi/libc.ts";
import { inWorker } from "../platform/system.ts";

/** Keeps the descriptors of a Worker. */
export class WorkerDescriptors implements DescriptorKeeper {
  readonly #libc: Libc;
  readonly #kept = new Set<number>();
  /** What the runtime may open, to have a number of its own. */
  #path: string;

  /**
   * Constructs a new instance.
   *
   * @param libc The C library.
   * @param path A file that may be read.
   */
  constructor(libc: Libc, path: string) {
    this.#libc = libc;
    this.#path = path;
  }

  /**
   * Sees to it that what is opened from here on ends with this thread.
   *
   * @param libc The C library.
   * @param path A file that may be read, such as the image.
   */
  static use(libc: Libc, path: string): void {
    if (!inWorker || libc.abi.os !== "linux") return;
    if (libc.keeper instanceof WorkerDescriptors) libc.keeper.#path = path;
    else libc.keeper = new WorkerDescriptors(libc, path);
  }

  /** Takes a descriptor; it stays as it is where no file can be opened. */
  keep(fd: number): number {
    const { O_RDONLY, O_NONBLOCK, O_CLOEXEC } = this.#libc.abi.open;
    let own: number;
    try {
      // A pipe that has the name by now would be waited for.
      own = openSync(this.#path, O_RDONLY | O_NONBLOCK);
    } catch {
      return fd;
    }
    if (this.#libc.dup3(fd, own, O_CLOEXEC) < 0) {
      closeSync(own);
      return fd;
    }
    this.#libc.close(fd);
    this.#kept.add(own);
    return own;
  }

  /** Closes what was kept. */
  close(fd: number): boolean {
    if (!this.#kept.delete(fd)) return false;
    closeSync(fd);
    return true;
  }
}
