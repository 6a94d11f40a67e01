/**
 * What `fill`, `zero` and `discard` have in common: a range of a disk that is
 * worked through from its start to its end and flushed, where a range must be
 * said, as all of it is lost.
 *
 * @module
 */

import type { VirtualDisk } from "../disk/disk.ts";
import { SECTOR_BYTES } from "../geometry.ts";
import { formatCount, formatSize } from "../units.ts";
import {
  bytesOf,
  CliError,
  IMAGE_OPTIONS,
  Interrupted,
  interruptible,
} from "./images.ts";
import type { CliIo } from "./io.ts";
import { openImage } from "./opened_image.ts";
import { flushedWord, OUTCOME_OPTIONS, tell } from "./outcome.ts";
import { PARTITION_OPTION } from "./partition_option.ts";
import { Progress } from "./progress.ts";
import {
  ExitCode,
  UsageError,
  type VerbArguments,
  type VerbOption,
} from "./verb.ts";

/** Sectors of one step: 256 MiB, after which it can be stopped. */
const STEP_SECTORS = 2 ** 19;

/** The options that say where. */
export const RANGE_OPTIONS: readonly VerbOption[] = [
  { name: "sector", value: "N", summary: "Where: first sector" },
  {
    name: "offset",
    value: "SIZE",
    summary: "The same as a size: 1MiB, 0x1000",
  },
  { name: "count", value: "N", summary: "How much: sectors" },
  {
    name: "length",
    value: "SIZE",
    summary: "The same as a size: 1MiB, 0x1000",
  },
  { name: "all", summary: "The whole disk or partition, instead" },
];

/** The options that follow a verb's own. */
export const WORK_OPTIONS: readonly VerbOption[] = [
  ...OUTCOME_OPTIONS,
  PARTITION_OPTION,
  ...IMAGE_OPTIONS,
];

/** What is done to a range. */
export interface RangeWork {
  /** As in "Cannot zero". */
  readonly verb: string;
  /** As in "Zeroed 1 MiB"; also for "so far". */
  readonly done: string;
  /** As in "Zeroing", of progress. */
  readonly doing: string;
  /** What the sentence ends with; nothing by default. */
  readonly with?: string;
  /** More for `--json`. */
  readonly json?: Readonly<Record<string, unknown>>;
  /**
   * Begins: finds out what it needs of the disk.
   *
   * @param disk The disk.
   * @param signal Stops it.
   * @returns What does a part of the range.
   */
  begin(
    disk: VirtualDisk,
    signal: AbortSignal,
  ): (sector: number, count: number) => Promise<void>;
}

/**
 * Does something to a range of a disk, flushes, and says so.
 *
 * @param args What was typed.
 * @param io What to talk to.
 * @param work What is done.
 * @returns The exit code.
 */
export async function workThrough(
  args: VerbArguments,
  io: CliIo,
  work: RangeWork,
): Promise<number> {
  const asked = askedFor(args, work.verb);
  const path = args.operand(0);
  const progress = new Progress(io, args.flag("quiet"));
  let range: { sector: number; count: number };
  let flushed: string;
  try {
    [range, flushed] = await interruptible(io, async (signal) => {
      await using opened = await openImage(args, io, path, { signal });
      const { disk } = opened;
      const range = rangeOn(disk, asked, work.verb);
      await pass(disk, range, work, progress, signal);
      return [range, flushedWord(disk)] as const;
    });
  } finally {
    await progress.clear();
  }
  const bytes = range.count * SECTOR_BYTES;
  await tell(args, io, {
    text: `${work.done} ${formatSize(bytes)} (${
      formatCount(range.count, "sector")
    }) at sector ${range.sector}${work.with ?? ""}`,
    json: { image: path, ...range, bytes, ...work.json },
    done: `"${path}" has all of it, ${flushed}`,
  });
  return ExitCode.Ok;
}

/** Where and how much, in bytes; `null` for all. */
function askedFor(
  args: VerbArguments,
  verb: string,
): { from: number; length: number } | null {
  const from = bytesOf(args, "sector", "offset");
  const length = bytesOf(args, "count", "length");
  if (args.flag("all")) {
    if (from === undefined && length === undefined) return null;
    throw new UsageError("Cannot use --all together with a place or a length");
  }
  if (from === undefined || length === undefined) {
    throw new UsageError(
      `Cannot ${verb} as nothing says ${
        from === undefined
          ? "where: give --sector or --offset"
          : "how much: give --count or --length"
      }, or --all`,
    );
  }
  return { from, length };
}

function rangeOn(
  disk: VirtualDisk,
  asked: { from: number; length: number } | null,
  verb: string,
): { sector: number; count: number } {
  if (asked === null) return { sector: 0, count: disk.sectors };
  const { from, length } = asked;
  const { blockSize } = disk;
  if (from % blockSize !== 0 || length % blockSize !== 0 || length === 0) {
    throw new CliError(
      `Cannot ${verb} ${formatCount(length, "byte")} at byte ${from} as it ` +
        `must be whole blocks of ${blockSize} bytes, and one at least`,
    );
  }
  const size = disk.sectors * SECTOR_BYTES;
  if (from + length > size) {
    throw new CliError(
      `Cannot ${verb} ${formatCount(length, "byte")} at byte ${from} as the ` +
        `disk has ${formatCount(size, "byte")}`,
    );
  }
  return { sector: from / SECTOR_BYTES, count: length / SECTOR_BYTES };
}

async function pass(
  disk: VirtualDisk,
  { sector, count }: { sector: number; count: number },
  work: RangeWork,
  progress: Progress,
  signal: AbortSignal,
): Promise<void> {
  let done = 0;
  const before = disk.counters.requests;
  try {
    const step = work.begin(disk, signal);
    while (done < count) {
      signal.throwIfAborted();
      const length = Math.min(STEP_SECTORS, count - done);
      await step(sector + done, length);
      done += length;
      progress.update(work.doing, done * SECTOR_BYTES, count * SECTOR_BYTES);
    }
    if (disk.info.abilities.flush !== "none") await disk.flush({ signal });
  } catch (error) {
    const left = disk.counters.requests === before
      ? "nothing was changed"
      : `${work.done.toLowerCase()} ${
        formatSize(done * SECTOR_BYTES)
      } for certain, but did not flush`;
    if (signal.aborted) throw new Interrupted(`Interrupted: ${left}`);
    throw new CliError(`${(error as Error).message}: ${left}`, {
      cause: error,
    });
  }
}
