/**
 * Gives an image its new size and makes it read as zeroes. First whatever may
 * fail and harms nothing, as old content is somebody's data; the cut comes last.
 *
 * @module
 */

import fs from "node:fs";
import { isZero } from "../buffer.ts";
import { errnoText } from "../errno.ts";
import { DiskError } from "../errors.ts";
import { freeBytesAt } from "./file_system.ts";
import { SECTOR_BYTES } from "../geometry.ts";
import { readFullySync } from "./read_fully_sync.ts";
import { isSame } from "./held_image.ts";
import { asDiskError, type ImageOptions } from "./image_options.ts";

/** Bytes that are read or written at once. */
const PIECE_BYTES = 1 << 20;

/** Bytes of a block as stat(2) counts them. */
const STAT_BLOCK_BYTES = 512;

/** After so many ms, others on this thread have their turn. */
const TURN_MS = 5;

/** What the system can do without moving data; each tells whether it did. */
export interface FastSpace {
  /** Reserves space from the start, and changes no content. */
  reserve(sizeBytes: number): boolean;
  /** Makes it zeroes from the start, and keeps the space. */
  zero(sizeBytes: number): boolean;
  /** Whether a file that is cut and made long again reads as zeroes. */
  readonly cutsToZeroes: boolean;
}

/** No system that can do more than any can. */
export const NO_FAST_SPACE: FastSpace = {
  reserve: () => false,
  zero: () => false,
  cutsToZeroes: true,
};

/** An image that is to get new content. */
export class NewContent {
  readonly #path: string;
  readonly #fd: number;
  readonly #create: NonNullable<ImageOptions["create"]>;
  readonly #signal: AbortSignal | undefined;
  readonly #space: FastSpace;
  readonly #oldSize: number;
  #cutting = false;

  /**
   * Constructs a new instance.
   *
   * @param path The image's path.
   * @param fd Its descriptor, under a lock.
   * @param options What it is to become.
   * @param space What the system can do.
   */
  constructor(
    path: string,
    fd: number,
    options: ImageOptions,
    space: FastSpace = NO_FAST_SPACE,
  ) {
    this.#path = path;
    this.#fd = fd;
    this.#create = options.create!;
    this.#signal = options.signal;
    this.#space = space;
    this.#oldSize = fs.fstatSync(fd).size;
  }

  /**
   * Makes room. The old content stays as it is.
   *
   * @returns When there is room.
   * @throws {DiskError} If there is none.
   */
  async makeRoom(): Promise<void> {
    const { sizeBytes, preallocate } = this.#create;
    try {
      if (sizeBytes > this.#oldSize) fs.ftruncateSync(this.#fd, sizeBytes);
      if (preallocate) this.#refuseTooLarge(sizeBytes);
      if (preallocate && !this.#space.reserve(sizeBytes)) {
        await this.#each(sizeBytes, (file, piece, at) => {
          // What reads as zeroes may be a hole; all else has its space.
          for (const [from, to] of zeroRuns(piece)) {
            writeAll(file, piece.subarray(from, to), at + from);
          }
        });
      }
    } catch (error) {
      this.undo();
      if (error === this.#signal?.reason) throw error;
      throw asDiskError(error, this.#path, "create");
    }
  }

  /**
   * Makes it read as zeroes.
   *
   * @returns When it does.
   * @throws {DiskError} If it does not, and then old content may be lost.
   */
  async cut(): Promise<void> {
    const { sizeBytes, preallocate } = this.#create;
    if (this.#oldSize === 0) return;
    this.#cutting = true;
    try {
      if (!preallocate && this.#space.cutsToZeroes) {
        fs.ftruncateSync(this.#fd, 0);
        fs.ftruncateSync(this.#fd, sizeBytes);
        return;
      }
      fs.ftruncateSync(this.#fd, sizeBytes);
      if (preallocate && this.#space.zero(sizeBytes)) return;
      // What was beyond its end reads as zeroes, having its space or not.
      const bytes = preallocate
        ? sizeBytes
        : Math.min(sizeBytes, this.#oldSize);
      await this.#each(bytes, (file, piece, at) => {
        if (!isZero(piece)) writeAll(file, piece.fill(0), at);
      });
    } catch (error) {
      throw asDiskError(error, this.#path, "empty");
    }
  }

  /**
   * Fails where there is no space for sure: what was taken for holes of the old
   * content, until there was none left, could not be given back.
   */
  #refuseTooLarge(sizeBytes: number): void {
    const free = freeBytesAt(this.#path);
    const taken = fs.fstatSync(this.#fd).blocks * STAT_BLOCK_BYTES;
    if (free === null || sizeBytes - taken <= free) return;
    const code = "ENOSPC";
    throw Object.assign(new Error(errnoText(code)!), { code });
  }

  /** Takes back what {@linkcode NewContent.makeRoom} did. */
  undo(): void {
    if (this.#cutting || this.#create.sizeBytes <= this.#oldSize) return;
    try {
      fs.ftruncateSync(this.#fd, this.#oldSize);
    } catch {
      // What went wrong before counts.
    }
  }

  /** Visits the content piece by piece, through the cache, and flushes it. */
  async #each(
    sizeBytes: number,
    visit: (file: number, piece: Uint8Array, at: number) => void,
  ): Promise<void> {
    // The image's own descriptor may want aligned memory.
    const file = fs.openSync(this.#path, fs.constants.O_RDWR);
    try {
      if (!isSame(file, this.#fd)) {
        throw new DiskError(
          "locked",
          `Cannot create "${this.#path}" as it was replaced meanwhile`,
          { operation: "create", path: this.#path },
        );
      }
      let turn = performance.now();
      const memory = new Uint8Array(Math.min(PIECE_BYTES, sizeBytes));
      for (let at = 0; at < sizeBytes; at += memory.length) {
        // Cut is cut: from then on it is brought to its end.
        if (!this.#cutting) this.#signal?.throwIfAborted();
        const piece = memory.subarray(
          0,
          Math.min(memory.length, sizeBytes - at),
        );
        const done = readFullySync(file, piece, at);
        visit(file, piece.fill(0, done), at);
        if (performance.now() - turn < TURN_MS) continue;
        await new Promise((resolve) => setTimeout(resolve, 0));
        turn = performance.now();
      }
      // Some file systems find out about space only now.
      fs.fdatasyncSync(file);
    } finally {
      fs.closeSync(file);
    }
  }
}

/** Runs of sectors that are all zeroes, in bytes. */
function* zeroRuns(piece: Uint8Array): Generator<[from: number, to: number]> {
  let from = -1;
  for (let at = 0; at < piece.length; at += SECTOR_BYTES) {
    const zero = isZero(piece.subarray(at, at + SECTOR_BYTES));
    if (zero && from < 0) from = at;
    if (!zero && from >= 0) {
      yield [from, at];
      from = -1;
    }
  }
  if (from >= 0) yield [from, piece.length];
}

function writeAll(file: number, bytes: Uint8Array, position: number): void {
  for (let done = 0; done < bytes.length;) {
    done += fs.writeSync(
      file,
      bytes,
      done,
      bytes.length - done,
      position + done,
    );
  }
}
