/**
 * Which engine an image gets, by trying: a system call that is filtered, a
 * limit that is reached, a device that is faster than any ring.
 *
 * @module
 */

import type { Libc } from "../../ffi/libc.ts";
import { withMemory } from "../../ffi/memory.ts";
import { DiskError } from "../errors.ts";
import type { DirectInfo } from "../info.ts";
import { AioQueue } from "./aio_queue.ts";
import { AsyncEngine } from "./async_engine.ts";
import type { Engine, Operation, OperationComplete } from "./engine.ts";
import { IoUringQueue } from "./io_uring_queue.ts";
import type { PosixHost } from "./posix_host.ts";
import { SyncEngine } from "./sync_engine.ts";

/** The engines there are, and the choice among them. */
export type EngineName = "auto" | "io_uring" | "libaio" | "iocp" | "sync";

/** All of them, as the compiler sees to it. */
const NAMES: Readonly<Record<EngineName, true>> = {
  auto: true,
  io_uring: true,
  libaio: true,
  iocp: true,
  sync: true,
};

/** All of them. */
export const ENGINE_NAMES = Object.keys(NAMES) as readonly EngineName[];

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

/**
 * How an engine is wanted by default. A turn of Deno's event loop after a sleep
 * costs some 25 µs of CPU, which is little beside the longest wait, and that is
 * little to a timer.
 */
export const DEFAULT_ENGINE: EngineOptions = {
  engine: "auto",
  depth: 128,
  stallMs: 0.2,
  pollMs: 0.1,
};

/** What the choice depends on. */
export interface EngineFile {
  /** Size in bytes. */
  readonly sizeBytes: number;
  /** The file system's name; `null` if not known. */
  readonly fileSystem: string | null;
  /** Whether I/O is direct, and in multiples of what. */
  readonly direct: DirectInfo;
  /**
   * Looks for the offset of a block that is not all zeroes, with another behind
   * it; `undefined` if none was found. A block is 4,096 bytes, or what direct reads
   * must be multiples of if that is more. Holes, and extents that were never
   * written, are zeroes that take any alignment and come from no device: they lie.
   */
  readonly writtenOffset: () => number | undefined;
}

/** Makes the engine for its owner. */
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
 * @param fd The image's descriptor.
 * @param path The image's path, for the error.
 * @param file What the image is.
 * @param options Which engine is wanted.
 * @returns What makes the engine.
 * @throws {DiskError} With kind `platform` if the engine that was asked for is
 * not to be had here.
 */
export function chooseEngine<T extends Operation>(
  host: PosixHost,
  fd: number,
  path: string,
  file: EngineFile,
  options: EngineOptions,
): MakeEngine<T> {
  const { libc } = host;
  const { engine, depth, stallMs } = options;
  const blocks = file.fileSystem === BLOCKING_FILE_SYSTEM;
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
    new AsyncEngine<T>(host, queue, complete, {
      info: { name, reason },
      stallMs,
      pollMs,
    });

  const openQueue = (name: Exclude<EngineName, "auto" | "sync">) => {
    switch (name) {
      case "io_uring":
        return IoUringQueue.open<T>(libc, depth, blocks);
      case "libaio":
        return openAio<T>(libc, fd, file, depth);
      case "iocp":
        return "only Windows has completion ports";
    }
  };

  const asked = `asked for: engine: "${engine}"`;
  if (engine === "sync") return sync(asked);
  if (engine !== "auto") {
    const queue = openQueue(engine);
    if (typeof queue !== "string") {
      return over(engine, queue, [asked, ...lackOf(queue)].join("; "));
    }
    throw refusal(path, engine, queue);
  }
  if (libc.abi.os !== "linux") {
    return sync("only Linux has io_uring and AIO");
  }
  const inline = answersInline(libc, fd, file);
  if (inline !== null) return sync(inline);
  const ring = openQueue("io_uring");
  if (typeof ring !== "string") return over("io_uring", ring, null);
  if (!file.direct.active) {
    return sync(`${ring}; AIO without direct I/O blocks as well`);
  }
  const aio = openQueue("libaio");
  if (typeof aio !== "string") {
    return over("libaio", aio, [ring, ...lackOf(aio)].join("; "));
  }
  return sync(`${ring}; ${aio}`);
}

/**
 * The error for an engine that was asked for and is not to be had.
 *
 * @param path The image's path.
 * @param engine The engine.
 * @param reason Why.
 * @returns The error.
 */
export function refusal(
  path: string,
  engine: EngineName,
  reason: string,
): DiskError {
  return new DiskError(
    "platform",
    `Cannot open "${path}" with engine "${engine}" as ${reason}`,
    { operation: "open", path },
  );
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
  file: EngineFile,
  depth: number,
): AioQueue<T> | string {
  const queue = AioQueue.open<T>(libc, depth);
  if (typeof queue === "string") return queue;
  const fault = queue.tryOut(fd, file.sizeBytes);
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
  file: EngineFile,
): string | null {
  if (file.fileSystem === "tmpfs") {
    return "tmpfs is memory: a call is over before a ring would hand it on";
  }
  // A page cache answers at once what it has; what it has not would block.
  if (!file.direct.active) return null;
  const offset = file.writtenOffset();
  if (offset === undefined) return null;
  const size = Math.max(4096, file.direct.readOffsetAlignment);
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
