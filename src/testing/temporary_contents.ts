/**
 * A private file for contents that a recording has no room for in memory. It has
 * no name where the system allows that, so that it goes with its process,
 * however that ends; elsewhere it is removed when it is closed.
 *
 * @module
 */

import fs from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { os } from "../platform/system.ts";
import { isGranted } from "../platform/permissions.ts";
import { readFullySync } from "../backends/read_fully_sync.ts";
import type { ContentFile } from "./content_store.ts";

/** A file for contents. It is made when there is something for it. */
export class TemporaryContents implements ContentFile {
  readonly #blockSize: number;
  #fd = -1;
  /** Its name, where it still has one. */
  #path: string | null = null;

  /**
   * Constructs a new instance.
   *
   * @param blockSize Bytes of a block.
   */
  constructor(blockSize: number) {
    this.#blockSize = blockSize;
  }

  /** Nothing: they come when memory forgets them. */
  add(): void {}

  /**
   * Writes contents.
   *
   * @returns Whether there is a file: without permission to make one they stay
   * in memory.
   */
  keep(first: number, bytes: Uint8Array): boolean {
    if (this.#fd < 0 && !this.#open()) return false;
    const offset = (first - 1) * this.#blockSize;
    for (let done = 0; done < bytes.length;) {
      done += fs.writeSync(
        this.#fd,
        bytes,
        done,
        bytes.length - done,
        offset + done,
      );
    }
    return true;
  }

  /** Reads contents back. */
  load(first: number, target: Uint8Array): void {
    readFullySync(this.#fd, target, (first - 1) * this.#blockSize);
  }

  /** Closes the file, and removes it if it has a name. */
  close(): void {
    if (this.#fd < 0) return;
    fs.closeSync(this.#fd);
    this.#fd = -1;
    if (this.#path !== null) fs.unlinkSync(this.#path);
    this.#path = null;
  }

  #open(): boolean {
    // Asked, not tried: trying would ask the user.
    const allowed = (["read", "write"] as const).every((name) =>
      isGranted({ name })
    );
    if (!allowed) return false;
    const name = `platter-contents-${crypto.randomUUID()}`;
    const path = join(tmpdir(), name);
    this.#fd = fs.openSync(path, "wx+", 0o600);
    if (os === "windows") this.#path = path;
    else fs.unlinkSync(path);
    return true;
  }
}
