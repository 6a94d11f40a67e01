/**
 * Golden images: what a disk should hold, as a text that is small, is kept in
 * version control, and whose difference shows which blocks changed.
 *
 * ```text
 * platter-golden 1
 * sectors 131072
 * 0+8 Y2BgYGRgYGAQYCAO…
 * 2048+8*20 =ff
 * ```
 *
 * | part of a line | meaning |
 * | --- | --- |
 * | `0+8` | the first sector, and how many: blocks of 4 KiB, as far as the disk goes |
 * | `*20` | so many of them in a row, all alike |
 * | `=ff` | every byte is this one, in hexadecimal |
 * | anything else | the bytes, compressed (RFC 1951) and in base64 (RFC 4648) |
 *
 * What is not there is zeroes. A block that did not change keeps its line, also
 * if another version of zlib would compress it otherwise.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import { deflateRawSync, inflateRawSync } from "node:zlib";
import { isZero } from "../buffer.ts";
import { isSame } from "../bytes.ts";
import { VirtualDisk } from "../disk/disk.ts";
import { SECTOR_BYTES } from "../geometry.ts";
import { formatSize } from "../units.ts";

/** How every golden image begins. */
export const GOLDEN_START = "platter-golden 1\n";

/** Sectors of a block. */
const BLOCK = 8;

/** Bytes of blocks that are kept at most: what is larger is no small text. */
const MOST_BYTES = 256 << 20;

/** A golden image, read. */
export interface GoldenImage {
  /** Sectors of the disk. */
  readonly sectors: number;
  /** Its blocks, each as its own line would have them. */
  readonly blocks: ReadonlyMap<number, { text: string; bytes: Uint8Array }>;
}

/**
 * Reads a golden image.
 *
 * @param text The text of its file.
 * @returns The image.
 * @throws {TypeError} If it is none, with the line that is wrong.
 */
export function parseGolden(text: string): GoldenImage {
  const fail = (line: number, reason: string): never => {
    throw new TypeError(
      `Cannot read a golden image as line ${line} must be ${reason}`,
    );
  };
  const lines = text.split("\n");
  if (`${lines[0]}\n` !== GOLDEN_START) fail(1, `"${GOLDEN_START.trim()}"`);
  const sectors = Number(/^sectors (\d{1,16})$/.exec(lines[1] ?? "")?.[1]);
  if (!Number.isSafeInteger(sectors * SECTOR_BYTES)) {
    fail(2, `"sectors" and their number`);
  }
  const blocks = new Map<number, { text: string; bytes: Uint8Array }>();
  let before = 0;
  for (let i = 2; i < lines.length; i++) {
    const line = lines[i]!.trimEnd();
    if (line === "") continue;
    const match = /^(\d{1,16})\+([1-8])(?:\*(\d{1,9}))? (\S+)$/.exec(line);
    if (match === null) return fail(i + 1, `as in "2048+8*20 =ff"`);
    const [first, count, times] = [match[1], match[2], match[3] ?? 1]
      .map(Number) as [number, number, number];
    const end = first + count * times;
    if (
      first % BLOCK !== 0 || first < before || end > sectors || times < 1 ||
      (count !== BLOCK && (times > 1 || end !== sectors)) ||
      (blocks.size + times) * BLOCK * SECTOR_BYTES > MOST_BYTES
    ) fail(i + 1, "a block of the disk after those of the lines before");
    before = end;
    const bytes = decode(match[4]!, count * SECTOR_BYTES);
    if (bytes === null) return fail(i + 1, "the bytes of its sectors");
    for (let j = 0; j < times; j++) {
      blocks.set(first + j * count, { text: match[4]!, bytes });
    }
  }
  return { sectors, blocks };
}

/**
 * Makes a disk in memory of a golden image.
 *
 * @param golden The image.
 * @returns The disk.
 */
export async function openGolden(golden: GoldenImage): Promise<VirtualDisk> {
  const disk = VirtualDisk.memory({ sectors: golden.sectors });
  for (const [sector, { bytes }] of golden.blocks) {
    await disk.write(sector, bytes);
  }
  return disk;
}

/**
 * Writes a disk as a golden image.
 *
 * @param disk The disk.
 * @param hide Makes zeroes of what is not to be kept, in some sectors' memory.
 * @param old The golden image that there was, whose lines stay.
 * @returns The text of a file.
 * @throws {RangeError} If there is more in the disk than a golden image keeps.
 * @throws {DiskError} If the disk fails.
 */
export async function formatGolden(
  disk: VirtualDisk,
  hide: (sector: number, bytes: Uint8Array) => void,
  old: GoldenImage | null,
): Promise<string> {
  const runs: { first: number; count: number; times: number; text: string }[] =
    [];
  let bytesKept = 0;
  const chunk = 2048;
  for (let sector = 0; sector < disk.sectors; sector += chunk) {
    const sectors = Math.min(chunk, disk.sectors - sector);
    const extents = await disk.extents(sector, sectors);
    if (extents.every(({ hole }) => hole)) continue;
    const bytes = await disk.read(sector, sectors);
    hide(sector, bytes);
    for (let at = 0; at < sectors; at += BLOCK) {
      const block = bytes.subarray(
        at * SECTOR_BYTES,
        (at + BLOCK) * SECTOR_BYTES,
      );
      if (isZero(block)) continue;
      bytesKept += block.length;
      if (bytesKept > MOST_BYTES) {
        throw new RangeError(
          `Cannot keep a disk as a golden image as at most ${
            formatSize(MOST_BYTES)
          } of it must be other than zeroes: compare it with another image by assertDisksEqual()`,
        );
      }
      const first = sector + at;
      const known = old?.blocks.get(first);
      const text = known !== undefined && isSame(known.bytes, block)
        ? known.text
        : encode(block);
      const count = block.length / SECTOR_BYTES;
      const last = runs.at(-1);
      if (
        last?.text === text && last.count === count &&
        last.first + last.count * last.times === first
      ) last.times++;
      else runs.push({ first, count, times: 1, text });
    }
  }
  const lines = runs.map(({ first, count, times, text }) =>
    `${first}+${count}${times > 1 ? `*${times}` : ""} ${text}\n`
  );
  return `${GOLDEN_START}sectors ${disk.sectors}\n${lines.join("")}`;
}

function encode(block: Uint8Array): string {
  const [first] = block;
  if (block.every((byte) => byte === first)) {
    return `=${first!.toString(16).padStart(2, "0")}`;
  }
  return Buffer.from(deflateRawSync(block, { level: 9 })).toString("base64");
}

/** The bytes of a block; `null` if the text is none of that length. */
function decode(text: string, length: number): Uint8Array | null {
  const fill = /^=([0-9a-f]{2})$/.exec(text);
  if (fill !== null) {
    return new Uint8Array(length).fill(parseInt(fill[1]!, 16));
  }
  if (!/^[A-Za-z0-9+/]+={0,2}$/.test(text)) return null;
  try {
    const bytes = inflateRawSync(Buffer.from(text, "base64"), {
      maxOutputLength: length,
    });
    return bytes.length === length ? new Uint8Array(bytes) : null;
  } catch {
    return null;
  }
}
