/**
 * An overlay that lasts: changes to a base are kept in a file of their own,
 * which lies on any backend. The format is that of `overlay_file/format.ts`.
 *
 * How data moves:
 *
 * | what | where it goes |
 * | --- | --- |
 * | read | the sectors that are changed from the file, the others from the base |
 * | write | the data to its place in the file; then the sectors are marked, in memory |
 * | write zeroes, discard | the same, as a hole in the file where it can have one |
 * | flush | the file is flushed, then marks are written to it, then it is flushed again |
 * | `commit()` | every change to the base, which is flushed; then a new header makes the map empty |
 *
 * What a power cut may leave: a mark is in the file only once the data that it
 * tells of is durable. So a sector that was flushed reads as it was flushed, or
 * as a later write left it; one that was not reads as before, or as a write of
 * it left it. What comes from neither base nor writes is never read. All this as
 * long as the file's medium writes a sector of 512 bytes wholly or not at all.
 *
 * The map is emptied by a number in the header (its epoch), so at once or not at
 * all, whatever it has. Of the header there are two copies, written one after
 * the other.
 *
 * While a commit, a fork or a restore is at work, writes and flushes wait; when
 * the map is emptied, reads as well.
 *
 * @module
 */

import type {
  Abilities,
  Backend,
  BackendCounters,
  Complete,
  Extent,
  Limits,
} from "../backend.ts";
import { DiskError } from "../errors.ts";
import type { BackendInfo } from "../info.ts";
import { flushRequest, type Request, RequestType } from "../request.ts";
import { OVERLAYS_KEEP } from "../resize.ts";
import { settleAll } from "../settle_all.ts";
import { unless } from "../unless.ts";
import { Layer, type LayerOptions, submitUnless } from "./layer.ts";
import { DataPath, PIECE_SECTORS } from "./overlay_file/data_path.ts";
import { OverlayState } from "./overlay_file/format.ts";
import { Gate, Held } from "./overlay_file/gate.ts";
import { HeaderFile, notOverlay } from "./overlay_file/header_file.ts";
import { OverlayMetadata } from "./overlay_file/metadata.ts";
import { StoredData } from "./overlay_file/stored_data.ts";
import { refuseTarget } from "./write_back.ts";

/** How to open a {@linkcode FileOverlay}. */
export interface OverlayFileOptions extends LayerOptions {
  /**
   * Whether writes are refused.
   *
   * @default {false}
   */
  readOnly?: boolean | undefined;
  /**
   * Whether to drop the changes that the file has. It must be an overlay's file
   * all the same.
   *
   * @default {false}
   */
  reset?: boolean | undefined;
  /**
   * Whether to take the base although it was modified since, or cannot be told
   * from one that was: after it was copied, say.
   *
   * @default {false}
   */
  acceptBase?: boolean | undefined;
}

/** Overlays are numbered, so that two of them are always taken in one order. */
let made = 0;

/**
 * Copy-on-write over a backend with the changes in a file; `overlay()` opens one.
 *
 * @example Changes that outlive the program
 * ```ts
 * import { MemoryBackend, VirtualDisk } from "@platter/disk";
 * import { overlay } from "@platter/disk/testing";
 * import { assertEquals } from "@std/assert";
 *
 * const base = new MemoryBackend({ sectors: 2048 });
 * const file = await Deno.makeTempDir() + "/changes.overlay";
 * {
 *   await using disk = VirtualDisk.over(
 *     await overlay(base, { file, ownsBase: false }),
 *   );
 *   await disk.write(8, new Uint8Array(512).fill(1));
 *   await disk.flush();
 * }
 * const changes = await overlay(base, { file });
 * await using disk = VirtualDisk.over(changes);
 * assertEquals((await disk.read(8, 1))[0], 1);
 * assertEquals(await changes.changes(), [{ sector: 8, count: 1, hole: false }]);
 * ```
 */
export class FileOverlay extends Layer {
  /** The backend of the file; the overlay closes it. */
  readonly file: Backend;
  readonly #number = made++;
  readonly #metadata: OverlayMetadata;
  readonly #data: StoredData;
  readonly #readOnly: boolean;
  readonly #openFile: OpenOverlayFile;
  /** What is missing after a restore that failed, which nothing may go by. */
  #missing: DiskError | null = null;
  readonly #gate = new Gate((request, complete) =>
    this.carryOut([request], complete)
  );
  readonly #path: DataPath;

  private constructor(
    base: Backend,
    file: Backend,
    options: OverlayFileOptions,
    headers: HeaderFile,
    openFile: OpenOverlayFile,
  ) {
    super("overlay", base, options);
    this.file = file;
    this.#readOnly = options.readOnly ?? false;
    this.#metadata = new OverlayMetadata(base, file, headers, this.#readOnly);
    this.#data = new StoredData(file, this.#metadata.layout.dataSector);
    this.#path = new DataPath(base, file, this.#metadata, this.#gate);
    this.#openFile = openFile;
  }

  /**
   * Opens an overlay's file, or makes one of a file that is one hole. Use
   * `overlay()`, which opens the backend as well.
   *
   * @param base What is read.
   * @param file The file's backend, which is closed with the overlay; and by
   * the caller if this throws.
   * @param options How to open it.
   * @param openFile Opens the file of a fork.
   * @param isNew Whether the file was made just now.
   * @param signal Gives up.
   * @returns The overlay.
   * @throws {DiskError} If the file is none of an overlay, or not of this base. If
   * the signal fired, its reason.
   */
  static async open(
    base: Backend,
    file: Backend,
    options: OverlayFileOptions,
    openFile: OpenOverlayFile,
    isNew: boolean,
    signal?: AbortSignal,
  ): Promise<FileOverlay> {
    const headers = await HeaderFile.open(file, base, isNew, signal);
    const opened = new FileOverlay(base, file, options, headers, openFile);
    const { readOnly = false, reset = false, acceptBase = false } = options;
    await opened.#metadata.begin({ readOnly, reset, acceptBase, signal });
    return opened;
  }

  /** What it can do. */
  override get abilities(): Abilities {
    const { flush, writeZeroes } = this.file.abilities;
    return {
      readOnly: this.#readOnly,
      flush,
      fua: flush === "none" ? "none" : "emulated",
      // To write zeroes for it would take all the space that it is to give back.
      discard: writeZeroes === "native" ? "native" : "none",
      writeZeroes,
      secureErase: "none",
    };
  }

  /** How large requests may get. */
  override get limits(): Limits {
    const [a, b] = [this.backend.limits, this.file.limits];
    return {
      maxSegments: Math.min(a.maxSegments, b.maxSegments),
      maxBytes: Math.min(a.maxBytes, b.maxBytes),
    };
  }

  /** What base and file counted so far. */
  override get counters(): BackendCounters {
    const [a, b] = [this.backend.counters, this.file.counters];
    return {
      systemCalls: a.systemCalls + b.systemCalls,
      bounced: a.bounced + b.bounced,
      readModifyWrites: a.readModifyWrites + b.readModifyWrites,
    };
  }

  /** Whether anything was changed. */
  get changed(): boolean {
    return !this.#metadata.map.empty;
  }

  /**
   * The path of the base that the file was made for, which is the file's word
   * alone; empty if it has no changes, or the base has no path.
   */
  get basePath(): string {
    return this.#metadata.header.basePath;
  }

  /**
   * What was changed.
   *
   * @param sector First sector.
   * @param count Sectors; the rest of the disk by default.
   * @returns Runs in order; holes are those that read as zeroes and take no
   * space in the file, as far as that can be told.
   * @throws {DiskError} If the map cannot be read.
   */
  async changes(
    sector = 0,
    count: number = this.geometry.sectors - sector,
  ): Promise<Extent[]> {
    const runs: { sector: number; count: number; hole: boolean }[] = [];
    await this.#metadata.map.eachRun(sector, count, (run) => {
      for (const extent of this.#data.extents(run)) {
        const last = runs.at(-1);
        if (
          last !== undefined && last.hole === extent.hole &&
          last.sector + last.count === extent.sector
        ) last.count += extent.count;
        else runs.push({ ...extent });
      }
    });
    return runs;
  }

  /**
   * Drops every change: the base shows through again. A power cut leaves either
   * all of them or none.
   *
   * @returns When that is durable.
   * @throws {DiskError} If it fails, or a commit was begun: then the base has
   * some of the changes.
   */
  discard(): Promise<void> {
    return this.#alone(async () => {
      this.#checkWritable("discard");
      if (this.#metadata.header.state === OverlayState.Committing) {
        throw this.#error(
          "discard",
          "a commit was begun, and the base has some of the changes: commit again",
        );
      }
      await this.#close(Held.All);
      await this.#empty();
      // What is changed from now on is changed of the base as it is now.
      await this.#metadata.lookAtBase();
    });
  }

  /**
   * Writes the changes to a disk and flushes it.
   *
   * To the base, which is the default, the changes move. What is interrupted, by
   * an error or a power cut, is repeated: until the base has all of them and has
   * been flushed, the overlay has them all as well, and reads right. The base
   * alone is neither old nor new then, and the overlay says so: from then on it
   * knows the base by what no change touches, and `discard()` is refused. Forks
   * and other overlays of the base see what is committed, and where they have a
   * file, it is refused the next time, as that of a base that was modified.
   *
   * @param to Where to, if not to the base: the changes are copied then.
   * @param signal Interrupts it; it rejects with the signal's reason.
   * @returns When they are durable there.
   * @throws {DiskError} If the target is read-only, smaller or of larger blocks,
   * or fails.
   */
  commit(to?: Backend, signal?: AbortSignal): Promise<void> {
    const target = to ?? this.backend;
    return this.#alone(async () => {
      signal?.throwIfAborted();
      const refused = refuseTarget(target, this.geometry);
      if (refused !== null) throw refused;
      const moves = target === this.backend;
      if (moves) this.#checkWritable("commit");
      await this.#close(Held.Changes);
      this.#checkWhole("commit");
      if (!this.changed) return;
      if (moves) await unless(signal, this.#metadata.flushOrThrow());
      // As late as can be: from then on the base is not what it was.
      let begun: Promise<void> | undefined;
      const begin = () => begun ??= this.#metadata.beginCommit(signal);
      await this.#metadata.map.eachRun(
        0,
        this.geometry.sectors,
        (run) =>
          this.#data.copy(run, target, 0, signal, moves ? begin : undefined),
        undefined,
        signal,
      );
      if (target.abilities.flush !== "none") {
        const error = await submitUnless(target, flushRequest(), signal);
        if (error !== null) throw error;
      }
      if (!moves) return;
      await this.#metadata.lookAtBase(signal);
      await this.#close(Held.All);
      await this.#empty();
    });
  }

  /**
   * A second overlay with the same base and a copy of the changes in a file of
   * its own, which from here on goes its own way: a snapshot. It leaves the base
   * open, unless it is set to own it.
   *
   * @param file The path of its file, which must not be there yet, or a backend
   * of it, which is one hole.
   * @param options Whether it owns the base.
   * @returns The overlay; the copy is durable.
   * @throws {DiskError} If the file cannot be made, or a copy fails: what is
   * there then reads as the base does. If the program is killed meanwhile, the
   * file is empty, or refused as by {@linkcode FileOverlay.restore}.
   */
  fork(
    file: string | URL | Backend,
    options?: LayerOptions,
  ): Promise<FileOverlay> {
    return this.#alone(async () => {
      await this.#close(Held.Changes);
      this.#checkWhole("fork");
      const fork = await this.#openFile(this.backend, file, {
        ownsBase: false,
        ...options,
      });
      if (fork.changed) {
        await fork.close();
        throw fork.#error("fork", "its file must have no changes yet");
      }
      try {
        await fork.#take(this);
        return fork;
      } catch (error) {
        await fork.#giveUp();
        throw error;
      }
    });
  }

  /**
   * Goes back to what a fork has: the changes are replaced by a copy of those of
   * the fork. If that is interrupted, the file is refused from then on, unless
   * it is opened with `reset: true`, to be restored again.
   *
   * @param fork An overlay with the same base.
   * @returns When that is durable.
   * @throws {DiskError} If it fails; the overlay can be restored again then (once
   * it was opened anew, if its header could not be written), or
   * discarded.
   * @throws {TypeError} If the fork has another base.
   */
  restore(fork: FileOverlay): Promise<void> {
    if (fork.backend !== this.backend) {
      throw new TypeError(
        "Cannot restore an overlay as the fork must have the same base",
      );
    }
    if (fork === this) return Promise.resolve();
    const restore = async () => {
      this.#checkWritable("restore");
      if (this.#metadata.header.state === OverlayState.Committing) {
        throw this.#error(
          "restore",
          "a commit was begun, and the base has some of the changes: commit again",
        );
      }
      await fork.#close(Held.Changes);
      fork.#checkWhole("restore");
      await this.#close(Held.All);
      this.#missing = this.#error(
        "read",
        "a restore failed: restore again, or discard",
      );
      await this.#metadata.empty(OverlayState.Incomplete);
      await this.#take(fork);
      this.#missing = null;
    };
    // Always in one order, so that no two wait for each other.
    return this.#number < fork.#number
      ? this.#alone(() => fork.#alone(restore))
      : fork.#alone(() => this.#alone(restore));
  }

  /**
   * Where data is stored and where holes are. Where the map must be read first,
   * everything counts as data.
   *
   * @param sector First sector.
   * @param count Sectors, within the disk.
   * @returns Extents in order, adjoining; they may end before the range does.
   */
  override extents(sector: number, count: number): Extent[] {
    const end = Math.min(sector + count, sector + PIECE_SECTORS);
    if (!this.#metadata.map.has(sector, end - sector)) {
      return [{ sector, count: end - sector, hole: false }];
    }
    const runEnd = this.#metadata.map.runEnd(sector, end);
    return this.#metadata.map.isChanged(sector)
      ? this.#data.extents({ sector, count: runEnd - sector }, true)
      : super.extents(sector, runEnd - sector);
  }

  /** Why it keeps its size: it leaves its base as it is. */
  override get keepsSize(): string {
    return OVERLAYS_KEEP;
  }

  /**
   * Memory that moves without a copy, to the file at least.
   *
   * @param byteLength Bytes.
   * @returns The memory, zeroed.
   */
  override allocate(byteLength: number): Uint8Array<ArrayBuffer> {
    return this.file.info.direct.active
      ? this.file.allocate(byteLength)
      : super.allocate(byteLength);
  }

  /**
   * Tries to stop a submitted request early, in the file as well.
   *
   * @param request The request.
   */
  override cancel(request: Request): void {
    this.#path.cancel(request);
  }

  /** Called when the disk begins to close. */
  override closing(): void {
    super.closing();
    this.file.closing?.();
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
    if (this.#missing === null) return this.#path.carryOut(batch, complete);
    for (const request of batch) {
      if (request.type === RequestType.GetId) {
        this.#path.carryOut([request], complete);
      } else complete(request, this.#path.wrap(request, this.#missing));
    }
  }

  /**
   * What the layer says of itself.
   *
   * @param info What the backend says of itself.
   * @returns The same, with what the layer changes.
   */
  protected override describe(info: BackendInfo): BackendInfo {
    const { durability, lock, path } = this.file.info;
    const { otherFiles = [] } = info;
    return {
      ...info,
      ...(path === null ? {} : {
        otherFiles: [...otherFiles, {
          role: "overlay",
          ...{ name: path, path },
          format: null,
        }],
      }),
      backend: `overlay in ${
        path === null ? "a file" : `"${path}"`
      } over ${info.backend}`,
      durability,
      lock,
    };
  }

  /**
   * Gives up what the layer holds; everything has been answered. What was not
   * flushed is written down first. The base is closed whatever fails before.
   *
   * @returns When it is done.
   * @throws What failed first.
   */
  protected override async release(): Promise<void> {
    await this.#gate.turn;
    const written = this.#writeDown();
    const closed = after(written, () => this.file.close());
    const released = after(closed, () => super.release());
    await settleAll([written, closed, released]);
  }

  async #writeDown(): Promise<void> {
    if (this.#readOnly || this.#metadata.failure !== null) return;
    if (this.#metadata.map.dirty) await this.#metadata.flushOrThrow();
    await this.#metadata.rememberBase();
  }

  /** Empties the map: nothing is missing in it then. */
  async #empty(): Promise<void> {
    await this.#metadata.empty();
    this.#missing = null;
  }

  /**
   * Takes in the changes of another overlay, durably: until all of them are here
   * the file is refused.
   */
  async #take(from: FileOverlay): Promise<void> {
    if (this.#metadata.header.state !== OverlayState.Incomplete) {
      await this.#metadata.writeHeader({ state: OverlayState.Incomplete });
    }
    this.#metadata.seeAs(from.#metadata);
    await from.#metadata.map.eachRun(
      0,
      this.geometry.sectors,
      (run) =>
        from.#data.copy(run, this.file, this.#metadata.layout.dataSector),
      async ({ sector, count }) => {
        if (this.#metadata.map.crowded) await this.#metadata.flushOrThrow();
        const pages = await this.#metadata.map.hold(sector, count);
        await from.#metadata.map.eachRun(sector, count, (run) => {
          this.#metadata.map.mark(pages, run.sector, run.count);
        });
        this.#metadata.map.release(pages);
      },
    );
    await this.#metadata.flushOrThrow();
    await (this.changed
      ? this.#metadata.bindBase()
      : this.#metadata.writeHeader({ state: OverlayState.Empty }));
  }

  /** Ends a fork that came to nothing. */
  async #giveUp(): Promise<void> {
    try {
      await this.discard();
    } catch {
      // What went wrong before counts.
    }
    await this.close().catch(() => {});
  }

  /** Does something while nothing else of its kind is done. */
  #alone<T>(work: () => Promise<T>): Promise<T> {
    if (this.closed) {
      return Promise.reject(
        new DiskError("closed", "Cannot use an overlay as it is closed", {
          operation: "overlay",
        }),
      );
    }
    return this.#gate.alone(work);
  }

  /** Holds back what comes, and waits until what came before is done. */
  async #close(holds: Held): Promise<void> {
    await this.#gate.close(holds);
    await this.#metadata.flushed;
  }

  /** Throws if a restore failed: there is a part of the fork's changes only. */
  #checkWhole(operation: string): void {
    if (this.#missing === null) return;
    throw this.#error(
      operation,
      "a restore failed: restore again, or discard",
    );
  }

  #checkWritable(operation: string): void {
    if (!this.#readOnly) return;
    throw new DiskError(
      "read-only",
      `Cannot ${operation} the changes of an overlay as it is read-only`,
      { operation, path: this.file.info.path ?? undefined },
    );
  }

  #error(operation: string, reason: string): DiskError {
    return notOverlay(this.file.info.path, reason, operation);
  }
}

/** Does something once something else has ended, well or not. */
async function after(
  before: Promise<void>,
  work: () => Promise<void>,
): Promise<void> {
  await before.catch(() => {});
  await work();
}

/**
 * Opens an overlay's file.
 *
 * @param base What is read.
 * @param file The file.
 * @param options How.
 * @returns The overlay.
 */
export type OpenOverlayFile = (
  base: Backend,
  file: string | URL | Backend,
  options: OverlayFileOptions,
) => Promise<FileOverlay>;
