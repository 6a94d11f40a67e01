import { assert, assertEquals } from "@std/assert";
import { VirtualDisk } from "../../../src/disk/disk.ts";
import { explainSectors } from "../../../src/crash/report/explain/explain.ts";
import { recognizeBtrfs } from "../../../src/crash/report/explain/btrfs.ts";
import type { Recognize } from "../../../src/crash/report/explain/content.ts";
import { recognizeExt } from "../../../src/crash/report/explain/ext.ts";
import { recognizeFat } from "../../../src/crash/report/explain/fat.ts";
import { Volume } from "../../../src/crash/report/explain/volume.ts";
import { recognizeXfs } from "../../../src/crash/report/explain/xfs.ts";
import { Random } from "../../../src/random.ts";
import { needs, run, type TempDir, tempDir } from "../../helpers.ts";

/** What one sector is, by an image file. */
async function pathsOf(
  image: string,
  ...sectors: number[]
): Promise<Record<number, string>> {
  await using disk = await VirtualDisk.open(image, { readOnly: true });
  const { ranges, notes } = await explainSectors(
    sectors.map((sector) => ({ sector, count: 1 })),
    [disk],
  );
  assertEquals(notes, []);
  const found: Record<number, string> = {};
  for (const { sector, count, path } of ranges) {
    for (let i = 0; i < count; i++) found[sector + i] = path.join(" > ");
  }
  return found;
}

/** An ext4 file system with a few files. */
async function ext4(dir: TempDir, name: string, ...args: string[]) {
  const image = await dir.file(name, 8 * 2 ** 20);
  await Deno.mkdir(dir.join("root/etc"), { recursive: true });
  await Deno.writeFile(
    dir.join("root/etc/config"),
    new Uint8Array(3000).fill(7),
  );
  await run("mkfs.ext4", ["-q", "-F", "-d", dir.join("root"), ...args, image]);
  const numbers = async (request: string) =>
    (await run("debugfs", ["-R", request, image])).match(/\d+/g)!.map(Number);
  return { image, numbers };
}

Deno.test(
  "explainSectors() names the structures, the files and the journal of ext4",
  needs("mkfs.ext4", "debugfs", "dumpe2fs"),
  async () => {
    await using dir = await tempDir();
    const { image, numbers } = await ext4(dir, "ext4.img", "-b", "1024");
    const [block] = await numbers("blocks /etc/config");
    const [directory] = await numbers("blocks /etc");
    const [inode, inodeBlock] = (await numbers("imap /etc/config"))
      .filter((_, i) => i === 0 || i === 3);
    const journal = (await run("debugfs", ["-R", "blocks <8>", image]))
      .trim().split(" ").map(Number);
    // Journal blocks that a file system writes; the file system was not mounted.
    {
      await using disk = await VirtualDisk.open(image);
      const commit = new Uint8Array(512);
      const view = new DataView(commit.buffer);
      view.setUint32(0, 0xc03b3998);
      view.setUint32(4, 2);
      view.setUint32(8, 77);
      await disk.write(2 * journal[9]!, commit);
    }
    assert(inode! > 10 && inodeBlock !== undefined);
    const found = await pathsOf(
      image,
      0,
      2,
      4,
      2 * block!,
      2 * block! + 1,
      2 * directory!,
      2 * journal[0]!,
      2 * journal[8]!,
      2 * journal[9]!,
      16_383,
    );
    const path = (sector: number) => found[sector]!;
    assertEquals(path(0), "ext4 > boot block");
    assertEquals(path(2), "ext4 > primary super block of group 0");
    assertEquals(path(4), "ext4 > group descriptors of group 0");
    assertEquals(path(2 * block!), `ext4 > inode ${inode} > /etc/config`);
    assertEquals(path(2 * block! + 1), `ext4 > inode ${inode} > /etc/config`);
    assert(/^ext4 > inode \d+ > \/etc$/.test(path(2 * directory!)));
    assertEquals(path(2 * journal[0]!), "ext4 > journal > super block");
    assertEquals(path(2 * journal[8]!), "ext4 > journal > a copy of a block");
    assertEquals(
      path(2 * journal[9]!),
      "ext4 > journal > commit block of transaction 77",
    );
    assertEquals(path(16_383), "ext4 > free space");
  },
);

Deno.test(
  "explainSectors() names the inodes of a block of an inode table",
  needs("mkfs.ext4", "debugfs", "dumpe2fs"),
  async () => {
    await using dir = await tempDir();
    const { image } = await ext4(dir, "ext4.img", "-b", "1024");
    const text = await run("debugfs", ["-R", "imap /etc/config", image]);
    // "Inode 13 is part of block group 0\n\tlocated at block 71, offset 0x0000"
    const [, inode, block] = /Inode (\d+)[^]*block (\d+),/.exec(text)!;
    const found = await pathsOf(image, 2 * Number(block));
    const path = found[2 * Number(block)]!;
    assert(path.startsWith("ext4 > inode table of group 0 > inodes "), path);
    const [, first, last] = /inodes (\d+)–(\d+)/.exec(path)!;
    assert(Number(first) <= Number(inode) && Number(inode) <= Number(last));
    assert(path.includes("/etc/config"), path);
  },
);

Deno.test(
  "explainSectors() names partitions, their table, and what is in them",
  needs("sfdisk", "mkfs.ext4", "debugfs", "dumpe2fs"),
  async () => {
    await using dir = await tempDir();
    const { image: inner } = await ext4(dir, "inner.img", "-b", "4096");
    const image = await dir.file("disk.img", 16 * 2 ** 20);
    const script = dir.join("script");
    await Deno.writeTextFile(
      script,
      "label: gpt\nstart=2048, size=2048, name=boot\nstart=4096, size=16384\n",
    );
    await run("sh", ["-c", 'sfdisk -q "$0" < "$1"', image, script]);
    {
      await using source = await VirtualDisk.open(inner, { readOnly: true });
      await using target = await VirtualDisk.open(image);
      await target.write(4096, await source.read(0, source.sectors));
    }
    const end = 32_767;
    const found = await pathsOf(image, 0, 1, 2, 100, 2048, 4098, end - 1, end);
    assertEquals(found, {
      0: "protective MBR",
      1: "primary GPT header",
      2: "primary GPT entries",
      100: "",
      2048: "partition 1 (boot)",
      4098: "partition 2 > ext4 > primary super block of group 0",
      [end - 1]: "backup GPT entries",
      [end]: "backup GPT header",
    });
  },
);

Deno.test(
  "explainSectors() names structures of XFS",
  needs("mkfs.xfs", "xfs_db", "sfdisk"),
  async () => {
    await using dir = await tempDir();
    const image = await dir.file("xfs.img", 320 * 2 ** 20);
    await run("mkfs.xfs", ["-q", image]);
    const sector = async (...commands: string[]) => {
      const args = commands.flatMap((command) => ["-c", command]);
      const text = await run("xfs_db", ["-r", ...args, "-c", "daddr", image]);
      return Number(/current daddr is (\d+)/.exec(text)![1]);
    };
    const [agi, log, root, tree] = [
      await sector("agi 1"),
      await sector("sb 0", "addr logstart"),
      await sector("sb 0", "addr rootino"),
      await sector("agf 0", "addr bnoroot"),
    ];
    const found = await pathsOf(image, 0, agi!, log! + 8, root!, tree!);
    assertEquals(found, {
      0: "XFS > allocation group 0 > super block",
      [agi!]: "XFS > allocation group 1 > inode header",
      [log! + 8]: "XFS > log",
      [root!]: "XFS > allocation group 0 > inodes",
      [tree!]: "XFS > allocation group 0 > free space tree by number",
    });
  },
);

Deno.test(
  "explainSectors() names trees of btrfs and tables of FAT",
  needs("mkfs.btrfs", "mkfs.vfat", "sfdisk"),
  async () => {
    await using dir = await tempDir();
    const btrfs = await dir.file("btrfs.img", 128 * 2 ** 20);
    await run("mkfs.btrfs", ["-q", "-m", "single", btrfs]);
    const tree = async (name: string) => {
      const text = await run("btrfs", [
        "inspect-internal",
        "dump-super",
        btrfs,
      ]);
      return Number(new RegExp(`^${name}\\s+(\\d+)`, "m").exec(text)![1]);
    };
    // The system chunk's logical addresses are its physical ones.
    const chunk = await tree("chunk_root") / 512;
    const found = await pathsOf(btrfs, 128, 131_072, chunk, chunk + 8);
    assertEquals(found[128], "btrfs > super block");
    assertEquals(found[131_072], "btrfs > super block, mirror 1");
    assert(/^btrfs > chunk tree > node of generation \d+$/.test(found[chunk]!));
    assertEquals(found[chunk + 8], found[chunk]);

    const fat = await dir.file("fat.img", 4 * 2 ** 20);
    await run("mkfs.vfat", ["-F", "16", "-s", "1", "-R", "2", fat]);
    assertEquals(await pathsOf(fat, 0, 1, 2, 40), {
      0: "FAT > boot sector",
      1: "FAT > reserved",
      2: "FAT > file allocation table 1",
      40: "FAT > file allocation table 2",
    });
  },
);

Deno.test(
  "explainSectors() asks the second disk what the first does not know",
  needs("mkfs.ext4", "debugfs", "dumpe2fs", "sfdisk"),
  async () => {
    await using dir = await tempDir();
    const { image } = await ext4(dir, "ext4.img", "-b", "1024");
    await using empty = VirtualDisk.memory({ sectors: 16_384 });
    await using disk = await VirtualDisk.open(image, { readOnly: true });
    const before = await Deno.readFile(image);
    const { ranges } = await explainSectors([{ sector: 2, count: 2 }], [
      empty,
      disk,
    ]);
    assertEquals(ranges, [{
      sector: 2,
      count: 2,
      path: ["ext4", "primary super block of group 0"],
    }]);
    assertEquals(await Deno.readFile(image), before);
  },
);

Deno.test(
  "explainSectors() says which tools are missing",
  needs("root", "unshare"),
  async () => {
    await using dir = await tempDir();
    const script = dir.join("explain.ts");
    await Deno.writeTextFile(
      script,
      `import { VirtualDisk } from ${url("disk/disk.ts")};
      import { explainSectors } from ${url("crash/report/explain/explain.ts")};
      await using disk = VirtualDisk.memory({ sectors: 16_384 });
      const superBlock = new Uint8Array(512);
      const view = new DataView(superBlock.buffer);
      view.setUint16(56, 0xef53, true);
      view.setUint32(96, 0x40, true);
      await disk.write(2, superBlock);
      console.log(JSON.stringify(
        await explainSectors([{ sector: 2, count: 2 }], [disk]),
      ));`,
    );
    // Nobody else sees that there are no administrators' programs.
    const text = await run("unshare", [
      "-m",
      "sh",
      "-c",
      'mount -t tmpfs none /usr/sbin && exec "$0" run -A --no-lock "$1"',
      Deno.execPath(),
      script,
    ]);
    assertEquals(JSON.parse(text), {
      ranges: [{ sector: 2, count: 2, path: ["ext4"] }],
      notes: [
        "What is where on ext4 is not told: debugfs is missing (Debian package e2fsprogs).",
      ],
    });
  },
);

/** The address of a file of the library, as a string of a program. */
function url(path: string): string {
  return JSON.stringify(new URL(`../../../src/${path}`, import.meta.url).href);
}

Deno.test("explainSectors() looks up a bounded part of what is lost", async () => {
  await using disk = VirtualDisk.memory({ sectors: 2 ** 20 });
  const { ranges, notes } = await explainSectors(
    [{ sector: 8, count: 100_000 }],
    [disk],
  );
  assertEquals(ranges, [
    { sector: 8, count: 65_536, path: [] },
    { sector: 65_544, count: 34_464, path: [] },
  ]);
  assert(notes.includes("Only the first 65536 lost sectors are looked up."));
});

Deno.test("what knows a file system copes with anything in its super block", async () => {
  const random = new Random(7);
  const text = (letters: string) => new TextEncoder().encode(letters);
  const kinds: [Recognize, [offset: number, bytes: Uint8Array][]][] = [
    [recognizeExt, [[1024 + 56, new Uint8Array([0x53, 0xef])]]],
    [recognizeXfs, [[0, text("XFSB")]]],
    [recognizeBtrfs, [[65_536 + 64, text("_BHRfS_M")]]],
    [recognizeFat, [[54, text("FAT")], [510, new Uint8Array([0x55, 0xaa])]]],
  ];
  let known = 0;
  for (const [recognize, magics] of kinds) {
    for (let i = 0; i < 300; i++) {
      await using disk = VirtualDisk.memory({ sectors: 512 });
      const image = new Uint8Array(512 * 512);
      // Sparse bytes, as in super blocks: many fields are small.
      for (let k = random.below(300); k > 0; k--) {
        const at = random.pick([0, 1024, 65_536]) + random.below(256);
        image[at] = random.chance(1, 2)
          ? 1 << random.below(8)
          : random.below(256);
      }
      for (const [offset, bytes] of magics) image.set(bytes, offset);
      await disk.write(0, image);
      const content = await recognize(new Volume(disk, ""));
      if (content === null) continue;
      known++;
      assert(
        Number.isInteger(content.blockSectors) && content.blockSectors > 0,
      );
      // The others run programs, which have their own mind of it.
      if (recognize === recognizeExt) continue;
      const blocks = Array.from({ length: 40 }, (_, block) => block);
      const paths = await content.explain(blocks);
      assertEquals(paths.length, blocks.length);
    }
  }
  assert(known > 20, `${known}`);
});
