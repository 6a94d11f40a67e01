/**
 * What is dear: large files and trees, and damaged images by the hundred.
 *
 * @module
 */

import { VirtualDisk } from "@platter/disk";
import { FileSystemError, listFiles, openFile } from "@platter/disk/files";
import { assert, assertEquals } from "@std/assert";
import { Random } from "../../src/random.ts";
import { LONG, needs, run, tempDir } from "../helpers.ts";
import { makeExt, makeTree } from "./trees.ts";

function long(...tools: string[]): { ignore: boolean } {
  return LONG ? needs(...tools) : { ignore: true };
}

const GIB = 2 ** 30;

Deno.test(
  "openFile() streams a file of 4.5 GiB in bounded memory",
  long("mke2fs"),
  async () => {
    await using dir = await tempDir();
    await Deno.mkdir(dir.join("tree"));
    const size = 4.5 * GIB;
    const mark = new TextEncoder().encode("here");
    {
      using file = await Deno.create(dir.join("tree/large"));
      await file.truncate(size);
      for (const at of [0, 4.25 * GIB, size - mark.length]) {
        await file.seek(at, Deno.SeekMode.Start);
        await file.write(mark);
      }
    }
    await makeExt(dir.join("image"), dir.join("tree"), "ext4", "6G");
    await using disk = await VirtualDisk.open(dir.join("image"), {
      readOnly: true,
    });
    const listed = await Array.fromAsync(listFiles(disk));
    assertEquals(listed.find(({ path }) => path === "large")?.size, size);
    // Its tables of inodes.
    assert(disk.counters.bytesRead < 256 << 20);
    let length = 0;
    let marks = 0;
    let most = 0;
    const before = Deno.memoryUsage().rss;
    for await (const bytes of await openFile(disk, "large")) {
      for (const at of [0, 4.25 * GIB, size - mark.length]) {
        const from = at - length;
        if (from < 0 || from >= bytes.length) continue;
        marks += Number(bytes[from] === mark[0]);
      }
      length += bytes.length;
      most = Math.max(most, Deno.memoryUsage().rss);
    }
    assertEquals([length, marks], [size, 3]);
    const grown = most - before;
    console.log(`${Math.round(grown / 2 ** 20)} MiB of memory at most`);
    assert(grown < 400 << 20);
  },
);

Deno.test(
  "platter ls lists 100,000 files",
  long("mke2fs", "debugfs"),
  async () => {
    await using dir = await tempDir();
    for (let folder = 0; folder < 100; folder++) {
      await Deno.mkdir(dir.join(`tree/${folder}`), { recursive: true });
      for (let file = 0; file < 1000; file++) {
        const path = dir.join(`tree/${folder}/file ${file}`);
        await Deno.writeTextFile(path, path);
      }
    }
    const image = dir.join("image");
    await run("mke2fs", [
      ...["-q", "-t", "ext4", "-N", "120000", "-d", dir.join("tree"), image],
      "1G",
    ]);
    const commands = Array.from({ length: 100 }, (_, it) => `ls -l /${it}\n`);
    await Deno.writeTextFile(dir.join("commands"), commands.join(""));
    const timed = async (command: string, args: string[]) => {
      const text = await run("bash", [
        ...["-c", 'TIMEFORMAT="%U %S"; { time "$@" | wc -l; } 2>&1', "bash"],
        ...[command, ...args],
      ]);
      const [lines, user, system] = text.trim().split(/\s+/).slice(-3).map(
        Number,
      );
      return { lines: lines!, seconds: user! + system! };
    };
    const main = new URL("../../src/cli/main.ts", import.meta.url).pathname;
    const ours = await timed(Deno.execPath(), [
      ...["run", "-A", "--no-check", main, "ls", image, "-R"],
    ]);
    const theirs = await timed("debugfs", ["-f", dir.join("commands"), image]);
    assertEquals(ours.lines, 100_101);
    assert(theirs.lines > 100_000);
    console.log(
      `platter ls ${ours.seconds} s, debugfs ${theirs.seconds} s of processors`,
    );
  },
);

const MUTATED: [name: string, tool: string, make: string, most: number][] = [
  ["ext4", "mke2fs", 'mke2fs -q -t ext4 -d "$1" "$2" 4M', 1 << 20],
  [
    "SquashFS",
    "mksquashfs",
    'mksquashfs "$1" "$2" -quiet -no-progress',
    Infinity,
  ],
  ["ISO 9660", "genisoimage", 'genisoimage -quiet -R -o "$2" "$1"', 1 << 17],
  [
    "cpio",
    "cpio",
    'cd "$1" && find . | cpio -o -H newc --quiet > "$2"',
    1 << 16,
  ],
  [
    "FAT12",
    "mcopy",
    'truncate -s 2M "$2" && mkfs.vfat "$2" && mcopy -s -i "$2" "$1/folder" ::',
    1 << 16,
  ],
];

for (const [name, tool, make, most] of MUTATED) {
  Deno.test(
    `listFiles() answers or refuses 40 mutations of ${name}`,
    long(tool),
    async () => {
      await using dir = await tempDir();
      await makeTree(dir.join("tree"));
      await run("sh", ["-c", make, "sh", dir.join("tree"), dir.join("image")]);
      const bytes = await Deno.readFile(dir.join("image"));
      const sectors = Math.ceil(bytes.length / 512);
      const original = new Uint8Array(sectors * 512);
      original.set(bytes);
      const seed = Number(Deno.env.get("PLATTER_SEED") ?? Date.now() % 2 ** 31);
      console.log(`PLATTER_SEED=${seed}`);
      const random = new Random(seed);
      const outcomes = { listed: 0, refused: 0 };
      for (let round = 0; round < 40; round++) {
        await using disk = VirtualDisk.memory({ sectors });
        const image = original.slice();
        const count = 1 + random.below(32);
        for (let change = 0; change < count; change++) {
          const at = random.below(Math.min(most, image.length));
          // Where there is something, that changes more.
          const near = image.findIndex((byte, index) =>
            index >= at && byte > 0
          );
          image[near < 0 ? at : near] = random.below(256);
        }
        await disk.write(0, image);
        try {
          for await (const _ of listFiles(disk, { timeoutMs: 60_000 }));
          outcomes.listed++;
        } catch (error) {
          assert(error instanceof FileSystemError, `round ${round}: ${error}`);
          assert(error.kind !== "timeout", `round ${round}: ${error}`);
          outcomes.refused++;
        }
      }
      console.log(`${outcomes.listed} listed, ${outcomes.refused} refused`);
    },
  );
}
