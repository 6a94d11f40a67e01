import { assert, assertEquals, assertRejects } from "@std/assert";
import { MemoryBackend, VirtualDisk } from "@platter/disk";
import { makeFileSystem } from "../../src/crash/make_file_system.ts";
import { ProgramError } from "../../src/crash/programs.ts";
import { hostStage } from "../../src/crash/stages/host.ts";
import { rawStage } from "../../src/crash/stages/raw.ts";
import type {
  Attached,
  AttachedDisk,
  AttachOptions,
  Stage,
} from "../../src/crash/stage.ts";
import { CrashRecorder } from "../../src/testing/crash_recorder.ts";
import { RequestType } from "../../src/request.ts";
import { needs, type TempDir, tmpfsDir } from "../helpers.ts";

async function options(
  dir: TempDir,
  on: AttachOptions["on"],
  fileSystem: string | null = null,
): Promise<AttachOptions> {
  const directory = dir.join(`at-${on}`);
  await Deno.mkdir(directory);
  return { directory, job: 0, on, fileSystem };
}

/** Attaches a disk to a stage of its own, which ends when it is detached. */
async function attach(
  make: () => Stage,
  disk: AttachedDisk,
  options: AttachOptions,
): Promise<Attached> {
  const stage = make();
  await using parts = new AsyncDisposableStack();
  parts.defer(() => stage.end?.());
  const attached = parts.use(await stage.attach(disk, options));
  const all = parts.move();
  return {
    environment: attached.environment,
    run: (command, run) => attached.run(command, run),
    [Symbol.asyncDispose]: () => all.disposeAsync(),
  };
}

/** What of this folder the system still has: loop devices and mounts. */
async function leftOf(dir: TempDir): Promise<string[]> {
  const left: string[] = [];
  for await (const { name } of Deno.readDir("/sys/block")) {
    try {
      const file = await Deno.readTextFile(
        `/sys/block/${name}/loop/backing_file`,
      );
      if (file.includes(dir.path)) left.push(name);
    } catch {
      // No loop device, or one without a file.
    }
  }
  const mounts = await Deno.readTextFile("/proc/self/mountinfo");
  return [...left, ...mounts.split("\n").filter((it) => it.includes(dir.path))];
}

const run = { isolated: true } as const;

const fuse = needs("nbdfuse", "fusermount3");
const roots = needs("root", "mkfs.ext4", "nbdfuse", "losetup", "unshare");

Deno.test("raw gives a check the file as it is", needs("cmp"), async () => {
  await using dir = await tmpfsDir();
  const file = await dir.file("disk.img", new Uint8Array(4096).fill(1));
  assertEquals(rawStage().wants("image"), "file");
  await using attached = await attach(
    rawStage,
    { file },
    await options(dir, "image"),
  );
  assertEquals(attached.environment, { PLATTER_IMAGE: file });
  const ran = await attached.run('printf x >> "$PLATTER_IMAGE"; exit 4', run);
  assertEquals(ran.code, 4);
  assertEquals((await Deno.stat(file)).size, 4097);
});

Deno.test("raw gives a workload a file that is the backend", fuse, async () => {
  await using dir = await tmpfsDir();
  await using recorder = await CrashRecorder.create({
    device: { sectors: 256 },
  });
  recorder.start();
  {
    await using attached = await attach(
      rawStage,
      { backend: recorder.open() },
      await options(dir, "image"),
    );
    const ran = await attached.run(
      'printf hello | dd of="$PLATTER_IMAGE" bs=1 seek=700 conv=notrunc,fsync && echo done >&9',
      { ...run, onAcknowledge: (line) => recorder.acknowledge(line) },
    );
    assertEquals(ran.code, 0, ran.output);
  }
  const recording = await recorder.end();
  // The acknowledgement comes after the flush that it is about.
  const acknowledged = recording.events.findIndex(({ kind }) =>
    kind === "acknowledge"
  );
  const flushed = recording.events.findIndex((event) =>
    event.kind === "complete" && event.request.type === RequestType.Flush
  );
  assert(flushed >= 0 && acknowledged > flushed);
  await recording.close();
  assertEquals(await leftOf(dir), []);
});

Deno.test("raw serves a backend over NBD", needs("qemu-io"), async () => {
  await using dir = await tmpfsDir();
  const backend = new MemoryBackend({ sectors: 256 });
  assertEquals(rawStage().wants("nbd"), "backend");
  await using attached = await attach(
    rawStage,
    { backend },
    await options(dir, "nbd"),
  );
  const ran = await attached.run(
    'qemu-io -f raw -c "write -P 7 1024 512" -c "read -P 7 1024 512" -c "read -P 0 0 512" "$PLATTER_NBD"',
    run,
  );
  assertEquals(ran.code, 0, ran.output);
  assert(!ran.output.includes("failed"), ran.output);
});

async function ext4(dir: TempDir): Promise<string> {
  const file = await dir.file("disk.img", 16 << 20);
  await makeFileSystem("ext4", file, 4096);
  return file;
}

Deno.test(
  "host mounts a check's file for its command alone",
  roots,
  async () => {
    await using dir = await tmpfsDir();
    const file = await ext4(dir);
    {
      await using attached = await attach(
        hostStage,
        { file },
        await options(dir, "mount", "ext4"),
      );
      const ran = await attached.run(
        `touch "$PLATTER_DIR/here" && grep -c " $PLATTER_DIR " /proc/mounts && echo "$PLATTER_DEVICE"`,
        run,
      );
      assertEquals(ran.code, 0, ran.output);
      assert(/^1\n\/dev\/loop\d+\n$/.test(ran.output), ran.output);
      const mounts = await Deno.readTextFile("/proc/self/mountinfo");
      assert(!mounts.includes(dir.path));
    }
    assertEquals(await leftOf(dir), []);
  },
);

Deno.test(
  "host names its own device, whatever variables are given",
  roots,
  async () => {
    await using dir = await tmpfsDir();
    const file = await ext4(dir);
    for (const on of ["mount", "device"] as const) {
      await using attached = await attach(
        hostStage,
        { file },
        await options(dir, on, on === "mount" ? "ext4" : null),
      );
      const { output } = await attached.run('echo "$PLATTER_DEVICE"', {
        ...run,
        environment: { PLATTER_DEVICE: "/dev/null" },
      });
      assert(/^\/dev\/loop\d+\n$/.test(output), output);
    }
  },
);

Deno.test(
  "host unmounts what a command left busy, in good order",
  roots,
  async () => {
    await using dir = await tmpfsDir();
    const file = await ext4(dir);
    for (
      const [i, command] of [
        'cd "$PLATTER_DIR"; (exec 3> busy; exec setsid sleep 600) & sleep 0.1; echo kept > kept',
        'cat "$PLATTER_DIR/kept"; dumpe2fs -h "$PLATTER_DEVICE" 2>/dev/null | grep -c needs_recovery',
      ].entries()
    ) {
      const attachOptions = await options(dir, "mount", "ext4");
      {
        await using attached = await attach(hostStage, { file }, attachOptions);
        const ran = await attached.run(command, run);
        if (i === 1) assertEquals(ran.output, "kept\n1\n");
        else assertEquals(ran.code, 0, ran.output);
      }
      await Deno.remove(attachOptions.directory, { recursive: true });
      assertEquals(await leftOf(dir), []);
    }
    const magic = await Deno.readFile(file);
    // The journal needs no recovery: s_feature_incompat without bit 2, ext4(5).
    assertEquals(magic[1024 + 0x60]! & 4, 0);
  },
);

Deno.test(
  "host adds nothing to what a command says that unmounts, or mounts once more",
  roots,
  async () => {
    await using dir = await tmpfsDir();
    const file = await ext4(dir);
    for (
      const first of [
        'umount "$PLATTER_DIR"',
        'mount -t tmpfs none "$PLATTER_DIR"',
        // As one of the mount's own, which would be no verdict.
        "echo failed to setup loop device >&2",
      ]
    ) {
      const attachOptions = await options(dir, "mount", "ext4");
      {
        await using attached = await attach(hostStage, { file }, attachOptions);
        const ran = await attached.run(`${first}; echo last; exit 32`, run);
        assertEquals(ran.code, 32);
        assert(/^(failed to .*\n)?last\n$/.test(ran.output), ran.output);
      }
      await Deno.remove(attachOptions.directory, { recursive: true });
      assertEquals(await leftOf(dir), []);
      const magic = await Deno.readFile(file);
      // Unmounted in good order: s_feature_incompat without bit 2, ext4(5).
      assertEquals(magic[1024 + 0x60]! & 4, 0);
    }
  },
);

Deno.test(
  "host is no verdict where there is no loop device to be had",
  roots,
  async () => {
    await using dir = await tmpfsDir();
    const file = await ext4(dir);
    await Deno.mkdir(dir.join("bin"));
    await Deno.writeTextFile(
      dir.join("bin/mount"),
      "#!/bin/sh\necho 'mount: failed to setup loop device for it' >&2\nexit 32\n",
      { mode: 0o755 },
    );
    await using attached = await attach(
      hostStage,
      { file },
      await options(dir, "mount", "ext4"),
    );
    const PATH = `${dir.join("bin")}:${Deno.env.get("PATH")}`;
    await assertRejects(
      () => attached.run("true", { ...run, environment: { PATH } }),
      ProgramError,
      "failed to setup loop device",
    );
  },
);

Deno.test(
  "host tells of a file system that cannot be mounted",
  roots,
  async () => {
    await using dir = await tmpfsDir();
    const file = await dir.file("disk.img", 16 << 20);
    {
      await using attached = await attach(
        hostStage,
        { file },
        await options(dir, "mount", "ext4"),
      );
      const ran = await attached.run("echo never", run);
      assertEquals(ran.code, 32);
      assert(ran.output.includes("mount"), ran.output);
      assert(!ran.output.includes("never"));
    }
    assertEquals(await leftOf(dir), []);
  },
);

Deno.test(
  "host kills a command that does not end, and unmounts",
  roots,
  async () => {
    await using dir = await tmpfsDir();
    const file = await ext4(dir);
    {
      await using attached = await attach(
        hostStage,
        { file },
        await options(dir, "mount", "ext4"),
      );
      const ran = await attached.run('cd "$PLATTER_DIR"; sleep 600', {
        ...run,
        timeoutMs: 500,
      });
      assertEquals(ran.timedOut, true);
    }
    assertEquals(await leftOf(dir), []);
  },
);

Deno.test(
  "host records what a kernel file system writes and flushes",
  roots,
  async () => {
    await using dir = await tmpfsDir();
    const file = await ext4(dir);
    await using base = await VirtualDisk.open(file, { readOnly: true });
    await using recorder = await CrashRecorder.create({
      device: { sectors: base.sectors, blockSize: 4096 },
    });
    {
      await using disk = VirtualDisk.over(recorder.open());
      await disk.write(0, await base.read(0, base.sectors));
    }
    recorder.start();
    {
      await using attached = await attach(hostStage, {
        backend: recorder.open(),
      }, await options(dir, "mount", "ext4"));
      const ran = await attached.run(
        'cd "$PLATTER_DIR"; echo text > file; sync file; echo ACK synced',
        { ...run, onAcknowledge: (line) => recorder.acknowledge(line) },
      );
      assertEquals(ran.code, 0, ran.output);
    }
    const recording = await recorder.end();
    assertEquals(recording.acknowledged, ["synced"]);
    assert(recording.wrote);
    assert(recording.requests.some(({ type }) => type === RequestType.Flush));
    await recording.close();
    assertEquals(await leftOf(dir), []);
  },
);

Deno.test(
  "host gives a block device, without a file system",
  roots,
  async () => {
    await using dir = await tmpfsDir();
    const file = await dir.file("disk.img", 1 << 20);
    {
      await using attached = await attach(
        hostStage,
        { file },
        await options(dir, "device"),
      );
      const ran = await attached.run(
        'blockdev --getsize64 "$PLATTER_DEVICE" && echo x > "$PLATTER_DEVICE"',
        run,
      );
      assertEquals(ran.output, `${1 << 20}\n`);
    }
    assertEquals((await Deno.readFile(file))[0], "x".charCodeAt(0));
    assertEquals(await leftOf(dir), []);
  },
);

Deno.test("host names the device in folders of any name", roots, async () => {
  await using dir = await tmpfsDir();
  const file = await dir.file("disk.img", 4 << 20);
  await makeFileSystem("ext4", file, 4096);
  const directory = dir.join("a b\\c\n'd\"#\te");
  await Deno.mkdir(directory);
  await using attached = await attach(hostStage, { file }, {
    directory,
    job: 0,
    on: "mount",
    fileSystem: "ext4",
  });
  const ran = await attached.run('[ -b "$PLATTER_DEVICE" ]', run);
  assertEquals(ran.code, 0, ran.output);
});

for (const on of ["device", "mount"] as const) {
  Deno.test(
    `host tells a command where its disk is and no more, and changes no variable of its own: ${on}`,
    roots,
    async () => {
      await using dir = await tmpfsDir();
      const file = await ext4(dir);
      // Names that scripts of ours have used or might.
      const own = Object.fromEntries(
        [
          ...["SOURCE", "TYPE", "OPTIONS", "POINT"].map((it) =>
            `PLATTER_${it}`
          ),
          ...["at", "code", "device", "number", "rest", "tries"],
        ].map((name) => [name, "the user's"]),
      );
      await using attached = await attach(
        hostStage,
        { file },
        await options(dir, on, on === "mount" ? "ext4" : null),
      );
      const where = on === "mount"
        ? ["PLATTER_DEVICE", "PLATTER_DIR"]
        : ["PLATTER_DEVICE"];
      for (
        const [how, names] of [
          [{}, where],
          [{ acknowledged: [] }, ["PLATTER_ACKED", ...where]],
          [{ onAcknowledge() {} }, ["PLATTER_ACK", ...where]],
        ] as const
      ) {
        const { output } = await attached.run("env", { ...run, ...how });
        const told = (output.match(/^PLATTER_\w+/gm) ?? [])
          // What this process was given for itself is no word of ours.
          .filter((name) => !Deno.env.has(name) || name in own);
        assertEquals(told.sort(), [...names].sort());
        const ran = await attached.run("env", {
          ...{ ...run, ...how, environment: own },
        });
        const lines = ran.output.split("\n");
        for (const [name, value] of Object.entries(own)) {
          assert(lines.includes(`${name}=${value}`), `${name}: ${ran.output}`);
        }
      }
    },
  );
}

Deno.test("host leaves nothing if it is given up", roots, async () => {
  await using dir = await tmpfsDir();
  const file = await ext4(dir);
  const controller = new AbortController();
  {
    await using attached = await attach(
      hostStage,
      { file },
      await options(dir, "mount", "ext4"),
    );
    setTimeout(() => controller.abort(new Error("enough")), 200);
    await assertRejects(
      () =>
        attached.run('cd "$PLATTER_DIR"; sleep 600', {
          ...run,
          signal: controller.signal,
        }),
      Error,
      "enough",
    );
  }
  assertEquals(await leftOf(dir), []);
});

const MISSING: [stage: Stage, fileSystem: string, words: string][] = [
  [hostStage(), "nofs", "nofs in the running kernel"],
];

for (const [stage, fileSystem, words] of MISSING) {
  Deno.test(
    `require() of ${stage.name} names what is missing`,
    roots,
    async () => {
      await assertRejects(
        () => stage.require({ on: "mount", fileSystem }),
        ProgramError,
        words,
      );
    },
  );
}

Deno.test("makeFileSystem() names the program that is missing", async () => {
  await assertRejects(
    () => makeFileSystem("nofs", "/dev/null", 512),
    ProgramError,
    "mkfs.nofs",
  );
});
