/**
 * `platter write`: a file, or whatever comes in, onto a disk.
 *
 * @module
 */

import {
  namedFiles,
  sharedOf,
  type SourceFile,
  writtenFilesOf,
} from "../backends/same_file.ts";
import { statFile } from "../platform/files.ts";
import type { VirtualDisk } from "../disk/disk.ts";
import { DiskError } from "../errors.ts";
import { SECTOR_BYTES } from "../geometry.ts";
import { formatCount, formatSize } from "../units.ts";
import {
  bytesOf,
  CliError,
  fileError,
  IMAGE_OPTIONS,
  Interrupted,
  interruptible,
} from "./images.ts";
import type { CliIo } from "./io.ts";
import { openUnless } from "./open_unless.ts";
import { openImage } from "./opened_image.ts";
import { flushedWord, OUTCOME_OPTIONS, tell } from "./outcome.ts";
import { refuseOwnOutput } from "./own_output.ts";
import { PARTITION_OPTION } from "./partition_option.ts";
import { SequentialWriter } from "./sequential_writer.ts";
import { ExitCode, UsageError, type Verb, type VerbArguments } from "./verb.ts";
import { plural } from "../plural.ts";

/** The verb. */
export const write: Verb = {
  name: "write",
  summary: "Write a file or standard input onto a disk, and flush",
  operands: "IMAGE [FILE|-]",
  operandCount: [1, 2],
  description:
    "The place must be given by --sector or --offset, at the start of a block.\n" +
    "The input must be whole blocks unless --pad. A file that does not fit is\n" +
    "refused before anything is written; standard input is written as far as\n" +
    "it fits, and then it is said how far that was. The disk never grows.",
  options: [
    { name: "sector", value: "N", summary: "Where to: first sector" },
    {
      name: "offset",
      value: "SIZE",
      summary: "The same as a size: 1MiB, 4096",
    },
    {
      name: "fua",
      summary: "Make every write durable by itself (force unit access)",
    },
    { name: "pad", summary: "Fill the last block with zeroes" },
    ...OUTCOME_OPTIONS,
    PARTITION_OPTION,
    ...IMAGE_OPTIONS,
  ],
  instead: '"platter read IMAGE --raw" to write to standard output',
  examples: [
    ["platter write disk.img --sector 0 boot.bin --pad", "A boot sector"],
    [
      "zcat part.gz | platter write disk.img --offset 1MiB",
      "A partition from a pipe",
    ],
  ],
  exitCodes: [
    [ExitCode.Ok, "done, and flushed"],
    [ExitCode.Trouble, "wrong usage, or it failed"],
    [ExitCode.Interrupted, "interrupted"],
  ],
  run,
};

/** Where the bytes come from. */
interface Input {
  /** What to call it. */
  readonly name: string;
  /** Bytes, if that is known before it is read. */
  readonly size: number | undefined;
  /** Its path, if it is a file. */
  readonly path?: string;
  readonly stream: ReadableStream<Uint8Array>;
}

async function run(args: VerbArguments, io: CliIo): Promise<number> {
  const offset = bytesOf(args, "sector", "offset");
  if (offset === undefined) {
    throw new UsageError(
      "Cannot write as nothing says where to: give --sector or --offset",
    );
  }
  const path = args.operand(0);
  const written = await interruptible(io, async (signal) => {
    const name = args.operands[1] ?? "-";
    const { stdinFile } = io;
    const inputs = name !== "-"
      ? await namedFiles(name)
      : stdinFile === null
      ? []
      : [{ name: "standard input", identity: stdinFile }];
    refuseInput(path, await namedFiles(path), inputs);
    refuseOwnOutput(io, inputs);
    const input = await openInput(name, io, signal);
    try {
      await using opened = await openImage(args, io, path, { signal });
      const { disk } = opened;
      refuseInput(path, await writtenFilesOf(opened.image.info), inputs);
      const pad = args.flag("pad");
      checkPlace(disk, offset, input, pad);
      const writer = new SequentialWriter(disk, {
        offset,
        fua: args.flag("fua"),
        signal,
      });
      await pour(input, writer, offset, pad, signal);
      return {
        bytes: writer.settled,
        extent: extentOf(writer, offset),
        flushed: flushedWord(disk),
      };
    } finally {
      await input.stream.cancel().catch(() => {});
    }
  });
  await tell(args, io, {
    text: `Wrote ${written.extent}`,
    json: {
      image: path,
      sector: offset / SECTOR_BYTES,
      count: written.bytes / SECTOR_BYTES,
      bytes: written.bytes,
    },
    done: `"${path}" has all of the input, ${written.flushed}`,
  });
  return ExitCode.Ok;
}

/** Refuses where what is read is among what is written, by whatever name. */
function refuseInput(
  path: string,
  written: readonly SourceFile[],
  inputs: readonly SourceFile[],
): void {
  for (const { name, identity } of inputs) {
    const own = sharedOf(identity, written);
    if (own === null) continue;
    throw new CliError(
      own.name === path
        ? `Cannot write "${path}" onto itself`
        : `Cannot write "${name}" onto "${path}" as that has its data in ` +
          `"${own.name}"`,
    );
  }
}

async function openInput(
  name: string,
  io: CliIo,
  signal: AbortSignal,
): Promise<Input> {
  if (name === "-") {
    return { name: "standard input", size: undefined, stream: io.stdin() };
  }
  try {
    const file = await openUnless(signal, name);
    const stat = await file.stat();
    // Files of /proc have content and no size.
    const size = stat.isFile && stat.size > 0 ? stat.size : undefined;
    if (!stat.isDirectory) {
      return { name: `"${name}"`, size, path: name, stream: file.readable };
    }
    file.close();
  } catch (error) {
    signal.throwIfAborted();
    throw fileError("read", name, error);
  }
  throw new CliError(`Cannot read "${name}" as it is a directory`);
}

/** Refuses what can be known to fail before anything is written. */
function checkPlace(
  disk: VirtualDisk,
  offset: number,
  input: Input,
  pad: boolean,
): void {
  const { blockSize } = disk;
  if (offset % blockSize !== 0) {
    throw new CliError(
      `Cannot write at byte ${offset} as writes start on blocks of ` +
        `${blockSize} bytes`,
    );
  }
  const room = disk.sectors * SECTOR_BYTES - offset;
  if (room <= 0) {
    throw new CliError(
      `Cannot write at sector ${offset / SECTOR_BYTES} as the disk has ` +
        plural(disk.sectors, "sector"),
    );
  }
  if (input.size === undefined) return;
  if (input.size > room) {
    throw new CliError(
      `Cannot write ${input.name} at sector ${
        offset / SECTOR_BYTES
      } as it has ` +
        `${
          plural(input.size, "byte")
        } and there is room for ${room}: nothing was written`,
    );
  }
  if (input.size % blockSize !== 0 && !pad) {
    throw new CliError(
      `Cannot write ${input.name} as its ${plural(input.size, "byte")} ` +
        `${input.size === 1 ? "is" : "are"} not whole ` +
        `blocks of ${blockSize} bytes: fill the last one with --pad`,
    );
  }
}

/** Writes an input from its start to its end, and flushes. */
async function pour(
  input: Input,
  writer: SequentialWriter,
  offset: number,
  pad: boolean,
  signal: AbortSignal,
): Promise<void> {
  const reader = input.stream.getReader();
  // A read of an idle terminal or pipe has to be broken off.
  const stop = () => void reader.cancel().catch(() => {});
  signal.addEventListener("abort", stop);
  let fault: string | undefined;
  let left = input.size ?? Infinity;
  let isShort = false;
  try {
    while (fault === undefined) {
      const { done, value } = await reader.read();
      signal.throwIfAborted();
      if (done) {
        isShort = await isCut(input, left);
        break;
      }
      // What it has grown by was not looked at before the first write.
      if (!await writer.add(value.subarray(0, left))) {
        fault = `Cannot write all of ${input.name} as the disk ends`;
      } else if (value.length > left) {
        fault = `Cannot write all of ${input.name} as it has grown meanwhile`;
      }
      left -= value.length;
    }
    if (isShort) {
      fault = `Cannot write all of ${input.name} as it was cut meanwhile`;
    }
    // Whatever was to come of a pipe has failed, more likely than not.
    if (writer.taken === 0) {
      fault ??= `Cannot write ${input.name} as it is empty`;
    }
    // What was cut off is no zeroes.
    if (writer.ragged > 0 && pad && !isShort) writer.pad();
    if (writer.ragged > 0) {
      fault ??= `Cannot write the last ${plural(writer.ragged, "byte")} of ` +
        `${input.name} as ${writer.ragged === 1 ? "it is" : "they are"} no ` +
        `whole block: fill it with --pad`;
    }
    await writer.finish();
  } catch (error) {
    await writer.giveUp();
    const after = writer.settled === 0
      ? "what was to be written first may be there or not"
      : `wrote ${extentOf(writer, offset)}, but did not flush`;
    if (signal.aborted) throw new Interrupted(`Interrupted: ${after}`);
    if (error instanceof DiskError) {
      throw new CliError(`${error.message}: ${after}`, { cause: error });
    }
    throw new CliError(
      `Cannot read ${input.name} as ${(error as Error).message}: ${after}`,
      { cause: error },
    );
  } finally {
    signal.removeEventListener("abort", stop);
    reader.releaseLock();
  }
  if (fault !== undefined) {
    throw new CliError(`${fault}: wrote ${extentOf(writer, offset)}`);
  }
}

/** Whether a file ended early, and not only the size that it is said to have. */
async function isCut({ size, path }: Input, left: number): Promise<boolean> {
  if (size === undefined || path === undefined || left === 0) return false;
  return (await statFile(path)).size !== size;
}

/** What was written where, in words. */
function extentOf(writer: SequentialWriter, offset: number): string {
  if (writer.settled === 0) return "nothing";
  const size = formatSize(writer.settled);
  const sectors = formatCount(writer.settled / SECTOR_BYTES, "sector");
  return `${size} (${sectors}) at sector ${offset / SECTOR_BYTES}`;
}
