/**
 * Two disks as one: writes go to both, reads come from both and must agree. One
 * of them is under test, the other one is right, by being a plain disk in
 * memory, another engine, or the same disk without a layer.
 *
 * | request | what happens |
 * | --- | --- |
 * | read | both are read and compared; a difference fails the read with a {@linkcode MismatchError} |
 * | write, write zeroes | both; a failure of either is the answer |
 * | discard, secure erase | both if they can; what is left is up to each disk, so that the next read takes it from the first and writes it to the second |
 * | a write that failed | may or may not have happened: as after a discard |
 * | flush | both |
 * | identity, extents, memory | the first |
 *
 * Requests that overlap are carried out one after the other, in the order in
 * which they came: two disks may do otherwise each its own way.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import {
  type Abilities,
  type Ability,
  type Backend,
  checkBackend,
  type Complete,
  refuseChanged,
  whyAsyncOnly,
} from "../backend.ts";
import { RangeLock } from "../backends/range_lock.ts";
import { gather } from "../buffer.ts";
import { describePlace, DiskError } from "../errors.ts";
import { SECTOR_BYTES } from "../geometry.ts";
import type { BackendInfo } from "../info.ts";
import { Request, RequestType } from "../request.ts";
import { abortedError, requestError } from "../request_error.ts";
import { Layer, type LayerOptions, submitAllThen } from "./layer.ts";
import { SectorRanges } from "./sector_ranges.ts";
import { plural } from "../plural.ts";

/** Where two disks differ. */
export interface Mismatch {
  /** The first sector that differs. */
  readonly sector: number;
  /** The first byte in it that does. */
  readonly byte: number;
  /** The sector as the first disk has it. */
  readonly actual: Uint8Array;
  /** The sector as the second disk has it. */
  readonly expected: Uint8Array;
}

/** Two disks that must agree and do not. Its `sector` is the first that differs. */
export class MismatchError extends DiskError {
  /** The first byte of the sector that differs. */
  readonly byte: number;
  /** The sector as the first disk has it. */
  readonly actual: Uint8Array;
  /** The sector as the second disk has it. */
  readonly expected: Uint8Array;

  /**
   * Constructs a new instance.
   *
   * @param request The read.
   * @param mismatch Where they differ.
   * @param names What the disks are called.
   */
  constructor(
    request: Request,
    mismatch: Mismatch,
    names: readonly [string, string],
  ) {
    const { sector, byte, actual, expected } = mismatch;
    const hex = (bytes: Uint8Array) =>
      `0x${bytes[byte]!.toString(16).padStart(2, "0")}`;
    super(
      "io",
      `Cannot ${
        describePlace("read", request.sector, request.count)
      } as sector ${sector} must be the same on both disks: byte ${byte} is ${
        hex(actual)
      } on "${names[0]}" and ${hex(expected)} on "${names[1]}"`,
      { operation: "read", sector, count: 1 },
    );
    this.byte = byte;
    this.actual = actual;
    this.expected = expected;
  }
}

/**
 * Two disks as one; {@linkcode verify} makes one.
 *
 * @example
 * ```ts
 * import { MemoryBackend, VirtualDisk } from "@platter/disk";
 * import { faults, MismatchError, verify } from "@platter/disk/testing";
 * import { assertEquals, assertRejects } from "@std/assert";
 *
 * const lossy = faults(new MemoryBackend({ sectors: 8 }), ["write nth=2 lost"]);
 * await using disk = VirtualDisk.over(
 *   verify(lossy, new MemoryBackend({ sectors: 8 })),
 * );
 * await disk.write(1, new Uint8Array(512).fill(1));
 * await disk.write(2, new Uint8Array(512).fill(2));
 * const error = await assertRejects(() => disk.read(0, 8), MismatchError);
 * assertEquals(error.sector, 2);
 * ```
 */
export class Verify extends Layer {
  /** Whether reads are compared; writes go to both in any case. */
  enabled = true;
  /** The disk that is right. */
  readonly other: Backend;
  readonly #abilities: Abilities;
  readonly #lock = new RangeLock();
  /** What waits for those that it overlaps, and how it is answered. */
  readonly #waiting = new Map<Request, (error: DiskError | null) => void>();
  /** Requests in flight. */
  readonly #pairs = new Map<Request, Pair>();
  /** Sectors whose content is up to the first disk. */
  readonly #unknown = new SectorRanges();

  /**
   * Constructs a new instance.
   *
   * @param a The disk under test.
   * @param b The disk that is right.
   * @param options Whether it owns both.
   * @throws {RangeError} If they differ in size, or the second one has larger
   * blocks.
   * @throws {TypeError} If one of both is no backend.
   */
  constructor(a: Backend, b: Backend, options?: LayerOptions) {
    super("verify", a, options);
    checkBackend("make the layer verify", b);
    if (
      a.geometry.sectors !== b.geometry.sectors ||
      b.geometry.blockSize > a.geometry.blockSize
    ) {
      throw new RangeError(
        `Cannot verify a disk of ${
          shapeOf(a)
        } as the other one must have as many sectors, and blocks no larger: current value is ${
          shapeOf(b)
        }`,
      );
    }
    this.other = b;
    this.#abilities = {
      ...a.abilities,
      readOnly: a.abilities.readOnly || b.abilities.readOnly,
      flush: weaker(a.abilities.flush, b.abilities.flush),
      fua: weaker(a.abilities.fua, b.abilities.fua),
      writeZeroes: weaker(a.abilities.writeZeroes, b.abilities.writeZeroes),
    };
  }

  /** Nothing is waited for but both disks. */
  protected override get answersLate(): string | null {
    return whyAsyncOnly(this.other);
  }

  /** Runs a function while both carry out requests by blocking calls. */
  protected override block(run: () => void): boolean {
    let ran = false;
    return super.block(() => ran = this.other.synchronously!(run)) && ran;
  }

  /** What both can do. */
  override get abilities(): Abilities {
    return this.#abilities;
  }

  /** Why two disks that must agree keep their size. */
  override get keepsSize(): string {
    return "it is compared with another one of the same size";
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
    // What need not wait goes down as two batches, the rest when it may.
    let together: Pair[] | null = [];
    for (const request of batch) {
      const answer = (error: DiskError | null) => complete(request, error);
      const begin = (release: () => void) => {
        // Withdrawn while it waited, and answered.
        if (!this.#waiting.delete(request)) return release();
        let pair: Pair;
        try {
          pair = this.#pair(request, (error) => {
            release();
            answer(error);
          });
        } catch (cause) {
          release();
          return answer(noMemory(request, cause));
        }
        if (together !== null) together.push(pair);
        else this.#submit([pair]);
      };
      this.#waiting.set(request, answer);
      if (request.count === 0) begin(() => {});
      else {
        this.#lock.claim(request.sector, request.sector + request.count, begin);
      }
    }
    const pairs = together;
    together = null;
    this.#submit(pairs);
  }

  /**
   * What the layer says of itself.
   *
   * @param info What the backend says of itself.
   * @returns The same, with what the layer changes.
   */
  protected override describe(info: BackendInfo): BackendInfo {
    const { backend } = super.describe(info);
    return { ...info, backend: `${backend} and ${this.other.info.backend}` };
  }

  /**
   * Tries to stop a submitted request early, on both disks. One that waits for
   * another one waits no longer.
   *
   * @param request The request.
   */
  override cancel(request: Request): void {
    const answer = this.#waiting.get(request);
    if (answer !== undefined) {
      this.#waiting.delete(request);
      const { path } = this.backend.info;
      return answer(abortedError(request, { path }));
    }
    super.cancel(request);
    const mirror = this.#pairs.get(request)?.mirror;
    if (mirror) this.other.cancel?.(mirror);
  }

  /**
   * Called when the disk begins to close; passed on to both bases, unless they
   * are shared.
   */
  override closing(): void {
    super.closing();
    if (this.ownsBase) this.other.closing?.();
  }

  /**
   * Gives up what the layer holds; everything has been answered.
   *
   * @returns When it is done.
   */
  protected override async release(): Promise<void> {
    await Promise.all([
      super.release(),
      this.ownsBase ? this.other.close() : null,
    ]);
  }

  #pair(request: Request, answer: (error: DiskError | null) => void): Pair {
    const { type, sector, count, flags, data, more } = request;
    const { other } = this;
    const goes = type === RequestType.Discard
      ? other.abilities.discard !== "none"
      : type === RequestType.SecureErase
      ? other.abilities.secureErase !== "none"
      : type !== RequestType.GetId;
    const mirror = !goes ? null : type === RequestType.In
      ? new Request(
        type,
        sector,
        count,
        flags,
        other.allocate(count * SECTOR_BYTES),
      )
      : new Request(type, sector, count, flags, data, more);
    return {
      request,
      mirror,
      left: mirror === null ? 1 : 2,
      error: null,
      answer,
    };
  }

  #submit(pairs: readonly Pair[]): void {
    if (pairs.length === 0) return;
    const byRequest = new Map<Request, Pair>();
    const first: Request[] = [];
    const second: Request[] = [];
    for (const pair of pairs) {
      byRequest.set(pair.request, pair);
      this.#pairs.set(pair.request, pair);
      first.push(pair.request);
      if (pair.mirror === null) continue;
      byRequest.set(pair.mirror, pair);
      second.push(pair.mirror);
    }
    const done: Complete = (request, error) => {
      const pair = byRequest.get(request)!;
      // The first disk's word goes before the second's.
      if (request === pair.request) pair.error = error ?? pair.error;
      else pair.error ??= error;
      if (--pair.left === 0) this.#settle(pair);
    };
    this.backend.submit(first, done);
    if (second.length > 0) this.other.submit(second, done);
  }

  #settle(pair: Pair): void {
    const { request, mirror, error, answer } = pair;
    this.#pairs.delete(request);
    const { type, sector, count } = request;
    if (type === RequestType.In) {
      if (error !== null || !this.enabled) answer(error);
      else this.#compare(request, mirror!.data!, answer);
      return;
    }
    if (request.writes) {
      const settled = error === null &&
        (type === RequestType.Out || type === RequestType.WriteZeroes);
      if (settled) this.#unknown.remove(sector, count);
      else this.#unknown.add(sector, count);
    }
    answer(error);
  }

  #compare(
    request: Request,
    expected: Uint8Array,
    answer: (error: DiskError | null) => void,
  ): void {
    const { sector, count } = request;
    const changed = refuseChanged(request);
    if (changed !== null) return answer(changed);
    const unknown = this.#unknown.within(sector, count);
    if (unknown.length === 0) {
      answer(this.#difference(request, expected));
      return;
    }
    const lessons = unknown.map((run) => {
      const bytes = new Uint8Array(run.count * SECTOR_BYTES);
      gather(request, (run.sector - sector) * SECTOR_BYTES, bytes);
      expected.set(bytes, (run.sector - sector) * SECTOR_BYTES);
      return new Request(RequestType.Out, run.sector, run.count, 0, bytes);
    });
    submitAllThen(this.other, lessons, (error) => {
      if (error === null) {
        for (const run of unknown) this.#unknown.remove(run.sector, run.count);
      }
      // Its memory may have changed since.
      answer(
        error ?? refuseChanged(request) ?? this.#difference(request, expected),
      );
    });
  }

  #difference(request: Request, expected: Uint8Array): MismatchError | null {
    let at = 0;
    for (let i = 0; i < request.segmentCount; i++) {
      const segment = request.segment(i);
      if (
        !bufferOf(segment).equals(
          bufferOf(expected.subarray(at, at + segment.length)),
        )
      ) return this.#firstDifference(request, expected);
      at += segment.length;
    }
    return null;
  }

  #firstDifference(request: Request, expected: Uint8Array): MismatchError {
    const actual = new Uint8Array(expected.length);
    gather(request, 0, actual);
    let at = 0;
    while (actual[at] === expected[at]) at++;
    const index = Math.floor(at / SECTOR_BYTES);
    const start = index * SECTOR_BYTES;
    return new MismatchError(request, {
      sector: request.sector + index,
      byte: at - start,
      actual: actual.slice(start, start + SECTOR_BYTES),
      expected: expected.slice(start, start + SECTOR_BYTES),
    }, [this.backend.info.backend, this.other.info.backend]);
  }
}

/** A request, and the same for the second disk. */
interface Pair {
  readonly request: Request;
  readonly mirror: Request | null;
  left: number;
  error: DiskError | null;
  readonly answer: (error: DiskError | null) => void;
}

function noMemory(request: Request, cause: unknown): DiskError {
  const reason = `there is no memory for what the other disk has: ${cause}`;
  return requestError("io", request, reason, { cause });
}

function weaker(a: Ability, b: Ability): Ability {
  const order: Ability[] = ["none", "emulated", "native"];
  return order[Math.min(order.indexOf(a), order.indexOf(b))]!;
}

function bufferOf(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
}

/**
 * Makes one disk of two that must agree.
 *
 * @param a The disk under test: the one that is read, and whose shape counts.
 * @param b The disk that is right; it must start with the same content. Closing
 * the layer closes both, unless `ownsBase` is false.
 * @param options Whether it owns them.
 * @returns The layer.
 * @throws {RangeError} If they differ in size, or the second one has larger
 * blocks.
 */
export function verify(
  a: Backend,
  b: Backend,
  options?: LayerOptions,
): Verify {
  return new Verify(a, b, options);
}

function shapeOf({ geometry }: Backend): string {
  const { sectors, blockSize } = geometry;
  return `${plural(sectors, "sector")} in blocks of ${blockSize} bytes`;
}
