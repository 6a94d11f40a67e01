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

import { realpathSync } from "node:fs";
import type {
  Abilities,
  Backend,
  BackendCounters,
  Complete,
  Extent,
  Limits,
} from "../backend.ts";
import { isSame } from "../bytes.ts";
import { DiskError } from "../errors.ts";
import { SECTOR_BYTES } from "../geometry.ts";
import type { BackendInfo } from "../info.ts";
import { flushRequest, Request, RequestFlag, RequestType } from "../request.ts";
import { latchedError, requestError } from "../request_error.ts";
import { OVERLAYS_KEEP, resizeError } from "../resize.ts";
import { Layer, type LayerOptions, submitAll } from "./layer.ts";
import {
  type BaseIdentity,
  identityOf,
  keepModified,
} from "./overlay_file/base_identity.ts";
import { ChangeMap, type MapPage } from "./overlay_file/change_map.ts";
import {
  layoutOf,
  type OverlayHeader,
  type OverlayLayout,
  OverlayState,
  PAGE_BITS,
} from "./overlay_file/format.ts";
import { HeaderFile, notOverlay } from "./overlay_file/header_file.ts";
import { sliceRequest } from "./slice_request.ts";
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

/** Sectors that a request may have to be carried out in one go: 496 MiB. */
const PIECE_SECTORS = 32 * PAGE_BITS;

/** Sectors of which the space is given up at once, about: 1 GiB. */
const MOST_GIVEN_UP = 2 ** 21;

/** Sectors that are copied at once: 1 MiB. */
const COPY_SECTORS = 2048;

/** So many of them at a time. */
const PIECES_IN_FLIGHT = 4;

/** What waits while something is at work. */
const Gate = {
  /** Nothing. */
  Open: 0,
  /** What changes the disk, and flushes. */
  Writes: 1,
  /** Everything. */
  All: 2,
} as const;
type Gate = typeof Gate[keyof typeof Gate];

/** One of a user's requests that is carried out in several. */
class Job {
  readonly request: Request;
  readonly complete: Complete;
  left: number;
  error: DiskError | null = null;
  /** Pages to mark when it is done; `null` for a read. */
  readonly pages: readonly MapPage[] | null;

  constructor(
    request: Request,
    complete: Complete,
    left: number,
    pages: readonly MapPage[] | null,
  ) {
    this.request = request;
    this.complete = complete;
    this.left = left;
    this.pages = pages;
  }
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
  readonly #layout: OverlayLayout;
  readonly #map: ChangeMap;
  readonly #readOnly: boolean;
  readonly #openFile: OpenOverlayFile;
  readonly #headers: HeaderFile;
  /** Why nothing is made durable any more. */
  #failure: DiskError | null = null;
  /** What is missing after a restore that failed, which nothing may go by. */
  #missing: DiskError | null = null;
  #flushing: Promise<unknown> = Promise.resolve();
  #nextFlush: Promise<DiskError | null> | null = null;
  #gate: Gate = Gate.Open;
  readonly #held: [Request, Complete][] = [];
  /** Requests at work: all of them, and those that a closed gate holds back. */
  #atWork = 0;
  #changesAtWork = 0;
  #drained: (() => void) | null = null;
  /** The last of what takes turns, and how many have not ended. */
  #turn: Promise<unknown> = Promise.resolve();
  #turns = 0;

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
    this.#layout = layoutOf(base.geometry.sectors);
    this.#map = new ChangeMap(file, base.geometry.sectors, this.#layout);
    this.#headers = headers;
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
   * @returns The overlay.
   * @throws {DiskError} If the file is none of an overlay, or not of this base.
   */
  static async open(
    base: Backend,
    file: Backend,
    options: OverlayFileOptions,
    openFile: OpenOverlayFile,
    isNew: boolean,
  ): Promise<FileOverlay> {
    const headers = await HeaderFile.open(file, base, isNew);
    const opened = new FileOverlay(base, file, options, headers, openFile);
    await opened.#begin(options);
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
    return !this.#map.empty;
  }

  /**
   * The path of the base that the file was made for, which is the file's word
   * alone; empty if it has no changes, or the base has no path.
   */
  get basePath(): string {
    return this.#headers.header.basePath;
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
    await this.#eachRun(sector, count, (run) => {
      for (const extent of this.#stored(run.sector, run.count)) {
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
      if (this.#headers.header.state === OverlayState.Committing) {
        throw this.#error(
          "discard",
          "a commit was begun, and the base has some of the changes: commit again",
        );
      }
      await this.#close(Gate.All);
      await this.#empty();
    });
  }

  /**
   * Writes the changes to a disk and flushes it.
   *
   * To the base, which is the default, the changes move. What is interrupted, by
   * an error or a power cut, is repeated: until the base has all of them and has
   * been flushed, the overlay has them all as well, and reads right. The base
   * alone is neither old nor new then, and the overlay says so: from then on it
   * takes a base that was modified, and `discard()` is refused.
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
      await this.#close(Gate.Writes);
      if (!this.changed) return;
      if (moves) {
        await this.#flushOrThrow();
        if (this.#headers.header.state !== OverlayState.Committing) {
          await this.#writeHeader({ state: OverlayState.Committing });
        }
      }
      await this.#eachRun(0, this.geometry.sectors, async (run) => {
        await this.#copyRun(run, target, 0, signal);
      });
      if (target.abilities.flush !== "none") {
        const error = await submitAll(target, [flushRequest()]);
        if (error !== null) throw error;
      }
      if (!moves) return;
      await this.#close(Gate.All);
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
   * there then reads as the base does.
   */
  fork(
    file: string | URL | Backend,
    options?: LayerOptions,
  ): Promise<FileOverlay> {
    return this.#alone(async () => {
      await this.#close(Gate.Writes);
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
   * @throws {DiskError} If it fails; the overlay can be restored again then, or
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
      if (this.#headers.header.state === OverlayState.Committing) {
        throw this.#error(
          "restore",
          "a commit was begun, and the base has some of the changes: commit again",
        );
      }
      await fork.#close(Gate.Writes);
      await this.#close(Gate.All);
      this.#missing = this.#error(
        "read",
        "a restore failed: restore again, or discard",
      );
      await this.#empty(OverlayState.Restoring);
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
    if (!this.#map.has(sector, end - sector)) {
      return [{ sector, count: end - sector, hole: false }];
    }
    const runEnd = this.#map.runEnd(sector, end);
    return this.#map.isChanged(sector)
      ? this.#stored(sector, runEnd - sector, true)
      : super.extents(sector, runEnd - sector);
  }

  /**
   * An overlay has the size of its base, which it leaves as it is.
   *
   * @returns Never.
   * @throws {DiskError} Always, of kind `unsupported`.
   */
  override resize(): Promise<void> {
    return Promise.reject(resizeError(OVERLAYS_KEEP, this.backend.info.path));
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
    let below: Request[] | null = null;
    let toFile: Request[] | null = null;
    for (let i = 0; i < batch.length; i++) {
      const request = batch[i]!;
      const changes = request.writes || request.type === RequestType.Flush;
      if (this.#missing !== null && request.type !== RequestType.GetId) {
        complete(request, this.#wrap(request, this.#missing));
        continue;
      }
      if (
        this.#gate === Gate.All || this.#gate === Gate.Writes && changes
      ) {
        this.#held.push([request, complete]);
        continue;
      }
      this.#atWork++;
      if (changes) this.#changesAtWork++;
      const { type, sector, count } = request;
      switch (type) {
        case RequestType.GetId:
          (below ??= []).push(request);
          continue;
        case RequestType.Flush:
          void this.#flush().then((error) =>
            this.#done(request, this.#latched(request, error), complete)
          );
          continue;
      }
      if (
        count > PIECE_SECTORS || !this.#map.has(sector, count) ||
        changes && this.#map.crowded
      ) {
        void this.#inPieces(request, complete);
        continue;
      }
      if (type === RequestType.In) {
        const end = sector + count;
        if (this.#map.runEnd(sector, end) === end) {
          if (!this.#map.isChanged(sector)) {
            (below ??= []).push(request);
            continue;
          }
          const translated = this.#translate(request);
          translated.owner = new Job(request, complete, 1, null);
          (toFile ??= []).push(translated);
        } else this.#readMixed(request, complete);
        continue;
      }
      const pages = this.#map.take(sector, count);
      const translated = this.#translate(request);
      translated.owner = new Job(request, complete, 1, pages);
      (toFile ??= []).push(translated);
    }
    if (below !== null) {
      this.backend.submit(
        below,
        (request, error) => this.#done(request, error, complete),
      );
    }
    if (toFile !== null) this.file.submit(toFile, this.#fileDone);
  }

  /**
   * What the layer says of itself.
   *
   * @param info What the backend says of itself.
   * @returns The same, with what the layer changes.
   */
  protected override describe(info: BackendInfo): BackendInfo {
    const { durability, lock, path } = this.file.info;
    return {
      ...info,
      backend: `overlay in ${
        path === null ? "a file" : `"${path}"`
      } over ${info.backend}`,
      durability,
      lock,
    };
  }

  /**
   * Gives up what the layer holds; everything has been answered. What was not
   * flushed is written down first.
   *
   * @returns When it is done.
   */
  protected override async release(): Promise<void> {
    await this.#turn;
    let error: DiskError | null = null;
    if (!this.#readOnly && this.#failure === null && this.#map.dirty) {
      error = await this.#flush();
    }
    await this.file.close();
    await super.release();
    if (error !== null) throw error;
  }

  /** Opens what was read, or writes the first header. */
  async #begin(options: OverlayFileOptions): Promise<void> {
    const { epoch, state } = this.#headers.header;
    const committing = state === OverlayState.Committing;
    if (options.reset && (this.#readOnly || committing)) {
      throw this.#error(
        "reset",
        committing
          ? "a commit was begun, and the base has some of the changes: commit again"
          : "it is read-only",
      );
    }
    const { isNew } = this.#headers;
    if (isNew && this.#readOnly) throw this.#error("open", "it has no header");
    if (options.reset || isNew) return await this.#empty();
    if (state === OverlayState.Restoring) {
      throw this.#error(
        "open",
        "a restore was interrupted: with reset: true it begins anew",
      );
    }
    if (state === OverlayState.Empty) this.#map.reset(epoch);
    else await this.#map.resume(epoch);
    if (state === OverlayState.Changed) await this.#checkBase(options);
    // The copies differ after a power cut between the two.
    if (!this.#readOnly && this.#headers.differ) await this.#writeHeader({});
  }

  /** Throws if the base is another one than that of the changes, or has changed. */
  async #checkBase(options: OverlayFileOptions): Promise<void> {
    const { digest, modified } = await identityOf(this.backend);
    const same = isSame(digest, this.#headers.header.digest);
    // One of both may be no file.
    const known = modified !== 0n && this.#headers.header.modified !== 0n;
    if (same && (!known || modified === this.#headers.header.modified)) return;
    if (options.acceptBase) {
      return this.#readOnly ? undefined : this.#bindBase();
    }
    throw this.#error(
      "open",
      `its changes are to a base as it was, and the base was modified since${
        same
          ? ", or copied: samples of its content are the same"
          : " or is another one"
      }: acceptBase: true takes it all the same`,
    );
  }

  /** Carries out a request whose pages are not at hand, or are many. */
  async #inPieces(request: Request, complete: Complete): Promise<void> {
    let error: DiskError | null = null;
    const isWhole = request.count <= PIECE_SECTORS;
    for (let done = 0; done < request.count && error === null;) {
      const count = Math.min(PIECE_SECTORS, request.count - done);
      error = await this.#piece(
        isWhole ? request : sliceRequest(request, done, count),
      );
      done += count;
    }
    if (error !== null && !isWhole) {
      const { kind, code, errno, message } = error;
      const path = this.backend.info.path;
      error = requestError(kind, request, `a part of it failed: ${message}`, {
        path,
        code,
        errno,
        cause: error,
      });
    }
    this.#done(request, error, complete);
  }

  async #piece(request: Request): Promise<DiskError | null> {
    const { type, sector, count } = request;
    if (request.writes && this.#map.crowded) {
      const error = await this.#flush();
      if (error !== null) return this.#wrap(request, error);
    }
    let pages: MapPage[];
    try {
      pages = await this.#map.hold(sector, count);
    } catch (error) {
      if (!(error instanceof DiskError)) throw error;
      return this.#wrap(request, error);
    }
    const { promise, resolve } = Promise.withResolvers<DiskError | null>();
    const answer: Complete = (_, error) => resolve(error);
    // Counted once, by the request that this is a part of.
    this.#atWork++;
    if (request.writes) this.#changesAtWork++;
    if (type === RequestType.In) {
      this.#readMixed(request, answer);
      this.#map.release(pages);
    } else {
      const translated = this.#translate(request);
      translated.owner = new Job(request, answer, 1, pages);
      this.file.submit([translated], this.#fileDone);
    }
    return await promise;
  }

  /** Reads run by run, from the file and from the base. */
  #readMixed(request: Request, complete: Complete): void {
    const { sector, count } = request;
    const below: Request[] = [];
    const toFile: Request[] = [];
    for (let at = sector; at < sector + count;) {
      const end = this.#map.runEnd(at, sector + count);
      const part = sliceRequest(request, at - sector, end - at);
      if (this.#map.isChanged(at)) toFile.push(this.#translate(part));
      else below.push(part);
      at = end;
    }
    const job = new Job(request, complete, below.length + toFile.length, null);
    for (const part of [...below, ...toFile]) part.owner = job;
    if (below.length > 0) this.backend.submit(below, this.#baseDone);
    if (toFile.length > 0) this.file.submit(toFile, this.#fileDone);
  }

  /** A request as one to the file; both kinds of zeroes become holes there. */
  #translate(request: Request): Request {
    const { type, sector, count, data, more } = request;
    const at = this.#layout.dataSector + sector;
    const zeroes = type === RequestType.WriteZeroes ||
      type === RequestType.Discard;
    const durable = request.fua && request.writes &&
      this.file.abilities.fua !== "none" && this.#isSettled(sector, count);
    const flags = (zeroes ? RequestFlag.Unmap : 0) |
      (durable ? RequestFlag.Fua : 0);
    return new Request(
      zeroes ? RequestType.WriteZeroes : type,
      at,
      count,
      flags,
      data,
      more,
    );
  }

  /** Whether sectors are changed, and the file's map says so. */
  #isSettled(sector: number, count: number): boolean {
    return this.#map.isSettled(sector, count) && this.#map.isChanged(sector) &&
      this.#map.runEnd(sector, sector + count) === sector + count;
  }

  readonly #baseDone: Complete = (part, error) => {
    const job = part.owner as Job;
    part.owner = null;
    job.error ??= error;
    if (--job.left === 0) this.#done(job.request, job.error, job.complete);
  };

  readonly #fileDone: Complete = (part, error) => {
    const job = part.owner as Job;
    part.owner = null;
    const { request, complete, pages } = job;
    job.error ??= error === null ? null : this.#wrap(request, error);
    if (--job.left > 0) return;
    if (pages === null) return this.#done(request, job.error, complete);
    const settled = part.fua;
    if (job.error === null) {
      this.#map.mark(pages, request.sector, request.count);
    }
    this.#map.release(pages);
    if (job.error !== null && settled && request.fua) {
      // Whether anything is durable is not known any more.
      this.#failure ??= job.error;
    }
    if (job.error !== null || !request.fua || settled) {
      return this.#done(request, job.error, complete);
    }
    void this.#flush().then((failed) =>
      this.#done(
        request,
        failed === null ? null : this.#latched(request, failed),
        complete,
      )
    );
  };

  #done(request: Request, error: DiskError | null, complete: Complete): void {
    this.#atWork--;
    if (request.writes || request.type === RequestType.Flush) {
      this.#changesAtWork--;
    }
    try {
      complete(request, error);
    } finally {
      this.#drained?.();
    }
  }

  /** What failed in the file, as the failure of a request. */
  #wrap(request: Request, error: DiskError): DiskError {
    const { kind, code, errno, message } = error;
    return requestError(kind, request, `its overlay says: ${message}`, {
      path: this.backend.info.path,
      code,
      errno,
      cause: error,
    });
  }

  /** The error of a flush, for one of those who share it. */
  #latched(request: Request, error: DiskError | null): DiskError | null {
    if (error === null) return null;
    return error.kind === "latched"
      ? latchedError(request, this.#failure!, this.backend.info.path)
      : this.#wrap(request, error);
  }

  /** Makes durable what was done when it begins; calls before that share it. */
  #flush(): Promise<DiskError | null> {
    return this.#nextFlush ??= this.#flushAfter(this.#flushing);
  }

  async #flushAfter(before: Promise<unknown>): Promise<DiskError | null> {
    await before;
    // From here on, whoever flushes needs the next one.
    const flush = this.#flushNow();
    this.#flushing = flush;
    this.#nextFlush = null;
    return await flush;
  }

  async #flushNow(): Promise<DiskError | null> {
    if (this.#readOnly) return null;
    if (this.#failure !== null) {
      return latchedError(flushRequest(), this.#failure, this.file.info.path);
    }
    // As it is before the flush: what is marked later may not be durable then.
    const marks = this.#map.snapshot();
    try {
      await this.#flushFile();
      if (marks.count === 0) return null;
      const { state } = this.#headers.header;
      if (state === OverlayState.Empty) await this.#bindBase();
      const error = await marks.write();
      if (error !== null) throw error;
      await this.#flushFile();
      marks.settle();
      return null;
    } catch (error) {
      if (!(error instanceof DiskError)) throw error;
      return this.#failure = error;
    }
  }

  async #flushFile(): Promise<void> {
    if (this.file.abilities.flush === "none") return;
    const error = await submitAll(this.file, [flushRequest()]);
    // What the system kept of the data is not known any more: no second try.
    if (error !== null) throw this.#failure = error;
  }

  async #flushOrThrow(): Promise<void> {
    const error = await this.#flush();
    if (error !== null) throw error;
  }

  /** Writes what changes in the header, durably. */
  #writeHeader(changes: Partial<OverlayHeader>): Promise<void> {
    return this.#headers.write(changes, () => this.#flushFile());
  }

  /** Remembers of which base there are changes, before the first one is durable. */
  async #bindBase(): Promise<void> {
    await keepModified(this.backend);
    const identity: BaseIdentity = await identityOf(this.backend);
    await this.#writeHeader({
      ...identity,
      state: OverlayState.Changed,
      basePath: basePathOf(this.backend),
    });
  }

  /** Empties the map, at once, and gives up the space of what it had. */
  async #empty(state: OverlayState = OverlayState.Empty): Promise<void> {
    const epoch = this.#headers.header.epoch + 1;
    const parts: { sector: number; count: number }[] = [];
    for (const part of this.#map.parts(0, this.geometry.sectors)) {
      const last = parts.at(-1);
      const joins = last !== undefined &&
        last.sector + last.count === part.sector &&
        last.count < MOST_GIVEN_UP;
      if (joins) last.count += part.count;
      else parts.push(part);
    }
    try {
      await this.#writeHeader({
        epoch,
        state,
        modified: 0n,
        digest: new Uint8Array(32),
        basePath: "",
      });
    } catch (error) {
      // Whether the file is empty now is not known.
      if (error instanceof DiskError) this.#failure ??= error;
      throw error;
    }
    this.#map.reset(epoch);
    if (state === OverlayState.Empty) this.#missing = null;
    const { discard } = this.file.abilities;
    if (discard !== "native") return;
    for (const { sector, count } of parts) {
      // Space that stays taken is overwritten one day.
      await submitAll(this.file, [
        new Request(
          RequestType.Discard,
          this.#layout.dataSector + sector,
          count,
        ),
      ]);
    }
  }

  /** Takes in the changes of another overlay, durably. */
  async #take(from: FileOverlay): Promise<void> {
    await from.#eachRun(
      0,
      this.geometry.sectors,
      (run) => from.#copyRun(run, this.file, this.#layout.dataSector),
      async ({ sector, count }) => {
        if (this.#map.crowded) await this.#flushOrThrow();
        const pages = await this.#map.hold(sector, count);
        await from.#eachRun(sector, count, (run) => {
          this.#map.mark(pages, run.sector, run.count);
        });
        this.#map.release(pages);
      },
    );
    await this.#flushOrThrow();
    if (this.#headers.header.state !== OverlayState.Restoring) return;
    await (this.changed
      ? this.#bindBase()
      : this.#writeHeader({ state: OverlayState.Empty }));
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

  /** Copies a run of changed sectors, a few pieces at once. */
  async #copyRun(
    run: { sector: number; count: number },
    target: Backend,
    shift: number,
    signal?: AbortSignal,
  ): Promise<void> {
    const pieces = [...piecesOf(this.#stored(run.sector, run.count))];
    for (let i = 0; i < pieces.length; i += PIECES_IN_FLIGHT) {
      signal?.throwIfAborted();
      const errors = await Promise.all(
        pieces.slice(i, i + PIECES_IN_FLIGHT).map((piece) =>
          this.#copyPiece(piece, target, shift)
        ),
      );
      for (const error of errors) if (error !== null) throw error;
    }
  }

  async #copyPiece(
    { sector, count, hole }: Extent,
    target: Backend,
    shift: number,
  ): Promise<DiskError | null> {
    const to = sector + shift;
    if (hole && target.abilities.writeZeroes !== "none") {
      const { Unmap } = RequestFlag;
      return await submitAll(target, [
        new Request(RequestType.WriteZeroes, to, count, Unmap),
      ]);
    }
    const data = target.allocate(count * SECTOR_BYTES);
    const from = this.#layout.dataSector + sector;
    return await submitAll(this.file, [
      new Request(RequestType.In, from, count, 0, data),
    ]) ?? await submitAll(target, [
      new Request(RequestType.Out, to, count, 0, data),
    ]);
  }

  /** Visits the runs of changed sectors in a range, and each page of them after. */
  async #eachRun(
    sector: number,
    count: number,
    visit: (run: { sector: number; count: number }) => Promise<void> | void,
    after?: (part: { sector: number; count: number }) => Promise<void>,
  ): Promise<void> {
    for (const part of this.#map.parts(sector, count)) {
      const pages = await this.#map.hold(part.sector, part.count);
      try {
        const end = part.sector + part.count;
        for (let at = part.sector; at < end;) {
          const runEnd = this.#map.runEnd(at, end);
          if (this.#map.isChanged(at)) {
            await visit({ sector: at, count: runEnd - at });
          }
          at = runEnd;
        }
        await after?.(part);
      } finally {
        this.#map.release(pages);
      }
    }
  }

  /** Data and holes among changed sectors, as the file has them. */
  #stored(sector: number, count: number, first = false): Extent[] {
    const { dataSector } = this.#layout;
    const found: Extent[] = [];
    for (let at = sector; at < sector + count;) {
      const rest = sector + count - at;
      const extents = this.file.extents?.(dataSector + at, rest) ?? [];
      for (const extent of extents) {
        found.push({ ...extent, sector: extent.sector - dataSector });
      }
      const last = extents.at(-1);
      const next = last === undefined
        ? at
        : last.sector + last.count - dataSector;
      if (next <= at) {
        found.push({ sector: at, count: rest, hole: false });
        break;
      }
      at = next;
      if (first) break;
    }
    return found;
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
    const take = async () => {
      try {
        return await work();
      } finally {
        this.#turns--;
        this.#open();
      }
    };
    // At once if it can be: it keeps its place among requests then.
    const turn = this.#turns++ === 0 ? take() : this.#turn.then(take);
    this.#turn = turn.catch(() => {});
    return turn;
  }

  /** Holds back what comes, and waits until what came before is done. */
  async #close(gate: Gate): Promise<void> {
    this.#gate = gate;
    const left = () => gate === Gate.All ? this.#atWork : this.#changesAtWork;
    while (left() > 0) {
      await new Promise<void>((resolve) => this.#drained = resolve);
    }
    this.#drained = null;
    await this.#flushing;
  }

  /** Lets everything go on. */
  #open(): void {
    this.#gate = Gate.Open;
    const held = this.#held.splice(0);
    for (const [request, complete] of held) this.carryOut([request], complete);
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

/** The path of a base from wherever one is; empty if it is no file or device. */
function basePathOf({ info: { path } }: Backend): string {
  if (path === null) return "";
  try {
    return realpathSync(path);
  } catch {
    // It is behind an NBD server, or what leads to it may not be read.
    return "";
  }
}

function* piecesOf(extents: readonly Extent[]): Generator<Extent, void> {
  for (const { sector, count, hole } of extents) {
    const most = hole ? count : COPY_SECTORS;
    for (let done = 0; done < count; done += most) {
      yield {
        sector: sector + done,
        count: Math.min(most, count - done),
        hole,
      };
    }
  }
}
