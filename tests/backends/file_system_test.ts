/**
 * What images say of the file system that they are on, from both backends: the
 * overlays of this kernel above what they may lie on, and file systems of its
 * own, tried with data.
 *
 * @module
 */

import { assertEquals, assertMatch, assertRejects } from "@std/assert";
import {
  findOverlay,
  overlayOf,
  pathInUpper,
} from "../../src/backends/file_system.ts";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { DiskError } from "../../src/errors.ts";
import { Random } from "../../src/random.ts";
import {
  LONG,
  loopDevice,
  type Mount,
  mount,
  needs,
  run,
  type TempDir,
  tempDir,
} from "../helpers.ts";
import { hasEngine } from "./direct/harness.ts";

const MIB = 1_048_576;

/** A place, and all that it is made of. */
interface Place extends AsyncDisposable {
  join(name: string): string;
}

/** Mounts a new file system of that kind. */
async function mounted(
  stack: AsyncDisposableStack,
  dir: TempDir,
  kind: string,
): Promise<Mount> {
  const at = dir.join("mnt");
  if (kind === "tmpfs") {
    return stack.use(await mount("tmpfs", at, "-t", "tmpfs"));
  }
  const mib = { xfs: 320, btrfs: 128 }[kind] ?? 24;
  const loop = stack.use(await loopDevice(await dir.file("back", mib * MIB)));
  const force = kind === "ext4" ? "-F" : "-f";
  await run(`mkfs.${kind}`, ["-q", force, loop.path]);
  return stack.use(await mount(loop.path, at));
}

/** Mounts an overlay whose upper layer is on that. */
async function overlay(
  stack: AsyncDisposableStack,
  dir: TempDir,
  below: { join(name: string): string },
  ...options: string[]
): Promise<Place> {
  for (const name of ["lower", "up per", "work"]) {
    await Deno.mkdir(below.join(name));
  }
  return stack.use(
    await mount(
      "overlay",
      dir.join("over"),
      "-t",
      "overlay",
      "-o",
      [
        `lowerdir=${below.join("lower")}`,
        `upperdir=${below.join("up per")}`,
        `workdir=${below.join("work")}`,
        ...options,
      ].join(","),
    ),
  );
}

/** What a new image there says of itself. */
async function shown(path: string, backend: "direct" | "portable") {
  await using disk = await VirtualDisk.create(path, {
    sectors: 256,
    backend,
    overwrite: true,
  });
  await disk.write(0, new Random(1).bytes(4096));
  await disk.writeZeroes(0, 4);
  assertEquals(await disk.read(0, 4), new Uint8Array(2048));
  assertEquals(await disk.read(4, 4), new Random(1).bytes(4096).slice(2048));
  return disk.info;
}

const TOOLS = ["root", "losetup"] as const;

interface Above {
  readonly kind: string;
  readonly long?: boolean;
  readonly options?: readonly string[];
  readonly active: boolean;
  readonly flush: string;
  /** What limits direct I/O, and flushes. */
  readonly reasons: readonly [direct: RegExp | null, flush: RegExp | null];
}

const ABOVE: readonly Above[] = [
  {
    kind: "tmpfs",
    active: false,
    flush: "page cache",
    reasons: [
      /^overlay above tmpfs takes O_DIRECT and keeps/,
      /^overlay above tmpfs keeps its data in memory$/,
    ],
  },
  { kind: "ext4", active: true, flush: "media", reasons: [null, null] },
  {
    kind: "ext4",
    options: ["volatile"],
    active: true,
    flush: "page cache",
    reasons: [null, /^overlay above ext4 is mounted volatile/],
  },
  {
    kind: "btrfs",
    long: true,
    active: false,
    flush: "media",
    reasons: [/^overlay above btrfs buffers writes/, null],
  },
];

for (const { kind, long, options = [], active, flush, reasons } of ABOVE) {
  const title = [kind, ...options].join(", ");
  const tools = kind === "tmpfs" ? ["root"] : [...TOOLS, `mkfs.${kind}`];
  Deno.test({
    name:
      `VirtualDisk.create() says of an overlay above ${title} what is below`,
    ignore: long && !LONG || !hasEngine("sync") || needs(...tools).ignore,
    async fn() {
      await using stack = new AsyncDisposableStack();
      const dir = stack.use(await tempDir());
      const below = await mounted(stack, dir, kind);
      const place = await overlay(stack, dir, below, ...options);
      for (const backend of ["direct", "portable"] as const) {
        const path = place.join(`${backend} disk.img`);
        const info = await shown(path, backend);
        assertEquals(info.fileSystem, "overlay", backend);
        const { direct, durability } = info;
        const [ofDirect, ofFlush] = reasons;
        assertEquals(direct.active, active, `${backend}: ${direct.reason}`);
        assertEquals(durability.flush, flush, backend);
        if (ofFlush === null) assertEquals(durability.reason, null);
        else assertMatch(durability.reason!, ofFlush);
        if (ofDirect !== null) assertMatch(direct.reason!, ofDirect);
        else assertEquals(direct.alignmentSource !== "none", true);
        if (active) continue;
        await assertRejects(
          () => VirtualDisk.open(path, { backend, direct: "require" }),
          DiskError,
          `overlay above ${kind}`,
        );
      }
    },
  });
}

for (
  const [type, options, expected] of [
    ["ext4", "barrier=0", "device cache"],
    ["ext4", "defaults", "media"],
    ["btrfs", "nobarrier", "device cache"],
  ] as const
) {
  Deno.test({
    name:
      `VirtualDisk.open() says that a flush reaches ${expected} on ${type} mounted ${options}`,
    ignore: !hasEngine("sync") ||
      needs("root", "losetup", `mkfs.${type}`).ignore,
    async fn() {
      await using stack = new AsyncDisposableStack();
      const dir = stack.use(await tempDir());
      const size = type === "btrfs" ? 128 : 16;
      const loop = stack.use(
        await loopDevice(await dir.file("back", size * MIB)),
      );
      await run(`mkfs.${type}`, ["-q", loop.path]);
      const place = stack.use(
        await mount(loop.path, dir.join("mnt"), "-o", options),
      );
      for (const name of ["upper", "work"]) await Deno.mkdir(place.join(name));
      await Deno.mkdir(dir.join("lower"));
      await Deno.writeFile(place.join("upper/disk.img"), new Uint8Array(MIB));
      const over = stack.use(
        await mount(
          "overlay",
          dir.join("over"),
          ...["-t", "overlay", "-o"],
          `lowerdir=${dir.join("lower")},upperdir=${
            place.join("upper")
          },workdir=${place.join("work")}`,
        ),
      );
      for (const backend of ["direct", "portable"] as const) {
        for (const at of [place.join("upper"), over.path]) {
          await using disk = await VirtualDisk.open(`${at}/disk.img`, {
            backend,
          });
          const { durability, abilities } = disk.info;
          assertEquals(durability.flush, expected, `${backend} ${at}`);
          if (expected === "media") continue;
          assertMatch(durability.reason!, /is mounted without barriers/);
          assertEquals(abilities.fua, "emulated");
        }
      }
    },
  });
}

Deno.test({
  name:
    "VirtualDisk.open() says that a flush of a device, or of a file on it, reaches no farther than the file that it is made of",
  ignore: !hasEngine("sync") ||
    needs("root", "losetup", "mkfs.ext4").ignore,
  async fn() {
    await using stack = new AsyncDisposableStack();
    const dir = stack.use(await tempDir());
    const memory = stack.use(
      await mount("memory", dir.join("memory"), "-t", "tmpfs"),
    );
    const file = memory.join("back");
    await Deno.writeFile(file, new Uint8Array(16 * MIB));
    // In memory there is no direct I/O that such a device could ask for.
    const device = (await run("losetup", ["--show", "-f", file])).trim();
    stack.defer(async () => {
      await run("losetup", ["-d", device]);
    });
    await run("mkfs.ext4", ["-q", device]);
    for (const backend of ["direct", "portable"] as const) {
      await using disk = await VirtualDisk.open(device, { backend });
      const { flush, reason } = disk.info.durability;
      assertEquals(flush, "page cache");
      assertMatch(reason!, /back", which the device is made of, tmpfs keeps/);
    }
    const place = stack.use(await mount(device, dir.join("mnt")));
    await Deno.writeFile(place.join("disk.img"), new Uint8Array(MIB));
    for (const backend of ["direct", "portable"] as const) {
      await using disk = await VirtualDisk.open(place.join("disk.img"), {
        backend,
      });
      assertEquals(disk.info.durability.flush, "page cache");
    }
  },
});

Deno.test({
  name:
    "VirtualDisk.open() promises nothing of an overlay that it cannot see through",
  ignore: !hasEngine("sync") || needs("root").ignore,
  async fn() {
    await using stack = new AsyncDisposableStack();
    const dir = stack.use(await tempDir());
    const below = await mounted(stack, dir, "tmpfs");
    await Deno.mkdir(below.join("lower"));
    await Deno.writeFile(below.join("lower/disk.img"), new Uint8Array(MIB));
    const place = stack.use(
      await mount(
        "overlay",
        dir.join("over"),
        "-t",
        "overlay",
        "-o",
        [
          `lowerdir=${below.join("lower")}:${dir.path}`,
        ].join(","),
      ),
    );
    for (const backend of ["direct", "portable"] as const) {
      await using disk = await VirtualDisk.open(place.join("disk.img"), {
        backend,
        readOnly: true,
      });
      const { direct, durability } = disk.info;
      assertEquals([direct.active, durability.flush], [false, "unknown"]);
      assertMatch(
        direct.reason!,
        /^overlay leaves .* cannot be told from here/,
      );
    }
  },
});

Deno.test({
  name: "overlayOf() takes no other file of the same name for what is below",
  ignore: Deno.build.os !== "linux" || needs("root").ignore,
  async fn() {
    await using stack = new AsyncDisposableStack();
    const dir = stack.use(await tempDir());
    const below = await mounted(stack, dir, "tmpfs");
    const place = await overlay(stack, dir, below);
    const path = place.join("disk.img");
    await Deno.writeFile(path, new Uint8Array(4096));
    using file = await Deno.open(path);
    const { default: fs } = await import("node:fs");
    const fd = fs.openSync(path, "r");
    stack.defer(() => fs.closeSync(fd));
    assertEquals(overlayOf(fd).below, "tmpfs");
    // As a container has it: whatever is there is of somebody else.
    const hidden = stack.use(
      await mount("tmpfs", below.join("up per"), "-t", "tmpfs"),
    );
    assertEquals(overlayOf(fd).below, null);
    // What is written in one tick of the kernel's clock has one time.
    const other = hidden.join("disk.img");
    do await Deno.writeFile(other, new Uint8Array(4096)); while (
      fs.statSync(other, { bigint: true }).mtimeNs ===
        fs.fstatSync(fd, { bigint: true }).mtimeNs
    );
    assertEquals(overlayOf(fd).below, null);
    assertEquals(file.statSync().size, 4096);
  },
});

Deno.test("findOverlay() reads mountinfo", () => {
  const text = [
    "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw",
    "91 22 0:44 /in /m\\040t rw shared:5 master:2 - overlay over\\040lay rw,lowerdir=/l:/m,upperdir=/u\\054p,workdir=/w,volatile",
    "92 22 0:45 / /ro ro - overlay overlay ro,lowerdir=/a:/b",
    "93 22 0:46 / / rw - overlay overlay rw,lowerdir=/a,upperdir=/u,workdir=/w,fsync=volatile",
    "",
  ].join("\n");
  const found = findOverlay(text, 91)!;
  assertEquals(found, {
    mountPoint: "/m t",
    root: "/in",
    upper: "/u,p",
    volatile: true,
  });
  assertEquals(pathInUpper(found, "/m t/a/b"), "/u,p/in/a/b");
  assertEquals(pathInUpper(found, "/m tu/a"), null);
  assertEquals(pathInUpper(found, "/elsewhere"), null);
  assertEquals(pathInUpper({ ...found, upper: "up" }, "/m t/a"), null);
  const lower = findOverlay(text, 92)!;
  assertEquals([lower.upper, lower.volatile], [null, false]);
  assertEquals(pathInUpper(lower, "/ro/a"), null);
  const root = findOverlay(text, 93)!;
  assertEquals(root.volatile, true);
  assertEquals(pathInUpper(root, "/a"), "/u/a");
  for (const id of [22, 9, 1, 94]) assertEquals(findOverlay(text, id), null);
  assertEquals(findOverlay("91 - overlay\n91", 91), null);
});

// Ranges that are given up or zeroed

const ZEROED: readonly [kind: string, long: boolean][] = [
  ["tmpfs", false],
  ["ext4", false],
  ["btrfs", true],
  ["xfs", true],
];

for (const [kind, long] of ZEROED) {
  const tools = kind === "tmpfs" ? ["root"] : [...TOOLS, `mkfs.${kind}`];
  Deno.test({
    name:
      `VirtualDisk on ${kind} reads zeroes where a range was given up or zeroed`,
    ignore: long && !LONG || !hasEngine("sync") ||
      needs(...tools).ignore,
    async fn() {
      await using stack = new AsyncDisposableStack();
      const dir = stack.use(await tempDir());
      const place = await mounted(stack, dir, kind);
      const content = new Random(7).bytes(MIB);
      const path = place.join("disk.img");
      await Deno.writeFile(path, content);
      await using disk = await VirtualDisk.open(path, { backend: "direct" });
      const { writeZeroes, discard } = disk.info.abilities;
      assertEquals([writeZeroes, discard], ["native", "native"]);
      const check = async () => {
        assertEquals(await disk.read(0, 2048), content);
      };
      // At once, without a flush between: what was there may still be written.
      for (const [sector, unmap] of [[64, true], [640, false]] as const) {
        for (const flushed of [false, true]) {
          const at = sector + (flushed ? 1024 : 0);
          const bytes = new Random(at).bytes(256 * 512);
          await disk.write(at, bytes);
          content.set(bytes, at * 512);
          if (flushed) await disk.flush();
          await disk.writeZeroes(at + 3, 200, { unmap });
          content.fill(0, (at + 3) * 512, (at + 203) * 512);
          await check();
          if (!unmap) continue;
          await disk.discard(at + 210, 32);
          content.fill(0, (at + 210) * 512, (at + 242) * 512);
          await check();
        }
      }
    },
  });
}
