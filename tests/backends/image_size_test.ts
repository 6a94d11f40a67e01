import { assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { DiskError } from "../../src/errors.ts";
import { platter } from "../cli/harness.ts";
import { hasTmpfs, tempDir, tmpfsDir } from "../helpers.ts";

const BACKENDS = ["direct", "portable"] as const;

Deno.test("VirtualDisk.open() says what is wrong with a size, on every backend", async () => {
  await using dir = await tempDir();
  const cases: [
    name: string,
    size: number,
    blockSize: number,
    words: string,
  ][] = [
    ["tiny.img", 1, 512, "whole blocks of 512 bytes: current value is 1 byte"],
    ["odd.img", 700, 512, "whole blocks of 512 bytes: current value is 700"],
    ["half.img", 512, 4096, "of 4096 bytes: current value is 512 bytes"],
  ];
  for (const [name, size, blockSize, words] of cases) {
    const path = await dir.file(name, size);
    for (const backend of BACKENDS) {
      const error = await assertRejects(
        () => VirtualDisk.open(path, { backend, blockSize }),
        DiskError,
      );
      assertEquals(error.kind, "geometry");
      assertStringIncludes(
        error.message,
        `Cannot open "${path}" as a disk as its size must be whole blocks`,
      );
      assertStringIncludes(error.message, words);
    }
  }
});

Deno.test({
  name:
    "VirtualDisk.open() takes 8 PiB but a sector, and says that more is more",
  // Hardly another file system has files as large.
  ignore: !hasTmpfs(),
  async fn() {
    await using dir = await tmpfsDir();
    for (const backend of BACKENDS) {
      const last = 2 ** 44 - 1;
      const path = await dir.file(`${backend}.img`, last * 512);
      {
        await using disk = await VirtualDisk.open(path, { backend });
        assertEquals(disk.sectors, last);
        await disk.write(last - 1, new Uint8Array(512).fill(7));
        assertEquals((await disk.read(last - 1, 1))[0], 7);
      }
      for (const [size, text] of [[2 ** 53, "8 PiB"], [2 ** 60, "1024 PiB"]]) {
        await Deno.truncate(path, Number(size));
        const error = await assertRejects(
          () => VirtualDisk.open(path, { backend }),
          DiskError,
          `must be smaller than 8 PiB: current value is ${text}`,
        );
        assertEquals(error.kind, "geometry");
      }
    }
  },
});

Deno.test("VirtualDisk.create() and memory() say that 8 PiB is too large", async () => {
  await using dir = await tempDir();
  const path = dir.join("disk.img");
  for (const sectors of [2 ** 44, 2 ** 53]) {
    for (const backend of BACKENDS) {
      await assertRejects(
        () => VirtualDisk.create(path, { sectors, backend }),
        RangeError,
        `must be less than 8 PiB together: current value is ${sectors}`,
      );
    }
    await assertRejects(
      () => Promise.try(() => VirtualDisk.memory({ sectors })),
      RangeError,
      "must be smaller than 8 PiB",
    );
  }
});

Deno.test("an empty file is a disk without sectors, and every verb says so", async () => {
  await using dir = await tempDir();
  const path = await dir.file("empty.img", 0);
  for (const backend of BACKENDS) {
    await using disk = await VirtualDisk.open(path, { backend });
    assertEquals([disk.sectors, await disk.extents()], [0, []]);
    await disk.flush();
    assertEquals(await Array.fromAsync(disk.readable()), []);
    for (
      const work of [
        () => disk.read(0, 1),
        () => disk.write(0, new Uint8Array(512)),
        () => disk.writeZeroes(0, 1),
      ]
    ) {
      await assertRejects(
        work,
        DiskError,
        "1 sector at sector 0 as the disk has 0 sectors",
      );
    }
  }
  const other = await dir.file("other.img", 512);
  const target = dir.join("new.img");
  const cases: [args: string[], code: number, words: string][] = [
    [["info", path], 0, "0 B (0 bytes, 0 sectors)"],
    [["map", path], 0, "no data, no holes"],
    [["read", path], 0, ""],
    [["read", path, "--count", "1"], 2, "the disk has 0 bytes (0 sectors)"],
    [["compare", path, path], 0, ""],
    [["compare", path, other], 1, `${path} ends at sector 0`],
    [["write", path, other, "--sector", "0"], 2, "the disk has 0 sectors"],
    [["copy", path, target], 2, `Cannot copy "${path}" as it is empty`],
    [["create", target, "0"], 2, "current value is 0"],
  ];
  for (const [args, code, words] of cases) {
    const outcome = await platter(args);
    assertEquals(outcome.code, code, outcome.err);
    assertStringIncludes(outcome.out + outcome.err, words);
  }
  await assertRejects(() => Deno.lstat(target), Deno.errors.NotFound);
});
