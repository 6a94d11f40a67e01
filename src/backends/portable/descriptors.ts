/**
 * File descriptors of `node:fs` as promises, and a pool of them.
 *
 * @module
 */

import fs from "node:fs";
import { roundDown } from "../alignment_plan.ts";
import { settleAll } from "../../settle_all.ts";
import { sleepSync } from "../../sleep_sync.ts";
import { Pool } from "../pool.ts";
import { systemCode } from "../system_error.ts";

/** Times in a row that a call is repeated for EINTR or EAGAIN. */
const MAX_RETRIES = 1_000;
/** How long to wait before that for EAGAIN, in ms. */
const RETRY_MS = 1;

const STALLED = "The kernel takes no more and gives no error";

let lastWrite: Promise<unknown> = Promise.resolve();

/**
 * Waits until no other write is in flight. `fs.write` calls the kernel on this
 * thread (see `./backend.ts`), and all that are asked for at once would
 * follow each other before anything else could run: one after the other, the
 * event loop turns between them.
 */
function inTurn<T>(write: () => Promise<T>): Promise<T> {
  const turn = lastWrite.then(write);
  lastWrite = turn.catch(() => {});
  return turn;
}

/** The image ends before the disk does. */
export class ShrunkError extends Error {}

/**
 * Reads at a position. One descriptor carries out one read at a time.
 *
 * @param descriptor An open file.
 * @param memory Where to; at least `need` bytes.
 * @param position Where from, in bytes.
 * @param need Bytes that must be read: the rest of the memory may stay as it
 * is, for reads of whole host blocks at the end of an image.
 * @param alignment What positions must be multiples of.
 * @param counted Called once for every system call.
 * @returns When that much is there.
 * @throws {ShrunkError} If the file ends before.
 */
export function readAt(
  descriptor: number,
  memory: Uint8Array,
  position: number,
  need: number,
  alignment: number,
  counted: () => void,
): Promise<void> {
  return readFully(
    (done) =>
      new Promise((resolve, reject) => {
        counted();
        fs.read(
          descriptor,
          memory,
          done,
          memory.length - done,
          position + done,
          (error, bytes) => error ? reject(error) : resolve(bytes),
        );
      }),
    need,
    alignment,
  );
}

/**
 * Writes at a position, when all earlier writes have been.
 *
 * @param descriptor An open file.
 * @param memory What.
 * @param position Where to, in bytes.
 * @param alignment What positions must be multiples of.
 * @param counted Called once for every system call.
 * @returns When all of it is written.
 */
export function writeAt(
  descriptor: number,
  memory: Uint8Array,
  position: number,
  alignment: number,
  counted: () => void,
): Promise<void> {
  return writeFully(
    (done) =>
      inTurn(() =>
        new Promise((resolve, reject) => {
          counted();
          fs.write(
            descriptor,
            memory,
            done,
            memory.length - done,
            position + done,
            (error, bytes) => error ? reject(error) : resolve(bytes),
          );
        })
      ),
    memory.length,
    alignment,
  );
}

/**
 * Reads at a position, as {@linkcode readAt} does, in blocking calls.
 *
 * @param descriptor An open file.
 * @param memory Where to; at least `need` bytes.
 * @param position Where from, in bytes.
 * @param need Bytes that must be read.
 * @param alignment What positions must be multiples of.
 * @param counted Called once for every system call.
 * @throws {ShrunkError} If the file ends before.
 */
export function readAtSync(
  descriptor: number,
  memory: Uint8Array,
  position: number,
  need: number,
  alignment: number,
  counted: () => void,
): void {
  let done = 0;
  while (done < need) {
    const from = done;
    const end = from + retrySync(() => {
      counted();
      const left = memory.length - from;
      return fs.readSync(descriptor, memory, from, left, position + from);
    });
    if (end >= need) return;
    done = roundDown(end, alignment);
    if (done === from) throw new ShrunkError("The image shrank");
  }
}

/**
 * Writes at a position, as {@linkcode writeAt} does, in blocking calls.
 *
 * @param descriptor An open file.
 * @param memory What.
 * @param position Where to, in bytes.
 * @param alignment What positions must be multiples of.
 * @param counted Called once for every system call.
 */
export function writeAtSync(
  descriptor: number,
  memory: Uint8Array,
  position: number,
  alignment: number,
  counted: () => void,
): void {
  let done = 0;
  let stalled = false;
  while (done < memory.length) {
    const from = done;
    const end = from + retrySync(() => {
      counted();
      const left = memory.length - from;
      return fs.writeSync(descriptor, memory, from, left, position + from);
    });
    if (end >= memory.length) return;
    done = roundDown(end, alignment);
    if (done === from && stalled) throw new Error(STALLED);
    stalled = done === from;
  }
}

/**
 * Makes a file's data durable. Never tried again: a second try may succeed
 * without what the first one lost.
 *
 * @param descriptor The descriptor to which every failed write-back is reported:
 * it must have been open before the first write.
 * @returns When it is done.
 */
export function dataSync(descriptor: number): Promise<void> {
  return new Promise((resolve, reject) => {
    fs.fdatasync(descriptor, (error) => error ? reject(error) : resolve());
  });
}

/**
 * Continues short reads and retries interrupted ones.
 *
 * @param step Reads on from so many bytes and says how many more there are.
 * @param need Bytes that must be read.
 * @param alignment What `step` must start on a multiple of.
 * @returns When that much is there.
 * @throws {ShrunkError} If a step does not get on: that is the file's end.
 */
export async function readFully(
  step: (done: number) => Promise<number>,
  need: number,
  alignment: number,
): Promise<void> {
  let done = 0;
  while (done < need) {
    const end = done + await retry(() => step(done));
    if (end >= need) return;
    const next = roundDown(end, alignment);
    if (next === done) throw new ShrunkError("The image shrank");
    done = next;
  }
}

/**
 * Continues short writes and retries interrupted ones.
 *
 * @param step Writes on from so many bytes and says how many more it wrote.
 * @param length Bytes that must be written.
 * @param alignment What `step` must start on a multiple of.
 * @returns When that much is written.
 */
export async function writeFully(
  step: (done: number) => Promise<number>,
  length: number,
  alignment: number,
): Promise<void> {
  let done = 0;
  let stalled = false;
  while (done < length) {
    const end = done + await retry(() => step(done));
    if (end >= length) return;
    const next = roundDown(end, alignment);
    // The kernel reports a part first and the error at the next call.
    if (next === done && stalled) throw new Error(STALLED);
    stalled = next === done;
    done = next;
  }
}

/** Tries again what a signal or a lack of resources kept from happening. */
async function retry(step: () => Promise<number>): Promise<number> {
  for (let tries = 0;; tries++) {
    try {
      return await step();
    } catch (error) {
      if (mayRetry(error, tries)) continue;
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }
}

function retrySync(step: () => number): number {
  for (let tries = 0;; tries++) {
    try {
      return step();
    } catch (error) {
      if (mayRetry(error, tries)) continue;
      sleepSync(RETRY_MS);
    }
  }
}

/** Whether to try again at once (or later); throws what is to stay. */
function mayRetry(error: unknown, tries: number): boolean {
  const code = systemCode(error)?.code;
  const passes = code === "EINTR" || code === "EAGAIN";
  if (!passes || tries >= MAX_RETRIES) throw error;
  return code === "EINTR";
}

/** Descriptors of one file, opened as they are needed, each used by one. */
export class DescriptorPool {
  readonly #all: number[];
  readonly #pool: Pool<number>;

  /**
   * Constructs a new instance.
   *
   * @param first Descriptors to begin with; without any, none can be taken.
   * @param max How many there may be.
   * @param open Opens another one; `null`, or an error, if there can be none.
   */
  constructor(
    first: readonly number[],
    max: number,
    open: () => number | null,
  ) {
    this.#all = [...first];
    this.#pool = new Pool(() => this.#tryOpen(open), max, first);
  }

  /**
   * One of them, for whoever knows that none is lent.
   *
   * @returns The descriptor.
   */
  get any(): number {
    return this.#all[0]!;
  }

  /** How many are open. */
  get size(): number {
    return this.#all.length;
  }

  /**
   * Takes a descriptor, waiting for one if all are in use.
   *
   * @returns The descriptor.
   */
  take(): Promise<number> {
    return new Promise((resolve) => this.#pool.take(resolve));
  }

  /**
   * Gives a descriptor back.
   *
   * @param descriptor The descriptor.
   */
  give(descriptor: number): void {
    this.#pool.give(descriptor);
  }

  /**
   * Closes all of them; none may be in use or waited for.
   *
   * @throws {Error} What the first close that failed says.
   */
  async close(): Promise<void> {
    this.#pool.close();
    const all = this.#all.splice(0);
    await settleAll(
      all.map((descriptor) => Promise.try(() => fs.closeSync(descriptor))),
    );
  }

  #tryOpen(open: () => number | null): number | null {
    let opened: number | null = null;
    try {
      opened = open();
    } catch {
      // Out of descriptors, say: go on with what there is, and ask no more.
    }
    if (opened !== null) this.#all.push(opened);
    return opened;
  }
}
