/**
 * `platter bmap`: the block map of an image.
 *
 * @module
 */

import { SECTOR_BYTES } from "../geometry.ts";
import { makeBmap } from "../image/mod.ts";
import {
  CliError,
  fileError,
  IMAGE_OPTIONS,
  interruptible,
  NO_LOCK_OPTION,
} from "./images.ts";
import { announce, type CliIo, print, writeAll } from "./io.ts";
import { openImage } from "./opened_image.ts";
import { QUIET_OPTION } from "./outcome.ts";
import { Progress } from "./progress.ts";
import { identityOf, takeBack } from "./same_file.ts";
import { ExitCode, type Verb, type VerbArguments } from "./verb.ts";

/** The verb. */
export const bmap: Verb = {
  name: "bmap",
  summary: "Make a block map: which blocks have data, and their sums",
  operands: "IMAGE",
  operandCount: [1, 1],
  description:
    'The map is XML of version 2.0, as bmaptool\'s; "copy --bmap" and\n' +
    '"bmaptool copy" flash by it. A block is in it unless all of it is a hole.\n' +
    "An existing file is refused.",
  options: [
    {
      name: "output",
      letter: "o",
      value: "FILE|-",
      summary: "Where to (default: standard output)",
    },
    QUIET_OPTION,
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
  const progress = new Progress(io, args.flag("quiet"));
  let text: string;
  try {
    text = await interruptible(io, async (signal) => {
      const options = { readOnly: true, signal };
      await using opened = await openImage(args, io, path, options);
      return await makeBmap(opened.disk, {
        signal,
        onProgress: (done, total) =>
          progress.update(
            "Summing up",
            done * SECTOR_BYTES,
            total * SECTOR_BYTES,
          ),
      });
    });
  } finally {
    await progress.clear();
  }
  if (output === "-") {
    await print(io.stdout, text);
    return ExitCode.Ok;
  }
  await save(output, text);
  if (!args.flag("quiet")) {
    const done = `"${output}" has all of it`;
    await announce(io, `Saved the block map to ${output}\n`, done);
  }
  return ExitCode.Ok;
}

/** A new file with all of it, or none. */
async function save(path: string, text: string): Promise<void> {
  let file: Deno.FsFile;
  try {
    file = await Deno.open(path, { write: true, createNew: true });
  } catch (error) {
    throw error instanceof Deno.errors.AlreadyExists
      ? new CliError(`Cannot write to "${path}" as it exists`, { cause: error })
      : fileError("write to", path, error);
  }
  using _open = file;
  const identity = identityOf(await file.stat(), path);
  try {
    await writeAll(file, new TextEncoder().encode(text));
    await file.sync();
  } catch (error) {
    const left = await takeBack(path, identity);
    const { message } = fileError("write to", path, error);
    throw new CliError(`${message}: ${left}`, { cause: error });
  }
}
