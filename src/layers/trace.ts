/**
 * Writes down every request and every answer with its time, as JSON Lines: one
 * object per line, so that a trace can be cut, filtered and joined by `grep`
 * and `jq`.
 *
 * | line | fields |
 * | --- | --- |
 * | the first | `event: "disk"`, `version: 1`, `sectors`, `blockSize`, `backend`, `path` |
 * | a request | `event: "submit"`, `us`, `id`, `batch`, `operation`, `sector`, `count`, `fua` and `unmap` if set, `data` (base64, of writes) if asked for |
 * | its answer | `event: "complete"`, `us`, `id`, and if it failed `error: { kind, code, message }` |
 *
 * `us` is the time since the layer was made, in whole µs. `id` counts requests
 * from 1, `batch` counts batches. Sectors are those of 512 bytes.
 *
 * A trace is the oracle for other layers, too: run a workload with and without
 * one, and compare what reached the disk.
 *
 * @module
 */

import { printable } from "../printable.ts";
import type { Backend, Complete } from "../backend.ts";
import { toBase64 } from "../base64.ts";
import { gather } from "../buffer.ts";
import type { DiskErrorKind } from "../errors.ts";
import { SECTOR_BYTES } from "../geometry.ts";
import {
  operationName,
  type Request,
  RequestFlag,
  RequestType,
} from "../request.ts";
import { Layer, type LayerOptions } from "./layer.ts";
import type { DiskOperation } from "./operations.ts";

/** Takes one line of a trace, without a line break. It must not submit. */
export type TraceSink = (line: string) => void;

/** What to write down. */
export interface TraceOptions extends LayerOptions {
  /**
   * Whether the bytes of writes are part of the trace, so that a replay gives
   * the same image.
   *
   * @default {false}
   */
  data?: boolean | undefined;
}

/** The first line of a trace: which disk. */
export interface TraceDisk {
  /** Always `"disk"`. */
  readonly event: "disk";
  /** The format's version. */
  readonly version: 1;
  /** Capacity in sectors. */
  readonly sectors: number;
  /** Logical block size in bytes. */
  readonly blockSize: number;
  /** The backend's name. */
  readonly backend: string;
  /** The image's path; `null` if there is none. */
  readonly path: string | null;
}

/** A request. */
export interface TraceSubmit {
  /** Always `"submit"`. */
  readonly event: "submit";
  /** Time in µs. */
  readonly us: number;
  /** The request, by the order of submission. */
  readonly id: number;
  /** The batch, by the order of submission. */
  readonly batch: number;
  /** What it asks for. */
  readonly operation: DiskOperation;
  /** First sector. */
  readonly sector: number;
  /** Sectors. */
  readonly count: number;
  /** Whether it must be durable when it completes. */
  readonly fua?: true;
  /** Whether a write of zeroes may deallocate. */
  readonly unmap?: true;
  /** What is written, in base64. */
  readonly data?: string;
}

/** An answer. */
export interface TraceComplete {
  /** Always `"complete"`. */
  readonly event: "complete";
  /** Time in µs. */
  readonly us: number;
  /** The request. */
  readonly id: number;
  /** Why it failed. */
  readonly error?: {
    /** What went wrong. */
    readonly kind: DiskErrorKind;
    /** The error number's name. */
    readonly code?: string;
    /** In a sentence. */
    readonly message: string;
  };
}

/** A line of a trace. */
export type TraceEvent = TraceDisk | TraceSubmit | TraceComplete;

/**
 * A disk whose requests are written down; {@linkcode trace} makes one.
 *
 * @example
 * ```ts
 * import { MemoryBackend, VirtualDisk } from "@platter/disk";
 * import { trace } from "@platter/disk/testing";
 * import { assertEquals } from "@std/assert";
 *
 * const lines: string[] = [];
 * const traced = trace(new MemoryBackend({ sectors: 8 }), (line) => lines.push(line));
 * await using disk = VirtualDisk.over(traced);
 * await disk.write(3, new Uint8Array(512));
 * const { operation, sector, count } = JSON.parse(lines[1]!);
 * assertEquals([operation, sector, count], ["write", 3, 1]);
 * assertEquals(JSON.parse(lines[2]!).event, "complete");
 * ```
 */
export class Trace extends Layer {
  /** Whether requests submitted from now on are written down. */
  enabled = true;
  /** Why the trace ended: what the sink threw, or a line that is too long. */
  failure: unknown = undefined;
  readonly #sink: TraceSink;
  readonly #data: boolean;
  readonly #startMs = performance.now();
  #requests = 0;
  #batches = 0;

  /**
   * Constructs a new instance.
   *
   * @param backend What it lies over.
   * @param sink Takes the lines.
   * @param options What to write down.
   */
  constructor(backend: Backend, sink: TraceSink, options: TraceOptions = {}) {
    super("trace", backend, options);
    this.#sink = sink;
    this.#data = options.data ?? false;
    this.#write(() => ({
      event: "disk",
      version: 1,
      sectors: backend.geometry.sectors,
      blockSize: backend.geometry.blockSize,
      backend: backend.info.backend,
      path: backend.info.path,
    }));
  }

  /** Nothing is waited for but the base. */
  protected override get answersLate(): null {
    return null;
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
    if (!this.enabled) {
      this.backend.submit(batch, complete);
      return;
    }
    const ids = new Map<Request, number>();
    const number = ++this.#batches;
    const us = this.#us();
    for (const request of batch) {
      const id = ++this.#requests;
      ids.set(request, id);
      this.#write(() => this.#describe(request, id, number, us));
    }
    this.backend.submit(batch, (request, error) => {
      this.#write(() => ({
        event: "complete",
        us: this.#us(),
        id: ids.get(request)!,
        ...(error === null ? {} : {
          error: {
            kind: error.kind,
            ...(error.code === undefined ? {} : { code: error.code }),
            message: error.message,
          },
        }),
      }));
      complete(request, error);
    });
  }

  #describe(
    request: Request,
    id: number,
    batch: number,
    us: number,
  ): TraceSubmit {
    const { type, sector, count, flags } = request;
    const event: TraceSubmit = {
      event: "submit",
      us,
      id,
      batch,
      operation: operationName(type) as DiskOperation,
      sector,
      count,
      ...(request.writes && request.fua ? { fua: true } : {}),
      ...((flags & RequestFlag.Unmap) !== 0 ? { unmap: true } : {}),
    };
    if (!this.#data || type !== RequestType.Out) return event;
    const bytes = new Uint8Array(count * SECTOR_BYTES);
    gather(request, 0, bytes);
    return { ...event, data: toBase64(bytes) };
  }

  #us(): number {
    return Math.round((performance.now() - this.#startMs) * 1000);
  }

  #write(describe: () => TraceEvent): void {
    if (this.failure !== undefined) return;
    try {
      this.#sink(JSON.stringify(describe()));
    } catch (error) {
      // A backend never throws, and half a trace is no trace: the sink is full,
      // or what is written is longer than a text can be.
      this.failure = error;
      this.enabled = false;
    }
  }
}

/**
 * Writes down every request to a disk.
 *
 * @param backend What it lies over; closing the layer closes it, unless
 * `ownsBase` is false.
 * @param sink Takes the lines.
 * @param options What to write down.
 * @returns The layer.
 */
export function trace(
  backend: Backend,
  sink: TraceSink,
  options?: TraceOptions,
): Trace {
  return new Trace(backend, sink, options);
}

/**
 * Reads one line of a trace.
 *
 * @param line The line.
 * @param number Its number, for the error.
 * @returns What it says.
 * @throws {TypeError} If it is no line of a trace.
 */
export function parseTraceLine(line: string, number = 1): TraceEvent {
  let event: Partial<Record<string, unknown>> | null;
  try {
    event = JSON.parse(line);
  } catch {
    event = null;
  }
  const integers = (...names: string[]) =>
    names.every((name) =>
      Number.isSafeInteger(event![name]) && Number(event![name]) >= 0
    );
  if (typeof event === "object" && event !== null) {
    const good = event.event === "disk"
      ? event.version === 1 && integers("sectors", "blockSize")
      : event.event === "submit"
      ? integers("us", "id", "sector", "count") &&
        typeof event.operation === "string"
      : event.event === "complete" && integers("us", "id");
    if (good) return event as unknown as TraceEvent;
  }
  throw new TypeError(
    `Cannot read line ${number} of a trace as it must be an event "disk" of version 1, "submit" or "complete": current value is "${
      printable(line, 80)
    }"`,
  );
}
