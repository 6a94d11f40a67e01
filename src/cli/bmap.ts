/**
 * `platter bmap`: the block map of an image.
 *
 * @module
 */

import { filesOf, identify, sharedOf } from "../backends/same_file.ts";
import { SECTOR_BYTES } from "../geometry.ts";
import { makeBmap } from "../image/mod.ts";
import {
  CliError,
  IMAGE_OPTIONS,
  interruptible,
  NO_LOCK_OPTION,
} from "./images.ts";
import { type CliIo, print } from "./io.ts";
import { openImage } from "./opened_image.ts";
import { QUIET_OPTION, tell } from "./outcome.ts";
import { Progress } from "./progress.ts";
import { saveText } from "./saved_text.ts";
import { ExitCode, UsageError, type Verb, type VerbArguments } from "./verb.ts";

/** The verb. */
export const bmap: Verb = {
  name: "bmap",
  summary: "Make a block map: which blocks have data, and their sums",
  operands: "IMAGE",
  operandCount: [1, 1],
  description:
    'The map is XML of version 2.0, as bmaptool\'s; "copy --bmap" and\n' +
    '"bmaptool copy" flash by it. A block is in it unless all of it is a hole.\n' +
    "An existing file is refused unless --force.",
  options: [
    {
      name: "output",
      letter: "o",
      value: "FILE|-",
      summary: "Where to (default: standard output)",
    },
    { name: "force", letter: "f", summary: "Over an existing file, too" },
    QUIET_OPTION,
    { name: "json", summary: "With --output: say what was done as JSON" },
    ...IMAGE_OPTIONS,
    NO_LOCK_OPTION,
  ],
  examples: [
    ["platter bmap disk.img -o disk.img.bmap", "A map beside the image"],
    [
      "platter bmap disk.img | xmllint --xpath '//MappedBlocksCount' -",
      "How much has to be written?",
    ],
  ],
  exitCodes: [
    [ExitCode.Ok, "done"],
    [ExitCode.Trouble, "wrong usage, or it failed"],
    [ExitCode.Interrupted, "interrupted"],
  ],
  run,
};

async function run(args: VerbArguments, io: CliIo): Promise<number> {
  const path = args.operand(0);
  const output = args.value("output") ?? "-";
  const force = args.flag("force");
  if (args.flag("json") && output === "-") {
    throw new UsageError("Cannot use --json as it needs --output FILE");
  }
  const progress = new Progress(io, args.flag("quiet"));
  let text: string;
  try {
    text = await interruptible(io, async (signal) => {
      const options = { readOnly: true, signal };
      await using opened = await openImage(args, io, path, options);
      const own = output === "-"
        ? null
        : sharedOf(await identify(output), await filesOf(opened.disk.info));
      if (own !== null) {
        throw new CliError(`Cannot write the map of "${own.name}" onto itself`);
      }
      const text = await makeBmap(opened.disk, {
        signal,
        onProgress: (done, total) =>
          progress.update(
            "Summing up",
            done * SECTOR_BYTES,
            total * SECTOR_BYTES,
          ),
      });
      if (output !== "-") await saveText(output, text, { force, io, signal });
      return text;
    });
  } finally {
    await progress.clear();
  }
  if (output === "-") {
    await print(io.stdout, text);
    return ExitCode.Ok;
  }
  await tell(args, io, {
    text: `Saved the block map to ${output}`,
    json: {
      image: path,
      file: output,
      bytes: new TextEncoder().encode(text).length,
    },
    done: `"${output}" has all of it`,
  });
  return ExitCode.Ok;
}
