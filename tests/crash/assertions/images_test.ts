/**
 * Assertions about images: what they say, and that they see what they should.
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { MemoryBackend, VirtualDisk } from "@platter/disk";
import { readPartitions, writePartitions } from "@platter/disk/image";
import {
  assertDisksEqual,
  assertGolden,
  assertOnlyChanged,
  assertPartitions,
  DiskAssertionError,
  overlay,
  Random,
} from "@platter/disk/testing";
import { parseGolden } from "../../../src/testing/golden_image.ts";
import { needs, tempDir } from "../../helpers.ts";

async function partitioned(): Promise<VirtualDisk> {
  const disk = VirtualDisk.memory({ size: "16MiB" });
  await writePartitions(disk, {
    kind: "gpt",
    id: "11111111-2222-3333-4444-555555555555",
    partitions: [
      {
        type: "efi",
        name: "boot",
        size: "4MiB",
        guid: "21111111-2222-3333-4444-555555555555",
      },
      {
        type: "linux",
        name: "root",
        guid: "31111111-2222-3333-4444-555555555555",
      },
    ],
  });
  return disk;
}

const ones = (sectors: number) => new Uint8Array(sectors * 512).fill(1);

Deno.test("assertDisksEqual() tells differences by partition, a run on a line", async () => {
  await using a = await partitioned();
  await using b = await partitioned();
  await assertDisksEqual(a, b);
  await a.write(2048, ones(20));
  await a.write(3000, ones(1));
  await a.write(10_239, ones(2)); // Across the end of the first one.
  await a.write(40, ones(1));
  const options = { explain: false, maxSectors: 0 };
  const error = await assertRejects(
    () => assertDisksEqual(a, b, options),
    DiskAssertionError,
  );
  assertEquals(
    error.message,
    `24 sectors differ (- is there, + should be):
  outside of partitions:
    sector 40
  partition 1 (boot):
    sectors 2048 to 2067 (20)
    sector 3000
    sector 10239
  partition 2 (root):
    sector 10240
… and 24 more, up to sector 10240`,
  );
  const { partitions: [boot, root] } = await readPartitions(a);
  await assertDisksEqual(a, b, {
    ignore: [{ sector: 40, count: 1 }, boot!, root!],
  });
  const rest = await assertRejects(
    () => assertDisksEqual(a, b, { ...options, ignore: [boot!] }),
    DiskAssertionError,
  );
  assertEquals(rest.sectors, [40, 10_240]);
  await assertRejects(
    () => assertDisksEqual(a, b, { ignore: [{ sector: 40_000 }] }),
    RangeError,
    "Cannot ignore a range",
  );
});

Deno.test({
  name: "assertDisksEqual() tells what is there in a file system",
  ...needs("sfdisk", "mke2fs", "debugfs", "truncate"),
  async fn() {
    await using dir = await tempDir();
    const path = dir.join("ext4.img");
    const { success } = await new Deno.Command("mke2fs", {
      args: ["-q", "-F", "-t", "ext4", path, "8M"],
      stdout: "null",
      stderr: "null",
    }).output();
    assert(success);
    await using a = await VirtualDisk.open(path, { readOnly: true });
    const changes = overlay(new MemoryBackend({ sectors: a.sectors }));
    await using b = VirtualDisk.over(changes);
    await b.write(0, await a.read(0, a.sectors));
    await b.write(2, ones(2)); // The superblock.
    const error = await assertRejects(
      () => assertDisksEqual(b, a),
      DiskAssertionError,
      "primary super block of group 0",
    );
    assertStringIncludes(error.message, "ext4");
    assertEquals(error.sectors, [2, 3]);
  },
});

Deno.test("assertOnlyChanged() sees every sector that was written elsewhere", async () => {
  const changes = overlay(new MemoryBackend({ size: "16MiB" }));
  await using disk = VirtualDisk.over(changes);
  assertOnlyChanged(changes, []);
  const second = { number: 2, start: 10_240, sectors: 100 };
  await disk.write(10_240, ones(100));
  assertOnlyChanged(changes, [second]);
  await disk.write(10_339, ones(2));
  await disk.writeZeroes(10_341, 3); // Zeroes over zeroes count as well.
  await disk.write(7, ones(1));
  const error = assertThrows(
    () => assertOnlyChanged(changes, [second]),
    DiskAssertionError,
  );
  assertEquals(
    error.message,
    `5 sectors were written outside partition 2:
  sector 7
  sectors 10340 to 10343, 4 sectors`,
  );
  assertEquals(error.sectors, [7, 10_340, 10_341, 10_342, 10_343]);
  assertOnlyChanged(changes, [{ sector: 10_240 }, { sector: 7, count: 1 }]);
  assertThrows(
    () => assertOnlyChanged(changes, [{ sector: 99_999, count: 1 }]),
    RangeError,
  );
});

Deno.test("assertPartitions() tells everything that is wrong", async () => {
  await using disk = await partitioned();
  await assertPartitions(disk, [{}, { name: "root", type: "linux" }]);
  await assertPartitions(disk, {
    kind: "gpt",
    sectorSize: 512,
    partitions: [{ number: 1, start: 2048, sectors: 8192, type: "efi" }, {}],
  });
  const error = await assertRejects(
    () =>
      assertPartitions(disk, {
        kind: "mbr",
        partitions: [{ name: "BOOT", start: 2048 }, {}, { type: "swap" }],
      }),
    DiskAssertionError,
  );
  assertEquals(
    error.message,
    `The partitions are not as they should be (- is there, + should be):
  kind of table: - "gpt"
                 + "mbr"
  partition 1, name: - "boot"
                     + "BOOT"
  partition 3: + {"type":"swap"}, which is missing`,
  );
  await assertRejects(
    () => assertPartitions(disk, [{}]),
    DiskAssertionError,
    `partition 2: - 20480 sectors from 10240 on`,
  );
  // Its backup is damaged.
  await disk.write(disk.sectors - 1, ones(1));
  await assertRejects(
    () => assertPartitions(disk, [{}, {}]),
    DiskAssertionError,
    "backup: ",
  );
  await assertPartitions(disk, { partitions: [{}, {}], problems: ["backup"] });
  await using empty = VirtualDisk.memory({ size: "1MiB" });
  await assertPartitions(empty, { kind: "none", partitions: [] });
});

Deno.test("assertGolden() makes, compares and keeps a golden image", async () => {
  await using dir = await tempDir();
  const path = dir.join("golden/disk.txt");
  const random = new Random(7);
  await using disk = VirtualDisk.memory({ sectors: 40_003 });
  await disk.write(1, random.bytes(512));
  await disk.write(800, ones(8 * 300)); // Alike, and so on a line.
  await disk.write(40_001, random.bytes(1024)); // Half a block at the end.
  await assertRejects(
    () => assertGolden(disk, path),
    DiskAssertionError,
    "There is no golden image",
  );
  const update = { mode: "update" } as const;
  await assertGolden(disk, path, update);
  await assertGolden(disk, path);
  const text = await Deno.readTextFile(path);
  assertStringIncludes(text, "\n800+8*300 =01\n");
  assertEquals(text.trim().split("\n").length, 5);
  assertEquals(
    (await Array.fromAsync(Deno.readDir(dir.join("golden")))).length,
    1,
  );

  await disk.write(2, ones(1));
  await disk.write(5000, ones(1));
  const ignore = [{ sector: 2, count: 1 }];
  const error = await assertRejects(
    () => assertGolden(disk, path, { ignore }),
    DiskAssertionError,
  );
  assertEquals(error.sectors, [5000]);
  assertStringIncludes(error.message, 'by "deno test -A -- --update"');
  // What is ignored is not kept, and what did not change keeps its line, even
  // if it was compressed by another zlib.
  const other = text.replace("800+8*300 =01", "800+8 Y2RgGAWjITAaAqMhMBoCAA==");
  await Deno.writeTextFile(path, other);
  const kept = await assertGolden(disk, path, { ...update, ignore })
    .then(() => Deno.readTextFile(path), (error) => error);
  assert(kept instanceof TypeError, String(kept)); // A line that was no block.
  await Deno.writeTextFile(path, text);
  await assertGolden(disk, path, { ...update, ignore });
  const again = await Deno.readTextFile(path);
  assertEquals(
    again.split("\n").filter((line) => !text.includes(line)).length,
    1,
  );
  await assertGolden(disk, path, { ignore });
});

Deno.test("assertGolden() leaves a file that is no golden image as it is", async () => {
  await using dir = await tempDir();
  const path = dir.join("letter");
  await Deno.writeTextFile(path, "a letter");
  await using disk = VirtualDisk.memory({ size: "1MiB" });
  for (const mode of ["assert", "update"] as const) {
    await assertRejects(
      () => assertGolden(disk, path, { mode }),
      TypeError,
      `it must begin with "platter-golden 1"`,
    );
  }
  assertEquals(await Deno.readTextFile(path), "a letter");
});

Deno.test("parseGolden() refuses whatever is no golden image", async () => {
  await using dir = await tempDir();
  const path = dir.join("golden.txt");
  await using disk = VirtualDisk.memory({ sectors: 100 });
  const random = new Random(3);
  await disk.write(8, random.bytes(512 * 40));
  await disk.write(96, random.bytes(512 * 4));
  await assertGolden(disk, path, { mode: "update" });
  const text = await Deno.readTextFile(path);
  assertEquals(parseGolden(text).blocks.size, 6);
  const head = "platter-golden 1\nsectors 100\n";
  for (
    const bad of [
      "",
      "platter-golden 2\nsectors 100\n",
      "platter-golden 1\nsectors x\n",
      "platter-golden 1\nsectors 9999999999999999\n",
      `${head}4+8 =01`,
      `${head}0+4 =01`,
      `${head}0+8 =1`,
      `${head}0+8 !`,
      `${head}0+8 AAAA`,
      `${head}0+8*0 =01`,
      `${head}0+8*13 =01`,
      `${head}0+8*999999999 =01`,
      `${head}8+8 =01\n0+8 =01`,
      `${head}0+8*2 =01\n8+8 =01`,
      `${head}96+4*2 =01`,
    ]
  ) {
    assertThrows(
      () => parseGolden(bad),
      TypeError,
      "Cannot read a golden image",
    );
  }
  // Spoiled anywhere it is refused or read, and takes no time.
  for (let i = 0; i < 400; i++) {
    const at = random.below(text.length);
    const spoiled = text.slice(0, at) +
      String.fromCharCode(random.below(128)) +
      text.slice(at + random.below(3));
    try {
      assert(parseGolden(spoiled).blocks.size <= 65_536);
    } catch (error) {
      assert(error instanceof TypeError, String(error));
    }
  }
});
