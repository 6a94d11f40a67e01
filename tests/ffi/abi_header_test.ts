/**
 * Compares the tables of Linux with the headers of this machine, as the C
 * compiler sees them. A constant that these headers do not have (being older)
 * is left out.
 */

import { assert, assertEquals } from "@std/assert";
import {
  abiFor,
  FALLOCATE,
  FS_NOCOW_FL,
  LINUX_IOCTL,
  RWF,
  STATX,
  STATX_LAYOUT,
} from "../../ffi/abi.ts";
import { LINUX_ERRNO } from "../../ffi/errno.ts";
import { FILE_SYSTEMS } from "../../src/backends/medium.ts";

function hasCompiler(): boolean {
  if (Deno.build.os !== "linux") return false;
  if (Deno.permissions.querySync({ name: "run" }).state !== "granted") {
    return false;
  }
  try {
    return new Deno.Command("cc", {
      args: ["--version"],
      stdout: "null",
      stderr: "null",
    }).outputSync().success;
  } catch {
    return false;
  }
}

const ignore = !hasCompiler();

/** What C says of expressions; those with an undefined name are left out. */
async function askCompiler(
  headers: string[],
  expressions: Record<string, { guard?: string; expression: string }>,
): Promise<Record<string, number>> {
  const folder = await Deno.makeTempDir();
  try {
    const lines = Object.entries(expressions).map(
      ([name, { guard, expression }]) => {
        const print =
          `printf("%s %lld\\n", "${name}", (long long) (${expression}));`;
        return guard === undefined
          ? print
          : `#ifdef ${guard}\n${print}\n#endif`;
      },
    );
    const source = `#define _GNU_SOURCE\n${
      headers.map((header) => `#include <${header}>\n`).join("")
    }int main(void) {\n${lines.join("\n")}\nreturn 0; }\n`;
    await Deno.writeTextFile(`${folder}/ask.c`, source);
    const compiled = await new Deno.Command("cc", {
      args: ["-o", `${folder}/ask`, `${folder}/ask.c`],
    }).output();
    assert(compiled.success, new TextDecoder().decode(compiled.stderr));
    const { stdout } = await new Deno.Command(`${folder}/ask`).output();
    return Object.fromEntries(
      new TextDecoder().decode(stdout).trim().split("\n").map((line) => {
        const [name, value] = line.split(" ");
        return [name!, Number(value)];
      }),
    );
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** Compares constants; returns how many the headers had. */
async function compare(
  headers: string[],
  table: Readonly<Record<string, number | undefined>>,
  prefix = "",
): Promise<number> {
  const found = await askCompiler(
    headers,
    Object.fromEntries(
      Object.entries(table).filter(([, value]) => value !== undefined).map(
        ([name]) => [
          name,
          { guard: prefix + name, expression: prefix + name },
        ],
      ),
    ),
  );
  for (const [name, value] of Object.entries(found)) {
    // C gives some of them as int: compare the 32 bits.
    assertEquals(table[name]! | 0, value | 0, prefix + name);
  }
  return Object.keys(found).length;
}

const abi = abiFor("linux", Deno.build.arch)!;

Deno.test({
  name: "flags of open, fcntl and mmap are those of the headers",
  ignore,
  async fn() {
    const { open, fcntl, mmap, whence } = abi;
    const headers = ["stdio.h", "fcntl.h", "sys/mman.h", "unistd.h"];
    const table = { ...open, ...fcntl, ...mmap, ...whence };
    const asked = Object.values(table).filter((value) => value !== undefined);
    assertEquals(await compare(headers, table), asked.length);
  },
});

Deno.test({
  name: "error numbers are those of the headers",
  ignore,
  async fn() {
    assertEquals(
      await compare(["stdio.h", "errno.h"], LINUX_ERRNO),
      Object.keys(LINUX_ERRNO).length,
    );
  },
});

Deno.test({
  name: "system call numbers are those of the headers",
  ignore,
  async fn() {
    const numbers = { ...abi.syscalls! };
    const count = await compare(
      ["stdio.h", "sys/syscall.h"],
      numbers,
      "__NR_",
    );
    assert(count >= Object.keys(numbers).length - 1);
  },
});

Deno.test({
  name: "system call numbers of aarch64 are those of the generic header",
  ignore,
  async fn() {
    const numbers = { ...abiFor("linux", "aarch64")!.syscalls! };
    const count = await compare(
      ["stdio.h", "asm-generic/unistd.h"],
      numbers,
      "__NR_",
    );
    assert(count >= Object.keys(numbers).length - 1);
  },
});

Deno.test({
  name: "ioctl numbers are those of the headers",
  ignore,
  async fn() {
    const { XFS_IOC_DIOINFO, ...others } = LINUX_IOCTL;
    const headers = ["stdio.h", "sys/ioctl.h", "linux/fs.h"];
    const count = await compare(headers, others);
    assert(count >= Object.keys(others).length - 2);
    const [found] = Object.values(
      await askCompiler(headers, {
        dioinfo: { expression: "_IOR('X', 30, struct { unsigned int x[3]; })" },
      }),
    );
    assertEquals(found, XFS_IOC_DIOINFO);
    assertEquals(await compare(headers, { FS_NOCOW_FL }), 1);
  },
});

Deno.test({
  name:
    "modes of fallocate, flags of pwritev2 and file systems are those of the headers",
  ignore,
  async fn() {
    const headers = ["stdio.h", "linux/falloc.h", "linux/fs.h"];
    assert(await compare(headers, FALLOCATE, "FALLOC_FL_") >= 6);
    assert(await compare(headers, RWF, "RWF_") >= 5);
    const names: Record<string, string> = {
      ext4: "EXT4_SUPER_MAGIC",
      xfs: "XFS_SUPER_MAGIC",
      btrfs: "BTRFS_SUPER_MAGIC",
      tmpfs: "TMPFS_MAGIC",
      ramfs: "RAMFS_MAGIC",
      nfs: "NFS_SUPER_MAGIC",
      cifs: "CIFS_SUPER_MAGIC",
      smb2: "SMB2_SUPER_MAGIC",
      "9p": "V9FS_MAGIC",
      ceph: "CEPH_SUPER_MAGIC",
      fuse: "FUSE_SUPER_MAGIC",
      overlay: "OVERLAYFS_SUPER_MAGIC",
      f2fs: "F2FS_SUPER_MAGIC",
      vfat: "MSDOS_SUPER_MAGIC",
      exfat: "EXFAT_SUPER_MAGIC",
    };
    const magic = FILE_SYSTEMS.filter(({ name }) => name in names)
      .map((known) => [names[known.name]!, known.magic]);
    assert(
      await compare(["stdio.h", "linux/magic.h"], Object.fromEntries(magic)) >=
        12,
    );
  },
});

Deno.test({
  name: "masks and layout of statx are those of the headers",
  ignore,
  async fn() {
    const { AT_FDCWD, AT_SYMLINK_NOFOLLOW, AT_EMPTY_PATH, ...masks } = STATX;
    assertEquals(
      await compare(["stdio.h", "fcntl.h"], {
        AT_FDCWD,
        AT_SYMLINK_NOFOLLOW,
        AT_EMPTY_PATH,
      }),
      3,
    );
    const headers = ["stdio.h", "stddef.h", "linux/stat.h"];
    assert(await compare(headers, masks, "STATX_") >= 8);
    const fields: Record<string, string> = {
      mask: "stx_mask",
      blksize: "stx_blksize",
      attributes: "stx_attributes",
      mode: "stx_mode",
      inode: "stx_ino",
      size: "stx_size",
      blocks: "stx_blocks",
      attributesMask: "stx_attributes_mask",
      rdevMajor: "stx_rdev_major",
      rdevMinor: "stx_rdev_minor",
      deviceMajor: "stx_dev_major",
      deviceMinor: "stx_dev_minor",
    };
    const newer: Record<string, [mask: string, field: string]> = {
      dioMemoryAlign: ["STATX_DIOALIGN", "stx_dio_mem_align"],
      dioOffsetAlign: ["STATX_DIOALIGN", "stx_dio_offset_align"],
      atomicWriteUnitMin: ["STATX_WRITE_ATOMIC", "stx_atomic_write_unit_min"],
      atomicWriteUnitMax: ["STATX_WRITE_ATOMIC", "stx_atomic_write_unit_max"],
      atomicWriteSegmentsMax: [
        "STATX_WRITE_ATOMIC",
        "stx_atomic_write_segments_max",
      ],
      dioReadOffsetAlign: ["STATX_DIO_READ_ALIGN", "stx_dio_read_offset_align"],
    };
    const found = await askCompiler(headers, {
      byteLength: { expression: "sizeof(struct statx)" },
      ...Object.fromEntries(
        Object.entries(fields).map(([name, field]) => [
          name,
          { expression: `offsetof(struct statx, ${field})` },
        ]),
      ),
      ...Object.fromEntries(
        Object.entries(newer).map(([name, [guard, field]]) => [
          name,
          { guard, expression: `offsetof(struct statx, ${field})` },
        ]),
      ),
    });
    for (const [name, offset] of Object.entries(found)) {
      assertEquals(STATX_LAYOUT[name as keyof typeof STATX_LAYOUT], offset);
    }
    assert(Object.keys(found).length >= 13);
  },
});

Deno.test({
  name: "structs and lock types are those of the headers",
  ignore,
  async fn() {
    const { flock } = abi;
    const field = (name: string) => ({
      expression: `offsetof(struct flock, ${name})`,
    });
    const found = await askCompiler(
      [
        "stdio.h",
        "stddef.h",
        "fcntl.h",
        "limits.h",
        "sys/uio.h",
        "sys/vfs.h",
      ],
      {
        byteLength: { expression: "sizeof(struct flock)" },
        type: field("l_type"),
        whence: field("l_whence"),
        start: field("l_start"),
        length: field("l_len"),
        pid: field("l_pid"),
        F_RDLCK: { expression: "F_RDLCK" },
        F_WRLCK: { expression: "F_WRLCK" },
        F_UNLCK: { expression: "F_UNLCK" },
        iovecMax: { expression: "IOV_MAX" },
        iovec: { expression: "sizeof(struct iovec)" },
        iovecLength: { expression: "offsetof(struct iovec, iov_len)" },
        statfs: { expression: "sizeof(struct statfs)" },
        statfsType: { expression: "offsetof(struct statfs, f_type)" },
      },
    );
    assertEquals(found, {
      ...flock,
      iovecMax: abi.iovecMax,
      iovec: 16,
      iovecLength: 8,
      statfs: 120,
      statfsType: 0,
    });
  },
});
