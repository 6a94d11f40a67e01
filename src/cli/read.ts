/**
 * `platter read`: sectors as a hex dump, or as they are.
 *
 * @module
 */

import { filesOf, identify, sharedOf } from "../backends/same_file.ts";
import type { VirtualDisk } from "../disk/disk.ts";
import { SECTOR_BYTES } from "../geometry.ts";
import { formatSize } from "../units.ts";
import { HexDump } from "./hex_dump.ts";
import {
  bytesOf,
  CliError,
  extentsOf,
  IMAGE_OPTIONS,
  interruptible,
  NO_LOCK_OPTION,
} from "./images.ts";
import { type CliIo, print, send } from "./io.ts";
import { openImage } from "./opened_image.ts";
import { tell } from "./outcome.ts";
import { PARTITION_OPTION } from "./partition_option.ts";
import { saveFile } from "./saved_file.ts";
import { ExitCode, UsageError, type Verb, type VerbArguments } from "./verb.ts";
import { plural } from "../plural.ts";

/** The verb. */
export const read: Verb = {
  name: "read",
  summary: "Show sectors as a hex dump, or write them out as they are",
  operands: "IMAGE",
  operandCount: [1, 1],
  description:
    "Reads from the start of the disk, or from --sector or --offset, to its\n" +
    "end, or as far as --count or --length say. The hex dump has a heading for\n" +
    'each sector; lines like the one before, however many, are one "*".\n' +
    "Nothing else need be a whole block: what is around is read and left out.",
  options: [
    { name: "sector", value: "N", summary: "First sector" },
    {
      name: "offset",
      value: "SIZE",
      summary: "The same as a size: 1MiB, 4096",
    },
    { name: "count", value: "N", summary: "Sectors" },
    {
      name: "length",
      value: "SIZE",
      summary: "The same as a size: 1MiB, 4096",
    },
    { name: "raw", summary: "The bytes as they are, to standard output" },
    {
      name: "output",
      letter: "o",
      value: "FILE|-",
      summary: "The bytes as they are, to a new file",
    },
    {
      name: "force",
      letter: "f",
      summary: "Raw bytes to a terminal too, and over an existing file",
    },
    {
      name: "quiet",
      letter: "q",
      summary: "With --output: say nothing of what was saved",
    },
    { name: "json", summary: "With --output: say what was saved as JSON" },
    PARTITION_OPTION,
    ...IMAGE_OPTIONS,
    NO_LOCK_OPTION,
  ],
  instead: '"platter write IMAGE" to read from standard input',
  examples: [
    ["platter read disk.img --sector 2048 --count 1", "One sector"],
    [
      "platter read disk.img --offset 1MiB --length 4KiB --raw | sha256sum",
      "Four KiB, into another program",
    ],
    ["platter read disk.img --count 1 -o boot.bin", "Save the boot sector"],
  ],
  exitCodes: [
    [ExitCode.Ok, "done"],
    [ExitCode.Trouble, "wrong usage, or it failed"],
    [ExitCode.Interrupted, "interrupted"],
  ],
  run,
};

/** A range in bytes. */
interface ByteRange {
  from: number;
  to: number;
}

async function run(args: VerbArguments, io: CliIo): Promise<number> {
  const output = args.value("output");
  const raw = args.flag("raw") || output !== undefined;
  const file = output === "-" ? undefined : output;
  if (args.flag("json") && file === undefined) {
    throw new UsageError("Cannot use --json as it needs --output FILE");
  }
  if (
    raw && file === undefined && io.stdout.isTerminal && !args.flag("force")
  ) {
    throw new UsageError(
      "Cannot write raw bytes to a terminal: redirect them, use --output " +
        "FILE, or --force",
    );
  }
  const asked = {
    from: bytesOf(args, "sector", "offset") ?? 0,
    length: bytesOf(args, "count", "length"),
  };
  const path = args.operand(0);
  const saved = await interruptible(io, async (signal) => {
    const options = { readOnly: true, signal };
    await using opened = await openImage(args, io, path, options);
    const { disk } = opened;
    const range = rangeOf(disk, asked.from, asked.length);
    if (!raw) await dump(disk, range, io, signal);
    else if (file === undefined) {
      await copyOut(disk, range, (bytes) => send(io.stdout, bytes), signal);
    } else {
      const own = sharedOf(await identify(file), await filesOf(disk.info));
      if (own !== null) {
        throw new CliError(`Cannot read "${own.name}" into itself`);
      }
      const force = args.flag("force");
      await saveFile(
        file,
        { force, io, signal },
        (write) => copyOut(disk, range, write, signal),
      );
      return range.to - range.from;
    }
    return null;
  });
  if (saved !== null) {
    await tell(args, io, {
      text: `Saved ${formatSize(saved)} to ${file}`,
      json: { image: path, file, offset: asked.from, bytes: saved },
      done: `"${file}" has all of it, flushed`,
    });
  }
  return ExitCode.Ok;
}

function rangeOf(
  disk: VirtualDisk,
  from: number,
  length: number | undefined,
): ByteRange {
  const size = disk.sectors * SECTOR_BYTES;
  const to = length === undefined ? size : from + length;
  if (from > size) {
    throw new CliError(
      `Cannot read at byte ${from} as the disk has ${plural(size, "byte")} (${
        plural(disk.sectors, "sector")
      })`,
    );
  }
  if (to > size) {
    throw new CliError(
      `Cannot read ${plural(to - from, "byte")} at byte ${from} as the disk ` +
        `has ${plural(size, "byte")} (${plural(disk.sectors, "sector")})`,
    );
  }
  return { from, to };
}

/** Reads any bytes, by reading the blocks that they are in. */
async function* bytesIn(
  disk: VirtualDisk,
  { from, to }: ByteRange,
  signal: AbortSignal,
): AsyncGenerator<Uint8Array> {
  if (from === to) return;
  const start = Math.floor(from / disk.blockSize) * disk.blockSize;
  const end = Math.ceil(to / disk.blockSize) * disk.blockSize;
  const stream = disk.readable({
    sector: start / SECTOR_BYTES,
    count: (end - start) / SECTOR_BYTES,
    signal,
  });
  let at = start;
  for await (const chunk of stream) {
    signal.throwIfAborted();
    yield chunk.subarray(
      Math.max(0, from - at),
      Math.min(chunk.length, to - at),
    );
    at += chunk.length;
  }
}

async function dump(
  disk: VirtualDisk,
  range: ByteRange,
  io: CliIo,
  signal: AbortSignal,
): Promise<void> {
  if (range.from === range.to) return;
  const { blockSize } = disk;
  const start = Math.floor(range.from / blockSize) * blockSize / SECTOR_BYTES;
  const end = Math.ceil(range.to / blockSize) * blockSize / SECTOR_BYTES;
  const lines = new HexDump(range.to);
  for await (const extent of extentsOf(disk, start, end - start)) {
    signal.throwIfAborted();
    const from = Math.max(range.from, extent.sector * SECTOR_BYTES);
    const last = (extent.sector + extent.count) * SECTOR_BYTES;
    const to = Math.min(range.to, last);
    if (extent.hole) {
      await print(io.stdout, lines.zeroes(from, to - from));
      continue;
    }
    let at = from;
    for await (const bytes of bytesIn(disk, { from, to }, signal)) {
      await print(io.stdout, lines.data(at, bytes));
      at += bytes.length;
    }
  }
  await print(io.stdout, lines.end());
}

async function copyOut(
  disk: VirtualDisk,
  range: ByteRange,
  write: (bytes: Uint8Array) => Promise<void>,
  signal: AbortSignal,
): Promise<void> {
  for await (const bytes of bytesIn(disk, range, signal)) {
    await write(bytes);
  }
}
