import { DiskError, MemoryBackend, VirtualDisk } from "@platter/disk";
import {
  openPartition,
  type PartitionTable,
  readPartitions,
} from "@platter/disk/image";
import { faults } from "@platter/disk/testing";
import {
  assert,
  assertEquals,
  assertLessOrEqual,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { MAX_LOGICAL } from "../../src/image/find_mbr.ts";
import { altered } from "../fake_backend.ts";
import { diskOf, rawGpt, rawMbr, seal, sealHeader } from "./tables.ts";

const MIB = 2 ** 20;
const TWO = [{ first: 64, last: 127, name: "a" }, { first: 128, last: 191 }];

async function tableOf(
  bytes: Uint8Array<ArrayBuffer>,
  options?: { blockSize?: number; size?: number },
): Promise<PartitionTable> {
  await using disk = await diskOf(bytes, options);
  return await readPartitions(disk);
}

function kindsOf({ problems }: PartitionTable): string[] {
  return problems.map(({ kind }) => kind);
}

for (const sectorSize of [512, 4096]) {
  Deno.test(`readPartitions() reads a GPT of ${sectorSize}-byte sectors`, async () => {
    const bytes = rawGpt({ size: 2 * MIB, sectorSize, partitions: TWO });
    const table = await tableOf(bytes, { blockSize: sectorSize });
    const each = sectorSize / 512;
    assertEquals(table.problems, []);
    assertEquals([table.kind, table.copy, table.sectorSize], [
      "gpt",
      "primary",
      sectorSize,
    ]);
    assertEquals(table.id, "22222222-2222-2222-2222-222222222222");
    assertEquals(
      table.partitions.map((it) => [it.number, it.start, it.sectors, it.name]),
      [[1, 64 * each, 64 * each, "a"], [2, 128 * each, 64 * each, ""]],
    );
    const [first] = table.partitions;
    assertEquals(first?.type, "0FC63DAF-8483-4772-8E79-3D69D8477DE4");
    assertEquals(first?.typeName, "Linux file system");
    assertEquals(first?.guid, "11111100-1111-1111-1111-111111111111");
  });

  Deno.test(`readPartitions() says that a GPT of ${sectorSize}-byte sectors is on a disk of others`, async () => {
    const bytes = rawGpt({ size: 2 * MIB, sectorSize, partitions: TWO });
    const blockSize = sectorSize === 512 ? 4096 : 512;
    const table = await tableOf(bytes, { blockSize });
    assertEquals(kindsOf(table), ["sector-size"]);
    assertEquals(table.sectorSize, sectorSize);
    assertEquals(table.partitions[0]?.start, 64 * sectorSize / 512);
  });
}

Deno.test("readPartitions() finds nothing on a disk of zeroes, and of no sectors", async () => {
  for (const size of [0, 512, 1024, MIB]) {
    const table = await tableOf(new Uint8Array(MIB), { size });
    assertEquals([table.kind, table.problems], ["none", []]);
  }
});

const DAMAGE: [what: string, spoil: (bytes: Uint8Array) => void][] = [
  ["signature", (bytes) => bytes[0] = 0],
  ["header checksum", (bytes) => bytes[60]! ^= 1],
  ["header size", (bytes) => bytes[12] = 91],
  ["largest header size", (bytes) => bytes.fill(0xff, 12, 16)],
];

for (const [what, spoil] of DAMAGE) {
  Deno.test(`readPartitions() uses the backup if the primary has a wrong ${what}`, async () => {
    const bytes = rawGpt({ size: MIB, partitions: TWO });
    spoil(bytes.subarray(512));
    const table = await tableOf(bytes);
    assertEquals([table.copy, table.partitions.length], ["backup", 2]);
    assertEquals(kindsOf(table), ["primary"]);
    spoil(bytes.subarray(-512));
    const none = await tableOf(bytes);
    assertEquals([none.copy, none.partitions], [null, []]);
    assertEquals(kindsOf(none), ["primary", "backup"]);
  });
}

Deno.test("readPartitions() uses the backup if an entry of the primary changed", async () => {
  const bytes = rawGpt({ size: MIB, partitions: TWO });
  bytes[1024 + 40]! ^= 1;
  const table = await tableOf(bytes);
  assertEquals([table.copy, kindsOf(table)], ["backup", ["primary"]]);
  assertStringIncludes(table.problems[0]!.message, "checksum of its entries");
});

Deno.test("readPartitions() uses the backup if the medium does not give the primary", async () => {
  const bytes = rawGpt({ size: MIB, partitions: TWO });
  for (const sector of [0, 1, 33]) {
    const memory = new MemoryBackend({ sectors: bytes.length / 512 });
    {
      const disk = VirtualDisk.over(memory);
      await disk.write(0, bytes);
    }
    await using disk = VirtualDisk.over(faults(memory, [
      `read sector=${sector} error=EIO`,
    ]));
    const table = await readPartitions(disk);
    assertEquals(table.partitions.length, 2);
    assertEquals(table.copy, sector === 0 ? "primary" : "backup");
    assertEquals(kindsOf(table).length > 0, true);
  }
});

Deno.test("readPartitions() fails as a disk that is closed does", async () => {
  const disk = await diskOf(rawGpt({ size: MIB }));
  await disk.close();
  const error = await assertRejects(() => readPartitions(disk), DiskError);
  assertEquals(error.kind, "closed");
});

Deno.test("readPartitions() finds the backup of a disk that has grown", async () => {
  const bytes = rawGpt({ size: MIB, partitions: TWO });
  const table = await tableOf(bytes, { size: 2 * MIB });
  assertEquals(kindsOf(table), ["backup-place", "protective-mbr"]);
  assertEquals(table.copy, "primary");
  // And by what the protective MBR says, if there is no primary.
  bytes[512] = 0;
  const again = await tableOf(bytes, { size: 2 * MIB });
  assertEquals([again.copy, again.partitions.length], ["backup", 2]);
});

Deno.test("readPartitions() reads a disk that was cut, and says so", async () => {
  const bytes = rawGpt({ size: MIB, partitions: [{ first: 64, last: 1800 }] });
  const table = await tableOf(bytes, { size: MIB / 2 });
  assertEquals(table.partitions[0]?.sectors, 1737);
  assertEquals(kindsOf(table), [
    "backup",
    "protective-mbr",
    "header",
    "outside",
  ]);
  await using disk = await diskOf(bytes, { size: MIB / 2 });
  const error = await assertRejects(() => openPartition(disk, 1), DiskError);
  assertEquals(error.kind, "range");
});

Deno.test("readPartitions() keeps places of 64 bits, and lists only what can be one", async () => {
  const bytes = rawGpt({ size: MIB, partitions: TWO });
  const view = new DataView(bytes.buffer);
  view.setBigUint64(1024 + 40, 2n ** 64n - 1n, true);
  view.setBigUint64(1024 + 128 + 40, 2n ** 53n - 2n, true);
  seal(bytes, 512);
  const table = await tableOf(bytes);
  assertEquals(table.partitions.map((it) => [it.number, it.sectors]), [
    [2, 2 ** 53 - 1 - 128],
  ]);
  assertEquals(kindsOf(table), ["copies-differ", "entry", "outside"]);
  assertStringIncludes(
    table.problems[1]!.message,
    "to 18446744073709551615",
  );
});

Deno.test("readPartitions() reads entries of 256 bytes, and of 136 with a word", async () => {
  for (const [entryBytes, kinds] of [[256, []], [136, ["header"]]] as const) {
    const bytes = rawGpt({
      size: MIB,
      entryBytes,
      entryCount: 64,
      partitions: [{ first: 72, last: 79 }, { first: 80, last: 87 }],
    });
    const table = await tableOf(bytes);
    assertEquals([table.partitions.length, kindsOf(table)], [2, kinds]);
  }
});

const HOSTILE: [what: string, at: number, value: bigint, bytes: 4 | 8][] = [
  ["entries beyond the disk", 72, 2n ** 40n, 8],
  ["entries at the largest block", 72, 2n ** 64n - 1n, 8],
  ["entries at block 0", 72, 0n, 8],
  ["entries over the header", 72, 1n, 8],
  ["the largest number of entries", 80, 2n ** 32n - 1n, 4],
  ["no entries", 80, 0n, 4],
  ["the largest entries", 84, 2n ** 32n - 1n, 4],
  ["entries of no bytes", 84, 0n, 4],
  ["no usable blocks", 40, 2n ** 64n - 1n, 8],
  ["another place", 24, 2n, 8],
];

for (const [what, at, value, width] of HOSTILE) {
  Deno.test(`readPartitions() takes a header with ${what} for damage`, async () => {
    const bytes = rawGpt({ size: MIB, partitions: TWO });
    for (const header of [512, MIB - 512]) {
      const view = new DataView(bytes.buffer, header);
      if (width === 8) view.setBigUint64(at, value, true);
      else view.setUint32(at, Number(value), true);
      // "Another place" is none for the backup if it is its own.
      sealHeader(bytes, header);
      const table = await tableOf(bytes);
      assertEquals(table.copy, header === 512 ? "backup" : null);
    }
  });
}

Deno.test("readPartitions() says that copies differ, and where the backup is", async () => {
  const bytes = rawGpt({ size: MIB, partitions: TWO });
  const view = new DataView(bytes.buffer);
  view.setBigUint64(512 + 32, 5n, true);
  view.setUint8(1024 + 56, 0x62);
  seal(bytes, 512);
  const table = await tableOf(bytes);
  assertEquals(table.partitions[0]?.name, "b");
  assertEquals(kindsOf(table), ["header", "copies-differ"]);
});

Deno.test("readPartitions() names overlaps, misalignment, duplicates and places beyond the usable", async () => {
  const bytes = rawGpt({
    size: MIB,
    partitions: [
      { first: 64, last: 200 },
      { first: 200, last: 207 },
      { first: 208, last: 215 },
      { first: 2016, last: 2047 },
      { first: 217, last: 220 },
    ],
  });
  for (const at of [1024, MIB - 512 * 33]) bytes[at + 2 * 128 + 16] = 0;
  seal(bytes, 512);
  seal(bytes, MIB - 512);
  const { problems } = await tableOf(bytes);
  assertEquals(problems.map(({ kind, partitions }) => [kind, partitions]), [
    ["outside", [4]],
    ["overlap", [1, 2]],
    ["alignment", [5]],
    ["duplicate", [1, 3]],
  ]);
});

Deno.test("readPartitions() tells protective, hybrid and missing MBRs apart", async () => {
  const bytes = rawGpt({ size: MIB, partitions: TWO });
  const protective = { type: 0xee, start: 1, count: 63 };
  rawMbr(bytes, [protective, { type: 0x83, start: 64, count: 64 }]);
  assertEquals(kindsOf(await tableOf(bytes)), ["hybrid-mbr"]);
  rawMbr(bytes, [protective, { type: 0x83, start: 65, count: 64 }]);
  const { problems } = await tableOf(bytes);
  assertEquals(problems.map(({ kind }) => kind), ["hybrid-mbr", "hybrid-mbr"]);
  assertEquals(
    problems[1]?.message,
    "The MBR lists a partition that the GPT does not list: it goes from block 65 to 128",
  );
  rawMbr(bytes, [protective, { type: 0, start: 0, count: 0 }]);
  assertEquals(kindsOf(await tableOf(bytes)), ["protective-mbr"]);
  bytes.fill(0, 0, 512);
  const missing = await tableOf(bytes);
  assertEquals([missing.kind, kindsOf(missing)], ["gpt", ["protective-mbr"]]);
  rawMbr(bytes, [{ type: 0x83, start: 64, count: 64 }]);
  const other = await tableOf(bytes);
  assertEquals([other.kind, kindsOf(other)], ["mbr", ["stale-gpt"]]);
});

Deno.test("readPartitions() takes the boot sector of a file system for no table", async () => {
  const bytes = rawGpt({ size: MIB, partitions: TWO });
  const boot = bytes.subarray(0, 512).fill(0);
  boot.set(new TextEncoder().encode("\xeb\x3c\x90mkfs.fat"), 0);
  boot.set([0, 2, 4, 1, 0, 2, 0, 2, 0, 8, 0xf8], 11);
  boot.set(new TextEncoder().encode("FAT16   "), 54);
  boot.set([0x55, 0xaa], 510);
  const table = await tableOf(bytes);
  assertEquals([table.kind, kindsOf(table)], ["none", ["stale-gpt"]]);
});

Deno.test("readPartitions() follows the chain of logical partitions", async () => {
  const bytes = new Uint8Array(MIB);
  rawMbr(bytes, [
    { type: 0x0c, start: 64, count: 64, status: 0x80 },
    { type: 0, start: 0, count: 0 },
    { type: 0x05, start: 128, count: 512 },
  ]);
  rawMbr(bytes, [
    { type: 0x83, start: 8, count: 56 },
    { type: 0x05, start: 64, count: 128 },
  ], 128 * 512);
  rawMbr(bytes, [{ type: 0x82, start: 8, count: 56 }], 192 * 512);
  const { partitions, problems, kind } = await tableOf(bytes);
  assertEquals([kind, problems], ["mbr", []]);
  assertEquals(
    partitions.map((it) => [it.number, it.start, it.sectors, it.type, it.role]),
    [
      [1, 64, 64, "0x0c", "primary"],
      [3, 128, 512, "0x05", "extended"],
      [5, 136, 56, "0x83", "logical"],
      [6, 200, 56, "0x82", "logical"],
    ],
  );
  assertEquals(partitions[0]?.bootable, true);
});

Deno.test("readPartitions() ends a chain that loops, leaves the disk or is too long", async () => {
  const chain = (
    entries: (at: number) => { type: number; start: number; count: number }[],
  ) => {
    const bytes = new Uint8Array(MIB);
    rawMbr(bytes, [{ type: 0x0f, start: 64, count: 1900 }]);
    for (let at = 64; at < 1964; at += 4) rawMbr(bytes, entries(at), at * 512);
    return bytes;
  };
  const data = { type: 0x83, start: 1, count: 3 };
  const loop = await tableOf(chain(() => [
    data,
    { type: 0x05, start: 4, count: 4 },
  ]));
  assertEquals(loop.partitions.length, 3);
  assertStringIncludes(loop.problems[0]!.message, "comes back to block 68");
  const away = await tableOf(chain(() => [
    data,
    { type: 0x05, start: 2 ** 32 - 1, count: 2 ** 32 - 1 },
  ]));
  assertEquals(kindsOf(away), ["chain", "chain", "alignment"]);
  const long = await tableOf(chain((at) => [
    data,
    { type: 0x05, start: at - 60, count: 4 },
  ]));
  assertEquals(long.partitions.length, 1 + MAX_LOGICAL);
  assertEquals(new Set(kindsOf(long)), new Set(["chain", "alignment"]));
  const itself = await tableOf(chain(() => [
    { type: 0x05, start: 0, count: 4 },
  ]));
  assertEquals(kindsOf(itself), ["chain"]);
});

Deno.test("readPartitions() recognises an MBR for sectors of another size", async () => {
  // For 512 on a disk of 4,096: it would not fit.
  const small = new Uint8Array(4 * MIB);
  rawMbr(small, [{ type: 0x83, start: 2048, count: 4096 }]);
  const first = await tableOf(small, { blockSize: 4096 });
  assertEquals(kindsOf(first), ["sector-size"]);
  assertEquals(first.partitions[0]?.start, 2048);
  // For 4,096 on a disk of 512: its file system is elsewhere.
  const large = new Uint8Array(4 * MIB);
  rawMbr(large, [{ type: 0x83, start: 256, count: 512 }]);
  assertEquals((await tableOf(large)).sectorSize, 512);
  large.set([0x53, 0xef], MIB + 1080);
  const second = await tableOf(large);
  assertEquals([second.sectorSize, kindsOf(second)], [4096, ["sector-size"]]);
  assertEquals(second.partitions[0]?.start, 2048);
});

Deno.test("openPartition() opens what there is, and names it otherwise", async () => {
  await using disk = await diskOf(rawGpt({ size: MIB, partitions: TWO }));
  await using partition = await openPartition(disk, 2);
  assertEquals([partition.start, partition.sectors], [128, 64]);
  const error = await assertRejects(() => openPartition(disk, 3), DiskError);
  assertEquals(error.kind, "not-found");
  assertStringIncludes(error.message, "has 2 partitions: 1, 2");
  for (const value of [null, "2", [2], 2n, 0.5, NaN, Symbol("2")]) {
    const error = await assertRejects(
      () => openPartition(disk, value as number),
      DiskError,
      "safe integer",
    );
    assertEquals(error.kind, "argument");
  }
});

Deno.test("readPartitions() reads at most 64 KiB of ordinary tables, and nothing outside of the disk", async () => {
  for (const sectorSize of [512, 4096]) {
    for (const grown of [0, MIB]) {
      const bytes = rawGpt({ size: MIB, sectorSize, partitions: TWO });
      const size = bytes.length + grown;
      const memory = new MemoryBackend({
        sectors: size / 512,
        blockSize: sectorSize,
      });
      let read = 0;
      await using disk = VirtualDisk.over(altered(memory, {
        submit(batch, complete) {
          for (const { type, sector, count } of batch) {
            if (type !== 0) continue;
            read += count * 512;
            assert(sector + count <= size / 512);
          }
          memory.submit(batch, complete);
        },
      }));
      await disk.write(0, bytes);
      assertEquals((await readPartitions(disk)).partitions.length, 2);
      assertLessOrEqual(read, 65_536, `${sectorSize} ${grown}`);
      assert(read > 16_384);
    }
  }
});
