import { assert, assertEquals, assertThrows } from "@std/assert";
import {
  abiFor,
  DARWIN_IOCTL,
  DIRECTIO_ON,
  FREEBSD_IOCTL,
} from "../../ffi/abi.ts";
import {
  blockDeviceSize,
  discard,
  flushDevice,
  flushRequest,
  isNoFlush,
  logicalBlockSize,
  physicalBlockSize,
} from "../../ffi/block_device.ts";
import { FfiError } from "../../ffi/ffi_error.ts";
import { getLock, setLock } from "../../ffi/file_lock.ts";
import type { FfiPermissions } from "../../ffi/foreign/interface.ts";
import {
  ensureFfiPermission,
  libcFileNames,
  libcSymbols,
  openLibcFunctions,
} from "../../ffi/library.ts";
import { memoryAt, writeU64 } from "../../ffi/memory.ts";
import { cachedPages } from "../../ffi/page_cache.ts";
import { statfsType, statx, xfsDirectIo } from "../../ffi/statx.ts";
import { fakeLibc } from "./fake_library.ts";

const SYSTEMS = [
  ["linux", "x86_64"],
  ["linux", "aarch64"],
  ["darwin", "x86_64"],
  ["darwin", "aarch64"],
  ["freebsd", "x86_64"],
  ["freebsd", "aarch64"],
  ["illumos", "x86_64"],
] as const;

/** What each calls the function that says where errno is. */
const ERRNO_LOCATIONS = {
  linux: "__errno_location",
  darwin: "__error",
  freebsd: "__error",
  illumos: "___errno",
};

/** Integer argument registers of AAPCS64: an argument beyond is on the stack. */
const REGISTERS = 8;

const ascii = (path: string) => new TextEncoder().encode(path);

for (const [os, arch] of SYSTEMS) {
  const padded = os === "darwin" && arch === "aarch64";

  Deno.test(`libcSymbols() puts variadic arguments in their place on ${os} ${arch}`, () => {
    const symbols = libcSymbols(abiFor(os, arch)!) as Record<
      string,
      Deno.ForeignFunction
    >;
    for (const name of ["open", "fcntl", "ioctl"]) {
      const { parameters } = symbols[name]!;
      assertEquals(parameters.length, padded ? REGISTERS + 1 : 3, name);
      // The two named arguments stay where they are.
      assert(parameters.slice(0, 2).every((type) => type !== "f64"));
      // Nothing on the way may use another kind of register.
      assert(parameters.every((type) => type !== "f32" && type !== "f64"));
      if (padded) {
        // A slot of the stack is eight bytes.
        assert(["i64", "u64"].includes(String(parameters[REGISTERS])), name);
      }
    }
    assertEquals(symbols.errnoLocation!.name, ERRNO_LOCATIONS[os]);
    // These are not variadic, on any system.
    for (const name of ["pread", "pwrite"]) {
      assertEquals(symbols[name]!.parameters, ["i32", "u64", "u64", "i64"]);
    }
  });

  Deno.test(`Libc passes variadic arguments last on ${os} ${arch}`, () => {
    const { libc, abi, calls } = fakeLibc(os, arch, { open: () => 7 });
    assertEquals(libc.open("/x", abi.open.O_CREAT, 0o644), 7);
    assertEquals(libc.fcntl(3, 4, 2 ** 40 + 5), 0);
    assertEquals(libc.fcntl(3, 4, -1), 0);
    assertEquals(libc.ioctl(3, 0x80081272, 2 ** 46 + 1), 0);
    const zeroes = padded ? [0, 0, 0, 0, 0, 0] : [];
    assertEquals(calls, [
      {
        name: "open",
        args: [
          ascii("/x\0"),
          abi.open.O_CREAT,
          ...zeroes,
          padded ? 0o644n : 0o644,
        ],
      },
      { name: "fcntl", args: [3, 4, ...zeroes, 2n ** 40n + 5n] },
      { name: "fcntl", args: [3, 4, ...zeroes, -1n] },
      { name: "ioctl", args: [3, 0x80081272n, ...zeroes, 2n ** 46n + 1n] },
    ]);
  });

  Deno.test(`Libc passes what is not variadic as it is on ${os} ${arch}`, () => {
    const { libc, calls, closed, fileNames } = fakeLibc(os, arch, {
      pread: () => 512,
      lseek: () => 2 ** 45,
      mmap: () => 0x7f00_0000_1000,
    });
    const address = 0x7f12_3456_7000;
    assertEquals(libc.pread(3, address, 512, 2 ** 40 + 512), 512);
    libc.pwrite(3, address, 2 ** 31, 0);
    libc.preadv(3, address, 2, 2 ** 33);
    libc.pwritev(3, address, 2, 2 ** 33);
    assertEquals(libc.lseek(3, -(2 ** 33), 2), 2 ** 45);
    libc.ftruncate(3, 2 ** 50);
    assertEquals(libc.mmap(0, 4096, 3, 1, 3, 2 ** 34), 0x7f00_0000_1000);
    libc.munmap(address, 4096);
    assertEquals(calls.map(({ name, args }) => [name, ...args]), [
      ["pread", 3, BigInt(address), 512n, 2n ** 40n + 512n],
      // No system moves more than this at once.
      ["pwrite", 3, BigInt(address), 0x7fff_f000n, 0n],
      ["preadv", 3, BigInt(address), 2, 2n ** 33n],
      ["pwritev", 3, BigInt(address), 2, 2n ** 33n],
      ["lseek", 3, -(2n ** 33n), 2],
      ["ftruncate", 3, 2n ** 50n],
      ["mmap", 0n, 4096n, 3, 1, 3, 2n ** 34n],
      ["munmap", BigInt(address), 4096n],
    ]);
    assert(closed());
    assertEquals(fileNames.length, 1);
  });

  Deno.test(`Libc returns -errno on ${os} ${arch}`, () => {
    const fail = () => -1;
    const { libc, setErrno, abi } = fakeLibc(os, arch, {
      pread: fail,
      lseek: fail,
      mmap: fail,
      open: fail,
      fcntl: fail,
      fsync: fail,
      fdatasync: fail,
    });
    setErrno(abi.errno.EAGAIN);
    const eagain = os === "linux" || os === "illumos" ? 11 : 35;
    assertEquals(libc.pread(3, 8, 8, 8), -eagain);
    assertEquals(libc.lseek(3, 0, 0), -eagain);
    assertEquals(libc.mmap(0, 1, 0, 0, 0, 0), -eagain);
    assertEquals(libc.open("/x", 0), -eagain);
    assertEquals(libc.fcntl(3, 3), -eagain);
    assertEquals(libc.fdatasync(3), -eagain);
    assertEquals(libc.fsync(3), -eagain);
  });
}

Deno.test("Libc.fdatasync() is fsync on macOS", () => {
  const { libc, calls, symbols } = fakeLibc("darwin", "aarch64");
  assertEquals(libc.fdatasync(5), 0);
  assertEquals(calls, [{ name: "fsync", args: [5] }]);
  assertEquals(symbols.fdatasync, undefined);
});

Deno.test("Libc.directio() advises on illumos, and says −ENOSYS elsewhere", () => {
  const { libc, calls, symbols, fileNames } = fakeLibc("illumos", "x86_64");
  assertEquals(libc.directio(5, DIRECTIO_ON), 0);
  assertEquals(calls, [{ name: "directio", args: [5, 1] }]);
  assertEquals(symbols.directio!.parameters, ["i32", "i32"]);
  assertEquals(fileNames, ["libc.so.1"]);
  const zfs = fakeLibc("illumos", "x86_64", { directio: () => -1 });
  zfs.setErrno(25);
  assertEquals(zfs.libc.directio(5, DIRECTIO_ON), -25);
  for (const os of ["linux", "darwin", "freebsd"]) {
    const other = fakeLibc(os, "x86_64");
    assertEquals(
      other.libc.directio(5, DIRECTIO_ON),
      -other.abi.errno.ENOSYS,
    );
    assertEquals(other.calls, []);
  }
});

Deno.test("Libc returns -ENOSYS for what a system does not have", () => {
  for (const os of ["darwin", "freebsd"]) {
    const { libc, calls } = fakeLibc(os, "x86_64");
    assertEquals(libc.preadv2(3, 8, 1, 0, 0), -78);
    assertEquals(libc.pwritev2(3, 8, 1, 0, 0), -78);
    assertEquals(libc.fallocate(3, 0, 0, 1), -78);
    assertEquals(libc.syscall(1), -78);
    assertEquals(statx(libc, 3), -78);
    assertEquals(statfsType(libc, 3), -78);
    assertEquals(xfsDirectIo(libc, 3), -78);
    assertEquals(cachedPages(libc, 3, 0, 0), -78);
    assertEquals(calls, []);
  }
});

Deno.test("Libc returns -ENOSYS for preadv where the symbol is missing", () => {
  const { libc } = fakeLibc("darwin", "aarch64", {}, ["preadv", "pwritev"]);
  assertEquals(libc.preadv(3, 8, 1, 0), -78);
  assertEquals(libc.pwritev(3, 8, 1, 0), -78);
});

Deno.test("Libc calls preadv2 and pwritev2 by number where the symbol is missing", () => {
  for (
    const [arch, numbers] of [["x86_64", [327, 328]], ["aarch64", [
      286,
      287,
    ]]] as const
  ) {
    const { libc, calls } = fakeLibc("linux", arch, { syscall: () => 9 }, [
      "preadv2",
      "pwritev2",
    ]);
    assertEquals(libc.preadv2(3, 2 ** 40, 2, 2 ** 41, 8), 9);
    assertEquals(libc.pwritev2(3, 2 ** 40, 2, 2 ** 41, 2), 9);
    const shared = [3n, 2n ** 40n, 2n, 2n ** 41n, 0n];
    assertEquals(calls, [
      { name: "syscall", args: [BigInt(numbers[0]), ...shared, 8n] },
      { name: "syscall", args: [BigInt(numbers[1]), ...shared, 2n] },
    ]);
  }
});

Deno.test("Libc.ioUringEnter() calls by number, on Linux only", () => {
  const { libc, calls } = fakeLibc("linux", "aarch64", { syscall: () => 3 });
  assertEquals(libc.ioUringEnter(9, 3, 1, 0b1001, 2 ** 46 + 8, 24), 3);
  assertEquals(calls, [{
    name: "syscall",
    args: [426n, 9n, 3n, 1n, 9n, 2n ** 46n + 8n, 24n],
  }]);
  const other = fakeLibc("freebsd", "x86_64");
  assertEquals(other.libc.ioUringEnter(9, 1, 0, 0), -78);
  assertEquals(other.calls, []);
});

Deno.test("setLock() lays out struct flock for each system", () => {
  const structs: Record<string, DataView> = {};
  for (const os of ["linux", "darwin"]) {
    const { libc, abi, calls } = fakeLibc(os, "aarch64", {
      fcntl: (...args) => {
        const address = Number(args.at(-1));
        const bytes = memoryAt(address, abi.flock.byteLength).slice(0);
        structs[os] = new DataView(bytes);
        return 0;
      },
    });
    assertEquals(setLock(libc, 9, abi.flock.F_WRLCK, 2 ** 33, 101), 0);
    assertEquals(calls[0]!.args.slice(0, 2), [9, os === "linux" ? 37 : 90]);
  }
  const { linux, darwin } = structs;
  // i16 type, i16 whence, i64 start@8, i64 length@16, i32 pid@24.
  assertEquals(linux!.getInt16(0, true), 1);
  assertEquals(linux!.getInt16(2, true), 0);
  assertEquals(linux!.getBigInt64(8, true), 2n ** 33n);
  assertEquals(linux!.getBigInt64(16, true), 101n);
  assertEquals(linux!.getInt32(24, true), 0);
  // i64 start, i64 length@8, i32 pid@16, i16 type@20, i16 whence@22.
  assertEquals(darwin!.getBigInt64(0, true), 2n ** 33n);
  assertEquals(darwin!.getBigInt64(8, true), 101n);
  assertEquals(darwin!.getInt32(16, true), 0);
  assertEquals(darwin!.getInt16(20, true), 3);
  assertEquals(darwin!.getInt16(22, true), 0);
});

Deno.test("getLock() reads struct flock back on macOS", () => {
  const { libc, abi } = fakeLibc("darwin", "aarch64", {
    fcntl: (...args) => {
      const view = new DataView(memoryAt(Number(args[8]), 24));
      writeU64(view, 0, 100);
      writeU64(view, 8, 1);
      view.setInt32(16, -1, true);
      view.setInt16(20, 1, true);
      return 0;
    },
  });
  assertEquals(getLock(libc, 3, abi.flock.F_WRLCK, 100, 1), {
    type: abi.flock.F_RDLCK,
    start: 100,
    length: 1,
    pid: -1,
  });
});

Deno.test("setLock() and getLock() return -ENOSYS on FreeBSD and illumos", () => {
  for (const [os, enosys] of [["freebsd", 78], ["illumos", 89]] as const) {
    const { libc, calls } = fakeLibc(os, "x86_64");
    assertEquals(setLock(libc, 3, 1, 0, 1), -enosys);
    assertEquals(getLock(libc, 3, 1, 0, 1), -enosys);
    assertEquals(calls, []);
  }
});

/** Answers ioctl requests with 64-bit values. */
function ioctlAnswers(values: Record<number, number>) {
  return {
    ioctl: (...args: unknown[]) => {
      const value = values[Number(args[1])];
      if (value === undefined) return -1;
      writeU64(new DataView(memoryAt(Number(args.at(-1)), 8)), 0, value);
      return 0;
    },
  };
}

Deno.test("block device functions ask macOS with DKIOC requests", () => {
  const { libc, setErrno } = fakeLibc(
    "darwin",
    "aarch64",
    ioctlAnswers({
      [DARWIN_IOCTL.DKIOCGETBLOCKCOUNT]: 2 ** 33,
      [DARWIN_IOCTL.DKIOCGETBLOCKSIZE]: 512,
      [DARWIN_IOCTL.DKIOCGETPHYSICALBLOCKSIZE]: 4096,
    }),
  );
  setErrno(25);
  assertEquals(blockDeviceSize(libc, 3), 2 ** 42);
  assertEquals(physicalBlockSize(libc, 3), 4096);
  assertEquals(discard(libc, 3, 0, 512), -25);
});

Deno.test("discard() hands macOS an extent behind its struct", () => {
  let words: bigint[] = [];
  const { libc } = fakeLibc("darwin", "x86_64", {
    ioctl: (_fd, request, address) => {
      assertEquals(request, BigInt(DARWIN_IOCTL.DKIOCUNMAP));
      words = [...new BigUint64Array(memoryAt(Number(address), 32))];
      assertEquals(words[0], (address as bigint) + 16n);
      return 0;
    },
  });
  assertEquals(discard(libc, 3, 4096, 2 ** 33), 0);
  assertEquals(words.slice(1), [1n, 4096n, 2n ** 33n]);
});

Deno.test("block device functions ask FreeBSD with DIOC requests", () => {
  const { libc, calls } = fakeLibc(
    "freebsd",
    "x86_64",
    ioctlAnswers({
      [FREEBSD_IOCTL.DIOCGMEDIASIZE]: 2 ** 42,
      [FREEBSD_IOCTL.DIOCGSECTORSIZE]: 512,
      [FREEBSD_IOCTL.DIOCGSTRIPESIZE]: 0,
    }),
  );
  assertEquals(blockDeviceSize(libc, 3), 2 ** 42);
  // No stripe: as the logical block.
  assertEquals(physicalBlockSize(libc, 3), 512);
  assertEquals(calls.map(({ args }) => args[1]), [
    0x40086481n,
    0x4008648bn,
    0x40046480n,
  ]);
});

Deno.test("block device functions ask illumos with DKIOCGMEDIAINFO", () => {
  const { libc, calls } = fakeLibc("illumos", "x86_64", {
    ioctl: (_fd, _request, address) => {
      const view = new DataView(memoryAt(Number(address), 16));
      view.setUint32(0, 3, true);
      view.setUint32(4, 4096, true);
      writeU64(view, 8, 2 ** 33);
      return 0;
    },
  });
  assertEquals(blockDeviceSize(libc, 3), 2 ** 45);
  assertEquals(logicalBlockSize(libc, 3), 4096);
  assertEquals(physicalBlockSize(libc, 3), 4096);
  assertEquals(calls.map(({ args }) => args[1]), [0x42an, 0x42an, 0x42an]);
  assertEquals(discard(libc, 3, 0, 512), -libc.abi.errno.EOPNOTSUPP);
});

Deno.test("flushDevice() asks each system in its own way, and Linux not at all", () => {
  const requests = {
    linux: undefined,
    darwin: 0x20006416n,
    freebsd: 0x20006487n,
    illumos: 0x422n,
  };
  for (const [os, arch] of SYSTEMS) {
    const { libc, calls } = fakeLibc(os, arch);
    const result = flushDevice(libc, 3);
    assertEquals(calls[0]?.args[1], requests[os]);
    // Whatever it is, no argument goes with it.
    assert(Number(calls[0]?.args.at(-1) ?? 0) === 0);
    assertEquals(flushRequest(libc) === null, os === "linux");
    assertEquals(isNoFlush(libc, result), os === "linux");
    assertEquals(isNoFlush(libc, -libc.abi.errno.EIO), false);
  }
});

Deno.test("libcFileNames() has glibc before musl", () => {
  assertEquals(libcFileNames(abiFor("linux", "aarch64")!), [
    "libc.so.6",
    "libc.musl-aarch64.so.1",
    "libc.so",
  ]);
});

Deno.test("openLibcFunctions() tries each file name, and says which it tried", () => {
  const tried: string[] = [];
  const error = assertThrows(
    () =>
      openLibcFunctions(abiFor("linux", "x86_64")!, (fileName) => {
        tried.push(fileName);
        throw new Error("no such file");
      }),
    FfiError,
    "libc.so.6, libc.musl-x86_64.so.1, libc.so",
  );
  assertEquals(error.kind, "library");
  assertEquals(tried.length, 3);
  assertEquals((error.cause as AggregateError).errors.length, 3);
});

Deno.test("openLibcFunctions() stops at a refusal", () => {
  const tried: string[] = [];
  const error = assertThrows(
    () =>
      openLibcFunctions(abiFor("linux", "x86_64")!, (fileName) => {
        tried.push(fileName);
        throw new Deno.errors.NotCapable("no");
      }),
    FfiError,
    "run with --allow-ffi",
  );
  assertEquals(error.kind, "permission");
  assertEquals(tried, ["libc.so.6"]);
});

/** Permissions with a given state, and one for a path perhaps. */
function permissions(
  state: Deno.PermissionState,
  answer: Deno.PermissionState,
  path?: string,
): { asked: number } & FfiPermissions {
  const result = (state: Deno.PermissionState) =>
    ({ state }) as Deno.PermissionStatus;
  return {
    asked: 0,
    querySync: (descriptor) =>
      result(
        "path" in descriptor && descriptor.path === path ? "granted" : state,
      ),
    requestSync() {
      this.asked++;
      return result(answer);
    },
  };
}

Deno.test("ensureFfiPermission() asks only when it may", () => {
  const abi = abiFor("linux", "x86_64")!;
  const granted = permissions("granted", "denied");
  ensureFfiPermission(abi, granted);
  assertEquals(granted.asked, 0);
  const prompted = permissions("prompt", "granted");
  ensureFfiPermission(abi, prompted);
  assertEquals(prompted.asked, 1);
  const denied = permissions("denied", "granted");
  const error = assertThrows(
    () => ensureFfiPermission(abi, denied),
    FfiError,
    "Cannot open libc as --allow-ffi is not granted: run with --allow-ffi",
  );
  assertEquals(error.kind, "permission");
  assertEquals(denied.asked, 0);
});

Deno.test("ensureFfiPermission() says that a path is not enough", () => {
  assertThrows(
    () =>
      ensureFfiPermission(
        abiFor("linux", "x86_64")!,
        permissions("prompt", "denied", "libc.so.6"),
      ),
    FfiError,
    "limited to certain paths",
  );
});
