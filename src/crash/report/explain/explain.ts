/**
 * Tells what sectors are that a power cut lost: which partition, which structure
 * of which file system, which file. Each disk that is looked into is only read;
 * programs get private copies, which are gone afterwards.
 *
 * What is lost is best looked up where nothing is: on the disk as it would be
 * had everything been written. The disk that failed is asked where that does not
 * tell.
 *
 * @module
 */

import type { VirtualDisk } from "../../../disk/disk.ts";
import type { StoryData } from "../../../testing/story_data.ts";
import type { ReportLost, ReportLostRange } from "../data.ts";
import { joined, type SectorRange } from "../regions.ts";
import { damageOf } from "../words.ts";
import { recognizeBtrfs } from "./btrfs.ts";
import type { Content, Recognize } from "./content.ts";
import { recognizeExt } from "./ext.ts";
import { recognizeFat } from "./fat.ts";
import { type DiskPart, partsOf } from "./partitions.ts";
import { MissingTool, ToolTimeout } from "./tool.ts";
import { Volume, VolumeTooLarge } from "./volume.ts";
import { recognizeXfs } from "./xfs.ts";

/** Blocks that are looked up on a volume. */
const MOST_BLOCKS = 2048;

/** Sectors that are looked up in all. */
const MOST_SECTORS = 65_536;

const KNOWN: readonly Recognize[] = [
  recognizeExt,
  recognizeXfs,
  recognizeBtrfs,
  recognizeFat,
];

/** Sectors and what they are. */
type Meaning = Map<number, readonly string[]>;

/**
 * Tells what the sectors are that a story's last crash lost or tore.
 *
 * @param story The story.
 * @param disks Disks to look into: the one that is left if everything is written,
 * then the one that failed. They are only read.
 * @returns What they are, and what could not be told.
 * @throws {DiskError} If a disk cannot be read.
 */
export async function explainLost(
  story: StoryData,
  disks: readonly VirtualDisk[],
): Promise<ReportLost> {
  const { ranges, notes } = await explainSectors(damageOf(story), disks);
  const events = story.crashes.flatMap(({ events }) => events);
  const known = ranges.length === 0 ||
    events.some((event) => "origin" in event && event.origin !== "");
  return known ? { ranges, notes } : {
    ranges,
    notes: [
      ...notes,
      "Which process wrote what is not known: a disk is not told that.",
    ],
  };
}

/**
 * Tells what sectors are.
 *
 * @param ranges Which sectors, in the order of the disk.
 * @param disks Disks to look into, the likeliest to tell first. They must have
 * the same shape, and are only read.
 * @returns What they are, and what could not be told.
 * @throws {DiskError} If a disk cannot be read.
 */
export async function explainSectors(
  ranges: readonly SectorRange[],
  disks: readonly VirtualDisk[],
): Promise<ReportLost> {
  const directory = await Deno.makeTempDir({ prefix: "platter-explain-" });
  const notes = new Set<string>();
  const known: Meaning = new Map();
  const { first, rest } = cut(joined(ranges), MOST_SECTORS);
  if (rest.length > 0) {
    notes.add(`Only the first ${MOST_SECTORS} lost sectors are looked up.`);
  }
  try {
    for (const disk of disks) {
      const left = first.flatMap((range) =>
        pieces(range, (sector) => (known.get(sector)?.length ?? 0) < 2)
      );
      if (left.length === 0) break;
      const found = await lookInto(new Volume(disk, directory), left, notes);
      for (const [sector, path] of found) {
        if (path.length > (known.get(sector)?.length ?? 0)) {
          known.set(sector, path);
        }
      }
    }
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
  const unknown = rest.map((range) => ({ ...range, path: [] }));
  return { ranges: [...alike(first, known), ...unknown], notes: [...notes] };
}

/** Divides ranges after so many sectors. */
function cut(
  ranges: readonly SectorRange[],
  most: number,
): { first: SectorRange[]; rest: SectorRange[] } {
  const first: SectorRange[] = [];
  const rest: SectorRange[] = [];
  let left = most;
  for (const { sector, count } of ranges) {
    const taken = Math.min(count, left);
    left -= taken;
    if (taken > 0) first.push({ sector, count: taken });
    if (taken < count) {
      rest.push({ sector: sector + taken, count: count - taken });
    }
  }
  return { first, rest };
}

/** What sectors are, by one disk. */
async function lookInto(
  volume: Volume,
  ranges: readonly SectorRange[],
  notes: Set<string>,
): Promise<Meaning> {
  const meaning: Meaning = new Map();
  const parts = partsOf(await volume.table());
  const whole: DiskPart = {
    name: "",
    sector: 0,
    count: volume.sectors,
    partition: true,
  };
  // A boot sector of FAT reads as a table without partitions.
  const isWhole = !parts.some(({ partition }) => partition) &&
    (parts.length === 0 || await recognize(volume) !== null);
  for (const part of isWhole ? [whole] : parts) {
    const inside = ranges.flatMap((range) => {
      const first = Math.max(range.sector, part.sector);
      const end = Math.min(
        range.sector + range.count,
        part.sector + part.count,
      );
      return end > first ? [{ sector: first, count: end - first }] : [];
    });
    if (inside.length === 0) continue;
    const prefix = part.name === "" ? [] : [part.name];
    for (const { sector, count } of inside) {
      for (let i = 0; i < count && prefix.length > 0; i++) {
        meaning.set(sector + i, prefix);
      }
    }
    if (!part.partition) continue;
    const slice = volume.slice(part.sector, part.count);
    const content = slice && await recognize(slice);
    if (!content) continue;
    await lookUp(content, part.sector, inside, (sector, path) => {
      meaning.set(sector, [...prefix, content.name, ...path]);
    }, notes);
  }
  return meaning;
}

async function recognize(volume: Volume): Promise<Content | null> {
  for (const each of KNOWN) {
    const content = await each(volume);
    if (content !== null) return content;
  }
  return null;
}

/** What sectors are, by the content of a volume. */
async function lookUp(
  content: Content,
  start: number,
  ranges: readonly SectorRange[],
  tell: (sector: number, path: readonly string[]) => void,
  notes: Set<string>,
): Promise<void> {
  const { blockSectors, name } = content;
  const blocks = new Set<number>();
  for (const { sector, count } of ranges) {
    const first = Math.floor((sector - start) / blockSectors);
    const last = Math.floor((sector + count - 1 - start) / blockSectors);
    for (let block = first; block <= last; block++) {
      if (blocks.size === MOST_BLOCKS) {
        notes.add(`Only the first ${MOST_BLOCKS} lost blocks are looked up.`);
        break;
      }
      blocks.add(block);
    }
  }
  const asked = [...blocks];
  let paths: readonly string[][] = asked.map(() => []);
  try {
    paths = await content.explain(asked);
  } catch (error) {
    note(error, `what is where on ${name} is not told`, notes);
  }
  const found = new Map(asked.map((block, i) => [block, paths[i]!]));
  for (const { sector, count } of ranges) {
    for (let i = 0; i < count; i++) {
      const block = Math.floor((sector + i - start) / blockSectors);
      tell(sector + i, found.get(block) ?? []);
    }
  }
}

/** Says what could not be told and why; what is no reason for that is thrown. */
function note(error: unknown, what: string, notes: Set<string>): void {
  if (
    error instanceof MissingTool || error instanceof VolumeTooLarge ||
    error instanceof ToolTimeout
  ) {
    const sentence = `${what}: ${error.message}.`;
    notes.add(sentence[0]!.toUpperCase() + sentence.slice(1));
  } else throw error;
}

/** The parts of a range for which something holds. */
function pieces(
  { sector, count }: SectorRange,
  holds: (sector: number) => boolean,
): SectorRange[] {
  const parts: SectorRange[] = [];
  for (let i = 0; i < count; i++) {
    if (holds(sector + i)) parts.push({ sector: sector + i, count: 1 });
  }
  return joined(parts);
}

/** Sectors next to each other that mean the same. */
function alike(
  ranges: readonly SectorRange[],
  known: Meaning,
): ReportLostRange[] {
  const runs: { sector: number; count: number; path: readonly string[] }[] = [];
  for (const { sector, count } of ranges) {
    for (let i = 0; i < count; i++) {
      const path = known.get(sector + i) ?? [];
      const last = runs.at(-1);
      if (
        last !== undefined && last.sector + last.count === sector + i &&
        last.path.join("\n") === path.join("\n")
      ) last.count++;
      else runs.push({ sector: sector + i, count: 1, path });
    }
  }
  return runs;
}
