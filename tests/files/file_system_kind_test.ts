import { VirtualDisk } from "@platter/disk";
import {
  FileSystemError,
  fileSystemOf,
  listFiles,
  readFile,
} from "@platter/disk/files";
import { writePartitions } from "@platter/disk/image";
import { assertEquals, assertRejects } from "@std/assert";
import { LONG, needs, run, tempDir } from "../helpers.ts";

/** Programs that make file systems, and what they make. */
const MADE: [name: string, tool: string, args: string[]][] = [
  ["ext2", "mke2fs", ["-q", "-t", "ext2"]],
  ["ext3", "mke2fs", ["-q", "-t", "ext3"]],
  ["ext4", "mke2fs", ["-q", "-t", "ext4"]],
  ["FAT12", "mkfs.vfat", ["-F", "12", "-s", "64"]],
  ["FAT16", "mkfs.vfat", ["-F", "16"]],
  ["FAT32", "mkfs.vfat", ["-F", "32", "-s", "1"]],
  ["NTFS", "mkntfs", ["-q", "-F"]],
  ["exFAT", "mkfs.exfat", []],
  ["XFS", "mkfs.xfs", ["-q"]],
  ["Btrfs", "mkfs.btrfs", ["-q"]],
  ["swap space", "mkswap", []],
];

for (const [name, tool, args] of MADE) {
  if (!LONG && !["ext4", "FAT32", "XFS"].includes(name)) continue;
  Deno.test(`fileSystemOf() knows ${name}`, needs(tool), async () => {
    await using dir = await tempDir();
    const size = name === "XFS" || name === "Btrfs" ? 320 << 20 : 64 << 20;
    const path = await dir.file("image", size);
    await run(tool, [...args, path]);
    await using disk = await VirtualDisk.open(path, { readOnly: true });
    assertEquals((await fileSystemOf(disk))?.name, name);
  });
}

Deno.test("fileSystemOf() knows signatures on disks of any size, and no others", async () => {
  const signed: [name: string, at: number, text: string][] = [
    ["SquashFS", 0, "hsqs"],
    ["LUKS", 0, "LUKS\xba\xbe"],
    ["HFS+", 1024, "H+\0\x04"],
    ["APFS", 32, "NXSB"],
    ["LVM", 512, "LABELONE".padEnd(24, "\0") + "LVM2 001"],
    ["ZFS", 131072, "\x0c\xb1\xba\0"],
    ["cpio", 0, "070701"],
    ["ISO 9660", 32769, "CD001"],
    ["UDF", 32769 + 2048, "NSR03"],
    ["BitLocker", 3, "-FVE-FS-"],
  ];
  for (const [name, at, text] of signed) {
    for (const blockSize of [512, 4096]) {
      const size = Math.ceil((at + 64) / 4096) * 4096;
      await using disk = VirtualDisk.memory({ size, blockSize });
      const bytes = new Uint8Array(size);
      bytes.set([...text].map((it) => it.charCodeAt(0)), at);
      await disk.write(0, bytes);
      assertEquals((await fileSystemOf(disk))?.name, name);
      // Another letter is none.
      bytes[at + text.length - 1]! ^= 0x40;
      await disk.write(0, bytes);
      assertEquals(await fileSystemOf(disk), null, name);
    }
  }
});

async function refused(disk: VirtualDisk): Promise<[string, string]> {
  const error = await assertRejects(
    () => readFile(disk, "x"),
    FileSystemError,
  );
  return [error.kind, error.message];
}

Deno.test("readFile() names what it cannot read, and says what can", async () => {
  await using disk = VirtualDisk.memory({ size: "1MiB" });
  assertEquals((await refused(disk))[0], "none");
  const signs: [text: string, name: string, advice: string][] = [
    ["XFSB", "XFS", "mount -o ro,loop"],
    ["LUKS\xba\xbe", "LUKS", "guestfish"],
  ];
  for (const [text, name, advice] of signs) {
    const sector = new Uint8Array(512);
    sector.set([...text].map((it) => it.charCodeAt(0)));
    await disk.write(0, sector);
    const [kind, message] = await refused(disk);
    assertEquals(kind, "unsupported");
    assertEquals(message.includes(`has ${name}, which`), true, message);
    assertEquals(message.includes(advice), true, message);
  }
});

Deno.test(
  "listFiles() of a disk with partitions lists the only file system or says which there are",
  needs("mke2fs"),
  async () => {
    await using dir = await tempDir();
    const path = await dir.file("ext2", 1 << 20);
    await Deno.mkdir(dir.join("tree"));
    await Deno.writeTextFile(dir.join("tree/here"), "here");
    await run("mke2fs", ["-q", "-t", "ext2", "-d", dir.join("tree"), path]);
    const content = await Deno.readFile(path);
    await using disk = VirtualDisk.memory({ size: "8MiB" });
    await writePartitions(disk, {
      kind: "gpt",
      partitions: [{ type: "efi", size: "1MiB", name: "boot\x1b" }, {
        type: "linux",
        size: "1MiB",
      }],
    });
    await disk.write(4096, content);
    const found = await Array.fromAsync(listFiles(disk), ({ path }) => path);
    assertEquals(found, ["lost+found", "here"]);
    await disk.write(2048, content);
    const error = await assertRejects(
      () => Array.fromAsync(listFiles(disk)),
      FileSystemError,
      "2 partitions, of which one must be chosen: 1 (boot\\u{1b}, ext2), 2 (Linux file system, ext2)",
    );
    assertEquals(error.kind, "partitioned");
  },
);

Deno.test("listFiles() has nobody choose among partitions without file systems", async () => {
  for (
    const [count, words] of [
      [1, "the only partition has no file system that was recognised: 1 ("],
      [16, "none of the 16 partitions has a file system that was recognised"],
    ] as const
  ) {
    await using disk = VirtualDisk.memory({ size: "32MiB" });
    await writePartitions(disk, {
      kind: "gpt",
      partitions: Array.from({ length: count }, () => ({
        type: "linux",
        size: "1MiB",
      })),
    });
    const error = await assertRejects(
      () => Array.fromAsync(listFiles(disk)),
      FileSystemError,
      words,
    );
    assertEquals(error.kind, "none");
  }
});

Deno.test("fileSystemOf() takes anything", async () => {
  await using disk = VirtualDisk.memory({ size: "192KiB" });
  let seed = 1;
  const bytes = new Uint8Array(disk.sectors * 512);
  for (let round = 0; round < 20; round++) {
    for (let at = 0; at < bytes.length; at++) {
      seed = Math.imul(seed, 1664525) + 1013904223 | 0;
      bytes[at] = seed >>> 24;
    }
    await disk.write(0, bytes);
    assertEquals(await fileSystemOf(disk), null);
  }
});
