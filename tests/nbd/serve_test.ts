import { assert, assertEquals, assertRejects } from "@std/assert";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { DiskError } from "../../src/errors.ts";
import {
  type Conditions,
  type Outcome,
  platter,
  processOf,
} from "../cli/harness.ts";
import { loopDevice, mount, needs, pause, run, tempDir } from "../helpers.ts";
import { parseNbdUri } from "../../src/protocol/nbd/uri.ts";

/** Serves an image for as long as something is done with it. */
async function serving(
  args: string[],
  use: (uri: string, said: () => string) => Promise<void>,
  conditions: Conditions = {},
): Promise<Outcome> {
  let used: Promise<void> | undefined;
  let all = "";
  const outcome = await platter(["serve", ...args], {
    ...conditions,
    onOutput(text, interrupt) {
      all += text;
      if (!text.startsWith("nbd")) return;
      used = use(text.trim(), () => all).finally(interrupt);
      used.catch(() => {});
    },
  });
  await used;
  return outcome;
}

Deno.test("serve prints a URI, serves, flushes and leaves", async () => {
  await using dir = await tempDir();
  const image = await dir.file("disk.img", 1 << 20);
  const data = new Uint8Array(4096).fill(7);
  const args = [image, "--port", "0"];
  const outcome = await serving(args, async (uri) => {
    await using disk = await VirtualDisk.open(uri);
    await disk.write(8, data);
  });
  const quiet = await serving([...args, "--quiet"], async () => {});
  assertEquals([quiet.code, quiet.err], [0, ""]);
  assert(quiet.out.startsWith("nbd://"), quiet.out);
  assertEquals(outcome.code, 0, outcome.err);
  assert(/^nbd:\/\/127\.0\.0\.1:\d+\/\n$/.test(outcome.out), outcome.out);
  assert(outcome.err.includes("nbdinfo"));
  assertEquals(outcome.listening, false);
  assertEquals((await Deno.readFile(image)).subarray(4096, 8192), data);
});

Deno.test("serve --overlay leaves the image as it is", async () => {
  await using dir = await tempDir();
  const image = await dir.file("disk.img", 1 << 20);
  const socket = dir.join("nbd.sock");
  const outcome = await serving(
    [image, "--overlay", "--socket", socket, "--export", "a b"],
    async (uri) => {
      assertEquals(uri, `nbd+unix:///a%20b?socket=${socket}`);
      await using disk = await VirtualDisk.open(uri);
      await disk.write(0, new Uint8Array(512).fill(7));
      assertEquals((await disk.read(0, 1))[0], 7);
    },
  );
  assertEquals(outcome.code, 0, outcome.err);
  assertEquals((await Deno.readFile(image))[0], 0);
});

Deno.test("serve --read-only refuses writes", async () => {
  await using dir = await tempDir();
  const image = await dir.file("disk.img", 1 << 20);
  const outcome = await serving(
    [image, "--read-only", "--port", "0"],
    async (uri) => {
      await using disk = await VirtualDisk.open(uri);
      assert(disk.readOnly);
    },
  );
  assertEquals(outcome.code, 0, outcome.err);
});

Deno.test("serve --fault and --fault-file let things go wrong, and not", async () => {
  await using dir = await tempDir();
  const image = await dir.file("disk.img", 1 << 20);
  const rules = await dir.file(
    "rules",
    new TextEncoder().encode("# nothing yet\n\n"),
  );
  const trace = dir.join("trace.jsonl");
  const outcome = await serving(
    [
      image,
      "--port",
      "0",
      "--fault",
      "read sector=8 error=EIO",
      "--fault",
      "read sector=16 nth=2 error=EIO",
      "--fault-file",
      rules,
      "--trace",
      trace,
    ],
    async (uri, said) => {
      await using disk = await VirtualDisk.open(uri);
      // At once, as half of it would be rules as well.
      const follow = async (text: string) => {
        await Deno.writeTextFile(`${rules}.new`, text);
        await Deno.rename(`${rules}.new`, rules);
      };
      const fails = async (sector: number) => {
        const error = await assertRejects(
          () => disk.read(sector, 1),
          DiskError,
        );
        assertEquals([error.kind, error.code], ["io", "EIO"]);
      };
      const eventually = async (work: () => Promise<unknown>) => {
        for (let attempts = 1;; attempts++) {
          try {
            return await work();
          } catch (error) {
            if (attempts === 1200) throw error;
            await pause(50);
          }
        }
      };
      await fails(8);
      await disk.read(16, 1);
      await fails(16);
      await disk.read(24, 1);
      await follow("read sector=24 error=EIO # now\n");
      await eventually(() => fails(24));
      await fails(8);
      // A mistake changes nothing.
      await follow("read sector=24 explode\n");
      await eventually(() => {
        assert(said().includes("explode"));
        return Promise.resolve();
      });
      await fails(24);
      await follow("");
      await eventually(() => disk.read(24, 1));
      await fails(8);
    },
  );
  assertEquals(outcome.code, 0, outcome.err);
  assert(outcome.err.includes("explode"), outcome.err);
  const lines = (await Deno.readTextFile(trace)).trim().split("\n")
    .map((line) => JSON.parse(line));
  assertEquals(lines[0].event, "disk");
  assert(
    lines.some(({ operation, sector }) =>
      operation === "read" && sector === 24
    ),
  );
  assert(lines.some(({ error }) => error?.code === "EIO"));
  assertEquals(lines.at(-1).event, "complete");
});

for (
  const [what, failing, code] of [
    ["is full", new Error("No space left on device"), 2],
    ["has no reader", new Deno.errors.BrokenPipe("Broken pipe"), 141],
  ] as const
) {
  Deno.test(`serve flushes and leaves though its output ${what}`, async () => {
    await using dir = await tempDir();
    const image = await dir.file("disk.img", 1 << 20);
    const trace = dir.join("trace");
    const work = async (uri: string) => {
      await using disk = await VirtualDisk.open(uri);
      await disk.write(0, new Uint8Array(512).fill(7));
    };
    const args = [image, "--port", "0", "--trace", trace];
    for (const both of [false, true]) {
      const outcome = await serving(args, work, {
        failing: both ? { stdout: failing, stderr: failing } : {
          stderr: failing,
        },
      });
      assertEquals(outcome.code, both ? code : 0);
      const flushes = (await Deno.readTextFile(trace))
        .match(/"operation":"flush"/g);
      assertEquals(flushes?.length, 1);
    }
  });
}

Deno.test({
  name:
    "serve goes on without its trace if that cannot be written, and says so",
  ignore: Deno.build.os !== "linux",
  async fn() {
    await using dir = await tempDir();
    const image = await dir.file("disk.img", 1 << 20);
    const outcome = await serving(
      [image, "--port", "0", "--trace", "/dev/full"],
      async (uri) => {
        await using disk = await VirtualDisk.open(uri);
        // More than one attempt to write would hold, and after the first.
        for (let i = 0; i < 4; i++) {
          const writes = Array.from(
            { length: 300 },
            (_, at) => disk.write(at, new Uint8Array(512).fill(i + 1)),
          );
          await Promise.all(writes);
        }
        await disk.flush();
      },
    );
    assertEquals(outcome.code, 2);
    const complaints = outcome.err.split("\n")
      .filter((line) => line.startsWith("platter: "));
    assertEquals(complaints.length, 1, outcome.err);
    assert(complaints[0]!.endsWith("the trace ends there"), outcome.err);
    assertEquals((await Deno.readFile(image)).subarray(0, 300 * 512).at(-1), 4);
  },
});

Deno.test("serve --trace overwrites an earlier trace and nothing else", async () => {
  await using dir = await tempDir();
  const image = await dir.file("disk.img", 1 << 20);
  const trace = dir.join("trace");
  const none = () => Promise.resolve();
  for (let i = 0; i < 2; i++) {
    const args = [image, "--port", "0", "--trace", trace];
    assertEquals((await serving(args, none)).code, 0);
    const lines = (await Deno.readTextFile(trace)).trim().split("\n");
    assertEquals(lines.filter((line) => line.includes("version")).length, 1);
  }
  const other = await dir.file("other.img", new Uint8Array(512).fill(1));
  const rules = await dir.file("rules", new TextEncoder().encode("# none\n"));
  const named = await dir.file("rules2", new TextEncoder().encode("\n"));
  for (
    const [file, words] of [
      [other, "it has content that is no trace"],
      [rules, "it is the file of rules"],
      [named, "it has content that is no trace"],
    ] as const
  ) {
    const before = await Deno.readFile(file);
    const args = [image, "--port", "0", "--trace", file];
    const more = ["--fault-file", rules];
    const { code, err } = await platter(["serve", ...args, ...more]);
    assertEquals(code, 2);
    assert(err.includes(words), err);
    assertEquals(await Deno.readFile(file), before);
  }
});

Deno.test({
  name: "serve --trace knows its image by a bind mount and by its device",
  ...needs("root", "mount", "losetup"),
  async fn() {
    await using dir = await tempDir();
    const data = new Uint8Array(1 << 20).fill(3);
    const image = await dir.file("disk.img", data);
    {
      await using bound = await mount(dir.path, `${dir.path}-bound`, "--bind");
      await using device = await loopDevice(image);
      const node = dir.join("node");
      const rdev = (await Deno.stat(device.path)).rdev!;
      await run("mknod", [node, "b", `${rdev >> 8}`, `${rdev & 0xff}`]);
      for (
        const [served, trace, words] of [
          [image, bound.join("disk.img"), "it is the image"],
          [device.path, node, "it is the image"],
          // The one is the other's content.
          [device.path, image, "it is the image"],
          [image, device.path, "it is the image"],
        ] as const
      ) {
        const args = ["serve", served, "--port", "0", "--trace", trace];
        const { code, err } = await platter(args);
        assertEquals(code, 2);
        assert(err.includes(words), err);
      }
      await Deno.remove(node);
    }
    await Deno.remove(`${dir.path}-bound`);
    assertEquals(await Deno.readFile(image), data);
  },
});

Deno.test("serve says what is wrong with its arguments", async () => {
  await using dir = await tempDir();
  const image = await dir.file("disk.img", 1 << 20);
  using taken = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  for (
    const [args, words] of [
      [["--socket", "x", "--port", "1"], "--socket with --port"],
      [["--port", "70000"], "65535"],
      [["--fault", "explode"], "--fault"],
      [["--fault-file", dir.join("none")], "no such file"],
      [["--trace", dir.join("none/trace"), "--port", "0"], "--trace"],
      [["--socket", image], `listen at "${image}" as there is something`],
      [["--socket", dir.join("none/sock")], `none/sock" as there is no such`],
      [["--socket", "x".repeat(200)], "--socket as its socket's path must be"],
      [["--port", String(taken.addr.port)], "name another --port"],
      [["--host", "300.1.1.1", "--port", "0"], "listen at 300.1.1.1, port 0"],
    ] as const
  ) {
    const outcome = await platter(["serve", image, ...args]);
    assertEquals(outcome.code, 2);
    assert(outcome.err.includes(words), outcome.err);
  }
});

Deno.test("platter copy puts a disk onto an NBD server, with --force", async () => {
  await using dir = await tempDir();
  const source = await dir.file("a.img", new Uint8Array(4096).fill(7));
  const target = await dir.file("b.img", 8192);
  const socket = dir.join("nbd.sock");
  const outcome = await serving([target, "--socket", socket], async (uri) => {
    const refused = await platter(["copy", source, uri]);
    assertEquals(refused.code, 2);
    assert(refused.err.includes("as it exists: overwrite"), refused.err);
    const { code, err } = await platter([
      ...["copy", source, uri, "--force", "--verify"],
    ]);
    assertEquals([code, err], [0, ""]);
  });
  assertEquals(outcome.code, 0);
  const content = await Deno.readFile(target);
  assertEquals(content.findLastIndex((byte) => byte === 7), 4095);
  assertEquals(content.length, 8192);
});

Deno.test("serve --once flushes and leaves with its last client", async () => {
  await using dir = await tempDir();
  const image = await dir.file("disk.img", 1 << 20);
  const trace = dir.join("trace.jsonl");
  let used: Promise<void> | undefined;
  const outcome = await platter(
    ["serve", image, "--port", "0", "--once", "--trace", trace],
    {
      onOutput(text) {
        if (!text.startsWith("nbd")) return;
        used = (async () => {
          const uri = text.trim();
          // Whoever never came to use the export is no client yet.
          const { address } = parseNbdUri(uri);
          const conn = await Deno.connect(address as Deno.ConnectOptions);
          await conn.read(new Uint8Array(18));
          conn.close();
          await using first = await VirtualDisk.open(uri);
          {
            await using second = await VirtualDisk.open(uri);
            await second.write(0, new Uint8Array(512).fill(3));
          }
          assertEquals((await first.read(0, 1))[0], 3);
        })();
        used.catch(() => {});
      },
    },
  );
  await used;
  assertEquals(outcome.code, 0, outcome.err);
  assertEquals(outcome.listening, false);
  assertEquals((await Deno.readFile(image))[0], 3);
  assertEquals(await lastOperation(trace), "flush");
});

for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  Deno.test({
    name: `serve as a process flushes and ends with ${signal}, its socket, too`,
    ignore: Deno.build.os === "windows",
    async fn() {
      await using dir = await tempDir();
      const image = await dir.file("disk.img", 1 << 20);
      const socket = dir.join("nbd.sock");
      const trace = dir.join("trace.jsonl");
      const child = processOf(
        ["serve", image, "--socket", socket, "--trace", trace],
        { stdout: "piped", stderr: "null" },
      ).spawn();
      const reader = child.stdout.pipeThrough(new TextDecoderStream())
        .getReader();
      try {
        const { value: uri = "" } = await reader.read();
        await using disk = await VirtualDisk.open(uri.trim());
        await disk.write(0, new Uint8Array(512).fill(9));
        // While it is still attached.
        child.kill(signal);
        assertEquals((await child.status).code, 0);
        await assertRejects(() => disk.read(0, 1), DiskError);
      } finally {
        await reader.cancel();
        await child.status;
      }
      assertEquals((await Deno.readFile(image))[0], 9);
      assertEquals(await lastOperation(trace), "flush");
      await assertRejects(() => Deno.lstat(socket), Deno.errors.NotFound);
    },
  });
}

Deno.test({
  name: "serve under nohup stays when its terminal goes",
  ...needs("nohup"),
  async fn() {
    await using dir = await tempDir();
    const image = await dir.file("disk.img", 1 << 20);
    const socket = dir.join("nbd.sock");
    const script = new URL("../../src/cli/main.ts", import.meta.url).pathname;
    const serve = ["serve", image, "--socket", socket];
    const child = new Deno.Command("nohup", {
      args: [Deno.execPath(), "run", "--no-check", "-A", script, ...serve],
      stdin: "null",
      stdout: "piped",
      stderr: "null",
    }).spawn();
    const reader = child.stdout.pipeThrough(new TextDecoderStream())
      .getReader();
    try {
      const { value: uri = "" } = await reader.read();
      child.kill("SIGHUP");
      await using disk = await VirtualDisk.open(uri.trim());
      assertEquals((await disk.read(0, 1))[0], 0);
    } finally {
      child.kill("SIGTERM");
      await reader.cancel();
      assertEquals((await child.status).code, 0);
    }
  },
});

/** The last thing that a disk was asked for. */
async function lastOperation(trace: string): Promise<string> {
  const lines = (await Deno.readTextFile(trace)).trim().split("\n");
  return lines.map((line) => JSON.parse(line).operation)
    .findLast((operation) => operation !== undefined);
}
