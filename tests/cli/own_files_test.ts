/**
 * No verb overwrites what it reads: not the image, nor a file that the image
 * names, nor by way of the streams that a shell opens.
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertMatch,
  assertStringIncludes,
} from "@std/assert";

import { gzipSync } from "node:zlib";
import { isSame } from "../../src/bytes.ts";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { openBackend } from "../../src/disk/open.ts";
import { overlay } from "../../src/disk/overlay.ts";
import { trace } from "../../src/layers/trace.ts";
import { cpioOf } from "../files/trees.ts";
import { needs, run } from "../helpers.ts";
import { exists, platter, Scratch } from "./harness.ts";

const MIB = 1 << 20;
const CONTENT = new Uint8Array(MIB).map((_, index) => index * 7 >> 3 | 1);
const ITSELF = /(itself|is the map|as the map: it is ".*")\n$/;

async function isWhole(path: string): Promise<void> {
  assertEquals((await Deno.readFile(path)).toHex(), CONTENT.toHex());
}

/** Containers of which another file has the data, and how they are made. */
const CONTAINERS: readonly {
  readonly what: string;
  readonly make: (scratch: Scratch) => Promise<{ image: string; file: string }>;
}[] = [
  {
    what: "a backing file",
    make: (scratch) => overlays(scratch, 1),
  },
  {
    what: "a backing file of a backing file",
    make: (scratch) => overlays(scratch, 2),
  },
  {
    what: "an extent",
    async make(scratch) {
      const image = scratch.of("disk.vmdk");
      const flat = ["-o", "subformat=monolithicFlat"];
      await run("qemu-img", [
        ...["create", "-q", "-f", "vmdk", ...flat, image, `${MIB}`],
      ]);
      const file = scratch.of("disk-flat.vmdk");
      await Deno.writeFile(file, CONTENT);
      return { image, file };
    },
  },
];

/** Containers that write to another file, and how qemu-img makes them. */
const DATA_FILES: readonly {
  readonly what: string;
  readonly format: string;
  readonly args: (scratch: Scratch) => string;
}[] = [
  {
    what: "the data file",
    format: "qcow2",
    args: (scratch) => `data_file=${scratch.of("data")},data_file_raw=on`,
  },
  {
    what: "an extent",
    format: "vmdk",
    args: () => "subformat=twoGbMaxExtentFlat",
  },
];

/** Images, each of which has another one below it. */
async function overlays(scratch: Scratch, count: number) {
  const file = await scratch.image("base.img", MIB, { 0: CONTENT });
  let below = file;
  for (let number = 1; number <= count; number++) {
    const image = scratch.of(`${number}.qcow2`);
    const format = below === file ? "raw" : "qcow2";
    // By a name from the image's own folder, which is not that of this process.
    const name = below.slice(scratch.path.length + 1);
    await run("qemu-img", [
      ...["create", "-q", "-f", "qcow2", "-b", name, "-F", format, image],
    ]);
    below = image;
  }
  return { image: below, file };
}

/** Verbs that read one file and write another one. */
const WRITERS: Record<
  string,
  (image: string, file: string, spare: string) => string[]
> = {
  "read --output": (image, file) => ["read", image, "-o", file],
  "bmap --output": (image, file) => ["bmap", image, "-o", file],
  "copy": (image, file) => ["copy", image, file, "--to-format", "raw"],
  "copy --rescue": (image, file, spare) => [
    ...["copy", image, file, "--to-format", "raw", "--rescue", spare],
  ],
};

for (const { what, make } of CONTAINERS) {
  Deno.test({
    name: `platter overwrites no file that is ${what} of what it reads`,
    ...needs("qemu-img", "qemu-nbd"),
    async fn() {
      await using scratch = await Scratch.make();
      const { image, file } = await make(scratch);
      const link = scratch.of("link");
      await Deno.link(file, link);
      const spare = scratch.of("spare");
      for (const [verb, argsOf] of Object.entries(WRITERS)) {
        for (const name of [file, link]) {
          const args = argsOf(image, name, spare);
          const { code, err } = await platter(
            [...args, "--backing-files", "--force"],
          );
          assertEquals(code, 2, `${verb}: ${err}`);
          assertMatch(err, ITSELF);
          await isWhole(file);
        }
      }
      assertEquals(await exists(spare), false);
    },
  });
}

Deno.test({
  name: "platter copy overwrites no file by way of a container that has it",
  ...needs("qemu-img", "qemu-nbd"),
  async fn() {
    await using scratch = await Scratch.make();
    const { image, file } = await CONTAINERS.at(-1)!.make(scratch);
    const options = ["--format", "raw", "--backing-files", "--no-lock", "-f"];
    const { code, err } = await platter(
      ["copy", file, image, "--count", "8", "--to", "8", ...options],
    );
    assertEquals(code, 2);
    assertStringIncludes(err, "onto itself");
    await isWhole(file);
  },
});

for (const { what, format, args } of DATA_FILES) {
  Deno.test({
    name: `platter overwrites no input that is ${what} of the image`,
    ...needs("qemu-img", "qemu-nbd"),
    async fn() {
      await using scratch = await Scratch.make();
      const image = scratch.of(`disk.${format}`);
      const made = ["create", "-q", "-f", format, "-o", args(scratch)];
      await run("qemu-img", [...made, image, "1M"]);
      const file = (await Array.fromAsync(Deno.readDir(scratch.path)))
        .map(({ name }) => scratch.of(name)).find((path) => path !== image)!;
      await Deno.writeFile(file, CONTENT);
      const link = scratch.of("link");
      await Deno.link(file, link);
      const into = ["write", image, "--backing-files", "--sector", "8"];
      for (const name of [file, link]) {
        for (
          const { code, err } of [
            await platter([...into, name]),
            await platter(into, { stdinPath: name, stdin: [CONTENT] }),
            await platter(["copy", name, image, "--backing-files", "-f"]),
          ]
        ) {
          assertEquals(code, 2, err);
          assertMatch(err, /itself|has its data in ".*"\n/);
          await isWhole(file);
        }
      }
    },
  });
}

Deno.test({
  name: "platter write writes to an overlay what its backing file has",
  ...needs("qemu-img", "qemu-nbd"),
  async fn() {
    await using scratch = await Scratch.make();
    const { image, file } = await overlays(scratch, 1);
    const { code, err } = await platter(
      ["write", image, file, "--sector", "0", "--backing-files"],
    );
    assertEquals([code, err], [0, ""]);
    await isWhole(file);
  },
});

Deno.test({
  name: "platter copy writes to an overlay what its backing file has",
  ...needs("qemu-img", "qemu-nbd"),
  async fn() {
    await using scratch = await Scratch.make();
    const { image, file } = await overlays(scratch, 1);
    const { code, err } = await platter(
      ["copy", file, image, "--backing-files", "--force"],
    );
    assertEquals([code, err], [0, ""]);
    await isWhole(file);
  },
});

Deno.test({
  name: "platter copy --rescue makes no map of a file that it reads",
  ...needs("qemu-img", "qemu-nbd"),
  async fn() {
    await using scratch = await Scratch.make();
    const { image, file } = await overlays(scratch, 1);
    // What looks like a map of it.
    const map = `0x0 ? 1\n0x0 ${MIB} ?\n`;
    await Deno.writeTextFile(file, map.padEnd(MIB, "\n"));
    const target = scratch.of("new.img");
    const { code, err } = await platter(
      ["copy", image, target, "--rescue", file, "--backing-files"],
    );
    assertEquals(code, 2);
    assertMatch(err, /as the map: it is ".*base\.img"/);
    assertEquals((await Deno.readTextFile(file)).startsWith(map), true);
    assertEquals(await exists(target), false);
  },
});

Deno.test("platter extract --force leaves out what would replace the image that it reads", async () => {
  await using scratch = await Scratch.make();
  const files = cpioOf([
    { name: "disk.img", content: "file" },
    { name: "link.img", mode: 0o120777, content: "elsewhere" },
    { name: "other", content: "new" },
  ]);
  const image = await scratch.image("disk.img", files.length, { 0: files });
  await Deno.symlink("disk.img", scratch.of("link.img"));
  await Deno.writeTextFile(scratch.of("other"), "old");
  const { code, err } = await platter(
    ["extract", image, "-o", scratch.path, "--force"],
  );
  assertEquals(code, 2);
  for (const name of ["disk.img", "link.img"]) {
    assertStringIncludes(
      err,
      `"${name}" is left out as the disk is read from the file in its place\n`,
    );
  }
  assertEquals(await Deno.readFile(image), files);
  assertEquals(await Deno.readLink(scratch.of("link.img")), "disk.img");
  assertEquals(await Deno.readTextFile(scratch.of("other")), "new");
});

Deno.test("platter extract replaces no file that standard output goes to", async () => {
  await using scratch = await Scratch.make();
  const image = await scratch.image("disk.img", MIB, {
    0: cpioOf([{ name: "log", content: "new" }, { name: "other" }]),
  });
  const tree = scratch.of("tree");
  await Deno.mkdir(tree);
  await Deno.writeTextFile(`${tree}/log`, "old");
  for (const stdoutPath of [`${tree}/log`, "/dev/null"]) {
    const args = ["extract", image, "-o", tree, "--force"];
    const { code, out, err } = await platter(args, { stdoutPath });
    const isSpared = stdoutPath !== "/dev/null";
    assertEquals(code, isSpared ? 2 : 0);
    assertStringIncludes(out, isSpared ? "left out 1" : "Extracted");
    assertEquals(
      err,
      isSpared
        ? 'platter: "log" is left out as standard output goes to the file in its place\n'
        : "",
    );
    assertEquals(
      await Deno.readTextFile(`${tree}/log`),
      isSpared ? "old" : "new",
    );
  }
});

// --- standard streams ---

Deno.test("platter writes nothing to standard output that is the image", async () => {
  await using scratch = await Scratch.make();
  const image = await scratch.image("a.img", MIB, { 0: CONTENT });
  const packed = await scratch.image("a.img.gz", 0);
  await Deno.writeFile(packed, gzipSync(CONTENT));
  const link = scratch.of("link");
  await Deno.link(image, link);
  const cases: [args: string[], stdoutPath: string][] = [
    [["copy", image, "-", "--from", "8"], link],
    [["copy", packed, "-"], packed],
    [["read", image], image],
    [["read", image, "--raw"], image],
    [["read", image, "-o", "-"], link],
    [["bmap", image], link],
    [["map", image], link],
    [["info", image], link],
  ];
  for (const [args, stdoutPath] of cases) {
    const { code, out, err } = await platter(args, { stdoutPath });
    assertEquals([code, out], [2, ""], args.join(" "));
    assertMatch(err, /^platter: Cannot write to standard output as it goes to/);
    const elsewhere = scratch.of("elsewhere");
    await Deno.writeTextFile(elsewhere, "");
    const other = await platter(args, { stdoutPath: elsewhere });
    assertEquals(other.code, 0, other.err);
  }
});

Deno.test("platter writes nothing to a file that standard output goes to", async () => {
  await using scratch = await Scratch.make();
  const image = await scratch.image("a.img", MIB, { 0: CONTENT });
  const packed = scratch.of("a.img.gz");
  await Deno.writeFile(packed, gzipSync(CONTENT));
  const input = await scratch.image("input", 512, { 0: "input" });
  const [bmap, map] = [scratch.of("bmap"), scratch.of("map")];
  assertEquals((await platter(["bmap", image, "-o", bmap])).code, 0);
  await Deno.writeTextFile(map, `0x0 ? 1\n0x0 ${MIB} ?\n`);
  const tracePath = scratch.of("trace");
  const overlaid = await scratch.image("base.img", MIB, { 0: CONTENT });
  const changes = scratch.of("changes");
  {
    const base = await openBackend(overlaid);
    const file = await overlay(base, { file: changes });
    await using disk = VirtualDisk.over(trace(file, (line) => {
      Deno.writeTextFileSync(tracePath, `${line}\n`, { append: true });
    }));
    await disk.write(0, new Uint8Array(512).fill(1));
    await disk.flush();
  }
  const report = await scratch.image("report.html", 0);
  const crash = ["--run", "true", "--check", "true", "--size", "1MiB"];
  const target = await scratch.image("target", MIB, { 0: CONTENT });
  const link = scratch.of("link");
  await Deno.link(target, link);
  const cases: [args: string[], stdoutPath: string][] = [
    [["create", target, "64KiB", "-f"], target],
    [["copy", image, target, "-f"], target],
    [["copy", image, target, "-f", "--verify", "--json"], link],
    [["copy", image, target, "-f", "--quiet"], target],
    [["copy", packed, target, "-f"], target],
    [["copy", packed, target, "-f"], packed],
    [["copy", "-", target, "-f"], target],
    [["copy", image, target, "-f", "--bmap", bmap], target],
    [["copy", image, target, "-f", "--bmap", bmap], bmap],
    [["copy", packed, target, "-f", "--bmap", bmap], link],
    [["copy", image, target, "-f", "--rescue", map], target],
    [["copy", image, target, "-f", "--rescue", map], map],
    [["crash", ...crash, "--html", report], report],
    [["commit", changes], overlaid],
    [["commit", changes], changes],
    [["read", image, "-o", target, "-f"], link],
    [["bmap", image, "-o", target, "-f"], target],
    [["heat", tracePath, "-o", target, "-f"], target],
    [["heat", tracePath, "-o", target, "-f"], tracePath],
    [["heat", tracePath], tracePath],
    [["write", target, input, "--sector", "0"], link],
    [["write", target, input, "--sector", "0"], input],
    [["zero", target, "--all"], target],
    [["fill", target, "--all", "--pattern", "1"], target],
    [["discard", target, "--all"], target],
    [["flush", target], target],
    [["resize", target, "2MiB"], target],
    [["partitions", target, "--make", "gpt", "-f"], target],
  ];
  const all = [image, packed, input, bmap, map, tracePath, overlaid, changes];
  const contents = () =>
    Promise.all([...all, target].map((path) => Deno.readFile(path)));
  const before = await contents();
  for (const [args, stdoutPath] of cases) {
    const stdin = [CONTENT];
    const { code, out, err } = await platter(args, { stdoutPath, stdin });
    const what = args.join(" ");
    assertEquals([code, out], [2, ""], what);
    assertMatch(err, /Cannot write to standard output as it goes to/, what);
    assert((await contents()).every((it, i) => isSame(it, before[i]!)), what);
  }
});

Deno.test("platter saves to a pipe or a device that standard output goes to", {
  ignore: Deno.build.os === "windows",
}, async () => {
  await using scratch = await Scratch.make();
  const image = await scratch.image("a.img", MIB, { 0: CONTENT });
  const args = ["read", image, "-o", "/dev/null", "-f"];
  const { code, err } = await platter(args, { stdoutPath: "/dev/null" });
  assertEquals([code, err], [0, ""]);
});

/** What a shell opens for the program, and what it is called with. */
const REDIRECTED: readonly (readonly [string, readonly string[]])[] = [
  ['< "$IMAGE"', ["copy", "-", "IMAGE", "--to", "8", "--force"]],
  ['< "$IMAGE"', ["write", "IMAGE", "--sector", "8"]],
  ['1<> "$IMAGE"', ["copy", "IMAGE", "-", "--from", "8"]],
  ['>> "$IMAGE"', ["copy", "IMAGE", "-"]],
  ['1<> "$IMAGE"', ["read", "IMAGE", "--raw", "--sector", "8"]],
];

for (const [redirection, args] of REDIRECTED) {
  Deno.test({
    name: `the program refuses ${args.join(" ")} ${redirection}`,
    ...needs("sh"),
    ignore: Deno.build.os === "windows",
    async fn() {
      await using scratch = await Scratch.make();
      const image = await scratch.image("a.img", MIB, { 0: CONTENT });
      const root = new URL("../../", import.meta.url).pathname;
      // Without a permission for everything, too.
      const some = [
        `--allow-read=${scratch.path},${root}`,
        `--allow-write=${scratch.path}`,
      ];
      for (const permissions of [["-A"], some]) {
        const { code, stderr } = await new Deno.Command("sh", {
          args: [
            ...["-c", `exec "$0" run --no-check "$@" ${redirection}`],
            ...[Deno.execPath(), ...permissions, `${root}src/cli/main.ts`],
            ...args.map((word) => word === "IMAGE" ? image : word),
          ],
          env: { IMAGE: image },
        }).output();
        const err = new TextDecoder().decode(stderr);
        assertEquals(code, 2, err);
        assertMatch(err, /onto itself|Cannot write to standard output/);
        await isWhole(image);
      }
    },
  });
}
