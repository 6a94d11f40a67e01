/**
 * New images after a power cut: what the device below a file system has got
 * when a call returns is copied and mounted, as it would be after the cut.
 *
 * @module
 */

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { replaceFile } from "../../src/backends/replace_file.ts";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { DiskError } from "../../src/errors.ts";
import { RecordingWriter } from "../../src/testing/recording_writer.ts";
import { LONG, loopDevice, mount, needs, run, tempDir } from "../helpers.ts";

const MIB = 1_048_576;
const MOD = import.meta.resolve("../../mod.ts");
const MAIN = new URL("../../src/cli/main.ts", import.meta.url).pathname;

/** Makes an image in a program with these permissions. */
type MakeImage = (dir: string, path: string) => Promise<unknown>;

/** What a program says that makes an image. */
interface Made {
  kind: string;
  message: string;
}

function creating(
  options: Record<string, unknown>,
  permissions: (path: string) => string[] = () => ["-A"],
  wrapper: string[] = [],
): (dir: string, path: string) => Promise<Made> {
  return async (dir, path) => {
    const script = `${dir}/create.ts`;
    await Deno.writeTextFile(
      script,
      `
      import { VirtualDisk } from ${JSON.stringify(MOD)};
      const made = await VirtualDisk.create(
        ${JSON.stringify(path)},
        ${JSON.stringify({ sectors: 2048, ...options })},
      ).then(async (disk) => {
        await disk.close();
        return { kind: "made", message: "" };
      }, ({ kind, message }) => ({ kind, message }));
      console.log(JSON.stringify(made));
      `,
    );
    const [command, ...args] = [...wrapper, Deno.execPath()];
    const flags = ["run", "--no-check", "--no-prompt", ...permissions(path)];
    return JSON.parse(await run(command!, [...args, ...flags, script]));
  };
}

const own = (path: string) => [`--allow-read=${path}`, `--allow-write=${path}`];

const platter = (...args: string[]) =>
  run(Deno.execPath(), ["run", "-A", "--no-check", MAIN, ...args]);

/** Ways to make a file that holds data, and whether others must be there. */
const WAYS: Record<string, MakeImage> = {
  "the direct backend": creating({ backend: "direct" }),
  "the direct backend that may use the image alone": creating(
    { backend: "direct" },
    (path) => [...own(path), "--allow-ffi"],
  ),
  "the portable backend": creating({ backend: "portable" }),
  "the portable backend that may use the image alone": creating(
    { backend: "portable" },
    own,
  ),
  "platter create": (_, path) => platter("create", path, "1MiB"),
  "platter copy": (dir, path) => platter("copy", `${dir}/source.img`, path),
  "platter read --output": (dir, path) =>
    platter("read", `${dir}/source.img`, "--output", path),
};

const FILE_SYSTEMS = [
  ["ext4", 24, ["-F"], []],
  ...(LONG
    ? [
      ["xfs", 320, ["-f"], ["-o", "nouuid"]],
      ["btrfs", 128, ["-f"], []],
    ] as const
    : []),
] as const;

for (const [fileSystem, size, makeArgs, mountArgs] of FILE_SYSTEMS) {
  Deno.test({
    name: `Every way to make an image makes its name durable, on ${fileSystem}`,
    ...needs("root", "losetup", `mkfs.${fileSystem}`, "cp"),
    async fn() {
      await using dir = await tempDir();
      const data = new Uint8Array(MIB).fill(7);
      await dir.file("source.img", data);
      const back = await dir.file("back", size * MIB);
      {
        await using loop = await loopDevice(back);
        await run(`mkfs.${fileSystem}`, ["-q", ...makeArgs, loop.path]);
        await using at = await mount(loop.path, dir.join("mnt"));
        for (const [i, make] of Object.values(WAYS).entries()) {
          await make(dir.path, at.join(`${i}.img`));
          await run("cp", ["--sparse=always", back, dir.join(`cut-${i}`)]);
        }
      }
      for (const [i, way] of Object.keys(WAYS).entries()) {
        await using loop = await loopDevice(dir.join(`cut-${i}`));
        await using at = await mount(loop.path, dir.join("mnt"), ...mountArgs);
        const path = at.join(`${i}.img`);
        const found = await Deno.readFile(path).catch(() => null);
        assert(found !== null, `${way}: the image has no name`);
        assertEquals(found.length, MIB, `${way}: the image has lost its size`);
        const holds = way.includes("copy") || way.includes("read");
        assertEquals(found[MIB - 1], holds ? 7 : 0, way);
      }
    },
  });
}

// Where the folder cannot be synced

/** Creates with some system calls on the image and its folder failing. */
async function failing(
  backend: string,
  injection: string,
): Promise<{ made: Made; calls: string[]; left: boolean }> {
  await using dir = await tempDir();
  await Deno.mkdir(dir.join("images"));
  const folder = dir.join("images");
  const path = `${folder}/disk.img`;
  const log = dir.join("log");
  const make = creating({ backend }, () => ["-A"], [
    ...["strace", "-f", "-qq", "-o", log, "-P", path, "-P", folder],
    ...["-e", "trace=openat,fsync", "-e", `inject=${injection}`],
  ]);
  const made = await make(dir.path, path);
  const calls = (await Deno.readTextFile(log)).split("\n")
    .filter((line) => line.includes("fsync"));
  const left = await Deno.stat(path).then(() => true, () => false);
  return { made, calls, left };
}

for (const backend of ["direct", "portable"]) {
  const test = (title: string, fn: () => Promise<void>) =>
    Deno.test({
      name: `VirtualDisk.create() of the ${backend} backend ${title}`,
      ...needs("strace"),
      fn,
    });

  test("syncs the image first and then its folder", async () => {
    const { made, calls, left } = await failing(
      backend,
      "fsync:error=EINVAL:when=9",
    );
    assertEquals([made.kind, calls.length, left], ["made", 2, true]);
  });

  for (const code of LONG ? ["EINVAL", "EACCES", "EOPNOTSUPP"] : ["EINVAL"]) {
    test(`goes on where a folder's sync says ${code}`, async () => {
      const { made, calls } = await failing(
        backend,
        `fsync:error=${code}:when=2`,
      );
      assertEquals(made, { kind: "made", message: "" });
      assertEquals(calls.length, 2);
    });
  }

  for (
    const [code, kind] of [["EIO", "io"], ["ENOSPC", "no-space"]].slice(
      LONG ? 0 : 1,
    )
  ) {
    for (const [what, when] of [["image", 1], ["folder", 2]] as const) {
      test(`makes nothing if the ${what}'s sync says ${code}`, async () => {
        const { made, left } = await failing(
          backend,
          `fsync:error=${code}:when=${when}`,
        );
        assertEquals(made.kind, kind);
        assertMatch(made.message, /^Cannot create .*disk\.img.*durable/);
        assertEquals(left, false);
      });
    }
  }
}

Deno.test({
  name: "no file is made among devices",
  ignore: Deno.build.os === "windows",
  async fn() {
    const path = `/dev/platter-${crypto.randomUUID()}`;
    const ways: (() => unknown)[] = [
      ...(["direct", "portable"] as const).flatMap((backend) =>
        [false, true].map((overwrite) => async () => {
          const disk = await VirtualDisk.create(path, {
            ...{ size: "1MiB", backend, overwrite },
          });
          await disk.close();
        })
      ),
      () => replaceFile(path, ""),
      () => new RecordingWriter(path, {}, 512).remove(),
    ];
    await using stack = new AsyncDisposableStack();
    stack.defer(() => Deno.remove(path).catch(() => {}));
    for (const way of ways) {
      const error = await assertRejects(async () => await way(), DiskError);
      assertEquals(
        [error.kind, error.message],
        [
          "not-found",
          `Cannot create "${path}" as there is no such device, and a file among devices would be in memory`,
        ],
      );
    }
  },
});
