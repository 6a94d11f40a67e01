import { assert, assertEquals } from "@std/assert";
import { STATX, STATX_LAYOUT } from "../../ffi/abi.ts";
import { openLibc } from "../../ffi/libc.ts";
import {
  decodeStatx,
  statfsType,
  statx,
  xfsDirectIo,
} from "../../ffi/statx.ts";
import { FILE_SYSTEMS, fileSystemOf } from "../../src/backends/medium.ts";

const ignore = Deno.build.os !== "linux";

/** Runs with the path of a file of 3 GiB + 1000 bytes, nearly all a hole. */
function withFile(run: (path: string, folder: string) => void): void {
  const folder = Deno.makeTempDirSync();
  try {
    const path = `${folder}/disk image ü.img`;
    Deno.writeFileSync(path, new Uint8Array(5000).fill(1));
    Deno.truncateSync(path, 3 * 2 ** 30 + 1000);
    run(path, folder);
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
}

Deno.test({
  name: "statx() says what Deno.stat() says, by path and by descriptor",
  ignore,
  fn() {
    withFile((path) => {
      const libc = openLibc();
      const expected = Deno.statSync(path);
      const fd = libc.open(path, libc.abi.open.O_RDONLY);
      try {
        for (const target of [path, fd]) {
          const status = statx(libc, target);
          assert(typeof status === "object");
          assertEquals(status.mode, expected.mode);
          assertEquals(status.inode, expected.ino);
          assertEquals(status.sizeBytes, expected.size);
          assertEquals(status.blocks512, expected.blocks);
          assertEquals(status.blksize, expected.blksize);
          // glibc's makedev for small numbers: major << 8 | minor.
          assertEquals(
            status.deviceMajor * 256 + status.deviceMinor,
            expected.dev,
          );
          assertEquals([status.rdevMajor, status.rdevMinor], [0, 0]);
        }
      } finally {
        libc.close(fd);
      }
    });
  },
});

Deno.test({
  name: "statx() gives the numbers of a device",
  ignore,
  fn() {
    const status = statx(openLibc(), "/dev/null");
    assert(typeof status === "object");
    assertEquals([status.rdevMajor, status.rdevMinor], [1, 3]);
    assertEquals(status.mode & 0o170000, 0o020000);
  },
});

Deno.test({
  name: "statx() returns -errno",
  ignore,
  fn() {
    const libc = openLibc();
    assertEquals(statx(libc, "/nowhere/at all"), -2);
    assertEquals(statx(libc, -1), -9);
    assertEquals(statx(libc, "/etc/passwd\0x"), -22);
    assertEquals(statx(libc, ""), -2);
    assertEquals(statfsType(libc, -1), -9);
    assertEquals(xfsDirectIo(libc, -1), -9);
  },
});

Deno.test({
  name: "statfsType() names the file system that /proc/self/mountinfo names",
  ignore,
  fn() {
    withFile((path, folder) => {
      const libc = openLibc();
      const fd = libc.open(path, 0);
      const type = statfsType(libc, fd);
      const xfs = xfsDirectIo(libc, fd);
      libc.close(fd);
      assert(type > 0);
      // The longest mount point that the folder is under.
      const mounts = Deno.readTextFileSync("/proc/self/mountinfo").split("\n")
        .map((line) => /^(?:\S+ ){4}(\S+) .* - (\S+)/.exec(line))
        .filter((match) => match !== null)
        .filter(([, point]) =>
          point === "/" || `${folder}/`.startsWith(`${point}/`)
        ).toSorted((a, b) => b[1]!.length - a[1]!.length);
      const name = mounts[0]?.[2];
      if (FILE_SYSTEMS.some((known) => known.name === name)) {
        assertEquals(fileSystemOf(type).name, name);
        if (name === "xfs") assert(typeof xfs === "object");
        else assert(typeof xfs === "number" && xfs < 0);
      }
    });
  },
});

/** A struct statx with a mask, and with its own offset in every u32. */
function struct(mask: number): DataView {
  const view = new DataView(new ArrayBuffer(STATX_LAYOUT.byteLength));
  for (let offset = 0; offset < view.byteLength; offset += 4) {
    view.setUint32(offset, offset, true);
  }
  view.setUint32(STATX_LAYOUT.mask, mask, true);
  return view;
}

Deno.test("decodeStatx() leaves out what the mask lacks", () => {
  const status = decodeStatx(struct(STATX.BASIC_STATS));
  assertEquals(status.dioMemoryAlign, undefined);
  assertEquals(status.dioOffsetAlign, undefined);
  assertEquals(status.dioReadOffsetAlign, undefined);
  assertEquals(status.atomicWriteUnitMin, undefined);
  assertEquals(status.atomicWriteUnitMax, undefined);
  assertEquals(status.atomicWriteSegmentsMax, undefined);
  assertEquals(status.atomicWriteUnitMaxOptimal, undefined);
});

Deno.test("decodeStatx() reads every field where it is", () => {
  const view = struct(
    STATX.DIOALIGN | STATX.WRITE_ATOMIC | STATX.DIO_READ_ALIGN,
  );
  // The high half of the fields of 64 bits.
  const wide = (low: number) => (low + 4) * 2 ** 32 + low;
  assertEquals(decodeStatx(view), {
    mode: 28,
    inode: wide(32),
    sizeBytes: wide(40),
    blocks512: wide(48),
    blksize: 4,
    deviceMajor: 136,
    deviceMinor: 140,
    rdevMajor: 128,
    rdevMinor: 132,
    attributes: wide(8),
    attributesMask: wide(56),
    dioMemoryAlign: 152,
    dioOffsetAlign: 156,
    dioReadOffsetAlign: 180,
    atomicWriteUnitMin: 168,
    atomicWriteUnitMax: 172,
    atomicWriteSegmentsMax: 176,
    atomicWriteUnitMaxOptimal: 184,
  });
});

Deno.test("decodeStatx() keeps a zero, which means unsupported", () => {
  const view = new DataView(new ArrayBuffer(256));
  view.setUint32(0, STATX.DIOALIGN, true);
  const status = decodeStatx(view);
  assertEquals([status.dioMemoryAlign, status.dioOffsetAlign], [0, 0]);
});
