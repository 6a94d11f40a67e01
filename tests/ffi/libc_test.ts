import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { FALLOCATE, RWF } from "../../ffi/abi.ts";
import { Libc, MAX_TRANSFER, openLibc } from "../../ffi/libc.ts";
import { openLibcFunctions } from "../../ffi/library.ts";
import {
  addressOf,
  alignedMemory,
  IoVector,
  memoryAt,
} from "../../ffi/memory.ts";
import { statx } from "../../ffi/statx.ts";

const ignore = Deno.build.os !== "linux";
const ROOMS = [
  "block_device.ts",
  "file_lock.ts",
  "page_cache.ts",
  "statx.ts",
];
const root = new URL("../../", import.meta.url);

/** Runs with a new file, open for reading and writing. */
function withFile(
  run: (libc: Libc, fd: number, path: string) => void,
  flags = 0,
): void {
  const folder = Deno.makeTempDirSync();
  const libc = openLibc();
  const { O_RDWR, O_CREAT, O_CLOEXEC } = libc.abi.open;
  const path = `${folder}/disk.img`;
  const fd = libc.open(path, O_RDWR | O_CREAT | O_CLOEXEC | flags, 0o640);
  try {
    assert(fd >= 0, `open gave ${fd}`);
    run(libc, fd, path);
  } finally {
    if (fd >= 0) assertEquals(libc.close(fd), 0);
    Deno.removeSync(folder, { recursive: true });
  }
}

/** Memory filled with a pattern that depends on the seed. */
function pattern(byteLength: number, seed: number): Uint8Array<ArrayBuffer> {
  const memory = alignedMemory(byteLength);
  for (let i = 0; i < byteLength; i++) memory[i] = (i * 31 + seed * 7) & 0xff;
  return memory;
}

Deno.test({
  name: "openLibc() gives the same library each time, and leaves nothing open",
  ignore,
  fn() {
    assertEquals(openLibc(), openLibc());
  },
});

Deno.test({
  name: "Libc.open() applies the mode, and close() closes",
  ignore,
  fn() {
    withFile((_libc, _fd, path) => {
      assertEquals(Deno.statSync(path).mode! & 0o777, 0o640 & ~Deno.umask());
    });
    assertEquals(openLibc().close(-1), -9);
  },
});

Deno.test({
  name: "Libc returns -errno of the call that failed",
  ignore,
  fn() {
    const libc = openLibc();
    const memory = alignedMemory(512);
    const address = addressOf(memory);
    assertEquals(libc.open("/nowhere/at all", 0), -2);
    assertEquals(libc.open("/", libc.abi.open.O_RDWR), -21);
    assertEquals(libc.open("/etc/passwd/x", 0), -20);
    assertEquals(libc.open("/etc/passwd\0x", 0), -22);
    assertEquals(libc.pread(-1, address, 512, 0), -9);
    assertEquals(libc.pwrite(-1, address, 512, 0), -9);
    assertEquals(libc.fdatasync(-1), -9);
    assertEquals(libc.fsync(-1), -9);
    assertEquals(libc.ftruncate(-1, 0), -9);
    assertEquals(libc.lseek(-1, 0, 0), -9);
    assertEquals(libc.fcntl(-1, libc.abi.fcntl.F_GETFL), -9);
    assertEquals(libc.ioctl(-1, 0x5401), -9);
    assertEquals(libc.syscall(libc.abi.syscalls!.fsync, -1), -9);
    assertEquals(libc.syscall(100_000), -38);
    assertEquals(libc.mmap(0, 4096, 1, 1, -1, 0), -9);
    withFile((libc, fd) => {
      assertEquals(libc.pread(fd, address, 512, -1), -22);
      assertEquals(libc.pwrite(fd, 1, 512, 0), -14);
      assertEquals(libc.preadv(fd, 1, 1, 0), -14);
      assertEquals(libc.ioctl(fd, 0x1268, address), -25);
    });
    assertEquals(memory, new Uint8Array(512));
  },
});

Deno.test({
  name: "Libc.pwrite() and pread() carry bytes",
  ignore,
  fn() {
    withFile((libc, fd, path) => {
      const written = pattern(4096, 1);
      assertEquals(libc.pwrite(fd, addressOf(written), 4096, 512), 4096);
      const read = alignedMemory(8192);
      assertEquals(libc.pread(fd, addressOf(read), 8192, 0), 4608);
      assertEquals(read.subarray(512, 4608), written);
      assertEquals(libc.pread(fd, addressOf(read), 8192, 4608), 0);
      assertEquals(Deno.readFileSync(path), read.slice(0, 4608));
      assertEquals(libc.fdatasync(fd), 0);
      assertEquals(libc.fsync(fd), 0);
    });
  },
});

Deno.test({
  name: "Libc reaches offsets beyond 2 and 4 GiB",
  ignore,
  fn() {
    withFile((libc, fd) => {
      const read = alignedMemory(512);
      // Around every boundary where a half could be lost.
      const offsets = [2 ** 31 - 512, 2 ** 31, 2 ** 32 - 512, 2 ** 32];
      offsets.push(2 ** 32 + 2 ** 31, 2 ** 40 + 512, 2 ** 43);
      offsets.forEach((offset, seed) => {
        const written = pattern(512, seed);
        assertEquals(libc.pwrite(fd, addressOf(written), 512, offset), 512);
      });
      assertEquals(libc.ftruncate(fd, 2 ** 43 + 1024), 0);
      offsets.forEach((offset, seed) => {
        assertEquals(libc.pread(fd, addressOf(read), 512, offset), 512);
        assertEquals(read, pattern(512, seed));
      });
      const { SEEK_END, SEEK_SET, SEEK_DATA, SEEK_HOLE } = libc.abi.whence;
      assertEquals(libc.lseek(fd, 0, SEEK_END), 2 ** 43 + 1024);
      assertEquals(libc.lseek(fd, -(2 ** 42), SEEK_END), 2 ** 42 + 1024);
      assertEquals(libc.lseek(fd, 2 ** 42 + 1, SEEK_SET), 2 ** 42 + 1);
      assertEquals(libc.lseek(fd, 2 ** 41, SEEK_DATA), 2 ** 43);
      assertEquals(libc.lseek(fd, 2 ** 36, SEEK_HOLE), 2 ** 36);
      assertEquals(libc.lseek(fd, 2 ** 44, SEEK_DATA), -6);
    });
  },
});

Deno.test({
  name: "Libc.preadv() and pwritev() carry several segments",
  ignore,
  fn() {
    withFile((libc, fd) => {
      const written = pattern(8192, 3);
      const vector = new IoVector(3);
      const offset = 2 ** 33;
      // In another order than in memory, one of them empty.
      vector.set(0, addressOf(written) + 4096, 4096);
      vector.set(1, addressOf(written), 0);
      vector.set(2, addressOf(written), 4096);
      assertEquals(libc.pwritev(fd, vector.address, 3, offset), 8192);
      const read = alignedMemory(8192);
      vector.set(0, addressOf(read) + 4096, 4096);
      vector.set(1, addressOf(read), 4096);
      assertEquals(libc.preadv(fd, vector.address, 2, offset), 8192);
      assertEquals(read, written);
      read.fill(0);
      assertEquals(libc.preadv2(fd, vector.address, 2, offset, 0), 8192);
      assertEquals(read, written);
      // Starting with the second entry.
      assertEquals(libc.preadv(fd, vector.address + 16, 1, offset), 4096);
      assertEquals(read.slice(0, 4096), written.slice(4096));
    });
  },
});

Deno.test({
  name: "Libc.preadv() refuses more segments than iovecMax",
  ignore,
  fn() {
    withFile((libc, fd) => {
      const most = libc.abi.iovecMax;
      const memory = pattern(4096, 1);
      const vector = new IoVector(most + 1);
      for (let i = 0; i <= most; i++) vector.set(i, addressOf(memory), 4);
      assertEquals(libc.pwritev(fd, vector.address, most, 0), most * 4);
      assertEquals(libc.pwritev(fd, vector.address, most + 1, 0), -22);
    });
  },
});

Deno.test({
  name: "Libc.pwritev2() takes flags, and refuses unknown ones",
  ignore,
  fn() {
    withFile((libc, fd) => {
      const memory = pattern(4096, 4);
      const vector = new IoVector(1);
      vector.set(0, addressOf(memory), 4096);
      assertEquals(libc.pwritev2(fd, vector.address, 1, 0, RWF.DSYNC), 4096);
      assertEquals(libc.pwritev2(fd, vector.address, 1, 0, 1 << 30), -95);
      assertEquals(libc.pwritev2(fd, vector.address, 1, 8192, 0), 4096);
      assertEquals(libc.lseek(fd, 0, libc.abi.whence.SEEK_END), 12288);
    });
  },
});

Deno.test({
  name: "Libc.preadv2() and pwritev2() work by number",
  ignore,
  fn() {
    withFile((shared, fd) => {
      const { preadv2: _r, pwritev2: _w, ...others } = openLibcFunctions(
        shared.abi,
      );
      const libc = new Libc(shared.abi, {
        ...others,
        preadv2: undefined,
        pwritev2: undefined,
      });
      const memory = pattern(1024, 5);
      const read = alignedMemory(1024);
      const vector = new IoVector(1);
      vector.set(0, addressOf(memory), 1024);
      const offset = 2 ** 32 + 512;
      assertEquals(libc.pwritev2(fd, vector.address, 1, offset, 0), 1024);
      vector.set(0, addressOf(read), 1024);
      assertEquals(libc.preadv2(fd, vector.address, 1, offset, 0), 1024);
      assertEquals(read, memory);
      assertEquals(libc.preadv2(-1, vector.address, 1, 0, 0), -9);
    });
  },
});

Deno.test({
  name: "Libc cuts a transfer to MAX_TRANSFER",
  ignore,
  fn() {
    // What the kernel would do by itself, so that a count fits an i32.
    assertEquals(MAX_TRANSFER, 2 ** 31 - 4096);
    withFile((libc, fd) => {
      const memory = alignedMemory(512);
      libc.ftruncate(fd, 512);
      assertEquals(libc.pread(fd, addressOf(memory), 2 ** 32 + 512, 0), 512);
      assertEquals(memory, new Uint8Array(512));
    });
  },
});

Deno.test({
  name: "Libc.fallocate() allocates, frees and extends",
  ignore,
  fn() {
    withFile((libc, fd, path) => {
      const { KEEP_SIZE, PUNCH_HOLE } = FALLOCATE;
      assertEquals(libc.fallocate(fd, 0, 0, 65536), 0);
      assertEquals(Deno.statSync(path).size, 65536);
      assertEquals(libc.fallocate(fd, KEEP_SIZE, 2 ** 32, 65536), 0);
      assertEquals(Deno.statSync(path).size, 65536);
      const memory = pattern(65536, 1);
      libc.pwrite(fd, addressOf(memory), 65536, 0);
      assertEquals(libc.fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 4096, 8192), 0);
      libc.pread(fd, addressOf(memory), 65536, 0);
      const expected = pattern(65536, 1).fill(0, 4096, 12288);
      assertEquals(memory, expected);
      assertEquals(libc.fallocate(fd, PUNCH_HOLE, 0, 4096), -95);
      assertEquals(libc.fallocate(fd, 0, 0, 0), -22);
    });
  },
});

Deno.test({
  name: "Libc with O_DIRECT takes aligned I/O, and refuses misaligned I/O",
  ignore,
  fn() {
    const { open } = openLibc().abi;
    withFile((libc, fd) => {
      const status = statx(libc, fd);
      assert(typeof status === "object");
      const align = status.dioOffsetAlign;
      const flags = libc.fcntl(fd, libc.abi.fcntl.F_GETFL);
      assertEquals(flags & open.O_DIRECT!, open.O_DIRECT);
      const memory = pattern(16384, 2);
      const address = addressOf(memory);
      assertEquals(libc.pwrite(fd, address, 8192, 4096), 8192);
      assertEquals(libc.pread(fd, address + 8192, 8192, 4096), 8192);
      assertEquals(memory.slice(8192), memory.slice(0, 8192));
      // Only where the file system says that it refuses.
      if (!align) return;
      assertEquals(libc.pwrite(fd, address, 8192, 4096 + 1), -22);
      assertEquals(libc.pwrite(fd, address, align + 1, 4096), -22);
      assertEquals(libc.pread(fd, address + 1, 8192, 4096), -22);
      // O_DIRECT can be switched off, and then anything goes.
      const { F_SETFL } = libc.abi.fcntl;
      assertEquals(libc.fcntl(fd, F_SETFL, flags & ~open.O_DIRECT!), 0);
      assertEquals(libc.pread(fd, address + 1, 100, 4097), 100);
      assertEquals(memory.slice(1, 101), pattern(16384, 2).slice(1, 101));
    }, open.O_DIRECT);
  },
});

Deno.test({
  name: "Libc.mmap() maps memory, and munmap() lets go of it",
  ignore,
  fn() {
    withFile((libc, fd, path) => {
      const { PROT_READ, PROT_WRITE, MAP_SHARED } = libc.abi.mmap;
      assertEquals(libc.ftruncate(fd, 8192), 0);
      const flags = [PROT_READ | PROT_WRITE, MAP_SHARED] as const;
      const address = libc.mmap(0, 4096, ...flags, fd, 4096);
      assert(address > 0 && address % 4096 === 0);
      new Uint8Array(memoryAt(address, 4096)).fill(0x5a, 0, 3);
      assertEquals(libc.munmap(address, 4096), 0);
      assertEquals(
        [...Deno.readFileSync(path).subarray(4095, 4100)],
        [0, 0x5a, 0x5a, 0x5a, 0],
      );
      assertEquals(libc.mmap(0, 4096, ...flags, fd, 1), -22);
      assertEquals(libc.mmap(0, 4096, ...flags, -1, 0), -9);
      assertEquals(libc.munmap(1, 4096), -22);
    });
  },
});

Deno.test({
  name: "Libc keeps errno right through many calls and optimisation",
  ignore,
  fn() {
    withFile((libc, fd) => {
      const memory = alignedMemory(512);
      const address = addressOf(memory);
      assertEquals(libc.pwrite(fd, address, 512, 2 ** 40), 512);
      for (let i = 0; i < 20_000; i++) {
        // Spelt out, as an assertion each time would take most of the time.
        if (
          libc.pread(-1, address, 512, 0) !== -9 ||
          libc.pread(fd, address, 512, -512) !== -22 ||
          libc.pread(fd, address, 512, 2 ** 40) !== 512 ||
          libc.pread(fd, address, 512, 2 ** 40 + 512) !== 0 ||
          libc.pread(fd, 8, 512, 2 ** 40) !== -14
        ) throw new Error(`Wrong result in round ${i}`);
      }
      // Whose address was used is looked at last: it would be garbage otherwise.
      assertEquals(memory, new Uint8Array(512));
    });
  },
});

/** Runs a program that opens libc, and returns what it printed. */
async function openWith(...flags: string[]): Promise<string> {
  const program = `
    import { openLibc } from "${new URL("ffi/libc.ts", root)}";
    ${
    ROOMS.map((file) => `import "${new URL(`ffi/${file}`, root)}";`).join("\n")
  }
    console.log("imported");
    try {
      openLibc();
      console.log("opened");
    } catch (error) {
      console.log(error.name, error.kind, error.message);
    }`;
  const folder = await Deno.makeTempDir();
  try {
    const file = `${folder}/open.js`;
    await Deno.writeTextFile(file, program);
    const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "--no-prompt", "--no-config", "--quiet", ...flags, file],
      env: { NO_COLOR: "1" },
    }).output();
    const decoder = new TextDecoder();
    return decoder.decode(stdout) + decoder.decode(stderr);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test({
  name: "openLibc() needs --allow-ffi, and importing needs nothing",
  ignore,
  async fn() {
    const output = await openWith();
    assertStringIncludes(output, "imported\nFfiError permission");
    assertStringIncludes(output, "run with --allow-ffi");
  },
});

Deno.test({
  name: "openLibc() says that --allow-ffi for a path is not enough",
  ignore,
  async fn() {
    const output = await openWith("--allow-ffi=libc.so.6");
    assertStringIncludes(output, "limited to certain paths");
  },
});

Deno.test({
  name: "openLibc() needs no permission but --allow-ffi",
  ignore,
  async fn() {
    assertStringIncludes(await openWith("--allow-ffi"), "imported\nopened");
  },
});
