/**
 * `platter resize`: another size for a raw image file.
 *
 * @module
 */

import { SECTOR_BYTES } from "../geometry.ts";
import { formatSize, parseSize } from "../units.ts";
import { IMAGE_OPTIONS } from "./images.ts";
import type { CliIo } from "./io.ts";
import { openImage } from "./opened_image.ts";
import { OUTCOME_OPTIONS, tell } from "./outcome.ts";
import {
  ExitCode,
  parseAs,
  UsageError,
  type Verb,
  type VerbArguments,
} from "./verb.ts";

/** The verb. */
export const resize: Verb = {
  name: "resize",
  summary: "Give a raw image file another size",
  operands: "IMAGE SIZE",
  operandCount: [2, 2],
  description:
    "SIZE is in bytes, or has a unit: 64MiB, 2048s. What is new reads as zeroes\n" +
    "and takes no space. An image becomes smaller with --force alone, which loses\n" +
    "what lies beyond its new end. The new size is durable when this is done.\n" +
    'What is on the disk stays as it is. "platter partitions --repair" gives a GPT\n' +
    "the new room; partitions and file systems have tools of their own to grow,\n" +
    "and to shrink before the image does.",
  options: [
    { name: "force", letter: "f", summary: "Cut off what lies beyond SIZE" },
    ...OUTCOME_OPTIONS,
    ...IMAGE_OPTIONS,
  ],
  examples: [
    ["platter resize disk.img 2GiB", "Room for more"],
    [
      "platter resize disk.img 2GiB && platter partitions disk.img --repair",
      "Room for more, on a disk with a GPT",
    ],
    ["platter resize disk.img 1GiB --force", "Cut off all after 1 GiB"],
  ],
  run,
};

async function run(args: VerbArguments, io: CliIo): Promise<number> {
  const path = args.operand(0);
  const bytes = parseAs("SIZE", args.operand(1), parseSize);
  if (bytes % SECTOR_BYTES !== 0) {
    throw new UsageError(
      `Cannot resize "${path}" as its size must be whole sectors of ` +
        `${SECTOR_BYTES} bytes: current value is ${bytes}`,
    );
  }
  let before: number;
  {
    await using opened = await openImage(args, io, path, {});
    const { disk } = opened;
    before = disk.sectors;
    await disk.resize(bytes / SECTOR_BYTES, { force: args.flag("force") });
    await disk.flush();
  }
  await tell(args, io, {
    text: `Resized ${path}: ${formatSize(before * SECTOR_BYTES)} to ${
      formatSize(bytes)
    }`,
    json: { image: path, bytes, bytesBefore: before * SECTOR_BYTES },
    done: `"${path}" was resized`,
  });
  return ExitCode.Ok;
}
