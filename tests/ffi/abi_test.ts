import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import {
  type Abi,
  abiFor,
  DARWIN_IOCTL,
  DIRECTIO_ON,
  errnoName,
  FALLOCATE,
  FREEBSD_IOCTL,
  LINUX_IOCTL,
  RWF,
  STATX,
  STATX_LAYOUT,
  whyNoAbi,
} from "../../ffi/abi.ts";

const x64 = abiFor("linux", "x86_64")!;
const arm = abiFor("linux", "aarch64")!;
const darwin = abiFor("darwin", "aarch64")!;
const freebsd = abiFor("freebsd", "x86_64")!;
const illumos = abiFor("illumos", "x86_64")!;

Deno.test("abiFor() has Linux, macOS, FreeBSD and illumos on both architectures", () => {
  for (const os of ["linux", "darwin", "freebsd", "illumos"]) {
    for (const arch of ["x86_64", "aarch64"]) {
      const abi = abiFor(os, arch)!;
      assertEquals([abi.os, abi.arch], [os, arch]);
      assertEquals(whyNoAbi(os, arch), undefined);
      assertEquals(abiFor(os, arch), abi);
      assertEquals(abi.variadicOnStack, os === "darwin" && arch === "aarch64");
      assertEquals(abi.syscalls !== undefined, os === "linux");
    }
  }
});

Deno.test("abiFor() has nothing for others, and whyNoAbi() says why", () => {
  const reasons = {
    openbsd: "no O_DIRECT",
    windows: "another API",
    netbsd: "hint only",
    illumos: "illumos on riscv64",
    solaris: "directio()",
    android: "bionic",
    aix: "aix is not in the table",
    linux: "linux on riscv64",
  };
  for (const [os, reason] of Object.entries(reasons)) {
    assertEquals(abiFor(os, "riscv64"), undefined);
    assertStringIncludes(whyNoAbi(os, "riscv64")!, reason);
  }
});

Deno.test("abiFor() has the flags of open that differ by architecture on Linux", () => {
  const flags = (abi: Abi) => [
    abi.open.O_DIRECT,
    abi.open.O_DIRECTORY,
    abi.open.O_NOFOLLOW,
    abi.open.O_TMPFILE,
  ];
  assertEquals(flags(x64), [0x4000, 0x10000, 0x20000, 0x410000]);
  assertEquals(flags(arm), [0x10000, 0x4000, 0x8000, 0x404000]);
});

Deno.test("abiFor() has the same other flags of open on Linux everywhere", () => {
  for (const { open } of [x64, arm]) {
    assertEquals(
      [
        open.O_RDONLY,
        open.O_WRONLY,
        open.O_RDWR,
        open.O_CREAT,
        open.O_EXCL,
        open.O_NOCTTY,
        open.O_TRUNC,
        open.O_APPEND,
        open.O_NONBLOCK,
        open.O_DSYNC,
        open.O_SYNC,
        open.O_NOATIME,
        open.O_CLOEXEC,
        open.O_PATH,
      ],
      // deno-fmt-ignore
      [0, 1, 2, 0x40, 0x80, 0x100, 0x200, 0x400, 0x800, 0x1000, 0x101000,
        0x40000, 0x80000, 0x200000],
    );
  }
});

Deno.test("abiFor() has the flags of open of macOS and FreeBSD", () => {
  assertEquals(darwin.open, {
    O_RDONLY: 0,
    O_WRONLY: 1,
    O_RDWR: 2,
    O_NONBLOCK: 4,
    O_APPEND: 8,
    O_SYNC: 0x80,
    O_NOFOLLOW: 0x100,
    O_CREAT: 0x200,
    O_TRUNC: 0x400,
    O_EXCL: 0x800,
    O_NOCTTY: 0x20000,
    O_DIRECTORY: 0x100000,
    O_DSYNC: 0x400000,
    O_CLOEXEC: 0x1000000,
    O_DIRECT: undefined,
    O_NOATIME: undefined,
    O_PATH: undefined,
    O_TMPFILE: undefined,
  });
  assertEquals(freebsd.open, {
    O_RDONLY: 0,
    O_WRONLY: 1,
    O_RDWR: 2,
    O_NONBLOCK: 4,
    O_APPEND: 8,
    O_SYNC: 0x80,
    O_NOFOLLOW: 0x100,
    O_CREAT: 0x200,
    O_TRUNC: 0x400,
    O_EXCL: 0x800,
    O_NOCTTY: 0x8000,
    O_DIRECT: 0x10000,
    O_DIRECTORY: 0x20000,
    O_CLOEXEC: 0x100000,
    O_PATH: 0x400000,
    O_DSYNC: 0x1000000,
    O_NOATIME: undefined,
    O_TMPFILE: undefined,
  });
});

Deno.test("abiFor() has the flags of open of illumos", () => {
  assertEquals(illumos.open, {
    O_RDONLY: 0,
    O_WRONLY: 1,
    O_RDWR: 2,
    O_APPEND: 8,
    O_SYNC: 0x10,
    O_DSYNC: 0x40,
    O_NONBLOCK: 0x80,
    O_CREAT: 0x100,
    O_TRUNC: 0x200,
    O_EXCL: 0x400,
    O_NOCTTY: 0x800,
    O_NOFOLLOW: 0x20000,
    O_CLOEXEC: 0x800000,
    O_DIRECTORY: 0x1000000,
    // directio(3C) stands for it.
    O_DIRECT: undefined,
    O_NOATIME: undefined,
    O_PATH: undefined,
    O_TMPFILE: undefined,
  });
  assertEquals(DIRECTIO_ON, 1);
});

Deno.test("abiFor() has the locks of each system", () => {
  assertEquals(x64.flock, {
    byteLength: 32,
    type: 0,
    whence: 2,
    start: 8,
    length: 16,
    pid: 24,
    F_RDLCK: 0,
    F_WRLCK: 1,
    F_UNLCK: 2,
  });
  assertEquals(arm.flock, x64.flock);
  const bsd = { start: 0, length: 8, pid: 16, type: 20, whence: 22 };
  const types = { F_RDLCK: 1, F_UNLCK: 2, F_WRLCK: 3 };
  assertEquals(darwin.flock, { byteLength: 24, ...bsd, ...types });
  assertEquals(freebsd.flock, { byteLength: 32, ...bsd, ...types });
  const commands = ({ fcntl }: Abi) => [
    fcntl.F_GETLK,
    fcntl.F_SETLK,
    fcntl.F_SETLKW,
    fcntl.F_OFD_GETLK,
    fcntl.F_OFD_SETLK,
    fcntl.F_OFD_SETLKW,
  ];
  assertEquals(commands(x64), [5, 6, 7, 36, 37, 38]);
  assertEquals(commands(arm), [5, 6, 7, 36, 37, 38]);
  assertEquals(commands(darwin), [7, 8, 9, 92, 90, 91]);
  assertEquals(commands(freebsd).slice(0, 3), [11, 12, 13]);
  assertEquals(freebsd.fcntl.F_OFD_SETLK, undefined);
  assertEquals(illumos.flock, {
    byteLength: 64,
    type: 0,
    whence: 2,
    start: 8,
    length: 16,
    pid: 28,
    F_RDLCK: 1,
    F_WRLCK: 2,
    F_UNLCK: 3,
  });
  assertEquals(commands(illumos).slice(0, 3), [14, 6, 7]);
  // Those of illumos lock whole files, never bytes.
  assertEquals(illumos.fcntl.F_OFD_SETLK, undefined);
});

Deno.test("abiFor() has the commands of macOS that stand for O_DIRECT and flushes", () => {
  const { fcntl } = darwin;
  assertEquals(
    [
      fcntl.F_PREALLOCATE,
      fcntl.F_RDAHEAD,
      fcntl.F_NOCACHE,
      fcntl.F_FULLFSYNC,
      fcntl.F_BARRIERFSYNC,
      fcntl.F_PUNCHHOLE,
    ],
    [42, 45, 48, 51, 85, 99],
  );
  for (const { fcntl } of [x64, arm, freebsd, illumos]) {
    assertEquals([fcntl.F_GETFL, fcntl.F_SETFL], [3, 4]);
    assertEquals(fcntl.F_NOCACHE, undefined);
    assertEquals(fcntl.F_FULLFSYNC, undefined);
  }
});

Deno.test("abiFor() has DATA and HOLE the other way round on macOS", () => {
  const { SEEK_DATA, SEEK_HOLE } = darwin.whence;
  assertEquals([SEEK_DATA, SEEK_HOLE], [4, 3]);
  for (const { whence } of [x64, arm, freebsd, illumos]) {
    assertEquals([whence.SEEK_DATA, whence.SEEK_HOLE], [3, 4]);
  }
});

Deno.test("abiFor() has the system call numbers of each architecture", () => {
  const modern = {
    io_uring_setup: 425,
    io_uring_enter: 426,
    io_uring_register: 427,
    cachestat: 451,
  };
  assertEquals(x64.syscalls, {
    socket: 41,
    sendmsg: 46,
    recvmsg: 47,
    bind: 49,
    listen: 50,
    accept4: 288,
    epoll_create1: 291,
    epoll_pwait: 281,
    ...modern,
    prlimit64: 302,
    read: 0,
    write: 1,
    pread64: 17,
    pwrite64: 18,
    fsync: 74,
    fdatasync: 75,
    fstatfs: 138,
    io_setup: 206,
    io_destroy: 207,
    io_getevents: 208,
    io_submit: 209,
    io_cancel: 210,
    sync_file_range: 277,
    fallocate: 285,
    eventfd2: 290,
    dup3: 292,
    socketpair: 53,
    shutdown: 48,
    getsockname: 51,
    setsockopt: 54,
    getsockopt: 55,
    readlinkat: 267,
    epoll_ctl: 233,
    memfd_create: 319,
    uname: 63,
    preadv2: 327,
    pwritev2: 328,
    statx: 332,
  });
  assertEquals(arm.syscalls, {
    epoll_create1: 20,
    epoll_pwait: 22,
    socket: 198,
    bind: 200,
    listen: 201,
    sendmsg: 211,
    recvmsg: 212,
    accept4: 242,
    ...modern,
    io_setup: 0,
    io_destroy: 1,
    io_submit: 2,
    io_cancel: 3,
    io_getevents: 4,
    eventfd2: 19,
    epoll_ctl: 21,
    dup3: 24,
    socketpair: 199,
    getsockname: 204,
    setsockopt: 208,
    getsockopt: 209,
    shutdown: 210,
    readlinkat: 78,
    fstatfs: 44,
    fallocate: 47,
    prlimit64: 261,
    read: 63,
    write: 64,
    pread64: 67,
    pwrite64: 68,
    fsync: 82,
    fdatasync: 83,
    sync_file_range: 84,
    memfd_create: 279,
    uname: 160,
    preadv2: 286,
    pwritev2: 287,
    statx: 291,
  });
});

Deno.test("abiFor() has anonymous memory's flag for each system", () => {
  assertEquals(x64.mmap.MAP_ANONYMOUS, 0x20);
  assertEquals(x64.mmap.MAP_POPULATE, 0x8000);
  assertEquals(darwin.mmap.MAP_ANONYMOUS, 0x1000);
  assertEquals(freebsd.mmap.MAP_ANONYMOUS, 0x1000);
  assertEquals(illumos.mmap.MAP_ANONYMOUS, 0x100);
});

Deno.test("FALLOCATE and RWF have one bit for each meaning", () => {
  for (const table of [FALLOCATE, RWF]) {
    const bits = Object.values<number>(table);
    assertEquals(bits.reduce((a, b) => a | b), bits.reduce((a, b) => a + b));
  }
  assertEquals(FALLOCATE.PUNCH_HOLE | FALLOCATE.KEEP_SIZE, 3);
  assertEquals([RWF.DSYNC, RWF.NOWAIT, RWF.ATOMIC], [2, 8, 0x40]);
});

Deno.test("STATX_LAYOUT keeps its fields apart and inside the struct", () => {
  const offsets = Object.entries(STATX_LAYOUT).filter(([name]) =>
    name !== "byteLength"
  ).map(([, offset]) => offset);
  assertEquals(new Set(offsets).size, offsets.length);
  assert(offsets.every((offset) => offset < STATX_LAYOUT.byteLength));
  assertEquals(STATX_LAYOUT.dioReadOffsetAlign, 180);
  assertEquals(STATX_LAYOUT.atomicWriteUnitMaxOptimal, 184);
  assertEquals(
    [STATX.DIOALIGN, STATX.WRITE_ATOMIC, STATX.DIO_READ_ALIGN],
    [0x2000, 0x10000, 0x20000],
  );
});

/** The size that an ioctl number encodes, in bytes. */
function ioctlSize(request: number, bits: number): number {
  return (request >>> 16) & (2 ** bits - 1);
}

Deno.test("ioctl numbers encode the size of what they carry", () => {
  // Linux: 14 bits of size; include/uapi/asm-generic/ioctl.h.
  assertEquals(ioctlSize(LINUX_IOCTL.BLKGETSIZE64, 14), 8);
  assertEquals(ioctlSize(LINUX_IOCTL.XFS_IOC_DIOINFO, 14), 12);
  // The BSDs: 13 bits of size; sys/ioccom.h.
  assertEquals(ioctlSize(FREEBSD_IOCTL.DIOCGSECTORSIZE, 13), 4);
  assertEquals(ioctlSize(FREEBSD_IOCTL.DIOCGMEDIASIZE, 13), 8);
  assertEquals(ioctlSize(FREEBSD_IOCTL.DIOCGDELETE, 13), 16);
  assertEquals(ioctlSize(DARWIN_IOCTL.DKIOCGETBLOCKSIZE, 13), 4);
  assertEquals(ioctlSize(DARWIN_IOCTL.DKIOCGETBLOCKCOUNT, 13), 8);
  assertEquals(ioctlSize(DARWIN_IOCTL.DKIOCISWRITABLE, 13), 4);
  assertEquals(ioctlSize(DARWIN_IOCTL.DKIOCSYNCHRONIZE, 13), 24);
  assertEquals(ioctlSize(DARWIN_IOCTL.DKIOCUNMAP, 13), 16);
});

Deno.test("abiFor() has the error numbers of Linux", () => {
  // deno-fmt-ignore
  const expected = {
    EPERM: 1, ENOENT: 2, EINTR: 4, EIO: 5, ENXIO: 6, EBADF: 9, EAGAIN: 11,
    ENOMEM: 12, EACCES: 13, EFAULT: 14, EBUSY: 16, EEXIST: 17, ENODEV: 19,
    EINVAL: 22, ENOTTY: 25, EFBIG: 27, ENOSPC: 28, EROFS: 30, EPIPE: 32,
    ENOSYS: 38, EBADR: 53, ENODATA: 61, ETIME: 62, EOVERFLOW: 75, EBADFD: 77,
    EILSEQ: 84, EOPNOTSUPP: 95, ESHUTDOWN: 108, ETIMEDOUT: 110, ESTALE: 116,
    EUCLEAN: 117, EREMOTEIO: 121, EDQUOT: 122, ECANCELED: 125,
  };
  for (const abi of [x64, arm]) {
    for (const [name, number] of Object.entries(expected)) {
      assertEquals(abi.errno[name as keyof typeof expected], number, name);
      assertEquals(errnoName(abi, number), name);
    }
  }
});

Deno.test("abiFor() has the error numbers that differ on macOS, FreeBSD and illumos", () => {
  const numbers = ({ errno }: Abi) => [
    errno.EAGAIN,
    errno.EOPNOTSUPP,
    errno.ENOTSUP,
    errno.EDQUOT,
    errno.ETIMEDOUT,
    errno.ECANCELED,
    errno.EOVERFLOW,
    errno.ENOSYS,
  ];
  assertEquals(numbers(darwin), [35, 102, 45, 69, 60, 89, 84, 78]);
  assertEquals(numbers(freebsd), [35, 45, 45, 69, 60, 85, 84, 78]);
  assertEquals(numbers(illumos), [11, 122, 48, 49, 145, 47, 79, 89]);
  // These never differ.
  for (const abi of [x64, darwin, freebsd, illumos]) {
    assertEquals(
      [abi.errno.EIO, abi.errno.EINVAL, abi.errno.ENOSPC, abi.errno.EROFS],
      [5, 22, 28, 30],
    );
  }
});

Deno.test("error numbers have no gap where there should be none", () => {
  for (const [abi, last] of [[darwin, 106], [freebsd, 97]] as const) {
    for (let errno = 1; errno <= last; errno++) {
      assert(abi.errnoNames.has(errno), `${abi.os} ${errno}`);
    }
    assertEquals(abi.errnoNames.size, last);
  }
  // 41 and 58 are not in use.
  assertEquals(x64.errnoNames.size, 133 - 2);
});

Deno.test("errnoName() takes either sign", () => {
  assertEquals(errnoName(x64, 5), "EIO");
  assertEquals(errnoName(x64, -5), "EIO");
  assertEquals(errnoName(x64, 11), "EAGAIN");
  assertEquals(errnoName(x64, 95), "EOPNOTSUPP");
  assertEquals(errnoName(darwin, 11), "EDEADLK");
  assertEquals(errnoName(darwin, 45), "ENOTSUP");
  assertEquals(errnoName(darwin, 102), "EOPNOTSUPP");
  assertEquals(errnoName(freebsd, 45), "EOPNOTSUPP");
});

Deno.test("errnoName() says so of an unknown number", () => {
  assertEquals(errnoName(x64, -4095), "errno 4095");
});
