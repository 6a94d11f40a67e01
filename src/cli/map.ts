/**
 * `platter map`: where data is stored and where holes are.
 *
 * @module
 */

import type { VirtualDisk } from "../disk/disk.ts";
import { SECTOR_BYTES } from "../geometry.ts";
import { formatCount, formatSize } from "../units.ts";
import { extentsOf, IMAGE_OPTIONS } from "./images.ts";
import { type CliIo, print } from "./io.ts";
import { openImage } from "./opened_image.ts";
import { PARTITION_OPTION } from "./partition_option.ts";
import { ExitCode, type Verb, type VerbArguments } from "./verb.ts";

/** The verb. */
export const map: Verb = {
  name: "map",
  summary: "Show where data is stored and where holes are",
  operands: "IMAGE",
  operandCount: [1, 1],
  description:
    "A hole takes no space and reads as zeroes; data may be zeroes as well.\n" +
    "Where the file system cannot tell, everything counts as data. Opens the\n" +
    "image for reading only and without a lock.",
  options: [
    { name: "json", summary: "Print JSON: sector, count and hole of each" },
    PARTITION_OPTION,
    ...IMAGE_OPTIONS,
  ],
  examples: [
    ["platter map disk.img", "What is stored?"],
    [
      "platter map disk.img --json | jq 'map(select(.hole | not))'",
      "For scripts: the data only",
    ],
  ],
  run,
};

async function run(args: VerbArguments, io: CliIo): Promise<number> {
  await using opened = await openImage(args, io, args.operand(0), {
    ...{ readOnly: true, lock: "none" },
  });
  const { disk } = opened;
  await (args.flag("json") ? printJson(disk, io) : printTable(disk, io));
  return ExitCode.Ok;
}

async function printJson(disk: VirtualDisk, io: CliIo): Promise<void> {
  let before = "[";
  for await (
    const { sector, count, hole } of extentsOf(disk, 0, disk.sectors)
  ) {
    const line = JSON.stringify({ sector, count, hole });
    await print(io.stdout, `${before}\n  ${line}`);
    before = ",";
  }
  await print(io.stdout, before === "[" ? "[]\n" : "\n]\n");
}

async function printTable(disk: VirtualDisk, io: CliIo): Promise<void> {
  const width = Math.max("sectors".length, String(disk.sectors).length);
  const heading = ["sector", "sectors"].map((it) => it.padStart(width));
  await print(io.stdout, `${heading.join("  ")}  ${"size".padStart(9)}\n`);
  const sums = { data: { count: 0, runs: 0 }, hole: { count: 0, runs: 0 } };
  for await (
    const { sector, count, hole } of extentsOf(disk, 0, disk.sectors)
  ) {
    const sum = hole ? sums.hole : sums.data;
    sum.count += count;
    sum.runs++;
    await print(
      io.stdout,
      `${String(sector).padStart(width)}  ${String(count).padStart(width)}  ` +
        `${size(count).padStart(9)}  ${hole ? "hole" : "data"}\n`,
    );
  }
  await print(
    io.stdout,
    `${sumUp(sums.data, "data")}, ${sumUp(sums.hole, "holes")}\n`,
  );
}

function sumUp(sum: { count: number; runs: number }, of: string): string {
  if (sum.runs === 0) return `no ${of}`;
  return `${size(sum.count)} of ${of} in ${formatCount(sum.runs, "run")}`;
}

function size(sectors: number): string {
  return formatSize(sectors * SECTOR_BYTES);
}
