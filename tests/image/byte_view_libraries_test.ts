/**
 * Libraries of npm over a disk of ours: what they write is judged by the tools
 * of the file systems, what they read by what other tools wrote.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import type { Buffer } from "node:buffer";
import { interact } from "npm:balena-image-fs@7.6.21";
import ext2fs from "npm:ext2fs@4.2.5";
import fatfs from "npm:fatfs@0.10.8";
import { Disk as FileDisk } from "npm:file-disk@8.0.1";
import { getPartitions } from "npm:partitioninfo@6.0.3";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { ByteView } from "../../src/image/byte_view.ts";
import { needs, pause, run, tempDir } from "../helpers.ts";

const MIB = 1 << 20;

/** What is written everywhere: a text, and one longer than any cluster. */
const TEXT = "Written through a view of bytes\n";
const LONG_TEXT = Array.from({ length: 20_000 }, (_, i) => `${i}\n`).join("");

/** What the file systems of these libraries have of `node:fs`. */
interface Files {
  readonly promises: {
    mkdir(path: string): Promise<void>;
    writeFile(path: string, data: string | Uint8Array): Promise<void>;
    /** ext2fs returns text, whatever it is asked for. */
    readFile(path: string): Promise<Uint8Array | string>;
    readdir(path: string): Promise<string[]>;
  };
}

/** Writes the files, and reads them again. */
async function fill({ promises: files }: Files): Promise<void> {
  await files.mkdir("/sub");
  await files.writeFile("/text.txt", TEXT);
  await files.writeFile("/sub/long.txt", LONG_TEXT);
  assertEquals(String(await files.readFile("/text.txt")), TEXT);
  assert(String(await files.readFile("/sub/long.txt")) === LONG_TEXT);
  assertEquals(await files.readdir("/sub"), ["long.txt"]);
}

/** fatfs has timers of half a second when a file has been closed. */
const FATFS_MS = 501;

/** A file system of ext, as its own tools see it. */
async function judgeExt(image: string): Promise<void> {
  await run("e2fsck", ["-fn", image]);
  assertEquals(await run("debugfs", ["-R", "cat /text.txt", image]), TEXT);
  const long = await run("debugfs", ["-R", "cat /sub/long.txt", image]);
  assert(long === LONG_TEXT);
}

/** A file system of FAT, as its own tools see it. */
async function judgeFat(image: string): Promise<void> {
  await run("fsck.fat", ["-n", image]);
  const listed = await run("mdir", ["-i", image, "-/", "-b", "::"]);
  assertEquals(listed.trim().split("\n").sort(), [
    "::/sub/",
    "::/sub/long.txt",
    "::/text.txt",
  ]);
  assertEquals(await run("mtype", ["-i", image, "::/text.txt"]), TEXT);
  assert(await run("mtype", ["-i", image, "::/sub/long.txt"]) === LONG_TEXT);
}

Deno.test({
  name: "ext2fs writes files through a ByteView that e2fsck approves",
  ...needs("mke2fs", "e2fsck", "debugfs"),
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("ext.img", 8 * MIB);
    await run("mke2fs", ["-q", "-F", "-t", "ext4", "-b", "1024", path]);
    {
      // Blocks of the disk larger than those of the file system.
      await using disk = await VirtualDisk.open(path, { blockSize: 4096 });
      const view = new ByteView(disk);
      await ext2fs.withMountedDisk(view, 0, fill);
      await view.flush();
    }
    await judgeExt(path);
  },
});

Deno.test({
  name: "fatfs writes files through a ByteView that fsck.fat and mdir approve",
  ...needs("mkfs.vfat", "fsck.fat", "mdir", "mtype"),
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("fat.img", 8 * MIB);
    // One table, as fatfs leaves the second one as it is.
    await run("mkfs.vfat", ["-f", "1", "-F", "16", "-s", "1", path]);
    {
      // Sectors of 512 bytes: each of them is a part of a block.
      await using disk = await VirtualDisk.open(path, { blockSize: 4096 });
      const view = new ByteView(disk);
      type Done = (error: unknown) => void;
      const files = fatfs.createFileSystem({
        sectorSize: 512,
        numSectors: disk.sectors,
        readSectors: (sector: number, into: Buffer, done: Done) =>
          view.read(into, 0, into.length, sector * 512)
            .then(() => done(null), done),
        writeSectors: (sector: number, data: Buffer, done: Done) =>
          view.write(data, 0, data.length, sector * 512)
            .then(() => done(null), done),
      });
      await new Promise((resolve, reject) =>
        files.on("ready", resolve).on("error", reject)
      );
      const call = (name: string) => (...args: unknown[]) =>
        new Promise((resolve, reject) =>
          files[name](
            ...args,
            (error: unknown, value: unknown) =>
              error ? reject(error) : resolve(value),
          )
        );
      const names = ["mkdir", "writeFile", "readFile", "readdir"];
      const promises = Object.fromEntries(
        names.map((name) => [name, call(name)]),
      ) as unknown as Files["promises"];
      await fill({ promises });
      await view.flush();
    }
    await judgeFat(path);
    await pause(FATFS_MS);
  },
});

/** A view as the class of `file-disk`, for libraries that ask for its instance. */
class ViewDisk extends FileDisk {
  readonly view: ByteView;

  constructor(view: ByteView) {
    super();
    this.view = view;
  }

  protected override _getCapacity() {
    return this.view.getCapacity();
  }

  protected override _read(
    buffer: Buffer,
    bufferOffset: number,
    length: number,
    fileOffset: number,
  ) {
    return this.view.read(buffer, bufferOffset, length, fileOffset);
  }

  protected override _write(
    buffer: Buffer,
    bufferOffset: number,
    length: number,
    fileOffset: number,
  ) {
    return this.view.write(buffer, bufferOffset, length, fileOffset);
  }

  protected override _flush() {
    return this.view.flush();
  }
}

Deno.test({
  name:
    "partitioninfo and balena-image-fs find partitions and files by a ByteView",
  ...needs(
    ...["sfdisk", "mkfs.vfat", "mke2fs", "e2fsck", "debugfs"],
    ...["fsck.fat", "mdir", "mtype"],
  ),
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", 24 * MIB);
    const parts: [number, number][] = [[2048, 16_384], [20_480, 16_384]];
    const script = await dir.file(
      "table",
      new TextEncoder().encode(
        `label: gpt\n${parts.map((part) => `${part.join()},L\n`).join("")}`,
      ),
    );
    await run("sh", ["-c", `sfdisk -q ${path} < ${script}`]);
    const fat = await dir.file("fat.img", 8 * MIB);
    const ext = await dir.file("ext.img", 8 * MIB);
    await run("mkfs.vfat", ["-f", "1", "-F", "16", "-s", "1", fat]);
    await run("mke2fs", ["-q", "-F", "-t", "ext2", ext]);
    {
      await using disk = await VirtualDisk.open(path);
      for (const [i, image] of [fat, ext].entries()) {
        await disk.write(parts[i]![0], await Deno.readFile(image));
      }
      const view = new ViewDisk(new ByteView(disk));
      const table = await getPartitions(view);
      assertEquals(table.type, "gpt");
      assertEquals(
        table.partitions.map(({ offset, size }) => [offset / 512, size / 512]),
        parts,
      );
      for (const number of [1, 2]) {
        await interact(
          view,
          number,
          (files) => fill(files as unknown as Files),
        );
      }
      await view.flush();
      for (const [i, image] of [fat, ext].entries()) {
        await Deno.writeFile(image, await disk.read(...parts[i]!));
      }
    }
    await judgeFat(fat);
    await judgeExt(ext);
    await pause(FATFS_MS);
  },
});
