/**
 * `platter compare`: whether two images have the same content.
 *
 * @module
 */

import { compareDisks } from "../disk/copy.ts";
import { SECTOR_BYTES } from "../geometry.ts";
import {
  formatOption,
  IMAGE_OPTIONS,
  interruptible,
  NO_LOCK_OPTION,
} from "./images.ts";
import { type CliIo, print } from "./io.ts";
import { formatJson } from "./json.ts";
import { openImage } from "./opened_image.ts";
import { PARTITION_OPTION } from "./partition_option.ts";
import { Progress } from "./progress.ts";
import { ExitCode, type Verb, type VerbArguments } from "./verb.ts";

/** The verb. */
export const compare: Verb = {
  name: "compare",
  summary: "Find the first difference of two images",
  operands: "A B",
  operandCount: [2, 2],
  description:
    "Says nothing if the images are equal. Else it names the first sector that\n" +
    "differs and the first byte in it, from 0. If one is only longer than the\n" +
    "other, it says where the other ends. Where both have holes nothing is\n" +
    "read.",
  options: [
    { name: "quiet", letter: "q", summary: "Say nothing: the code is enough" },
    { name: "json", summary: "Print JSON: equal, or where it differs" },
    {
      ...PARTITION_OPTION,
      summary: "Not the whole disks, but this partition of both",
    },
    {
      name: "with-partition",
      value: "N",
      summary: "Of B, this one, or 0 for all (default: the same)",
    },
    ...IMAGE_OPTIONS,
    {
      name: "with-format",
      value: "NAME",
      summary: "The format of B (default: the same)",
    },
    NO_LOCK_OPTION,
  ],
  examples: [
    ["platter compare before.img after.img", "Where do they first differ?"],
    [
      "platter compare disk.img /dev/sdb --direct require",
      "Is it on the device, not only in the page cache?",
    ],
  ],
  exitCodes: [
    [ExitCode.Ok, "equal"],
    [ExitCode.Different, "different"],
    [ExitCode.Trouble, "wrong usage, or it failed"],
    [ExitCode.Interrupted, "interrupted"],
  ],
  run,
};

async function run(args: VerbArguments, io: CliIo): Promise<number> {
  const [a, b] = [args.operand(0), args.operand(1)];
  const progress = new Progress(io, args.flag("quiet"));
  const found = await interruptible(io, async (signal) => {
    const options = { readOnly: true, signal };
    await using first = await openImage(args, io, a, options);
    const part = args.value("with-partition");
    await using second = await openImage(
      args,
      io,
      b,
      { ...options, ...formatOption(args, "with-format") },
      part === undefined ? "partition" : part === "0" ? null : "with-partition",
    );
    const [left, right] = [first.disk, second.disk];
    try {
      const difference = await compareDisks(left, right, {
        signal,
        onProgress: (done, total) =>
          progress.update(
            "Comparing",
            done * SECTOR_BYTES,
            total * SECTOR_BYTES,
          ),
      });
      if (difference === null) return null;
      const { sector, offset, end } = difference;
      const shorter = left.sectors < right.sectors ? a : b;
      return {
        difference,
        line: end
          ? `${a} ${b} differ: ${shorter} ends at sector ${sector}`
          : `${a} ${b} differ: sector ${sector}, byte ${offset}`,
      };
    } finally {
      await progress.clear();
    }
  });
  if (args.flag("json")) {
    const json = { a, b, equal: found === null, ...found?.difference };
    await print(io.stdout, `${formatJson(json)}\n`);
  } else if (found !== null && !args.flag("quiet")) {
    await print(io.stdout, `${found.line}\n`);
  }
  return found === null ? ExitCode.Ok : ExitCode.Different;
}
