/**
 * Which engine an image gets, and that it says why: where system calls are
 * forbidden, where limits are reached, where the medium is memory.
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertGreater,
  assertLess,
  assertMatch,
  assertRejects,
} from "@std/assert";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { DiskError } from "../../src/errors.ts";
import type { EngineInfo } from "../../src/info.ts";
import { Random } from "../../src/random.ts";
import { hasTmpfs, needs, tempDir, tmpfsDir } from "../helpers.ts";
import {
  ENGINES,
  failingFile,
  hasDirect,
  hasEngine,
  pause,
  program,
  SERVED_TOOLS,
} from "../backends/direct/harness.ts";

const MIB = 1_048_576;

const noDirect = Deno.build.os !== "linux" || !await hasDirect();

/** What a disk says of itself and shows. */
interface Shown {
  engine: EngineInfo;
  /** Whether I/O is direct. */
  direct: boolean;
  /** What was written, read back. */
  byte: number;
}

/**
 * Opens a new image while some system calls fail. It is a hole, which answers
 * no trial read, so that the medium's speed decides nothing.
 */
async function opened(
  inject: string[],
  options: Record<string, unknown> = {},
): Promise<Shown | { kind: string; message: string }> {
  await using dir = await tempDir();
  const path = await dir.file("disk.img", MIB);
  return await program(
    `
    try {
      await using disk = await VirtualDisk.open(path, {
        backend: "direct", ...${JSON.stringify(options)},
      });
      const all = [];
      for (let i = 0; i < 64; i++) {
        all.push(disk.write(i * 16, disk.allocate(8).fill(i)));
      }
      await Promise.all(all);
      await disk.flush();
      return {
        engine: disk.info.engine,
        direct: disk.info.direct.active,
        byte: (await disk.read(42 * 16, 8))[4095],
      };
    } catch (error) {
      return tell(error);
    }
    `,
    { args: [path], inject },
  );
}

const CASES: [
  title: string,
  inject: string[],
  chosen: string,
  reasons: RegExp[],
][] = [
  [
    "io_uring is forbidden",
    ["io_uring_setup:error=EPERM"],
    "libaio",
    [/not permitted \(seccomp, or kernel\.io_uring_disabled\)/],
  ],
  [
    "a filter hides io_uring",
    ["io_uring_setup:error=ENOSYS"],
    "libaio",
    [/no io_uring, or a filter hides it/],
  ],
  [
    "there is no memory for io_uring",
    ["io_uring_setup:error=ENOMEM"],
    "libaio",
    [/RLIMIT_MEMLOCK/],
  ],
  [
    "io_uring fails in an odd way",
    ["io_uring_setup:error=EMFILE"],
    "libaio",
    [/io_uring_setup failed with EMFILE/],
  ],
  [
    "the kernel knows none of the flags",
    ["io_uring_setup:error=EINVAL"],
    "libaio",
    [/io_uring_setup failed with EINVAL/],
  ],
  [
    "the kernel cannot tell its operations",
    ["io_uring_register:error=EINVAL"],
    "libaio",
    [/lacks operations/],
  ],
  [
    "io_uring can be set up and not entered",
    ["io_uring_enter:error=EPERM"],
    "libaio",
    [/^io_uring_enter failed with EPERM$/],
  ],
  [
    "neither can be entered",
    ["io_uring_enter:error=ENOSYS", "io_submit:error=EPERM"],
    "sync",
    [/io_uring_enter failed with ENOSYS; io_submit failed with EPERM/],
  ],
  [
    "nothing comes back from AIO",
    ["io_uring_setup:error=EPERM", "io_getevents:error=ENOSYS"],
    "sync",
    [/not permitted.*io_getevents failed with ENOSYS/],
  ],
  [
    "both are hidden",
    ["io_uring_setup:error=EPERM", "io_setup:error=ENOSYS"],
    "sync",
    [/not permitted/, /no AIO, or a filter hides it/],
  ],
  [
    "all of AIO is in use",
    ["io_uring_setup:error=ENOSYS", "io_setup:error=EAGAIN"],
    "sync",
    [/no io_uring/, /fs\.aio-max-nr/],
  ],
  [
    "AIO fails in an odd way",
    ["io_uring_setup:error=ENOSYS", "io_setup:error=ENOMEM"],
    "sync",
    [/no io_uring/, /io_setup failed with ENOMEM/],
  ],
];

for (const [title, inject, chosen, reasons] of CASES) {
  Deno.test({
    name: `VirtualDisk.open() takes ${chosen} where ${title}, and says why`,
    ignore: !hasEngine("io_uring") || !hasEngine("libaio") ||
      needs("strace").ignore,
    async fn() {
      const shown = await opened(inject);
      assert("engine" in shown, JSON.stringify(shown));
      assertEquals(shown.byte, 42);
      // AIO that is not direct would block, and is not taken.
      if (!shown.direct) return;
      assertEquals(shown.engine.name, chosen);
      for (const reason of reasons) assertMatch(shown.engine.reason!, reason);
    },
  });
}

Deno.test({
  name: "VirtualDisk.open() takes io_uring of an older kernel",
  ignore: noDirect || !hasEngine("io_uring") || needs("strace").ignore,
  async fn() {
    for (const times of ["1", "1..2"]) {
      const shown = await opened([`io_uring_setup:error=EINVAL:when=${times}`]);
      assert("engine" in shown);
      assertEquals(shown.engine, { name: "io_uring", reason: null });
      assertEquals(shown.byte, 42);
    }
  },
});

for (const code of ["EPERM", "ENOSYS"]) {
  Deno.test({
    name: `VirtualDisk.open() makes do without statx, which fails with ${code}`,
    ignore: !hasEngine("sync") || needs("strace").ignore,
    async fn() {
      // From the start of the program on, so that Deno does without as well.
      const shown = await opened([`statx:error=${code}`]);
      assert("engine" in shown, JSON.stringify(shown));
      assertEquals(shown.byte, 42);
    },
  });
}

Deno.test({
  name: "VirtualDisk.open() takes no AIO for what is not direct",
  ignore: noDirect || !hasEngine("io_uring") || needs("strace").ignore,
  async fn() {
    const inject = ["io_uring_setup:error=EPERM"];
    const shown = await opened(inject, { direct: "never" });
    assert("engine" in shown);
    assertEquals(shown.engine.name, "sync");
    assertMatch(shown.engine.reason!, /not permitted.*AIO without direct I\/O/);
  },
});

for (
  const [engine, inject, reason] of [
    ["io_uring", "io_uring_setup:error=EPERM", /io_uring" as .*not permitted/],
    ["io_uring", "io_uring_setup:error=ENOSYS", /io_uring" as .*no io_uring/],
    ["libaio", "io_setup:error=ENOSYS", /libaio" as .*no AIO/],
    ["libaio", "io_setup:error=EAGAIN", /libaio" as .*fs\.aio-max-nr/],
  ] as const
) {
  Deno.test({
    name: `VirtualDisk.open() refuses engine "${engine}" after ${inject}`,
    ignore: needs("strace").ignore || !hasEngine("sync"),
    async fn() {
      const shown = await opened([inject], { engine });
      assert("kind" in shown);
      assertEquals(shown.kind, "platform");
      assertMatch(shown.message, reason);
    },
  });
}

Deno.test({
  name: "VirtualDisk.open() leaves no descriptor where an engine is refused",
  ignore: needs("strace").ignore || !hasEngine("sync"),
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", MIB);
    const [images, more, kinds] = await program<[number, number, string[]]>(
      `
      const links = () =>
        Array.from(Deno.readDirSync("/proc/self/fd"), ({ name }) => {
          try {
            return Deno.readLinkSync("/proc/self/fd/" + name);
          } catch {
            return "";
          }
        });
      const count = () => links().length;
      const all = [];
      const open = (engine) =>
        VirtualDisk.open(path, { backend: "direct", engine }).catch(tell);
      await open("io_uring");
      const before = count();
      for (let i = 0; i < 20; i++) {
        all.push((await open("io_uring")).kind, (await open("libaio")).kind);
      }
      const disk = await open("sync");
      await disk.close();
      const images = links().filter((link) => link === path).length;
      return [images, count() - before, [...new Set(all)]];
      `,
      {
        args: [path],
        inject: ["io_uring_setup:error=EPERM", "io_setup:error=EPERM"],
      },
    );
    assertEquals(kinds, ["platform"]);
    assertEquals(images, 0);
    // Each of 40 openings would leave one at least; the runtime has a few of its
    // own now and then.
    assertLess(more, 20);
  },
});

// Asked for

for (const engine of ENGINES) {
  Deno.test({
    name: `VirtualDisk.open() takes engine "${engine}" if it is asked for`,
    ignore: !hasEngine(engine),
    async fn() {
      await using dir = await tempDir();
      const path = await dir.file("disk.img", MIB);
      await using disk = await VirtualDisk.open(path, {
        backend: "direct",
        engine,
      });
      assertEquals(disk.info.engine, {
        name: engine,
        reason: `asked for: engine: "${engine}"`,
      });
      await disk.write(0, new Uint8Array(4096).fill(1));
      assertEquals((await disk.read(7, 1))[511], 1);
    },
  });
}

Deno.test({
  name: "VirtualDisk.open() refuses an engine that there is not",
  ignore: !hasEngine("sync"),
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", MIB);
    await assertRejects(
      () => VirtualDisk.open(path, { engine: "fast" as "auto" }),
      TypeError,
      `engine must be one of "auto", "io_uring", "libaio", "iocp", "sync"`,
    );
    const error = await assertRejects(
      () => VirtualDisk.open(path, { engine: "iocp" }),
      DiskError,
      "only Windows has completion ports",
    );
    assertEquals(error.kind, "platform");
  },
});

// Media

Deno.test({
  name: "VirtualDisk.open() takes blocking calls on tmpfs, and says why",
  ignore: !hasEngine("sync") || !hasTmpfs(),
  async fn() {
    await using dir = await tmpfsDir();
    const path = await dir.file("disk.img", new Random(1).bytes(MIB));
    await using disk = await VirtualDisk.open(path, { backend: "direct" });
    assertEquals(disk.info.engine.name, "sync");
    assertMatch(disk.info.engine.reason!, /tmpfs is memory/);
    for (const engine of ["io_uring", "libaio"] as const) {
      if (!hasEngine(engine)) continue;
      // Asked for, it is had here as well.
      await using other = await VirtualDisk.open(path, {
        backend: "direct",
        engine,
        lock: "none",
        readOnly: true,
      });
      assertEquals(other.info.engine.name, engine);
      assertEquals(
        await other.read(0, 2048),
        await disk.read(0, 2048),
      );
    }
  },
});

Deno.test({
  name: "VirtualDisk.open() takes io_uring on FUSE",
  ignore: !hasEngine("io_uring") || needs(...SERVED_TOOLS).ignore,
  async fn() {
    const content = new Random(1).bytes(MIB);
    await using file = await failingFile(content, []);
    await using disk = await VirtualDisk.open(file.path, {
      backend: "direct",
    });
    assertEquals(disk.info.engine, { name: "io_uring", reason: null });
    assertEquals(await disk.read(0, 64), content.slice(0, 32_768));
  },
});

/** A disk in memory, compressed, of our own. */
interface MemoryDevice extends AsyncDisposable {
  path: string;
}

const ZRAM = "/sys/class/zram-control";

function hasZram(): boolean {
  try {
    return Deno.statSync(`${ZRAM}/hot_add`).isFile;
  } catch {
    return false;
  }
}

/** Tells the kernel something; again while somebody, such as udev, has a look. */
async function tellKernel(path: string, word: string): Promise<void> {
  for (let left = 1200;; left--) {
    try {
      return await Deno.writeTextFile(path, word);
    } catch (error) {
      if (left === 0 || !(error instanceof Deno.errors.Busy)) throw error;
      await pause(50);
    }
  }
}

async function zram(sizeBytes: number): Promise<MemoryDevice> {
  // Reading it makes a device, and says which: zram.rst of the kernel.
  const name = (await Deno.readTextFile(`${ZRAM}/hot_add`)).trim();
  await using stack = new AsyncDisposableStack();
  stack.defer(() => tellKernel(`${ZRAM}/hot_remove`, name));
  await Deno.writeTextFile(
    `/sys/block/zram${name}/disksize`,
    String(sizeBytes),
  );
  stack.defer(() => tellKernel(`/sys/block/zram${name}/reset`, "1"));
  const path = `/dev/zram${name}`;
  // The file may be made by somebody else, a little later.
  for (let i = 0; i < 3000; i++) {
    try {
      await Deno.stat(path);
      break;
    } catch {
      await pause(20);
    }
  }
  const kept = stack.move();
  return { path, [Symbol.asyncDispose]: () => kept.disposeAsync() };
}

Deno.test({
  name: "VirtualDisk.open() explains itself on a disk in memory",
  ignore: !hasEngine("sync") || !hasZram() || needs("root").ignore,
  async fn() {
    await using device = await zram(16 * MIB);
    const content = new Random(1).bytes(MIB);
    {
      await using disk = await VirtualDisk.open(device.path, {
        backend: "direct",
      });
      await disk.write(0, content);
      await disk.flush();
    }
    const engines = ["auto", ...ENGINES] as const;
    for (const engine of engines) {
      if (!hasEngine(engine)) continue;
      await using disk = await VirtualDisk.open(device.path, {
        backend: "direct",
        engine,
      });
      const { info } = disk;
      if (engine === "auto") {
        console.log(`zram: ${info.engine.name}, ${info.engine.reason}`);
        // On a machine with much to do, a call may take long by chance.
        if (info.engine.name === "sync") {
          assertMatch(info.engine.reason!, /answers 4 KiB in [\d.]+ µs/);
        } else {
          assertEquals(info.engine.reason, null);
        }
      }
      assertEquals(info.blockSize, 4096);
      assertGreater(info.direct.offsetAlignment, 0);
      // Memory that is not aligned, which this driver writes beside.
      const memory = new Uint8Array(MIB + 8192).fill(0xa5);
      for (const offset of [1, 512, 4095]) {
        await disk.readInto(0, memory.subarray(offset, offset + MIB));
        assertEquals(memory.slice(offset, offset + MIB), content);
        assert(
          memory.subarray(offset + MIB).every((byte) => byte === 0xa5),
        );
        memory.fill(0xa5);
      }
      const all = Array.from({ length: 256 }, (_, i) => disk.read(i * 8, 8));
      for (const [i, bytes] of (await Promise.all(all)).entries()) {
        assertEquals(bytes, content.slice(i * 4096, (i + 1) * 4096));
      }
    }
  },
});

Deno.test({
  name:
    "VirtualDisk.open() has an explanation whenever it takes blocking calls",
  ignore: !hasEngine("sync"),
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", new Random(1).bytes(MIB));
    for (const direct of ["prefer", "never"] as const) {
      await using disk = await VirtualDisk.open(path, {
        backend: "direct",
        direct,
      });
      const { name, reason } = disk.info.engine;
      console.log(`direct: "${direct}": ${name}, ${reason}`);
      if (name === "sync") assert(reason !== null && reason.length > 10);
      assertEquals((await disk.read(0, 2048)).length, MIB);
    }
    await assertRejects(
      () => VirtualDisk.open(dir.join("none.img"), { engine: "io_uring" }),
      DiskError,
      "none.img",
    );
  },
});
