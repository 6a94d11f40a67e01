/**
 * `platter copy`: one disk onto another.
 *
 * @module
 */

import { copyDisk, type CopyResult } from "../copy.ts";
import { VirtualDisk } from "../disk.ts";
import { DiskError } from "../errors.ts";
import { SECTOR_BYTES } from "../geometry.ts";
import type { OpenOptions } from "../open.ts";
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
import { type CliIo, print } from "./io.ts";
import { Progress } from "./progress.ts";
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
    "An existing target is refused unless --force. It must be at least as\n" +
    "large as the source; it never grows, and what it has beyond the source's\n" +
    "size stays. If the copy fails, its content is partly old and partly new.\n" +
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
      summary: "Transfers of 1 MiB under way at once (default: 4)",
    },
    ...IMAGE_OPTIONS,
    {
      ...NO_LOCK_OPTION,
      summary: "Take no lock on the source, and heed none",
    },
  ],
  examples: [
    ["platter copy disk.img backup.img --verify", "A backup"],
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
  const [from, to] = [args.operand(0), args.operand(1)];
  const options = openOptions(args);
  const depth = args.parsed("depth", parseCount);
  return await interruptible(io, async (signal) => {
    await using source = await VirtualDisk.open(from, {
      // What changes while it is copied is copied torn.
      lock: "exclusive",
      ...options,
      readOnly: true,
    });
    await warn(io, from, source.info);
    const { lock: _, ...targetOptions } = options;
    const { target, made } = await openTarget(
      to,
      source,
      targetOptions,
      args.flag("force"),
    );
    await warn(io, to, target.info);
    const progress = new Progress(io);
    try {
      const start = io.now();
      const result = await copyDisk(source, target, {
        sparse: !args.flag("no-sparse"),
        targetIsZero: made !== null,
        verify: args.flag("verify"),
        ...(depth === undefined ? {} : { depth }),
        signal,
        onProgress: (done, total, phase) =>
          progress.update(
            phase === "copy" ? "Copying" : "Verifying",
            done * SECTOR_BYTES,
            total * SECTOR_BYTES,
          ),
      });
      const ms = io.now() - start;
      await progress.clear();
      await target.close();
      await print(io.stdout, `${summary(result, ms)}\n`);
      return ExitCode.Ok;
    } catch (error) {
      await progress.clear();
      throw await tidyUp(error, to, target, made, signal);
    }
  });
}

async function openTarget(
  path: string,
  source: VirtualDisk,
  options: OpenOptions,
  force: boolean,
): Promise<{ target: VirtualDisk; made: Deno.FileInfo | null }> {
  try {
    const target = await VirtualDisk.create(path, {
      ...options,
      blockSize: source.blockSize,
      sectors: source.sectors,
    });
    const made = await Deno.lstat(path).catch(async (error) => {
      await target.close();
      throw error;
    });
    return { target, made };
  } catch (error) {
    if (!(error instanceof DiskError) || error.kind !== "exists") throw error;
    if (!force) {
      throw new CliError(
        `Cannot copy onto "${path}" as it exists: overwrite its content with ` +
          `--force`,
        { cause: error },
      );
    }
  }
  if (await isSameFile(source.info.path, path)) {
    throw new CliError(`Cannot copy "${path}" onto itself`);
  }
  return { target: await VirtualDisk.open(path, options), made: null };
}

/** Whether two paths lead to one file: readers and writers share locks. */
async function isSameFile(a: string | null, b: string): Promise<boolean> {
  if (a === null) return false;
  const [first, second] = await Promise.all([Deno.stat(a), Deno.stat(b)]);
  return first.ino !== null && first.ino === second.ino &&
    first.dev === second.dev;
}

/** Removes a file, if its path still leads there. */
async function removeSame(
  path: string,
  { dev, ino }: Deno.FileInfo,
): Promise<boolean> {
  const there = await Deno.lstat(path);
  if (there.dev !== dev || there.ino !== ino) return false;
  await Deno.remove(path);
  return true;
}

/** Does away with what a failed copy left, and says what is left. */
async function tidyUp(
  error: unknown,
  path: string,
  target: VirtualDisk,
  made: Deno.FileInfo | null,
  signal: AbortSignal,
): Promise<Error> {
  let left = `"${path}" is now partly old and partly new`;
  if (made !== null) {
    // While it is open nobody else may have it; nor may its name be another's.
    left = await removeSame(path, made).then(
      (removed) =>
        removed
          ? `"${path}" was removed again`
          : `"${path}" is another file by now, and stays`,
      () => `"${path}" is incomplete and could not be removed`,
    );
  }
  await target.close();
  if (signal.aborted) return new Interrupted(`Interrupted: ${left}`);
  const reason = error instanceof Error ? error.message : String(error);
  return new CliError(`${reason}: ${left}`, { cause: error });
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
