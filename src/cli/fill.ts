/**
 * `platter fill`: a pattern onto a range of a disk.
 *
 * @module
 */

import type { VirtualDisk } from "../disk/disk.ts";
import { SECTOR_BYTES } from "../geometry.ts";
import { settleAll } from "../settle_all.ts";
import type { CliIo } from "./io.ts";
import { RANGE_OPTIONS, WORK_OPTIONS, workThrough } from "./range_work.ts";
import { UsageError, type Verb, type VerbArguments } from "./verb.ts";

/** Sectors of one write: 1 MiB. */
const CHUNK_SECTORS = 2048;

/** Writes in flight. */
const DEPTH = 4;

/** The pattern unless said otherwise: that of `qemu-io -c "write"`. */
const DEFAULT_PATTERN = "0xcd";

/** The verb. */
export const fill: Verb = {
  name: "fill",
  summary: "Write a pattern onto a range, and flush",
  operands: "IMAGE",
  operandCount: [1, 1],
  description:
    "The pattern is one byte (0 to 255, or 0x00 to 0xff; 0xcd by default, as\n" +
    "qemu-io's), or several in hexadecimal, such as 0xdeadbeef, whose number\n" +
    "divides 512. It starts anew with every sector.",
  options: [
    ...RANGE_OPTIONS,
    {
      name: "pattern",
      letter: "P",
      value: "BYTES",
      summary: "What to write: 0xcd (default), 171, 0xdeadbeef",
    },
    {
      name: "fua",
      summary: "Make every write durable by itself (force unit access)",
    },
    ...WORK_OPTIONS,
  ],
  examples: [
    [
      "platter fill disk.img -P 0xab --offset 1MiB --length 64KiB",
      'As qemu-io -c "write -P 0xab 1M 64k"',
    ],
    ["platter fill disk.img --pattern 0xdeadbeef --all", "The whole disk"],
  ],
  run,
};

async function run(args: VerbArguments, io: CliIo): Promise<number> {
  const text = args.value("pattern") ?? DEFAULT_PATTERN;
  const pattern = patternOf(text);
  const fua = args.flag("fua");
  return await workThrough(args, io, {
    verb: "fill",
    done: "Filled",
    doing: "Filling",
    with: ` with ${text}`,
    json: { pattern: text },
    begin(disk, signal) {
      const memory = disk.allocate(CHUNK_SECTORS);
      for (let at = 0; at < memory.length; at++) {
        memory[at] = pattern[at % pattern.length]!;
      }
      return (sector, count) =>
        writeAll(disk, memory, sector, count, { fua, signal });
    },
  });
}

/** Writes the same memory again and again, a few times at once. */
async function writeAll(
  disk: VirtualDisk,
  memory: Uint8Array,
  sector: number,
  count: number,
  options: { fua: boolean; signal: AbortSignal },
): Promise<void> {
  const end = sector + count;
  let at = sector;
  await settleAll(
    Array.from({ length: DEPTH }, async () => {
      while (at < end) {
        const from = at;
        const length = Math.min(CHUNK_SECTORS, end - from);
        at += length;
        try {
          const data = memory.subarray(0, length * SECTOR_BYTES);
          await disk.write(from, data, options);
        } catch (error) {
          at = end;
          throw error;
        }
      }
    }),
  );
}

function patternOf(text: string): Uint8Array {
  const hex = /^0x((?:[\da-f]{2})+|[\da-f])$/i.exec(text)?.[1];
  const bytes = hex !== undefined
    ? (hex.padStart(2, "0").match(/../g) ?? []).map((it) => parseInt(it, 16))
    : /^\d{1,3}$/.test(text)
    ? [Number(text)]
    : [];
  if (
    bytes.length === 0 || SECTOR_BYTES % bytes.length !== 0 || bytes[0]! > 255
  ) {
    throw new UsageError(
      `Cannot use --pattern as it must be a byte (0 to 255, or 0x00 to 0xff), ` +
        `or bytes such as 0xdeadbeef whose number divides 512: current value ` +
        `is "${text}"`,
    );
  }
  return Uint8Array.from(bytes);
}
