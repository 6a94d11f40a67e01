/**
 * Assertions about what is on disks, which show what differs sector by sector.
 *
 * @module
 */

import { isZero } from "../buffer.ts";
import type { VirtualDisk } from "../disk/disk.ts";
import { describeValue } from "../errors.ts";
import { SECTOR_BYTES } from "../geometry.ts";
import { plural } from "../plural.ts";
import { isBytes } from "../request.ts";

/** How to compare. */
export interface AssertSectorsOptions {
  /**
   * Sectors that are shown at most if they differ. Of those in a row that differ
   * alike one is shown for all.
   *
   * @default {4}
   */
  maxSectors?: number | undefined;
  /** What to say first. */
  message?: string | undefined;
}

/** How to compare memory. */
export interface AssertMemoryOptions extends AssertSectorsOptions {
  /**
   * The sector that the memory starts with, for the message.
   *
   * @default {0}
   */
  sector?: number | undefined;
}

/** Content of disks that is not what it should be. */
export class DiskAssertionError extends Error {
  /** The name that test runners know. */
  override readonly name = "AssertionError";
  /** The sectors that differ, counted from where the disk or slice begins. */
  readonly sectors: readonly number[];

  /**
   * Constructs a new instance.
   *
   * @param message What differs.
   * @param sectors The sectors that differ.
   */
  constructor(message: string, sectors: readonly number[]) {
    super(message);
    this.sectors = sectors;
  }
}

/**
 * Asserts that memory holds the same bytes, and shows the sectors that differ.
 *
 * @param actual What is there: whole sectors.
 * @param expected What should be there.
 * @param options Where it is from.
 * @throws {DiskAssertionError} If they differ.
 * @throws {TypeError} If one of both is no memory.
 *
 * @example
 * ```ts
 * import { assertSectorsEqual } from "@platter/disk/testing";
 * import { assertThrows } from "@std/assert";
 *
 * const expected = new Uint8Array(1024);
 * const actual = expected.slice();
 * actual[516] = 7;
 * assertThrows(
 *   () => assertSectorsEqual(actual, expected, { sector: 100 }),
 *   Error,
 *   "sector 101: 1 byte differs",
 * );
 * ```
 */
export function assertSectorsEqual(
  actual: Uint8Array,
  expected: Uint8Array,
  options: AssertMemoryOptions = {},
): void {
  for (const memory of [actual, expected]) {
    if (isBytes(memory)) continue;
    throw new TypeError(
      `Cannot compare sectors as each must be a Uint8Array: current value is ${
        describeValue(memory)
      }`,
    );
  }
  const difference = new Difference(options);
  difference.add(options.sector ?? 0, actual, expected);
  difference.end(
    actual.length === expected.length
      ? null
      : `There ${actual.length === 1 ? "is" : "are"} ${
        plural(actual.length, "byte")
      }, and there should be ${expected.length}`,
  );
}

/**
 * Asserts that sectors of a disk hold some bytes.
 *
 * @param disk The disk.
 * @param sector First sector.
 * @param expected What should be there: whole blocks.
 * @param options What to show.
 * @returns When they were read and are right.
 * @throws {DiskAssertionError} If they are not.
 *
 * @example
 * ```ts
 * import { VirtualDisk } from "@platter/disk";
 * import { assertSectors } from "@platter/disk/testing";
 *
 * await using disk = VirtualDisk.memory({ sectors: 8 });
 * await disk.write(2, new Uint8Array(512).fill(7));
 * await assertSectors(disk, 2, new Uint8Array(512).fill(7));
 * ```
 */
export async function assertSectors(
  disk: VirtualDisk,
  sector: number,
  expected: Uint8Array,
  options: AssertSectorsOptions = {},
): Promise<void> {
  const actual = await disk.read(sector, expected.length / SECTOR_BYTES);
  const difference = new Difference(options, disk.start);
  difference.add(sector, actual, expected);
  difference.end(null);
}

/**
 * Asserts that sectors of a disk are zeroes.
 *
 * @param disk The disk.
 * @param sector First sector; 0 by default.
 * @param count Sectors; the rest of the disk by default. None are zeroes, too.
 * @param options What to show.
 * @returns When they were read and are zeroes.
 * @throws {DiskAssertionError} If they are not.
 * @throws {DiskError} If the range is not on the disk, or the disk fails.
 */
export async function assertZeroes(
  disk: VirtualDisk,
  sector = 0,
  count: number | undefined = undefined,
  options: AssertSectorsOptions = {},
): Promise<void> {
  const difference = new Difference(options, disk.start);
  const zeroes = new Uint8Array(CHUNK_SECTORS * SECTOR_BYTES);
  for (const extent of await disk.extents(sector, count)) {
    if (extent.hole) continue;
    for (let at = 0; at < extent.count; at += CHUNK_SECTORS) {
      const length = Math.min(CHUNK_SECTORS, extent.count - at);
      const bytes = await disk.read(extent.sector + at, length);
      if (isZero(bytes)) continue;
      difference.add(
        extent.sector + at,
        bytes,
        zeroes.subarray(0, bytes.length),
      );
    }
  }
  difference.end(null);
}

/** Sectors that are read at once: whole blocks of any disk. */
export const CHUNK_SECTORS = 2048;

/** Bytes of a line of a dump. */
const LINE_BYTES = 16;

/** Sectors in a row that differ in the same way. */
interface Run {
  readonly first: number;
  last: number;
  readonly actual: Uint8Array;
  readonly expected: Uint8Array;
}

/** Gathers what differs. */
export class Difference {
  readonly #most: number;
  readonly #message: string | undefined;
  /** The sector of the whole disk that counting begins at. */
  readonly #start: number;
  readonly #sectors: number[] = [];
  readonly #runs: Run[] = [];
  /** Sectors that are not shown, as there are enough. */
  #hidden = 0;
  /** Those of them that go on as the last one shown. */
  #alike = 0;

  /**
   * Constructs a new instance.
   *
   * @param options What to show.
   * @param start The sector of the whole disk that counting begins at.
   */
  constructor({ maxSectors, message }: AssertSectorsOptions, start = 0) {
    this.#most = maxSectors ?? 4;
    this.#message = message;
    this.#start = start;
  }

  /** The sectors that differ so far. */
  get sectors(): readonly number[] {
    return this.#sectors;
  }

  /**
   * Compares some sectors.
   *
   * @param sector The first of them.
   * @param actual What is there.
   * @param expected What should be there.
   */
  add(sector: number, actual: Uint8Array, expected: Uint8Array): void {
    const length = Math.min(actual.length, expected.length);
    for (let at = 0; at < length; at += SECTOR_BYTES) {
      const end = Math.min(at + SECTOR_BYTES, length);
      const a = actual.subarray(at, end);
      const b = expected.subarray(at, end);
      if (isSame(a, b)) continue;
      const place = sector + at / SECTOR_BYTES;
      this.#sectors.push(place);
      const last = this.#runs.at(-1);
      const isAlike = last !== undefined && last.last + this.#hidden ===
          place - 1 &&
        isSame(a, last.actual) && isSame(b, last.expected);
      if (this.#sectors.length > this.#most) {
        if (isAlike) this.#alike++;
        this.#hidden++;
      } else if (isAlike) last.last = place;
      else {
        // A copy, as the memory may be used again.
        const [actual, expected] = [a.slice(), b.slice()];
        this.#runs.push({ first: place, last: place, actual, expected });
      }
    }
  }

  /**
   * Throws if anything differed.
   *
   * @param lengths What is wrong with the lengths.
   * @param where Lines that say where that is.
   * @throws {DiskAssertionError} If anything differed, or the lengths.
   */
  end(lengths: string | null, where: readonly string[] = []): void {
    const count = this.#sectors.length;
    if (count === 0 && lengths === null) return;
    const lines = this.#message === undefined ? [] : [this.#message];
    if (lengths !== null) lines.push(lengths);
    if (count > 0) {
      lines.push(
        `${count} ${
          count === 1 ? "sector differs" : "sectors differ"
        } (- is there, + should be):`,
        ...where,
        ...this.#runs.flatMap((run) => [this.#heading(run), ...dump(run)]),
      );
    }
    if (this.#hidden > 0) {
      lines.push(
        `… and ${this.#hidden} more, up to ${
          this.#place(this.#sectors.at(-1)!)
        }${this.#alike === this.#hidden ? ", all alike" : ""}`,
      );
    }
    throw new DiskAssertionError(lines.join("\n"), this.#sectors);
  }

  #heading({ first, last, actual, expected }: Run): string {
    let bytes = 0;
    for (let i = 0; i < actual.length; i++) {
      if (actual[i] !== expected[i]) bytes++;
    }
    const from = actual.findIndex((byte, i) => byte !== expected[i]);
    const alike = first === last ? "" : ` (and, alike, up to ${last})`;
    return `${this.#place(first)}${alike}: ${bytes} ${
      bytes === 1 ? "byte differs" : "bytes differ"
    }, from byte ${from} on`;
  }

  /** Where that is, and if that is a slice, where on the whole disk. */
  #place(sector: number): string {
    return this.#start === 0
      ? `sector ${sector}`
      : `sector ${sector} of the slice (sector ${
        sector + this.#start
      } of the disk)`;
  }
}

function isSame(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

/** The lines of a sector that differ, both ways; like ones in a row once. */
function dump({ actual, expected }: Run): string[] {
  const lines: string[] = [];
  let like = 0;
  let skipped = false;
  let last: { a: Uint8Array; b: Uint8Array } | null = null;
  const endRun = () => {
    if (like > 0) lines.push(`  * ${like} more of the same`);
    like = 0;
  };
  for (let at = 0; at < actual.length; at += LINE_BYTES) {
    const a = actual.subarray(at, at + LINE_BYTES);
    const b = expected.subarray(at, at + LINE_BYTES);
    if (isSame(a, b)) {
      skipped = true;
      continue;
    }
    if (!skipped && last !== null && isSame(a, last.a) && isSame(b, last.b)) {
      like++;
      continue;
    }
    endRun();
    if (skipped && lines.length > 0) lines.push("  …");
    skipped = false;
    if (lines.length >= 24) {
      lines.push("  …");
      return lines;
    }
    lines.push(line("-", at, a), line("+", at, b));
    last = { a, b };
  }
  endRun();
  return lines;
}

function line(sign: string, at: number, bytes: Uint8Array): string {
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0"))
    .join(" ");
  const text = Array.from(
    bytes,
    (byte) => byte >= 0x20 && byte < 0x7f ? String.fromCharCode(byte) : ".",
  ).join("");
  return `  ${sign} ${at.toString(16).padStart(3, "0")}  ${
    hex.padEnd(LINE_BYTES * 3 - 1)
  }  |${text}|`;
}
