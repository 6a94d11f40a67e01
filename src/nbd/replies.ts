/**
 * What a client hears: replies, whole or in chunks as was agreed. Data goes out
 * with its header in front, in one write; small replies of one turn are joined.
 *
 * @module
 */

import { viewOf } from "../bytes.ts";
import { writeU64 } from "../protocol/nbd/big_endian.ts";
import {
  Allocation,
  CHUNK_BYTES,
  CHUNK_DONE,
  ChunkType,
  Command,
  Magic,
  SIMPLE_REPLY_BYTES,
} from "../protocol/nbd/numbers.ts";
import type { StreamWriter } from "../protocol/nbd/writer.ts";
import { printable } from "../printable.ts";
import type { NbdCounters } from "./counters.ts";
import { ALLOCATION_CONTEXT } from "./handshake.ts";
import type { Job } from "./job.ts";
import type { Load } from "./load.ts";
import { HEADROOM_BYTES } from "./memory_pool.ts";
import type { ByteRun } from "./run_map.ts";

const encoder = new TextEncoder();

/**
 * What is said about an error. A string of the protocol has 4,096 bytes at most;
 * a line is enough.
 */
const MESSAGE = new Uint8Array(512);

/** Writes the replies to one client. */
export class Replies {
  readonly #writer: StreamWriter;
  readonly #structured: boolean;
  readonly #counters: NbdCounters;
  readonly #load: Load;

  /**
   * Constructs a new instance.
   *
   * @param writer Where to.
   * @param structured Whether replies may come in chunks.
   * @param counters What is counted.
   * @param load Hears of every answer.
   */
  constructor(
    writer: StreamWriter,
    structured: boolean,
    counters: NbdCounters,
    load: Load,
  ) {
    this.#writer = writer;
    this.#structured = structured;
    this.#counters = counters;
    this.#load = load;
  }

  /**
   * Answers a read with its data. The memory is given back when it is sent.
   *
   * @param job The request.
   * @param at Where the data is in the request's memory; in front of it is room
   * for a header.
   */
  data(job: Job, at: number): void {
    const { bytes, view } = job.memory!;
    let front = SIMPLE_REPLY_BYTES;
    if (this.#structured) {
      front = CHUNK_BYTES + 8;
      chunkHeader(
        view,
        at - front,
        job,
        CHUNK_DONE,
        ChunkType.OffsetData,
        8 + job.length,
      );
      writeU64(view, at - 8, job.offset);
    } else {
      simpleHeader(view, at - front, job, 0);
    }
    this.#counters.bytesRead += job.length;
    // Before the memory may go to somebody else.
    this.#writer.push(
      bytes.subarray(at - front, at + job.length),
      () => this.#load.giveMemory(job),
    );
    this.#load.answered();
  }

  /**
   * Answers a read with its data, and its holes as a word each. The memory is
   * given back when it is sent.
   *
   * @param job The request.
   * @param runs Data and holes, all of what was asked for; data is in the
   * request's memory, as far from its start as from the request's.
   */
  sparseData(job: Job, runs: readonly ByteRun[]): void {
    const memory = job.memory!;
    const { view, bytes } = memory;
    const last = runs.at(-1);
    let data = 0;
    let pieces = 1;
    const pieceDone = () => {
      if (--pieces === 0) this.#load.giveMemory(job);
    };
    for (const run of runs) {
      const size = run.end - run.start;
      const flags = run === last ? CHUNK_DONE : 0;
      if (run.hole) {
        const at = this.#chunk(
          job,
          flags,
          ChunkType.OffsetHole,
          12,
        );
        writeU64(this.#writer.view, at, run.start);
        this.#writer.view.setUint32(at + 8, size);
      } else {
        // What lies in front is the page for it, or a hole.
        const at = HEADROOM_BYTES + run.start - job.offset;
        chunkHeader(
          view,
          at - CHUNK_BYTES - 8,
          job,
          flags,
          ChunkType.OffsetData,
          8 + size,
        );
        writeU64(view, at - 8, run.start);
        data += size;
        pieces++;
        this.#writer.push(
          bytes.subarray(at - CHUNK_BYTES - 8, at + size),
          pieceDone,
        );
      }
    }
    pieceDone();
    this.#counters.bytesRead += data;
    this.#load.answered();
  }

  /**
   * Answers where data is and where holes are.
   *
   * @param job The request.
   * @param runs Which those are.
   */
  status(job: Job, runs: readonly ByteRun[]): void {
    const bytes = new Uint8Array(CHUNK_BYTES + 4 + 8 * runs.length);
    const view = viewOf(bytes);
    chunkHeader(
      view,
      0,
      job,
      CHUNK_DONE,
      ChunkType.BlockStatus,
      bytes.length - CHUNK_BYTES,
    );
    view.setUint32(CHUNK_BYTES, ALLOCATION_CONTEXT);
    let at = CHUNK_BYTES + 4;
    for (const { start, end, hole } of runs) {
      view.setUint32(at, end - start);
      view.setUint32(at + 4, hole ? Allocation.Hole | Allocation.Zero : 0);
      at += 8;
    }
    this.#writer.push(bytes);
    this.#load.giveMemory(job);
    this.#load.answered();
  }

  /**
   * Answers that it is done.
   *
   * @param job The request.
   */
  success(job: Job): void {
    if (
      this.#structured &&
      (job.type === Command.Read || job.type === Command.BlockStatus)
    ) {
      this.#chunk(job, CHUNK_DONE, ChunkType.None, 0);
    } else {
      const at = this.#writer.reserve(SIMPLE_REPLY_BYTES);
      simpleHeader(this.#writer.view, at, job, 0);
    }
    this.#load.answered();
  }

  /**
   * Answers that it failed.
   *
   * @param job The request.
   * @param error Its number on the wire.
   * @param text What is said about it, to clients that take chunks.
   */
  failure(job: Job, error: number, text: string): void {
    this.#counters.errors++;
    if (this.#structured) {
      const { written: length } = encoder.encodeInto(
        printable(text, MESSAGE.length),
        MESSAGE,
      );
      const bytes = new Uint8Array(CHUNK_BYTES + 6 + length);
      const view = viewOf(bytes);
      chunkHeader(
        view,
        0,
        job,
        CHUNK_DONE,
        ChunkType.Error,
        bytes.length - CHUNK_BYTES,
      );
      view.setUint32(CHUNK_BYTES, error);
      view.setUint16(CHUNK_BYTES + 4, length);
      bytes.set(MESSAGE.subarray(0, length), CHUNK_BYTES + 6);
      this.#writer.push(bytes);
    } else {
      const at = this.#writer.reserve(SIMPLE_REPLY_BYTES);
      simpleHeader(this.#writer.view, at, job, error);
    }
    this.#load.answered();
  }

  /** Begins a small chunk; returns where its payload goes in the writer. */
  #chunk(job: Job, flags: number, type: number, length: number): number {
    const at = this.#writer.reserve(CHUNK_BYTES + length);
    chunkHeader(this.#writer.view, at, job, flags, type, length);
    return at + CHUNK_BYTES;
  }
}

function chunkHeader(
  view: DataView,
  at: number,
  job: Job,
  flags: number,
  type: number,
  length: number,
): void {
  view.setUint32(at, Magic.Chunk);
  view.setUint16(at + 4, flags);
  view.setUint16(at + 6, type);
  view.setUint32(at + 8, job.cookieHigh);
  view.setUint32(at + 12, job.cookieLow);
  view.setUint32(at + 16, length);
}

function simpleHeader(
  view: DataView,
  at: number,
  job: Job,
  error: number,
): void {
  view.setUint32(at, Magic.SimpleReply);
  view.setUint32(at + 4, error);
  view.setUint32(at + 8, job.cookieHigh);
  view.setUint32(at + 12, job.cookieLow);
}
