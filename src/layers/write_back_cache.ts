/**
 * A write-back cache that can fail: what an operating system keeps of writes
 * until they are flushed, and what becomes of it when the flush fails.
 *
 * | pages | what it models | where it was seen |
 * | --- | --- | --- |
 * | `kept` | marked clean though they were not written; they read as new until the cache goes | ext4 and XFS (Rebello et al., "Can Applications Recover from fsync Failures?", ATC 2020); PostgreSQL's fsyncgate, 2018 |
 * | `reverted` | they go back to what the disk has | btrfs of Linux 5.2 (the same) |
 * | `late` | kept, and the failure is reported by the flush after the next one | ext4 with `data=journal` (the same) |
 *
 * A failure is reported once, and the flush after that succeeds: so
 * Linux does for each open file (lib/errseq.c, since 4.13), and nothing tries
 * again to write what was lost. What FreeBSD does, to keep the pages dirty and
 * to try again, is a flush that fails without this, and so is a disk that takes
 * no writes.
 *
 * A write that is not of the cache goes to the disk, but never beside what the
 * cache is just writing, or the older of the two could come last.
 *
 * @module
 */

import type { Backend } from "../backend.ts";
import type { DiskError } from "../errors.ts";
import { SECTOR_BYTES, type SectorRange } from "../geometry.ts";
import { type Request, RequestType } from "../request.ts";
import { abortedError, changedError, requestError } from "../request_error.ts";
import { type Answer, Downward } from "./downward.ts";
import type { MediumDamage } from "./medium_damage.ts";
import { SectorStore } from "./sector_store.ts";
import { writeBack, writeBackThen } from "./write_back.ts";

/** How a flush fails. */
export interface FlushFault {
  /** What it loses. */
  readonly range: SectorRange;
  /** What becomes of that. */
  readonly pages: "kept" | "reverted" | "late";
  /** What is reported. */
  readonly error: DiskError;
}

/** A request that is held back. */
interface Waiting {
  readonly request: Request;
  readonly answer: Answer;
  readonly start: () => void;
}

/** Writes that are held until the next flush. */
export class WriteBackCache {
  readonly #backend: Backend;
  readonly #bytes: number;
  readonly #damage: MediumDamage;
  /** Written and not flushed. */
  #dirty = new SectorStore();
  /** Being written back by a flush. */
  #writing: SectorStore | null = null;
  /** Marked clean, and not on the disk. */
  #lost = new SectorStore();
  /** What the next flush is to report. */
  #late: DiskError | null = null;
  /** Writes in flight that bypass the cache. */
  #passing = 0;
  /** Power cuts so far. */
  #cuts = 0;
  /** Requests that wait for a write-back or a bypassing write to end. */
  readonly #waiting: Waiting[] = [];

  /** Whether writes are held until the next flush. */
  caching = false;

  /**
   * Constructs a new instance.
   *
   * @param backend What it lies over.
   * @param bytes Memory for what is held.
   * @param damage What is damaged below: what is written there is well again.
   */
  constructor(
    backend: Backend,
    bytes: number,
    damage: MediumDamage,
  ) {
    this.#backend = backend;
    this.#bytes = bytes;
    this.#damage = damage;
  }

  /** Whether it holds nothing, and has no failure to report. */
  get empty(): boolean {
    return this.#dirty.empty && this.#lost.empty && this.#writing === null &&
      this.#late === null;
  }

  /** What is held over the disk, the last one on top. */
  get stores(): SectorStore[] {
    return this.#writing === null
      ? [this.#lost, this.#dirty]
      : [this.#lost, this.#writing, this.#dirty];
  }

  /** Whether any of these sectors waits for the next flush. */
  dirty(sector: number, count: number): boolean {
    return this.#dirty.runs(sector, count).length > 0;
  }

  /** Writes into the cache or to the disk. */
  write(request: Request, answer: Answer, down: Downward): void {
    const { type, sector, count } = request;
    if (
      this.caching && !request.fua &&
      (type === RequestType.Out || type === RequestType.WriteZeroes) &&
      this.#dirty.storedBytes < this.#bytes
    ) {
      if (type === RequestType.WriteZeroes) this.#dirty.zero(sector, count);
      else if (!this.#dirty.write(request)) {
        return answer(changedError(request, this.#backend.info.path));
      }
      this.#damage.cover(sector, count);
      return answer(null);
    }
    if (this.#writing !== null || this.#waiting.length > 0) {
      // Or what is older, of the cache, could come last.
      const start = () =>
        this.#later((down) => this.write(request, answer, down));
      this.#waiting.push({ request, answer, start });
      return;
    }
    this.#passing++;
    down.add(request, (error) => {
      this.#passing--;
      if (error === null) {
        this.#damage.rewritten(sector, count);
        this.#dirty.forget(sector, count);
        this.#lost.forget(sector, count);
      }
      answer(error);
      this.#resume();
    });
  }

  /**
   * Writes what is held, then flushes what lies below.
   *
   * @param request The flush.
   * @param fault How it fails; `null` if it does not.
   * @param answer Called when it is done.
   * @param down What goes to the disk.
   */
  flush(
    request: Request,
    fault: FlushFault | null,
    answer: Answer,
    down: Downward,
  ): void {
    if (
      this.#writing !== null || this.#passing > 0 && !this.#dirty.empty
    ) {
      const start = () =>
        this.#later((down) => this.flush(request, fault, answer, down));
      this.#waiting.push({ request, answer, start });
      return;
    }
    let report = this.#late;
    this.#late = null;
    const work = this.#dirty;
    this.#dirty = new SectorStore();
    if (fault !== null) {
      this.#lose(work, fault.range, fault.pages);
      if (fault.pages === "late") this.#late = fault.error;
      else report ??= fault.error;
    }
    if (work.empty) {
      return down.add(request, (error) => answer(error ?? report));
    }
    this.#writing = work;
    const cuts = this.#cuts;
    const runs = work.runs(0, this.#backend.geometry.sectors);
    const failed = (cause: unknown) =>
      requestError("io", request, `writing failed: ${cause}`, {
        path: this.#backend.info.path,
        cause,
      });
    const done = (error: DiskError | null): void => {
      if (error === null) {
        for (const run of runs) {
          this.#lost.forget(run.sector, run.count);
          this.#damage.writtenBack(run.sector, run.count);
        }
      } else if (cuts === this.#cuts) {
        // What was written is not known: it stays dirty, for the next flush.
        work.merge(this.#dirty);
        this.#dirty = work;
      } else {
        // What was written again since the power cut has newer data here.
        const { sectors } = this.#backend.geometry;
        for (const { sector, count } of this.#dirty.runs(0, sectors)) {
          work.forget(sector, count);
        }
        for (const { sector, count } of work.runs(0, sectors)) {
          this.#damage.uncover(sector, count);
        }
      }
      this.#writing = null;
      if (error === null) {
        this.#backend.submit(
          [request],
          (_, flushed) => answer(flushed ?? report),
        );
      } else answer(error);
      this.#resume();
    };
    writeBackThen([work], runs, this.#backend, {
      done,
      threw: (cause) => done(failed(cause)),
    });
  }

  /** Answers a request that waits, and says whether it did. */
  cancel(request: Request): boolean {
    const at = this.#waiting.findIndex((each) => each.request === request);
    if (at < 0) return false;
    const [{ answer }] = this.#waiting.splice(at, 1) as [Waiting];
    const { path } = this.#backend.info;
    answer(abortedError(request, { path }));
    return true;
  }

  /** Empties it, as a power cut does. */
  powerCut(): void {
    const { sectors } = this.#backend.geometry;
    for (const store of [this.#lost, this.#dirty]) {
      for (const run of store.runs(0, sectors)) {
        this.#damage.uncover(run.sector, run.count);
      }
    }
    this.#dirty = new SectorStore();
    this.#lost = new SectorStore();
    this.#late = null;
    this.#cuts++;
  }

  /** Drops what it has of sectors that are no longer there. */
  forget(sector: number, count: number): void {
    this.#dirty.forget(sector, count);
    this.#lost.forget(sector, count);
  }

  /**
   * Writes what is held, without a flush.
   *
   * @returns The first error; `null` if all of it was written.
   */
  async drain(): Promise<DiskError | null> {
    const runs = this.#dirty.runs(0, this.#backend.geometry.sectors);
    return await writeBack([this.#dirty], runs, this.#backend);
  }

  /** Goes on with what has waited, if nothing holds it back any more. */
  #resume(): void {
    if (this.#writing !== null || this.#passing > 0) return;
    for (const { start } of this.#waiting.splice(0)) start();
  }

  #later(start: (down: Downward) => void): void {
    const down = new Downward(this.#backend);
    start(down);
    down.submit();
  }

  /**
   * Takes from what is dirty the blocks that a failing flush loses: all that it
   * touches, as nothing below takes a part of one.
   */
  #lose(
    work: SectorStore,
    range: SectorRange,
    pages: FlushFault["pages"],
  ): void {
    const { blockSize } = this.#backend.geometry;
    const { sector, count } = wholeBlocks(range, blockSize / SECTOR_BYTES);
    const end = sector + count;
    if (pages === "reverted") {
      for (const run of work.runs(sector, count)) {
        this.#lost.forget(run.sector, run.count);
        this.#damage.uncover(run.sector, run.count);
      }
    } else {
      const failed = new SectorStore();
      failed.merge(work);
      if (sector > 0) failed.forget(0, sector);
      failed.forget(end, this.#backend.geometry.sectors);
      this.#lost.merge(failed);
    }
    work.forget(sector, count);
  }
}

/** The blocks that a range touches. */
function wholeBlocks(
  { sector, count }: SectorRange,
  blockSectors: number,
): SectorRange {
  const start = Math.floor(sector / blockSectors) * blockSectors;
  const end = Math.ceil((sector + count) / blockSectors) * blockSectors;
  return { sector: start, count: end - start };
}
