/**
 * Interop: what QEMU's tools, mkfs, sfdisk and cmp say of our images, and we of
 * theirs; and that each keeps the other's writers out.
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { VirtualDisk } from "../src/disk/disk.ts";
import { DiskError } from "../src/errors.ts";
import { Random } from "../src/random.ts";
import { needs, run, tempDir } from "./helpers.ts";

const LINUX = Deno.build.os === "linux";
const BACKENDS = LINUX
  ? ["direct", "portable"] as const
  : ["portable"] as const;
const MIB = 1_048_576;

/** Runs commands of qemu-io on an image. */
function qemuIo(path: string, commands: string[], ...args: string[]) {
  return run("qemu-io", [
    ...["-f", "raw", ...args],
    ...commands.flatMap((command) => ["-c", command]),
    path,
  ]);
}

/** What a program that must fail says. */
async function refusal(command: string, args: string[]): Promise<string> {
  const error = await assertRejects(() => run(command, args), Error);
  return error.message;
}

/** A qemu-io that has an image open until it gets `quit`. */
async function holding(path: string, ...args: string[]) {
  const process = new Deno.Command("qemu-io", {
    args: ["-f", "raw", ...args, path],
    stdin: "piped",
    stdout: "piped",
    stderr: "null",
  }).spawn();
  const stdin = process.stdin.getWriter();
  const stdout = process.stdout.getReader();
  // Its answer to a command says that it has opened the image.
  await stdin.write(new TextEncoder().encode("length\n"));
  let text = "";
  while (!/\d (bytes|[KMG]iB)/.test(text)) {
    const { value, done } = await stdout.read();
    if (done) throw new Error(`Cannot start qemu-io: ${text}`);
    text += new TextDecoder().decode(value);
  }
  return {
    pid: process.pid,
    async [Symbol.asyncDispose]() {
      await stdin.write(new TextEncoder().encode("quit\n")).catch(() => {});
      await stdin.close().catch(() => {});
      while (!(await stdout.read()).done);
      await process.status;
    },
  };
}

// Bytes

for (const backend of BACKENDS) {
  Deno.test({
    name: `qemu-io's patterns are read back, ${backend} backend`,
    ...needs("qemu-io"),
    async fn() {
      await using dir = await tempDir();
      const path = await dir.file("disk.img", MIB);
      await qemuIo(path, [
        "write -P 0xa5 4096 8192",
        "write -P 0x3c 512 512",
        "write -P 0x11 1047552 1024",
        "write -z 8192 512",
        "flush",
      ]);
      await using disk = await VirtualDisk.open(path, { backend });
      const expected = new Uint8Array(MIB);
      expected.fill(0xa5, 4096, 12_288).fill(0x3c, 512, 1024);
      expected.fill(0x11, 1_047_552).fill(0, 8192, 8704);
      assertEquals(await disk.read(0, 2048), expected);
    },
  });

  Deno.test({
    name: `qemu-io reads our patterns, ${backend} backend`,
    ...needs("qemu-io"),
    async fn() {
      await using dir = await tempDir();
      const path = dir.join("disk.img");
      {
        await using disk = await VirtualDisk.create(path, {
          sectors: 2048,
          backend,
        });
        await disk.write(8, new Uint8Array(8192).fill(0xa5));
        await disk.write(2047, new Uint8Array(512).fill(0x77), { fua: true });
        await disk.write(100, new Uint8Array(65_536).fill(0x42));
        await disk.writeZeroes(110, 3, { unmap: true });
        await disk.writeZeroes(120, 8);
        await disk.flush();
      }
      const output = await qemuIo(path, [
        "read -P 0xa5 4096 8192",
        "read -P 0 0 4096",
        "read -P 0x77 1048064 512",
        "read -P 0x42 51200 5120",
        "read -P 0 56320 1536",
        "read -P 0x42 57856 3584",
        "read -P 0 61440 4096",
        "read -P 0x42 65536 51200",
      ], "-r");
      assert(!output.includes("Pattern verification failed"), output);
      // And it would have said so: the check can fail.
      const wrong = await new Deno.Command("qemu-io", {
        args: ["-f", "raw", "-r", "-c", "read -P 1 4096 512", path],
      }).output();
      assertStringIncludes(
        new TextDecoder().decode(wrong.stdout),
        "Pattern verification failed",
      );
    },
  });

  Deno.test({
    name:
      `qemu-img and cmp find our copy of an image the same, ${backend} backend`,
    ...needs("qemu-img", "cmp"),
    async fn() {
      await using dir = await tempDir();
      const content = new Random(11).bytes(2 * MIB);
      content.fill(0, 300_000, 1_500_000);
      const from = await dir.file("from.img", content);
      const to = dir.join("to.img");
      {
        await using source = await VirtualDisk.open(from, {
          backend,
          readOnly: true,
        });
        await using target = await VirtualDisk.create(to, {
          sectors: source.sectors,
          backend,
        });
        await source.readable({ chunkSectors: 33 }).pipeTo(
          target.writable({ chunkSectors: 100 }),
        );
      }
      await run("cmp", [from, to]);
      assertStringIncludes(
        await run("qemu-img", ["compare", "-f", "raw", "-F", "raw", from, to]),
        "identical",
      );
      const info = JSON.parse(
        await run("qemu-img", ["info", "-f", "raw", "--output=json", to]),
      );
      assertEquals(info["virtual-size"], 2 * MIB);
      {
        await using disk = await VirtualDisk.open(to, { backend });
        const sector = await disk.read(4000, 1);
        sector[511]! ^= 1;
        await disk.write(4000, sector);
      }
      assertMatch(await refusal("cmp", [from, to]), /exits with 1/);
    },
  });

  Deno.test({
    name: `An image that qemu-img converted is read, ${backend} backend`,
    ...needs("qemu-img"),
    async fn() {
      await using dir = await tempDir();
      const content = new Random(12).bytes(MIB);
      const raw = await dir.file("raw.img", content);
      const qcow2 = dir.join("disk.qcow2");
      const back = dir.join("back.img");
      await run("qemu-img", [
        "convert",
        "-f",
        "raw",
        "-O",
        "qcow2",
        raw,
        qcow2,
      ]);
      await run("qemu-img", ["convert", "-O", "raw", qcow2, back]);
      await using disk = await VirtualDisk.open(back, { backend });
      assertEquals(await disk.read(0, 2048), content);
    },
  });
}

// Locks

Deno.test({
  name: "QEMU's tools are kept out while we write, and let in to read",
  ...needs("qemu-io", "qemu-img"),
  ignore: !LINUX || needs("qemu-io", "qemu-img").ignore,
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", MIB);
    const disk = await VirtualDisk.open(path, { backend: "direct" });
    await using _ = disk;
    assertEquals(disk.info.lock.method, "OFD");
    const io = ["-f", "raw", "-c", "write 0 512", path];
    assertMatch(await refusal("qemu-io", io), /Failed to get "write" lock/);
    const convert = ["convert", "-f", "raw", "-O", "raw"];
    const copy = dir.join("copy.img");
    assertMatch(
      await refusal("qemu-img", [...convert, path, copy]),
      /Failed to get shared "write" lock/,
    );
    assertMatch(
      await refusal("qemu-img", ["resize", "-f", "raw", path, "2M"]),
      /Failed to get "(write|resize)" lock/,
    );
    await qemuIo(path, ["read 0 512"], "-r");
    await run("qemu-img", ["info", "-f", "raw", path]);
    await disk.write(0, new Uint8Array(512).fill(1));
    await disk.close();
    await qemuIo(path, ["write 0 512"]);
    await run("qemu-img", [...convert, path, copy]);
  },
});

Deno.test({
  name: "QEMU's tools are let in while we only read",
  ignore: !LINUX || needs("qemu-io", "qemu-img").ignore,
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", MIB);
    await using disk = await VirtualDisk.open(path, {
      backend: "direct",
      readOnly: true,
    });
    await qemuIo(path, ["write -P 9 0 512"]);
    assertEquals((await disk.read(0, 1))[0], 9);
    const copy = dir.join("copy.img");
    await run("qemu-img", ["convert", "-f", "raw", "-O", "raw", path, copy]);
  },
});

Deno.test({
  name:
    "A reader with an exclusive lock keeps QEMU's writers out, not its readers",
  ignore: !LINUX || needs("qemu-io", "qemu-img").ignore,
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", MIB);
    await using _disk = await VirtualDisk.open(path, {
      backend: "direct",
      readOnly: true,
      lock: "exclusive",
    });
    const io = ["-f", "raw", "-c", "write 0 512", path];
    assertMatch(await refusal("qemu-io", io), /Failed to get "write" lock/);
    await qemuIo(path, ["read 0 512"], "-r");
  },
});

Deno.test({
  name: "VirtualDisk.open() is refused while QEMU writes, and names who it is",
  ignore: !LINUX || needs("qemu-io").ignore,
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", MIB);
    {
      await using holder = await holding(path);
      const error = await assertRejects(
        () => VirtualDisk.open(path, { backend: "direct" }),
        DiskError,
      );
      assertEquals(error.kind, "locked");
      assertStringIncludes(error.message, `qemu-io (process ${holder.pid})`);
      assertStringIncludes(error.message, path);
      const { kind } = await assertRejects(
        () =>
          VirtualDisk.create(path, {
            sectors: 8,
            overwrite: true,
            backend: "direct",
          }),
        DiskError,
      );
      assertEquals(kind, "locked");
      assertEquals((await Deno.stat(path)).size, MIB);
      // A reader is let in, and so is whoever knows better.
      await using reader = await VirtualDisk.open(path, {
        backend: "direct",
        readOnly: true,
      });
      await reader.read(0, 1);
      await using careless = await VirtualDisk.open(path, {
        backend: "direct",
        lock: "none",
      });
      await careless.write(0, new Uint8Array(512));
    }
    await using disk = await VirtualDisk.open(path, { backend: "direct" });
    await disk.write(0, new Uint8Array(512));
  },
});

Deno.test({
  name: "VirtualDisk.open() writes beside a QEMU that only reads",
  ignore: !LINUX || needs("qemu-io").ignore,
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", MIB);
    await using _holder = await holding(path, "-r");
    await using disk = await VirtualDisk.open(path, { backend: "direct" });
    await disk.write(0, new Uint8Array(512));
  },
});

Deno.test({
  name: "VirtualDisk.open() names this process as the holder of its own lock",
  ignore: !LINUX,
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", MIB);
    await using _holder = await VirtualDisk.open(path, { backend: "direct" });
    const error = await assertRejects(
      () => VirtualDisk.open(path, { backend: "direct" }),
      DiskError,
    );
    assertEquals(error.kind, "locked");
    assertMatch(error.message, new RegExp(`\\(process ${Deno.pid}\\)`));
  },
});

// File systems and partition tables

/** The file system's magic number in what a disk shows. */
async function fileSystemOf(disk: VirtualDisk): Promise<string> {
  const bytes = await disk.read(0, 8);
  const view = new DataView(bytes.buffer);
  // ext4: s_magic at 0x38 of the superblock at 1,024.
  if (view.getUint16(1024 + 0x38, true) === 0xef53) return "ext4";
  const text = new TextDecoder("latin1").decode(bytes);
  if (text.startsWith("XFSB")) return "xfs";
  if (/FAT(12|16|32)/.test(text.slice(54, 90))) return "vfat";
  return "none";
}

const MAKERS = [
  ["ext4", ["-q", "-F"]],
  ["vfat", []],
] as const;

for (const [fileSystem, args] of MAKERS) {
  const tool = `mkfs.${fileSystem}`;

  Deno.test({
    name: `${tool}'s image is a disk with a file system`,
    ...needs(tool),
    async fn() {
      await using dir = await tempDir();
      const path = await dir.file("disk.img", 16 * MIB);
      await run(tool, [...args, path]);
      for (const backend of BACKENDS) {
        await using disk = await VirtualDisk.open(path, {
          backend,
          readOnly: true,
        });
        assertEquals(await fileSystemOf(disk), fileSystem);
      }
    },
  });

  Deno.test({
    name:
      `fsck finds ${fileSystem} whole that we put into a partition and took out`,
    ...needs(tool, `fsck.${fileSystem}`),
    async fn() {
      await using dir = await tempDir();
      const path = await dir.file("fs.img", 16 * MIB);
      await run(tool, [...args, path]);
      const out = dir.join("out.img");
      {
        await using source = await VirtualDisk.open(path, { readOnly: true });
        await using whole = await VirtualDisk.create(dir.join("disk.img"), {
          sectors: 40 * 2048,
        });
        const partition = whole.slice(4 * 2048, source.sectors);
        await source.readable().pipeTo(partition.writable());
        assertEquals(await fileSystemOf(partition), fileSystem);
        assertEquals(await fileSystemOf(whole), "none");
        await using target = await VirtualDisk.create(out, {
          sectors: source.sectors,
        });
        await partition.readable().pipeTo(target.writable());
      }
      await run(`fsck.${fileSystem}`, ["-n", out]);
      assertEquals(await Deno.readFile(out), await Deno.readFile(path));
    },
  });
}

/** Two partitions: 8 MiB from 1 MiB on, 16 MiB from 16 MiB on. */
const PARTITIONS = [[2048, 16_384], [32_768, 32_768]] as const;

Deno.test({
  name: "sfdisk's partitions are slices that begin where it says",
  ...needs("sfdisk", "mkfs.ext4", "mkfs.vfat"),
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", 64 * MIB);
    const script = await dir.file(
      "script",
      new TextEncoder().encode(
        "label: dos\n" +
          PARTITIONS.map(([start, size]) => `start=${start}, size=${size}\n`)
            .join(""),
      ),
    );
    await run("sh", ["-c", 'sfdisk -q "$0" < "$1"', path, script]);
    const parts: string[] = [];
    for (const [i, [, size]] of PARTITIONS.entries()) {
      parts.push(await dir.file(`part${i}.img`, size * 512));
    }
    await run("mkfs.ext4", ["-q", "-F", parts[0]!]);
    await run("mkfs.vfat", [parts[1]!]);
    await using disk = await VirtualDisk.open(path);
    // The table of a master boot record: 16 bytes each, from 446 on.
    const record = new DataView((await disk.read(0, 1)).buffer);
    assertEquals(record.getUint16(510, true), 0xaa55);
    for (const [i, wanted] of PARTITIONS.entries()) {
      const start = record.getUint32(446 + i * 16 + 8, true);
      const size = record.getUint32(446 + i * 16 + 12, true);
      assertEquals([start, size], [...wanted]);
      const slice = disk.slice(start, size);
      await using part = await VirtualDisk.open(parts[i]!, { readOnly: true });
      await part.readable().pipeTo(slice.writable());
      assertEquals(await fileSystemOf(slice), ["ext4", "vfat"][i]!);
    }
    await disk.close();
    await run("sh", ["-c", 'sfdisk -q --verify "$0"', path]);
  },
});

Deno.test({
  name: "sgdisk finds nothing wrong with a table that we copied",
  ...needs("sgdisk"),
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", 64 * MIB);
    await run("sgdisk", [
      ...PARTITIONS.flatMap(([start, size], i) => [
        "-n",
        `${i + 1}:${start}:${start + size - 1}`,
      ]),
      path,
    ]);
    const copy = dir.join("copy.img");
    {
      await using source = await VirtualDisk.open(path, { readOnly: true });
      await using target = await VirtualDisk.create(copy, {
        sectors: source.sectors,
        blockSize: 4096,
      });
      // GUID partition table: entries of 128 bytes from sector 2 on.
      const entries = new DataView((await source.read(2, 1)).buffer);
      for (const [i, [start, size]] of PARTITIONS.entries()) {
        const at = i * 128;
        const first = Number(entries.getBigUint64(at + 32, true));
        const last = Number(entries.getBigUint64(at + 40, true));
        assertEquals([first, last], [start, start + size - 1]);
        const slice = source.slice(first, last - first + 1);
        assertEquals(await fileSystemOf(slice), "none");
      }
      await source.readable().pipeTo(target.writable());
    }
    assertMatch(await run("sgdisk", ["-v", copy]), /No problems found/);
  },
});
