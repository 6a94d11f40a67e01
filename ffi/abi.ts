/**
 * The numbers that a kernel and its C library agree on: one table for each
 * operating system and architecture, with the header that each number comes
 * from. Tables only: no I/O, no addresses.
 *
 * A field is `undefined` where the system has no such thing, so that a caller
 * must ask before using it. Names are those of the C headers.
 *
 * @module
 */

import { ERRNO_TABLES, errnoNames, type ErrnoTable } from "./errno.ts";

export type { ErrnoName, ErrnoTable } from "./errno.ts";

/** Operating systems that have a table. */
export type AbiOs = "linux" | "darwin" | "freebsd" | "illumos";

/** Architectures that have a table. */
export type AbiArch = "x86_64" | "aarch64";

/** Flags of open(2). */
export interface OpenFlags {
  /** Read only (0). */
  readonly O_RDONLY: number;
  /** Write only. */
  readonly O_WRONLY: number;
  /** Read and write. */
  readonly O_RDWR: number;
  /** Do not wait, and do not take over a terminal or a slow device. */
  readonly O_NONBLOCK: number;
  /** Every write goes to the end. */
  readonly O_APPEND: number;
  /** Create when missing; then open needs a mode. */
  readonly O_CREAT: number;
  /** With O_CREAT: fail when it exists (a block device: when in use). */
  readonly O_EXCL: number;
  /** Cut to length zero. */
  readonly O_TRUNC: number;
  /** Never become the controlling terminal. */
  readonly O_NOCTTY: number;
  /** Fail on a symbolic link. */
  readonly O_NOFOLLOW: number;
  /** Fail unless it is a directory. */
  readonly O_DIRECTORY: number;
  /** Close on exec. */
  readonly O_CLOEXEC: number;
  /** Data of each write is durable when it returns. */
  readonly O_DSYNC: number;
  /** Data and metadata of each write are durable when it returns. */
  readonly O_SYNC: number;
  /** Bypass the page cache. Undefined where the system has no such flag. */
  readonly O_DIRECT: number | undefined;
  /** Do not update the access time. */
  readonly O_NOATIME: number | undefined;
  /** A descriptor that only names the file. */
  readonly O_PATH: number | undefined;
  /** An unnamed file in the given directory. */
  readonly O_TMPFILE: number | undefined;
}

/** Commands of fcntl(2). */
export interface FcntlCommands {
  /** Read the status flags. */
  readonly F_GETFL: number;
  /** Set the status flags. */
  readonly F_SETFL: number;
  /** Ask about a lock of the process. */
  readonly F_GETLK: number;
  /** Set a lock of the process. */
  readonly F_SETLK: number;
  /** Set a lock of the process and wait for it. */
  readonly F_SETLKW: number;
  /** Ask about a lock of the open file description. */
  readonly F_OFD_GETLK: number | undefined;
  /** Set a lock of the open file description. */
  readonly F_OFD_SETLK: number | undefined;
  /** Set a lock of the open file description and wait for it. */
  readonly F_OFD_SETLKW: number | undefined;
  /** Seal a memory file. */
  readonly F_ADD_SEALS: number | undefined;
  /** Ask which seals a memory file has. */
  readonly F_GET_SEALS: number | undefined;
  /** Allocate space (fstore_t). */
  readonly F_PREALLOCATE: number | undefined;
  /** Switch read-ahead on or off. */
  readonly F_RDAHEAD: number | undefined;
  /** Bypass the page cache where it can. Advisory. */
  readonly F_NOCACHE: number | undefined;
  /** Flush to the medium, through the drive's cache. */
  readonly F_FULLFSYNC: number | undefined;
  /** Order the writes before it against those after it. */
  readonly F_BARRIERFSYNC: number | undefined;
  /** Unmap a range (fpunchhole_t). */
  readonly F_PUNCHHOLE: number | undefined;
}

/** Where `struct flock` keeps its fields, in bytes, and its lock types. */
export interface FlockLayout {
  /** Size of the struct. */
  readonly byteLength: number;
  /** i16 l_type. */
  readonly type: number;
  /** i16 l_whence. */
  readonly whence: number;
  /** i64 l_start. */
  readonly start: number;
  /** i64 l_len; 0 means up to the end, however far it grows. */
  readonly length: number;
  /** i32 l_pid; must be 0 for locks of an open file description. */
  readonly pid: number;
  /** Shared lock. */
  readonly F_RDLCK: number;
  /** Exclusive lock. */
  readonly F_WRLCK: number;
  /** No lock. */
  readonly F_UNLCK: number;
}

/** Places that lseek(2) counts from. */
export interface SeekWhence {
  /** From the start. */
  readonly SEEK_SET: number;
  /** From the current position. */
  readonly SEEK_CUR: number;
  /** From the end. */
  readonly SEEK_END: number;
  /** To the next data at or after the offset. */
  readonly SEEK_DATA: number;
  /** To the next hole at or after the offset. */
  readonly SEEK_HOLE: number;
}

/** Flags of mmap(2). */
export interface MmapFlags {
  /** Pages may be read. */
  readonly PROT_READ: number;
  /** Pages may be written. */
  readonly PROT_WRITE: number;
  /** Changes are shared. */
  readonly MAP_SHARED: number;
  /** Changes are private. */
  readonly MAP_PRIVATE: number;
  /** Place exactly at the address. */
  readonly MAP_FIXED: number;
  /** Memory without a file. */
  readonly MAP_ANONYMOUS: number;
  /** Fault the pages in at once. */
  readonly MAP_POPULATE: number | undefined;
  /** Do not reserve swap. */
  readonly MAP_NORESERVE: number | undefined;
  /** Huge pages. */
  readonly MAP_HUGETLB: number | undefined;
}

/** Modes of fallocate(2), include/uapi/linux/falloc.h. */
export const FALLOCATE = {
  /** Do not change the file's size. */
  KEEP_SIZE: 0x01,
  /** Unmap; needs KEEP_SIZE. */
  PUNCH_HOLE: 0x02,
  /** Remove a range and close the gap. */
  COLLAPSE_RANGE: 0x08,
  /** Make a range read as zeroes. */
  ZERO_RANGE: 0x10,
  /** Open a gap. */
  INSERT_RANGE: 0x20,
  /** Undo sharing of blocks. */
  UNSHARE_RANGE: 0x40,
  /** Write zeroes with the device's own command (Linux 6.17). */
  WRITE_ZEROES: 0x80,
} as const;

/** Flags of preadv2(2) and pwritev2(2), include/uapi/linux/fs.h. */
export const RWF = {
  /** Poll for the completion; needs O_DIRECT. */
  HIPRI: 0x01,
  /** This write's data is durable when it returns. */
  DSYNC: 0x02,
  /** This write's data and metadata are durable when it returns. */
  SYNC: 0x04,
  /** EAGAIN rather than wait. */
  NOWAIT: 0x08,
  /** Write at the end. */
  APPEND: 0x10,
  /** Write at the offset although O_APPEND is set (Linux 6.9). */
  NOAPPEND: 0x20,
  /** The write is not torn (Linux 6.11). */
  ATOMIC: 0x40,
  /** Buffered, and dropped from the cache (Linux 6.14). */
  DONTCACHE: 0x80,
  /** No SIGPIPE (Linux 6.18). */
  NOSIGNAL: 0x100,
} as const;

/** Masks, attributes and lookup flags of statx(2), include/uapi/linux/stat.h. */
export const STATX = {
  /** Type part of the mode. */
  TYPE: 0x1,
  /** Permission part of the mode. */
  MODE: 0x2,
  /** Inode number. */
  INO: 0x100,
  /** Size. */
  SIZE: 0x200,
  /** Blocks of 512 bytes. */
  BLOCKS: 0x400,
  /** All that stat(2) has. */
  BASIC_STATS: 0x7ff,
  /** Alignment for O_DIRECT (Linux 6.1). */
  DIOALIGN: 0x2000,
  /** Limits of untorn writes (Linux 6.11). */
  WRITE_ATOMIC: 0x10000,
  /** Alignment of O_DIRECT reads (Linux 6.14). */
  DIO_READ_ALIGN: 0x20000,
  /** Attribute: protected by fs-verity. */
  ATTR_VERITY: 0x100000,
  /** Attribute: mapped without the page cache. */
  ATTR_DAX: 0x200000,
  /** Attribute: untorn writes are supported. */
  ATTR_WRITE_ATOMIC: 0x400000,
  /** The path counts from the current directory. */
  AT_FDCWD: -100,
  /** Ask about the link itself. */
  AT_SYMLINK_NOFOLLOW: 0x100,
  /** With an empty path: ask about the descriptor. */
  AT_EMPTY_PATH: 0x1000,
} as const;

/** Where `struct statx` keeps its fields, in bytes; include/uapi/linux/stat.h. */
export const STATX_LAYOUT = {
  /** Size of the struct. */
  byteLength: 256,
  /** u32 stx_mask. */
  mask: 0,
  /** u32 stx_blksize. */
  blksize: 4,
  /** u64 stx_attributes. */
  attributes: 8,
  /** u16 stx_mode. */
  mode: 28,
  /** u64 stx_ino. */
  inode: 32,
  /** u64 stx_size. */
  size: 40,
  /** u64 stx_blocks. */
  blocks: 48,
  /** u64 stx_attributes_mask. */
  attributesMask: 56,
  /** u32 stx_rdev_major. */
  rdevMajor: 128,
  /** u32 stx_rdev_minor. */
  rdevMinor: 132,
  /** u32 stx_dev_major. */
  deviceMajor: 136,
  /** u32 stx_dev_minor. */
  deviceMinor: 140,
  /** u32 stx_dio_mem_align. */
  dioMemoryAlign: 152,
  /** u32 stx_dio_offset_align. */
  dioOffsetAlign: 156,
  /** u32 stx_atomic_write_unit_min. */
  atomicWriteUnitMin: 168,
  /** u32 stx_atomic_write_unit_max. */
  atomicWriteUnitMax: 172,
  /** u32 stx_atomic_write_segments_max. */
  atomicWriteSegmentsMax: 176,
  /** u32 stx_dio_read_offset_align. */
  dioReadOffsetAlign: 180,
  /** u32 stx_atomic_write_unit_max_opt (Linux 6.16). */
  atomicWriteUnitMaxOptimal: 184,
} as const;

/** ioctl requests of Linux; include/uapi/linux/fs.h, fs/xfs/libxfs/xfs_fs.h. */
export const LINUX_IOCTL = {
  /** Set read-only (int). */
  BLKROSET: 0x125d,
  /** Is it read-only (int). */
  BLKROGET: 0x125e,
  /** Size in 512-byte units (unsigned long). */
  BLKGETSIZE: 0x1260,
  /** Flush the buffer cache. */
  BLKFLSBUF: 0x1261,
  /** Most 512-byte units in one request (unsigned short). */
  BLKSECTGET: 0x1267,
  /** Logical block size (int). */
  BLKSSZGET: 0x1268,
  /** Soft block size (int). */
  BLKBSZGET: 0x80081270,
  /** Size in bytes (u64). */
  BLKGETSIZE64: 0x80081272,
  /** Discard a range (u64 start, u64 length, in bytes). */
  BLKDISCARD: 0x1277,
  /** Minimum I/O size (u32). */
  BLKIOMIN: 0x1278,
  /** Optimal I/O size (u32). */
  BLKIOOPT: 0x1279,
  /** Alignment offset (int, −1 when misaligned). */
  BLKALIGNOFF: 0x127a,
  /** Physical block size (u32). */
  BLKPBSZGET: 0x127b,
  /** Erase a range beyond recovery (u64 start, u64 length, in bytes). */
  BLKSECDISCARD: 0x127d,
  /** Is it a rotating disk (unsigned short). */
  BLKROTATIONAL: 0x127e,
  /** Zero a range (u64 start, u64 length, in bytes). */
  BLKZEROOUT: 0x127f,
  /** Sequence number of the disk (u64). */
  BLKGETDISKSEQ: 0x80081280,
  /** Read the file's flags (long; the kernel writes an int). */
  FS_IOC_GETFLAGS: 0x80086601,
  /** Set the file's flags. */
  FS_IOC_SETFLAGS: 0x40086602,
  /** Freeze the file system. */
  FIFREEZE: 0xc0045877,
  /** Thaw the file system. */
  FITHAW: 0xc0045878,
  /** Alignment for O_DIRECT on XFS (u32 memory, u32 minimum, u32 maximum). */
  XFS_IOC_DIOINFO: 0x800c581e,
} as const;

/** File flag: no copy-on-write (btrfs); include/uapi/linux/fs.h. */
export const FS_NOCOW_FL = 0x800000;

/** ioctl requests of FreeBSD; sys/sys/disk.h. */
export const FREEBSD_IOCTL = {
  /** Logical block size (u32). */
  DIOCGSECTORSIZE: 0x40046480,
  /** Size in bytes (i64). */
  DIOCGMEDIASIZE: 0x40086481,
  /** Flush the device's cache. */
  DIOCGFLUSH: 0x20006487,
  /** Discard a range (i64 start, i64 length, in bytes). */
  DIOCGDELETE: 0x80106488,
  /** Physical block size (i64). */
  DIOCGSTRIPESIZE: 0x4008648b,
  /** Offset of the first physical block (i64). */
  DIOCGSTRIPEOFFSET: 0x4008648c,
} as const;

/** ioctl requests of macOS; bsd/sys/disk.h. */
export const DARWIN_IOCTL = {
  /** Logical block size (u32). */
  DKIOCGETBLOCKSIZE: 0x40046418,
  /** Number of logical blocks (u64). */
  DKIOCGETBLOCKCOUNT: 0x40086419,
  /** Is it writable (u32). */
  DKIOCISWRITABLE: 0x4004641d,
  /** Physical block size (u32). */
  DKIOCGETPHYSICALBLOCKSIZE: 0x4004644d,
  /** Most bytes in one read (u64). */
  DKIOCGETMAXBYTECOUNTREAD: 0x40086446,
  /** Most bytes in one write (u64). */
  DKIOCGETMAXBYTECOUNTWRITE: 0x40086447,
  /** Feature bits (u32). */
  DKIOCGETFEATURES: 0x4004644c,
  /** Flush the device's cache. */
  DKIOCSYNCHRONIZECACHE: 0x20006416,
  /** Flush or order a range (u64 offset, u64 length, u32 options, u32 0). */
  DKIOCSYNCHRONIZE: 0x80186416,
  /** Discard (pointer to extents, u32 count, u32 options). */
  DKIOCUNMAP: 0x8010641f,
} as const;

/** ioctl requests of illumos; usr/src/uts/common/sys/dkio.h. */
export const ILLUMOS_IOCTL = {
  /** What a disk is: u32 media type, u32 logical block size, i64 blocks. */
  DKIOCGMEDIAINFO: 0x42a,
  /** Flush the device's cache, and wait for it (no argument: 0). */
  DKIOCFLUSHWRITECACHE: 0x422,
} as const;

/** Advice of directio(3C); usr/src/uts/common/sys/fcntl.h of illumos. */
export const DIRECTIO_ON = 1;

/** Numbers of the system calls that are called by number. */
export interface SyscallNumbers {
  /** pread64. */
  readonly pread64: number;
  /** pwrite64. */
  readonly pwrite64: number;
  /** preadv2(fd, iov, count, offset low, offset high, flags). */
  readonly preadv2: number;
  /** pwritev2(fd, iov, count, offset low, offset high, flags). */
  readonly pwritev2: number;
  /** fallocate. */
  readonly fallocate: number;
  /** prlimit64(process, resource, new, old). */
  readonly prlimit64: number;
  /** read. */
  readonly read: number;
  /** write. */
  readonly write: number;
  /** fsync. */
  readonly fsync: number;
  /** fdatasync. */
  readonly fdatasync: number;
  /** sync_file_range. */
  readonly sync_file_range: number;
  /** memfd_create. */
  readonly memfd_create: number;
  /** eventfd2. */
  readonly eventfd2: number;
  /** dup3(old, new, flags). */
  readonly dup3: number;
  /** socket(domain, type, protocol). */
  readonly socket: number;
  /** bind(socket, address, length). */
  readonly bind: number;
  /** listen(socket, backlog). */
  readonly listen: number;
  /** accept4(socket, address, length, flags). */
  readonly accept4: number;
  /** sendmsg(socket, message, flags). */
  readonly sendmsg: number;
  /** recvmsg(socket, message, flags). */
  readonly recvmsg: number;
  /** socketpair(domain, type, protocol, sockets). */
  readonly socketpair: number;
  /** shutdown(socket, how). */
  readonly shutdown: number;
  /** getsockopt(socket, level, option, value, length). */
  readonly getsockopt: number;
  /** setsockopt(socket, level, option, value, length). */
  readonly setsockopt: number;
  /** getsockname(socket, address, length). */
  readonly getsockname: number;
  /** readlinkat(directory, path, buffer, size). */
  readonly readlinkat: number;
  /** epoll_create1(flags). */
  readonly epoll_create1: number;
  /** epoll_pwait(epoll, events, most, timeout, signals, bytes of them). */
  readonly epoll_pwait: number;
  /** epoll_ctl(epoll, operation, descriptor, event). */
  readonly epoll_ctl: number;
  /** statx. */
  readonly statx: number;
  /** fstatfs. */
  readonly fstatfs: number;
  /** io_setup(depth, &context). */
  readonly io_setup: number;
  /** io_destroy(context). */
  readonly io_destroy: number;
  /** io_submit(context, count, &iocb*). */
  readonly io_submit: number;
  /** io_cancel(context, iocb, result). */
  readonly io_cancel: number;
  /** io_getevents(context, least, most, events, timeout). */
  readonly io_getevents: number;
  /** io_uring_setup(entries, params). */
  readonly io_uring_setup: number;
  /** io_uring_enter(fd, submit, complete, flags, argument, argument size). */
  readonly io_uring_enter: number;
  /** io_uring_register(fd, operation, argument, count). */
  readonly io_uring_register: number;
  /** uname(buffer), as newer than the first two of that name. */
  readonly uname: number;
  /** cachestat(fd, range, result, flags) (Linux 6.5). */
  readonly cachestat: number;
}

/** All that one operating system and architecture agree on. */
export interface Abi {
  /** Operating system. */
  readonly os: AbiOs;
  /** Architecture. */
  readonly arch: AbiArch;
  /**
   * True where variadic arguments never travel in registers (Apple arm64), so
   * that a call with a fixed signature must first fill all eight registers.
   */
  readonly variadicOnStack: boolean;
  /** Error numbers by name. */
  readonly errno: ErrnoTable;
  /** Error names by number. */
  readonly errnoNames: ReadonlyMap<number, string>;
  /** Flags of open(2). */
  readonly open: OpenFlags;
  /** Commands of fcntl(2). */
  readonly fcntl: FcntlCommands;
  /** Layout and lock types of struct flock. */
  readonly flock: FlockLayout;
  /** Places to seek from. */
  readonly whence: SeekWhence;
  /** Flags of mmap(2). */
  readonly mmap: MmapFlags;
  /** Most segments in one preadv or pwritev (IOV_MAX). */
  readonly iovecMax: number;
  /** System call numbers, where calling by number is supported (Linux). */
  readonly syscalls: SyscallNumbers | undefined;
}

// include/uapi/asm-generic/fcntl.h, and what arch/arm64 moves about
// (arch/arm64/include/uapi/asm/fcntl.h): DIRECTORY, NOFOLLOW and DIRECT.
const LINUX_OPEN_GENERIC = {
  O_RDONLY: 0x0,
  O_WRONLY: 0x1,
  O_RDWR: 0x2,
  O_CREAT: 0x40,
  O_EXCL: 0x80,
  O_NOCTTY: 0x100,
  O_TRUNC: 0x200,
  O_APPEND: 0x400,
  O_NONBLOCK: 0x800,
  O_DSYNC: 0x1000,
  O_NOATIME: 0x40000,
  O_CLOEXEC: 0x80000,
  // __O_SYNC 0x100000 | O_DSYNC.
  O_SYNC: 0x101000,
  O_PATH: 0x200000,
} as const;

const LINUX_OPEN: Readonly<Record<AbiArch, OpenFlags>> = {
  x86_64: {
    ...LINUX_OPEN_GENERIC,
    O_DIRECT: 0x4000,
    O_DIRECTORY: 0x10000,
    O_NOFOLLOW: 0x20000,
    // __O_TMPFILE 0x400000 | O_DIRECTORY.
    O_TMPFILE: 0x410000,
  },
  aarch64: {
    ...LINUX_OPEN_GENERIC,
    O_DIRECTORY: 0x4000,
    O_NOFOLLOW: 0x8000,
    O_DIRECT: 0x10000,
    // __O_TMPFILE 0x400000 | O_DIRECTORY.
    O_TMPFILE: 0x404000,
  },
};

// include/uapi/asm-generic/fcntl.h; seals: include/uapi/linux/fcntl.h.
const LINUX_FCNTL: FcntlCommands = {
  F_GETFL: 3,
  F_SETFL: 4,
  F_GETLK: 5,
  F_SETLK: 6,
  F_SETLKW: 7,
  F_OFD_GETLK: 36,
  F_OFD_SETLK: 37,
  F_OFD_SETLKW: 38,
  F_ADD_SEALS: 1033,
  F_GET_SEALS: 1034,
  F_PREALLOCATE: undefined,
  F_RDAHEAD: undefined,
  F_NOCACHE: undefined,
  F_FULLFSYNC: undefined,
  F_BARRIERFSYNC: undefined,
  F_PUNCHHOLE: undefined,
};

// include/uapi/asm-generic/fcntl.h, struct flock on 64-bit systems.
const LINUX_FLOCK: FlockLayout = {
  byteLength: 32,
  type: 0,
  whence: 2,
  start: 8,
  length: 16,
  pid: 24,
  F_RDLCK: 0,
  F_WRLCK: 1,
  F_UNLCK: 2,
};

// include/uapi/asm-generic/mman-common.h, include/uapi/asm-generic/mman.h.
const LINUX_MMAP: MmapFlags = {
  PROT_READ: 0x1,
  PROT_WRITE: 0x2,
  MAP_SHARED: 0x01,
  MAP_PRIVATE: 0x02,
  MAP_FIXED: 0x10,
  MAP_ANONYMOUS: 0x20,
  MAP_NORESERVE: 0x4000,
  MAP_POPULATE: 0x8000,
  MAP_HUGETLB: 0x40000,
};

// include/uapi/linux/fs.h.
const LINUX_WHENCE: SeekWhence = {
  SEEK_SET: 0,
  SEEK_CUR: 1,
  SEEK_END: 2,
  SEEK_DATA: 3,
  SEEK_HOLE: 4,
};

// Calls since Linux 5.1 have one number on every architecture.
const LINUX_SYSCALLS_GENERIC = {
  io_uring_setup: 425,
  io_uring_enter: 426,
  io_uring_register: 427,
  cachestat: 451,
} as const;

const LINUX_SYSCALLS: Readonly<Record<AbiArch, SyscallNumbers>> = {
  // arch/x86/entry/syscalls/syscall_64.tbl.
  x86_64: {
    ...LINUX_SYSCALLS_GENERIC,
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
    uname: 63,
    socket: 41,
    sendmsg: 46,
    recvmsg: 47,
    bind: 49,
    listen: 50,
    socketpair: 53,
    shutdown: 48,
    getsockname: 51,
    setsockopt: 54,
    getsockopt: 55,
    readlinkat: 267,
    epoll_ctl: 233,
    epoll_pwait: 281,
    accept4: 288,
    epoll_create1: 291,
    memfd_create: 319,
    preadv2: 327,
    pwritev2: 328,
    statx: 332,
  },
  // include/uapi/asm-generic/unistd.h.
  aarch64: {
    ...LINUX_SYSCALLS_GENERIC,
    io_setup: 0,
    io_destroy: 1,
    io_submit: 2,
    io_cancel: 3,
    io_getevents: 4,
    eventfd2: 19,
    epoll_create1: 20,
    epoll_ctl: 21,
    epoll_pwait: 22,
    dup3: 24,
    uname: 160,
    socket: 198,
    socketpair: 199,
    getsockname: 204,
    setsockopt: 208,
    getsockopt: 209,
    shutdown: 210,
    readlinkat: 78,
    bind: 200,
    listen: 201,
    sendmsg: 211,
    recvmsg: 212,
    accept4: 242,
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
    preadv2: 286,
    pwritev2: 287,
    statx: 291,
  },
};

// bsd/sys/fcntl.h of XNU.
const DARWIN_OPEN: OpenFlags = {
  O_RDONLY: 0x0,
  O_WRONLY: 0x1,
  O_RDWR: 0x2,
  O_NONBLOCK: 0x4,
  O_APPEND: 0x8,
  O_SYNC: 0x80,
  O_NOFOLLOW: 0x100,
  O_CREAT: 0x200,
  O_TRUNC: 0x400,
  O_EXCL: 0x800,
  O_NOCTTY: 0x20000,
  O_DIRECTORY: 0x100000,
  O_DSYNC: 0x400000,
  O_CLOEXEC: 0x1000000,
  // F_NOCACHE is what comes closest.
  O_DIRECT: undefined,
  O_NOATIME: undefined,
  O_PATH: undefined,
  O_TMPFILE: undefined,
};

// bsd/sys/fcntl.h of XNU.
const DARWIN_FCNTL: FcntlCommands = {
  F_GETFL: 3,
  F_SETFL: 4,
  F_GETLK: 7,
  F_SETLK: 8,
  F_SETLKW: 9,
  F_PREALLOCATE: 42,
  F_RDAHEAD: 45,
  F_NOCACHE: 48,
  F_FULLFSYNC: 51,
  F_BARRIERFSYNC: 85,
  F_OFD_SETLK: 90,
  F_OFD_SETLKW: 91,
  F_OFD_GETLK: 92,
  F_PUNCHHOLE: 99,
  F_ADD_SEALS: undefined,
  F_GET_SEALS: undefined,
};

// bsd/sys/fcntl.h of XNU.
const DARWIN_FLOCK: FlockLayout = {
  byteLength: 24,
  start: 0,
  length: 8,
  pid: 16,
  type: 20,
  whence: 22,
  F_RDLCK: 1,
  F_UNLCK: 2,
  F_WRLCK: 3,
};

// bsd/sys/mman.h of XNU.
const DARWIN_MMAP: MmapFlags = {
  PROT_READ: 0x1,
  PROT_WRITE: 0x2,
  MAP_SHARED: 0x01,
  MAP_PRIVATE: 0x02,
  MAP_FIXED: 0x10,
  MAP_NORESERVE: 0x40,
  MAP_ANONYMOUS: 0x1000,
  MAP_POPULATE: undefined,
  MAP_HUGETLB: undefined,
};

// bsd/sys/unistd.h of XNU: HOLE and DATA the other way round.
const DARWIN_WHENCE: SeekWhence = {
  SEEK_SET: 0,
  SEEK_CUR: 1,
  SEEK_END: 2,
  SEEK_HOLE: 3,
  SEEK_DATA: 4,
};

// sys/sys/fcntl.h of FreeBSD.
const FREEBSD_OPEN: OpenFlags = {
  O_RDONLY: 0x0,
  O_WRONLY: 0x1,
  O_RDWR: 0x2,
  O_NONBLOCK: 0x4,
  O_APPEND: 0x8,
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
};

// sys/sys/fcntl.h of FreeBSD.
const FREEBSD_FCNTL: FcntlCommands = {
  F_GETFL: 3,
  F_SETFL: 4,
  F_GETLK: 11,
  F_SETLK: 12,
  F_SETLKW: 13,
  F_RDAHEAD: 16,
  F_ADD_SEALS: 19,
  F_GET_SEALS: 20,
  F_OFD_GETLK: undefined,
  F_OFD_SETLK: undefined,
  F_OFD_SETLKW: undefined,
  F_PREALLOCATE: undefined,
  F_NOCACHE: undefined,
  F_FULLFSYNC: undefined,
  F_BARRIERFSYNC: undefined,
  F_PUNCHHOLE: undefined,
};

// sys/sys/fcntl.h of FreeBSD: as macOS, then i32 l_sysid@24 and padding to 8.
const FREEBSD_FLOCK: FlockLayout = {
  byteLength: 32,
  start: 0,
  length: 8,
  pid: 16,
  type: 20,
  whence: 22,
  F_RDLCK: 1,
  F_UNLCK: 2,
  F_WRLCK: 3,
};

// sys/sys/mman.h of FreeBSD.
const FREEBSD_MMAP: MmapFlags = {
  PROT_READ: 0x1,
  PROT_WRITE: 0x2,
  MAP_SHARED: 0x01,
  MAP_PRIVATE: 0x02,
  MAP_FIXED: 0x10,
  MAP_ANONYMOUS: 0x1000,
  MAP_POPULATE: undefined,
  MAP_NORESERVE: undefined,
  MAP_HUGETLB: undefined,
};

// sys/sys/unistd.h of FreeBSD: as Linux.
const FREEBSD_WHENCE: SeekWhence = LINUX_WHENCE;

// usr/src/uts/common/sys/fcntl.h of illumos. O_DIRECT came in 2024, and is
// directio(3C) by another name, which older ones have, too.
const ILLUMOS_OPEN: OpenFlags = {
  O_RDONLY: 0x0,
  O_WRONLY: 0x1,
  O_RDWR: 0x2,
  O_APPEND: 0x8,
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
  O_DIRECT: undefined,
  O_NOATIME: undefined,
  O_PATH: undefined,
  O_TMPFILE: undefined,
};

// usr/src/uts/common/sys/fcntl.h of illumos, for 64-bit programs. Its locks of
// the open file (F_OFD_SETLK 48) are for whole files only, fcntl(2): they cannot
// be QEMU's, which are on bytes.
const ILLUMOS_FCNTL: FcntlCommands = {
  F_GETFL: 3,
  F_SETFL: 4,
  F_SETLK: 6,
  F_SETLKW: 7,
  F_GETLK: 14,
  F_OFD_GETLK: undefined,
  F_OFD_SETLK: undefined,
  F_OFD_SETLKW: undefined,
  F_ADD_SEALS: undefined,
  F_GET_SEALS: undefined,
  F_PREALLOCATE: undefined,
  F_RDAHEAD: undefined,
  F_NOCACHE: undefined,
  F_FULLFSYNC: undefined,
  F_BARRIERFSYNC: undefined,
  F_PUNCHHOLE: undefined,
};

// usr/src/uts/common/sys/fcntl.h of illumos: i32 l_sysid@24, and 32 bytes more.
const ILLUMOS_FLOCK: FlockLayout = {
  byteLength: 64,
  type: 0,
  whence: 2,
  start: 8,
  length: 16,
  pid: 28,
  F_RDLCK: 1,
  F_WRLCK: 2,
  F_UNLCK: 3,
};

// usr/src/uts/common/sys/mman.h of illumos.
const ILLUMOS_MMAP: MmapFlags = {
  PROT_READ: 0x1,
  PROT_WRITE: 0x2,
  MAP_SHARED: 0x01,
  MAP_PRIVATE: 0x02,
  MAP_FIXED: 0x10,
  MAP_NORESERVE: 0x40,
  MAP_ANONYMOUS: 0x100,
  MAP_POPULATE: undefined,
  MAP_HUGETLB: undefined,
};

// usr/src/uts/common/sys/unistd.h of illumos: as Linux.
const ILLUMOS_WHENCE: SeekWhence = LINUX_WHENCE;

// IOV_MAX is 1024 on all four: include/uapi/linux/uio.h (UIO_MAXIOV),
// bsd/sys/syslimits.h of XNU, sys/sys/syslimits.h of FreeBSD,
// usr/src/uts/common/sys/limits.h of illumos.
const IOVEC_MAX = 1024;

function tableFor(os: AbiOs, arch: AbiArch): Abi {
  const errno = ERRNO_TABLES[os];
  const common = {
    os,
    arch,
    variadicOnStack: os === "darwin" && arch === "aarch64",
    errno,
    errnoNames: errnoNames(errno),
    iovecMax: IOVEC_MAX,
  };
  switch (os) {
    case "linux":
      return {
        ...common,
        open: LINUX_OPEN[arch],
        fcntl: LINUX_FCNTL,
        flock: LINUX_FLOCK,
        whence: LINUX_WHENCE,
        mmap: LINUX_MMAP,
        syscalls: LINUX_SYSCALLS[arch],
      };
    case "darwin":
      return {
        ...common,
        open: DARWIN_OPEN,
        fcntl: DARWIN_FCNTL,
        flock: DARWIN_FLOCK,
        whence: DARWIN_WHENCE,
        mmap: DARWIN_MMAP,
        syscalls: undefined,
      };
    case "freebsd":
      return {
        ...common,
        open: FREEBSD_OPEN,
        fcntl: FREEBSD_FCNTL,
        flock: FREEBSD_FLOCK,
        whence: FREEBSD_WHENCE,
        mmap: FREEBSD_MMAP,
        syscalls: undefined,
      };
    case "illumos":
      return {
        ...common,
        open: ILLUMOS_OPEN,
        fcntl: ILLUMOS_FCNTL,
        flock: ILLUMOS_FLOCK,
        whence: ILLUMOS_WHENCE,
        mmap: ILLUMOS_MMAP,
        syscalls: undefined,
      };
  }
}

const tables = new Map<string, Abi>();

function isAbiOs(os: string): os is AbiOs {
  return os === "linux" || os === "darwin" || os === "freebsd" ||
    os === "illumos";
}

function isAbiArch(arch: string): arch is AbiArch {
  return arch === "x86_64" || arch === "aarch64";
}

/**
 * The table of an operating system and architecture.
 *
 * @param os Operating system, as in `Deno.build.os`.
 * @param arch Architecture, as in `Deno.build.arch`.
 * @returns The table, or undefined where there is none; {@linkcode whyNoAbi}
 * says why.
 */
export function abiFor(os: string, arch: string): Abi | undefined {
  if (!isAbiOs(os) || !isAbiArch(arch)) return undefined;
  const key = `${os} ${arch}`;
  let abi = tables.get(key);
  if (abi === undefined) {
    abi = tableFor(os, arch);
    tables.set(key, abi);
  }
  return abi;
}

/**
 * Why there is no table for a system, in one sentence for a person.
 *
 * @param os Operating system, as in `Deno.build.os`.
 * @param arch Architecture, as in `Deno.build.arch`.
 * @returns The reason, or undefined where there is a table.
 */
export function whyNoAbi(os: string, arch: string): string | undefined {
  switch (os) {
    case "linux":
    case "darwin":
    case "freebsd":
    case "illumos":
      return isAbiArch(arch)
        ? undefined
        : `The constants of ${os} on ${arch} are not in the table, which has x86_64 and aarch64`;
    case "openbsd":
      return "OpenBSD has no O_DIRECT: its file I/O always goes through the buffer cache";
    case "windows":
      return "Windows has another API than the POSIX one used here (FILE_FLAG_NO_BUFFERING)";
    case "netbsd":
      return "NetBSD takes O_DIRECT as a hint only, and its constants are not in the table";
    case "solaris":
      return "Solaris uses directio() rather than O_DIRECT, and its constants are not in the table";
    case "android":
      return "Android has another C library (bionic), whose constants are not in the table";
    default:
      return `The operating system ${os} is not in the table`;
  }
}

/**
 * The name of an error number.
 *
 * @param abi The table of the system that gave the number.
 * @param errno The error number, either sign.
 * @returns The name, as "EIO", or "errno 4095" for a number without one.
 */
export function errnoName(abi: Abi, errno: number): string {
  const number = Math.abs(errno);
  return abi.errnoNames.get(number) ?? `errno ${number}`;
}
