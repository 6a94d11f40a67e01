/**
 * Copies a disk that cannot be read everywhere onto another, and notes in a map
 * what was read and what was not, so that the work can go on another day. The
 * order is ddrescue's: what reads well first, in large pieces; then the edges of
 * what failed; then what is between them, block by block; then, if wanted, what
 * is bad once more.
 *
 * Data goes from the source to the target and is never kept. The map says
 * "finished" of bytes only after the target took them, and it is handed out to
 * be saved only after the target was flushed: a map on a disk never promises
 * more than the target has, a power cut included.
 *
 * @module
 */

import { isZero } from "../buffer.ts";
import { VirtualDisk } from "../disk/disk.ts";
import { refuseShared } from "../disk/shared_sectors.ts";
import { Zeroes } from "../disk/sparse.ts";
import { DiskError } from "../errors.ts";
import { SECTOR_BYTES } from "../geometry.ts";
import { isOfMedium } from "../medium_error.ts";
import { plural } from "../plural.ts";
import { type RescueMap, RescueStatus } from "./rescue_map.ts";

/** Bytes of one read where nothing failed yet: 256 KiB. */
const CHUNK_BYTES = 2 ** 18;

/** Reads in flight where nothing failed yet. */
const DEPTH = 4;

/** Milliseconds between two times that the map is to be saved. */
const CHECKPOINT_MS = 20_000;

/** What is not finished, by how much was tried of it. */
const LEAST_TRIED_LAST: readonly RescueStatus[] = [
  RescueStatus.Bad,
  RescueStatus.Unscraped,
  RescueStatus.Untrimmed,
  RescueStatus.Untried,
];

/** Options for {@linkcode rescueDisk}. */
export interface RescueOptions {
  /**
   * How often what is bad is tried once more.
   *
   * @default {0}
   */
  retries?: number | undefined;
  /**
   * Whether the target is known to read as zeroes, as a fresh image does.
   *
   * @default {false}
   */
  targetIsZero?: boolean | undefined;
  /**
   * Saves the map. Called now and then, at the end, and before it throws, each
   * time after the target was flushed.
   *
   * @param map The map as it was when that flush began; it stays as it is.
   * @returns When it is saved.
   */
  save?: ((map: RescueMap) => Promise<void>) | undefined;
  /**
   * Called as work goes on.
   *
   * @param map The map; it changes when the call is over.
   */
  onProgress?: ((map: RescueMap) => void) | undefined;
  /** Stops the work, which then rejects with the signal's reason. */
  signal?: AbortSignal | undefined;
}

/**
 * Copies what can be read of a disk. Where it cannot, the target stays as it
 * was, and the map says so.
 *
 * @example A disk with a bad sector
 * ```ts
 * import { MemoryBackend, VirtualDisk } from "@platter/disk";
 * import { rescueDisk, RescueMap, RescueStatus } from "@platter/disk/image";
 * import { faults, parseFaultRule } from "@platter/disk/testing";
 * import { assertEquals } from "@std/assert";
 *
 * await using source = VirtualDisk.over(
 *   faults(new MemoryBackend({ sectors: 4096 }), [
 *     parseFaultRule("read sector=1000 EIO"),
 *   ]),
 * );
 * await using target = VirtualDisk.memory({ sectors: 4096 });
 * const map = new RescueMap(4096 * 512);
 * await rescueDisk(source, target, map);
 * assertEquals(map.blocks(RescueStatus.Bad), [
 *   { position: 1000 * 512, size: 512, status: "-" },
 * ]);
 * ```
 *
 * @param source Where from.
 * @param target Where to, at least as large.
 * @param map What is known already; it is changed.
 * @param options How.
 * @returns When all was tried.
 * @throws {DiskError} Kind `"range"` if the map is not about the source or the
 * target is too small, `"geometry"` if the source is not whole blocks of the
 * target, `"argument"` if both are the same disk, or slices of one that share
 * sectors, whatever a write failed with, and what a read failed with that is no
 * fault of the medium. If the signal fired, its reason. The map is saved before.
 */
export async function rescueDisk(
  source: VirtualDisk,
  target: VirtualDisk,
  map: RescueMap,
  options: RescueOptions = {},
): Promise<void> {
  const resized = VirtualDisk.resized([source, target], options.signal);
  if (resized !== null) await resized;
  checkRescue(source, target, map);
  const rescue = new Rescue(source, target, map, options);
  try {
    await rescue.run();
  } catch (error) {
    // What was read is worth noting, but the first failure is the answer.
    await rescue.checkpoint().catch(() => {});
    throw error;
  }
}

class Rescue {
  readonly #source: VirtualDisk;
  readonly #target: VirtualDisk;
  readonly #map: RescueMap;
  readonly #options: RescueOptions;
  readonly #zeroes: Zeroes;
  /** Bytes of the smallest piece that both disks take. */
  readonly #block: number;
  readonly #memory: Uint8Array;
  #saved = performance.now();

  constructor(
    source: VirtualDisk,
    target: VirtualDisk,
    map: RescueMap,
    options: RescueOptions,
  ) {
    this.#source = source;
    this.#target = target;
    this.#map = map;
    this.#options = options;
    this.#zeroes = new Zeroes(target, options.signal);
    this.#block = Math.max(source.blockSize, target.blockSize);
    this.#memory = source.allocate(this.#block / SECTOR_BYTES);
  }

  async run(): Promise<void> {
    const map = this.#map;
    this.#alignBlocks();
    map.phase = "?";
    await this.#copy();
    map.phase = "*";
    for (const { position, size } of map.blocks(RescueStatus.Untrimmed)) {
      await this.#trim(position, size);
    }
    map.phase = "/";
    await this.#tryBlocks(RescueStatus.Unscraped);
    map.phase = "-";
    for (let left = this.#options.retries ?? 0; left > 0; left--) {
      // Or so many turns would be taken for nothing, and no signal heard.
      if (map.bytes(RescueStatus.Bad) === 0) break;
      await this.#tryBlocks(RescueStatus.Bad);
    }
    map.phase = "+";
    await this.checkpoint();
  }

  /** Makes the target durable, then has the map saved. */
  async checkpoint(): Promise<void> {
    // What is read while the target is flushed is not durable with it.
    const map = this.#map.clone();
    if (this.#target.info.abilities.flush !== "none") {
      await this.#target.flush();
    }
    await this.#options.save?.(map);
    this.#saved = performance.now();
  }

  /**
   * A map of another program, or of other block sizes, may cut through blocks.
   * What is not finished grows to whole ones; of several in one block counts the
   * one of which least was tried.
   */
  #alignBlocks(): void {
    const block = this.#block;
    // As they were: what has grown would hide others.
    const blocks = this.#map.blocks();
    for (const wanted of LEAST_TRIED_LAST) {
      for (const { position, size, status } of blocks) {
        if (status !== wanted) continue;
        const from = Math.floor(position / block) * block;
        const end = Math.ceil((position + size) / block) * block;
        // Whole blocks are shared with nothing else.
        if (from === position && end === position + size) continue;
        this.#map.set(from, Math.min(end, this.#map.size) - from, status);
      }
    }
  }

  /** Reads what was not tried, some pieces at a time, past what fails. */
  async #copy(): Promise<void> {
    const pieces = piecesOf(this.#map.blocks(RescueStatus.Untried));
    let failure: { error: unknown } | undefined;
    const work = async () => {
      const memory = this.#source.allocate(CHUNK_BYTES / SECTOR_BYTES);
      while (failure === undefined) {
        const next = pieces.next();
        if (next.done) return;
        const { position, size } = next.value;
        try {
          const isRead = await this.#move(position, memory.subarray(0, size));
          this.#note(
            position,
            size,
            isRead
              ? RescueStatus.Finished
              : size === this.#block
              ? RescueStatus.Bad
              : RescueStatus.Untrimmed,
          );
          await this.#checkpointIfDue();
        } catch (error) {
          failure ??= { error };
        }
      }
    };
    await Promise.all(Array.from({ length: DEPTH }, work));
    if (failure !== undefined) throw failure.error;
  }

  /** Finds the edges of what failed, from both ends. */
  async #trim(position: number, size: number): Promise<void> {
    let from = position;
    let end = position + size;
    while (from < end && await this.#tryBlock(from)) from += this.#block;
    if (from < end) from += this.#block;
    while (from < end && await this.#tryBlock(end - this.#block)) {
      end -= this.#block;
    }
    if (from < end) end -= this.#block;
    if (from < end) this.#note(from, end - from, RescueStatus.Unscraped);
  }

  async #tryBlocks(status: RescueStatus): Promise<void> {
    for (const { position, size } of this.#map.blocks(status)) {
      for (let at = position; at < position + size; at += this.#block) {
        await this.#tryBlock(at);
      }
    }
  }

  /** Tries one block and notes what came of it; whether it was read. */
  async #tryBlock(position: number): Promise<boolean> {
    const isRead = await this.#move(position, this.#memory);
    this.#note(
      position,
      this.#block,
      isRead ? RescueStatus.Finished : RescueStatus.Bad,
    );
    await this.#checkpointIfDue();
    return isRead;
  }

  /** Reads a piece and writes it; false if the medium cannot be read there. */
  async #move(position: number, memory: Uint8Array): Promise<boolean> {
    const { signal, targetIsZero } = this.#options;
    signal?.throwIfAborted();
    const options = signal === undefined ? {} : { signal };
    const sector = position / SECTOR_BYTES;
    try {
      await this.#source.readInto(sector, memory, options);
    } catch (error) {
      if (isOfMedium(error)) return false;
      throw error;
    }
    if (!isZero(memory)) await this.#target.write(sector, memory, options);
    else if (!targetIsZero) {
      await this.#zeroes.write(sector, memory.length / SECTOR_BYTES);
    }
    return true;
  }

  #note(position: number, size: number, status: RescueStatus): void {
    this.#map.set(position, size, status);
    this.#map.position = position;
    this.#options.onProgress?.(this.#map);
  }

  async #checkpointIfDue(): Promise<void> {
    const now = performance.now();
    if (now - this.#saved < CHECKPOINT_MS) return;
    this.#saved = now;
    await this.checkpoint();
  }
}

/** Cuts ranges into pieces of one read. */
function* piecesOf(
  ranges: readonly { position: number; size: number }[],
): Generator<{ position: number; size: number }, void> {
  for (const { position, size } of ranges) {
    const end = position + size;
    for (let at = position; at < end;) {
      const next = Math.min(
        end,
        (Math.floor(at / CHUNK_BYTES) + 1) * CHUNK_BYTES,
      );
      yield { position: at, size: next - at };
      at = next;
    }
  }
}

/**
 * Checks whether a disk can be rescued to another one, and reads and writes
 * nothing.
 *
 * @param source Where from.
 * @param target Where to.
 * @param map What is known already.
 * @throws {DiskError} Kind `"range"`, `"geometry"` or `"argument"`, as
 * {@linkcode rescueDisk}.
 */
export function checkRescue(
  source: VirtualDisk,
  target: VirtualDisk,
  map: RescueMap,
): void {
  const bytes = source.sectors * SECTOR_BYTES;
  if (map.size !== bytes) {
    throw new DiskError(
      "range",
      `Cannot rescue as the map must be about the ${
        plural(bytes, "byte")
      } of the source: current value is ${map.size}`,
      { operation: "rescue" },
    );
  }
  if (source.sectors > target.sectors) {
    throw new DiskError(
      "range",
      `Cannot rescue ${plural(source.sectors, "sector")} as the target has ` +
        `only ${target.sectors}`,
      { operation: "rescue" },
    );
  }
  if (bytes % target.blockSize !== 0) {
    throw new DiskError(
      "geometry",
      `Cannot rescue ${plural(source.sectors, "sector")} as the target takes ` +
        `whole blocks of ${target.blockSize} bytes`,
      { operation: "rescue" },
    );
  }
  refuseShared(source, target, "rescue");
}
