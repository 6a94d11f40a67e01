/**
 * Who may write to an image: what the system uses is refused, what is left
 * behind comes back, and the error says who holds it.
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertLessOrEqual,
  assertMatch,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import fs from "node:fs";
import { nameHolder } from "../src/backends/holder.ts";
import { VirtualDisk } from "../src/disk/disk.ts";
import { DiskError, type DiskErrorKind } from "../src/errors.ts";
import type { OpenOptions } from "../src/disk/open.ts";
import { Random } from "../src/random.ts";
import {
  hasTmpfs,
  hasTool,
  isRoot,
  loopDevice,
  mount,
  needs,
  pause,
  run,
  tempDir,
  tmpfsDir,
} from "./helpers.ts";

const LINUX = Deno.build.os === "linux";
const BACKENDS = LINUX
  ? ["direct", "portable"] as const
  : ["portable"] as const;
const MIB = 1_048_576;

async function refusal(
  path: string,
  options: OpenOptions,
  kind: DiskErrorKind,
): Promise<string> {
  const error = await assertRejects(
    () => VirtualDisk.open(path, options).then((disk) => disk.close()),
    DiskError,
  );
  assertEquals(error.kind, kind, error.message);
  assertMatch(error.message, /^Cannot .*[^.]$/);
  return error.message;
}

function hasMapper(): boolean {
  if (!isRoot() || !hasTool("dmsetup")) return false;
  const { success } = new Deno.Command("dmsetup", {
    args: ["version"],
    stdout: "null",
    stderr: "null",
  }).outputSync();
  return success;
}

/**
 * Removes the parts of a loop device. A part is in use for a while after it was
 * unmounted, where a mount namespace beside this one had a copy of the mount and
 * has just ended.
 */
const REMOVE_PARTS = `
  for i in $(seq 600); do
    partx -d "$0" 2>/dev/null
    ls -d /sys/block/"\${0##*/}"/"\${0##*/}"p* >/dev/null 2>&1 || exit 0
    sleep 0.1
  done
  echo "its parts stay in use" >&2
  exit 1
`;

/** Opens and closes. */
async function assertOpens(path: string, options: OpenOptions): Promise<void> {
  await using _disk = await VirtualDisk.open(path, options);
}

/**
 * The same of what was mounted, once no mount namespace beside this one has a
 * copy of the mount any more: one that was made meanwhile, for another test.
 */
async function assertOpensSoon(
  path: string,
  options: OpenOptions,
): Promise<void> {
  for (let left = 600; left > 0; left--) {
    try {
      return await assertOpens(path, options);
    } catch (error) {
      if (!(error instanceof DiskError && error.kind === "locked")) throw error;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
  await assertOpens(path, options);
}

for (const backend of BACKENDS) {
  const test = (title: string, tools: string[], fn: () => Promise<void>) =>
    Deno.test({
      name: `VirtualDisk.open(), ${backend} backend, ${title}`,
      ignore: !LINUX || needs(...tools).ignore,
      fn,
    });

  for (const fileSystem of ["ext4", "btrfs"]) {
    const tools = ["root", "losetup", `mkfs.${fileSystem}`];
    test(
      `refuses to write to a device with ${fileSystem} that is mounted, and to its file`,
      tools,
      async () => {
        await using dir = await tempDir();
        const image = await dir.file("fs.img", 128 * MIB);
        await using device = await loopDevice(image);
        await run(`mkfs.${fileSystem}`, [device.path]);
        {
          await using place = await mount(device.path, dir.join("a place"));
          const said = await refusal(device.path, { backend }, "locked");
          assertStringIncludes(said, `mounted on "${place.path}"`);
          const below = await refusal(image, { backend }, "locked");
          assertStringIncludes(below, device.path);
          for (const path of [device.path, image]) {
            await assertOpens(path, { backend, readOnly: true });
            await assertOpens(path, { backend, lock: "none" });
          }
        }
        for (const path of [device.path, image]) {
          await assertOpensSoon(path, { backend });
        }
      },
    );
  }

  test(
    "refuses to write to what has a part that is mounted, and to the whole of it",
    ["root", "losetup", "sfdisk", "mkfs.ext4", "partx"],
    async () => {
      await using dir = await tempDir();
      const image = await dir.file("disk.img", 64 * MIB);
      await run("sh", [
        "-c",
        `printf '2048,32768\\n40960,\\n' | sfdisk -q "${image}"`,
      ]);
      await using device = await loopDevice(image);
      // What a test that was killed left of a device of this name is in the way.
      await run("sh", ["-c", 'partx -d "$0" 2>&1 || true', device.path]);
      await run("partx", ["-a", device.path]);
      try {
        const [first, second] = [`${device.path}p1`, `${device.path}p2`];
        await run("mkfs.ext4", ["-q", first]);
        await using _place = await mount(first, dir.join("mnt"));
        assertMatch(
          await refusal(device.path, { backend }, "locked"),
          /its part \S+p1 is mounted/,
        );
        await refusal(first, { backend }, "locked");
        await refusal(image, { backend }, "locked");
        await assertOpens(second, { backend });
      } finally {
        await run("sh", ["-c", REMOVE_PARTS, device.path]);
      }
    },
  );

  const mapped = hasMapper() ? test : () => {};
  mapped("refuses to write to a part of another device", [
    "root",
    "losetup",
  ], async () => {
    await using dir = await tempDir();
    const image = await dir.file("disk.img", 8 * MIB);
    await using device = await loopDevice(image);
    const name = `platter-${crypto.randomUUID()}`;
    await run("dmsetup", [
      "create",
      name,
      "--table",
      `0 1024 linear ${device.path} 0`,
    ]);
    try {
      assertMatch(
        await refusal(device.path, { backend }, "locked"),
        /a part of \/dev\/dm-\d+/,
      );
      await refusal(image, { backend }, "locked");
    } finally {
      await run("dmsetup", ["remove", "--retry", name]);
    }
    await assertOpens(device.path, { backend });
  });

  test(
    "refuses to write to swap space",
    ["root", "losetup", "mkswap"],
    async () => {
      await using dir = await tempDir();
      const image = await dir.file("disk.img", 8 * MIB);
      await using device = await loopDevice(image);
      await run("mkswap", [device.path]);
      await run("swapon", [device.path]);
      try {
        assertMatch(await refusal(device.path, { backend }, "locked"), /swap/);
        assertMatch(await refusal(image, { backend }, "locked"), /swap/);
      } finally {
        await run("swapoff", [device.path]);
      }
      await assertOpens(device.path, { backend });
    },
  );

  test("says that a device is read-only", ["root", "losetup"], async () => {
    await using dir = await tempDir();
    const image = await dir.file("disk.img", MIB);
    const device = (await run("losetup", ["-r", "--show", "-f", image])).trim();
    try {
      const said = await refusal(device, { backend }, "read-only");
      assertMatch(said, /the device is read-only: open with readOnly: true/);
      await assertOpens(device, { backend, readOnly: true });
    } finally {
      await run("losetup", ["-d", device]);
    }
  });

  test("says that a file system is read-only", ["root"], async () => {
    await using dir = await tempDir();
    await using place = await mount("none", dir.join("mnt"), "-t", "tmpfs");
    const path = place.join("disk.img");
    await Deno.writeFile(path, new Uint8Array(4096));
    await run("mount", ["-o", "remount,ro", place.path]);
    const said = await refusal(path, { backend }, "read-only");
    assertMatch(said, /read-only file system/);
    await assertOpens(path, { backend, readOnly: true });
    const made = await assertRejects(
      () => VirtualDisk.create(place.join("new.img"), { sectors: 8, backend }),
      DiskError,
    );
    assertEquals(made.kind, "read-only");
  });

  test("says that a file is immutable", ["root", "chattr"], async () => {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", 4096);
    await run("chattr", ["+i", path]);
    try {
      const said = await refusal(path, { backend }, "read-only");
      assertMatch(said, /immutable/);
      await assertOpens(path, { backend, readOnly: true });
    } finally {
      await run("chattr", ["-i", path]);
    }
  });

  for (const other of BACKENDS) {
    test(
      `says which line of this program holds an image, ${other} backend`,
      [],
      async () => {
        await using dir = await tempDir();
        const path = await dir.file("disk.img", 4096);
        await using disk = await VirtualDisk.open(path, { backend: other });
        const said = await refusal(path, { backend }, "locked");
        assertMatch(
          said,
          new RegExp(
            `\\(process ${Deno.pid}\\), opened at claims_test.ts:\\d+`,
          ),
        );
        await disk.close();
        await assertOpens(path, { backend });
      },
    );
  }

  test("waits for a lock that nobody can be named for, but not for ever", [
    "flock",
  ], async () => {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", 4096);
    // Without leave to look into /proc, nobody can be named.
    const program = `
      import { VirtualDisk } from ${
      JSON.stringify(import.meta.resolve("../mod.ts"))
    };
      const opening = VirtualDisk.open(${JSON.stringify(path)}, {
        backend: ${JSON.stringify(backend)},
      }).then(() => "opened", (error) => error.kind + " " + error.message);
      console.log("opening");
      console.log(await opening);
      Deno.exit();`;
    const file = await dir.file("open.ts", new TextEncoder().encode(program));
    /** What a program says that opens it while another one holds it. */
    const sayWhile = async (isReleased: boolean): Promise<string> => {
      const holder = new Deno.Command("flock", {
        args: ["--no-fork", path, "sh", "-c", "echo held; exec sleep 60"],
        stdout: "piped",
      }).spawn();
      const held = holder.stdout.getReader();
      await held.read();
      const opener = new Deno.Command(Deno.execPath(), {
        args: [
          "run",
          "--no-prompt",
          "--no-check",
          `--allow-read=${path}`,
          `--allow-write=${path}`,
          ...(backend === "direct" ? ["--allow-ffi"] : []),
          file,
        ],
        stdout: "piped",
      }).spawn();
      const outcome = opener.stdout.pipeThrough(new TextDecoderStream())
        .getReader();
      assertStringIncludes((await outcome.read()).value!, "opening");
      if (isReleased) {
        await new Promise((resolve) => setTimeout(resolve, 100));
        holder.kill("SIGKILL");
      }
      let said = "";
      for (;;) {
        const { value, done } = await outcome.read();
        if (done) break;
        said += value;
      }
      if (!isReleased) holder.kill("SIGKILL");
      await held.cancel();
      await Promise.all([opener.status, holder.status]);
      return said;
    };
    assertMatch(await sayWhile(false), /^locked .* another program holds it/);
    // A busy machine may end the holder too late.
    let said = "";
    for (let tries = 0; tries < 5 && !said.startsWith("opened"); tries++) {
      said = await sayWhile(true);
    }
    assertMatch(said, /^opened/);
  });

  test(
    "lets one write to a file and all loop devices that are made of it",
    ["root", "losetup", "mkfs.ext4"],
    async () => {
      await using dir = await tempDir();
      const image = await dir.file("disk.img", 16 * MIB);
      await using one = await loopDevice(image);
      await using two = await loopDevice(image);
      await using above = await loopDevice(one.path);
      const all = [image, one.path, two.path, above.path];
      for (const held of all) {
        await using disk = await VirtualDisk.open(held, { backend });
        for (const other of all.filter((path) => path !== held)) {
          const said = await refusal(other, { backend }, "locked");
          assertStringIncludes(said, `has "${held}" open for writing, which`);
          await assertOpens(other, { backend, readOnly: true });
          await assertOpens(other, { backend, lock: "none" });
        }
        assertEquals(
          disk.info.warnings!.map((text) => text.split(" ")[0]).sort(),
          all.slice(1).filter((path) =>
            path !== held && !(held === above.path && path === one.path)
          ).sort(),
        );
      }
      await run("mkfs.ext4", ["-q", two.path]);
      {
        await using _place = await mount(two.path, dir.join("mnt"));
        for (const path of all) {
          const said = await refusal(path, { backend }, "locked");
          assertStringIncludes(said, "mounted on");
        }
      }
      await assertOpensSoon(one.path, { backend });
    },
  );

  test(
    "lets several write to loop devices of several parts of a file",
    ["root", "losetup"],
    async () => {
      await using dir = await tempDir();
      const image = await dir.file("disk.img", 4 * MIB);
      await using stack = new AsyncDisposableStack();
      const part = async (from: number, size: number) => {
        const device = (await run("losetup", [
          ...["--offset", `${from}`, "--sizelimit", `${size}`],
          ...["--show", "-f", image],
        ])).trim();
        stack.defer(() => run("losetup", ["-d", device]).then(() => {}));
        return device;
      };
      const [first, second, both] = [
        await part(0, MIB),
        await part(MIB, MIB),
        await part(0, 2 * MIB),
      ];
      {
        await using _disk = await VirtualDisk.open(first, { backend });
        await assertOpens(second, { backend });
        await refusal(both, { backend }, "locked");
      }
      await using _disk = await VirtualDisk.open(both, { backend });
      await refusal(first, { backend }, "locked");
      await refusal(second, { backend }, "locked");
    },
  );

  test(
    "waits for what shares its data with an image while its writer ends",
    ["root", "losetup", "flock"],
    async () => {
      await using dir = await tempDir();
      const image = await dir.file("disk.img", MIB);
      await using device = await loopDevice(image);
      for (const [held, path] of [[image, device.path], [device.path, image]]) {
        /** What an attempt to open says while the lock is left by who took it. */
        const sayWhile = async (isReleased: boolean): Promise<string> => {
          const left = Number(
            await run("flock", [
              ...["--no-fork", held!, "sh", "-c"],
              "sleep 60 > /dev/null 2>&1 & echo $!",
            ]),
          );
          const opening = VirtualDisk.open(path!, { backend }).then(
            async (disk) => {
              await disk.close();
              return "opened";
            },
            ({ kind, message }) => `${kind}: ${message}`,
          );
          if (isReleased) {
            await pause(100);
            Deno.kill(left, "SIGKILL");
          }
          const said = await opening;
          if (!isReleased) Deno.kill(left, "SIGKILL");
          return said;
        };
        assertMatch(
          await sayWhile(false),
          /^locked: .* as process \d+ has "\S+" open for writing, which shares/,
        );
        // A busy machine may end the other one too late.
        let said = "";
        for (let tries = 0; tries < 5 && said !== "opened"; tries++) {
          said = await sayWhile(true);
        }
        assertEquals(said, "opened");
        await using other = await VirtualDisk.open(held!, { backend });
        assertMatch(
          await refusal(path!, { backend }, "locked"),
          new RegExp(
            `this process, .*process ${Deno.pid}.* has "${held}" open`,
          ),
        );
        await other.close();
      }
    },
  );

  const engines = backend === "direct"
    ? ["io_uring", "libaio", "sync"] as const
    : ["auto"] as const;
  for (const engine of engines) {
    test(`gets back what a terminated Worker had open, ${engine}`, [
      "root",
      "losetup",
      "mkfs.ext4",
    ], async () => {
      await using dir = await tempDir();
      const image = await dir.file("fs.img", 16 * MIB);
      await using device = await loopDevice(image);
      await run("mkfs.ext4", ["-q", device.path]);
      const source = `
        import { VirtualDisk } from ${
        JSON.stringify(import.meta.resolve("../mod.ts"))
      };
        const disk = await VirtualDisk.open(${JSON.stringify(device.path)}, {
          backend: ${JSON.stringify(backend)},
          engine: ${JSON.stringify(engine)},
        });
        const mine = await VirtualDisk.create(${
        JSON.stringify(dir.join("new.img"))
      }, {
          sectors: 2048, overwrite: true, backend: ${JSON.stringify(backend)},
        });
        for (let i = 0; i < 8; i++) {
          await Promise.all([disk.read(i, 8), mine.write(i, new Uint8Array(512))]);
        }
        await new Promise((resolve) => setTimeout(resolve, 20));
        await disk.read(0, 8);
        postMessage("open");`;
      const once = async () => {
        const url = URL.createObjectURL(
          new Blob([source], { type: "text/javascript" }),
        );
        const worker = new Worker(url, { type: "module" });
        await new Promise((resolve, reject) => {
          worker.onmessage = resolve;
          worker.onerror = reject;
        });
        URL.revokeObjectURL(url);
        const said = await refusal(device.path, { backend }, "locked");
        assertMatch(said, /another thread of this process/);
        worker.terminate();
        most++;
        // Deno ends it when it gets to it.
        for (let i = 0; i < 6000 && ours() > most; i++) {
          await new Promise((resolve) => setTimeout(resolve, 10));
        }
        assertLessOrEqual(ours(), most);
      };
      /** Descriptors that a disk of this test may have. */
      const ours = () =>
        Array.from(Deno.readDirSync("/proc/self/fd"), ({ name }) => {
          try {
            return Deno.readLinkSync(`/proc/self/fd/${name}`);
          } catch {
            return "";
          }
        }).filter((to) =>
          to === device.path || to === dir.join("new.img") ||
          /io_uring|eventfd/.test(to)
        ).length;
      // Of Deno's own, an eventfd stays when a Worker ends.
      let most = ours();
      for (let i = 0; i < 2; i++) await once();
      await assertOpens(device.path, { backend });
      await assertOpens(dir.join("new.img"), { backend });
      // Nor does the kernel hold it for anybody.
      await using _place = await mount(device.path, dir.join("mnt"));
    });
  }
}

Deno.test({
  name:
    'VirtualDisk.open() has one answer to direct: "require", whatever backend',
  ignore: !LINUX || !hasTmpfs() ||
    needs("root", "losetup", "mkfs.btrfs").ignore,
  async fn() {
    await using dir = await tempDir();
    await using memory = await tmpfsDir();
    await using device = await loopDevice(await dir.file("fs.img", 128 * MIB));
    await run("mkfs.btrfs", ["-q", device.path]);
    await using btrfs = await mount(device.path, dir.join("mnt"));
    const places: [path: string, kind: DiskErrorKind | null][] = [
      [dir.join("disk.img"), null],
      [memory.join("disk.img"), "platform"],
      [btrfs.join("disk.img"), "platform"],
    ];
    for (const [path, kind] of places) {
      await Deno.writeFile(path, new Random(1).bytes(MIB));
      for (const backend of BACKENDS) {
        const open = { backend, direct: "require" } as const;
        if (kind === null) await assertOpens(path, open);
        else await refusal(path, open, kind);
        await using disk = await VirtualDisk.open(path, { backend });
        assertEquals(disk.info.direct.active, kind === null, path);
        assert(kind === null || disk.info.direct.reason !== null);
      }
    }
  },
});

Deno.test({
  name:
    'VirtualDisk.open() refuses direct: "require" without FFI where the file system is unknown',
  ignore: !LINUX,
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", new Random(1).bytes(MIB));
    const program = await dir.file(
      "open.ts",
      new TextEncoder().encode(`
        import { VirtualDisk } from ${
        JSON.stringify(import.meta.resolve("../mod.ts"))
      };
        console.log(await VirtualDisk.open(${JSON.stringify(path)}, {
          direct: "require",
        }).then(() => "opened", (error) => error.kind + error.message));
        Deno.exit();`),
    );
    const open = (...permissions: string[]) =>
      run(Deno.execPath(), [
        "run",
        "--no-prompt",
        "--no-check",
        `--allow-read=${path}`,
        `--allow-write=${path}`,
        ...permissions,
        program,
      ]);
    assertMatch(await open(), /^platform.*--allow-sys=statfs/);
    assertEquals(await open("--allow-sys=statfs"), "opened\n");
  },
});

Deno.test({
  name:
    "Who holds a lock is named though other descriptors are closed meanwhile",
  ignore: !LINUX,
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", 4096);
    using holder = Deno.openSync(path, { read: true, write: true });
    assert(holder.tryLockSync(true));
    const fd = fs.openSync(path, "r");
    const { readFileSync } = fs;
    let first: string | undefined;
    try {
      // The one that lists them may come first.
      fs.readFileSync = ((name: string, encoding: "utf8") => {
        first ??= /^\/proc\/\d+\/fdinfo\/\d+$/.test(name) ? name : undefined;
        if (name === first) throw new Error("It is closed by now");
        return readFileSync(name, encoding);
      }) as typeof readFileSync;
      assertMatch(
        nameHolder(fd, "FLOCK") ?? "",
        /^another thread of this process/,
      );
    } finally {
      fs.readFileSync = readFileSync;
      fs.closeSync(fd);
    }
    assert(first !== undefined);
  },
});
