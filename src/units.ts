/**
 * Sizes as people write them: `64MiB`, `1.5 GB`, `2048s`.
 *
 * @module
 */

import { SECTOR_BYTES } from "./geometry.ts";

const KIB = 1024;
const KB = 1000;

/**
 * Bytes of each unit, by its name in lower case. A letter alone is binary, as
 * in qemu-img, truncate and losetup.
 */
const UNITS: ReadonlyMap<string, number> = new Map([
  ["", 1],
  ["b", 1],
  ["s", SECTOR_BYTES],
  ["k", KIB],
  ["m", KIB ** 2],
  ["g", KIB ** 3],
  ["t", KIB ** 4],
  ["p", KIB ** 5],
  ["kib", KIB],
  ["mib", KIB ** 2],
  ["gib", KIB ** 3],
  ["tib", KIB ** 4],
  ["pib", KIB ** 5],
  ["kb", KB],
  ["mb", KB ** 2],
  ["gb", KB ** 3],
  ["tb", KB ** 4],
  ["pb", KB ** 5],
]);

const BINARY_NAMES = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"] as const;

const SIZE = /^(\d{1,16})(?:\.(\d{1,16}))?\s*([a-z]*)$/i;

/** A letter that is a digit is never a unit: 0x1b is 27, and no sum of bytes. */
const HEX_SIZE = /^(0x[\da-f]{1,14})()\s*([a-z]*)$/i;

/**
 * Reads a size: a number and a unit. Case does not matter, and a space may
 * stand between them. The number may be hexadecimal: `0x200000`, `0x800s`.
 *
 * | unit | bytes |
 * | --- | --- |
 * | none, `B` | 1 |
 * | `s` | 512 (a sector) |
 * | `KiB`, `MiB`, `GiB`, `TiB`, `PiB`, or `K`, `M`, `G`, `T`, `P` | powers of 1,024 |
 * | `kB`, `MB`, `GB`, `TB`, `PB` | powers of 1,000 |
 *
 * @param text The size. It may have a fraction as long as it comes to whole
 * bytes.
 * @returns Bytes, a safe integer.
 * @throws {TypeError} If the text is no number with a known unit.
 * @throws {RangeError} If it does not come to whole bytes, or to too many.
 *
 * @example
 * ```ts
 * import { parseSize } from "@platter/disk";
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(parseSize("64MiB"), 67_108_864);
 * assertEquals(parseSize("1.5 kB"), 1_500);
 * assertEquals(parseSize("2048s"), 1_048_576);
 * assertEquals(parseSize("0x100000"), 1_048_576);
 * ```
 */
export function parseSize(text: string): number {
  const match = typeof text === "string"
    ? SIZE.exec(text.trim()) ?? HEX_SIZE.exec(text.trim())
    : null;
  const unit = match === null ? undefined : UNITS.get(match[3]!.toLowerCase());
  if (match === null || unit === undefined) {
    throw new TypeError(
      `Cannot parse a size as it must be a number with a unit such as "64MiB", "2048s" or "512": current value is ${
        describe(text)
      }`,
    );
  }
  // In whole numbers: 0.1 is none that a float can hold.
  const fraction = match[2] ?? "";
  const scale = 10n ** BigInt(fraction.length);
  const scaled = BigInt(match[1]! + fraction) * BigInt(unit);
  if (scaled % scale !== 0n) {
    throw new RangeError(
      `Cannot parse a size as it must be whole bytes: current value is ${
        describe(text)
      }`,
    );
  }
  const bytes = scaled / scale;
  if (bytes > BigInt(Number.MAX_SAFE_INTEGER)) {
    throw new RangeError(
      `Cannot parse a size as it must be less than 8 PiB: current value is ${
        describe(text)
      }`,
    );
  }
  return Number(bytes);
}

/**
 * Reads a size that must be whole sectors, such as a place on a disk.
 *
 * @param text The size: `"2048s"` is 2,048 sectors, and so is `"1MiB"`. A
 * number without a unit is bytes, as in {@linkcode parseSize}.
 * @returns Sectors of 512 bytes.
 * @throws {TypeError} If the text is no size.
 * @throws {RangeError} If it does not come to whole sectors.
 *
 * @example
 * ```ts
 * import { parseSectors } from "@platter/disk";
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(parseSectors("2048s"), 2_048);
 * assertEquals(parseSectors("1MiB"), 2_048);
 * ```
 */
export function parseSectors(text: string): number {
  const bytes = parseSize(text);
  if (bytes % SECTOR_BYTES !== 0) {
    throw new RangeError(
      `Cannot parse sectors as the size must be a multiple of ${SECTOR_BYTES} bytes: current value is ${
        describe(text)
      }`,
    );
  }
  return bytes / SECTOR_BYTES;
}

/**
 * Prints a size in the largest binary unit that it reaches, with at most two
 * decimals. What had to be rounded is another size, which may come to no whole
 * bytes: 1,048,575 bytes are `"1 MiB"`. {@linkcode parseSize} reads back exactly
 * what was printed exactly.
 *
 * @param bytes Bytes, 0 or more.
 * @returns For example `"64 MiB"`, `"1.5 GiB"`, `"512 B"`.
 * @throws {RangeError} If it is no number of bytes.
 *
 * @example
 * ```ts
 * import { formatSize } from "@platter/disk";
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(formatSize(67_108_864), "64 MiB");
 * assertEquals(formatSize(1_536), "1.5 KiB");
 * ```
 */
export function formatSize(bytes: number): string {
  if (!Number.isFinite(bytes) || bytes < 0) {
    throw new RangeError(
      `Cannot format a size as it must be a finite number ≥ 0: current value is ${bytes}`,
    );
  }
  let value = Math.round(bytes);
  let unit = 0;
  // 1,023.996 KiB prints as 1,024.00: by then it belongs to the next unit.
  while (
    Math.round(value * 100) >= KIB * 100 && unit < BINARY_NAMES.length - 1
  ) {
    value /= KIB;
    unit++;
  }
  return `${Math.round(value * 100) / 100} ${BINARY_NAMES[unit]}`;
}

/**
 * Prints a count with a comma between every three digits, and what is counted.
 *
 * @param count The count, a safe integer.
 * @param noun What is counted, in the singular; it takes an "s" for any count
 * but one.
 * @returns For example `"131,072 sectors"`.
 * @throws {RangeError} If it is no safe integer.
 *
 * @example
 * ```ts
 * import { formatCount } from "@platter/disk";
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(formatCount(131_072), "131,072");
 * assertEquals(formatCount(1, "sector"), "1 sector");
 * ```
 */
export function formatCount(count: number, noun?: string): string {
  if (!Number.isSafeInteger(count)) {
    throw new RangeError(
      `Cannot format a count as it must be a safe integer: current value is ${count}`,
    );
  }
  // Not Intl: the same text on every machine.
  const digits = String(Math.abs(count)).replace(/\B(?=(\d{3})+$)/g, ",");
  const number = count < 0 ? `-${digits}` : digits;
  if (noun === undefined) return number;
  return `${number} ${noun}${Math.abs(count) === 1 ? "" : "s"}`;
}

function describe(value: unknown): string {
  return typeof value === "string" ? JSON.stringify(value) : String(value);
}
