/**
 * Locks of a disk's blocks, for who changes parts of them: a read-modify-write
 * must be alone on its block, or one of two neighbours would put back what the
 * other has changed. A disk and all its slices have the same ones, whoever
 * writes: views by bytes, and every export of every server.
 *
 * @module
 */

import { RangeLock } from "../backends/range_lock.ts";
import { SECTOR_BYTES } from "../geometry.ts";
import { VirtualDisk } from "./disk.ts";

const locksOfDisks = new WeakMap<object, BlockLocks>();

/** The locks of one disk and its slices. */
export class BlockLocks {
  readonly #lock: RangeLock;
  /** Changes that have not ended. */
  readonly #changes = new Set<Promise<void>>();

  private constructor(blockSize: number) {
    this.#lock = new RangeLock(blockSize);
  }

  /**
   * Gets the locks of a disk.
   *
   * @param disk The disk, or a slice of it.
   * @returns Its locks.
   */
  static of(disk: VirtualDisk): BlockLocks {
    const key = VirtualDisk.identityOf(disk);
    let locks = locksOfDisks.get(key);
    if (locks === undefined) {
      locks = new BlockLocks(disk.blockSize);
      locksOfDisks.set(key, locks);
    }
    return locks;
  }

  /** Whether nothing is being changed, or waits to be. */
  get isFree(): boolean {
    return this.#changes.size === 0;
  }

  /**
   * Does something once nothing earlier holds a block of these bytes, and holds
   * them.
   *
   * @param disk The disk, or the slice, that the bytes are of.
   * @param offset First byte.
   * @param length Bytes.
   * @param work Does it.
   * @returns When it is done.
   */
  async alone(
    disk: VirtualDisk,
    offset: number,
    length: number,
    work: () => Promise<void>,
  ): Promise<void> {
    const start = disk.start * SECTOR_BYTES + offset;
    const release = await new Promise<() => void>((resolve) =>
      this.#lock.claim(start, start + length, resolve)
    );
    try {
      await work();
    } finally {
      release();
    }
  }

  /**
   * The same, of what changes these bytes: it is known to whoever asks whether
   * all is free.
   *
   * @param disk The disk, or the slice, that the bytes are of.
   * @param offset First byte.
   * @param length Bytes.
   * @param work Does it.
   * @returns When it is done.
   */
  async change(
    disk: VirtualDisk,
    offset: number,
    length: number,
    work: () => Promise<void>,
  ): Promise<void> {
    const change = this.alone(disk, offset, length, work);
    this.#changes.add(change);
    try {
      await change;
    } finally {
      this.#changes.delete(change);
    }
  }

  /**
   * Waits for all changes so far, whether they fail or not.
   *
   * @returns When they have ended.
   */
  async settled(): Promise<void> {
    await Promise.allSettled(this.#changes);
  }
}
