/**
 * `platter copy --rescue`: from a disk that cannot be read everywhere, with a map
 * file that says what was read, so that the same command goes on where the last
 * one stopped.
 *
 * @module
 */

import {
  filesOf,
  identify,
  namedFiles,
  sharedOf,
} from "../backends/same_file.ts";
import { statFile } from "../platform/files.ts";
import { isZero } from "../buffer.ts";
import { isSame } from "../bytes.ts";
import type { VirtualDisk } from "../disk/disk.ts";
import { DiskError } from "../errors.ts";
import { SECTOR_BYTES } from "../geometry.ts";
import { checkRescue, rescueDisk } from "../image/rescue.ts";
import { RescueMap, RescueStatus } from "../image/rescue_map.ts";
import { isNbdUri } from "../protocol/nbd/uri.ts";
import { isRbdUri } from "../protocol/rbd/uri.ts";
import { formatCount, formatSize } from "../units.ts";
import { type CopyTarget, failCopy, openTarget } from "./copy_target.ts";
import { duration } from "./format.ts";
import { CliError, Interrupted } from "./images.ts";
import { refuseOwnOutput } from "./own_output.ts";
import type { CliIo } from "./io.ts";
import { flushedWord, type Outcome } from "./outcome.ts";
import type { Progress } from "./progress.ts";
import { readRescueFile, writeRescueFile } from "./rescue_file.ts";

/** Bad ranges that are listed; all are in the map file. */
const MAX_LISTED = 20;

/** Places at which source and target are compared before a rescue goes on. */
const SAMPLES = 32;

/** One in so many of them may differ, as a source may be in use. */
const FEW = 8;

/** Bytes of each of them, at least. */
const SAMPLE_BYTES = 4096;

/** Milliseconds between two looks at how far it came. */
const LOOK_MS = 100;

/** Sectors that are read at once to see whether anything is there: 1 MiB. */
const PIECE_SECTORS = 2048;

/** What is rescued how. */
export interface RescueCopy {
  /** What the person calls the source. */
  readonly from: string;
  /** What the person calls the target. */
  readonly to: string;
  /** The map file's name. */
  readonly mapFile: string;
  /** Where from. */
  readonly source: VirtualDisk;
  /** How the target is opened. */
  readonly open: Parameters<typeof openTarget>[1]["open"];
  /** Whether a target that exists may be overwritten. */
  readonly force: boolean;
  /** How often what is bad is tried once more. */
  readonly retries: number | undefined;
  /** What to talk to. */
  readonly io: CliIo;
  /** Where progress is shown. */
  readonly progress: Progress;
  /** Stops it. */
  readonly signal: AbortSignal;
}

/** What came of a rescue. */
export interface RescueOutcome extends Outcome {
  /** Whether there is something that could not be read. */
  readonly hasBad: boolean;
}

/**
 * Rescues, flushes, and saves the map.
 *
 * @param copy What is rescued how.
 * @returns What was done.
 * @throws {CliError} If it fails for another reason than the source's medium.
 */
export async function copyRescue(copy: RescueCopy): Promise<RescueOutcome> {
  const { source, from, to, mapFile, io, signal } = copy;
  const bytes = source.sectors * SECTOR_BYTES;
  const target = await openRescued(copy);
  await using disk = target.disk;
  let begun = false;
  try {
    const used = [source.info, disk.info].map(filesOf);
    const other = sharedOf(
      await identify(mapFile),
      (await Promise.all(used)).flat(),
    );
    if (other !== null) {
      throw new CliError(
        `Cannot use "${mapFile}" as the map: it is "${other.name}"`,
      );
    }
    refuseOwnOutput(io, await namedFiles(mapFile), "written");
    // Read under the target's lock: another rescue may just have ended.
    const map = await knownMap(mapFile, bytes, signal) ?? new RescueMap(bytes);
    if (!target.isNew) await checkGoesOn(copy, disk, map);
    checkRescue(source, disk, map);
    const before = map.bytes(RescueStatus.Finished);
    // A map that cannot be written should be known before the work.
    await writeRescueFile(mapFile, map);
    begun = true;
    const start = io.now();
    let looked = start;
    await rescueDisk(source, disk, map, {
      retries: copy.retries,
      targetIsZero: target.isNew,
      save: (map) => writeRescueFile(mapFile, map),
      onProgress: (map) => {
        const now = io.now();
        if (now - looked < LOOK_MS) return;
        looked = now;
        const bad = map.bytes(RescueStatus.Bad);
        const left = bytes - map.bytes(RescueStatus.Finished) - bad;
        copy.progress.update(
          bad === 0 ? "Rescuing" : `Rescuing (${formatSize(bad)} bad)`,
          bytes - left,
          bytes,
        );
      },
      signal,
    });
    const ms = io.now() - start;
    return outcomeOf(map, before, ms, from, target, mapFile);
  } catch (error) {
    if (!begun) throw await failCopy(error, target, signal, "copy");
    const left = `"${to}" has what was read, and "${mapFile}" says what that ` +
      `is: the same command goes on`;
    if (signal.aborted) throw new Interrupted(`Interrupted: ${left}`);
    throw new CliError(`${(error as Error).message}: ${left}`, {
      cause: error,
    });
  }
}

/** A target that goes with the map: both exist, or neither. */
async function openRescued(copy: RescueCopy): Promise<CopyTarget> {
  const { source, to, mapFile, force, open } = copy;
  const bytes = source.sectors * SECTOR_BYTES;
  const map = await knownMap(mapFile, bytes, copy.signal);
  const there = await identify(to);
  const rescued = map?.bytes(RescueStatus.Finished) ?? 0;
  // What a server has is always there; a cluster says itself what it lacks.
  if (there === null && !isNbdUri(to) && !isRbdUri(to) && rescued > 0) {
    throw new CliError(
      `Cannot go on with "${to}" as there is no such file, but ` +
        `"${mapFile}" says that it has ${formatSize(rescued)}: give another ` +
        `map file to begin anew`,
    );
  }
  // What a map says was begun is gone on with; a device is always asked for.
  const goesOn = map !== null && there?.isFile === true &&
    (await statFile(to)).size === bytes;
  return await openTarget(to, {
    open,
    force: force || goesOn,
    blockSize: source.blockSize,
    sectors: source.sectors,
    inputs: await filesOf(source.info),
    io: copy.io,
  });
}

/**
 * Refuses to go on where the target has other bytes than the source in most of
 * the places that the map calls finished: it is the map of another disk, or that
 * is another target. Where some differ, the target has lost something: force says
 * to go on all the same. A few may differ, as a source may be in use. What lies
 * between two places that are equal, and has one that differs, is to be read again.
 *
 * Where nothing tells, as nothing is finished or all of it reads as zeroes, the
 * target must have nothing, or be overwritten by force.
 */
async function checkGoesOn(
  { source, from, to, mapFile, force, signal }: RescueCopy,
  target: VirtualDisk,
  map: RescueMap,
): Promise<void> {
  let compared = 0;
  let different = 0;
  const doubtful: { from: number; to: number }[] = [];
  // The end of the last place that is equal, and whether one that differs came.
  let equalTo = 0;
  let isDoubtful = false;
  for (const [sector, count] of samplesOf(map, source, target)) {
    let there: Uint8Array;
    let here: Uint8Array;
    try {
      there = await source.read(sector, count, { signal });
      here = await target.read(sector, count, { signal });
    } catch (error) {
      signal.throwIfAborted();
      // What was read once may be bad by now.
      if (error instanceof DiskError && error.kind === "io") continue;
      throw error;
    }
    if (isZero(there) && isZero(here)) continue;
    compared++;
    if (!isSame(there, here)) {
      different++;
      isDoubtful = true;
      continue;
    }
    if (isDoubtful) doubtful.push({ from: equalTo, to: sector * SECTOR_BYTES });
    isDoubtful = false;
    equalTo = (sector + count) * SECTOR_BYTES;
  }
  if (isDoubtful) doubtful.push({ from: equalTo, to: map.size });
  if (compared === 0) {
    if (force || await hasNothing(target, signal)) return;
    throw new CliError(
      `Cannot go on with "${to}" as it has data, and nothing tells that it is ` +
        `the target of "${mapFile}": overwrite it with --force`,
    );
  }
  if (different * 2 <= compared) {
    if (different * FEW > compared && !force) {
      throw new CliError(
        `Cannot go on with "${to}" as it must have what "${mapFile}" says that ` +
          `was read: ${different} of ${compared} places that were compared ` +
          `differ from "${from}" (--force reads again what is around them)`,
      );
    }
    for (const range of doubtful) setUntried(map, range);
    return;
  }
  throw new CliError(
    `Cannot go on with "${to}" as it has other content than "${from}" where ` +
      `"${mapFile}" says that it was read: give the map of this rescue, or ` +
      `another name to begin anew`,
  );
}

/** Has all of a range that is finished be read again. */
function setUntried(
  map: RescueMap,
  { from, to }: { from: number; to: number },
): void {
  for (const { position, size } of map.blocks(RescueStatus.Finished)) {
    const start = Math.max(from, position);
    const end = Math.min(to, position + size);
    if (start < end) map.set(start, end - start, RescueStatus.Untried);
  }
}

/** Whether it reads as zeroes. Where nobody knows holes, all of it is read. */
async function hasNothing(
  disk: VirtualDisk,
  signal: AbortSignal,
): Promise<boolean> {
  for (const { sector, count, hole } of await disk.extents()) {
    for (let at = 0; !hole && at < count; at += PIECE_SECTORS) {
      const length = Math.min(PIECE_SECTORS, count - at);
      if (!isZero(await disk.read(sector + at, length, { signal }))) {
        return false;
      }
    }
  }
  return true;
}

/** Places all over what is finished, as first sector and count: whole blocks. */
function* samplesOf(
  map: RescueMap,
  source: VirtualDisk,
  target: VirtualDisk,
): Generator<[number, number], void> {
  const bytes = Math.max(SAMPLE_BYTES, source.blockSize, target.blockSize);
  const finished = map.blocks(RescueStatus.Finished).map((
    { position, size },
  ) => {
    const first = Math.ceil(position / bytes) * bytes;
    return { first, pieces: Math.floor((position + size - first) / bytes) };
  }).filter(({ pieces }) => pieces > 0);
  const all = finished.reduce((sum, { pieces }) => sum + pieces, 0);
  const wanted = Math.min(all, SAMPLES);
  let before = 0;
  let next = 0;
  for (const { first, pieces } of finished) {
    for (; next < wanted; next++) {
      const piece = Math.floor(next * all / wanted) - before;
      if (piece >= pieces) break;
      yield [(first + piece * bytes) / SECTOR_BYTES, bytes / SECTOR_BYTES];
    }
    before += pieces;
  }
}

async function knownMap(
  path: string,
  bytes: number,
  signal: AbortSignal,
): Promise<RescueMap | null> {
  const map = await readRescueFile(path, signal);
  if (map !== null && map.size !== bytes) {
    throw new CliError(
      `Cannot use the map "${path}" as it must be about the ` +
        `${formatCount(bytes, "byte")} of the source: current value is ` +
        formatCount(map.size),
    );
  }
  return map;
}

function outcomeOf(
  map: RescueMap,
  before: number,
  ms: number,
  from: string,
  { path: to, disk }: CopyTarget,
  mapFile: string,
): RescueOutcome {
  const rescued = map.bytes(RescueStatus.Finished);
  const bad = map.blocks(RescueStatus.Bad).map(({ position, size }) => ({
    sector: position / SECTOR_BYTES,
    count: size / SECTOR_BYTES,
  }));
  const lines = [
    `Rescued ${
      rescued === map.size
        ? ""
        : `all but ${formatSize(map.size - rescued)} of `
    }${formatSize(map.size)} in ` +
    `${duration(ms)}${
      before > 0 ? `, ${formatSize(before)} of it before` : ""
    }`,
  ];
  if (bad.length > 0) {
    const sectors = bad.reduce((sum, { count }) => sum + count, 0);
    lines[0] += `: ${formatCount(sectors, "sector")} cannot be read`;
    for (const { sector, count } of bad.slice(0, MAX_LISTED)) {
      lines.push(`  sector ${sector}, ${formatCount(count, "sector")}`);
    }
    const more = bad.length - MAX_LISTED;
    if (more > 0) lines.push(`  and ${more} more: see "${mapFile}"`);
  }
  return {
    text: lines.join("\n"),
    json: {
      source: from,
      target: to,
      map: mapFile,
      bytes: map.size,
      rescued,
      rescuedBefore: before,
      bad,
      ms: Math.round(ms),
    },
    done: `"${to}" has what can be read, ${flushedWord(disk)}`,
    hasBad: bad.length > 0,
  };
}
