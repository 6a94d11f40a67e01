/**
 * Tables mutated at random: `readPartitions()` gives an answer or a typed error,
 * in bounded time and memory, and asks for nothing outside of the disk.
 *
 * @module
 */

import { type Backend, MemoryBackend, VirtualDisk } from "@platter/disk";
import {
  openPartition,
  readPartitions,
  repairPartitions,
  writePartitions,
} from "@platter/disk/image";
import { Random } from "@platter/disk/testing";
import { DiskError } from "@platter/disk";
import { assert, assertEquals, assertLessOrEqual } from "@std/assert";
import { altered } from "../fake_backend.ts";
import { LONG } from "../helpers.ts";
import { damage, soundCase, type TableCase } from "./table_cases.ts";

const SEED = 20_262;
const MUTATIONS = LONG ? 100_000 : 1500;

/** Mutations of one disk, on top of each other, until there is a new one. */
const EACH = 10;

/**
 * Bytes that are read at most, of these disks and of any: both copies of a GPT
 * with the most entries for two sector sizes, and the longest chain.
 */
const MOST_READ = 4 * (2 ** 20 + 8192) + 257 * 4096;

/** Puts something hostile somewhere that matters, or anywhere. */
function mutate(random: Random, bytes: Uint8Array): void {
  const blocks = bytes.length / 512;
  const sectors = [
    0,
    1,
    2,
    8,
    9,
    blocks - 1,
    blocks - 33,
    random.below(blocks),
  ];
  const at = sectors[random.below(sectors.length)]! * 512 + random.below(512);
  const value = [0, 1, 0x05, 0x0f, 0x55, 0x7f, 0x80, 0xaa, 0xee, 0xff];
  const length = [1, 2, 4, 8, 16][random.below(5)]!;
  for (let i = at; i < Math.min(at + length, bytes.length); i++) {
    bytes[i] = random.below(4) === 0
      ? random.below(256)
      : value[random.below(value.length)]!;
  }
}

/** A backend that counts what is read, and takes nothing outside of it. */
function counted(below: Backend): { backend: Backend; readBytes(): number } {
  let bytes = 0;
  const backend = altered(below, {
    submit(batch, complete) {
      for (const { type, sector, count } of batch) {
        assert(sector >= 0 && sector + count <= below.geometry.sectors);
        if (type === 0) bytes += count * 512;
      }
      below.submit(batch, complete);
    },
  });
  return { backend, readBytes: () => bytes };
}

Deno.test("readPartitions() of a mutated table answers or throws a DiskError, within bounds", async () => {
  const random = new Random(SEED);
  const kinds = new Map<string, number>();
  let base: TableCase | undefined;
  for (let i = 0; i < MUTATIONS; i += EACH) {
    if (i % (50 * EACH) === 0) base = await soundCase(random);
    const { bytes } = damage(random, base!);
    for (let j = 0; j < EACH; j++) {
      const seen = `seed ${SEED}, mutation ${i + j}`;
      if (j > 0) mutate(random, bytes);
      const blockSize = random.below(4) === 0 && bytes.length % 4096 === 0
        ? 4096
        : 512;
      const memory = new MemoryBackend({
        sectors: bytes.length / 512,
        blockSize,
      });
      const disk = VirtualDisk.over(memory);
      await disk.write(0, bytes);
      const { backend, readBytes } = counted(memory);
      const looked = VirtualDisk.over(backend);
      const table = await readPartitions(looked);
      assertLessOrEqual(
        readBytes(),
        Math.min(MOST_READ, 8 * bytes.length),
        seen,
      );
      kinds.set(table.kind, (kinds.get(table.kind) ?? 0) + 1);
      // As many as there can be problems: a few to each, and some of the table.
      assertLessOrEqual(
        table.problems.length,
        5 * table.partitions.length + 8192 + 16,
        seen,
      );
      const numbers = new Set(table.partitions.map(({ number }) => number));
      assertEquals(numbers.size, table.partitions.length, seen);
      for (const { start, sectors } of table.partitions) {
        assert(start >= 0 && sectors > 0, seen);
        assert(Number.isSafeInteger(start + sectors), seen);
      }
      if (table.partitions.length > 0 && j === 0) {
        const i = random.below(table.partitions.length);
        const { number } = table.partitions[i]!;
        const opened = await openPartition(looked, number).catch((error) => {
          assert(error instanceof DiskError, seen);
          return null;
        });
        if (opened !== null) {
          assert(opened.start + opened.sectors <= bytes.length / 512, seen);
        }
      }
      if (j === EACH - 1) await change(looked, random, seen);
    }
  }
  for (const kind of ["gpt", "mbr", "none"]) assert(kinds.get(kind)! > 0, kind);
});

/** Repairs and replaces a mutated table, or is refused with a good reason. */
async function change(
  disk: VirtualDisk,
  random: Random,
  seen: string,
): Promise<void> {
  const before = await readPartitions(disk);
  try {
    const { table } = await repairPartitions(disk);
    assertEquals(table.partitions, before.partitions, seen);
    const left = table.problems.filter(({ kind }) =>
      ["primary", "backup", "copies-differ", "backup-place"].includes(kind)
    );
    assertEquals(table.kind === "gpt" ? left : [], [], seen);
  } catch (error) {
    if (!(error instanceof DiskError)) throw error;
    assert(["not-found", "unsupported"].includes(error.kind), seen);
    // Nothing was written.
    assertEquals(await readPartitions(disk), before, seen);
  }
  const old = await readPartitions(disk);
  const kind = random.below(2) === 0 ? "gpt" : "mbr";
  const logical = kind === "mbr";
  try {
    const table = await writePartitions(disk, {
      kind,
      partitions: [{ type: "linux", sectors: 16 }, {
        type: "swap",
        sectors: 64,
        logical,
      }],
      alignment: 8,
    });
    assertEquals(table.kind, kind, seen);
    assertEquals(
      table.partitions.filter(({ role }) => role !== "extended").map((it) =>
        it.sectors
      ),
      [16, 64],
      seen,
    );
  } catch (error) {
    if (!(error instanceof DiskError)) throw error;
    assertEquals(error.kind, "unsupported", seen);
    assertEquals(await readPartitions(disk), old, seen);
  }
}
