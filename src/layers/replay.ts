/**
 * Does again what a trace says, on any disk, and writes traces for fio.
 *
 * @module
 */

import { fromBase64 } from "../base64.ts";
import { Request, RequestFlag, RequestType, Status } from "../request.ts";
import { ID_BYTES } from "../request.ts";
import { SECTOR_BYTES } from "../geometry.ts";
import { DueQueue } from "./due_queue.ts";
import { typeOfOperation } from "./operations.ts";
import { parseTraceLine, type TraceSubmit } from "./trace.ts";

/** Bytes of the memory of one request, at most: what an array holds anywhere. */
const MOST_DATA_BYTES = 2 ** 32;

/** What a trace is replayed on: a `VirtualDisk`. */
export interface ReplayDisk {
  /** Capacity in sectors. */
  readonly sectors: number;
  /** Settles as soon as there is room for another request. */
  readonly ready: Promise<void>;
  /**
   * Takes a request.
   *
   * @param request The request.
   * @returns How it ended.
   */
  submit(request: Request): Promise<Status>;
}

/** How to replay a trace. */
export interface ReplayOptions {
  /**
   * How fast: 1 is as it was, 2 twice as fast, `Infinity` as fast as the disk
   * goes. No request comes before those are answered that had been answered
   * before it, so that a replay is never deeper than the trace.
   *
   * @default {Infinity}
   */
  speed?: number | undefined;
  /** Gives up. */
  signal?: AbortSignal | undefined;
}

/** A request that ended otherwise than in the trace. */
export interface ReplayDifference {
  /** The request. */
  readonly submit: TraceSubmit;
  /** Whether it failed in the trace; `undefined` if the trace does not say. */
  readonly failed: boolean | undefined;
  /** How it ended now. */
  readonly status: Status;
  /** Why it failed now, in a sentence; `null` if it did not. */
  readonly message: string | null;
}

/** What a replay came to. */
export interface ReplayResult {
  /** Requests. */
  readonly requests: number;
  /** Those that failed. */
  readonly failed: number;
  /** Those that failed here and not in the trace, or the other way round. */
  readonly differences: readonly ReplayDifference[];
}

/**
 * Does again what a trace says. Writes whose bytes are not in the trace write
 * a pattern: the request's `id`, over and over. Traces may be joined: each begins
 * with its first line.
 *
 * @param lines The trace; empty lines do not matter.
 * @param disk The disk, at least as large as what the trace uses.
 * @param options How fast.
 * @returns What it came to.
 * @throws {TypeError} If the lines are no trace.
 *
 * @example The same image on another disk
 * ```ts
 * import { MemoryBackend, VirtualDisk } from "@platter/disk";
 * import { replayTrace, trace } from "@platter/disk/testing";
 * import { assertEquals } from "@std/assert";
 *
 * const lines: string[] = [];
 * const backend = trace(
 *   new MemoryBackend({ sectors: 8 }),
 *   (line) => lines.push(line),
 *   { data: true },
 * );
 * await using first = VirtualDisk.over(backend);
 * await first.write(3, new Uint8Array(512).fill(7));
 *
 * await using second = VirtualDisk.memory({ sectors: 8 });
 * const { requests, failed } = await replayTrace(lines, second);
 * assertEquals({ requests, failed }, { requests: 1, failed: 0 });
 * assertEquals(await second.read(3, 1), new Uint8Array(512).fill(7));
 * ```
 */
export async function replayTrace(
  lines: Iterable<string> | AsyncIterable<string>,
  disk: ReplayDisk,
  options: ReplayOptions = {},
): Promise<ReplayResult> {
  const { speed = Infinity, signal } = options;
  if (!(speed > 0)) {
    throw new RangeError(
      `Cannot replay a trace as speed must be above 0: current value is ${speed}`,
    );
  }
  const due = new DueQueue();
  /** By id, in order: traces without their first lines may have one twice. */
  const underWay = new Map<number, Pending[]>();
  const differences: ReplayDifference[] = [];
  let requests = 0;
  let failed = 0;
  let number = 0;
  let startMs: number | undefined;
  const settle = async (pending: Pending, expected: boolean | undefined) => {
    const status = await pending.status;
    const bad = status !== Status.Ok;
    if (bad) failed++;
    if (expected !== undefined && expected !== bad) {
      const message = pending.request.error?.message ?? null;
      const { submit } = pending;
      differences.push({ submit, failed: expected, status, message });
    }
  };
  const settleUnderWay = async () => {
    for (const [id, all] of underWay) {
      underWay.delete(id);
      for (const pending of all) await settle(pending, undefined);
    }
  };
  try {
    for await (const line of lines) {
      number++;
      if (line.trim() === "") continue;
      signal?.throwIfAborted();
      const event = parseTraceLine(line, number);
      if (event.event === "disk") {
        // Of traces that were joined, each has ids and times of its own.
        await settleUnderWay();
        startMs = undefined;
      } else if (event.event === "submit") {
        const request = requestOf(event, number);
        const traceMs = event.us / 1000 / speed;
        startMs ??= performance.now() - traceMs;
        const dueMs = startMs + traceMs;
        if (dueMs > performance.now()) await wait(due, dueMs, signal);
        await disk.ready;
        signal?.throwIfAborted();
        requests++;
        const status = disk.submit(request);
        const pending = { submit: event, request, status };
        const others = underWay.get(event.id);
        if (others === undefined) underWay.set(event.id, [pending]);
        else others.push(pending);
      } else {
        const all = underWay.get(event.id);
        if (all === undefined) continue;
        const pending = all.shift()!;
        if (all.length === 0) underWay.delete(event.id);
        await settle(pending, event.error !== undefined);
      }
    }
  } finally {
    await settleUnderWay();
  }
  return { requests, failed, differences };
}

/** Waits until a moment, or until a signal fires. */
async function wait(
  due: DueQueue,
  dueMs: number,
  signal: AbortSignal | undefined,
): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const call = due.add(dueMs, resolve);
  const onAbort = () => due.expedite(call);
  signal?.addEventListener("abort", onAbort);
  await promise;
  signal?.removeEventListener("abort", onAbort);
}

interface Pending {
  readonly submit: TraceSubmit;
  readonly request: Request;
  readonly status: Promise<Status>;
}

function requestOf(event: TraceSubmit, number: number): Request {
  const type = typeOfOperation(event.operation);
  if (type === undefined) {
    throw new TypeError(
      `Cannot replay line ${number} of a trace as there is no operation "${event.operation}"`,
    );
  }
  const flags = (event.fua ? RequestFlag.Fua : 0) |
    (event.unmap ? RequestFlag.Unmap : 0);
  let data: Uint8Array | null = null;
  if (type === RequestType.GetId) data = new Uint8Array(ID_BYTES);
  const bytes = event.count * SECTOR_BYTES;
  if (type === RequestType.In || type === RequestType.Out) {
    if (bytes > MOST_DATA_BYTES) {
      throw new TypeError(
        `Cannot replay line ${number} of a trace as a request must have ${MOST_DATA_BYTES} bytes at most: current value is ${bytes}`,
      );
    }
    data = type === RequestType.In
      ? new Uint8Array(bytes)
      : event.data === undefined
      ? pattern(event.id, event.count)
      : dataOf(event.data, bytes, number);
  }
  return new Request(type, event.sector, event.count, flags, data);
}

/** What a write writes, by the word of a trace. */
function dataOf(data: unknown, bytes: number, number: number): Uint8Array {
  const decoded = typeof data === "string" ? fromBase64(data) : null;
  if (decoded?.length === bytes) return decoded;
  throw new TypeError(
    `Cannot replay line ${number} of a trace as its data must be ${bytes} bytes in base64: current value is ${
      decoded === null ? "none" : `${decoded.length} bytes`
    }`,
  );
}

function pattern(id: number, count: number): Uint8Array {
  return new Uint8Array(
    new Uint32Array(count * SECTOR_BYTES / 4).fill(id).buffer,
  );
}

/** How to write a trace for fio. */
export interface FioIologOptions {
  /**
   * What fio is to open: a path without white space, of at most 255
   * characters. By default that of the traced disk.
   */
  path?: string | undefined;
  /**
   * The format's version. 3 has times, and fio keeps them unless it is told
   * `--replay_no_stall=1`; it needs fio 3.31. 2 has none.
   *
   * @default {3}
   */
  version?: 2 | 3 | undefined;
}

/** The most bytes that fio reads into the length of an action. */
const FIO_MAX_BYTES = 2 ** 30;

/**
 * Writes a trace in the form that `fio --read_iolog` takes. Reads, writes,
 * discards (`trim`) and flushes (`datasync`) come over; zeroes are written, a
 * FUA write is followed by a `datasync`, identities are left out. fio makes up
 * what it writes.
 *
 * @param lines The trace.
 * @param options Which file, and which version.
 * @returns The log.
 * @throws {TypeError} If the lines are no trace, or there is no path that fio
 * can read.
 *
 * @example
 * ```ts
 * import { MemoryBackend, VirtualDisk } from "@platter/disk";
 * import { trace, traceToFioIolog } from "@platter/disk/testing";
 * import { assertEquals } from "@std/assert";
 *
 * const lines: string[] = [];
 * const backend = trace(new MemoryBackend({ sectors: 8 }), (l) => lines.push(l));
 * await using disk = VirtualDisk.over(backend);
 * await disk.write(3, new Uint8Array(512));
 * const log = traceToFioIolog(lines, { path: "disk.img", version: 2 });
 * assertEquals(log.split("\n")[3], "disk.img write 1536 512");
 * ```
 */
export function traceToFioIolog(
  lines: Iterable<string>,
  options: FioIologOptions = {},
): string {
  const { version = 3 } = options;
  let path = options.path;
  const actions: [us: number, action: string][] = [];
  let number = 0;
  for (const line of lines) {
    number++;
    if (line.trim() === "") continue;
    const event = parseTraceLine(line, number);
    if (event.event === "disk") path ??= event.path ?? undefined;
    if (event.event !== "submit") continue;
    const action = FIO_ACTIONS[event.operation];
    if (action === undefined) continue;
    // Read back as "action offset length", and for a sync both are needed too.
    const end = event.sector + event.count;
    let sector = event.sector;
    do {
      const count = Math.min(end - sector, FIO_MAX_BYTES / SECTOR_BYTES);
      actions.push([
        event.us,
        `${action} ${sector * SECTOR_BYTES} ${count * SECTOR_BYTES}`,
      ]);
      sector += count;
    } while (sector < end);
    if (event.fua) actions.push([event.us, "datasync 0 0"]);
  }
  if (path === undefined || !/^\S{1,255}$/.test(path)) {
    throw new TypeError(
      `Cannot write a log for fio as path must be 1 to 255 characters without white space: current value is ${
        JSON.stringify(path)
      }`,
    );
  }
  const last = actions.at(-1)?.[0] ?? 0;
  const text = [`fio version ${version} iolog`];
  for (
    const [us, action] of [
      [0, "add"],
      [0, "open"],
      ...actions,
      [last, "close"],
    ] as const
  ) text.push(version === 3 ? `${us} ${path} ${action}` : `${path} ${action}`);
  return text.join("\n") + "\n";
}

/** What fio calls operations. */
const FIO_ACTIONS: Readonly<Record<string, string>> = {
  "read": "read",
  "write": "write",
  "write zeroes": "write",
  "discard": "trim",
  "secure erase": "trim",
  "flush": "datasync",
};
