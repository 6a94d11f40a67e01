import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { MemoryBackend } from "../../src/backends/memory.ts";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { fileError } from "../../src/cli/images.ts";
import { writeAll } from "../../src/cli/io.ts";
import { inOptionsOf } from "../../src/cli/option_words.ts";
import { flushedWord } from "../../src/cli/outcome.ts";
import { altered } from "../fake_backend.ts";
import { needs } from "../helpers.ts";
import {
  type Conditions,
  exists,
  type Outcome,
  platter,
  Scratch,
} from "./harness.ts";

const KIB = 1024;
const SIZE = 64 * KIB;
const FULL = new Error("No space left on device (os error 28)");
const UNREAD = new Deno.errors.BrokenPipe("Broken pipe (os error 32)");

/** What one verb is given, and what it must leave whatever its outputs do. */
interface Case {
  readonly verb: string;
  readonly args: (scratch: Scratch) => string[];
  /** The exit code while all goes well. */
  readonly code: number;
  /** What is left, in words of the error; nothing for verbs that only look. */
  readonly done?: string;
  readonly check?: (scratch: Scratch) => Promise<void>;
}

const CONTENT = new Uint8Array(SIZE).map((_, index) => index * 7 >> 3 | 1);

async function isWhole(path: string): Promise<void> {
  assertEquals((await Deno.readFile(path)).toHex(), CONTENT.toHex());
}

const CASES: readonly Case[] = [
  {
    verb: "copy",
    args: (it) => ["copy", it.of("a.img"), it.of("new.img"), "--verify"],
    code: 0,
    done: "is complete and flushed",
    check: (it) => isWhole(it.of("new.img")),
  },
  {
    verb: "copy --force",
    args: (it) => ["copy", it.of("a.img"), it.of("b.img"), "--force"],
    code: 0,
    done: "is complete and flushed",
    check: (it) => isWhole(it.of("b.img")),
  },
  {
    verb: "create",
    args: (it) => ["create", it.of("new.img"), "64KiB"],
    code: 0,
    done: "was created",
    check: async (it) =>
      assertEquals((await Deno.stat(it.of("new.img"))).size, SIZE),
  },
  {
    verb: "write",
    args: (it) => ["write", it.of("b.img"), it.of("a.img"), "--sector", "0"],
    code: 0,
    done: "has all of the input, flushed",
    check: (it) => isWhole(it.of("b.img")),
  },
  {
    verb: "read --output",
    args: (it) => ["read", it.of("a.img"), "--output", it.of("new.img")],
    code: 0,
    done: "has all of it",
    check: (it) => isWhole(it.of("new.img")),
  },
  { verb: "read", args: (it) => ["read", it.of("a.img")], code: 0 },
  {
    verb: "read --raw",
    args: (it) => ["read", it.of("a.img"), "--raw"],
    code: 0,
  },
  {
    verb: "read -o -",
    args: (it) => ["read", it.of("a.img"), "-o", "-"],
    code: 0,
  },
  { verb: "map", args: (it) => ["map", it.of("a.img")], code: 0 },
  { verb: "info", args: (it) => ["info", it.of("a.img")], code: 0 },
  {
    verb: "compare",
    args: (it) => ["compare", it.of("a.img"), it.of("b.img")],
    code: 1,
  },
  { verb: "--help", args: () => ["copy", "--help"], code: 0 },
  { verb: "--version", args: () => ["--version"], code: 0 },
];

async function scratchOf(): Promise<Scratch> {
  const scratch = await Scratch.make();
  await scratch.image("a.img", SIZE, { 0: CONTENT });
  await scratch.image("b.img", SIZE, { 0: "old" });
  return scratch;
}

for (const { verb, args, code, done, check } of CASES) {
  Deno.test(`platter ${verb} keeps what it did if its output takes nothing`, async () => {
    const conditions: [Conditions["failing"], code: number][] = [
      [{ stdout: FULL }, 2],
      [{ stdout: UNREAD }, 141],
      [{ stdout: FULL, stderr: FULL }, 2],
      [{ stdout: UNREAD, stderr: UNREAD }, 141],
      [{ stderr: FULL }, code],
      [{ stderr: UNREAD }, code],
    ];
    for (const [failing, expected] of conditions) {
      await using scratch = await scratchOf();
      // On a terminal there is progress to print as well.
      const it = await platter(args(scratch), {
        failing: failing!,
        terminal: verb.startsWith("copy"),
        tickMs: 500,
      });
      assertEquals(it.code, expected, it.err);
      await check?.(scratch);
      await isWhole(scratch.of("a.img"));
      if (failing!.stdout === undefined || failing!.stderr) continue;
      if (done !== undefined) assertStringIncludes(it.err, done);
      else if (failing!.stdout === UNREAD) assertEquals(it.err, "");
    }
  });
}

Deno.test("platter says no more than it knows if nobody hears its complaint", async () => {
  // Above all not 1, which says that two disks differ.
  for (const stderr of [FULL, UNREAD]) {
    for (const args of [["compare", "/nowhere", "/nowhere"], ["frob"], []]) {
      assertEquals((await platter(args, { failing: { stderr } })).code, 2);
    }
  }
});

Deno.test({
  name: "the program keeps what it did if its outputs are full or closed",
  ...needs("sh"),
  ignore: Deno.build.os !== "linux",
  async fn() {
    const run = async (redirection: string, args: string[]) => {
      const main = new URL("../../src/cli/main.ts", import.meta.url).pathname;
      const shell = `exec "$0" run --no-check -A "$@" ${redirection}`;
      const { code } = await new Deno.Command("sh", {
        args: ["-c", shell, Deno.execPath(), main, ...args],
        stdin: "null",
        stdout: "null",
        stderr: "null",
      }).output();
      return code;
    };
    await using scratch = await scratchOf();
    const [source, old] = [scratch.of("a.img"), scratch.of("b.img")];
    const results = [
      await run(">/dev/full 2>&1", ["copy", source, scratch.of("1.img")]),
      // A descriptor that is free must not become the image's.
      await run(">&- 2>&-", ["copy", source, scratch.of("2.img")]),
      await run("2>/dev/full", ["compare", source, scratch.of("none")]),
      await run(">/dev/full", ["compare", source, old]),
    ];
    assertEquals(results, [2, 0, 2, 2]);
    await isWhole(scratch.of("1.img"));
    await isWhole(scratch.of("2.img"));
  },
});

Deno.test("writeAll() waits for a stream that is full for now", async () => {
  const taken: number[] = [];
  let calls = 0;
  await writeAll({
    write(bytes) {
      if (calls++ % 2 === 1) {
        return Promise.reject(new Deno.errors.WouldBlock());
      }
      taken.push(...bytes.subarray(0, 3));
      return Promise.resolve(Math.min(3, bytes.length));
    },
  }, Uint8Array.of(1, 2, 3, 4, 5, 6, 7));
  assertEquals(taken, [1, 2, 3, 4, 5, 6, 7]);
});

// --- what a failed copy leaves ---

Deno.test("platter copy says that a target it refused is as it was", async () => {
  await using scratch = await scratchOf();
  const small = await scratch.image("small.img", 512, { 0: "small" });
  const wide = await scratch.image("wide.img", 512 * 3, { 0: "wide" });
  const cases = [
    ["copy", scratch.of("a.img"), small, "--force"],
    ["copy", wide, scratch.of("b.img"), "--force", "--block-size", "4096"],
  ];
  for (const args of cases) {
    const { code, err } = await platter(args);
    assertEquals(code, 2);
    assert(!err.includes("partly old"), err);
  }
  const { err } = await platter(cases[0]!);
  assert(err.endsWith(`: "${small}" is as it was\n`), err);
  assertStringIncludes(await Deno.readTextFile(small), "small");
});

Deno.test("flushedWord() says so of a disk without a flush", async () => {
  const memory = new MemoryBackend({ sectors: 8 });
  const { abilities } = memory;
  await using can = VirtualDisk.over(memory);
  await using cannot = VirtualDisk.over(
    altered(memory, { abilities: { ...abilities, flush: "none" } }),
  );
  assertEquals(flushedWord(can), "flushed");
  assertEquals(flushedWord(cannot), "not flushed, as it cannot be");
});

Deno.test("platter copy keeps a complete copy whose verification is interrupted", async () => {
  await using scratch = await scratchOf();
  for (const name of ["new.img", "b.img"]) {
    const target = scratch.of(name);
    const { code, err } = await platter(
      ["copy", scratch.of("a.img"), target, "--verify", "--force"],
      {
        terminal: true,
        tickMs: 500,
        onOutput(text, interrupt) {
          if (text.includes("Verifying")) interrupt();
        },
      },
    );
    assertEquals(code, 130, err);
    assert(
      err.endsWith(
        `platter: Interrupted: "${target}" is complete and flushed, but was ` +
          `not verified\n`,
      ),
      err,
    );
    await isWhole(target);
  }
});

for (const verb of ["copy", "read --output"]) {
  Deno.test(`platter ${verb} removes no file but the one that it made`, async () => {
    await using scratch = await Scratch.make();
    const source = await scratch.image("a.img", 64 << 20, {
      0: new Uint8Array(64 << 20).fill(1),
    });
    const target = scratch.of("new.img");
    const other = await scratch.image("other", 5, { 0: "other" });
    const swap = () => Deno.renameSync(other, target);
    const args = verb === "copy"
      ? ["copy", source, target, "--backend", "portable"]
      : ["read", source, "--output", target];
    // Replaced while it is written, and interrupted right after.
    let swapped = false;
    const watcher = setInterval(() => {
      try {
        if (swapped || Deno.statSync(target).blocks === 0) return;
        swap();
        swapped = true;
        stop();
      } catch {
        // Not there yet.
      }
    }, 0);
    let stop = () => {};
    const it: Outcome = await platter(args, {
      onListening: (interrupt) => stop = interrupt,
    });
    clearInterval(watcher);
    assert(swapped);
    assertEquals(it.code, 130, it.err);
    assertStringIncludes(
      it.err,
      "is another file by now and was left as it is",
    );
    assertEquals(await Deno.readTextFile(target), "other");
  });
}

// --- names that are none, and files that are the image ---

Deno.test('platter takes "-" for a stream only where it means one', async () => {
  await using scratch = await scratchOf();
  const image = scratch.of("a.img");
  const refused = [
    ["info", "-"],
    ["map", "-"],
    ["read", "-"],
    ["create", "-", "1MiB"],
    ["write", "-", "--sector", "0"],
    ["write", "-", image, "--sector", "0"],
    ["copy", "-", "-"],
    ["copy", image, "-", "--verify"],
    ["copy", "-", image, "--rescue", scratch.of("map")],
    ["compare", image, "-"],
    ["serve", "-"],
    ["serve", image, "--trace", "-"],
    ["serve", image, "--socket", "-"],
    ["serve", image, "--fault-file", "-"],
    ["extract", image, "-o", "-"],
    ["extract", image, "a", "-", "-o", scratch.of("tree")],
    ["cat", image, "-"],
    ["cat", image, "a", "b", "-"],
    ["ls", image, "-"],
    ["mount", image, "-"],
    ["doctor", "-"],
    ["heat", "-"],
  ];
  for (const args of refused) {
    const { code, out, err } = await platter(args);
    assertEquals([code, out], [2, ""], args.join(" "));
    assert(!/ as (PATH|TRACE|--\w+) .*disk|undefined/.test(err), err);
    assertStringIncludes(err, `current value is "-"`);
    assertStringIncludes(err, `"./-"`);
  }
  assertEquals(await exists("-"), false);
  const { err } = await platter(["write", "-", image, "--sector", "0"]);
  assertStringIncludes(err, `"platter read IMAGE --raw"`);
  const copied = await platter(["copy", image, "-"]);
  assertEquals(copied.bytes, CONTENT);
  const raw = await platter(["read", image, "--output", "-"]);
  assertEquals(raw.bytes, CONTENT);
});

/** Other names of an image, and whether each is to be had. */
async function namesOf(scratch: Scratch): Promise<string[]> {
  const image = scratch.of("a.img");
  const [hard, soft] = [scratch.of("hard"), scratch.of("soft")];
  await Deno.link(image, hard);
  await Deno.symlink(image, soft);
  return [image, `${scratch.path}/./a.img`, hard, soft];
}

Deno.test("platter overwrites no image that it works on, by whatever name", async () => {
  await using scratch = await scratchOf();
  const image = scratch.of("a.img");
  for (const name of await namesOf(scratch)) {
    const cases: [args: string[], words: string][] = [
      [["serve", image, "--port", "0", "--trace", name], "it is the image"],
      [
        ["serve", image, "--port", "0", "--overlay", "--trace", name],
        "it is the image",
      ],
      [["read", image, "--force", "-o", name], "into itself"],
      [["write", image, name, "--sector", "0"], "onto itself"],
      [["copy", image, name, "--force"], "onto itself"],
      [["copy", image, name], "onto itself"],
      [["copy", image, name, "--rescue", scratch.of("map")], "onto itself"],
    ];
    for (const [args, words] of cases) {
      const { code, err } = await platter(args);
      assertEquals(code, 2, err);
      assertStringIncludes(err, words);
      await isWhole(image);
    }
  }
});

Deno.test("platter copy refuses what cannot be before it makes a target", async () => {
  await using scratch = await scratchOf();
  const [image, made] = [scratch.of("a.img"), scratch.of("new.img")];
  const cases: [args: string[], words: string][] = [
    [
      [image, made, "--count", "0"],
      `--count as it must be one sector at least: current value is "0"`,
    ],
    [["-", made, "--count", "0"], "--count as it must be one sector at least"],
    [[image, "-", "--count", "0"], "--count as it must be one sector at least"],
    [
      [image, made, "--to-partition", "1"],
      `Cannot copy into a partition of "${made}" as there is no such file`,
    ],
    [
      ["-", made, "--to-partition", "1", "--size", "1MiB"],
      `Cannot copy into a partition of "${made}" as there is no such file`,
    ],
  ];
  for (const [args, words] of cases) {
    const { code, out, err } = await platter(["copy", ...args]);
    assertEquals([code, out], [2, ""]);
    assertStringIncludes(err, words);
    assert(!err.includes("removed again"), err);
    assertEquals(await exists(made), false);
  }
});

Deno.test("platter makes no disk at the end of a link, and says so", async () => {
  await using scratch = await scratchOf();
  const [image, link] = [scratch.of("a.img"), scratch.of("link.img")];
  await Deno.symlink(scratch.of("nowhere"), link);
  const serve = ["serve", image, "--port", "0"];
  const cases = [
    ["create", link, "1MiB"],
    ["create", link, "1MiB", "--backend", "portable"],
    ["create", link, "1MiB", "--force"],
    ["copy", image, link],
    ["copy", image, link, "--force"],
    ["copy", image, link, "--rescue", scratch.of("map")],
    [...serve, `--overlay=${link}`],
  ];
  for (const args of cases) {
    const { code, err } = await platter(args);
    assertEquals(code, 2, err);
    assertStringIncludes(
      err,
      `Cannot create "${link}" as it is a link to "${
        scratch.of("nowhere")
      }", which is not there\n`,
    );
    assertEquals(await exists(scratch.of("nowhere")), false);
  }
});

Deno.test("platter makes notes about the work at the end of a link", async () => {
  await using scratch = await scratchOf();
  const [image, link] = [scratch.of("a.img"), scratch.of("link")];
  const target = scratch.of("nowhere");
  await Deno.symlink(target, link);
  const serve = ["serve", image, "--port", "0", "--overlay"];
  const cases = [
    ["read", image, "--force", "--output", link],
    ["bmap", image, "--force", "--output", link],
    ["copy", image, scratch.of("new.img"), "--rescue", link],
    [...serve, "--trace", link],
    [...serve, "--stats", link],
  ];
  for (const args of cases) {
    const { code, err } = await platter(args, {
      onOutput: (text, interrupt) => text.startsWith("nbd") && interrupt(),
    });
    assertEquals(code, 0, err);
    assert((await Deno.stat(target)).size > 0);
    assert((await Deno.lstat(link)).isSymlink);
    await Deno.remove(target);
  }
});

Deno.test("platter advises --force only where there is such an option", async () => {
  await using scratch = await scratchOf();
  const [image, old] = [scratch.of("a.img"), scratch.of("b.img")];
  const read = await platter(["read", image, "--output", old]);
  assertStringIncludes(read.err, "as it exists: use --force to overwrite it");
  const { message } = fileError(
    "write",
    old,
    Object.assign(new Error("exists"), { code: "EEXIST" }),
  );
  assertEquals(message, `Cannot write "${old}" as it exists`);
});

Deno.test("platter read --output --force cuts an old file only when all is in it", async () => {
  await using scratch = await scratchOf();
  const file = await scratch.image("out", 2 * SIZE, { [SIZE]: "end" });
  const image = scratch.of("a.img");
  const failed = await platter(["read", image, "-o", file, "-f"], {
    onListening: (interrupt) => interrupt(),
  });
  assertEquals(failed.code, 130);
  assertEquals((await Deno.stat(file)).size, 2 * SIZE);
  assertEquals((await platter(["read", image, "-o", file, "-f"])).code, 0);
  await isWhole(file);
});

// --- advice ---

Deno.test("platter gives advice in the options of the verb", async () => {
  await using scratch = await scratchOf();
  const [image, other] = [scratch.of("a.img"), scratch.of("b.img")];
  await using _holder = await VirtualDisk.open(image);
  const cases: [args: string[], advice: boolean][] = [
    [["write", image, other, "--sector", "0"], false],
    [["write", image, other, "--sector", "0", "--backend=portable"], false],
    [["create", image, "64KiB", "--force"], false],
    [["copy", image, scratch.of("new.img")], true],
    [["copy", other, image, "--force"], false],
    [["serve", image, "--port", "0"], true],
  ];
  for (const [args, advice] of cases) {
    const { code, err } = await platter(args);
    assertEquals(code, 2, err);
    assert(!/lock: /.test(err), err);
    assertEquals(err.includes("--no-lock"), advice, err);
  }
  for (const verb of ["info", "map"]) {
    const { out, err } = await platter([verb, image, "--direct", "never"]);
    assert(!/\w+: "\w+"/.test(out + err), out + err);
  }
});

Deno.test("inOptionsOf() knows the options that the library names", async () => {
  const names =
    "lock|direct|backend|engine|stallMs|pollMs|readOnly|blockSize|" +
    "queueSize|writeCache|overwrite|preallocate";
  const pattern = new RegExp(`\\b(?:${names}): (?:"\\w+"|\\w+)`, "g");
  let found = 0;
  const visit = async (folder: URL): Promise<void> => {
    for await (const entry of Deno.readDir(folder)) {
      const url = new URL(entry.name, folder);
      if (entry.isDirectory) {
        if (!["cli", "testing"].includes(entry.name)) {
          await visit(new URL(`${url}/`));
        }
        continue;
      }
      const source = (await Deno.readTextFile(url))
        .replace(/^ *(\/\/|\/?\*).*$/gm, "");
      const texts = source.match(/`[^`]*`|'[^'\n]*'/g) ?? [];
      for (const [said] of texts.join("\n").matchAll(pattern)) {
        found++;
        assertEquals(
          inOptionsOf(`Cannot open it: try ${said} if you know better`, []),
          "Cannot open it",
          `${entry.name} says ${said}`,
        );
      }
    }
  };
  await visit(new URL("../../src/", import.meta.url));
  assert(found > 3);
  const options = [{ name: "no-lock", summary: "" }];
  assertEquals(
    inOptionsOf(
      'held: close it, or open with lock: "none" if you can',
      options,
    ),
    "held: close it, or open with --no-lock if you can",
  );
  assertEquals(
    inOptionsOf('held: close it, or open with lock: "none" if you can', []),
    "held: close it",
  );
});
