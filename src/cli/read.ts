/**
 * `platter read`: sectors as a hex dump, or as they are.
 *
 * @module
 */

import { keepNameOf } from "../backends/new_name.ts";
import { VirtualDisk } from "../disk.ts";
import { DiskError } from "../errors.ts";
import { SECTOR_BYTES } from "../geometry.ts";
import { formatSize } from "../units.ts";
import { HexDump } from "./hex_dump.ts";
import {
  bytesOf,
  CliError,
  extentsOf,
  fileError,
  IMAGE_OPTIONS,
  interruptible,
  NO_LOCK_OPTION,
  openOptions,
  warn,
} from "./images.ts";
import { type CliIo, type CliOutput, print } from "./io.ts";
import { ExitCode, UsageError, type Verb, type VerbArguments } from "./verb.ts";

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
      value: "FILE",
      summary: "The bytes as they are, to a new file",
    },
    {
      name: "force",
      letter: "f",
      summary: "Raw bytes to a terminal too, and over an existing file",
    },
    ...IMAGE_OPTIONS,
    NO_LOCK_OPTION,
  ],
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
  const file = args.value("output");
  const raw = args.flag("raw") || file !== undefined;
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
  const options = { ...openOptions(args), readOnly: true };
  return await interruptible(io, async (signal) => {
    await using disk = await VirtualDisk.open(args.operand(0), {
      ...options,
      signal,
    });
    await warn(io, args.operand(0), disk.info);
    const range = rangeOf(disk, asked.from, asked.length);
    if (!raw) await dump(disk, range, io, signal);
    else if (file === undefined) await copyOut(disk, range, io.stdout, signal);
    else await save(disk, range, file, args.flag("force"), io, signal);
    return ExitCode.Ok;
  });
}

function rangeOf(
  disk: VirtualDisk,
  from: number,
  length: number | undefined,
): ByteRange {
  const size = disk.sectors * SECTOR_BYTES;
  const to = length === undefined ? size : from + length;
  if (from > size || to > size) {
    throw new CliError(
      `Cannot read ${
        Math.max(to - from, 0)
      } bytes at byte ${from} as the disk ` +
        `has ${size} bytes (${disk.sectors} sectors)`,
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
  output: Pick<CliOutput, "write">,
  signal: AbortSignal,
): Promise<void> {
  for await (const bytes of bytesIn(disk, range, signal)) {
    await output.write(bytes);
  }
}

async function save(
  disk: VirtualDisk,
  range: ByteRange,
  path: string,
  force: boolean,
  io: CliIo,
  signal: AbortSignal,
): Promise<void> {
  const isNew = !force && !await isSpecial(path);
  const file = await openOutput(path, isNew);
  try {
    const writer = file.writable.getWriter();
    await copyOut(disk, range, writer, signal);
    if ((await file.stat()).isFile) {
      await file.sync();
      keepNameOf(path);
    }
    await writer.close();
  } catch (error) {
    closeQuietly(file);
    if (isNew) await Deno.remove(path);
    throw signal.aborted || error instanceof DiskError
      ? error
      : fileError("write to", path, error);
  }
  const size = formatSize(range.to - range.from);
  await print(io.stdout, `Saved ${size} to ${path}\n`);
}

async function openOutput(path: string, isNew: boolean): Promise<Deno.FsFile> {
  try {
    return await Deno.open(path, {
      write: true,
      ...(isNew ? { createNew: true } : { create: true, truncate: true }),
    });
  } catch (error) {
    throw fileError("write to", path, error);
  }
}

/** Whether writing to a path overwrites nothing: a pipe, a terminal. */
async function isSpecial(path: string): Promise<boolean> {
  try {
    const stat = await Deno.stat(path);
    return Boolean(stat.isCharDevice || stat.isFifo);
  } catch {
    return false;
  }
}

function closeQuietly(file: Deno.FsFile): void {
  try {
    file.close();
  } catch {
    // Closed with its stream.
  }
}
