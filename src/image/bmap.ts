/**
 * Block maps (bmap): which blocks of an image have data, with a checksum of each
 * range, as bmaptool and Yocto write them beside an image. A flasher writes only
 * those blocks, and knows afterwards that each is what it was.
 *
 * Text in and out; nothing is opened here. What is read may come from anywhere:
 * a map whose ranges overlap, leave the image or disagree with its own counts is
 * refused, and so is one whose checksum of itself is wrong. The rules are those
 * of bmaptool (`BmapCreate.py`, `BmapCopy.py`) for versions 1.0 to 2.0.
 *
 * @module
 */

import { printable } from "../printable.ts";
import { createHash } from "node:crypto";
import { describeValue, DiskError } from "../errors.ts";
import { SECTOR_BYTES } from "../geometry.ts";
import { xmlTokens } from "./xml_tokens.ts";

/** A run of blocks that have data. */
export interface BmapRange {
  /** The first block. */
  readonly first: number;
  /** The last block, which belongs to it. */
  readonly last: number;
  /** The checksum of its bytes in lower-case hexadecimal, if there is one. */
  readonly checksum: string | null;
}

/** A block map. */
export interface Bmap {
  /** Version of the format, such as `"2.0"`. */
  readonly version: string;
  /** Bytes of the image. */
  readonly imageBytes: number;
  /** Bytes of a block, a multiple of 512. */
  readonly blockBytes: number;
  /** How ranges are summed up; `null` if they are not (before version 1.3). */
  readonly checksumType: BmapChecksumType | null;
  /** The blocks that have data, in order. */
  readonly ranges: readonly BmapRange[];
}

/** A checksum that a bmap may have. */
export type BmapChecksumType = "sha1" | "sha256" | "sha384" | "sha512";

/** Hexadecimal digits of each checksum. */
const DIGITS: Readonly<Record<BmapChecksumType, number>> = {
  sha1: 40,
  sha256: 64,
  sha384: 96,
  sha512: 128,
};

/** Characters of a bmap at most: some 500,000 ranges. */
const MAX_CHARACTERS = 2 ** 26;

/** Bytes of a block at most: bmaptool takes the file system's, 4 KiB mostly. */
const MAX_BLOCK_BYTES = 2 ** 26;

/**
 * Reads a bmap, and checks it against its own checksum and counts.
 *
 * @param text The file's content.
 * @returns The map.
 * @throws {DiskError} Kind `"argument"` if it is none, is damaged, or is of a
 * version that is not known.
 *
 * @example
 * ```ts
 * import { formatBmap, parseBmap } from "@platter/disk/image";
 * import { assertEquals } from "@std/assert";
 *
 * const text = formatBmap({
 *   imageBytes: 1 << 20,
 *   blockBytes: 4096,
 *   ranges: [{ first: 0, last: 3, checksum: "00".repeat(32) }],
 * });
 * assertEquals(parseBmap(text).ranges.length, 1);
 * ```
 */
export function parseBmap(text: string): Bmap {
  if (typeof text !== "string") {
    throw refused(`it must be text: current value is ${describeValue(text)}`);
  }
  if (text.length > MAX_CHARACTERS) {
    throw refused(`it must have ${MAX_CHARACTERS} characters at most`);
  }
  const fields = fieldsOf(text);
  const version = /^([12])\.(\d{1,3})$/.exec(fields.version);
  if (version === null) {
    throw refused(
      `its version must be 1.x or 2.x: current value is ` +
        `"${printable(fields.version, 20)}"`,
    );
  }
  const number = Number(version[1]) * 1000 + Number(version[2]);
  const checksumType = checksumTypeOf(number, fields.values);
  if (checksumType !== null) {
    const name = number < 1004 ? "BmapFileSHA1" : "BmapFileChecksum";
    checkOwnChecksum(text, checksumType, fields.values.get(name));
  }
  const imageBytes = numberIn(fields.values, "ImageSize", 0);
  const blockBytes = numberIn(fields.values, "BlockSize", 1);
  if (blockBytes % SECTOR_BYTES !== 0 || blockBytes > MAX_BLOCK_BYTES) {
    throw refused(
      `its BlockSize must be a multiple of 512 up to ${MAX_BLOCK_BYTES}: ` +
        `current value is ${blockBytes}`,
    );
  }
  const blocks = numberIn(fields.values, "BlocksCount", 0);
  if (blocks !== Math.ceil(imageBytes / blockBytes)) {
    throw refused(
      `its BlocksCount must be that of its ImageSize, ` +
        `${Math.ceil(imageBytes / blockBytes)}: current value is ${blocks}`,
    );
  }
  const ranges = fields.ranges.map(({ text, checksum }) => {
    const match = /^\s*(\d{1,16})\s*(?:-\s*(\d{1,16})\s*)?$/.exec(text);
    if (match === null) {
      throw refused(
        `a Range must be blocks such as "0-7": current value is ` +
          `"${printable(text, 40)}"`,
      );
    }
    const first = Number(match[1]);
    return { first, last: Number(match[2] ?? first), checksum };
  });
  let next = 0;
  let mapped = 0;
  for (const { first, last, checksum } of ranges) {
    if (first < next || last < first || last >= blocks) {
      throw refused(
        `its ranges must follow one another within ${blocks} blocks: ` +
          `current value is ${first}-${last}`,
      );
    }
    if (checksum !== null) {
      if (checksumType === null) {
        throw refused(`checksums of ranges must be of a known type`);
      }
      checkDigits(checksumType, checksum);
    }
    next = last + 1;
    mapped += last - first + 1;
  }
  if (fields.values.has("MappedBlocksCount")) {
    const said = numberIn(fields.values, "MappedBlocksCount", 0);
    if (said !== mapped) {
      throw refused(
        `its MappedBlocksCount must be that of its ranges, ${mapped}: ` +
          `current value is ${said}`,
      );
    }
  }
  return {
    version: fields.version,
    imageBytes,
    blockBytes,
    checksumType,
    ranges,
  };
}

/**
 * Writes a bmap of version 2.0, with SHA-256 throughout.
 *
 * @param map The map; each range has its checksum.
 * @returns The file's content.
 * @throws {DiskError} Kind `"argument"` if it would not be read back.
 */
export function formatBmap(
  map: Pick<Bmap, "imageBytes" | "blockBytes" | "ranges">,
): string {
  const { imageBytes, blockBytes, ranges } = map;
  const mapped = ranges.reduce(
    (sum, { first, last }) => sum + last - first + 1,
    0,
  );
  const zeroes = "0".repeat(DIGITS.sha256);
  const text = [
    '<?xml version="1.0" ?>',
    "<!-- A block map: the blocks of an image that have data, and their sums. -->",
    '<bmap version="2.0">',
    `    <ImageSize> ${imageBytes} </ImageSize>`,
    `    <BlockSize> ${blockBytes} </BlockSize>`,
    `    <BlocksCount> ${Math.ceil(imageBytes / blockBytes)} </BlocksCount>`,
    `    <MappedBlocksCount> ${mapped} </MappedBlocksCount>`,
    "    <ChecksumType> sha256 </ChecksumType>",
    `    <BmapFileChecksum> ${zeroes} </BmapFileChecksum>`,
    "    <BlockMap>",
    ...ranges.map(({ first, last, checksum }) =>
      `        <Range chksum="${checksum ?? ""}"> ` +
      `${first === last ? first : `${first}-${last}`} </Range>`
    ),
    "    </BlockMap>",
    "</bmap>",
    "",
  ].join("\n");
  const sum = createHash("sha256").update(text).digest("hex");
  // The first such text is the field itself: all before it are counts.
  const whole = text.replace(zeroes, sum);
  parseBmap(whole);
  return whole;
}

/** What stands in a bmap, by the names of its elements. */
interface Fields {
  version: string;
  values: Map<string, string>;
  ranges: { text: string; checksum: string | null }[];
}

/** Takes a document apart; knows how elements nest, not what they mean. */
function fieldsOf(text: string): Fields {
  const values = new Map<string, string>();
  const ranges: Fields["ranges"] = [];
  let version: string | undefined;
  const open: string[] = [];
  let content = "";
  let checksum: string | null = null;
  try {
    for (const token of xmlTokens(text)) {
      if (token.kind === "text") {
        content += token.text;
        continue;
      }
      if (token.kind === "open") {
        if (open.length === 0) {
          if (token.name !== "bmap" || version !== undefined) {
            throw refused('its only root must be an element "bmap"');
          }
          version = token.attributes.get("version") ?? "";
        } else if (open.length > 2) {
          throw refused("its elements must nest three deep at most");
        }
        open.push(token.name);
        content = "";
        checksum = token.attributes.get("chksum") ??
          token.attributes.get("sha1") ?? null;
        continue;
      }
      if (open.pop() !== token.name) {
        throw refused(`its elements must nest: "${token.name}" does not`);
      }
      if (open.length === 2) {
        if (open[1] !== "BlockMap" || token.name !== "Range") {
          throw refused(`"${token.name}" must not stand in "${open[1]}"`);
        }
        ranges.push({ text: content, checksum });
      } else if (open.length === 1 && token.name !== "BlockMap") {
        if (values.has(token.name)) {
          throw refused(`"${token.name}" must stand there once`);
        }
        values.set(token.name, content.trim());
      }
      content = "";
    }
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    throw refused(`it must be XML: current value has ${error.message}`);
  }
  if (version === undefined || open.length > 0) {
    throw refused('it must be a whole element "bmap"');
  }
  return { version, values, ranges };
}

/** Since 1.3 ranges have checksums; since 1.4 it is said which. */
function checksumTypeOf(
  version: number,
  values: ReadonlyMap<string, string>,
): BmapChecksumType | null {
  if (version < 1003) return null;
  if (version < 1004) return "sha1";
  const type = values.get("ChecksumType") ?? "";
  if (!Object.hasOwn(DIGITS, type)) {
    throw refused(
      `its ChecksumType must be ${Object.keys(DIGITS).join(" or ")}: current ` +
        `value is "${printable(type, 20)}"`,
    );
  }
  return type as BmapChecksumType;
}

/** The file's sum is made while zeroes stand in its place. */
function checkOwnChecksum(
  text: string,
  type: BmapChecksumType,
  sum: string | undefined,
): void {
  if (sum === undefined) throw refused("its own checksum must be there");
  checkDigits(type, sum);
  const blank = text.replace(sum, "0".repeat(sum.length));
  const actual = createHash(type).update(blank).digest("hex");
  if (actual !== sum) {
    throw refused(
      `its own checksum must be ${actual}: current value is ${sum}`,
    );
  }
}

function checkDigits(type: BmapChecksumType, sum: string): void {
  if (sum.length !== DIGITS[type] || !/^[0-9a-f]*$/.test(sum)) {
    throw refused(
      `a checksum of ${type} must have ${
        DIGITS[type]
      } lower-case hexadecimal ` +
        `digits: current value is "${printable(sum, 140)}"`,
    );
  }
}

function numberIn(
  values: ReadonlyMap<string, string>,
  name: string,
  least: number,
): number {
  const text = values.get(name);
  const value = /^\d{1,16}$/.test(text ?? "") ? Number(text) : NaN;
  if (!Number.isSafeInteger(value) || value < least) {
    throw refused(
      `its ${name} must be a whole number from ${least}: current value is ` +
        (text === undefined ? "none" : `"${printable(text, 40)}"`),
    );
  }
  return value;
}

function refused(reason: string): DiskError {
  return new DiskError("argument", `Cannot read a bmap as ${reason}`);
}
