/**
 * What is found out about an image where the kernel answers otherwise than this
 * one does: other versions, and file systems that are not here.
 *
 * @module
 */

import { assertEquals, assertMatch, assertNotEquals } from "@std/assert";
import { closeSync, constants, openSync } from "node:fs";
import { devNull } from "node:os";
import { LINUX_IOCTL, STATX, STATX_LAYOUT } from "../../../ffi/abi.ts";
import { isKernelSince, kernelVersion } from "../../../ffi/kernel_release.ts";
import { type Libc, openLibc } from "../../../ffi/libc.ts";
import { memoryAt } from "../../../ffi/memory.ts";
import { AioQueue } from "../../../src/engines/aio_queue.ts";
import { type Operation, OperationCode } from "../../../src/engines/engine.ts";
import { IoUringQueue } from "../../../src/engines/io_uring_queue.ts";
import { NOT_TAKEN } from "../../../src/engines/kernel_queue.ts";
import { syncFile } from "../../../src/engines/posix_host.ts";
import { probe } from "../../../src/backends/direct/probe.ts";
import { VirtualDisk } from "../../../src/disk/disk.ts";
import { loopDevice, needs, tempDir } from "../../helpers.ts";
import { fakeLibc } from "../../ffi/fake_library.ts";
import { hasEngine, program } from "./harness.ts";

const MIB = 1_048_576;

/** Answers in the kernel's place; `undefined` for what it is to answer itself. */
type Answer = (libc: Libc, args: readonly number[]) => number | undefined;

/** The C library, some of whose calls are answered here. */
function answering(
  answers: Partial<Record<"syscall" | "ioctl" | "ioUringEnter", Answer>>,
): Libc {
  const libc = openLibc();
  return new Proxy(libc, {
    get(target, name) {
      const value = Reflect.get(target, name, target);
      if (typeof value !== "function") return value;
      const answer = answers[name as keyof typeof answers];
      return (...args: number[]) =>
        answer?.(libc, args) ?? value.apply(target, args);
    },
  });
}

/** A kernel that has this version. */
function release(text: string): Answer {
  return ({ abi }, [number, address]) => {
    if (number !== abi.syscalls!.uname) return undefined;
    new Uint8Array(memoryAt(address!, 6 * 65)).set(
      new TextEncoder().encode(`${text}\0`),
      2 * 65,
    );
    return 0;
  };
}

/** A file system with this number, and this alignment from statx(2). */
function fileSystem(magic: number, align: [number, number] | null): Answer {
  return (libc, [number, ...args]) => {
    const { fstatfs, statx } = libc.abi.syscalls!;
    if (number === fstatfs) {
      new DataView(memoryAt(args[1]!, 120)).setBigUint64(
        0,
        BigInt(magic),
        true,
      );
      return 0;
    }
    if (number !== statx) return undefined;
    const result = libc.syscall(number, ...args);
    const view = new DataView(memoryAt(args[4]!, STATX_LAYOUT.byteLength));
    const at = STATX_LAYOUT;
    const mask = view.getUint32(at.mask, true) &
      ~(STATX.DIOALIGN | STATX.DIO_READ_ALIGN);
    view.setUint32(at.mask, align ? mask | STATX.DIOALIGN : mask, true);
    view.setUint32(at.dioMemoryAlign, align?.[0] ?? 0, true);
    view.setUint32(at.dioOffsetAlign, align?.[1] ?? 0, true);
    return result;
  };
}

/** What is found of a new file on such a file system. */
async function found(
  magic: number,
  align: [number, number] | null,
  content: Uint8Array | number = 4 * MIB,
) {
  await using dir = await tempDir();
  const path = await dir.file("disk.img", content);
  const fd = openSync(path, constants.O_RDWR);
  try {
    const probed = probe(
      answering({ syscall: fileSystem(magic, align) }),
      fd,
      { method: "O_DIRECT", reason: null },
    );
    if (typeof probed === "number") throw new Error(`${probed}`);
    return { ...probed, writtenOffset: probed.writtenOffset() };
  } finally {
    closeSync(fd);
  }
}

const LINUX = { ignore: !hasEngine("sync") };
const [ZFS, EXT4, P9, NANOS] = [0x2fc12fc1, 0xef53, 0x01021997, 0];

Deno.test(
  "probe() finds direct I/O on ZFS where statx says so",
  LINUX,
  async () => {
    const { direct, zeroesRanges, discards, durableWrites } = await found(
      ZFS,
      [4096, 131_072],
    );
    assertEquals(direct, {
      active: true,
      method: "O_DIRECT",
      reason: null,
      memoryAlignment: 4096,
      offsetAlignment: 131_072,
      readOffsetAlignment: 131_072,
      alignmentSource: "statx",
    });
    // Before 2.3, and where it is switched off.
    const old = await found(ZFS, null);
    assertEquals(old.direct.active, false);
    assertMatch(
      old.direct.reason!,
      /^zfs ignores O_DIRECT before version 2\.3/,
    );
    // A direct read may find what was there before.
    assertEquals([zeroesRanges, discards, durableWrites], [
      false,
      false,
      false,
    ]);
    assertEquals(old.zeroesRanges, false);
  },
);

Deno.test(
  "probe() buffers what is direct in larger pieces than can be rewritten",
  LINUX,
  async () => {
    const { direct } = await found(ZFS, [4096, 16 * MIB]);
    assertEquals([direct.active, direct.offsetAlignment], [false, 4096]);
    assertMatch(direct.reason!, /multiples of 16777216 bytes/);
  },
);

Deno.test(
  "probe() promises nothing of a file system that has no name here",
  LINUX,
  async () => {
    for (const magic of [NANOS, 0x1234]) {
      const silent = await found(magic, null);
      assertEquals(silent.direct.active, false);
      assertMatch(silent.direct.reason!, /^0x\d+ is a file system that is not/);
      const { direct, durability, discards } = await found(magic, [512, 512]);
      assertEquals([direct.active, direct.reason], [true, null]);
      assertEquals([durability.flush, discards], ["unknown", false]);
    }
    // Of one that is known to have its own cache, statx is not asked.
    const served = await found(P9, [512, 512]);
    assertEquals([served.direct.active, served.discards], [false, false]);
  },
);

Deno.test(
  "probe() takes ext4's alignment from its device where statx and reads do not tell",
  LINUX,
  async () => {
    const { direct } = await found(EXT4, null);
    // A new file is a hole, and a hole takes anything.
    if (direct.alignmentSource === "assumed") {
      assertEquals(direct.offsetAlignment, 4096);
      console.log("There is no sysfs for the device of this file here");
      return;
    }
    assertEquals(direct.alignmentSource, "sysfs");
    assertEquals([512, 4096].includes(direct.offsetAlignment), true);
    assertEquals(direct.active, true);
  },
);

Deno.test(
  "probe() takes no zeroes for what a device has answered",
  LINUX,
  async () => {
    // Of a file that is zeroes it cannot be told whether they are stored.
    const zeroes = new Uint8Array(4 * MIB);
    const none = await found(EXT4, [512, 512], zeroes);
    assertEquals([none.direct.active, none.writtenOffset], [true, undefined]);
    const silent = await found(EXT4, null, zeroes);
    assertNotEquals(silent.direct.alignmentSource, "trial reads");
    // A file system's superblock may be far from the start of its disk.
    for (const at of [0, MIB, 3 * MIB]) {
      const content = new Uint8Array(4 * MIB);
      content[at + 4095] = 1;
      const { writtenOffset } = await found(EXT4, [512, 512], content);
      assertEquals(writtenOffset, at);
    }
    const large = new Uint8Array(4 * MIB).fill(1, MIB);
    const { writtenOffset } = await found(ZFS, [4096, 131_072], large);
    assertEquals(writtenOffset, MIB);
  },
);

Deno.test({
  name: "VirtualDisk.open() times no extent that was never written",
  ignore: !hasEngine("sync") || needs("fallocate").ignore,
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", 0);
    const { success } = await new Deno.Command("fallocate", {
      args: ["-l", `${MIB}`, path],
      stderr: "null",
    }).output();
    if (!success) {
      console.log("There is no fallocate() here");
      return;
    }
    // From now on ext4 calls its extents data.
    await Deno.readFile(path);
    for (let i = 0; i < 10; i++) {
      await using disk = await VirtualDisk.open(path, { backend: "direct" });
      assertEquals(/answers 4 KiB/.test(disk.info.engine.reason ?? ""), false);
    }
  },
});

Deno.test({
  name:
    "probe() takes no device's word for erasing where the kernel asks in the wrong order",
  ignore: !hasEngine("sync") || needs("root", "losetup").ignore,
  async fn() {
    await using dir = await tempDir();
    await using loop = await loopDevice(await dir.file("disk.img", MIB));
    const fd = openSync(loop.path, constants.O_RDWR);
    try {
      const erases = (
        kernel: string,
        answer: (libc: Libc) => number | undefined,
      ) => {
        const probed = probe(
          answering({
            syscall: release(kernel),
            ioctl: (libc, [, request]) =>
              request === LINUX_IOCTL.BLKSECDISCARD ? answer(libc) : undefined,
          }),
          fd,
          { method: "O_DIRECT", reason: null },
        );
        if (typeof probed === "number") throw new Error(`${probed}`);
        return probed.erases;
      };
      const finds = ({ abi }: Libc) => -abi.errno.EINVAL;
      const cannot = ({ abi }: Libc) => -abi.errno.EOPNOTSUPP;
      assertEquals(erases("5.10.0-33-amd64", finds), false);
      assertEquals(erases("5.18.19", finds), false);
      assertEquals(erases("5.19.0-rc1", finds), true);
      assertEquals(erases("6.1.0-56-amd64", finds), true);
      assertEquals(erases("6.1.0-56-amd64", cannot), false);
      assertEquals(erases("odd", finds), false);
      // This kernel, and its own word.
      assertEquals(erases(Deno.osRelease(), () => undefined), false);
    } finally {
      closeSync(fd);
    }
  },
});

Deno.test("kernelVersion() says what the kernel says", LINUX, () => {
  const libc = openLibc();
  const [major, minor] = kernelVersion(libc)!;
  assertEquals(Deno.osRelease().startsWith(`${major}.${minor}`), true);
  assertEquals(isKernelSince(libc, major, minor), true);
  assertEquals(isKernelSince(libc, major, minor + 1), false);
  assertEquals(isKernelSince(libc, major + 1, 0), false);
  assertEquals(isKernelSince(libc, major - 1, minor + 9), true);
  const denied = answering({
    syscall: ({ abi }, [number]) =>
      number === abi.syscalls!.uname ? -abi.errno.EPERM : undefined,
  });
  assertEquals(kernelVersion(denied), null);
  assertEquals(isKernelSince(denied, 2, 6), false);
});

// Rings whose thread is late

Deno.test({
  name:
    "IoUringQueue.open() waits for a kernel's thread that a busy machine runs late",
  ignore: !hasEngine("io_uring"),
  fn() {
    // Most of these find nothing after the first call.
    for (let i = 0; i < 50; i++) {
      let calls = 0;
      const libc = answering({
        ioUringEnter: (libc, [fd, submit]) => {
          if (++calls > 1) return undefined;
          libc.ioUringEnter(fd!, submit!, 0, 0);
          return -libc.abi.errno.ETIME!;
        },
      });
      const queue = IoUringQueue.open<Operation>(libc, 4);
      if (typeof queue === "string") throw new Error(queue);
      queue.close();
    }
  },
});

// AIO without fdatasync

Deno.test({
  name: "AioQueue leaves syncs to a blocking call where AIO cannot",
  ignore: !hasEngine("libaio"),
  async fn() {
    await using dir = await tempDir();
    const fd = openSync(await dir.file("disk.img", MIB), constants.O_RDWR);
    const sync = { code: OperationCode.Sync, fd } as Operation;
    try {
      const { eventfd2, memfd_create } = openLibc().abi.syscalls!;
      const kernels: [answer: Answer | undefined, syncs: boolean][] = [
        [undefined, true],
        // An event counter is no file: to sync it is EINVAL, as on a kernel
        // that does not know the operation.
        [
          (libc, [number]) =>
            number === memfd_create ? libc.syscall(eventfd2, 0, 0) : undefined,
          false,
        ],
        // Nothing to try it on.
        [
          ({ abi }, [number]) =>
            number === memfd_create ? -abi.errno.ENOSYS : undefined,
          false,
        ],
      ];
      for (const [answer, syncs] of kernels) {
        const libc = answer === undefined
          ? openLibc()
          : answering({ syscall: answer });
        const queue = AioQueue.open<Operation>(libc, 4);
        if (typeof queue === "string") throw new Error(queue);
        try {
          assertEquals(queue.tryOut(fd, MIB), null);
          assertEquals(queue.syncs, syncs);
          assertEquals(queue.prepare(sync, 0), syncs);
          if (!syncs) continue;
          let result = NOT_TAKEN as number;
          // A busy disk takes its time.
          for (let i = 0; i < 120 && result === NOT_TAKEN; i++) {
            queue.enter(1, 1_000_000);
            queue.drain((_slot, value) => result = value);
          }
          assertEquals(result, 0);
        } finally {
          queue.close();
        }
      }
    } finally {
      closeSync(fd);
    }
  },
});

Deno.test({
  name: "VirtualDisk.open() flushes with AIO that cannot sync, and says so",
  ignore: !hasEngine("libaio") || needs("strace").ignore,
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", MIB);
    const reason = await program<string>(
      `
      await using disk = await VirtualDisk.open(path, {
        backend: "direct", engine: "libaio",
      });
      for (let i = 0; i < 3; i++) {
        await disk.write(i * 8, disk.allocate(8).fill(i + 1));
        await disk.flush();
      }
      return disk.info.engine.reason;
      `,
      { args: [path], inject: ["memfd_create:error=ENOSYS"] },
    );
    assertMatch(reason, /this AIO has no fdatasync: a blocking call flushes$/);
    assertEquals((await Deno.readFile(path))[8192], 3);
  },
});

/** What flushes a device, by the system, and how it names a flush of a file. */
const FLUSHES = [
  ["darwin", 0x20006416n, "F_FULLFSYNC", "fsync + DKIOCSYNCHRONIZECACHE"],
  ["freebsd", 0x20006487n, "fdatasync", "fdatasync + DIOCGFLUSH"],
  ["illumos", 0x422n, "fdatasync", "fdatasync + DKIOCFLUSHWRITECACHE"],
] as const;

for (const [os, request, method, deviceMethod] of FLUSHES) {
  /** The system: F_FULLFSYNC is for files, and a flush of a device ends so. */
  const system = (flush: number, isFile = false) => {
    const { libc, calls, setErrno } = fakeLibc(os, "x86_64", {
      ioctl: (_fd, asked) => {
        if (asked !== request || flush >= 0) return 0;
        setErrno(-flush);
        return -1;
      },
      fcntl: (_fd, command) => {
        if (command !== libc.abi.fcntl.F_FULLFSYNC || isFile) return 0;
        setErrno(libc.abi.errno.ENOTTY);
        return -1;
      },
    });
    return { libc, calls };
  };
  const { EIO, ENOTTY } = fakeLibc(os, "x86_64").abi.errno;

  Deno.test({
    name: `probe() says of ${os} what a flush reaches as far as it is told`,
    ignore: Deno.build.os === "windows",
    async fn() {
      await using dir = await tempDir();
      const path = await dir.file("disk.img", 4 * MIB);
      const durability = (flush: number, path: string) => {
        const fd = openSync(path, constants.O_RDWR);
        try {
          const probed = probe(system(flush).libc, fd, {
            method: "a hint",
            reason: null,
          });
          if (typeof probed === "number") throw new Error(`${probed}`);
          return probed.durability;
        } finally {
          closeSync(fd);
        }
      };
      const file = durability(-ENOTTY, path);
      assertEquals([file.flush, file.method], ["unknown", method]);
      assertMatch(file.reason!, /cannot be told here$/);
      const device = durability(0, devNull);
      assertEquals([device.flush, device.reason], ["media", null]);
      assertEquals(
        [device.method, device.fua],
        [deviceMethod, `write + ${deviceMethod}`],
      );
      const silent = durability(-ENOTTY, devNull);
      assertEquals(silent.flush, "device cache");
      assertMatch(silent.reason!, /failed with ENOTTY$/);
    },
  });

  Deno.test(`syncFile() flushes the cache of a device on ${os}, and fails with it`, () => {
    const { libc, calls } = system(0);
    assertEquals(syncFile(libc, 3), 0);
    assertEquals(calls.at(-1)!.args.slice(0, 2), [3, request]);
    // What comes before is in the device by then.
    assertEquals(
      calls.at(-2)!.name,
      os === "darwin" ? "fsync" : "fdatasync",
    );
    assertEquals(syncFile(system(-EIO).libc, 3), -EIO);
    // No device, or none that can be asked.
    assertEquals(syncFile(system(-ENOTTY).libc, 3), 0);
    assertEquals(syncFile(system(-ENOTTY, true).libc, 3), 0);
  });
}
