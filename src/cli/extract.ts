/**
 * `platter extract`: files of a file system on a disk, into a directory.
 *
 * @module
 */

import { printable } from "../printable.ts";
import { formatCount, formatSize } from "../units.ts";
import { IMAGE_OPTIONS, interruptible, NO_LOCK_OPTION } from "./images.ts";
import { type CliIo, printError } from "./io.ts";
import { openImage } from "./opened_image.ts";
import { OUTCOME_OPTIONS, tell } from "./outcome.ts";
import { PARTITION_OPTION } from "./partition_option.ts";
import { ExitCode, UsageError, type Verb, type VerbArguments } from "./verb.ts";

/** The verb. */
export const extract: Verb = {
  name: "extract",
  summary: "Take files out of a file system, into a directory",
  operands: "IMAGE [PATH…]",
  operandCount: [1, Infinity],
  description:
    "Takes out files, and directories with all that is in them; everything if\n" +
    "no PATH is given. Permissions, times and symbolic links are kept, owners\n" +
    "are not; devices, pipes and sockets are left out. Nothing is written outside\n" +
    "the directory, whatever the names are, and nothing in it is overwritten\n" +
    'unless --force is given. See "platter ls --help" for what can be read.',
  options: [
    {
      name: "output",
      letter: "o",
      value: "DIR",
      summary: "Where to; made if missing",
    },
    { name: "force", letter: "f", summary: "Replace files that are there" },
    ...OUTCOME_OPTIONS,
    PARTITION_OPTION,
    ...IMAGE_OPTIONS,
    NO_LOCK_OPTION,
  ],
  examples: [
    ["platter extract disk.img -o tree", "All files"],
    ["platter extract disk.img --partition 2 etc boot -o tree", "Some of them"],
  ],
  exitCodes: [
    [ExitCode.Ok, "done, and nothing was left out"],
    [ExitCode.Trouble, "wrong usage, it failed, or something was left out"],
    [ExitCode.Interrupted, "interrupted"],
  ],
  run,
};

async function run(args: VerbArguments, io: CliIo): Promise<number> {
  const [image = "", ...paths] = args.operands;
  const directory = args.value("output");
  if (directory === undefined) {
    throw new UsageError("Cannot extract as --output must say where to");
  }
  const result = await interruptible(io, async (signal) => {
    const options = { readOnly: true, signal };
    await using opened = await openImage(args, io, image, options);
    const { extractSparing } = await import("../files/extract_files.ts");
    const overwrite = args.flag("force");
    const how = { paths, overwrite, signal };
    // What is said of it at the end would be lost with the file.
    const identity = io.stdoutFile;
    const spared = identity === null || identity.isStream ? [] : [{
      identity,
      reason: "standard output goes to the file in its place",
    }];
    return await extractSparing(opened.disk, directory, how, spared);
  });
  const { files, directories, symlinks, bytes, skipped, skippedCount } = result;
  for (const { path, reason } of skipped) {
    const line = `"${printable(path)}" is left out as ${printable(reason)}`;
    await printError(io, `platter: ${line}\n`);
  }
  const more = skippedCount - skipped.length;
  if (more > 0) await printError(io, `platter: and ${more} more\n`);
  const counts = [
    `${formatCount(files, "file")} (${formatSize(bytes)})`,
    formatCount(directories, "folder"),
    formatCount(symlinks, "link"),
  ].join(", ");
  const left = skippedCount > 0 ? `, left out ${skippedCount}` : "";
  await tell(args, io, {
    text: `Extracted ${counts} to ${printable(directory)}${left}`,
    json: { ...{ files, directories, symlinks, bytes }, skippedCount, skipped },
    done: `"${printable(directory)}" has ${counts}`,
  });
  return skippedCount > 0 ? ExitCode.Trouble : ExitCode.Ok;
}
