/**
 * The ring protocol against the kernel, and against a kernel of our own where
 * the real one cannot be brought to where it matters: indices near 2^32, old
 * kernels with two mappings, mappings that fail.
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertFalse,
  assertGreater,
  assertLessOrEqual,
} from "@std/assert";
import { Random } from "../../src/random.ts";
import { LINUX_ERRNO } from "../../ffi/errno.ts";
import {
  IORING_FEAT,
  IORING_OP,
  IORING_SETUP,
  IoUring,
  type IoUringOptions,
} from "../../ffi/io_uring.ts";
import { openLibc } from "../../ffi/libc.ts";
import { addressOf, alignedMemory, IoVector } from "../../ffi/memory.ts";
import { tempDir } from "../helpers.ts";
import { fakeLibc } from "./fake_library.ts";

const { EBADF, ENOMEM, EINVAL, ETIME, ECANCELED, ENOENT } = LINUX_ERRNO;

/** Whether there is an io_uring; containers often have none. */
const ignore = (() => {
  if (Deno.build.os !== "linux") return true;
  const ring = IoUring.setup(openLibc(), { entries: 1, flags: 0 });
  if (typeof ring === "number") {
    console.warn(`Some tests are skipped as io_uring_setup gives ${ring}`);
    return true;
  }
  ring.close();
  return false;
})();

function setup(options: Partial<IoUringOptions> = {}): IoUring {
  const ring = IoUring.setup(openLibc(), { entries: 8, flags: 0, ...options });
  assert(typeof ring !== "number", `io_uring_setup gave ${ring}`);
  return ring;
}

function nop(ring: IoUring, userData: number): boolean {
  return ring.prepareNop(userData);
}

/** Vectors that no call takes: IOV_MAX is 1,024 (include/uapi/linux/uio.h). */
const TOO_MANY_VECTORS = 2000;

/** A flag of a submission that there is not (IOSQE_*). */
const UNKNOWN_IOSQE = 0x80;

/** A submission that the kernel refuses as it looks at it. */
function prepareBad(ring: IoUring, userData: number): void {
  ring.prepareNop(userData, UNKNOWN_IOSQE);
}

/** Every completion that is there, as pairs. */
function reaped(ring: IoUring): [number, number][] {
  const all: [number, number][] = [];
  ring.drain((userData, result) => all.push([userData, result]));
  return all;
}

/** Waits for so many completions, which must come. */
function awaited(ring: IoUring, count: number): [number, number][] {
  const all: [number, number][] = [];
  for (let i = 0; i < 1000 && all.length < count; i++) {
    ring.enter(1, 100_000);
    all.push(...reaped(ring));
  }
  assertEquals(all.length, count);
  return all;
}

function test(title: string, fn: () => void | Promise<void>): void {
  Deno.test({ name: `IoUring ${title}`, ignore, fn });
}

/** Rings that are open. Those of Workers that have ended go when they do. */
function openRings(): number {
  return Array.from(Deno.readDirSync("/proc/self/fd"), ({ name }) => {
    try {
      return Deno.readLinkSync(`/proc/self/fd/${name}`);
    } catch {
      return "";
    }
  }).filter((link) => link.includes("io_uring")).length;
}

// Round and round

const SETUPS: [string, number][] = [
  ["no flags", 0],
  [
    "the flags that the engine wants",
    IORING_SETUP.SINGLE_ISSUER | IORING_SETUP.COOP_TASKRUN |
    IORING_SETUP.SUBMIT_ALL,
  ],
  ["DEFER_TASKRUN", IORING_SETUP.SINGLE_ISSUER | IORING_SETUP.DEFER_TASKRUN],
];

for (const [name, flags] of SETUPS) {
  test(`answers 20,000 operations in turn in 8 places, ${name}`, () => {
    const ring = IoUring.setup(openLibc(), { entries: 8, flags });
    // A kernel that does not know a flag says so, and has nothing to show.
    if (ring === -EINVAL) return;
    assert(typeof ring !== "number");
    try {
      const random = new Random(flags);
      let [made, answered] = [0, 0];
      while (made < 20_000) {
        // More than fits is refused, and what fits is not lost.
        const wanted = random.between(1, 9);
        for (let i = 0; i < wanted && nop(ring, made); i++) made++;
        assertEquals(ring.unsubmitted === ring.entries, wanted > 7);
        assertEquals(ring.enter(1, 1e6), Math.min(wanted, 8));
        assertEquals(ring.unsubmitted, 0);
        for (const [userData, result] of reaped(ring)) {
          assertEquals([userData, result], [answered++, 0]);
        }
      }
      assertEquals(answered, made);
      assertFalse(ring.hasCompletions);
    } finally {
      ring.close();
    }
  });
}

test("brings user data back as unsigned 32 bits", () => {
  const ring = setup();
  try {
    const wanted = [0, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff];
    for (const userData of wanted) assert(nop(ring, userData));
    ring.enter(0, 0);
    assertEquals(reaped(ring), wanted.map((userData) => [userData, 0]));
  } finally {
    ring.close();
  }
});

test("may be filled and entered from inside of a visit", () => {
  const ring = setup({ entries: 2 });
  try {
    nop(ring, 0);
    ring.enter(0, 0);
    const seen: number[] = [];
    while (ring.hasCompletions) {
      ring.drain((userData) => {
        seen.push(userData);
        if (userData === 500) return;
        assert(nop(ring, userData + 1));
        assertEquals(ring.enter(0, 0), 1);
      });
    }
    assertEquals(seen, Array.from({ length: 501 }, (_, i) => i));
  } finally {
    ring.close();
  }
});

// More completions than the ring holds

for (const [name, flags] of SETUPS) {
  test(`loses no completion when its ring overflows, ${name}`, () => {
    const ring = IoUring.setup(openLibc(), { entries: 4, flags });
    if (ring === -EINVAL) return;
    assert(typeof ring !== "number");
    try {
      assert(ring.features & IORING_FEAT.NODROP);
      assertEquals(ring.completionEntries, 8);
      const deferred = (flags & IORING_SETUP.DEFER_TASKRUN) !== 0;
      let made = 0;
      for (let round = 0; round < 10; round++) {
        for (let i = 0; i < 4; i++) assert(nop(ring, made++));
        while (ring.unsubmitted > 0) assert(ring.enter(0, 0) >= -16);
      }
      assert(ring.overflown || deferred);
      const seen: number[] = [];
      let first = 0;
      for (let i = 0; i < 1000 && seen.length < made; i++) {
        const found = reaped(ring);
        first ||= found.length;
        seen.push(...found.map(([userData]) => userData));
        ring.enter(seen.length < made ? 1 : 0, 1000);
      }
      assert(first <= 8);
      assertEquals(seen, Array.from({ length: made }, (_, i) => i));
      assertFalse(ring.overflown);
      assertFalse(ring.hasCompletions);
    } finally {
      ring.close();
    }
  });
}

// Results

test("brings back -errno, of each operation its own", async () => {
  await using dir = await tempDir();
  const libc = openLibc();
  const path = await dir.file("disk.img", new Uint8Array(8192).fill(7));
  const { O_RDONLY, O_DIRECT } = libc.abi.open;
  const fd = libc.open(path, O_RDONLY);
  const direct = libc.open(path, O_RDONLY | (O_DIRECT ?? 0));
  const memory = alignedMemory(4096);
  const at = addressOf(memory);
  const ring = setup({ flags: IORING_SETUP.SUBMIT_ALL });
  try {
    assert(fd >= 0 && direct >= 0);
    ring.prepareRead(fd, at, 4096, 4096, 1);
    ring.prepareRead(9999, at, 4096, 0, 2);
    ring.prepareWrite(fd, at, 4096, 0, 0, 3);
    ring.prepareRead(direct, at + 1, 100, 1, 4);
    ring.prepareReadv(fd, at, TOO_MANY_VECTORS, 0, 5);
    ring.prepareRead(fd, at, 4096, 8192, 6);
    ring.prepareRead(fd, at, 4096, 8000, 7);
    ring.prepareFdatasync(fd, 8);
    const all = new Map(awaited(ring, 8));
    // A file system may take any alignment of memory, but no odd offset.
    assertEquals(all.get(4), -EINVAL);
    all.delete(4);
    assertEquals(
      [...all].toSorted(([a], [b]) => a - b),
      [[1, 4096], [2, -EBADF], [3, -EBADF], [5, -EINVAL], [6, 0], [7, 192], [
        8,
        0,
      ]],
    );
  } finally {
    ring.close();
    libc.close(fd);
    libc.close(direct);
  }
});

test("stops at a bad submission without SUBMIT_ALL, and goes on after it", () => {
  const ring = setup();
  try {
    nop(ring, 1);
    prepareBad(ring, 2);
    nop(ring, 3);
    nop(ring, 4);
    assertEquals(ring.enter(0, 0), 2);
    assertEquals(ring.unsubmitted, 2);
    assertEquals(ring.unsubmitted, 2);
    nop(ring, 5);
    assertEquals(ring.enter(0, 0), 3);
    assertEquals(reaped(ring), [
      ...[[1, 0], [2, -EINVAL], [3, 0], [4, 0], [5, 0]] as [number, number][],
    ]);
  } finally {
    ring.close();
  }
});

test("moves data where it says, and beyond 4 GiB", async () => {
  await using dir = await tempDir();
  const libc = openLibc();
  const far = 5 * 2 ** 30 + 4096;
  const path = await dir.file("disk.img", far + 4096);
  const fd = libc.open(path, libc.abi.open.O_RDWR);
  const ring = setup();
  try {
    const data = alignedMemory(4096).fill(0xa5);
    const back = [alignedMemory(4096), alignedMemory(4096)];
    const vector = new IoVector(2);
    vector.set(0, addressOf(data), 1024);
    vector.set(1, addressOf(data) + 1024, 3072);
    ring.prepareWritev(fd, vector.address, 2, far, 0, 1);
    ring.enter(0, 0);
    // What a submission points to is the caller's again.
    assert(ring.features & IORING_FEAT.SUBMIT_STABLE);
    vector.set(0, 0, 0);
    vector.set(1, 0, 0);
    assertEquals(awaited(ring, 1), [[1, 4096]]);
    ring.prepareRead(fd, addressOf(back[0]!), 4096, far, 2);
    // Where the offset would be if its upper half were lost.
    ring.prepareRead(fd, addressOf(back[1]!), 4096, far % 2 ** 32, 3);
    awaited(ring, 2);
    assertEquals(back[0], data);
    assertEquals(back[1], new Uint8Array(4096));
  } finally {
    ring.close();
    libc.close(fd);
  }
});

// Waiting

test("ends a wait with ETIME when nothing comes", () => {
  const ring = setup();
  try {
    assertEquals(ring.enter(1, 1), -ETIME);
    assertEquals(ring.enter(1, 20_000), -ETIME);
    // What is there ends a wait of any length.
    nop(ring, 1);
    assertEquals(ring.enter(1, 3_600e6 + 999_999), 1);
    assertEquals(reaped(ring), [[1, 0]]);
  } finally {
    ring.close();
  }
});

/** Both ends of a pipe that stays empty. */
function pipe(): { reader: number; close: () => void } {
  const libc = openLibc();
  const path = Deno.makeTempFileSync();
  Deno.removeSync(path);
  const made = new Deno.Command("mkfifo", { args: [path] }).outputSync();
  assert(made.success);
  // Opened for both, a FIFO waits for nobody: fifo(7).
  const reader = libc.open(path, libc.abi.open.O_RDWR);
  assert(reader >= 0);
  return {
    reader,
    close: () => {
      libc.close(reader);
      Deno.removeSync(path);
    },
  };
}

test("cancels what waits, and says what there was not", () => {
  const { reader, close } = pipe();
  const ring = setup();
  const memory = alignedMemory(4096);
  try {
    ring.prepareRead(reader, addressOf(memory), 4096, 0, 7);
    ring.prepareRead(reader, addressOf(memory), 4096, 0, 8);
    assertEquals(ring.enter(0, 0), 2);
    assertEquals(ring.enter(1, 1000), -ETIME);
    ring.prepareCancel(7, 100);
    ring.prepareCancel(99, 101);
    assertEquals(
      new Map(awaited(ring, 3)),
      new Map([[7, -ECANCELED], [100, 0], [101, -ENOENT]]),
    );
    // The other one still waits.
    assertEquals(ring.enter(1, 1000), -ETIME);
    ring.prepareCancel(8, 102);
    awaited(ring, 2);
  } finally {
    ring.close();
    close();
  }
});

// Setting up, and closing

test("is not set up with what the kernel does not know", () => {
  const libc = openLibc();
  const cases: IoUringOptions[] = [
    { entries: 8, flags: 0x4000_0000 },
    { entries: 0, flags: 0 },
    { entries: 32_769, flags: 0 },
    // Only one thread may wait for what is deferred.
    { entries: 8, flags: IORING_SETUP.DEFER_TASKRUN },
  ];
  const open = openRings();
  for (const options of cases) {
    assertEquals(IoUring.setup(libc, options), -EINVAL);
  }
  assertLessOrEqual(openRings(), open);
});

test("rounds its size up, and down to what there can be", () => {
  const ring = setup({ entries: 5 });
  assertEquals([ring.entries, ring.completionEntries], [8, 16]);
  ring.close();
  const most = setup({ entries: 40_000, flags: IORING_SETUP.CLAMP });
  assertEquals(most.entries, 32_768);
  most.close();
});

test("knows which operations there are", () => {
  const ring = setup();
  try {
    const operations = ring.operations();
    for (const operation of Object.values(IORING_OP)) {
      assertEquals(typeof operations[operation], "boolean");
    }
    assert(operations[IORING_OP.NOP]);
    assert(operations[IORING_OP.READ]);
    assertFalse(operations[250] ?? false);
  } finally {
    ring.close();
  }
});

test("leaves nothing behind when it is closed", async () => {
  const open = openRings();
  const mapped = async () =>
    (await Deno.readTextFile("/proc/self/maps")).split("\n")
      .filter((line) => line.includes("io_uring")).length;
  const before = await mapped();
  for (let i = 0; i < 300; i++) {
    const ring = setup({ entries: 64 });
    nop(ring, 1);
    ring.enter(0, 0);
    ring.close();
  }
  assertLessOrEqual(openRings(), open);
  assertLessOrEqual(await mapped(), before);
});

// A kernel of our own

interface FakeKernelOptions {
  /** Where the indices of both rings start. */
  start?: number;
  /** Whether one mapping holds both rings. */
  single?: boolean;
  /** Which mapping fails; none if not given. */
  failingMap?: number;
  /** Submissions that one call takes at most. */
  takes?: number;
}

/** Carries out every submission as an operation that brings back its length. */
function fakeKernel(options: FakeKernelOptions = {}) {
  const { start = 0, single = true, failingMap, takes = Infinity } = options;
  const entries = 4;
  const completions = 8;
  // Offsets as Linux 6.18 has them; apart, each ring has a mapping of its own.
  const offsets = { cqHead: 8, cqTail: 12, cqes: 64, array: 320 };
  const sq = alignedMemory(4096);
  const cq = single ? sq : alignedMemory(4096);
  const sqes = alignedMemory(4096);
  const view = (memory: Uint8Array) =>
    new DataView(memory.buffer, memory.byteOffset, memory.length);
  const [sqView, cqView, sqeView] = [view(sq), view(cq), view(sqes)];
  for (const at of [0, 4]) sqView.setUint32(at, start, true);
  for (const at of [offsets.cqHead, offsets.cqTail]) {
    cqView.setUint32(at, start, true);
  }
  const byOffset = new Map([
    [0, sq],
    [0x800_0000, cq],
    [0x1000_0000, sqes],
  ]);
  let maps = 0;
  const log = { unmapped: 0, closed: 0, enters: 0 };
  const fake = fakeLibc("linux", "x86_64", {
    mmap: (...args) => {
      if (maps++ === failingMap) {
        fake.setErrno(ENOMEM);
        return -1;
      }
      return addressOf(byOffset.get(Number(args[5]))!);
    },
    munmap: () => {
      log.unmapped++;
      return 0;
    },
    close: () => {
      log.closed++;
      return 0;
    },
    syscall: (...args) => {
      const [number, , submitted] = args.map(Number);
      const { syscalls } = fake.abi;
      if (number === syscalls!.io_uring_setup) {
        const params = new DataView(
          Deno.UnsafePointerView.getArrayBuffer(
            Deno.UnsafePointer.create(BigInt(args[2] as bigint))!,
            120,
          ),
        );
        const put = (at: number, value: number) =>
          params.setUint32(at, value, true);
        put(0, entries);
        put(4, completions);
        put(20, single ? IORING_FEAT.SINGLE_MMAP : 0);
        put(40, 0);
        put(44, 4);
        put(56, 36);
        put(64, offsets.array);
        put(80, offsets.cqHead);
        put(84, offsets.cqTail);
        put(100, offsets.cqes);
        return 77;
      }
      assertEquals(number, syscalls!.io_uring_enter);
      log.enters++;
      let head = sqView.getUint32(0, true);
      const tail = sqView.getUint32(4, true);
      assertEquals((tail - head) >>> 0, submitted);
      let taken = 0;
      for (; head !== tail && taken < takes; taken++) {
        const index = sqView.getUint32(
          offsets.array + (head % entries) * 4,
          true,
        );
        const cqTail = cqView.getUint32(offsets.cqTail, true);
        const at = offsets.cqes + (cqTail % completions) * 16;
        cqView.setUint32(
          at,
          sqeView.getUint32(index * 64 + 32, true),
          true,
        );
        cqView.setInt32(at + 8, sqeView.getInt32(index * 64 + 24, true), true);
        cqView.setUint32(offsets.cqTail, (cqTail + 1) >>> 0, true);
        head = (head + 1) >>> 0;
      }
      sqView.setUint32(0, head, true);
      return taken;
    },
  });
  return { libc: fake.libc, log };
}

for (const single of [true, false]) {
  for (const takes of [1, 3, Infinity]) {
    const rings = single ? "one mapping" : "two mappings";
    Deno.test({
      name:
        `IoUring goes on where indices pass 2^32, ${rings}, ${takes} at once`,
      ignore: Deno.build.os !== "linux",
      fn() {
        for (const start of [2 ** 32 - 7, 2 ** 31 - 7]) {
          const { libc, log } = fakeKernel({ start, single, takes });
          const ring = IoUring.setup(libc, { entries: 4, flags: 0 });
          assert(typeof ring !== "number");
          let [made, answered] = [0, 0];
          const answer = (userData: number, result: number) => {
            assertEquals([userData, result], [answered, answered + 1000]);
            answered++;
          };
          for (let round = 0; round < 20; round++) {
            while (ring.unsubmitted < ring.entries) {
              ring.prepareRead(-1, 0, made + 1000, 0, made);
              made++;
            }
            assertFalse(nop(ring, 0));
            assertFalse(ring.prepareDiscard(1, 0, 512, 0));
            const before = ring.unsubmitted;
            const taken = ring.enter(0, 0);
            assertEquals(taken, Math.min(takes, before));
            assertEquals(ring.unsubmitted, before - taken);
            assertEquals(ring.hasCompletions, true);
            ring.drain(answer);
            assertFalse(ring.hasCompletions);
          }
          while (ring.unsubmitted > 0) ring.enter(0, 0);
          ring.drain(answer);
          assertEquals(answered, made);
          assertGreater(made, 14);
          ring.close();
          assertEquals(log.unmapped, single ? 2 : 3);
          assertEquals(log.closed, 1);
        }
      },
    });
  }
}

for (
  const [failingMap, single] of [[0, true], [1, true], [2, false]] as const
) {
  Deno.test({
    name: `IoUring is closed again if mapping ${failingMap + 1} fails, ${
      single ? "one" : "two"
    } for the rings`,
    ignore: Deno.build.os !== "linux",
    fn() {
      const { libc, log } = fakeKernel({ failingMap, single });
      assertEquals(IoUring.setup(libc, { entries: 4, flags: 0 }), -ENOMEM);
      assertEquals([log.unmapped, log.closed], [failingMap, 1]);
    },
  });
}

test("tells without a call that the kernel has work to post", async () => {
  const flags = IORING_SETUP.COOP_TASKRUN | IORING_SETUP.TASKRUN_FLAG;
  const ring = IoUring.setup(openLibc(), { entries: 8, flags });
  // Linux 5.19 has it.
  if (ring === -EINVAL) return;
  assert(typeof ring !== "number", `io_uring_setup gave ${ring}`);
  await using dir = await tempDir();
  const path = await dir.file("disk.img", 65_536);
  const libc = openLibc();
  const { O_RDWR, O_DIRECT } = libc.abi.open;
  const fd = libc.open(path, O_RDWR | (O_DIRECT ?? 0));
  assert(fd >= 0);
  const memory = alignedMemory(4096, 4096);
  assertFalse(ring.hasWork);
  ring.prepareRead(fd, addressOf(memory), 4096, 0, 7);
  ring.enter(0, 0);
  const deadline = performance.now() + 120_000;
  while (!ring.hasWork && !ring.hasCompletions) {
    assert(performance.now() < deadline, "nothing is told");
  }
  ring.enter(0, 0);
  assertEquals(reaped(ring), [[7, 4096]]);
  assertFalse(ring.hasWork);
  libc.close(fd);
  ring.close();
});

test("takeBack() takes what the kernel has not, and the ring goes on", () => {
  const ring = setup({ entries: 4 });
  try {
    assertEquals(ring.lost, 0);
    // Until every index has wrapped around.
    for (let round = 0; round < 20; round++) {
      const count = round % 4 + 1;
      for (let i = 0; i < count; i++) assert(nop(ring, round * 10 + i));
      const back: number[] = [];
      ring.takeBack((userData) => back.push(userData));
      assertEquals(
        back,
        Array.from({ length: count }, (_, i) => round * 10 + i),
      );
      assertEquals(ring.unsubmitted, 0);
      assertEquals(ring.unsubmitted, ring.entries - 4);
      ring.enter(0, 0);
      assertEquals(reaped(ring), []);
      assert(nop(ring, round));
      ring.enter(1, 100_000);
      assertEquals(reaped(ring), [[round, 0]]);
    }
  } finally {
    ring.close();
  }
});
