/**
 * `platter copy`: one disk onto another, from a stream, or to one.
 *
 * What is typed is read here, and which way it goes:
 *
 * | way | file |
 * | --- | --- |
 * | disk to disk | `copyDisk()` of the library |
 * | standard input, compressed files, block maps | `copy_stream.ts` |
 * | anything to standard output | `copy_out.ts` |
 * | a disk that cannot be read everywhere | `copy_rescue.ts` |
 *
 * @module
 */

import { filesOf, namedFiles, type SourceFile } from "../backends/same_file.ts";
import { copyDisk, type CopyPhase } from "../disk/copy.ts";
import type { VirtualDisk } from "../disk/disk.ts";
import type { OpenOptions } from "../disk/open.ts";
import { SECTOR_BYTES } from "../geometry.ts";
import { type Bmap, parseBmap } from "../image/mod.ts";
import { isNbdUri } from "../protocol/nbd/uri.ts";
import { isRbdUri } from "../protocol/rbd/uri.ts";
import { statFile } from "../platform/files.ts";
import { formatCount, formatSize, parseSize } from "../units.ts";
import { copyOut } from "./copy_out.ts";
import { copyOutcome } from "./copy_report.ts";
import { copyRescue } from "./copy_rescue.ts";
import { copyStream } from "./copy_stream.ts";
import { type CopyTarget, failCopy, openTarget } from "./copy_target.ts";
import { DiskSource } from "./disk_source.ts";
import { ImageStream } from "./image_stream.ts";
import {
  CliError,
  formatOption,
  IMAGE_OPTIONS,
  interruptible,
  lookAt,
  NO_LOCK_OPTION,
  openOptions,
  parsePlainSectors,
  warn,
} from "./images.ts";
import type { CliIo } from "./io.ts";
import { type OpenedImage, openImage } from "./opened_image.ts";
import { type Outcome, OUTCOME_OPTIONS, tell } from "./outcome.ts";
import { refuseOwnOutput } from "./own_output.ts";
import { PARTITION_OPTION, partitionOf } from "./partition_option.ts";
import { Progress } from "./progress.ts";
import { readText } from "./text_file.ts";
import {
  ExitCode,
  parseCount,
  UsageError,
  type Verb,
  type VerbArguments,
} from "./verb.ts";

/**
 * Sectors of one transfer between disks: 2 MiB. Smaller ones cost more turns of
 * the event loop than a busy machine has.
 */
const CHUNK_SECTORS = 4096;

/** Transfers between disks in flight unless said otherwise. */
const DEPTH = 8;

/** Transfers in flight at most: they have 2 GiB of memory then. */
const MAX_DEPTH = 1024;

/** Bytes of a bmap file at most. */
const MAX_BMAP_BYTES = 2 ** 26;

/** The verb. */
export const copy: Verb = {
  name: "copy",
  summary: "Copy a disk onto another, holes included, and flush",
  operands: "SOURCE|- TARGET|-",
  operandCount: [2, 2],
  description:
    "A target that does not exist is made, with the size of what is copied. If\n" +
    "the copy fails or is interrupted, it is removed again.\n" +
    "\n" +
    "An existing target, which what an NBD server has always is, is refused\n" +
    "unless --force. It must be large enough; it never grows, and what is\n" +
    "beyond what is copied stays. If the copy fails, its content is partly old\n" +
    "and partly new.\n" +
    "\n" +
    "Once the copy is complete and flushed it stays, even if --verify is\n" +
    "interrupted or cannot read; only a new target that reads back wrong is\n" +
    "removed.\n" +
    "\n" +
    "Holes and zeroes of the source become holes where the target can have\n" +
    "them, unless --no-sparse.\n" +
    "\n" +
    "A source that is compressed (gzip, xz, zstd) is decompressed on the way.\n" +
    "How large it will be is not known before: the target must exist, or\n" +
    '--size say it. "-" is standard input, or standard output.\n' +
    "\n" +
    "--rescue goes on where the source cannot be read, and lists it. The same\n" +
    "command again goes on with what is left.",
  options: [
    { name: "force", letter: "f", summary: "Overwrite an existing target" },
    {
      name: "verify",
      summary: "Read the target again after the flush, compare",
    },
    { name: "from", value: "N", summary: "First sector of the source" },
    { name: "to", value: "N", summary: "First sector on the target" },
    { name: "count", value: "N", summary: "Sectors (default: to the end)" },
    { name: "size", value: "SIZE", summary: "Size of a new target" },
    {
      name: "pad",
      summary: "Fill the last block of a stream with zeroes",
    },
    {
      name: "bmap",
      value: "FILE",
      summary: "Copy what this block map says, and check its sums",
    },
    {
      name: "rescue",
      value: "FILE",
      summary: "Go on past bad sectors; the map (as ddrescue's)",
    },
    {
      name: "retries",
      value: "N",
      summary: "With --rescue: try bad sectors again so often",
    },
    { name: "no-sparse", summary: "Write zeroes as data, make no holes" },
    {
      name: "depth",
      value: "N",
      summary: "Transfers in flight (default: 8; of 2 MiB)",
    },
    ...OUTCOME_OPTIONS,
    {
      ...PARTITION_OPTION,
      summary: "Of the source, only this partition",
    },
    {
      name: "to-partition",
      value: "N",
      summary: "Into this partition of an existing target",
    },
    ...IMAGE_OPTIONS.map((option) =>
      option.name === "format"
        ? { ...option, summary: "The source's format: raw, qcow2, vmdk, …" }
        : option
    ),
    {
      name: "to-format",
      value: "NAME",
      summary: "The target's format (default: auto)",
    },
    {
      ...NO_LOCK_OPTION,
      summary: "Take no lock on the source, and heed none",
    },
  ],
  examples: [
    ["platter copy disk.img backup.img --verify", "A backup"],
    ["platter copy disk.img root.img --partition 2", "One partition"],
    [
      "platter copy disk.img /dev/sdb --force --direct require",
      "Onto a device, past the page cache",
    ],
    [
      "platter copy image.wic.gz /dev/sdb -f --bmap image.wic.bmap --verify",
      "Flash what the image has, and nothing else",
    ],
    [
      "curl -sSf https://host/disk.img.zst | platter copy - /dev/sdb --force",
      "From the network",
    ],
    [
      "platter copy disk.img - --from 2048 --count 64MiB | sha256sum",
      "A part of it, into another program",
    ],
    [
      "platter copy /dev/sdb rescued.img --rescue rescued.map",
      "What can be read of a failing disk",
    ],
  ],
  exitCodes: [
    [ExitCode.Ok, "copied, flushed, and equal if --verify"],
    [ExitCode.Different, "rescued, but not everything can be read"],
    [ExitCode.Trouble, "wrong usage, or it failed"],
    [ExitCode.Interrupted, "interrupted"],
  ],
  run,
};

/** Options that make no sense with others. */
const EXCLUSIONS: readonly (readonly [string, readonly string[]])[] = [
  ["rescue", [
    ...["from", "to", "count", "size", "pad", "bmap", "verify", "depth"],
    ...["to-partition", "no-sparse"],
  ]],
  ["bmap", ["from", "count", "pad"]],
];

/** Options that only a target with a name has. */
const OF_TARGETS = [
  ...["verify", "to", "size", "pad", "bmap", "rescue", "no-sparse", "depth"],
  ...["json", "to-partition", "to-format"],
];

async function run(args: VerbArguments, io: CliIo): Promise<number> {
  checkOptions(args, io);
  await refusePipes(args);
  const numbers = numbersOf(args);
  const progress = new Progress(io, args.flag("quiet"));
  let outcome: Outcome | null;
  let code: number = ExitCode.Ok;
  try {
    outcome = await interruptible(io, async (signal) => {
      const way = { args, numbers, io, progress, signal };
      if (args.operand(1) === "-") return await toOutput(way);
      if (args.value("rescue") === undefined) return await transfer(way);
      const { hasBad, ...outcome } = await rescue(way);
      if (hasBad) code = ExitCode.Different;
      return outcome;
    });
  } finally {
    await progress.clear();
  }
  if (outcome !== null) await tell(args, io, outcome);
  return code;
}

/** Numbers that were typed, in sectors unless said otherwise. */
interface Numbers {
  /** Where on the source. */
  readonly from: number;
  /** Where on the target. */
  readonly to: number;
  readonly count: number | undefined;
  /** Bytes of a new target. */
  readonly size: number | undefined;
  readonly depth: number | undefined;
  readonly retries: number | undefined;
}

function numbersOf(args: VerbArguments): Numbers {
  return {
    from: args.parsed("from", parsePlainSectors) ?? 0,
    to: args.parsed("to", parsePlainSectors) ?? 0,
    count: args.parsed("count", parseLength),
    size: args.parsed("size", parseSize),
    depth: args.parsed("depth", parseDepth),
    retries: args.parsed("retries", parseCount),
  };
}

function parseLength(text: string): number {
  const count = parsePlainSectors(text);
  if (count > 0) return count;
  throw new RangeError(
    `Cannot parse a length as it must be one sector at least: current value is "${text}"`,
  );
}

function parseDepth(text: string): number {
  const depth = parseCount(text);
  if (depth <= MAX_DEPTH) return depth;
  throw new RangeError(
    `Cannot parse a depth as it must be at most ${MAX_DEPTH}: current value is "${text}"`,
  );
}

/** What every way of copying is given. */
interface Way {
  readonly args: VerbArguments;
  readonly numbers: Numbers;
  readonly io: CliIo;
  readonly progress: Progress;
  readonly signal: AbortSignal;
}

function checkOptions(args: VerbArguments, io: CliIo): void {
  const isGiven = (name: string) =>
    args.flag(name) || args.value(name) !== undefined;
  const [from, to] = [args.operand(0), args.operand(1)];
  for (const [name, others] of EXCLUSIONS) {
    const other = isGiven(name) && others.find(isGiven);
    if (other) {
      throw new UsageError(
        `Cannot use --${name} and --${other} together: see "platter copy --help"`,
      );
    }
  }
  if (isGiven("retries") && !isGiven("rescue")) {
    throw new UsageError("Cannot use --retries as it needs --rescue FILE");
  }
  if (from === "-" && (to === "-" || isGiven("rescue"))) {
    throw new UsageError(
      `Cannot copy as ${
        to === "-" ? "one of both" : "the source of a rescue"
      } must be the name of a disk: current value is "-" (use "./-" for a file ` +
        `of that name)`,
    );
  }
  if (to !== "-") return;
  const other = OF_TARGETS.find(isGiven);
  if (other !== undefined) {
    throw new UsageError(
      `Cannot use --${other} as TARGET must be the name of a disk for it: ` +
        `current value is "-" (use "./-" for a file of that name)`,
    );
  }
  if (io.stdout.isTerminal && !args.flag("force")) {
    throw new UsageError(
      "Cannot write raw bytes to a terminal: redirect them, or --force",
    );
  }
}

/** Pipes have names and are no disks, which no name can make them. */
async function refusePipes(args: VerbArguments): Promise<void> {
  for (const [index, what] of ["SOURCE", "TARGET"].entries()) {
    const path = args.operand(index);
    // What is not there, or no file's name, is another's to say.
    const isFile = path !== "-" && !isNbdUri(path) && !isRbdUri(path);
    const stat = isFile ? await statFile(path).catch(() => null) : null;
    if (stat?.isFifo !== true) continue;
    throw new UsageError(
      `Cannot copy as ${what} must be a disk, or "-" for a pipe: current value ` +
        `is "${path}", a pipe (use - ${index === 0 ? "<" : ">"} "${path}")`,
    );
  }
}

async function openSource({ args, io, signal }: Way): Promise<OpenedImage> {
  const from = args.operand(0);
  await using parts = new AsyncDisposableStack();
  const opened = parts.use(
    await openImage(args, io, from, {
      // What changes while it is copied is copied torn.
      lock: args.flag("no-lock") ? "none" : "exclusive",
      ...{ readOnly: true, signal },
    }),
  );
  if (opened.disk.sectors === 0) {
    throw new CliError(`Cannot copy "${from}" as it is empty`);
  }
  parts.move();
  return opened;
}

/** How the target is opened; options about locks and the format are the source's. */
function targetOptions({ args, signal }: Way): OpenOptions {
  const { lock: _lock, format: _format, ...options } = openOptions(args);
  return { ...options, ...formatOption(args, "to-format"), signal };
}

/** The part of a disk that was asked for; the disk itself if all of it was. */
function partOf(
  disk: VirtualDisk,
  path: string,
  from: number,
  count: number | undefined,
): VirtualDisk {
  if (from === 0 && count === undefined) return disk;
  const length = count ?? disk.sectors - from;
  if (length < 1 || from + length > disk.sectors) {
    throw new CliError(
      `Cannot copy ${
        length < 1 ? "" : `${formatCount(length, "sector")} `
      }from sector ${from} of "${path}" as it has ` +
        formatCount(disk.sectors, "sector"),
    );
  }
  return disk.slice(from, length);
}

/**
 * The place on a target, to its end; it must have room for so many sectors, as
 * far as that is known.
 */
async function placeOn(
  target: CopyTarget,
  { args, numbers: { to }, signal }: Way,
  sectors: number | undefined,
): Promise<VirtualDisk> {
  const disk = await partitionOf(target.disk, args, signal, "to-partition");
  target.before = disk.counters.requests;
  if (to + (sectors ?? 1) > disk.sectors) {
    throw new CliError(
      `Cannot copy ${
        sectors === undefined ? "" : `${formatCount(sectors, "sector")} `
      }to sector ${to} of "${target.path}" as the target has only ` +
        disk.sectors,
    );
  }
  return to === 0 ? disk : disk.slice(to, disk.sectors - to);
}

/** Copies onto a target with a name, flushes and closes. */
async function transfer(way: Way): Promise<Outcome> {
  const { args, io, signal } = way;
  const from = args.operand(0);
  await refuseNew(args);
  const bmapFile = args.value("bmap");
  let bmap: Bmap | undefined;
  if (bmapFile !== undefined) {
    refuseOwnOutput(io, await namedFiles(bmapFile));
    bmap = await readBmap(bmapFile, signal);
  }
  const isRaw = args.value("format") === "raw";
  await using stream = await ImageStream.open(from, io, isRaw, signal);
  if (stream !== null) {
    refusePartition(args, stream);
    return await fromStream(way, stream, bmap);
  }
  if (args.flag("pad")) {
    throw new UsageError(`Cannot use --pad as "${from}" is no stream`);
  }
  await using source = await openSource(way);
  const { disk } = source;
  if (bmap === undefined) return await fromDisk(way, disk);
  refuseLonger(disk, from, bmap);
  const bytes = new DiskSource(disk, from, signal);
  return await fromStream(way, bytes, bmap, disk);
}

/** A new target has no partitions. */
async function refuseNew(args: VerbArguments): Promise<void> {
  const to = args.operand(1);
  if (
    args.value("to-partition") === undefined || isNbdUri(to) || isRbdUri(to) ||
    await lookAt("copy to", to) !== null
  ) return;
  throw new CliError(
    `Cannot copy into a partition of "${to}" as there is no such file or ` +
      `directory`,
  );
}

/** A map of a shorter image is another one's; but what is no file may be larger. */
function refuseLonger(
  { sectors, blockSize, info }: VirtualDisk,
  from: string,
  { imageBytes }: Bmap,
): void {
  const bytes = sectors * SECTOR_BYTES;
  if (info.medium !== "file" || bytes - imageBytes < blockSize) return;
  throw new CliError(
    `Cannot copy "${from}" by that bmap as the image must have ` +
      `${
        formatCount(imageBytes, "byte")
      }, as the bmap says: current value is ` +
      formatCount(bytes, "byte"),
  );
}

async function fromDisk(way: Way, whole: VirtualDisk): Promise<Outcome> {
  const { args, numbers, io, progress, signal } = way;
  const [from, to] = [args.operand(0), args.operand(1)];
  const { from: first, to: place, count, depth } = numbers;
  const source = partOf(whole, from, first, count);
  const target = await openTarget(to, {
    open: targetOptions(way),
    force: args.flag("force"),
    blockSize: whole.blockSize,
    sectors: sizeOfNew(numbers, place + source.sectors),
    inputs: await filesOf(whole.info),
    io,
  });
  // Held, and so locked, until it is known what becomes of it.
  await using disk = target.disk;
  await warn(io, to, disk.info);
  let reached: CopyPhase = "copy";
  try {
    const start = io.now();
    const onto = await placeOn(target, way, source.sectors);
    const sums = await copyDisk(source, onto, {
      sparse: !args.flag("no-sparse"),
      targetIsZero: target.isNew,
      verify: args.flag("verify"),
      chunkSectors: CHUNK_SECTORS,
      depth: depth ?? DEPTH,
      signal,
      onProgress: (done, total, phase) => {
        reached = phase;
        progress.update(
          phase === "copy" ? "Copying" : "Verifying",
          done * SECTOR_BYTES,
          total * SECTOR_BYTES,
        );
      },
    });
    return copyOutcome(sums, io.now() - start, from, to, disk, copy.options);
  } catch (error) {
    throw await failCopy(error, target, signal, reached);
  }
}

/** A table of partitions may stand at the end, where a stream is not yet. */
function refusePartition(args: VerbArguments, { name }: ImageStream): void {
  if (args.value("partition") === undefined) return;
  throw new UsageError(
    `Cannot use --partition as ${name} is a stream: copy it to a disk first`,
  );
}

/** From what comes in order: a stream, or a disk by a block map. */
async function fromStream(
  way: Way,
  source: ImageStream | DiskSource,
  bmap: Bmap | undefined,
  disk?: VirtualDisk,
): Promise<Outcome> {
  const { args, numbers, io, progress, signal } = way;
  const [from, to] = [args.operand(0), args.operand(1)];
  const open = targetOptions(way);
  const { from: first, to: place, count, depth } = numbers;
  const blockSize = open.blockSize ?? disk?.blockSize ?? SECTOR_BYTES;
  const bytes = bmap?.imageBytes ??
    (count === undefined ? undefined : count * SECTOR_BYTES);
  const known = bytes === undefined
    ? undefined
    : place + Math.ceil(bytes / blockSize) * blockSize / SECTOR_BYTES;
  if (bytes === 0) throw new CliError(`Cannot copy "${from}" as it is empty`);
  const inputs = disk === undefined
    ? await filesOfStream(from, io)
    : await filesOf(disk.info);
  refuseOwnOutput(io, inputs);
  const target = await openTarget(to, {
    open,
    force: args.flag("force"),
    blockSize,
    sectors: sizeOfNew(numbers, known),
    ...{ inputs, io },
  });
  await using _held = target.disk;
  let onto: VirtualDisk;
  try {
    await warn(io, to, target.disk.info);
    onto = await placeOn(
      target,
      way,
      known === undefined ? undefined : known - place,
    );
    await source.pass(first * SECTOR_BYTES);
  } catch (error) {
    throw await failCopy(error, target, signal, "copy");
  }
  const mapped = bmap?.ranges.reduce(
    (sum, { first, last }) => sum + (last - first + 1) * bmap.blockBytes,
    0,
  );
  const start = io.now();
  let copied = 0;
  const sums = await copyStream({
    source,
    target,
    onto,
    bytes: bmap === undefined ? bytes : undefined,
    bmap,
    pad: args.flag("pad"),
    sparse: !args.flag("no-sparse"),
    depth,
    verify: args.flag("verify"),
    signal,
    onProgress: (done, phase) => {
      if (phase === "copy") copied = done;
      const total = phase === "verify" ? mapped ?? copied : bytes ??
        (source instanceof ImageStream ? estimate(done, source) : undefined);
      progress.update(phase === "copy" ? "Copying" : "Verifying", done, total);
    },
  });
  return copyOutcome(
    sums,
    io.now() - start,
    from,
    to,
    target.disk,
    copy.options,
  );
}

/** What a stream is read from. */
async function filesOfStream(from: string, io: CliIo): Promise<SourceFile[]> {
  if (from !== "-") return await namedFiles(from);
  const { stdinFile: identity } = io;
  return identity === null ? [] : [{ name: "standard input", identity }];
}

/** How much will come out of a compressed file, judged by what came so far. */
function estimate(done: number, source: ImageStream): number | undefined {
  const { fileBytes, fileBytesRead } = source;
  if (fileBytes === undefined || fileBytesRead === 0) return undefined;
  return Math.round(done * fileBytes / fileBytesRead);
}

/** Sectors of a new target: what it must have, or more if that was asked for. */
function sizeOfNew(
  { size }: Numbers,
  needed: number | undefined,
): number | undefined {
  if (size === undefined) return needed;
  const sectors = size / SECTOR_BYTES;
  if (!Number.isInteger(sectors) || sectors < Math.max(needed ?? 0, 1)) {
    throw new UsageError(
      `Cannot use --size as it must be whole sectors, and ` +
        `${formatSize(Math.max(needed ?? 0, 1) * SECTOR_BYTES)} at least: ` +
        `current value is ${formatCount(size, "byte")}`,
    );
  }
  return sectors;
}

async function toOutput(way: Way): Promise<null> {
  const { args, numbers, io, progress, signal } = way;
  const path = args.operand(0);
  const { from, count } = numbers;
  const isRaw = args.value("format") === "raw";
  await using stream = await ImageStream.open(path, io, isRaw, signal);
  if (stream !== null) {
    refusePartition(args, stream);
    refuseOwnOutput(io, await filesOfStream(path, io));
    await stream.pass(from * SECTOR_BYTES);
    const bytes = count === undefined ? undefined : count * SECTOR_BYTES;
    await copyOut(
      stream,
      bytes,
      io,
      signal,
      (done) =>
        progress.update("Copying", done, bytes ?? estimate(done, stream)),
    );
    return null;
  }
  await using opened = await openSource(way);
  const source = partOf(opened.disk, path, from, count);
  const total = source.sectors * SECTOR_BYTES;
  await copyOut(
    new DiskSource(source, path, signal),
    total,
    io,
    signal,
    (done) => progress.update("Copying", done, total),
  );
  return null;
}

async function rescue(way: Way) {
  const { args, numbers, io, progress, signal } = way;
  await using source = await openSource(way);
  return await copyRescue({
    from: args.operand(0),
    to: args.operand(1),
    mapFile: args.value("rescue")!,
    source: source.disk,
    open: targetOptions(way),
    force: args.flag("force"),
    retries: numbers.retries,
    io,
    progress,
    signal,
  });
}

async function readBmap(path: string, signal: AbortSignal): Promise<Bmap> {
  const text = await readText(path, { maxBytes: MAX_BMAP_BYTES, signal });
  try {
    return parseBmap(text);
  } catch (error) {
    throw new CliError(`Cannot use "${path}": ${(error as Error).message}`, {
      cause: error,
    });
  }
}
