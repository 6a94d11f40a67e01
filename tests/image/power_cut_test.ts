/**
 * Power cuts while a table is written or repaired: `readPartitions()` is the
 * recovery, and must find the table that was there or the new one.
 *
 * @module
 */

import { MemoryBackend, VirtualDisk } from "@platter/disk";
import {
  type NewPartition,
  type PartitionTable,
  readPartitions,
  repairPartitions,
  writePartitions,
  type WritePartitionsOptions,
} from "@platter/disk/image";
import { CrashFailure, exploreCrashes, faults } from "@platter/disk/testing";
import {
  assert,
  assertEquals,
  assertNotEquals,
  assertRejects,
} from "@std/assert";
import { altered } from "../fake_backend.ts";
import { LONG } from "../helpers.ts";
import { rawGpt, rawMbr } from "./tables.ts";

/** Sectors of the disks here, and what they were before some of them grew. */
const SECTORS = 1024;
const BEFORE = 800;

/** What a table says, and nothing of how it is stored. */
function gist(table: PartitionTable): string {
  const { kind, partitions } = table;
  return JSON.stringify([
    kind,
    partitions.map((it) => [it.number, it.start, it.sectors, it.type, it.guid]),
  ]);
}

const guid = (digit: number) =>
  `${digit.toString(16).repeat(8)}-1111-4111-8111-111111111111`;

/** Partitions with nothing left to chance. */
function partitionsOf(
  kind: "gpt" | "mbr",
  sizes: number[],
  logical = false,
): NewPartition[] {
  return sizes.map((sectors, i) => ({
    type: "linux",
    sectors,
    ...(kind === "gpt" ? { guid: guid(i + 1) } : {}),
    ...(logical && i > 0 ? { logical } : {}),
  }));
}

function options(
  kind: "gpt" | "mbr",
  sizes: number[],
  logical = false,
): WritePartitionsOptions {
  const partitions = partitionsOf(kind, sizes, logical);
  const id = kind === "gpt" ? guid(9) : "0x12345678";
  return { kind, partitions, id, alignment: 8 };
}

const spoiled = (at: number, size = SECTORS) => {
  const bytes = rawGpt({ size: size * 512, partitions: [OLD] });
  bytes[at]! ^= 1;
  return bytes;
};
const OLD = { first: 64, last: 127 };

/** What may be on a disk before. */
const BASES: Record<string, () => Uint8Array<ArrayBuffer>> = {
  "nothing": () => new Uint8Array(0),
  "a GPT": () => rawGpt({ size: SECTORS * 512, partitions: [OLD] }),
  "a GPT without a primary": () => spoiled(512),
  "a GPT without a backup": () => spoiled(SECTORS * 512 - 512),
  "a GPT of a smaller disk": () =>
    rawGpt({ size: BEFORE * 512, partitions: [OLD] }),
  "a GPT of a smaller disk without a primary": () => spoiled(512, BEFORE),
  "a GPT for sectors of 4096 bytes": () =>
    rawGpt({
      size: SECTORS * 512,
      sectorSize: 4096,
      partitions: [{ first: 32, last: 39 }],
    }),
  "a GPT with a hybrid MBR": () => {
    const bytes = rawGpt({ size: SECTORS * 512, partitions: [OLD] });
    rawMbr(bytes, [
      { type: 0xee, start: 1, count: 63 },
      { type: 0x83, start: 64, count: 64 },
    ]);
    return bytes;
  },
  "an MBR": () => {
    const bytes = new Uint8Array(SECTORS * 512);
    rawMbr(bytes, [{ type: 0x83, start: 64, count: 64 }]);
    return bytes;
  },
  "an MBR with logical partitions": () => {
    const bytes = new Uint8Array(SECTORS * 512);
    rawMbr(bytes, [{ type: 0x05, start: 64, count: 512 }]);
    rawMbr(bytes, [
      { type: 0x83, start: 8, count: 56 },
      { type: 0x05, start: 64, count: 64 },
    ], 64 * 512);
    rawMbr(bytes, [{ type: 0x83, start: 8, count: 56 }], 128 * 512);
    return bytes;
  },
  "a file system": () => {
    const bytes = new Uint8Array(SECTORS * 512);
    bytes.set(new TextEncoder().encode("NTFS    "), 3);
    rawMbr(bytes, []);
    return bytes;
  },
};

/** What is made. */
const NEW: Record<string, WritePartitionsOptions> = {
  // Its entries take three sectors, each of which may be lost.
  "a GPT": options("gpt", [64, 128, 8, 8, 8, 16, 8, 8, 8]),
  "an empty GPT of many entries": {
    kind: "gpt",
    partitions: [{ type: "swap", number: 200, guid: guid(3) }],
    id: guid(8),
    alignment: 8,
  },
  "an MBR": options("mbr", [32, 96]),
  "an MBR with logical partitions": options("mbr", [48, 80, 32], true),
};

async function baseOf(bytes: Uint8Array): Promise<MemoryBackend> {
  const memory = new MemoryBackend({ sectors: SECTORS });
  const disk = VirtualDisk.over(memory);
  if (bytes.length > 0) await disk.write(0, bytes);
  return memory;
}

/**
 * Whether a sector is one that the table may be in: what is before and after the
 * usable ones, and in an MBR what is in no partition but the extended one.
 */
function isTable(sector: number, table: PartitionTable): boolean {
  const { usable, partitions } = table;
  if (sector < usable.start || sector >= usable.start + usable.sectors) {
    return true;
  }
  return table.kind === "mbr" &&
    !partitions.some((it) =>
      it.role !== "extended" && sector >= it.start &&
      sector < it.start + it.sectors
    );
}

for (const [what, make] of Object.entries(BASES)) {
  for (const [becomes, wanted] of Object.entries(NEW)) {
    Deno.test(`writePartitions() leaves ${what} or ${becomes} at a power cut`, async () => {
      const base = await baseOf(make());
      const disk = VirtualDisk.over(base);
      const old = gist(await readPartitions(disk));
      let made = "";
      const report = await exploreCrashes<string>({
        device: { sectors: SECTORS },
        base,
        async workload(disk, acknowledge) {
          made = gist(await writePartitions(disk, wanted));
          acknowledge(made);
        },
        async recover(disk, acknowledged) {
          const table = await readPartitions(disk);
          const found = gist(table);
          const isRight = acknowledged.length > 0
            ? found === acknowledged[0]
            : found === old || found === made;
          if (!isRight) throw new Error(`${found} is neither old nor new`);
        },
        progress: false,
      });
      assertNotEquals(made, old);
      assert(report.states > 1 && report.exhaustive);
    });
  }

  Deno.test(`repairPartitions() leaves ${what} readable at a power cut, and repairable`, async () => {
    const base = await baseOf(make());
    const before = await readPartitions(VirtualDisk.over(base));
    if (before.kind !== "gpt") return;
    await exploreCrashes({
      device: { sectors: SECTORS },
      base,
      async workload(disk, acknowledge) {
        await repairPartitions(disk);
        acknowledge(true);
        // Something to see, where there is nothing to repair.
        await disk.write(500, new Uint8Array(512).fill(1));
      },
      async recover(disk) {
        assertEquals(gist(await readPartitions(disk)), gist(before));
        const { table } = await repairPartitions(disk);
        assertEquals(gist(table), gist(before));
        const left = table.problems.filter(({ kind }) =>
          kind !== "hybrid-mbr" && kind !== "sector-size"
        );
        assertEquals(left, []);
      },
      crashDuringRecovery: true,
      maxStatesPerRecovery: LONG ? 48 : 4,
      progress: false,
    });
  });
}

Deno.test("repairPartitions() makes durable what one that was killed had written", async () => {
  const whole = VirtualDisk.memory({ sectors: SECTORS });
  await writePartitions(whole, {
    kind: "gpt",
    partitions: [{ type: "linux", start: 40, sectors: 100 }],
  });
  for (const lost of [0, 1, SECTORS - 1]) {
    const content = await whole.read(0, SECTORS);
    content.fill(0, lost * 512, (lost + 1) * 512);
    const base = await baseOf(content);
    const report = await exploreCrashes({
      device: { sectors: SECTORS },
      base,
      async workload(disk, acknowledge) {
        // The first one ends with its program, before its flush.
        const killed = Promise.withResolvers<void>();
        const { flush, write } = disk;
        let hasWritten = false;
        disk.write = (...all) => {
          hasWritten = true;
          return write.apply(disk, all);
        };
        disk.flush = () => {
          if (!hasWritten) return flush.call(disk);
          killed.resolve();
          return new Promise(() => {});
        };
        await Promise.race([repairPartitions(disk), killed.promise]);
        Object.assign(disk, { flush, write });
        await repairPartitions(disk);
        acknowledge(true);
      },
      async recover(disk, acknowledged) {
        const { problems } = await readPartitions(disk);
        if (acknowledged.length > 0) assertEquals(problems, []);
      },
      progress: false,
    });
    assert(report.states > 1);
  }
});

Deno.test("writePartitions() is found out if the disk does not flush", async () => {
  const base = await baseOf(BASES["a GPT"]!());
  const old = gist(await readPartitions(VirtualDisk.over(base)));
  let made = "";
  await assertRejects(() =>
    exploreCrashes({
      device: { sectors: SECTORS },
      base,
      layers: (device) => faults(device, ["flush lost"]),
      async workload(disk) {
        made = gist(await writePartitions(disk, NEW["a GPT"]!));
      },
      async recover(disk) {
        const found = gist(await readPartitions(disk));
        assert(found === old || found === made);
      },
      progress: false,
    }), CrashFailure);
});

Deno.test("writePartitions() writes nothing outside of the tables", async () => {
  for (const [what, make] of Object.entries(BASES)) {
    for (const wanted of Object.values(NEW)) {
      const base = await baseOf(make());
      const written: number[] = [];
      await using disk = VirtualDisk.over(altered(base, {
        submit(batch, complete) {
          for (const { type, sector, count } of batch) {
            if (type !== 1) continue;
            for (let i = 0; i < count; i++) written.push(sector + i);
          }
          base.submit(batch, complete);
        },
      }));
      const table = await writePartitions(disk, wanted);
      assertEquals(written.length > 0, true);
      for (const sector of written) {
        // What is wiped: the backup of the smaller disk, and a header of 4,096
        // bytes where a partition begins now.
        const isHeader = what.includes("smaller")
          ? sector === BEFORE - 1
          : what.includes("4096") && sector >= 8 && sector < 16;
        assert(isTable(sector, table) || isHeader, `${what}: ${sector}`);
      }
    }
  }
});
