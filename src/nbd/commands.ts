/**
 * What a client asks for: whether it may, and carrying it out on the disk.
 *
 * @module
 */

import {
  CHUNK_BYTES,
  Command,
  CommandFlag,
  ExportFlag,
  WireError,
} from "../protocol/nbd/numbers.ts";
import { settleAll } from "../settle_all.ts";
import type { NbdCounters } from "./counters.ts";
import type { Agreement } from "./handshake.ts";
import type { Job } from "./job.ts";
import type { Load } from "./load.ts";
import { HEADROOM_BYTES, memoryBytes } from "./memory_pool.ts";
import type { Replies } from "./replies.ts";
import type { ByteRun } from "./run_map.ts";
import { type ServedDisk, wireErrorOf } from "./served_disk.ts";
import type { Turns } from "./turns.ts";

/** From here on a read asks where holes are. */
const SPARSE_BYTES = 32_768;

/** Runs of data and holes that one reply tells apart. */
const MAX_CHUNKS = 32;

/** Runs that one answer about them has at most. */
const MAX_STATUS_RUNS = 1024;

/** Flags that a request may have, by its type. FUA is taken on every one. */
const FLAGS: readonly number[] = [
  CommandFlag.DontFragment, // READ
  0, // WRITE
  0, // DISC
  0, // FLUSH
  0, // TRIM
  0, // CACHE
  CommandFlag.NoHole | CommandFlag.FastZero, // WRITE_ZEROES
  CommandFlag.RequestOne, // BLOCK_STATUS
];

/** What requests are carried out with. */
export interface CommandOptions {
  /** Bytes of data that one request may have. */
  readonly maxPayload: number;
  /** How work that is done in the event loop is divided among clients. */
  readonly turns: Turns;
  /** What is counted. */
  readonly counters: NbdCounters;
}

/** Carries out the requests of one client. */
export class Commands {
  readonly #agreement: Agreement;
  readonly #served: ServedDisk;
  readonly #options: CommandOptions;
  readonly #replies: Replies;
  readonly #load: Load;
  readonly #isGone: () => boolean;
  /** Block status requests, answered one after the other. */
  #queries: Job[] = [];
  #mapping = false;

  /**
   * Constructs a new instance.
   *
   * @param agreement What was agreed with the client.
   * @param options What requests are carried out with.
   * @param replies Where answers go.
   * @param load Keeps what requests hold.
   * @param isGone Tells whether nobody gets an answer any more.
   */
  constructor(
    agreement: Agreement,
    options: CommandOptions,
    replies: Replies,
    load: Load,
    isGone: () => boolean,
  ) {
    this.#agreement = agreement;
    this.#served = agreement.served;
    this.#options = options;
    this.#replies = replies;
    this.#load = load;
    this.#isGone = isGone;
  }

  /**
   * Tells how much of the server's memory a request takes.
   *
   * @param job The request.
   * @returns Bytes.
   */
  memoryFor({ type, flags, offset, length, aligned }: Job): number {
    if (length === 0) return 0;
    const served = this.#served;
    switch (type) {
      case Command.Read:
        return memoryBytes(aligned ? length : served.span(offset, length));
      case Command.Write:
        return aligned
          ? memoryBytes(length)
          : memoryBytes(served.span(offset, length)) + served.endsBytes;
      case Command.WriteZeroes:
        return aligned ? 0 : served.endsBytes;
      case Command.Trim:
        return aligned || !served.trimToZeroes ? 0 : served.endsBytes;
      case Command.BlockStatus:
        return CHUNK_BYTES + 4 + 8 * runsFor(flags);
      default:
        return 0;
    }
  }

  /**
   * Tells why a request must be refused.
   *
   * @param job The request.
   * @returns An error number, or 0.
   */
  refusal(job: Job): number {
    const served = this.#served;
    const { type, flags, offset, length } = job;
    const allowed = FLAGS[type];
    if (
      allowed === undefined || (flags & ~(allowed | CommandFlag.Fua)) !== 0 ||
      ((flags & CommandFlag.DontFragment) !== 0 && !this.#agreement.structured)
    ) return WireError.EINVAL;
    if (type === Command.Flush) {
      return (served.flags & ExportFlag.SendFlush) === 0 || offset !== 0 ||
          length !== 0
        ? WireError.EINVAL
        : 0;
    }
    const moves = type === Command.Read || type === Command.Write;
    const writes = type === Command.Write || type === Command.Trim ||
      type === Command.WriteZeroes;
    if (writes && served.readOnly) return WireError.EPERM;
    if (writes && (flags & CommandFlag.Fua) !== 0) {
      if ((served.flags & ExportFlag.SendFua) === 0) return WireError.EINVAL;
    }
    if (
      (type === Command.Trim && (served.flags & ExportFlag.SendTrim) === 0) ||
      (type === Command.WriteZeroes &&
        (served.flags & ExportFlag.SendWriteZeroes) === 0) ||
      (type === Command.BlockStatus && !this.#agreement.allocation)
    ) return WireError.EINVAL;
    if (moves && length > this.#options.maxPayload) return WireError.EINVAL;
    if (offset > served.size - length) {
      return type === Command.Write || type === Command.WriteZeroes
        ? WireError.ENOSPC
        : WireError.EINVAL;
    }
    if ((flags & CommandFlag.FastZero) !== 0 && served.slowZeroes) {
      return WireError.ENOTSUP;
    }
    return 0;
  }

  /**
   * Carries out a request that is not refused, and answers it. A write with a
   * payload is prepared first.
   *
   * @param job The request.
   */
  start(job: Job): void {
    try {
      this.#begin(job);
    } catch (error) {
      // There is no memory for it.
      this.#failFrom(job, error);
    }
  }

  #begin(job: Job): void {
    if (job.length === 0 && job.type !== Command.Flush) {
      return this.#replies.success(job);
    }
    switch (job.type) {
      case Command.Read:
        return this.#read(job);
      case Command.Write:
        return this.#write(job);
      case Command.BlockStatus:
        this.#queries.push(job);
        if (!this.#mapping) this.#answerQueries();
        return;
      case Command.Cache:
        // There is no cache to fill; the protocol lets that be a success.
        return this.#replies.success(job);
      default:
        this.#change(job).then(
          () => {
            this.#load.giveMemory(job);
            this.#replies.success(job);
          },
          (error) => this.#failFrom(job, error),
        );
    }
  }

  /**
   * Takes the memory for a write's payload.
   *
   * @param job The request.
   * @returns Where the payload goes, all of it, before the write starts; `null`
   * if there is no memory, which the client has been told.
   */
  prepareWrite(job: Job): Uint8Array<ArrayBuffer> | null {
    const served = this.#served;
    const lead = job.aligned ? 0 : job.offset % served.blockSize;
    if (!job.aligned) this.#options.counters.unaligned++;
    try {
      job.memory = job.aligned
        ? served.memory.take(job.length, job.held)
        : served.memory.take(served.span(job.offset, job.length));
    } catch (error) {
      this.#failFrom(job, error);
      return null;
    }
    const at = HEADROOM_BYTES + lead;
    return job.memory.bytes.subarray(at, at + job.length);
  }

  #read(job: Job): void {
    const served = this.#served;
    const { offset, length, aligned } = job;
    if (!aligned) this.#options.counters.unaligned++;
    const start = aligned ? offset : offset - offset % served.blockSize;
    const end = start + (aligned ? length : served.span(offset, length));
    job.memory = served.memory.take(end - start, job.held);
    if (
      this.#agreement.structured && aligned && length >= SPARSE_BYTES &&
      (job.flags & CommandFlag.DontFragment) === 0
    ) {
      served.fewRuns(offset, length, MAX_CHUNKS).then(
        (runs) =>
          runs !== null && runs.some(({ hole }) => hole) &&
            runs.at(-1)!.end === offset + length
            ? this.#readSparse(job, runs)
            : this.#readWhole(job, start, end),
        (error) => this.#failFrom(job, error),
      );
    } else this.#readWhole(job, start, end);
  }

  #readWhole(job: Job, start: number, end: number): void {
    const at = HEADROOM_BYTES;
    this.#served.read(start, end - start, job.memory!, at).then(
      () => this.#replies.data(job, at + job.offset - start),
      (error) => this.#failFrom(job, error),
    );
  }

  /** Reads the data only; the holes go out as a word. */
  #readSparse(job: Job, runs: readonly ByteRun[]): void {
    const served = this.#served;
    const data = runs.filter(({ hole }) => !hole);
    const memory = job.memory!;
    settleAll(data.map(({ start, end }) =>
      served.read(
        start,
        end - start,
        memory,
        HEADROOM_BYTES + start - job.offset,
      )
    )).then(
      () => this.#replies.sparseData(job, runs),
      (error) => this.#failFrom(job, error),
    );
  }

  #write(job: Job): void {
    const served = this.#served;
    const { offset, length } = job;
    const fua = (job.flags & CommandFlag.Fua) !== 0;
    const memory = job.memory!;
    const written = job.aligned
      ? served.write(offset, length, memory, fua)
      : served.modify(offset, length, memory, fua);
    written.then(
      () => {
        this.#options.counters.bytesWritten += length;
        this.#load.giveMemory(job);
        this.#replies.success(job);
      },
      (error) => this.#failFrom(job, error),
    );
  }

  #change(job: Job): Promise<void> {
    const served = this.#served;
    const fua = (job.flags & CommandFlag.Fua) !== 0;
    switch (job.type) {
      case Command.Flush:
        return served.disk.flush();
      case Command.Trim:
        return served.trim(job.offset, job.length, fua);
      default:
        if (!job.aligned) this.#options.counters.unaligned++;
        return served.writeZeroes(
          job.offset,
          job.length,
          (job.flags & CommandFlag.NoHole) === 0,
          fua,
        );
    }
  }

  /** One after the other, each in pieces, while others have their turn. */
  async #answerQueries(): Promise<void> {
    this.#mapping = true;
    for (;;) {
      const job = this.#queries.shift();
      if (job === undefined) break;
      const most = runsFor(job.flags);
      const map = this.#served.map(job.offset, job.length, most);
      const step = () => this.#isGone() ? Promise.resolve() : map.step();
      try {
        do await this.#options.turns.take(step); while (
          !map.done && !this.#isGone()
        );
        this.#replies.status(job, map.runs.slice(0, most));
      } catch (error) {
        this.#failFrom(job, error);
      }
    }
    this.#mapping = false;
  }

  #failFrom(job: Job, error: unknown): void {
    this.#load.giveMemory(job);
    const writes = job.type !== Command.Read && job.type !== Command.Cache &&
      job.type !== Command.BlockStatus;
    const text = error instanceof Error ? error.message : String(error);
    this.#replies.failure(job, wireErrorOf(error, writes), text);
  }
}

/** Runs that an answer to a query with these flags has at most. */
function runsFor(flags: number): number {
  return (flags & CommandFlag.RequestOne) !== 0 ? 1 : MAX_STATUS_RUNS;
}

/**
 * Tells a client why its request is refused.
 *
 * @param error The number.
 * @returns A sentence.
 */
export function refusalText(error: number): string {
  switch (error) {
    case WireError.EPERM:
      return "The export is read-only";
    case WireError.ENOSPC:
      return "The export ends before that";
    case WireError.ENOTSUP:
      return "Zeroes are no faster than writing them";
    case WireError.ESHUTDOWN:
      return "The server is stopping";
    default:
      return "The request is malformed or out of range";
  }
}
