/**
 * Which engine an image gets, by trying: a system call that is filtered, a
 * limit that is reached, a device that is faster than any ring.
 *
 * @module
 */

import type { Libc } from "../../../ffi/libc.ts";
import { withMemory } from "../../../ffi/memory.ts";
import { DiskError } from "../../errors.ts";
import { AioQueue } from "./aio_queue.ts";
import { AsyncEngine } from "./async_engine.ts";
import type { Engine, Operation, OperationComplete } from "./engine.ts";
import { IoUringQueue } from "./io_uring_queue.ts";
import type { Host } from "./host.ts";
import { type Probed, writtenOffset } from "./probe.ts";
import { SyncEngine } from "./sync_engine.ts";

/** The engines there are, and the choice among them. */
export type EngineName = "auto" | "io_uring" | "libaio" | "iocp" | "sync";

/**
 * The longest that one wait may hold the event loop, in ms, by default.
 * A turn of Deno's event loop after a sleep costs some 25 µs of CPU, which is
 * little beside this, and this is little to a timer.
 */
export const DEFAULT_STALL_MS = 0.2;

/** How long completions are polled for by default, in ms. */
export const DEFAULT_POLL_MS = 0.1;

/** How an engine is wanted. */
export interface EngineOptions {
  /** Which one. */
  readonly engine: EngineName;
  /** Operations that may be in flight at once. */
  readonly depth: number;
  /** The longest that one wait may hold the event loop, in ms. */
  readonly stallMs: number;
  /** The longest part of a wait that may be polled, in ms. */
  readonly pollMs: number;
}

/** Makes the engine for a backend. */
export type MakeEngine<T extends Operation> = (
  complete: OperationComplete<T>,
) => Engine<T>;

/**
 * Below this many µs for 4 KiB, a blocking call is over before a ring would
 * have handed the operation on: RAM, or a cache.
 */
const INLINE_US = 10;

/**
 * The file system that blocks in submission: FUSE takes twelve requests
 * in the background (fs/fuse/inode.c, `FUSE_DEFAULT_MAX_BACKGROUND`), and the
 * thirteenth waits inside the call until one of them is answered.
 */
const BLOCKING_FILE_SYSTEM = "fuse";

/** Trial reads; their median counts. */
const TRIALS = 9;

/**
 * Chooses an engine for an open image.
 *
 * @param host The operating system.
 * @param libc Its C library.
 * @param fd The image's descriptor.
 * @param path The image's path, for the error.
 * @param probed What the image is.
 * @param options Which engine is wanted.
 * @returns What makes the engine.
 * @throws {DiskError} With kind `platform` if the engine that was asked for is
 * not to be had here.
 */
export function chooseEngine<T extends Operation>(
  host: Host,
  libc: Libc,
  fd: number,
  path: string,
  probed: Probed,
  options: EngineOptions,
): MakeEngine<T> {
  const { engine, depth, stallMs } = options;
  const blocks = probed.fileSystem === BLOCKING_FILE_SYSTEM;
  // Where threads of the kernel do the work, they need the processors.
  const pollMs = blocks ? 0 : options.pollMs;
  const sync = (reason: string | null): MakeEngine<T> => (complete) =>
    new SyncEngine(host, complete, { info: { name: "sync", reason }, stallMs });
  const over = (
    name: string,
    queue: IoUringQueue<T> | AioQueue<T>,
    reason: string | null,
  ): MakeEngine<T> =>
  (complete) =>
    new AsyncEngine<T>(
      host,
      queue,
      complete,
      (operation) => host.perform(operation),
      { info: { name, reason }, stallMs, pollMs },
    );

  const asked = `asked for: engine: "${engine}"`;
  if (engine === "sync") return sync(asked);
  if (engine !== "auto") {
    const queue = engine === "iocp"
      ? "only Windows has completion ports"
      : engine === "io_uring"
      ? IoUringQueue.open<T>(libc, depth, blocks)
      : openAio<T>(libc, fd, probed, depth);
    if (typeof queue !== "string") {
      return over(engine, queue, [asked, ...lackOf(queue)].join("; "));
    }
    throw new DiskError(
      "platform",
      `Cannot open "${path}" with engine "${engine}" as ${queue}`,
      { operation: "open", path },
    );
  }
  if (libc.abi.os !== "linux") {
    return sync("only Linux has io_uring and AIO");
  }
  const inline = answersInline(libc, fd, probed);
  if (inline !== null) return sync(inline);
  const ring = IoUringQueue.open<T>(libc, depth, blocks);
  if (typeof ring !== "string") return over("io_uring", ring, null);
  if (!probed.direct.active) {
    return sync(`${ring}; AIO without direct I/O blocks as well`);
  }
  const aio = openAio<T>(libc, fd, probed, depth);
  if (typeof aio !== "string") {
    return over("libaio", aio, [ring, ...lackOf(aio)].join("; "));
  }
  return sync(`${ring}; ${aio}`);
}

/** What a queue cannot do, in words. */
function lackOf(
  queue: IoUringQueue<Operation> | AioQueue<Operation>,
): string[] {
  return queue instanceof AioQueue && !queue.syncs
    ? ["this AIO has no fdatasync: a blocking call flushes"]
    : [];
}

/** A queue of Linux AIO that has carried out a read; or why there is none. */
function openAio<T extends Operation>(
  libc: Libc,
  fd: number,
  probed: Probed,
  depth: number,
): AioQueue<T> | string {
  const queue = AioQueue.open<T>(libc, depth);
  if (typeof queue === "string") return queue;
  const fault = queue.tryOut(fd, probed.sizeBytes);
  if (fault === null) return queue;
  queue.close();
  return fault;
}

/** How long some reads take, in µs; `null` if one fails, or is slow. */
function timesOf(read: () => boolean): number[] | null {
  const times: number[] = [];
  for (let i = 0; i < TRIALS; i++) {
    const start = performance.now();
    if (!read()) return null;
    times.push((performance.now() - start) * 1000);
    // One slow answer is enough: a medium is no memory.
    if (times[i]! > INLINE_US * 4 && i > 1) return null;
  }
  return times;
}

/** Why blocking calls are the fastest way here, if they are. */
function answersInline(
  libc: Libc,
  fd: number,
  probed: Probed,
): string | null {
  if (probed.fileSystem === "tmpfs") {
    return "tmpfs is memory: a call is over before a ring would hand it on";
  }
  // A page cache answers at once what it has; what it has not would block.
  if (!probed.direct.active) return null;
  const offset = writtenOffset(libc, fd, probed.sizeBytes);
  if (offset === undefined) return null;
  const size = Math.max(4096, probed.direct.readOffsetAlignment);
  const times = withMemory(
    size,
    (address) => timesOf(() => libc.pread(fd, address, size, offset) === size),
  );
  if (times === null) return null;
  const median = times.sort((a, b) => a - b)[TRIALS >> 1]!;
  return median < INLINE_US
    ? `the device answers 4 KiB in ${
      median.toFixed(1)
    } µs: a blocking call is over before a ring would hand it on`
    : null;
}
