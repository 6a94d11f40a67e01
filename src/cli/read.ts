/**
 * `platter read`: sectors as a hex dump, or as they are.
 *
 * @module
 */

import { type OpenedFile, openFile } from "../platform/files.ts";
import { keepNameOf } from "../backends/new_name.ts";
import type { VirtualDisk } from "../disk/disk.ts";
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
  Interrupted,
  interruptible,
  NO_LOCK_OPTION,
} from "./images.ts";
import { type CliIo, print, send, writeAll } from "./io.ts";
import { openUnless } from "./open_unless.ts";
import { openImage } from "./opened_image.ts";
import { tell } from "./outcome.ts";
import { PARTITION_OPTION } from "./partition_option.ts";
import {
  type FileIdentity,
  identify,
  identityOf,
  isShared,
  takeBack,
} from "./same_file.ts";
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
      const from = await identify(path);
      await save(disk, range, file, from, args.flag("force"), signal);
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

/**
 * Writes what is read to a file. One that was there is cut last, when all is
 * in it.
 */
async function save(
  disk: VirtualDisk,
  range: ByteRange,
  path: string,
  from: FileIdentity | null,
  force: boolean,
  signal: AbortSignal,
): Promise<void> {
  const there = await identify(path);
  if (isShared(there, from)) {
    throw new CliError(`Cannot read "${path}" into itself`);
  }
  if (there?.isBlockDevice) {
    throw new CliError(
      `Cannot write to "${path}" as it is a block device, which may be in ` +
        `use: "platter copy" and "platter write" look first`,
    );
  }
  const isNew = !force && there?.isStream !== true;
  using file = there?.isStream
    ? await openStream(path, signal)
    : await openOutput(path, isNew);
  const identity = identityOf(await file.stat(), path);
  let written = 0;
  let begun = false;
  try {
    // Not by its stream, which does not report every failure.
    await copyOut(disk, range, async (bytes) => {
      begun = true;
      await writeAll(file, bytes);
      written += bytes.length;
    }, signal);
    if (identity.isFile) {
      await file.truncate(range.to - range.from);
      await file.sync();
      keepNameOf(path);
    }
  } catch (error) {
    const left = isNew
      ? await takeBack(path, identity)
      : written > 0
      ? `"${path}" has ${formatSize(written)} of it`
      : begun
      ? `"${path}" may have some of it`
      : `"${path}" is as it was`;
    if (signal.aborted) throw new Interrupted(`Interrupted: ${left}`);
    const reason = error instanceof DiskError
      ? error
      : fileError("write to", path, error);
    throw new CliError(`${reason.message}: ${left}`, { cause: error });
  }
}

/** Opens a pipe, which waits for its reader, or the like. */
async function openStream(
  path: string,
  signal: AbortSignal,
): Promise<OpenedFile> {
  try {
    return await openUnless(signal, path, { write: true });
  } catch (error) {
    signal.throwIfAborted();
    throw fileError("write to", path, error);
  }
}

async function openOutput(path: string, isNew: boolean): Promise<OpenedFile> {
  try {
    return await openFile(path, {
      write: true,
      ...(isNew ? { createNew: true } : { create: true }),
    });
  } catch (error) {
    throw fileError("write to", path, error);
  }
}
