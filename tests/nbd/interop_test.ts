/**
 * Interop: the server before clients that nobody here wrote: libnbd's tools,
 * qemu's, fio, nbdkit's filters, and file systems of the kernel.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { SECTOR_BYTES } from "../../src/geometry.ts";
import { Random } from "../../src/random.ts";
import { mount, needs, run, tempDir } from "../helpers.ts";
import { mountNbdfuse, type Served, serveDisk } from "./harness.ts";

const MIB = 1 << 20;

/** A disk and, if it has one, the folder of its image. */
interface Made extends AsyncDisposable {
  readonly disk: VirtualDisk;
}

/** Makes a disk in memory, or over an image: direct where that is to be had. */
async function makeDisk(
  medium: "memory" | "image",
  sizeBytes: number,
): Promise<Made> {
  const sectors = sizeBytes / SECTOR_BYTES;
  if (medium === "memory") {
    const disk = VirtualDisk.memory({ sectors });
    return { disk, [Symbol.asyncDispose]: () => disk.close() };
  }
  const dir = await tempDir();
  const disk = await VirtualDisk.create(dir.join("disk.img"), { sectors });
  return {
    disk,
    async [Symbol.asyncDispose]() {
      await disk.close();
      await dir[Symbol.asyncDispose]();
    },
  };
}

/** Some data with holes and zeroes in it. */
function content(sizeBytes: number, seed: number): Uint8Array<ArrayBuffer> {
  const random = new Random(seed);
  const bytes = new Uint8Array(sizeBytes);
  for (let at = 0; at < sizeBytes;) {
    const size = Math.min(random.between(1, 300) * 4096, sizeBytes - at);
    if (random.chance(1, 2)) bytes.set(random.bytes(size), at);
    at += size;
  }
  return bytes;
}

Deno.test({
  name: "nbdinfo sees what the disk is, and its holes",
  ...needs("nbdinfo"),
  async fn() {
    const disk = VirtualDisk.memory({ sectors: 2 * MIB / 512 });
    await disk.write(1024, new Uint8Array(65_536).fill(1));
    await using served = await serveDisk(disk, {
      exports: [{ disk, description: "a test" }, {
        disk,
        name: "r/o é",
        readOnly: true,
      }],
    });
    const { exports: [info] } = JSON.parse(
      await run("nbdinfo", ["--json", served.uri]),
    );
    assertEquals(info["export-size"], 2 * MIB);
    assertEquals(info.description, "a test");
    assertEquals(info.contexts, ["base:allocation"]);
    for (
      const can of [
        "can_cache",
        "can_df",
        "can_fast_zero",
        "can_flush",
        "can_fua",
        "can_multi_conn",
        "can_trim",
        "can_zero",
      ]
    ) assertEquals(info[can], true, can);
    assertEquals(
      [info.block_size_minimum, info.block_size_preferred],
      [1, 4096],
    );
    const all = JSON.parse(
      await run("nbdinfo", ["--list", "--json", served.uri]),
    );
    assertEquals(
      all.exports.map((one: Record<string, unknown>) => one["export-name"]),
      ["", "r/o é"],
    );
    const map = JSON.parse(
      await run("nbdinfo", ["--map", "--json", served.uri]),
    );
    assertEquals(
      map.map((one: Record<string, number>) => [
        one.offset,
        one.length,
        one.type,
      ]),
      (await disk.extents()).map(({ sector, count, hole }) => [
        sector * SECTOR_BYTES,
        count * SECTOR_BYTES,
        hole ? 3 : 0,
      ]),
    );
    await run("nbdinfo", ["--is", "read-only", served.server.uri("r/o é")]);
    assertEquals(served.faults, []);
  },
});

for (const medium of ["memory", "image"] as const) {
  Deno.test({
    name: `nbdcopy copies to and from a disk of ${medium}`,
    ...needs("nbdcopy"),
    async fn() {
      const size = 24 * MIB;
      await using made = await makeDisk(medium, size);
      await using served = await serveDisk(made.disk);
      const bytes = content(size, 3);
      const from = await served.dir.file("from.img", bytes);
      const to = served.dir.join("to.img");
      await run("nbdcopy", [from, served.uri, "--flush"]);
      assertEquals(await hashOfDisk(made.disk), await hash(bytes));
      for (const args of [[], ["--synchronous"], ["--request-size=4096"]]) {
        await run("nbdcopy", [...args, served.uri, to]);
        assertEquals(await hash(await Deno.readFile(to)), await hash(bytes));
        await Deno.remove(to);
      }
      assertEquals(served.faults, []);
    },
  });

  Deno.test({
    name: `qemu-img converts, compares, maps and measures a disk of ${medium}`,
    ...needs("qemu-img"),
    async fn() {
      const size = 24 * MIB;
      await using made = await makeDisk(medium, size);
      await using served = await serveDisk(made.disk);
      const bytes = content(size, 4);
      const from = await served.dir.file("from.img", bytes);
      const to = served.dir.join("to.qcow2");
      const { uri } = served;
      const raw = ["-f", "raw"];
      await run("qemu-img", ["convert", "-n", ...raw, "-O", "raw", from, uri]);
      assertEquals(await hashOfDisk(made.disk), await hash(bytes));
      await run("qemu-img", ["compare", ...raw, "-F", "raw", from, uri]);
      await run("qemu-img", ["convert", ...raw, "-O", "qcow2", uri, to]);
      await run("qemu-img", ["compare", ...raw, "-F", "qcow2", uri, to]);
      const map = JSON.parse(
        await run("qemu-img", ["map", "--output=json", ...raw, uri]),
      );
      for (const { start, length, zero } of map) {
        if (!zero) continue;
        assert(
          bytes.subarray(start, start + length).every((byte) => byte === 0),
        );
      }
      for (const args of [[], ["-w"], ["-w", "--flush-interval=64"]]) {
        await run("qemu-img", [
          "bench",
          ...args,
          "-c",
          "512",
          "-d",
          "32",
          ...raw,
          uri,
        ]);
      }
      assertEquals(served.faults, []);
    },
  });

  Deno.test({
    name: `qemu-io finds its patterns on a disk of ${medium}`,
    ...needs("qemu-io"),
    async fn() {
      await using made = await makeDisk(medium, 16 * MIB);
      await using served = await serveDisk(made.disk);
      const commands = [
        "write -P 0x11 0 1M",
        "write -P 0x22 1M 3M",
        "read -P 0x11 0 1M",
        "read -P 0x22 1M 3M",
        "write -z 1536k 512k",
        "read -P 0 1536k 512k",
        "read -P 0x22 1M 512k",
        "write -z -u 64k 64k",
        "read -P 0 64k 64k",
        "read -P 0x11 128k 128k",
        "write -f -P 0x33 512 512",
        "read -P 0x33 512 512",
        "read -P 0x11 1024 512",
        "aio_write -P 0x44 4M 1M",
        "aio_write -P 0x55 5M 1M",
        "aio_flush",
        "read -P 0x44 4M 1M",
        "read -P 0x55 5M 1M",
        "writev -P 0x66 6M 4k 12k 64k",
        "read -P 0x66 6M 80k",
        "discard 4M 1M",
        "read -P 0x55 5M 1M",
        "write -P 0x77 777 99",
        "read -P 0x77 777 99",
        "flush",
      ];
      const output = await run("qemu-io", [
        "-f",
        "raw",
        "-t",
        "writeback",
        ...commands.flatMap((command) => ["-c", command]),
        served.uri,
      ]);
      assert(!/fail|error|invalid/i.test(output), output);
      assertEquals(served.faults, []);
    },
  });

  Deno.test({
    name: `fio verifies what several connections wrote to a disk of ${medium}`,
    ...needs("fio"),
    async fn() {
      await using made = await makeDisk(medium, 64 * MIB);
      await using served = await serveDisk(made.disk);
      await run("fio", [
        "--name=verify",
        "--ioengine=nbd",
        `--uri=${served.uri}`,
        "--rw=randwrite",
        "--bssplit=4k/60:16k/20:64k/20",
        "--iodepth=32",
        "--numjobs=4",
        "--size=12m",
        "--offset_increment=16m",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--do_verify=1",
        "--randrepeat=1",
      ]);
      assertEquals(served.faults, []);
      assertEquals(served.server.counters.errors, 0);
      assert(served.server.counters.connections >= 4);
    },
  });
}

Deno.test({
  name: "nbdkit's filters find nothing wrong with the server",
  ...needs("nbdkit", "nbdcopy"),
  async fn() {
    const size = 8 * MIB;
    const disk = VirtualDisk.memory({ sectors: size / SECTOR_BYTES });
    await using served = await serveDisk(disk);
    const from = await served.dir.file("from.img", content(size, 5));
    await run("nbdcopy", [from, served.uri]);
    // checkwrite fails writes, trims and zeroes that are not there already.
    await run("nbdkit", [
      "-U",
      "-",
      "--filter=checkwrite",
      "nbd",
      `uri=${served.uri}`,
      "--run",
      `nbdcopy "${from}" "$uri"`,
    ]);
    // The same through every other way of talking about it.
    for (
      const filter of [
        "noextents",
        "nozero",
        "fua",
        "noparallel",
        "readahead",
        "cow",
        "blocksize",
      ]
    ) {
      await run("nbdkit", [
        "-U",
        "-",
        `--filter=${filter}`,
        "nbd",
        `uri=${served.uri}`,
        "--run",
        `nbdcopy "${from}" "$uri" && nbdcopy "$uri" - | cmp - "${from}"`,
      ]);
    }
    assertEquals(served.faults, []);
  },
});

const FILE_SYSTEMS: [string, string[], string[]][] = [
  ["ext4", ["mkfs.ext4", "-q", "-F"], ["e2fsck", "-fn"]],
  ["xfs", ["mkfs.xfs", "-q", "-f"], ["xfs_repair", "-n"]],
  ["btrfs", ["mkfs.btrfs", "-q", "-f"], ["btrfs", "check"]],
];

for (const [name, make, check] of FILE_SYSTEMS) {
  Deno.test({
    name: `the kernel's ${name} lives on a served disk`,
    ...needs("root", "nbdfuse", "losetup", "fusermount3", make[0]!, check[0]!),
    async fn() {
      const size = 512 * MIB;
      const disk = VirtualDisk.memory({ sectors: size / SECTOR_BYTES });
      await using served = await serveDisk(disk);
      await using stack = new AsyncDisposableStack();
      const { device } = await attach(served, stack);
      const run2 = (command: readonly string[], ...more: string[]) =>
        run(command[0]!, [...command.slice(1), ...more]);
      await run2(make, device);
      const random = new Random(6);
      const files = Array.from({ length: 40 }, (_, i) => ({
        name: `file ${i}`,
        bytes: random.bytes(random.between(1, 200_000)),
      }));
      {
        await using place = await mount(device, served.dir.join("mnt"));
        for (const file of files) {
          await Deno.writeFile(place.join(file.name), file.bytes);
        }
        for (const file of files.splice(0, 10)) {
          await Deno.remove(place.join(file.name));
        }
        await run("sync", ["-f", place.path]);
        await run("fstrim", [place.path]).catch(() => {});
      }
      await run("blockdev", ["--flushbufs", device]);
      await run2(check, device);
      {
        await using place = await mount(device, served.dir.join("mnt"));
        for (const file of files) {
          const back = await Deno.readFile(place.join(file.name));
          assertEquals(await hash(back), await hash(file.bytes), file.name);
        }
      }
      assert(disk.counters.flushes > 0, "nothing was flushed");
      assertEquals(served.faults, []);
      assertEquals(served.server.counters.errors, 0);
    },
  });
}

/** A loop device over nbdfuse over the server. */
async function attach(
  served: Served,
  stack: AsyncDisposableStack,
): Promise<{ device: string }> {
  const disk = await mountNbdfuse(served, stack);
  const device = (await run("losetup", ["--show", "-f", disk]))
    .trim();
  stack.defer(() => run("losetup", ["-d", device]).then(() => {}));
  return { device };
}

async function hash(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)).toHex();
}

async function hashOfDisk(disk: VirtualDisk): Promise<string> {
  return await hash(await disk.read(0, disk.sectors));
}
