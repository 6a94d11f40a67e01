/**
 * Copy-on-write over a backend that is only read: writes stay in memory, the
 * base never changes.
 *
 * Making one costs the same whatever the size of the base, and next to nothing:
 * make one for each test, or one for each of a million states after a crash.
 * Several overlays share one base, and {@linkcode Overlay.fork} makes a second
 * one that starts with the changes of the first without copying them.
 *
 * | what | where it goes |
 * | --- | --- |
 * | read | what was changed comes from memory, the rest from the base |
 * | write, write zeroes, discard | memory; the last two leave zeroes |
 * | secure erase | unsupported: the base keeps what it has |
 * | flush | nowhere: a change is as safe as this process until it is committed |
 * | `commit()` | the changes go to the base, which is flushed, and leave memory |
 * | `commit(target)` | the changes go to another disk, and stay |
 * | `discard()` | the changes are dropped |
 *
 * @module
 */

import type { Abilities, Backend, Complete, Extent } from "../backend.ts";
import type { DiskError } from "../errors.ts";
import type { BackendInfo } from "../info.ts";
import {
  flushRequest,
  type Request,
  RequestType,
  writeRequest,
} from "../request.ts";
import { changedError } from "../request_error.ts";
import { OVERLAYS_KEEP } from "../resize.ts";
import { Layer, type LayerOptions, submitAll } from "./layer.ts";
import { coverage, extentsOver, runsOf, SectorStore } from "./sector_store.ts";
import { refuseTarget, writeBack } from "./write_back.ts";

/** How to make an {@linkcode Overlay}. */
export interface OverlayOptions extends LayerOptions {
  /**
   * Whether writes are refused.
   *
   * @default {false}
   */
  readOnly?: boolean | undefined;
}

const ABILITIES: Abilities = {
  readOnly: false,
  flush: "native",
  fua: "native",
  discard: "native",
  writeZeroes: "native",
  secureErase: "none",
};
const READ_ONLY: Abilities = { ...ABILITIES, readOnly: true };

/** Stores that forks share pile up; beyond these they become one. */
const MAX_STORES = 16;

const NO_STORES: readonly SectorStore[] = [];

/**
 * Copy-on-write over a backend; {@linkcode overlay} makes one.
 *
 * @example A disk that forgets
 * ```ts
 * import { MemoryBackend, VirtualDisk } from "@platter/disk";
 * import { overlay } from "@platter/disk/testing";
 * import { assertEquals } from "@std/assert";
 *
 * const base = new MemoryBackend({ sectors: 2048 });
 * const changes = overlay(base);
 * await using disk = VirtualDisk.over(changes);
 * await disk.write(8, new Uint8Array(512).fill(1));
 * assertEquals(changes.changes(), [{ sector: 8, count: 1, hole: false }]);
 * changes.discard();
 * assertEquals((await disk.read(8, 1))[0], 0);
 * ```
 */
export class Overlay extends Layer {
  readonly #readOnly: boolean;
  /**
   * What was changed, the last one on top. The array is never changed itself: a
   * read in flight keeps the one that it started with.
   */
  #stores: readonly SectorStore[] = NO_STORES;
  /** The store on top if it is this overlay's alone. */
  #own: SectorStore | null = null;
  #committing: Promise<void> | null = null;

  /**
   * Constructs a new instance.
   *
   * @param base What is read.
   * @param options Whether it owns the base.
   */
  constructor(base: Backend, options?: OverlayOptions) {
    super("overlay", base, options);
    this.#readOnly = options?.readOnly ?? false;
  }

  /** What it can do, whatever the base can. */
  override get abilities(): Abilities {
    return this.#readOnly ? READ_ONLY : ABILITIES;
  }

  /** Whether anything was changed. */
  get changed(): boolean {
    return this.#stores.some((store) => !store.empty);
  }

  /** Bytes of memory in use for changes, those shared with forks included. */
  get storedBytes(): number {
    return this.#stores.reduce((sum, store) => sum + store.storedBytes, 0);
  }

  /**
   * What was changed.
   *
   * @param sector First sector.
   * @param count Sectors; the rest of the disk by default.
   * @returns Runs in order; holes are those that read as zeroes and take no
   * memory.
   */
  changes(
    sector = 0,
    count: number = this.geometry.sectors - sector,
  ): Extent[] {
    return runsOf(this.#stores, sector, count);
  }

  /**
   * Changes sectors at once, without a request: the quick way to build a state.
   *
   * @param sector First sector.
   * @param data Their bytes: whole blocks, copied.
   * @throws {DiskError} If they are not on the disk, or no whole blocks.
   */
  put(sector: number, data: Uint8Array): void {
    let failed: DiskError | null = null;
    this.submit([writeRequest(sector, data)], (_, error) => failed = error);
    if (failed !== null) throw failed;
  }

  /** Drops every change: the base shows through again. */
  discard(): void {
    this.#stores = NO_STORES;
    this.#own = null;
  }

  /**
   * A second overlay with the same base and the same changes, which from here
   * on goes its own way. It copies nothing: a snapshot. What either of them
   * commits to the base shows through in the other one, as the base is shared:
   * the fork leaves it open, unless it is set to own it.
   *
   * @param options Whether it owns the base.
   * @returns The overlay.
   */
  fork(options?: OverlayOptions): Overlay {
    this.#freeze();
    if (this.#stores.length > MAX_STORES) {
      const one = new SectorStore();
      for (const store of this.#stores) one.merge(store);
      this.#stores = [one];
    }
    const fork = new Overlay(this.backend, { ownsBase: false, ...options });
    fork.#stores = this.#stores;
    return fork;
  }

  /**
   * Goes back to what a fork has. It copies nothing.
   *
   * @param fork An overlay with the same base.
   * @returns When it is done: a commit in progress is waited for.
   * @throws {TypeError} If the fork has another base.
   */
  async restore(fork: Overlay): Promise<void> {
    if (fork.backend !== this.backend) {
      throw new TypeError(
        "Cannot restore an overlay as the fork must have the same base",
      );
    }
    while (this.#committing !== null) await this.#committing;
    fork.#freeze();
    this.#stores = fork.#stores;
    this.#own = null;
  }

  /**
   * Writes the changes to a disk and flushes it. Requests may go on meanwhile;
   * what they change is committed next time.
   *
   * @param target Where to. To the base, which is the default, the changes move
   * and leave memory; to another backend, such as a copy of the base, they are
   * copied.
   * @returns When they are durable there.
   * @throws {DiskError} If the target is read-only, smaller or of larger blocks,
   * or fails; the changes are all kept then.
   */
  async commit(target: Backend = this.backend): Promise<void> {
    while (this.#committing !== null) await this.#committing;
    const commit = this.#commit(target);
    this.#committing = commit.then(() => {}, () => {}).then(() => {
      this.#committing = null;
    });
    await commit;
  }

  /**
   * Where data is stored and where holes are.
   *
   * @param sector First sector.
   * @param count Sectors, within the disk.
   * @returns Extents in order, adjoining; they may end before the range does.
   */
  override extents(sector: number, count: number): Extent[] {
    return extentsOver(
      this.#stores,
      sector,
      count,
      (first, sectors) => super.extents(first, sectors),
    );
  }

  /** Nothing is waited for but the base. */
  protected override get answersLate(): null {
    return null;
  }

  /** Why it keeps its size: it leaves its base as it is. */
  override get keepsSize(): string {
    return OVERLAYS_KEEP;
  }

  /**
   * Carries out requests that have been checked.
   *
   * @param batch The requests; the array is valid during the call only.
   * @param complete Called once for each of them.
   */
  protected override carryOut(
    batch: readonly Request[],
    complete: Complete,
  ): void {
    // What is read from the base goes down as one batch, most often this one.
    let below: Request[] | null = null;
    for (let i = 0; i < batch.length; i++) {
      const request = batch[i]!;
      if (this.#goesBelow(request)) {
        below?.push(request);
        continue;
      }
      below ??= batch.slice(0, i);
      let error: DiskError | null = null;
      switch (request.type) {
        case RequestType.In:
          for (const store of this.#stores) store.patch(request);
          break;
        case RequestType.Out:
          if (!this.#changing().write(request)) error = changedError(request);
          break;
        case RequestType.WriteZeroes:
        case RequestType.Discard:
          this.#changing().zero(request.sector, request.count);
          break;
      }
      complete(request, error);
    }
    if (below !== null && below.length === 0) return;
    const stores = this.#stores;
    if (stores.length === 0) {
      this.backend.submit(below ?? batch, complete);
      return;
    }
    this.backend.submit(below ?? batch, (request, error) => {
      if (error === null && request.type === RequestType.In) {
        for (const store of stores) store.patch(request);
      }
      complete(request, error);
    });
  }

  /**
   * What the layer says of itself.
   *
   * @param info What the backend says of itself.
   * @returns The same, with what the layer changes.
   */
  protected override describe(info: BackendInfo): BackendInfo {
    return {
      ...super.describe(info),
      durability: {
        flush: "memory",
        method: "none",
        deviceCache: "unknown",
        fua: "none",
        reason: "changes are in this process' memory until they are committed",
      },
    };
  }

  /**
   * Gives up what the layer holds; everything has been answered.
   *
   * @returns When it is done.
   */
  protected override async release(): Promise<void> {
    await this.#committing;
    this.discard();
    await super.release();
  }

  #goesBelow(request: Request): boolean {
    return request.type === RequestType.GetId ||
      request.type === RequestType.In &&
        (this.#stores.length === 0 ||
          coverage(this.#stores, request.sector, request.count) !== "all");
  }

  /** The store that takes changes. */
  #changing(): SectorStore {
    if (this.#own === null) {
      this.#own = new SectorStore();
      this.#stores = [...this.#stores, this.#own];
    }
    return this.#own;
  }

  /** Leaves the stores as they are from now on. */
  #freeze(): void {
    if (this.#own?.empty === true) this.#stores = this.#stores.slice(0, -1);
    this.#own = null;
  }

  async #commit(target: Backend): Promise<void> {
    const refused = refuseTarget(target, this.geometry);
    if (refused !== null) throw refused;
    this.#freeze();
    const stores = this.#stores;
    const runs = runsOf(stores, 0, this.geometry.sectors);
    const error = await writeBack(stores, runs, target) ??
      (target.abilities.flush === "none"
        ? null
        : await submitAll(target, [flushRequest()]));
    if (error !== null) throw error;
    if (target === this.backend) {
      this.#stores = this.#stores.filter((store) => !stores.includes(store));
    }
  }
}

/**
 * Makes a disk whose changes stay in memory, over one that is only read.
 *
 * @param base What is read: it must not change meanwhile. Closing the overlay
 * closes it, unless `ownsBase` is false.
 * @param options Whether the overlay owns the base, and more.
 * @returns The overlay.
 *
 * @example Two of a kind
 * ```ts
 * import { MemoryBackend } from "@platter/disk";
 * import { overlay } from "@platter/disk/testing";
 * import { assertEquals } from "@std/assert";
 *
 * const first = overlay(new MemoryBackend({ sectors: 2 ** 31 }));
 * first.put(0, new Uint8Array(512).fill(1));
 * const second = first.fork();
 * second.put(7, new Uint8Array(512).fill(2));
 * assertEquals(first.changes().length, 1);
 * assertEquals(second.changes().length, 2);
 * ```
 */
export function overlay(base: Backend, options?: OverlayOptions): Overlay {
  return new Overlay(base, options);
}
