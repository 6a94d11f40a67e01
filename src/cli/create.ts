/**
 * `platter create`: a new image that reads as zeroes.
 *
 * @module
 */

import { namedFiles } from "../backends/same_file.ts";
import { statFile } from "../platform/files.ts";
import { VirtualDisk } from "../disk/disk.ts";
import { DiskError } from "../errors.ts";
import { checkBlockSize, SECTOR_BYTES } from "../geometry.ts";
import type { CreateOptions } from "../disk/open.ts";
import { formatCount, formatSize, parseSize } from "../units.ts";
import {
  CliError,
  IMAGE_OPTIONS,
  interruptible,
  openOptions,
} from "./images.ts";
import type { CliIo } from "./io.ts";
import { OUTCOME_OPTIONS, tell } from "./outcome.ts";
import { refuseOwnOutput } from "./own_output.ts";
import {
  ExitCode,
  parseAs,
  UsageError,
  type Verb,
  type VerbArguments,
} from "./verb.ts";

/** The verb. */
export const create: Verb = {
  name: "create",
  summary: "Make a new image that reads as zeroes",
  operands: "IMAGE SIZE",
  operandCount: [2, 2],
  description:
    "SIZE is in bytes, or has a unit: 64MiB, 2048s. It must be whole blocks.\n" +
    "The image is a raw file; what was never written takes no space unless\n" +
    "--preallocate. An existing file is refused unless --force, which loses\n" +
    "all that it has.",
  options: [
    {
      name: "block-size",
      value: "SIZE",
      summary: "Logical block size, 512 (default) to 64KiB",
    },
    { name: "preallocate", summary: "Reserve the space now" },
    { name: "force", letter: "f", summary: "Overwrite an existing file" },
    ...OUTCOME_OPTIONS,
    ...IMAGE_OPTIONS.filter(({ name }) => name === "backend"),
    {
      name: "format",
      value: "NAME",
      summary: "raw: also under a name that says otherwise",
    },
  ],
  examples: [
    ["platter create disk.img 64MiB", "An image of 64 MiB"],
    [
      "platter create disk.img 1GiB --block-size 4096 --preallocate",
      "An image for blocks of 4 KiB, with its space reserved",
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
  const bytes = parseAs("SIZE", args.operand(1), parseSize);
  const options = openOptions(args);
  const { blockSize = SECTOR_BYTES } = options;
  if (bytes === 0) {
    throw new UsageError(
      `Cannot create "${path}" as its size must be one block at least: ` +
        `current value is 0`,
    );
  }
  checkBlockSize(blockSize);
  if (bytes % blockSize !== 0) {
    throw new UsageError(
      `Cannot create "${path}" as its size must be whole blocks of ` +
        `${blockSize} bytes: current value is ${bytes}`,
    );
  }
  refuseOwnOutput(io, await namedFiles(path), "written");
  const disk = await interruptible(io, (signal) =>
    make(path, {
      ...options,
      signal,
      sectors: bytes / SECTOR_BYTES,
      overwrite: args.flag("force"),
      preallocate: args.flag("preallocate"),
    }));
  await disk.close();
  await tell(args, io, {
    text:
      `Created ${path}: ${formatSize(bytes)}, ${
        formatCount(disk.sectors, "sector")
      }` +
      (disk.blockSize === SECTOR_BYTES
        ? ""
        : ` in blocks of ${formatSize(disk.blockSize)}`),
    json: {
      image: path,
      bytes,
      sectors: disk.sectors,
      blockSize: disk.blockSize,
    },
    done: `"${path}" was created`,
  });
  return ExitCode.Ok;
}

async function make(
  path: string,
  options: CreateOptions,
): Promise<VirtualDisk> {
  try {
    return await VirtualDisk.create(path, options);
  } catch (error) {
    if (
      !(error instanceof DiskError) || error.kind !== "exists" ||
      options.overwrite || !await isFile(path)
    ) throw error;
    throw new CliError(
      `Cannot create "${path}" as it exists: overwrite it with --force`,
      { cause: error },
    );
  }
}

/** Whether there is something that --force would overwrite. */
function isFile(path: string): Promise<boolean> {
  return statFile(path).then(({ isFile }) => isFile, () => false);
}
