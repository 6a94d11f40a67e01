/**
 * Drivers that nobody here wrote, on disks of ours: Debian's kernel under QEMU,
 * which boots from one of them, and User Mode Linux. Their file systems are
 * checked here by their own tools.
 *
 * It takes minutes, and fetches a kernel by apt, so that it runs when it is asked
 * for: `deno task guests`.
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertMatch,
  assertStringIncludes,
} from "@std/assert";
import type { Guest } from "../../../src/crash/guests/guest.ts";
import { umlStage } from "../../../src/crash/stages/uml.ts";
import { canTry } from "../../crash/guests/guest_stages.ts";
import { needs, pause, run, type TempDir, tempDir } from "../../helpers.ts";
import { MortalServer } from "./mortal_server.ts";
import { startQemu } from "./qemu_guest.ts";
import { GUEST_TOOLS, rootImage } from "./root_image.ts";
import { ServedDisk } from "./served_disk.ts";
import { startUml } from "./uml_guest.ts";

// Both guests are for this processor.
const WANTED = Deno.env.get("PLATTER_GUESTS") === "1" &&
  Deno.build.os === "linux" && Deno.build.arch === "x86_64";

const MIB = 1 << 20;

/** How long a boot from a sector may take, in ms. */
const BOOT_MS = 120_000;

/** Room for the smallest XFS, of 300 MiB. */
const DISK_BYTES = 384 * MIB;

/** A file system: how it is made, and how it is checked without being mounted. */
interface FileSystem {
  readonly name: string;
  readonly device: string;
  readonly make: string;
  readonly check: readonly [string, ...string[]];
}

const FILE_SYSTEMS: readonly FileSystem[] = [
  {
    name: "ext4",
    device: "vdb",
    make: "mkfs.ext4 -q -F",
    check: ["e2fsck", "-fn"],
  },
  {
    name: "xfs",
    device: "vdc",
    make: "mkfs.xfs -q -f",
    check: ["xfs_repair", "-n"],
  },
  {
    name: "btrfs",
    device: "vdd",
    make: "mkfs.btrfs -q -f",
    check: ["btrfs", "check", "--force"],
  },
];

/** Writes and verifies on both processors, with many requests in flight. */
const FIO = [
  "fio --minimal --name=verify --directory=/tmp/mnt --numjobs=2",
  "--ioengine=libaio --direct=1 --iodepth=16 --size=12m",
  "--rw=randrw --bsrange=4k-128k --verify=crc32c --verify_fatal=1",
  "--fsync=64 --unlink=0 --group_reporting",
].join(" ");

/** An image, and the disk over it. */
async function serve(
  dir: TempDir,
  name: string,
): Promise<ServedDisk> {
  const image = await dir.file(`${name}.img`, DISK_BYTES);
  return await ServedDisk.open(image, dir.join(`${name}.sock`));
}

Deno.test({
  name: "QEMU's Linux boots from a disk of ours, and finds others sound",
  ignore: !WANTED || needs(
    "apt-get",
    "busybox",
    "dpkg-deb",
    "e2fsck",
    "ldd",
    "qemu-system-x86_64",
    "xfs_repair",
    "btrfs",
    ...GUEST_TOOLS,
  ).ignore,
  async fn(t) {
    await using stack = new AsyncDisposableStack();
    const dir = stack.use(await tempDir());
    const root = stack.use(
      await ServedDisk.open(await rootImage(dir.path), dir.join("root.sock"), {
        readOnly: true,
      }),
    );
    const disks = new Map<string, ServedDisk>();
    for (const { device } of FILE_SYSTEMS) {
      disks.set(device, stack.use(await serve(dir, device)));
    }
    const guest = stack.use(
      await startQemu({
        directory: dir.path,
        sockets: [root, ...disks.values()].map(({ server }) => server.path),
      }),
    );
    const step = (name: string, body: () => Promise<void>) =>
      takeStep(t, name, body);

    await step("the root is ours, and read-only", async () => {
      assert(root.counts.reads > 0);
      assertEquals(root.counts.writes, 0);
      const mounts = await guest.run("cat /proc/mounts");
      assertMatch(mounts, /^\/dev\/vda \/ ext4 ro/m);
      assertEquals(await guest.run("cat /sys/block/vda/ro"), "1");
      const { code } = await guest.try("dd if=/dev/zero of=/dev/vda count=1");
      assert(code !== 0);
    });
    await step("size, limits and serial are those of the disk", async () => {
      await checkShape(guest, disks.get("vdb")!);
    });
    await step("the write cache goes off and on by sysfs", async () => {
      await checkWriteCache(guest, disks.get("vdb")!);
    });
    await step("an error reaches the request that it is of", async () => {
      await checkError(guest, disks.get("vdd")!);
    });
    for (const fileSystem of FILE_SYSTEMS) {
      await step(`${fileSystem.name} is made, used and used again`, () => {
        return useFileSystem(guest, fileSystem, disks.get(fileSystem.device)!);
      });
    }
    await step("a disk that grows is larger in the guest at once", async () => {
      const disk = disks.get("vdd")!;
      const sectors = disk.info.sectors + 64 * MIB / 512;
      await disk.resize(sectors);
      const size = "cat /sys/block/vdd/size";
      await guest.run(
        `for i in $(seq 300); do [ $(${size}) = ${sectors} ] && break; sleep 0.1; done`,
      );
      assertEquals(await guest.run(size), String(sectors));
      const last = `seek=${sectors - 8} oflag=direct conv=notrunc`;
      await guest.run(`dd if=/dev/zero of=/dev/vdd bs=512 count=8 ${last}`);
    });
    await step("the guest stops", () => guest.stop());
    for (const { name, device, check: [command, ...args] } of FILE_SYSTEMS) {
      await step(`${name} is sound without the guest`, async () => {
        await disks.get(device)![Symbol.asyncDispose]();
        await run(command, [...args, dir.join(`${device}.img`)]);
      });
    }
  },
});

/** Writes, flushes and verifies on all of a device, with many in flight. */
const FIO_OVER_RESTARTS = [
  "fio --minimal --name=verify --filename=/dev/vdb --numjobs=1",
  "--ioengine=libaio --direct=1 --iodepth=32 --size=48m",
  "--rw=randwrite --bsrange=4k-64k --verify=crc32c --verify_fatal=1",
  "--fsync=32 --rate=4m --do_verify=1",
].join(" ");

/** Times that the device is killed meanwhile, at most. */
const RESTARTS = 4;

Deno.test({
  name: "QEMU's Linux loses nothing while its disk is killed and served again",
  ignore: !WANTED || needs(
    "apt-get",
    "busybox",
    "dpkg-deb",
    "ldd",
    "qemu-system-x86_64",
    ...GUEST_TOOLS,
  ).ignore,
  async fn(t) {
    await using stack = new AsyncDisposableStack();
    const dir = stack.use(await tempDir());
    const root = stack.use(
      await ServedDisk.open(await rootImage(dir.path), dir.join("root.sock"), {
        readOnly: true,
      }),
    );
    const image = await dir.file("mortal.img", 64 * MIB);
    const socket = dir.join("mortal.sock");
    const server = stack.use(await MortalServer.start(image, socket));
    const guest = stack.use(
      await startQemu({
        directory: dir.path,
        sockets: [root.server.path],
        args: [
          ...["-chardev", `socket,id=mortal,path=${socket},reconnect=1`],
          ...["-device", "vhost-user-blk-pci,chardev=mortal,num-queues=2"],
        ],
      }),
    );
    const step = (name: string, body: () => Promise<void>) =>
      takeStep(t, name, body);

    await step("what was written and verified over restarts", async () => {
      let over = false;
      const verified = guest.run(FIO_OVER_RESTARTS).finally(() => over = true);
      // Where a process takes long to start, all is written earlier.
      let restarts = 0;
      for (; restarts < RESTARTS; restarts++) {
        await pause(2000);
        if (over) break;
        await server.restart();
      }
      await verified;
      assert(restarts >= 2, "the device was to be killed in the middle");
    });
    await step("a file has one sum in the guest and on the host", async () => {
      const writing = guest.run(
        "/usr/bin/dd if=/dev/urandom of=/dev/vdb bs=64k count=512 oflag=direct conv=fsync",
      );
      await pause(500);
      await server.restart();
      await writing;
      const sum = (text: string) => text.trim().split(/\s+/)[0];
      const here = sum(
        await run("sh", ["-c", `head -c ${32 * MIB} ${image} | sha256sum`]),
      );
      await server.restart();
      const there = sum(
        await guest.run(
          "/usr/bin/dd if=/dev/vdb bs=64k count=512 iflag=direct status=none | sha256sum",
        ),
      );
      assertEquals(there, here);
    });
    await step("the kernel heard of no error", async () => {
      const messages = await guest.run("dmesg");
      assertEquals(messages.match(/I\/O error.*vdb/g), null);
    });
    await step("the guest stops", () => guest.stop());
  },
});

/** Says what the second sector of the disk holds over the serial port, and leaves. */
const BOOT_SECTOR = Uint8Array.of(
  ...[0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0], // ds = es = 0
  // int 13h: read one sector, the second one, of the disk in dl to 0:7e00.
  ...[0xb8, 0x01, 0x02, 0xbb, 0x00, 0x7e, 0xb9, 0x02, 0x00, 0xb6, 0x00],
  ...[0xcd, 0x13],
  ...[0xbe, 0x00, 0x7e, 0xfc], // si = 7e00, upwards
  // Each byte to port 3f8, up to a zero.
  ...[0xac, 0x84, 0xc0, 0x74, 0x06, 0xba, 0xf8, 0x03, 0xee, 0xeb, 0xf5],
  ...[0xb0, 0x10, 0xba, 0xf4, 0x00, 0xee], // 10h to port f4, isa-debug-exit
  ...[0xf4, 0xeb, 0xfd],
);

Deno.test({
  name: "SeaBIOS boots from a disk of ours",
  ignore: !WANTED || needs("qemu-system-x86_64").ignore,
  async fn() {
    await using stack = new AsyncDisposableStack();
    const dir = stack.use(await tempDir());
    const image = await dir.file("boot.img", MIB);
    const text = "booted by a sector of ours";
    const sectors = new Uint8Array(1024);
    sectors.set(BOOT_SECTOR);
    sectors.set([0x55, 0xaa], 510);
    new TextEncoder().encodeInto(text, sectors.subarray(512));
    {
      using file = await Deno.open(image, { write: true });
      await file.write(sectors);
    }
    const disk = stack.use(await ServedDisk.open(image, dir.join("boot.sock")));
    const { code, stdout, stderr } = await new Deno.Command(
      "qemu-system-x86_64",
      {
        args: [
          ...["-machine", "accel=tcg", "-m", "64M", "-nodefaults"],
          ...["-nographic", "-no-reboot", "-monitor", "none"],
          ...["-object", "memory-backend-memfd,id=memory,size=64M,share=on"],
          ...["-numa", "node,memdev=memory", "-serial", "stdio"],
          ...["-device", "isa-debug-exit,iobase=0xf4,iosize=4"],
          ...["-chardev", `socket,id=disk,path=${disk.server.path}`],
          ...["-device", "vhost-user-blk-pci,chardev=disk,bootindex=0"],
        ],
        stdin: "null",
        // Whoever boots from nothing stays there.
        signal: AbortSignal.timeout(BOOT_MS),
      },
    ).output();
    const [said, errors] = [stdout, stderr].map((bytes) =>
      new TextDecoder().decode(bytes)
    );
    // isa-debug-exit: what was written, times two, and one.
    assertEquals(code, 0x21, errors);
    assertStringIncludes(said!, text);
    assert(disk.counts.reads >= 2);
  },
});

/** A step of a test; the steps after one that failed would fail as well. */
async function takeStep(
  t: Deno.TestContext,
  name: string,
  fn: () => Promise<void>,
): Promise<void> {
  const options = { name, fn, sanitizeOps: false, sanitizeResources: false };
  if (!await t.step(options)) throw new Error(`Failed where ${name}`);
}

/** What the guest sees of a disk, by sysfs, ioctls and lsblk. */
async function checkShape(guest: Guest, disk: ServedDisk): Promise<void> {
  const { info } = disk;
  const sys = (name: string) => guest.run(`cat /sys/block/vdb/${name}`);
  assertEquals(Number(await sys("size")), info.sectors);
  assertEquals(Number(await sys("queue/logical_block_size")), info.blockSize);
  assertEquals(
    Number(await sys("queue/physical_block_size")),
    info.physicalBlockSize,
  );
  assertEquals(await sys("ro"), "0");
  assertEquals(await sys("serial"), info.id);
  assertEquals((await guest.run("ls /sys/block/vdb/mq")).split(/\s+/), [
    "0",
    "1",
  ]);
  assert(Number(await sys("queue/discard_max_bytes")) > 0);
  assert(Number(await sys("queue/write_zeroes_max_bytes")) > 0);
  const columns = "NAME,SIZE,LOG-SEC,PHY-SEC,RO,TYPE";
  assertEquals(
    (await guest.run(`lsblk -bdnr -o ${columns} /dev/vdb`)).split(" "),
    [
      "vdb",
      String(info.sectors * 512),
      String(info.blockSize),
      String(info.physicalBlockSize),
      "0",
      "disk",
    ],
  );
  const topology = await guest.run("blkid -i -o export /dev/vdb");
  assertStringIncludes(topology, `LOGICAL_SECTOR_SIZE=${info.blockSize}`);
  assertStringIncludes(
    topology,
    `PHYSICAL_SECTOR_SIZE=${info.physicalBlockSize}`,
  );
  assertStringIncludes(
    await guest.run("hdparm -g /dev/vdb"),
    `sectors = ${info.sectors}`,
  );
}

/** Linux flushes a cache that it knows of, and does not one that is off. */
async function checkWriteCache(guest: Guest, disk: ServedDisk): Promise<void> {
  const mode = "/sys/block/vdb/cache_type";
  const write = async () => {
    disk.startCounting();
    await guest.run(
      "/usr/bin/dd if=/dev/zero of=/dev/vdb bs=4096 count=16 oflag=direct conv=fsync",
    );
    return disk.counts;
  };
  assertEquals(await guest.run(`cat ${mode}`), "write back");
  const cached = await write();
  assertEquals(cached.writes, 16);
  assertEquals(cached.durableWrites, 0);
  assertEquals(cached.flushes, 1);

  disk.startCounting();
  await guest.run(`echo "write through" > ${mode}`);
  // What was written before is durable, too, when the cache is off.
  assertEquals(disk.counts.flushes, 1);
  assertEquals(await guest.run(`cat ${mode}`), "write through");
  const through = await write();
  assertEquals(through.writes, 16);
  assertEquals(through.durableWrites, 16);
  assertEquals(through.flushes, 0);

  await guest.run(`echo "write back" > ${mode}`);
  assertEquals((await write()).durableWrites, 0);
}

/** One sector fails, for reads and for writes; its neighbours do not. */
async function checkError(guest: Guest, disk: ServedDisk): Promise<void> {
  const sector = 1000;
  // Not busybox's, whose memory is not aligned, so that it reads whole pages.
  const dd = (from: string, to: string, skip: string, at: number) =>
    guest.try(`/usr/bin/dd if=${from} of=${to} bs=512 count=1 ${skip}=${at}`);
  for (const operation of ["read", "write"] as const) {
    const rule = disk.faults.add(`${operation} sector=${sector} error=EIO`);
    const access = (at: number) =>
      operation === "read"
        ? dd("/dev/vdd", "/dev/null", "iflag=direct skip", at)
        : dd("/dev/zero", "/dev/vdd", "oflag=direct seek", at);
    const codes: number[] = [];
    for (const at of [sector - 1, sector, sector + 1]) {
      codes.push((await access(at)).code);
    }
    assertEquals(codes, [0, 1, 0], operation);
    assertEquals(disk.faults.hits(rule), 1);
    const { output } = await access(sector);
    assertStringIncludes(output, "Input/output error");
    disk.faults.remove(rule);
    assertEquals((await access(sector)).code, 0);
  }
  const lines = (await guest.run("dmesg")).split("\n").filter((line) =>
    line.includes("I/O error, dev vdd")
  );
  assertEquals(lines.length, 4);
  for (const line of lines) assertStringIncludes(line, `sector ${sector} op`);
}

/** Makes a file system, and whatever one does with one. */
async function useFileSystem(
  guest: Guest,
  { name, device, make }: FileSystem,
  disk: ServedDisk,
): Promise<void> {
  disk.startCounting();
  await guest.run(`${make} /dev/${device}`);
  await guest.run(`mount -t ${name} /dev/${device} /tmp/mnt`);
  await guest.run(FIO);
  assert(disk.counts.flushes > 0);
  await guest.run(
    "cp /bin/busybox /tmp/mnt/kept && cp /bin/busybox /tmp/mnt/removed && sync",
  );
  const sumsOfAll = "cd /tmp/mnt && find . -type f | sort | xargs sha256sum";
  const sums = await guest.run(sumsOfAll);
  assertMatch(sums, /kept/);
  await guest.run("rm /tmp/mnt/removed && sync");
  await guest.run("fstrim -v /tmp/mnt");
  assert(disk.counts.discards > 0);
  await guest.run("umount /tmp/mnt");
  await guest.run("echo 3 > /proc/sys/vm/drop_caches");
  await guest.run(`mount -t ${name} /dev/${device} /tmp/mnt`);
  assertEquals(
    await guest.run(sumsOfAll),
    sums.split("\n").filter((line) => !line.includes("removed")).join("\n"),
  );
  await guest.run("umount /tmp/mnt");
  assert(
    (await guest.run(`blkid -p /dev/${device}`)).includes(`TYPE="${name}"`),
  );
}

/** How many times something is made durable in the guest. */
const SYNCS = 20;

Deno.test({
  name: "User Mode Linux, nobody's, has one flush for each fsync",
  ignore: !WANTED || needs(
    "busybox",
    "e2fsck",
    "linux.uml",
    "mkfs.ext4",
  ).ignore,
  async fn(t) {
    if (!await canTry(umlStage())) return;
    await using stack = new AsyncDisposableStack();
    const dir = stack.use(await tempDir());
    const disk = stack.use(await serve(dir, "uml"));
    const guest = stack.use(await startUml(disk.server.path, dir.path));
    const step = (name: string, body: () => Promise<void>) =>
      takeStep(t, name, body);

    /** What reaches the disk while the guest does something again and again. */
    const counted = async (command: string) => {
      disk.startCounting();
      await guest.run(
        `for i in $(seq ${SYNCS}); do ${command} 2>/dev/null || exit 1; done`,
      );
      return disk.counts;
    };

    await step("its kernel is not the host's", async () => {
      assertMatch(await guest.run("uname -r"), /^\d+\.\d+\.\d+$/);
      assertEquals(
        Number(await guest.run("cat /sys/block/vda/size")),
        disk.info.sectors,
      );
      assertEquals(
        await guest.run("cat /sys/block/vda/serial"),
        disk.info.id,
      );
    });
    await step("an fsync of the device is a flush", async () => {
      const { flushes, writes } = await counted(
        "dd if=/dev/zero of=/dev/vda bs=4096 count=1 conv=fsync,notrunc",
      );
      assertEquals(flushes, SYNCS);
      assertEquals(writes, SYNCS);
    });
    await step("an fdatasync of a file on ext4 is a flush", async () => {
      await guest.run(
        "mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0 /dev/vda",
      );
      // So that nobody else writes meanwhile.
      await guest.run(
        "mount -t ext4 -o noatime,nodiscard,commit=3600 /dev/vda /tmp/mnt",
      );
      await guest.run(
        "dd if=/dev/zero of=/tmp/mnt/file bs=4096 count=64 && sync",
      );
      const { flushes, writes } = await counted(
        "dd if=/dev/zero of=/tmp/mnt/file bs=4096 seek=$i count=1 conv=fdatasync,notrunc",
      );
      assertEquals(flushes, SYNCS);
      assertEquals(writes, SYNCS);
    });
    await step("an fsync of a new file on ext4 is durable", async () => {
      const { flushes } = await counted(
        "dd if=/dev/zero of=/tmp/mnt/new$i bs=4096 count=1 conv=fsync",
      );
      // The journal's commit is one before and one after its last block, as
      // virtio-blk has no FUA.
      assertEquals(flushes, 2 * SYNCS);
    });
    await step("what it wrote is there after a new mount", async () => {
      await guest.run("cp /bin/busybox /tmp/mnt/kept && umount /tmp/mnt");
      await guest.run("mount -t ext4 /dev/vda /tmp/mnt");
      await guest.run("cmp /bin/busybox /tmp/mnt/kept");
      await guest.run("fstrim /tmp/mnt && umount /tmp/mnt");
      assert(disk.counts.discards > 0);
    });
    await step("the guest stops", () => guest.stop("busybox poweroff -f"));
    await step("ext4 is sound without the guest", async () => {
      await disk[Symbol.asyncDispose]();
      await run("e2fsck", ["-fn", dir.join("uml.img")]);
    });
  },
});
