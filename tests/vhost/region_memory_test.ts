/**
 * Guest memory in files that somebody else may cut: nothing here ends by SIGBUS.
 */

import { assert, assertEquals, assertThrows } from "@std/assert";
import { type Libc, openLibc } from "../../ffi/libc.ts";
import { addressOf, alignedMemory } from "../../ffi/memory.ts";
import { memoryFile } from "../../ffi/shared_memory.ts";
import { GuestFault } from "../../src/vhost/memory_map.ts";
import { openRegionMemory } from "../../src/vhost/region_memory.ts";
import { hasTmpfs, tempDir, tmpfsDir } from "../helpers.ts";

const ignore = Deno.build.os !== "linux";

// include/uapi/linux/memfd.h, include/uapi/linux/fcntl.h.
const MFD_ALLOW_SEALING = 2;
const F_SEAL_SHRINK = 2;
const F_SEAL_GROW = 4;
const F_SEAL_WRITE = 8;

const PAGE = 4096;

/** A file in memory, of some pages, whose every byte is its page's number. */
function memfd(libc: Libc, pages: number, seals = 0): number {
  const name = alignedMemory(8);
  const { memfd_create } = libc.abi.syscalls!;
  const fd = libc.syscall(memfd_create, addressOf(name), MFD_ALLOW_SEALING);
  assert(fd >= 0);
  const memory = alignedMemory(pages * PAGE);
  for (let i = 0; i < memory.length; i++) memory[i] = Math.floor(i / PAGE);
  assertEquals(
    libc.pwrite(fd, addressOf(memory), memory.length, 0),
    memory.length,
  );
  assertEquals(libc.fcntl(fd, libc.abi.fcntl.F_ADD_SEALS!, seals), 0);
  return fd;
}

/** Another descriptor of the same file, as the front end keeps one. */
function dup(libc: Libc, fd: number): number {
  const other = Deno.openSync("/dev/null");
  const number = libc.open("/dev/null", 0);
  other.close();
  assertEquals(libc.dup3(fd, number, 0), number);
  return number;
}

function exercise(memory: ReturnType<typeof openRegionMemory>): void {
  const bytes = alignedMemory(PAGE);
  memory.read(PAGE - 2, bytes.subarray(0, 4));
  assertEquals([...bytes.subarray(0, 4)], [1, 1, 2, 2]);
  bytes.fill(9);
  memory.write(100, bytes.subarray(0, 200));
  const back = alignedMemory(200);
  memory.read(100, back);
  assertEquals(back, bytes.slice(0, 200));
  memory.storeU16(6, 0xbeef);
  assertEquals(memory.loadU16(6), 0xbeef);
  memory.read(6, back.subarray(0, 2));
  assertEquals([back[0], back[1]], [0xef, 0xbe]);
  assertThrows(() => memory.loadU16(7), GuestFault);
  assertThrows(() => memory.storeU16(7, 1), GuestFault);
}

Deno.test("openRegionMemory() maps a file that cannot shrink, and lends it", {
  ignore,
}, () => {
  const libc = openLibc();
  const fd = memfd(libc, 4, F_SEAL_SHRINK | F_SEAL_GROW);
  const kept = dup(libc, fd);
  const memory = openRegionMemory(libc, fd, {
    fileOffset: PAGE,
    byteLength: 3 * PAGE,
  });
  exercise(memory);
  const lent = memory.lend(PAGE, PAGE)!;
  assertEquals(lent[0], 2);
  assert(addressOf(lent) % PAGE === 0 && addressOf(lent) > 0);
  // Nobody takes it away, neither by cutting the file nor by a transfer.
  assert(libc.ftruncate(kept, 0) < 0);
  assertThrows(() => structuredClone(lent, { transfer: [lent.buffer] }));
  assertEquals(lent[PAGE - 1], 2);
  memory.release();
  libc.close(kept);
});

Deno.test(
  "openRegionMemory() maps from the middle of a page",
  { ignore },
  () => {
    const libc = openLibc();
    const memory = openRegionMemory(libc, memfd(libc, 2, F_SEAL_SHRINK), {
      fileOffset: PAGE - 2,
      byteLength: 4,
    });
    assertEquals([...memory.lend(0, 4)!], [0, 0, 1, 1]);
    memory.release();
  },
);

Deno.test(
  "openRegionMemory() reaches a file that can shrink by calls, and survives it",
  { ignore },
  () => {
    const libc = openLibc();
    const fd = memfd(libc, 4);
    const kept = dup(libc, fd);
    const memory = openRegionMemory(libc, fd, {
      fileOffset: PAGE,
      byteLength: 3 * PAGE,
    });
    exercise(memory);
    assertEquals(memory.lend(0, PAGE), null);
    assertEquals(libc.ftruncate(kept, PAGE + 10), 0);
    const bytes = alignedMemory(16);
    memory.read(0, bytes.subarray(0, 10));
    assertThrows(() => memory.read(0, bytes), GuestFault);
    assertThrows(() => memory.loadU16(2 * PAGE), GuestFault);
    libc.ftruncate(kept, 0);
    assertThrows(() => memory.loadU16(0), GuestFault);
    memory.release();
    libc.close(kept);
  },
);

Deno.test(
  "openRegionMemory() writes where it is told, whatever the front end sets on its descriptor",
  { ignore },
  () => {
    const libc = openLibc();
    const fd = memfd(libc, 4);
    const kept = dup(libc, fd);
    const { fcntl, open, whence } = libc.abi;
    const append = () => libc.fcntl(kept, fcntl.F_SETFL, open.O_APPEND);
    // Before and after: it is the sender's to set at any time.
    assertEquals(append(), 0);
    const memory = openRegionMemory(libc, fd, {
      fileOffset: PAGE,
      byteLength: 3 * PAGE,
    });
    assertEquals(append(), 0);
    exercise(memory);
    assertEquals(libc.lseek(kept, 0, whence.SEEK_END), 4 * PAGE);
    // The sender's descriptor is not needed any more.
    assertEquals(libc.close(fd), -libc.abi.errno.EBADF);
    memory.release();
    libc.close(kept);
  },
);

Deno.test(
  "openRegionMemory() gets at no more of a file than it was given",
  { ignore },
  () => {
    const libc = openLibc();
    const { O_RDONLY, O_WRONLY } = libc.abi.open;
    for (const mode of [O_RDONLY, O_WRONLY]) {
      for (const seals of [0, F_SEAL_SHRINK]) {
        const whole = memfd(libc, 1, seals);
        const fd = libc.open(`/proc/self/fd/${whole}`, mode);
        assertThrows(
          () => openRegionMemory(libc, fd, { fileOffset: 0, byteLength: PAGE }),
          GuestFault,
        );
        assertEquals(libc.close(fd), -libc.abi.errno.EBADF);
        libc.close(whole);
      }
    }
  },
);

Deno.test("openRegionMemory() reaches a file on tmpfs by calls", {
  ignore: !hasTmpfs(),
}, async () => {
  const libc = openLibc();
  await using dir = await tmpfsDir();
  const bytes = new Uint8Array(4 * PAGE);
  for (let i = 0; i < bytes.length; i++) bytes[i] = Math.floor(i / PAGE);
  const path = await dir.file("memory", bytes);
  const memory = openRegionMemory(
    libc,
    libc.open(path, libc.abi.open.O_RDWR),
    { fileOffset: PAGE, byteLength: 3 * PAGE },
  );
  exercise(memory);
  memory.release();
});

Deno.test(
  "openRegionMemory() refuses what is no file in memory, and closes it",
  { ignore },
  async () => {
    const libc = openLibc();
    await using dir = await tempDir();
    const path = await dir.file("memory", 2 * PAGE);
    const { O_RDWR } = libc.abi.open;
    const opened = [
      libc.open(path, O_RDWR),
      libc.open("/dev/zero", O_RDWR),
      libc.open(dir.path, 0),
    ];
    for (const fd of opened) {
      // The directory for temporary files may be one in memory.
      if (memoryFile(libc, fd) !== null) {
        libc.close(fd);
        continue;
      }
      assertThrows(
        () => openRegionMemory(libc, fd, { fileOffset: 0, byteLength: PAGE }),
        GuestFault,
        "must be a file in memory",
      );
      assertEquals(libc.close(fd), -libc.abi.errno.EBADF);
    }
  },
);

Deno.test("openRegionMemory() refuses a file that is shorter than the region", {
  ignore,
}, () => {
  const libc = openLibc();
  for (const seals of [0, F_SEAL_SHRINK]) {
    for (const [fileOffset, byteLength] of [[0, PAGE + 1], [2 ** 50, 1]]) {
      const fd = memfd(libc, 1, seals);
      assertThrows(
        () =>
          openRegionMemory(libc, fd, {
            fileOffset: fileOffset!,
            byteLength: byteLength!,
          }),
        GuestFault,
        "current value is 4096",
      );
      assertEquals(libc.close(fd), -libc.abi.errno.EBADF);
    }
  }
});

Deno.test("openRegionMemory() refuses a file that cannot be written", {
  ignore,
}, () => {
  const libc = openLibc();
  const fd = memfd(libc, 1, F_SEAL_SHRINK | F_SEAL_WRITE);
  assertThrows(
    () => openRegionMemory(libc, fd, { fileOffset: 0, byteLength: PAGE }),
    GuestFault,
    "Cannot map",
  );
  const unsealed = openRegionMemory(libc, memfd(libc, 1, F_SEAL_WRITE), {
    fileOffset: 0,
    byteLength: PAGE,
  });
  assertThrows(() => unsealed.storeU16(0, 1), GuestFault);
  unsealed.release();
});
