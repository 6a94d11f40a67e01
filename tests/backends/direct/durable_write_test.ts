/**
 * Durable writes, counted where they must arrive: the flushes that the device
 * below a file system completes, or that a FUSE file system is sent.
 *
 * @module
 */

import { assert, assertEquals, assertGreater } from "@std/assert";
import { writesDurably } from "../../../src/backends/direct/durable_write.ts";
import { VirtualDisk } from "../../../src/disk/disk.ts";
import { DiskError } from "../../../src/errors.ts";
import type { DirectInfo } from "../../../src/info.ts";
import type { OpenOptions } from "../../../src/disk/open.ts";
import {
  hasTmpfs,
  LONG,
  loopDevice,
  mount,
  needs,
  run,
  tempDir,
  tmpfsDir,
  untilListening,
} from "../../helpers.ts";
import { hasDirect } from "./harness.ts";

const MIB = 1_048_576;

/** An image, and how many flushes arrived below it. */
interface Counted extends AsyncDisposable {
  readonly path: string;
  /** Flushes so far. */
  flushes(): Promise<number>;
}

/** Flushes that a block device completed: Documentation/block/stat.rst. */
async function deviceFlushes(device: string): Promise<number> {
  const name = device.slice(device.lastIndexOf("/") + 1);
  const fields = await Deno.readTextFile(`/sys/block/${name}/stat`);
  return Number(fields.trim().split(/\s+/)[15]);
}

/** Data everywhere, so that nothing has to be allocated later. */
async function fill(path: string, bytes: number): Promise<void> {
  using file = await Deno.create(path);
  await file.write(new Uint8Array(bytes).fill(1));
  await file.sync();
}

type OnLoop = "ext4" | "xfs" | "btrfs" | "btrfs NOCOW" | "overlay" | "device";

/** An image on a loop device, or the device itself. */
async function onLoop(what: OnLoop, tail = 0): Promise<Counted> {
  await using stack = new AsyncDisposableStack();
  const dir = stack.use(await tempDir());
  const kind = what === "overlay" ? "ext4" : what.split(" ")[0]!;
  const size = { ext4: 48, xfs: 320, btrfs: 128 }[kind] ?? 8;
  const backing = await dir.file("back", size * MIB);
  const loop = stack.use(await loopDevice(backing, tail === 0 ? 512 : 4096));
  let path = loop.path;
  if (kind !== "device") {
    const force = kind === "ext4" ? "-F" : "-f";
    await run(`mkfs.${kind}`, ["-q", force, loop.path]);
    const at = stack.use(await mount(loop.path, dir.join("mnt")));
    path = at.join("disk.img");
    if (what === "overlay") {
      for (const name of ["lower", "upper", "work"]) {
        await Deno.mkdir(at.join(name));
      }
      const over = stack.use(
        await mount(
          "overlay",
          dir.join("over"),
          "-t",
          "overlay",
          "-o",
          [
            `lowerdir=${at.join("lower")}`,
            `upperdir=${at.join("upper")}`,
            `workdir=${at.join("work")}`,
          ].join(","),
        ),
      );
      path = over.join("disk.img");
    }
    if (what === "btrfs NOCOW") {
      await Deno.writeFile(path, new Uint8Array());
      await run("chattr", ["+C", path]);
    }
    await fill(path, 8 * MIB + tail);
  }
  const kept = stack.move();
  return {
    path,
    flushes: () => deviceFlushes(loop.path),
    [Symbol.asyncDispose]: () => kept.disposeAsync(),
  };
}

/** A program that is ended when it is disposed of. */
function background(command: string, args: string[]): AsyncDisposable {
  const child = new Deno.Command(command, {
    args,
    stdin: "null",
    stdout: "null",
    stderr: "null",
  }).spawn();
  return {
    async [Symbol.asyncDispose]() {
      try {
        child.kill();
      } catch {
        // It has ended already.
      }
      await child.status;
    },
  };
}

/** Waits until something is so; a program that is beginning takes its time. */
async function until(
  what: string,
  holds: () => Promise<boolean>,
): Promise<void> {
  for (let i = 0; i < 2400; i++) {
    if (await holds()) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`Cannot go on as this never was so: ${what}`);
}

const exists = (path: string) => Deno.stat(path).then(() => true, () => false);

/** An image on a FUSE file system that logs what it is sent. */
async function onFuse(): Promise<Counted> {
  await using stack = new AsyncDisposableStack();
  const dir = stack.use(await tempDir());
  const [socket, log] = [dir.join("sock"), dir.join("log")];
  const server = ["-f", "-U", socket, "--filter=log", "memory", "size=8M"];
  stack.use(background("nbdkit", [...server, `logfile=${log}`]));
  await untilListening(socket);
  await Deno.mkdir(dir.join("mnt"));
  const path = dir.join("mnt/disk.img");
  stack.use(background("nbdfuse", [path, `nbd+unix:///?socket=${socket}`]));
  stack.defer(async () => {
    await run("fusermount3", ["-u", "-z", dir.join("mnt")]);
  });
  await until("nbdfuse shows the file", () => exists(path));
  const kept = stack.move();
  return {
    path,
    async flushes() {
      const lines = await Deno.readTextFile(log);
      return lines.match(/ Flush id=/g)?.length ?? 0;
    },
    [Symbol.asyncDispose]: () => kept.disposeAsync(),
  };
}

/** Every way for a write to reach the kernel, durable when it is done. */
async function assertDurable(
  image: Counted,
  options: OpenOptions,
  title: string,
): Promise<VirtualDisk["info"]> {
  await using disk = await VirtualDisk.open(image.path, options);
  const fua = options.writeCache === "writethrough" ? {} : { fua: true };
  const page = disk.allocate(8).fill(3);
  const large = new Uint8Array(2 * MIB + 512).fill(4).subarray(512);
  const step = async (
    name: string,
    write: () => Promise<unknown>,
    before: () => Promise<unknown> = () => Promise.resolve(),
  ) => {
    for (let i = 0; i < (LONG ? 8 : 2); i++) {
      await before();
      const had = await image.flushes();
      await write();
      assertGreater(await image.flushes(), had, `${title}: ${name}`);
    }
  };
  const dirty = () => disk.write(64, disk.allocate(8).fill(5));
  await step("a page", () => disk.write(64, page, fua));
  await step("a sector", () => disk.write(65, page.subarray(0, 512), fua));
  await step("many pieces", () => disk.write(128, large, fua));
  await step("merged ones", () =>
    Promise.all([
      disk.write(64, page, fua),
      disk.write(72, disk.allocate(8), fua),
      disk.write(80, new Uint8Array(512), fua),
    ]));
  await step(
    "the last sectors",
    () => disk.write(disk.sectors - 3, new Uint8Array(1536).fill(6), fua),
  );
  await step("zeroes", () => disk.writeZeroes(64, 8, fua), dirty);
  await step(
    "zeroes, unmapped",
    () => disk.writeZeroes(64, 8, { ...fua, unmap: true }),
    dirty,
  );
  if (options.writeCache === "writethrough") {
    try {
      await step("a discard", () => disk.discard(64, 8), dirty);
    } catch (error) {
      if (!(error instanceof DiskError)) throw error;
      assertEquals(error.kind, "unsupported");
    }
  }
  return disk.info;
}

const ENGINES = ["io_uring", "libaio", "sync", "portable"] as const;

/** All that there are, or only the ways by which the kernel is reached. */
function variants(): OpenOptions[] {
  const all: OpenOptions[] = [];
  for (const engine of ENGINES) {
    for (
      const direct of LONG ? ["prefer", "never"] as const : ["prefer"] as const
    ) {
      for (
        const writeCache of LONG
          ? ["writeback", "writethrough"] as const
          : ["writeback"] as const
      ) {
        all.push({
          ...(engine === "portable" ? { backend: engine } : { engine }),
          direct,
          writeCache,
        });
      }
    }
  }
  return all;
}

/** Whether an engine is missing here, which says so. */
function isMissing(error: unknown): boolean {
  const missing = error instanceof DiskError && error.kind === "platform";
  if (missing) console.warn(`A variant is skipped: ${error.message}`);
  return missing;
}

function countingTest(
  where: string,
  native: boolean,
  make: () => Promise<Counted>,
  options: { ignore: boolean },
): void {
  Deno.test({
    name: `VirtualDisk has no durable write without a flush below, on ${where}`,
    ...options,
    async fn() {
      await using image = await make();
      for (const variant of variants()) {
        const title = `${where} ${JSON.stringify(variant)}`;
        let info;
        try {
          info = await assertDurable(image, variant, title);
        } catch (error) {
          if (!isMissing(error)) throw error;
          continue;
        }
        const expected = native && info.backend === "direct" &&
          info.direct.active;
        assertEquals(
          [info.abilities.fua, info.durability.fua],
          expected
            ? ["native", "RWF_DSYNC"]
            : ["emulated", "write + fdatasync"],
          title,
        );
      }
    },
  });
}

countingTest("FUSE", false, onFuse, needs("nbdkit", "nbdfuse", "fusermount3"));

for (const [where, native] of [["ext4", true], ["device", true]] as const) {
  countingTest(
    where,
    native,
    () => onLoop(where),
    needs("root", "losetup", "mkfs.ext4"),
  );
}

if (LONG) {
  countingTest(
    "ext4, where the file ends inside a block",
    false,
    () => onLoop("ext4", 1536),
    needs("root", "losetup", "mkfs.ext4"),
  );
  for (
    const [where, native, tool] of [
      ["xfs", true, "mkfs.xfs"],
      ["btrfs", false, "mkfs.btrfs"],
      ["btrfs NOCOW", false, "mkfs.btrfs"],
      ["overlay", false, "mkfs.ext4"],
    ] as const
  ) {
    countingTest(
      where,
      native,
      () => onLoop(where),
      needs("root", "losetup", tool, ...(native ? [] : ["chattr"])),
    );
  }
}

Deno.test({
  name: "VirtualDisk writes and flushes on tmpfs, which has no table entry",
  ignore: Deno.build.os !== "linux" || !hasTmpfs(),
  async fn() {
    await using dir = await tmpfsDir();
    const path = await dir.file("disk.img", MIB);
    await using disk = await VirtualDisk.open(path, { backend: "direct" });
    await disk.write(8, disk.allocate(8), { fua: true });
    assertEquals(disk.info.abilities.fua, "emulated");
    assertEquals(disk.info.durability.fua, "write + fdatasync");
  },
});

Deno.test({
  name:
    "VirtualDisk makes writes durable by its own syncs once parts of blocks were zeroed",
  ignore: Deno.build.os !== "linux" || !await hasDirect(),
  async fn() {
    await using dir = await tempDir();
    for (
      const [what, act] of [
        [
          "zeroes",
          (disk: VirtualDisk, odd: number) => disk.writeZeroes(8, 8 + odd),
        ],
        [
          "discard",
          (disk: VirtualDisk, odd: number) => disk.discard(8, 8 + odd),
        ],
        [
          "resize",
          (disk: VirtualDisk, odd: number) =>
            disk.resize(disk.sectors + 8 + odd),
        ],
      ] as const
    ) {
      const path = await dir.file(`${what}.img`, MIB);
      await using disk = await VirtualDisk.open(path, { backend: "direct" });
      const { fua } = disk.info.abilities;
      await act(disk, 0);
      assertEquals(disk.info.abilities.fua, fua, what);
      await act(disk, 1);
      // Zeroes that are written as data are in no cache.
      const isData = what !== "resize" &&
        disk.info.abilities[what === "zeroes" ? "writeZeroes" : "discard"] !==
          "native";
      assertEquals(disk.info.abilities.fua, isData ? fua : "emulated", what);
      await disk.write(0, disk.allocate(8), { fua: true });
    }
  },
});

Deno.test("writesDurably() holds for what was counted and nothing else", () => {
  const direct = { active: true } as DirectInfo;
  const buffered = { active: false } as DirectInfo;
  for (const name of ["ext4", "xfs"]) {
    assert(writesDurably("linux", "file", name, direct));
    assertEquals(writesDurably("linux", "file", name, buffered), false);
    assertEquals(writesDurably("freebsd", "file", name, direct), false);
  }
  assert(writesDurably("linux", "block device", null, direct));
  assertEquals(writesDurably("linux", "block device", null, buffered), false);
  assertEquals(writesDurably("linux", "character device", null, direct), false);
  for (
    const name of [
      ...["fuse", "nfs", "9p", "cifs", "smb2", "ceph", "overlay", "tmpfs"],
      ...["btrfs", "zfs", "f2fs", "bcachefs", "a later one"],
      null,
    ]
  ) {
    assertEquals(
      writesDurably("linux", "file", name, direct),
      false,
      `${name}`,
    );
  }
});
