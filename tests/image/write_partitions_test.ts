import { copyDisk, DiskError, MemoryBackend, VirtualDisk } from "@platter/disk";
import {
  type NewPartition,
  readPartitions,
  repairPartitions,
  writePartitions,
  type WritePartitionsOptions,
} from "@platter/disk/image";
import { assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { diskOf, rawGpt, rawMbr, seal } from "./tables.ts";

const MIB = 2 ** 20;

function memory(size = 16 * MIB, blockSize = 512): VirtualDisk {
  return VirtualDisk.over(
    new MemoryBackend({ sectors: size / 512, blockSize }),
  );
}

for (const blockSize of [512, 4096]) {
  Deno.test(`writePartitions() aligns to 1 MiB on blocks of ${blockSize} bytes, and fills the rest`, async () => {
    for (const kind of ["gpt", "mbr"] as const) {
      await using disk = memory(16 * MIB, blockSize);
      const { partitions, problems, sectorSize } = await writePartitions(disk, {
        kind,
        partitions: [
          { type: "linux", size: "1.5MiB" },
          { type: "linux", size: "1MiB" },
          { type: "linux" },
        ],
      });
      assertEquals([problems, sectorSize], [[], blockSize]);
      assertEquals(partitions.map((it) => [it.start, it.sectors]), [
        [2048, 3072],
        [6144, 2048],
        [8192, kind === "gpt" ? 22_528 : 24_576],
      ]);
    }
  });
}

Deno.test("writePartitions() takes places, numbers, names and attributes as they are given", async () => {
  await using disk = memory();
  const guid = "01234567-89ab-cdef-0123-456789abcdef";
  const table = await writePartitions(disk, {
    kind: "gpt",
    id: guid,
    partitions: [
      { type: "swap", start: 5000, sectors: 8, number: 300 },
      {
        type: "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7",
        start: 100,
        number: 7,
        guid,
        name: "x".repeat(36),
        attributes: 2n ** 63n + 1n,
      },
      { type: "linux", start: 6000, bootable: true },
    ],
  });
  assertEquals(table.id, guid.toUpperCase());
  assertEquals(
    table.partitions.map((it) => [it.number, it.start, it.sectors, it.name]),
    [
      [1, 6000, 32_768 - 2048 - 6000, ""],
      [7, 100, 4096 - 100, "x".repeat(36)],
      [300, 5000, 8, ""],
    ],
  );
  assertEquals(table.partitions[0]?.attributes, "0x4");
  assertEquals(table.partitions[1]?.attributes, "0x8000000000000001");
  assertEquals(table.partitions[1]?.guid, guid.toUpperCase());
  // 300 entries of 128 bytes, four to a block.
  assertEquals(table.usable.start, 2 + 75);
});

Deno.test("writePartitions() puts records of logical partitions where the old ones are not", async () => {
  await using disk = memory();
  const partitions: NewPartition[] = [
    { type: "linux", size: "1MiB" },
    { type: "linux", size: "1MiB", logical: true },
    { type: "swap", size: "2MiB", logical: true },
  ];
  const first = await writePartitions(disk, { kind: "mbr", partitions });
  const second = await writePartitions(disk, { kind: "mbr", partitions });
  const places = [first, second].map((table) =>
    table.partitions.filter(({ role }) => role !== "extended")
      .map((it) => [it.number, it.start, it.sectors])
  );
  assertEquals(places[0], places[1]);
  assertEquals(places[0]?.map(([number]) => number), [1, 5, 6]);
  assertEquals([first.problems, second.problems], [[], []]);
  const [old, now] = [first, second].map(({ partitions }) =>
    partitions.find(({ role }) => role === "extended")?.start
  );
  assertEquals(old !== now, true);
  // With no room between there is one place only.
  const tight: WritePartitionsOptions = {
    kind: "mbr",
    alignment: 1,
    partitions: [
      { type: "linux", start: 1, sectors: 7 },
      { type: "linux", start: 9, sectors: 8, logical: true },
    ],
  };
  await writePartitions(disk, tight);
  const error = await assertRejects(
    () => writePartitions(disk, tight),
    DiskError,
  );
  assertEquals(error.kind, "unsupported");
  await writePartitions(disk, { kind: "mbr", partitions: [] });
  assertEquals((await writePartitions(disk, tight)).partitions.length, 3);
});

Deno.test("writePartitions() keeps boot code, but not that of a file system", async () => {
  await using disk = memory();
  const sector = new Uint8Array(512).fill(0x90, 0, 440);
  sector.set([0x55, 0xaa], 510);
  for (const kind of ["gpt", "mbr"] as const) {
    await disk.write(0, sector);
    await writePartitions(disk, { kind, partitions: [] });
    assertEquals((await disk.read(0, 1))[439], 0x90);
    sector.set(new TextEncoder().encode("EXFAT   "), 3);
    await disk.write(0, sector);
    await writePartitions(disk, { kind, partitions: [] });
    assertEquals((await disk.read(0, 1))[439], 0);
    assertEquals((await readPartitions(disk)).kind, kind);
    sector.fill(0x90, 0, 16);
  }
});

const linux = (more: Partial<NewPartition>): NewPartition => ({
  type: "linux",
  ...more,
});

const REFUSED: [
  what: string,
  options:
    & Partial<WritePartitionsOptions>
    & Pick<WritePartitionsOptions, "kind">,
  says: string,
][] = [
  ["overlap", {
    kind: "gpt",
    partitions: [
      linux({ start: 2048, sectors: 64 }),
      linux({ start: 2100, sectors: 8 }),
    ],
  }, "must not overlap"],
  [
    "no room",
    { kind: "gpt", partitions: [linux({}), linux({})] },
    "where there is room",
  ],
  ["a place before the usable ones", {
    kind: "gpt",
    partitions: [linux({ start: 33, sectors: 8 })],
  }, "from sector 34"],
  [
    "a length of nothing",
    { kind: "gpt", partitions: [linux({ sectors: 0 })] },
    "at least one block",
  ],
  ["a start that is no number", {
    kind: "gpt",
    partitions: [linux({ start: NaN })],
  }, "current value is NaN"],
  [
    "half a sector",
    { kind: "gpt", partitions: [linux({ size: 700 })] },
    "whole sectors",
  ],
  ["a long name", {
    kind: "gpt",
    partitions: [linux({ name: "x".repeat(37) })],
  }, "at most 36"],
  [
    "half a character",
    { kind: "gpt", partitions: [linux({ name: "\ud83d" })] },
    "well-formed",
  ],
  [
    "a GUID that is none",
    { kind: "gpt", partitions: [linux({ guid: "x" })] },
    "five groups",
  ],
  ["one GUID twice", {
    kind: "gpt",
    partitions: [1, 2].map(() =>
      linux({ sectors: 8, guid: "01234567-89AB-CDEF-0123-456789ABCDEF" })
    ),
  }, "GUID of its own"],
  ["attributes of 65 bits", {
    kind: "gpt",
    partitions: [linux({ attributes: 2n ** 64n })],
  }, "64 bits"],
  ["attributes that are none", {
    kind: "gpt",
    partitions: [linux({ attributes: "hidden" })],
  }, "64 bits"],
  ["a logical partition in a GPT", {
    kind: "gpt",
    partitions: [linux({ logical: true })],
  }, "only an MBR"],
  ["a number beyond the most", {
    kind: "gpt",
    partitions: [linux({ number: 8193 })],
  }, "from 1 to 8192"],
  ["one number twice", {
    kind: "gpt",
    partitions: [
      linux({ number: 2, sectors: 8 }),
      linux({ number: 2, sectors: 8 }),
    ],
  }, "its own"],
  [
    "a type that is none",
    { kind: "gpt", partitions: [{ type: "toString" }] },
    "a GUID that is not all zeroes or one of",
  ],
  ["a type that means no partition", {
    kind: "gpt",
    partitions: [{ type: "00000000-0000-0000-0000-000000000000" }],
  }, "not all zeroes"],
  [
    "an id that is none",
    { kind: "gpt", id: "0x1234", partitions: [] },
    "must be a GUID",
  ],
  [
    "an alignment of nothing",
    { kind: "gpt", alignment: 0, partitions: [] },
    "alignment",
  ],
  ["five primary partitions", {
    kind: "mbr",
    partitions: Array.from({ length: 5 }, () => linux({ sectors: 8 })),
  }, "at most 4 partitions"],
  ["four and a logical one", {
    kind: "mbr",
    partitions: [
      ...Array.from({ length: 4 }, () => linux({ sectors: 8 })),
      linux({ logical: true }),
    ],
  }, "at most 3 partitions"],
  [
    "a name in an MBR",
    { kind: "mbr", partitions: [linux({ name: "x" })] },
    "for a GPT only",
  ],
  ["a number of a logical partition", {
    kind: "mbr",
    partitions: [linux({ logical: true, number: 5 })],
  }, "left out"],
  ["a primary between logical partitions", {
    kind: "mbr",
    partitions: [
      linux({ logical: true, sectors: 8 }),
      linux({ sectors: 8 }),
      linux({ logical: true, sectors: 8 }),
    ],
  }, "between logical"],
  ["a logical partition without a block before it", {
    kind: "mbr",
    partitions: [
      linux({ start: 2048, sectors: 8 }),
      linux({ start: 2056, logical: true }),
    ],
  }, "block before it"],
  ["the type of an extended partition", {
    kind: "mbr",
    partitions: [{ type: "0x0f" }],
  }, "type byte of data"],
  [
    "the type of a GPT",
    { kind: "mbr", partitions: [{ type: "0xee" }] },
    "type byte of data",
  ],
  [
    "an id of an MBR that is none",
    { kind: "mbr", id: "1234", partitions: [] },
    "32 bits",
  ],
];

for (const [what, options, says] of REFUSED) {
  Deno.test(`writePartitions() refuses ${what}, and writes nothing`, async () => {
    await using disk = memory();
    const error = await assertRejects(
      () => writePartitions(disk, { partitions: [], ...options }),
      RangeError,
    );
    assertStringIncludes(error.message, says);
    assertEquals(await disk.extents(), [
      { sector: 0, count: disk.sectors, hole: true },
    ]);
  });
}

Deno.test("writePartitions() gives the only partition of a small disk what there is", async () => {
  await using disk = memory(4096 * 512);
  const { partitions: [only] } = await writePartitions(disk, {
    kind: "gpt",
    partitions: [{ type: "linux" }],
  });
  // Up to the 33 blocks of the backup, as 2 MiB is no aligned end.
  assertEquals([only!.start, only!.sectors], [2048, 4096 - 33 - 2048]);
});

Deno.test("writePartitions() refuses disks that are too small or read-only, and kinds that are none", async () => {
  await using small = memory(64 * 512);
  const gpt = { kind: "gpt", partitions: [] } as const;
  const error = await assertRejects(
    () => writePartitions(small, gpt),
    RangeError,
  );
  assertStringIncludes(error.message, "at least 68 blocks");
  await using empty = memory(0);
  await assertRejects(
    () => writePartitions(empty, gpt),
    RangeError,
    "one block",
  );
  await using readOnly = VirtualDisk.memory({ sectors: 1024, readOnly: true });
  const refused = await assertRejects(
    () => writePartitions(readOnly, gpt),
    DiskError,
  );
  assertEquals(refused.kind, "read-only");
  const kind = "bsd" as unknown as "gpt";
  await assertRejects(
    () => writePartitions(small, { kind, partitions: [] }),
    TypeError,
  );
});

Deno.test("writePartitions() says of a disk without room that there are 0 sectors", async () => {
  for (const start of [2047, 2048, 4096]) {
    await using disk = memory(MIB);
    const error = await assertRejects(() =>
      writePartitions(disk, {
        kind: "gpt",
        partitions: [{ type: "linux", start }],
      }), RangeError);
    assertStringIncludes(error.message, "current values are 0 sectors at");
  }
});

Deno.test("repairPartitions() writes one copy from the other, as it is told", async () => {
  const bytes = rawGpt({ size: MIB, partitions: [{ first: 64, last: 127 }] });
  bytes[1024 + 56] = 0x61;
  seal(bytes, 512);
  for (const [from, name] of [["primary", "a"], ["backup", ""]] as const) {
    await using disk = await diskOf(bytes);
    const { table, repaired } = await repairPartitions(disk, { from });
    assertEquals([table.partitions[0]?.name, table.problems], [name, []]);
    assertEquals(repaired.length, 1);
    assertEquals((await repairPartitions(disk)).repaired, []);
  }
});

Deno.test("repairPartitions() repairs a table for sectors of another size where it is", async () => {
  for (const [sectorSize, blockSize] of [[512, 4096], [4096, 512]] as const) {
    const partitions = [{ first: 64, last: 127 }];
    const bytes = rawGpt({ size: MIB, sectorSize, partitions });
    bytes[sectorSize]! ^= 1;
    await using disk = await diskOf(bytes, { blockSize });
    const { table } = await repairPartitions(disk);
    assertEquals(table.problems.map(({ kind }) => kind), ["sector-size"]);
    assertEquals([table.copy, table.sectorSize], ["primary", sectorSize]);
  }
});

Deno.test("repairPartitions() changes nothing in what is sound of a table with few entries", async () => {
  for (const sectorSize of [512, 4096]) {
    for (const entryCount of [1, 4, 12, 127]) {
      const blocks = MIB / sectorSize;
      const entryBlocks = Math.ceil(entryCount * 128 / sectorSize);
      // All the room there is.
      const first = 2 + entryBlocks;
      const partitions = [{ first, last: blocks - 2 - entryBlocks }];
      const sound = rawGpt({ size: MIB, sectorSize, entryCount, partitions });
      // Nothing, either header, the entries of either copy.
      for (
        const at of [
          ...[null, sectorSize, MIB - sectorSize, 2 * sectorSize],
          ...[MIB - (1 + entryBlocks) * sectorSize],
        ]
      ) {
        const bytes = sound.slice();
        if (at !== null) bytes[at]! ^= 1;
        await using disk = await diskOf(bytes, { blockSize: sectorSize });
        const { table, repaired } = await repairPartitions(disk);
        const kinds = table.problems.map(({ kind }) => kind);
        assertEquals(kinds.filter((kind) => kind !== "alignment"), []);
        assertEquals(repaired.length, at === null ? 0 : 1);
        assertEquals(await disk.read(0, disk.sectors), sound);
      }
    }
  }
});

Deno.test("repairPartitions() writes over no partition, and repairs nothing that is not there", async () => {
  const partitions = [{ first: 64, last: 1000 }];
  const cut = rawGpt({ size: MIB, partitions });
  for (
    const [size, kind] of [[1010 * 512, "unsupported"], [
      0,
      "not-found",
    ]] as const
  ) {
    await using disk = await diskOf(cut, { size });
    const before = size > 0 ? await disk.read(0, disk.sectors) : null;
    const error = await assertRejects(() => repairPartitions(disk), DiskError);
    assertEquals(error.kind, kind);
    if (before !== null) assertEquals(await disk.read(0, disk.sectors), before);
  }
  // With room at the end a disk that was cut is whole again.
  await using enough = await diskOf(cut, { size: 1034 * 512 });
  const { table } = await repairPartitions(enough);
  assertEquals([table.problems, table.usable.sectors], [[], 967]);
  const damaged = cut.slice();
  damaged[512]! ^= 1;
  damaged[MIB - 512]! ^= 1;
  await using neither = await diskOf(damaged);
  const error = await assertRejects(() => repairPartitions(neither), DiskError);
  assertStringIncludes(error.message, "neither copy");
});

Deno.test("repairPartitions() leaves an MBR alone", async () => {
  const bytes = new Uint8Array(MIB);
  rawMbr(bytes, [{ type: 0x83, start: 64, count: 64 }]);
  await using disk = await diskOf(bytes);
  assertEquals((await repairPartitions(disk)).repaired, []);
  assertEquals(await disk.read(0, 2048), bytes);
});

Deno.test("repairPartitions() writes nothing where a GPT may be left over and something else is there", async () => {
  const entry = (status: number, type: number, start: number, count: number) =>
    [status, 0, 0, 0, type, 0, 0, 0]
      .concat([start, count].flatMap((it) => [
        ...new Uint8Array(new Uint32Array([it]).buffer),
      ]));
  const mbr = (...entries: number[][]) => {
    const sector = new Uint8Array(512);
    entries.forEach((it, i) => sector.set(it, 446 + 16 * i));
    sector.set([0x55, 0xaa], 510);
    return sector;
  };
  const text = (words: string, at = 0) => {
    const bytes = new Uint8Array(8192);
    bytes.set(new TextEncoder().encode(words), at);
    return bytes;
  };
  const starts: [string, Uint8Array][] = [
    ["a damaged entry", mbr(entry(0x12, 0x83, 2048, 2048))],
    ["a damaged entry", mbr(entry(0, 0x83, 0, 64), entry(1, 0x0c, 64, 64))],
    // A hybrid MBR, of which one byte was hit.
    ["a damaged entry", mbr(entry(0, 0xee, 1, 33), entry(3, 0x83, 2048, 64))],
    ["begins with XFS", text("XFSB")],
    ["begins with swap space", text("SWAPSPACE2", 4086)],
  ];
  for (const from of ["primary", "backup"] as const) {
    for (const [reason, start] of starts) {
      // What is longer than a sector leaves no primary copy.
      if (from === "primary" && start.length > 512) continue;
      await using disk = memory();
      await writePartitions(disk, {
        kind: "gpt",
        partitions: [{ type: "linux" }],
      });
      if (from === "backup") await disk.writeZeroes(1, 33);
      else await disk.writeZeroes(disk.sectors - 33, 33);
      await disk.write(0, start);
      const before = await disk.read(0, disk.sectors);
      const error = await assertRejects(
        () => repairPartitions(disk),
        DiskError,
        reason,
      );
      assertEquals(error.kind, "unsupported");
      assertEquals(await disk.read(0, disk.sectors), before);
    }
  }
});

Deno.test("repairPartitions() keeps a hybrid MBR, byte by byte, on a disk that grew", async () => {
  await using small = memory(8 * MIB);
  await writePartitions(small, {
    kind: "gpt",
    partitions: [{ type: "linux", size: "2MiB" }],
  });
  const sector = await small.read(0, 1);
  // The partition, beside the entry for the GPT: type 0x83 at 2048, 4096 sectors.
  sector.set([0, 0, 2, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 16, 0, 0], 462);
  await small.write(0, sector);
  await using disk = memory(16 * MIB);
  await copyDisk(small, disk);
  await disk.writeZeroes(1, 1);
  const { table, repaired } = await repairPartitions(disk);
  assertEquals(repaired.length, 2);
  assertEquals(table.problems.map(({ kind }) => kind), ["hybrid-mbr"]);
  assertEquals(await disk.read(0, 1), sector);
});
