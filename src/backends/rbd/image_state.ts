/**
 * What is known of an open image while others may change it: how large it is,
 * whether it is ours still, and whether it is there at all. It is looked at once a
 * second, and where a flush ends.
 *
 * @module
 */

import {
  clearInterval,
  clearTimeout,
  setInterval,
  setTimeout,
} from "node:timers";
import type { ImageLook } from "../../../ffi/rados.ts";
import { MAX_INT, RBD_FEATURE } from "../../../ffi/rbd.ts";
import type { Extent } from "../../backend.ts";
import type { DiskError } from "../../errors.ts";
import { type Geometry, makeGeometry, SECTOR_BYTES } from "../../geometry.ts";
import type { BackendInfo, LockInfo } from "../../info.ts";
import { isNotCapable } from "../../platform/permissions.ts";
import type { Request } from "../../request.ts";
import { cutError, requestError } from "../../request_error.ts";
import { resizeError } from "../../resize.ts";
import { codeOf, failedError, librarySays, NO_FFI } from "./errors.ts";
import type { ObjectMap } from "./object_map.ts";
import { over, type Session } from "./session.ts";

/** How often the image's size and lock are looked at, in ms. */
const SIZE_MS = 1000;

/** What librbd answers once others may write to the image, or have removed it. */
const LOST = ["ESHUTDOWN", "EROFS", "ENOENT"];

/** What the completion of a refresh is known by, which is no piece. */
export const REFRESH = MAX_INT;

/** What the state of an image is made of. */
export interface ImageParts {
  /** The image. */
  readonly session: Session;
  /** Its shape. */
  readonly geometry: Geometry;
  /** What it is and why. */
  readonly info: BackendInfo;
  /** What it is called. */
  readonly uri: string;
  /** Whether its size cannot change. */
  readonly isFixed: boolean;
  /** Which objects there are; `null` if that is not known. */
  readonly objectMap: ObjectMap | null;
  /** Looks whether the image is there; `null` if that cannot be asked. */
  readonly look:
    | Pick<ImageLook, "begin" | "poll" | "cancel" | "release">
    | null;
  /** The longest that a change of its size may take, in ms, for each step. */
  readonly openTimeoutMs: number;
}

/**
 * Whose an image is, which only ever gets worse: ours; lost, as others may write
 * where it has holes; gone, with the −errno that says so, where librbd does not.
 */
type Standing = "ours" | "lost" | { readonly gone: number };

/** The state of an image. */
export class ImageState {
  readonly #parts: ImageParts;
  readonly #session: Session;
  readonly #uri: string;
  #standing: Standing = "ours";
  #info: BackendInfo;
  #geometry: Geometry;
  #timer: ReturnType<typeof setInterval> | null = null;
  /** Whether nothing is looked at any more, as the image is being closed. */
  #isStopped = false;
  /** Whether librbd is to learn of changes first. */
  #refreshing = false;
  /** Something that is asked of the image on another thread. */
  #asking: Promise<void> | null = null;
  /** A flush whose content is looked for. */
  #confirming: Promise<unknown> | null = null;
  /** Where what was written since the last flush began ends, in bytes. */
  #reach = 0;
  /** Where what that flush is to make durable ends. */
  #flushReach = 0;
  /** Whether others have cut off something that no flush has covered. */
  #isCut = false;
  /** Who is to hear that others have changed the size. */
  #resized: (sectors: number) => void = () => {};

  /**
   * Constructs a new instance; nothing is looked at before it is told to begin.
   *
   * @param parts What it is made of; it releases `look`.
   */
  constructor(parts: ImageParts) {
    this.#parts = parts;
    this.#session = parts.session;
    this.#uri = parts.uri;
    this.#info = parts.info;
    this.#geometry = parts.geometry;
  }

  /** What it is and why; the lock may get lost. */
  get info(): BackendInfo {
    return this.#info;
  }

  /** Its shape, which others may change. */
  get geometry(): Geometry {
    return this.#geometry;
  }

  /** Where objects are, if that is known: else everything counts as data. */
  extents(sector: number, count: number): Extent[] {
    const { objectMap } = this.#parts;
    return this.#standing !== "ours" || objectMap === null
      ? [{ sector, count, hole: false }]
      : objectMap.extents(sector, count);
  }

  /** Has somebody hear when others have changed the size. */
  onResized(listener: (sectors: number) => void): void {
    this.#resized = listener;
  }

  /** Why a request cannot be carried out by an image that is gone, if it is. */
  refuse(request: Request): DiskError | null {
    return typeof this.#standing === "string"
      ? null
      : failedError(request, this.#standing.gone, this.#uri);
  }

  /** Hears that sectors are to be written. */
  touch(request: Request): void {
    this.#parts.objectMap?.touch(request.sector, request.count);
  }

  /** Hears that something was written that ends there, in bytes. */
  wrote(end: number): void {
    this.#reach = Math.max(this.#reach, end);
  }

  /** Hears that a flush begins, of all that was written by now. */
  flushBegins(): void {
    this.#flushReach = this.#reach;
    this.#reach = 0;
  }

  /**
   * Ends a flush once it is sure that the image still has what it covers.
   *
   * @param request What the flush is for.
   * @returns Why it failed all the same, if it has; maybe once that is known.
   */
  flushEnds(
    request: Request,
  ): DiskError | null | Promise<DiskError | null> {
    if (this.#isCut) return cutError(request, this.#uri);
    if (this.#flushReach === 0) return null;
    const confirming = this.#confirm(request);
    this.#confirming = confirming;
    return confirming;
  }

  /** Hears that librbd has failed something. */
  failed(result: number): void {
    if (LOST.includes(codeOf(result))) this.#lost(librarySays(result));
  }

  /** Begins to look at it. */
  begin(): void {
    this.#timer = setInterval(this.#lookAtSize, SIZE_MS);
    this.#timer.unref();
  }

  /** Hears that librbd has learned what has changed, if it has. */
  refreshed(result: number): void {
    this.#refreshing = false;
    if (result < 0) this.#lost(librarySays(result));
    if (
      this.#parts.isFixed || this.#asking !== null || this.#isStopped
    ) return;
    this.#ask(async () => {
      if (await this.#readSize()) this.#resized(this.#geometry.sectors);
      await this.#lookAtLock();
    }).catch(() => {});
  }

  /**
   * Changes the size of the image. librbd waits for every write that is in flight
   * first, and that may be for ever.
   *
   * @param sectors Its new size, in sectors.
   * @throws {DiskError} If it does not get that size, or not in time.
   */
  async resize(sectors: number): Promise<void> {
    const { openTimeoutMs } = this.#parts;
    const late = Promise.withResolvers<never>();
    let isLate = false;
    const timer = setTimeout(() => {
      isLate = true;
      const reason =
        `the cluster has not answered for ${openTimeoutMs} ms, and may do it later`;
      late.reject(resizeError(reason, this.#uri, "io"));
    }, openTimeoutMs);
    try {
      const resizing = this.#resizeImage(sectors, () => isLate);
      await Promise.race([resizing, late.promise]);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Looks at nothing any more. */
  stop(): void {
    this.#isStopped = true;
    if (this.#timer !== null) clearInterval(this.#timer);
  }

  /** Waits until nothing is asked of the image any more; it is stopped. */
  async close(): Promise<void> {
    await this.#asking;
    const { look } = this.#parts;
    if (look !== null) {
      // The cluster may never answer; what closes the image has a bound.
      look.cancel();
      await over(look, true);
      look.release();
    }
    // Last: a flush that nobody waits for any more may have ended meanwhile.
    await this.#confirming;
  }

  async #resizeImage(sectors: number, isLate: () => boolean): Promise<void> {
    await this.#asking;
    await this.#ask(async () => {
      let result: number;
      try {
        result = await this.#session.image.resize(sectors * SECTOR_BYTES);
      } catch (cause) {
        if (!isNotCapable(cause)) throw cause;
        throw resizeError(NO_FFI, this.#uri, "permission");
      }
      // What lies beyond was given up on purpose: no flush is to miss it.
      if (result >= 0) this.#forgetBeyond(sectors * SECTOR_BYTES);
      const isNews = await this.#readSize();
      // Nobody waits for this size any more, or it is not the one asked for.
      if (isNews && (isLate() || result < 0)) {
        this.#resized(this.#geometry.sectors);
      }
      if (result < 0) throw resizeError(librarySays(result), this.#uri, "io");
    });
  }

  /**
   * Of a write that goes past the image's end librbd carries out what lies before
   * it, and says that all is well: so whoever was to be told that it is durable
   * learns that others have cut it off. One look is enough for all writes before
   * it; each of them to look for itself would take a thread for each.
   */
  async #confirm(request: Request): Promise<DiskError | null> {
    try {
      const size = await this.#session.image.size();
      if (size < 0) return failedError(request, size, this.#uri);
      return size < this.#flushReach ? cutError(request, this.#uri) : null;
    } catch (cause) {
      const reason = "the image cannot be asked for its size";
      return requestError("io", request, reason, { path: this.#uri, cause });
    }
  }

  #forgetBeyond(bytes: number): void {
    this.#reach = Math.min(this.#reach, bytes);
    this.#flushReach = Math.min(this.#flushReach, bytes);
  }

  // No thread waits for a cluster that does not answer, nor the program for that
  // thread: librbd knows the size by the time that it is asked for.
  readonly #lookAtSize = (): void => {
    this.#lookForIt();
    if (this.#refreshing) return;
    this.#refreshing = this.#session.image.refresh(REFRESH) >= 0;
  };

  /**
   * Looks for the image or its snapshot: a client that was shut out learns it from
   * what it asks the cluster alone, and one without a watch that its snapshot or
   * image was removed.
   */
  #lookForIt(): void {
    const { look } = this.#parts;
    const result = look?.poll() ?? null;
    if (look === null || result === null) return;
    if (result < 0 && LOST.includes(codeOf(result))) {
      this.#lost(librarySays(result));
      // What was removed reads as zeroes.
      this.#standing = { gone: result };
    }
    look.begin();
  }

  /** `rbd feature disable` takes the lock away, from whoever holds it. */
  async #lookAtLock(): Promise<void> {
    if (!this.#isLocked) return;
    const features = await this.#session.image.features();
    if (features >= 0 && (features & RBD_FEATURE.EXCLUSIVE_LOCK) === 0) {
      this.#lost("others have taken the feature exclusive-lock off the image");
    }
  }

  get #isLocked(): boolean {
    return this.#info.lock.method === "exclusive-lock";
  }

  /** Hears that the image is not ours any more: others may write where it has holes. */
  #lost(reason: string): void {
    if (this.#standing !== "ours") return;
    this.#standing = "lost";
    if (!this.#isLocked) return;
    const lock: LockInfo = { method: "none", reason: `it is lost: ${reason}` };
    this.#info = { ...this.#info, lock };
  }

  /** Has something asked of the image on another thread, one at a time. */
  #ask(call: () => Promise<void>): Promise<void> {
    const asking = call();
    const over = asking.catch(() => {}).finally(() => {
      if (this.#asking === over) this.#asking = null;
    });
    this.#asking = over;
    return asking;
  }

  /** Looks how large the image is; tells whether that is news. */
  async #readSize(): Promise<boolean> {
    const size = await this.#session.image.size();
    const { blockSize, sectors } = this.#geometry;
    if (size < 0) return false;
    // It may be longer again by the next flush.
    if (size < this.#reach) this.#isCut = true;
    const now = Math.floor(size / blockSize) * (blockSize / SECTOR_BYTES);
    if (now === sectors) return false;
    this.#geometry = makeGeometry(now, blockSize, this.#geometry);
    return true;
  }
}
