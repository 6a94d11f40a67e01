/**
 * `platter copy`: one disk onto another.
 *
 * @module
 */

import { copyDisk, type CopyPhase, type CopyResult } from "../disk/copy.ts";
import { VirtualDisk } from "../disk/disk.ts";
import { DiskError } from "../errors.ts";
import { SECTOR_BYTES } from "../geometry.ts";
import { isNbdUri } from "../protocol/nbd/uri.ts";
import type { OpenOptions } from "../disk/open.ts";
import { formatSize } from "../units.ts";
import { duration, rate } from "./format.ts";
import {
  CliError,
  IMAGE_OPTIONS,
  Interrupted,
  interruptible,
  NO_LOCK_OPTION,
  openOptions,
  warn,
} from "./images.ts";
import { announce, type CliIo } from "./io.ts";
import { inOptionsOf } from "./option_words.ts";
import { PARTITION_OPTION, partitionOf } from "./partition_option.ts";
import { Progress } from "./progress.ts";
import { type FileIdentity, identify, takeBack } from "./same_file.ts";
import { ExitCode, parseCount, type Verb, type VerbArguments } from "./verb.ts";

/** The verb. */
export const copy: Verb = {
  name: "copy",
  summary: "Copy a disk onto another, holes included, and flush",
  operands: "SOURCE TARGET",
  operandCount: [2, 2],
  description:
    "A target that does not exist is made, with the size of the source. If the\n" +
    "copy fails or is interrupted, it is removed again.\n" +
    "\n" +
    "An existing target, which what an NBD server has always is, is refused\n" +
    "unless --force. It must be at least as large as the source; it never\n" +
    "grows, and what it has beyond the source's size stays. If the copy fails,\n" +
    "its content is partly old and partly new.\n" +
    "\n" +
    "Once the copy is complete and flushed it stays, even if --verify is\n" +
    "interrupted or cannot read; only a new target that reads back wrong is\n" +
    "removed.\n" +
    "\n" +
    "Holes and zeroes of the source become holes where the target can have\n" +
    "them, unless --no-sparse.",
  options: [
    { name: "force", letter: "f", summary: "Overwrite an existing target" },
    {
      name: "verify",
      summary: "Read the target again after the flush, compare",
    },
    { name: "no-sparse", summary: "Write zeroes as data, make no holes" },
    {
      name: "depth",
      value: "N",
      summary: "Transfers of 1 MiB in flight (default: 4)",
    },
    {
      ...PARTITION_OPTION,
      summary: "Of the source, only this partition",
    },
    {
      name: "to-partition",
      value: "N",
      summary: "Into this partition of an existing target",
    },
    ...IMAGE_OPTIONS,
    {
      ...NO_LOCK_OPTION,
      summary: "Take no lock on the source, and heed none",
    },
  ],
  instead: '"platter read IMAGE --raw" to write to standard output, ' +
    '"platter write IMAGE" to read from standard input',
  examples: [
    ["platter copy disk.img backup.img --verify", "A backup"],
    ["platter copy disk.img root.img --partition 2", "One partition"],
    [
      "platter copy disk.img /dev/sdb --force --direct require",
      "Onto a device, past the page cache",
    ],
  ],
  exitCodes: [
    [ExitCode.Ok, "copied, flushed, and equal if --verify"],
    [ExitCode.Trouble, "wrong usage, or it failed"],
    [ExitCode.Interrupted, "interrupted"],
  ],
  run,
};

async function run(args: VerbArguments, io: CliIo): Promise<number> {
  const to = args.operand(1);
  const progress = new Progress(io);
  let line: string;
  try {
    line = await interruptible(
      io,
      (signal) => transfer(args, io, progress, signal),
    );
  } finally {
    await progress.clear();
  }
  await announce(io, `${line}\n`, `"${to}" is complete and flushed`);
  return ExitCode.Ok;
}

/** Copies, flushes and closes; returns what to say of it. */
async function transfer(
  args: VerbArguments,
  io: CliIo,
  progress: Progress,
  signal: AbortSignal,
): Promise<string> {
  const [from, to] = [args.operand(0), args.operand(1)];
  const options = { ...openOptions(args), signal };
  const depth = args.parsed("depth", parseCount);
  await using image = await VirtualDisk.open(from, {
    // What changes while it is copied is copied torn.
    lock: "exclusive",
    ...options,
    readOnly: true,
  });
  await warn(io, from, image.info);
  const source = await partitionOf(image, args, signal);
  if (source.sectors === 0) {
    throw new CliError(`Cannot copy "${from}" as it is empty`);
  }
  const { lock: _, ...targetOptions } = options;
  const target = await openTarget(
    to,
    source,
    targetOptions,
    args.flag("force"),
  );
  // Held, and so locked, until it is known what becomes of it.
  await using whole = target.disk;
  await warn(io, to, whole.info);
  let reached: CopyPhase = "copy";
  // Requests of the target before the copy; until then it is as it was.
  let before: number | null = null;
  try {
    const disk = await partitionOf(whole, args, signal, "to-partition");
    before = disk.counters.requests;
    const start = io.now();
    const result = await copyDisk(source, disk, {
      sparse: !args.flag("no-sparse"),
      targetIsZero: target.isNew,
      verify: args.flag("verify"),
      ...(depth === undefined ? {} : { depth }),
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
    return summary(result, io.now() - start);
  } catch (error) {
    const left = await tidyUp(error, to, target, reached, before);
    if (signal.aborted) throw new Interrupted(`Interrupted: ${left}`);
    const reason = error instanceof Error ? error.message : String(error);
    throw new CliError(`${reason}: ${left}`, { cause: error });
  }
}

/** Where a copy goes. */
interface Target {
  readonly disk: VirtualDisk;
  /** Whether it was made for this copy. */
  readonly isNew: boolean;
  /** Which file it is; `null` if that is not known. */
  readonly identity: FileIdentity | null;
}

async function openTarget(
  path: string,
  source: VirtualDisk,
  options: OpenOptions,
  force: boolean,
): Promise<Target> {
  try {
    // What a server has cannot be made, only overwritten.
    if (isNbdUri(path)) {
      throw new DiskError("exists", `Cannot create "${path}" as it exists`);
    }
    const disk = await VirtualDisk.create(path, {
      ...options,
      blockSize: source.blockSize,
      sectors: source.sectors,
    });
    return { disk, isNew: true, identity: await identify(path) };
  } catch (error) {
    if (!(error instanceof DiskError) || error.kind !== "exists") {
      throw ofTarget(error);
    }
    if (!force) {
      throw new CliError(
        `Cannot copy onto "${path}" as it exists: overwrite its content with ` +
          `--force`,
        { cause: error },
      );
    }
  }
  const identity = await identify(path);
  const { path: from } = source.info;
  if (from !== null && identity !== null) {
    if ((await identify(from))?.key === identity.key) {
      throw new CliError(`Cannot copy "${path}" onto itself`);
    }
  }
  try {
    const disk = await VirtualDisk.open(path, options);
    return { disk, isNew: false, identity };
  } catch (error) {
    throw ofTarget(error);
  }
}

/** The options about locks are about the source alone. */
function ofTarget(error: unknown): unknown {
  if (!(error instanceof DiskError) || error.kind !== "locked") return error;
  return new CliError(inOptionsOf(error.message, []), { cause: error });
}

/** Does away with what a failed copy left, and says what is left. */
async function tidyUp(
  error: unknown,
  path: string,
  { disk, isNew, identity }: Target,
  reached: CopyPhase,
  before: number | null,
): Promise<string> {
  const isWrong = error instanceof DiskError && error.operation === "verify";
  if (reached === "verify" && !isWrong) {
    return `"${path}" is complete and flushed, but was not verified`;
  }
  if (isNew) return await takeBack(path, identity);
  return before === null || disk.counters.requests === before
    ? `"${path}" is as it was`
    : isWrong
    ? `"${path}" was overwritten`
    : `"${path}" is now partly old and partly new`;
}

/**
 * Sums up a copy.
 *
 * @param result What was done.
 * @param ms Milliseconds that it took.
 * @returns For example `"Copied 64 MiB in 0.04 s: …"`.
 */
export function summary(result: CopyResult, ms: number): string {
  const [all, written, zeroed, skipped] = [
    result.sectors,
    result.written,
    result.zeroed,
    result.skipped,
  ].map((sectors) => sectors * SECTOR_BYTES) as [
    number,
    number,
    number,
    number,
  ];
  // The time of a verified copy says nothing about the rate of the copy.
  const speed = result.verified ? "" : ` (${rate(written, ms)})`;
  const parts = [`${formatSize(written)} of data${speed}`];
  if (skipped > 0) parts.push(`${formatSize(skipped)} of holes`);
  if (zeroed > 0) parts.push(`${formatSize(zeroed)} made zeroes`);
  const verified = result.verified ? "Copied and verified" : "Copied";
  return `${verified} ${formatSize(all)} in ${duration(ms)}: ${
    parts.join(", ")
  }`;
}
