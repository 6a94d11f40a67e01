/**
 * Does ext4 keep its promises through a power cut? The running kernel mounts a
 * disk that records what reaches it, a program creates, appends, renames,
 * truncates and unlinks files there, with an `fsync()` after each step; then the
 * power fails at every point between the barriers that the kernel sent, in the
 * ways that a volatile write cache allows, and `e2fsck` looks at each image.
 *
 * ```sh
 * sudo deno run -A examples/ext4/explore.ts             # it does
 * sudo deno run -A examples/ext4/explore.ts --no-flush  # not on a disk that lies
 * ```
 *
 * The kernel runs once; what is explored is the recording. It does not write the
 * same in the same order each time, so a failure's token is of no use in another
 * run: `--keep` keeps the image of it, and a trace of all requests.
 *
 * Exits with 0 if no state fails, with 1 if one does, with 2 if it was called
 * wrongly or something that it needs is missing, with 130 after Ctrl-C.
 *
 * @module
 */

import { MemoryBackend, SECTOR_BYTES, VirtualDisk } from "@platter/disk";
import {
  CrashFailure,
  type CrashOptions,
  type CrashReport,
  exploreCrashes,
  type FaultRule,
  faults,
  trace,
  type TraceEvent,
} from "@platter/disk/testing";
import { parseArgs } from "@std/cli/parse-args";
import {
  CHECK_TOOLS,
  describeLayout,
  FileSystemCheck,
  makeFileSystem,
  type SectorRun,
} from "./check.ts";
import { MOUNT_TOOLS, mountDisk } from "./mounted.ts";
import { exists, missing, ToolError } from "./tools.ts";
import { checkTree, makeSteps, scribble } from "./workload.ts";

/** States that are looked at unless another number is given. */
const DEFAULT_STATES = 500;

/** The disk: 32 MiB, of which the journal has 4. */
const DISK_BYTES = 32 << 20;

const USAGE = `Usage: explore.ts [OPTIONS]

  --states N      images to look at, at most (default: ${DEFAULT_STATES})
  --seed N        what content and random states are drawn from (default: 0)
  --no-flush      once mounted, the disk acknowledges flushes and does not do them
  --in-order      the disk's cache writes back in the order of the writes
  --mount WORDS   options of the mount, such as data=journal or barrier=0
  --rounds N      does all of it N times; four fill the journal (default: 1)
  --block-size N  bytes that the disk writes wholly or not at all: 512 or 4096
                  (default: 4096)
  --dir PATH      where to make a folder to work in (default: /dev/shm)
  --keep          keeps that folder with the images and a trace of all requests`;

/** What to try. */
export interface Ext4Options {
  /** What content and random states are drawn from; 0 if not given. */
  readonly seed?: number;
  /** Whether, once mounted, flushes are acknowledged and not done. */
  readonly noFlush?: boolean;
  /** Whether the cache writes back in the order of the writes. */
  readonly inOrder?: boolean;
  /** Options of the mount, such as `"data=journal"`. */
  readonly mount?: string;
  /** How often all of it is done; once if not given. */
  readonly rounds?: number;
  /** Bytes that the disk writes wholly or not at all; 4096 if not given. */
  readonly blockSize?: number;
  /** A folder to work in, best one in memory. What is made there stays. */
  readonly dir: string;
  /** Told what the kernel did, before the exploration. */
  readonly onRecorded?: (traffic: Traffic) => void;
  /** How the states are explored, beyond that. */
  readonly explore?: Partial<CrashOptions<string>>;
}

/** What the kernel asked of its block device. */
export interface Traffic {
  /** Writes. */
  writes: number;
  /** Bytes written. */
  writtenBytes: number;
  /** Writes that were to be durable when they were done. */
  fua: number;
  /** Flushes that the disk did. */
  flushes: number;
  /** Flushes that were lost on the way. */
  lostFlushes: number;
  /** Discards and writes of zeroes. */
  others: number;
}

/**
 * What is missing of what this needs.
 *
 * @returns One line for each thing; none if all of it is there.
 */
export function missingForExt4(): string[] {
  return missing([...MOUNT_TOOLS, ...CHECK_TOOLS]);
}

/**
 * Explores what power cuts do to ext4.
 *
 * @param options What to try.
 * @returns What was explored; nothing failed.
 * @throws {CrashFailure} If anything that was synced is lost, or the file system
 * is damaged.
 */
export async function exploreExt4(options: Ext4Options): Promise<CrashReport> {
  const { seed = 0, noFlush = false, rounds = 1, blockSize = 4096 } = options;
  const { dir, inOrder = false, mount = "" } = options;
  const { signal } = options.explore ?? {};
  const steps = makeSteps(seed, rounds);
  const image = await makeFileSystem(`${dir}/base.img`, DISK_BYTES);
  const base = new MemoryBackend({
    sectors: DISK_BYTES / SECTOR_BYTES,
    blockSize,
  });
  await using disk = VirtualDisk.over(base);
  await disk.write(0, image);

  const check = new FileSystemCheck(dir, image);
  const traffic: Traffic = {
    writes: 0,
    writtenBytes: 0,
    fua: 0,
    flushes: 0,
    lostFlushes: 0,
    others: 0,
  };
  const touched: SectorRun[] = [];
  using lines = await Deno.create(`${dir}/trace.jsonl`);
  const encoder = new TextEncoder();
  const note = (line: string) => {
    lines.writeSync(encoder.encode(`${line}\n`));
    const event = JSON.parse(line) as TraceEvent;
    if (event.event !== "submit") return;
    const { operation, sector, count } = event;
    if (operation === "flush") traffic.flushes++;
    if (operation === "flush" || operation === "read") return;
    touched.push({ sector, count });
    if (event.fua) traffic.fua++;
    if (operation === "write") {
      traffic.writes++;
      traffic.writtenBytes += count * SECTOR_BYTES;
    } else traffic.others++;
  };
  let written: SectorRun[] = [];
  const lie: FaultRule = {
    operation: "flush",
    enabled: false,
    effect: { kind: "lost" },
  };

  return await exploreCrashes<string>({
    device: { blockSize, reorders: !inOrder },
    // Programs of the host check it.
    recoveryTimeoutMs: 120_000,
    base,
    seed,
    layers(device) {
      const traced = trace(device, note);
      if (!noFlush) return traced;
      return faults(traced, [lie], { onFault: () => traffic.lostFlushes++ });
    },
    async workload(recorded, acknowledge) {
      {
        await using mounted = await mountDisk(recorded, dir, mount);
        // The rule is not there otherwise, and this harms nobody.
        lie.enabled = true;
        for (const [i, step] of steps.entries()) {
          signal?.throwIfAborted();
          await scribble(mounted.path, i);
          await step.act(mounted.path);
          acknowledge(step.text);
        }
      }
      written = joined(touched);
      options.onRecorded?.(traffic);
    },
    async recover(left, acknowledged) {
      signal?.throwIfAborted();
      const found = await check.recover(left, written);
      checkTree(steps, acknowledged.length, found);
    },
    ...options.explore,
  });
}

/** Runs of sectors in order, none of them next to another. */
function joined(runs: readonly SectorRun[]): SectorRun[] {
  const all: { sector: number; count: number }[] = [];
  for (
    const { sector, count } of runs.toSorted((a, b) => a.sector - b.sector)
  ) {
    const last = all.at(-1);
    if (last !== undefined && sector <= last.sector + last.count) {
      last.count = Math.max(last.count, sector + count - last.sector);
    } else all.push({ sector, count });
  }
  return all;
}

/** The number that an option has; `NaN` if it has something else. */
function integer(text: string): number {
  return /^\d{1,15}$/.test(text) ? Number(text) : NaN;
}

async function main(args: string[]): Promise<number> {
  const given = parseArgs(args, {
    string: ["dir", "states", "seed", "mount", "rounds", "block-size"],
    boolean: ["no-flush", "in-order", "keep", "help"],
    default: {
      states: `${DEFAULT_STATES}`,
      seed: "0",
      mount: "",
      rounds: "1",
      "block-size": "4096",
    },
    unknown: (name) => {
      console.error(`Unknown option: ${name}\n\n${USAGE}`);
      Deno.exit(2);
    },
  });
  const maxStates = integer(given.states);
  const seed = integer(given.seed);
  const rounds = integer(given.rounds);
  const blockSize = integer(given["block-size"]);
  if (
    given.help || Number.isNaN(seed) || !(maxStates > 0) || !(rounds > 0) ||
    blockSize !== 512 && blockSize !== 4096
  ) {
    console.error(USAGE);
    return given.help ? 0 : 2;
  }
  const lacking = missingForExt4();
  if (lacking.length > 0) {
    console.error(
      ["This mounts file systems, and there is missing:", ...lacking]
        .join("\n  "),
    );
    return 2;
  }

  const stop = new AbortController();
  const onSignal = () => stop.abort();
  const signals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
  for (const name of signals) Deno.addSignalListener(name, onSignal);
  const place = given.dir ?? (exists("/dev/shm") ? "/dev/shm" : undefined);
  const dir = await Deno.makeTempDir({
    prefix: "platter-ext4-",
    ...(place === undefined ? {} : { dir: place }),
  });
  let startMs = 0;
  const rate = (states: number) =>
    Math.round(states / (performance.now() - startMs) * 1000);
  try {
    const report = await exploreExt4({
      seed,
      rounds,
      blockSize,
      dir,
      noFlush: given["no-flush"],
      inOrder: given["in-order"],
      mount: given.mount,
      onRecorded(traffic) {
        startMs = performance.now();
        console.log(describe(traffic));
      },
      explore: {
        maxStates,
        signal: stop.signal,
        ...(given.keep ? { saveImage: `${dir}/failed.img` } : {}),
      },
    });
    console.log(report.summary);
    console.log(
      `Nothing lost, nothing damaged; ${
        rate(report.states)
      } states a second, of ${report.points} crash points`,
    );
    return 0;
  } catch (error) {
    if (stop.signal.aborted) {
      console.error("Interrupted");
      return 130;
    }
    if (error instanceof ToolError) {
      console.error(error.message);
      return 2;
    }
    if (!(error instanceof CrashFailure)) throw error;
    console.log(error.message);
    console.log(await describeLayout(`${dir}/base.img`));
    return 1;
  } finally {
    if (given.keep) console.log(`Kept: ${dir}`);
    else await Deno.remove(dir, { recursive: true });
    for (const name of signals) Deno.removeSignalListener(name, onSignal);
  }
}

function describe(traffic: Traffic): string {
  const { writes, writtenBytes, fua, flushes, lostFlushes, others } = traffic;
  const parts = [
    `${writes} writes of ${Math.round(writtenBytes / 1024)} KiB in all`,
    `with FUA: ${fua}`,
    `flushes: ${flushes}`,
  ];
  if (lostFlushes > 0) parts.push(`flushes that were lost: ${lostFlushes}`);
  if (others > 0) parts.push(`discards and writes of zeroes: ${others}`);
  return `The kernel ${Deno.osRelease()} asked for ${parts.join(", ")}`;
}

if (import.meta.main) Deno.exitCode = await main(Deno.args);
