import {
  assert,
  assertEquals,
  assertLess,
  assertMatch,
  assertNotEquals,
  assertStringIncludes,
} from "@std/assert";
import { describe } from "../../src/cli/info.ts";
import type { DiskInfo } from "../../src/disk/disk.ts";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { MemoryBackend } from "../../src/backends/memory.ts";
import { faults } from "../../src/layers/mod.ts";
import { NbdServer } from "../../src/nbd/mod.ts";
import { Random } from "../../src/random.ts";
import { cpioOf } from "../files/trees.ts";
import { loopDevice, mount, needs, run } from "../helpers.ts";
import { exists, platter, Scratch, undrawn } from "./harness.ts";

const MIB = 1 << 20;

/** Bytes that nobody takes for another place's. */
function noise(length: number, seed = 1): Uint8Array<ArrayBuffer> {
  return new Random(seed).bytes(length);
}

/** Without the difference, which takes more memory than there is. */
function assertSame(actual: Uint8Array, expected: Uint8Array): void {
  assertEquals(actual.length, expected.length);
  const at = actual.findIndex((byte, index) => byte !== expected[index]);
  assertEquals(at, -1, `byte ${at} differs`);
}

async function statOf(path: string): Promise<{ size: number; stored: number }> {
  const { size, blocks } = await Deno.stat(path);
  return { size, stored: (blocks ?? 0) * 512 };
}

// --- info ---

Deno.test("platter info describes an image that another program writes", async () => {
  await using scratch = await Scratch.make();
  const path = await scratch.image("disk.img", 3 * MIB, { 0: "x" });
  await using _writer = await VirtualDisk.open(path);
  const { code, out, err } = await platter(["info", path]);
  assertEquals([code, err], [0, ""]);
  assertStringIncludes(out, "3 MiB (3,145,728 bytes, 6,144 sectors)");
  const rows = [
    "size",
    "blocks",
    "medium",
    "backend",
    "engine",
    "direct I/O",
    "alignment",
    "flush reaches",
    "discard",
  ];
  for (const row of rows) assertMatch(out, new RegExp(`^  ${row} +\\S`, "m"));
});

Deno.test("platter info --json prints disk.info", async () => {
  await using scratch = await Scratch.make();
  const path = await scratch.image("disk.img", MIB);
  const { out } = await platter([
    "info",
    path,
    "--json",
    "--backend",
    "portable",
    "--direct",
    "never",
    "--block-size",
    "4KiB",
  ]);
  const info = JSON.parse(out) as DiskInfo;
  assertEquals(info.sectors, 2048);
  assertEquals(info.blockSize, 4096);
  assertEquals(info.backend, "portable");
  assertEquals(info.direct.active, false);
  assertEquals(info.readOnly, true);
});

Deno.test("platter info says why, in lines that fit a terminal", async () => {
  await using scratch = await Scratch.make();
  const path = await scratch.image("disk.img", MIB);
  await using disk = await VirtualDisk.open(path, { direct: "never" });
  const reason = "a reason of many words, which goes on and on ".repeat(5);
  const text = describe("disk.img", {
    ...disk.info,
    direct: { ...disk.info.direct, reason },
    fileSystem: null,
    optimalIoSize: 65_536,
  });
  for (const line of text.split("\n")) assertLess(line.length, 80, line);
  assertStringIncludes(text.replaceAll(/\s+/g, " "), reason.trim());
  assertMatch(text, /^ {2}direct I\/O +no\n +a reason of many words/m);
});

// --- create ---

Deno.test("platter create makes an image of zeroes that takes no space", async () => {
  await using scratch = await Scratch.make();
  const path = scratch.of("new.img");
  const { code, out } = await platter(["create", path, "64MiB"]);
  assertEquals([code, out], [0, `Created ${path}: 64 MiB, 131,072 sectors\n`]);
  const { size, stored } = await statOf(path);
  assertEquals(size, 64 * MIB);
  assert(stored < MIB);
});

Deno.test("platter create --preallocate takes the space", async () => {
  await using scratch = await Scratch.make();
  const path = scratch.of("new.img");
  const args = [
    "create",
    path,
    "4096s",
    "--preallocate",
    "--block-size",
    "4KiB",
  ];
  const { code, out } = await platter(args);
  assertEquals([code, out], [
    0,
    `Created ${path}: 2 MiB, 4,096 sectors in blocks of 4 KiB\n`,
  ]);
  const { size, stored } = await statOf(path);
  assertEquals(size, 2 * MIB);
  if (Deno.build.os === "linux") assert(stored >= 2 * MIB);
});

Deno.test("platter create overwrites only with --force", async () => {
  await using scratch = await Scratch.make();
  const path = await scratch.image("old.img", MIB, { 0: "precious" });
  const refused = await platter(["create", path, "2MiB"]);
  assertEquals(refused.code, 2);
  assertEquals(
    refused.err,
    `platter: Cannot create "${path}" as it exists: overwrite it with --force\n`,
  );
  assertStringIncludes((await platter(["read", path])).out, "precious");

  const forced = await platter(["create", path, "2MiB", "--force"]);
  assertEquals(forced.code, 0);
  assertSame(await Deno.readFile(path), new Uint8Array(2 * MIB));
});

Deno.test("platter create says of a size or a block size what is wrong with it", async () => {
  await using scratch = await Scratch.make();
  const path = scratch.of("new.img");
  for (
    const [args, words] of [
      [["0"], "its size must be one block at least: current value is 0"],
      [["1000"], "its size must be whole blocks of 512 bytes"],
      [["1MiB", "--block-size", "1000"], "not a power of two"],
      [["1000", "--block-size", "128KiB"], "not a power of two"],
    ] as const
  ) {
    const { code, err } = await platter(["create", path, ...args]);
    assertEquals(code, 2);
    assertStringIncludes(err, words);
    assert(!await exists(path));
  }
});

// --- read ---

Deno.test("platter read dumps holes and data with headings", async () => {
  await using scratch = await Scratch.make();
  const path = await scratch.image("disk.img", 2 ** 40, { [MIB]: "Platter" });
  const { code, out } = await platter(["read", path]);
  assertEquals(code, 0);
  const zeroes = "00 ".repeat(8).trim();
  assertEquals(
    out.replaceAll(/ \|.*\|/g, "").split("\n"),
    [
      "sector 0",
      `00000000000  ${zeroes}  ${zeroes} `,
      "*",
      "sector 2048",
      `00000100000  50 6c 61 74 74 65 72 00  ${zeroes} `,
      `00000100010  ${zeroes}  ${zeroes} `,
      "*",
      "10000000000",
      "",
    ],
  );
});

for (const blockSize of ["512", "4096"]) {
  Deno.test(`platter read shows any range of blocks of ${blockSize} bytes`, async () => {
    await using scratch = await Scratch.make();
    const content = noise(64 * 1024);
    const path = await scratch.image("disk.img", content.length, {
      0: content,
    });
    const ranges: [place: string[], from: number, to: number][] = [
      [[], 0, 65_536],
      [["--sector", "3", "--count", "2"], 1536, 2560],
      [["--sector", "1KiB", "--count", "2s"], 1024, 2048],
      [["--offset", "1000", "--length", "17"], 1000, 1017],
      [["--offset", "4095", "--length", "4098"], 4095, 8193],
      [["--sector", "127"], 65_024, 65_536],
      [["--sector", "128"], 65_536, 65_536],
      [["--sector", "5", "--length", "0"], 2560, 2560],
    ];
    for (const [place, from, to] of ranges) {
      const args = ["read", path, "--block-size", blockSize, ...place];
      const raw = await platter([...args, "--raw"]);
      assertEquals(raw.code, 0);
      assertSame(raw.bytes, content.subarray(from, to));
      const dump = await platter(args);
      const bytes = [...dump.out.matchAll(/^[0-9a-f]+ {2}([0-9a-f ]{48})/gm)]
        .flatMap(([, hex]) => hex!.trim().split(/ +/))
        .map((hex) => parseInt(hex, 16));
      assertSame(Uint8Array.from(bytes), content.subarray(from, to));
    }
  });
}

Deno.test("platter read refuses what is beyond the disk", async () => {
  await using scratch = await Scratch.make();
  const path = await scratch.image("disk.img", 4096);
  const places = [
    ["--sector", "9"],
    ["--sector", "7", "--count", "2"],
    ["--length", "4097"],
  ];
  for (const place of places) {
    const { code, out, err } = await platter(["read", path, ...place]);
    assertEquals([code, out], [2, ""]);
    assertMatch(err, /as the disk has 4096 bytes \(8 sectors\)\n$/);
  }
  // Nothing was said of how many bytes.
  const { err } = await platter(["read", path, "--sector", "9"]);
  assertMatch(err, /Cannot read at byte 4608 as/);
});

Deno.test("platter read takes a number without a unit for sectors, whole ones", async () => {
  await using scratch = await Scratch.make();
  const path = await scratch.image("disk.img", 4096);
  const { code, err } = await platter(["read", path, "--sector", "1.5"]);
  assertEquals(code, 2);
  assertMatch(err, /--sector as the size must be a multiple of 512 bytes/);
});

Deno.test({
  name:
    "platter read --output tells of a file that takes nothing, however little it is",
  ignore: Deno.build.os !== "linux",
  async fn() {
    await using scratch = await Scratch.make();
    const path = await scratch.image("disk.img", 4096);
    const { code, out, err } = await platter(["read", path, "-o", "/dev/full"]);
    assertEquals([code, out], [2, ""]);
    assertMatch(err, /No space left.*: "\/dev\/full" may have some of it\n$/);
  },
});

Deno.test({
  name: "platter read --output writes over no device, which may be mounted",
  ...needs("root", "losetup"),
  async fn() {
    await using scratch = await Scratch.make();
    const path = await scratch.image("disk.img", 4096, { 0: noise(4096) });
    const below = await scratch.image("below.img", 4096);
    {
      await using device = await loopDevice(below);
      for (const more of [[], ["--force"]]) {
        const args = ["read", path, "-o", device.path, ...more];
        const { code, err } = await platter(args);
        assertEquals(code, 2);
        assertMatch(err, /as it is a block device, which may be in use/);
      }
    }
    assertSame(await Deno.readFile(below), new Uint8Array(4096));
  },
});

Deno.test({
  name:
    "platter read --output removes a file that the last bytes did not fit in",
  ...needs("root", "mount"),
  async fn() {
    await using scratch = await Scratch.make();
    const path = await scratch.image("disk.img", 8192, { 0: noise(8192) });
    const options = ["-t", "tmpfs", "-o", "size=4k"];
    await using full = await mount("none", scratch.of("full"), ...options);
    const file = full.join("out.bin");
    const { code, out, err } = await platter(["read", path, "-o", file]);
    assertEquals([code, out], [2, ""]);
    assertMatch(err, /No space left.*: ".*out.bin" was removed again\n$/);
    assert(!await exists(file));
  },
});

Deno.test("platter read --raw spares a terminal unless --force", async () => {
  await using scratch = await Scratch.make();
  const path = await scratch.image("disk.img", 512, { 0: "\x1b[2J" });
  const args = ["read", path, "--raw"];
  const spared = await platter(args, { terminal: true });
  assertEquals([spared.code, spared.out], [2, ""]);
  assertMatch(spared.err, /^platter: Cannot write raw bytes to a terminal/);
  const forced = await platter([...args, "--force"], { terminal: true });
  assertEquals([forced.code, forced.bytes.length], [0, 512]);
});

Deno.test("platter read --output saves to a new file, and over one with --force", async () => {
  await using scratch = await Scratch.make();
  const content = noise(3 * MIB);
  const path = await scratch.image("disk.img", content.length, { 0: content });
  const file = scratch.of("out.bin");
  const args = ["read", path, "--offset", "1MiB", "-o", file];
  const saved = await platter(args);
  assertEquals([saved.code, saved.out], [0, `Saved 2 MiB to ${file}\n`]);
  assertSame(await Deno.readFile(file), content.subarray(MIB));

  const refused = await platter([...args, "--length", "1"]);
  assertEquals(refused.code, 2);
  assertMatch(refused.err, /it exists: use --force/);
  assertEquals((await statOf(file)).size, 2 * MIB);

  const forced = await platter([...args, "--length", "1", "-f"]);
  assertEquals(forced.code, 0);
  assertEquals((await statOf(file)).size, 1);

  const lost = await platter(["read", path, "-o", scratch.of("no/where")]);
  assertEquals(lost.code, 2);
  assertMatch(lost.err, /Cannot write to ".*no\/where" as there is no such/);
});

Deno.test("platter read stops when interrupted", async () => {
  await using scratch = await Scratch.make();
  const path = await scratch.image("disk.img", 64 * MIB);
  const { code, err, bytes, listening } = await platter(
    ["read", path, "--raw"],
    { onOutput: (_, interrupt) => interrupt() },
  );
  assertEquals([code, err], [130, "platter: Interrupted\n"]);
  assert(bytes.length > 0 && bytes.length < 64 * MIB);
  assertEquals(listening, false);
});

Deno.test("platter stops waiting for a server to answer when interrupted", async () => {
  await using scratch = await Scratch.make();
  const path = scratch.of("socket");
  const image = await scratch.image("disk.img", MIB);
  const listener = Deno.listen({ transport: "unix", path });
  const uri = `nbd+unix:///?socket=${path}`;
  for (
    const args of [
      ["read", uri],
      ["write", uri, image, "--sector", "0"],
      ["compare", uri, image],
      ["compare", image, uri],
    ]
  ) {
    const accepted = listener.accept();
    const { code, err, listening } = await platter(args, {
      onListening: (interrupt) => void accepted.then(interrupt),
    });
    assertEquals([code, listening], [130, false], args.join(" "));
    assertMatch(err, /^platter: Interrupted/);
    (await accepted).close();
  }
  listener.close();
});

// --- write ---

Deno.test("platter write writes a file of whole blocks and nothing else", async () => {
  await using scratch = await Scratch.make();
  const before = noise(8 * MIB, 1);
  const path = await scratch.image("disk.img", before.length, { 0: before });
  const data = noise(3 * MIB + 512, 2);
  const file = await scratch.image("data", data.length, { 0: data });
  for (const more of [[], ["--fua"]]) {
    const args = ["write", path, file, "--sector", "2049", ...more];
    const { code, out, err } = await platter(args);
    assertEquals([code, err], [0, ""]);
    assertEquals(out, "Wrote 3 MiB (6,145 sectors) at sector 2049\n");
    const expected = before.slice();
    expected.set(data, 2049 * 512);
    assertSame(await Deno.readFile(path), expected);
  }
});

Deno.test("platter write takes standard input in pieces of any size", async () => {
  await using scratch = await Scratch.make();
  const path = await scratch.image("disk.img", 8 * MIB);
  const data = noise(7 * MIB);
  const stdin: Uint8Array[] = [];
  for (let at = 0; at < data.length; at += 77_777) {
    stdin.push(data.subarray(at, at + 77_777));
  }
  const args = ["write", path, "-", "--offset", "1MiB"];
  const { code, out } = await platter(args, { stdin });
  assertEquals([code, out], [
    0,
    "Wrote 7 MiB (14,336 sectors) at sector 2048\n",
  ]);
  assertSame((await Deno.readFile(path)).subarray(MIB), data);
});

Deno.test("platter write --pad fills the last block with zeroes", async () => {
  await using scratch = await Scratch.make();
  const path = await scratch.image("disk.img", 16_384, { 0: noise(16_384) });
  const file = await scratch.image("data", 5000, { 0: noise(5000, 2) });
  const at = ["--sector", "8", "--block-size", "4096", "--pad"];
  const expected = noise(16_384);
  expected.set(noise(5000, 2), 4096);
  expected.fill(0, 9096, 12_288);
  const fromFile = await platter(["write", path, file, ...at]);
  assertEquals(fromFile.out, "Wrote 8 KiB (16 sectors) at sector 8\n");
  assertSame(await Deno.readFile(path), expected);

  await Deno.writeFile(path, noise(16_384));
  const stdin = [noise(5000, 2)];
  const fromPipe = await platter(["write", path, ...at], { stdin });
  assertEquals(fromPipe.out, "Wrote 8 KiB (16 sectors) at sector 8\n");
  assertSame(await Deno.readFile(path), expected);
});

Deno.test("platter write refuses a file that does not fit, before it writes", async () => {
  await using scratch = await Scratch.make();
  const before = noise(8192);
  const path = await scratch.image("disk.img", 8192, { 0: before });
  const large = await scratch.image("large", 4608, { 0: noise(4608, 2) });
  const ragged = await scratch.image("ragged", 1000, { 0: noise(1000, 2) });
  const cases: [args: string[], err: RegExp][] = [
    [
      [large, "--sector", "8"],
      /it has 4608 bytes and there is room for 4096: nothing was written/,
    ],
    [[ragged, "--sector", "0"], /its 1000 bytes are not whole blocks of 512/],
    [[ragged, "--sector", "16", "--pad"], /the disk has 16 sectors/],
    [[ragged, "--offset", "100", "--pad"], /writes start on blocks of 512/],
    [[scratch.path, "--sector", "0"], /as it is a directory/],
    [[scratch.of("none"), "--sector", "0"], /there is no such file/],
  ];
  for (const [args, expected] of cases) {
    const { code, out, err } = await platter(["write", path, ...args]);
    assertEquals([code, out], [2, ""]);
    assertMatch(err, /^platter: Cannot [^\n]+\n$/);
    assertMatch(err, expected);
    assertSame(await Deno.readFile(path), before);
  }
});

Deno.test("platter write refuses an input that is empty", async () => {
  await using scratch = await Scratch.make();
  const path = await scratch.image("a.img", 4096, { 0: "before" });
  const before = await Deno.readFile(path);
  const file = await scratch.image("empty", 0);
  for (const name of [file, "-"]) {
    for (const more of [[], ["--pad"]]) {
      const { code, out, err } = await platter([
        ...["write", path, name, "--sector", "0", ...more],
      ]);
      assertEquals([code, out], [2, ""]);
      assertMatch(
        err,
        /^platter: Cannot write .* as it is empty: wrote nothing\n$/,
      );
    }
  }
  assertEquals(await Deno.readFile(path), before);
});

Deno.test("platter write tells how far a stream came that did not fit", async () => {
  await using scratch = await Scratch.make();
  const path = await scratch.image("disk.img", 8192);
  const stdin = [noise(3000), noise(3000, 2)];
  const args = ["write", path, "--sector", "8"];
  const { code, err } = await platter(args, { stdin });
  assertEquals(code, 2);
  assertEquals(
    err,
    "platter: Cannot write all of standard input as the disk ends: wrote 4 KiB " +
      "(8 sectors) at sector 8\n",
  );
  const written = (await Deno.readFile(path)).subarray(4096);
  assertEquals(written.subarray(0, 3000), noise(3000));
  assertEquals(written.subarray(3000), noise(3000, 2).subarray(0, 1096));
});

Deno.test("platter write takes a stream that ends where the disk does", async () => {
  await using scratch = await Scratch.make();
  const path = await scratch.image("disk.img", 8192);
  const args = ["write", path, "--sector", "8"];
  const { code } = await platter(args, { stdin: [noise(4096)] });
  assertEquals(code, 0);
});

Deno.test("platter write tells which bytes of a stream are no whole block", async () => {
  await using scratch = await Scratch.make();
  const path = await scratch.image("disk.img", 8192);
  const args = ["write", path, "--sector", "0"];
  const { code, err } = await platter(args, { stdin: [noise(1100)] });
  assertEquals(code, 2);
  assertEquals(
    err,
    "platter: Cannot write the last 76 bytes of standard input as they are no " +
      "whole block: fill it with --pad: wrote 1 KiB (2 sectors) at sector 0\n",
  );
});

for (
  const [what, change, says, takes] of [
    ["was cut", 600 * 1024 + 100, "was cut meanwhile", 600],
    ["has grown", 9 * MIB, "has grown meanwhile", 8192],
  ] as const
) {
  Deno.test(`platter write fails if its file ${what} meanwhile, and writes no more than it had`, async () => {
    await using scratch = await Scratch.make();
    const content = noise(8 * MIB);
    const file = await scratch.image("in", 8 * MIB, { 0: content });
    let isChanged = false;
    await using disk = VirtualDisk.over(
      faults(new MemoryBackend({ size: "16MiB" }), ["write nth=1 delay=1us"], {
        onFault: () => {
          Deno.truncateSync(file, change);
          isChanged = true;
        },
      }),
    );
    const socket = scratch.of("socket");
    await using _server = NbdServer.listen({
      path: socket,
      exports: [{ disk }],
    });
    const uri = `nbd+unix:///?socket=${socket}`;
    const { code, out, err } = await platter(
      ["write", uri, file, "--sector", "0", "--pad"],
    );
    assert(isChanged);
    assertEquals([code, out], [2, ""]);
    assertMatch(err, new RegExp(`Cannot write all of ".*in" as it ${says}: `));
    const written = await disk.read(0, 16 * 2048);
    const end = written.findLastIndex((byte) => byte !== 0) + 1;
    // What had been read before it was cut may be more.
    assert(end <= 8 * MIB && end >= takes * 1024 - 16, `${end}`);
    assertSame(
      written.subarray(0, takes * 1024),
      content.subarray(0, takes * 1024),
    );
  });
}

Deno.test("platter write and copy take no standard input that is the disk itself", async () => {
  await using scratch = await Scratch.make();
  const path = await scratch.image("a.img", MIB, { 0: noise(MIB) });
  const link = scratch.of("link.img");
  await Deno.link(path, link);
  const stdin = [noise(512, 2)];
  for (
    const args of [
      ["write", path, "--sector", "100"],
      ["copy", "-", path, "--to", "100", "--force"],
    ]
  ) {
    const conditions = { stdin, stdinPath: link };
    const { code, err } = await platter(args, conditions);
    assertEquals([code, err], [
      2,
      `platter: Cannot ${args[0]} "${path}" onto itself\n`,
    ]);
  }
  assertSame(await Deno.readFile(path), noise(MIB));
});

Deno.test({
  name:
    "platter knows the file of standard input by the descriptor that a shell opens",
  ignore: Deno.build.os === "windows",
  async fn() {
    await using scratch = await Scratch.make();
    const path = await scratch.image("a.img", 4096, { 0: noise(4096) });
    const other = await scratch.image("b.img", 4096);
    const script = new URL("../../src/cli/main.ts", import.meta.url).pathname;
    const write = (target: string) =>
      new Deno.Command("sh", {
        args: [
          ...["-c", '"$0" run --no-check -A "$1" write "$2" --sector 0 < "$3"'],
          ...[Deno.execPath(), script, target, path],
        ],
      }).output();
    const [itself, another] = await Promise.all([write(path), write(other)]);
    assertEquals([itself.code, another.code], [2, 0]);
    assertStringIncludes(
      new TextDecoder().decode(itself.stderr),
      "onto itself",
    );
    assertSame(await Deno.readFile(other), noise(4096));
  },
});

Deno.test("platter write stops waiting for input when interrupted", async () => {
  await using scratch = await Scratch.make();
  const path = await scratch.image("disk.img", 4 * MIB);
  const { code, err, listening } = await platter(
    ["write", path, "--sector", "0"],
    { stdin: [noise(2 * MIB), "wait"] },
  );
  assertEquals(code, 130);
  assertMatch(err, /^platter: Interrupted: [^\n]+\n$/);
  assertEquals(listening, false);
});

// --- copy ---

Deno.test("platter copy makes a target with the holes of the source", async () => {
  await using scratch = await Scratch.make();
  const source = await scratch.image("a.img", 64 * MIB, {
    0: noise(100_000),
    [40 * MIB]: noise(5 * MIB, 2),
  });
  const target = scratch.of("b.img");
  const { code, out, err } = await platter(["copy", source, target]);
  assertEquals([code, err], [0, ""]);
  assertMatch(
    out,
    /^Copied 64 MiB in [0-9.]+ s: 5\.1\d MiB of data \(.*\/s\), 58\.\d+ MiB of holes\n$/,
  );
  assertSame(await Deno.readFile(target), await Deno.readFile(source));
  if (Deno.build.os === "linux") {
    assert((await statOf(target)).stored < 6 * MIB);
  }
});

Deno.test(
  "platter copy satisfies cmp and qemu-img",
  needs("cmp", "qemu-img"),
  async () => {
    await using scratch = await Scratch.make();
    const source = await scratch.image("a.img", 64 * MIB, {
      [MIB - 100]: noise(200),
      [10 * MIB]: noise(3 * MIB, 2),
    });
    const target = await scratch.image("b.img", 64 * MIB, {
      [20 * MIB]: noise(3 * MIB, 3),
    });
    const { code } = await platter(["copy", source, target, "--force"]);
    assertEquals(code, 0);
    await run("cmp", [source, target]);
    const formats = ["-f", "raw", "-F", "raw"];
    await run("qemu-img", ["compare", ...formats, source, target]);
  },
);

Deno.test("platter copy --no-sparse makes no holes", async () => {
  await using scratch = await Scratch.make();
  const source = await scratch.image("a.img", 2 * MIB);
  const target = scratch.of("b.img");
  const args = ["copy", source, target, "--no-sparse", "--verify", "--depth=1"];
  const { code, out } = await platter(args);
  assertEquals(code, 0);
  assertMatch(out, /^Copied and verified 2 MiB in [0-9.]+ s: 2 MiB of data\n$/);
  if (Deno.build.os === "linux") {
    assert((await statOf(target)).stored >= 2 * MIB);
  }
});

Deno.test("platter copy --force overwrites an existing target but never grows it", async () => {
  await using scratch = await Scratch.make();
  const source = await scratch.image("a.img", 2 * MIB, { 512: noise(512) });
  const old = noise(3 * MIB, 2);
  const target = await scratch.image("b.img", old.length, { 0: old });

  const refused = await platter(["copy", source, target]);
  assertEquals(refused.code, 2);
  assertMatch(
    refused.err,
    /as it exists: overwrite its content with --force\n$/,
  );
  assertSame(await Deno.readFile(target), old);

  const args = ["copy", source, target, "--force", "--verify"];
  const forced = await platter(args);
  assertEquals([forced.code, forced.err], [0, ""]);
  assertMatch(forced.out, /64 KiB of data, 1\.94 MiB made zeroes\n$/);
  const expected = old.slice();
  expected.set(await Deno.readFile(source));
  assertSame(await Deno.readFile(target), expected);

  const small = await scratch.image("c.img", MIB, { 0: "small" });
  const tooSmall = await platter(["copy", source, small, "--force"]);
  assertEquals(tooSmall.code, 2);
  assertMatch(tooSmall.err, /as the target has only 2048/);
  assert(await exists(small));
  assertEquals((await statOf(small)).size, MIB);
  assertStringIncludes((await platter(["read", small])).out, "small");
});

Deno.test("platter copy does not copy an image onto itself", async () => {
  await using scratch = await Scratch.make();
  const path = await scratch.image("a.img", MIB, { 0: noise(MIB) });
  const link = scratch.of("link.img");
  await Deno.link(path, link);
  for (const target of [path, link]) {
    const { code, err } = await platter(["copy", path, target, "--force"]);
    assertEquals(code, 2);
    assertEquals(err, `platter: Cannot copy "${target}" onto itself\n`);
  }
  assertSame(await Deno.readFile(path), noise(MIB));
});

Deno.test("platter copy shows progress on a terminal, and takes it away", async () => {
  await using scratch = await Scratch.make();
  const source = await scratch.image("a.img", 8 * MIB, { 0: noise(8 * MIB) });
  const { code, err } = await platter(
    ["copy", source, scratch.of("b.img"), "--verify"],
    { terminal: true, tickMs: 200 },
  );
  assertEquals(code, 0);
  const lines = undrawn(err);
  assertMatch(lines[0]!, /^Copying +\d+% {2}[0-9.]+ MiB of 8 MiB .* left$/);
  assertMatch(lines.at(-1)!, /^Verifying +\d+% /);
  assert(err.endsWith("\r\x1b[2K") && !err.includes("\n"));
});

for (const isNew of [true, false]) {
  const what = isNew ? "removes a target that it made" : "keeps an old target";
  Deno.test(`platter copy ${what} when interrupted`, async () => {
    await using scratch = await Scratch.make();
    const source = await scratch.image("a.img", 32 * MIB, {
      0: noise(32 * MIB),
    });
    const target = scratch.of("b.img");
    if (!isNew) await scratch.image("b.img", 32 * MIB);
    const { code, err, listening } = await platter(
      ["copy", source, target, ...(isNew ? [] : ["--force"])],
      {
        terminal: true,
        tickMs: 500,
        onOutput: (_, interrupt) => interrupt(),
      },
    );
    assertEquals(code, 130);
    const left = isNew
      ? "was removed again"
      : "is now partly old and partly new";
    assert(err.endsWith(`platter: Interrupted: "${target}" ${left}\n`), err);
    assertEquals(await exists(target), !isNew);
    assertEquals(listening, false);
  });
}

Deno.test("platter copy removes nobody else's file when interrupted", async () => {
  await using scratch = await Scratch.make();
  const source = await scratch.image("a.img", 32 * MIB, {
    0: noise(32 * MIB),
  });
  const target = scratch.of("b.img");
  let moved = false;
  const { code, err } = await platter(["copy", source, target], {
    terminal: true,
    tickMs: 500,
    onOutput: (_, interrupt) => {
      if (moved) return;
      moved = true;
      Deno.renameSync(target, scratch.of("moved.img"));
      Deno.writeTextFileSync(target, "mine");
      interrupt();
    },
  });
  assertEquals(code, 130);
  assert(
    err.endsWith(`"${target}" is another file by now and was left as it is\n`),
    err,
  );
  assertEquals(await Deno.readTextFile(target), "mine");
});

Deno.test(
  "platter copy keeps an ext4 file system whole",
  needs("mkfs.ext4", "e2fsck"),
  async () => {
    await using scratch = await Scratch.make();
    const source = await scratch.image("a.img", 32 * MIB);
    await run("mkfs.ext4", ["-q", "-F", source]);
    const target = scratch.of("b.img");
    const { code } = await platter(["copy", source, target, "--verify"]);
    assertEquals(code, 0);
    await run("e2fsck", ["-fn", target]);
    assertEquals((await platter(["compare", source, target])).code, 0);
  },
);

Deno.test("platter copy copies by the portable backend", async () => {
  await using scratch = await Scratch.make();
  const source = await scratch.image("a.img", 8 * MIB, { 512: noise(MIB) });
  const target = scratch.of("b.img");
  const args = ["copy", source, target, "--verify", "--backend", "portable"];
  const { code, err } = await platter(args);
  assertEquals([code, err], [0, ""]);
  assertSame(await Deno.readFile(target), await Deno.readFile(source));
});

Deno.test(
  "platter copy fills a block device",
  needs("root", "losetup"),
  async () => {
    await using scratch = await Scratch.make();
    const source = await scratch.image("a.img", 4 * MIB, { 512: noise(MIB) });
    const backing = await scratch.image("b.img", 8 * MIB, {
      0: noise(8 * MIB),
    });
    const expected = await Deno.readFile(backing);
    expected.set(await Deno.readFile(source));
    {
      await using device = await loopDevice(backing, 4096);
      const refused = await platter(["copy", source, device.path]);
      assertEquals(refused.code, 2);
      const args = ["copy", source, device.path, "--force", "--verify"];
      const { code, err } = await platter(args);
      assertEquals([code, err], [0, ""]);
    }
    assertSame(await Deno.readFile(backing), expected);
  },
);

Deno.test({
  name:
    "platter writes to no file or disk that what it reads is made of or a part of",
  ...needs("root", "losetup"),
  async fn() {
    await using scratch = await Scratch.make();
    const path = await scratch.image("a.img", 8 * MIB, {
      [MIB]: noise(MIB),
    });
    const { code } = await platter(
      ["partitions", path, "--make", "mbr", "--add", "type=linux", "--force"],
    );
    assertEquals(code, 0);
    const before = await Deno.readFile(path);
    const trace = scratch.of("trace");
    await Deno.writeTextFile(
      trace,
      `{"event":"disk","version":1,"sectors":64,"blockSize":512,"backend":"memory","path":null}\n`,
    );
    {
      await using device = await loopDevice(path);
      await using other = await loopDevice(path);
      const loop = device.path;
      for (
        const args of [
          ["copy", path, loop, "--force"],
          ["copy", other.path, loop, "--force"],
          ["write", loop, other.path, "--sector", "0"],
          ["copy", loop, path, "--force", "--to", "8"],
          ["copy", "-", loop, "--force", "--to", "8"],
          ["write", loop, path, "--sector", "0"],
          ["write", path, loop, "--sector", "0"],
          ["read", loop, "--output", path, "--force", "--count", "1"],
          ["bmap", loop, "--output", path, "--force"],
        ]
      ) {
        const stdin = [noise(512, 2)];
        const { code, out, err } = await platter(args, {
          ...{ stdin, stdinPath: path },
        });
        assertEquals([code, out], [2, ""], args.join(" "));
        assertMatch(err, /onto itself|into itself|is made of the other/);
      }
      const heat = await platter(["heat", trace, "-o", loop, "--force"]);
      assertEquals(heat.code, 2);
      assertStringIncludes(heat.err, "as it is a block device");
    }
    assertSame(await Deno.readFile(path), before);
  },
});

Deno.test({
  name: "platter makes no file among devices, for a name that is mistyped",
  ignore: Deno.build.os === "windows",
  async fn() {
    await using scratch = await Scratch.make();
    const image = await scratch.image("a.img", MIB, {
      0: cpioOf([{ name: "file" }]),
    });
    const trace = await scratch.image("trace", 0);
    await Deno.writeTextFile(
      trace,
      '{"event":"disk","version":1,"sectors":64,"blockSize":512,"backend":"memory","path":null}\n',
    );
    const other = await scratch.image("b.img", MIB);
    const node = `/dev/platter-${crypto.randomUUID()}`;
    const link = scratch.of("link");
    await Deno.symlink(node, link);
    await using stack = new AsyncDisposableStack();
    stack.defer(() => Deno.remove(node).catch(() => {}));
    for (
      const args of [
        ["create", node, "1MiB"],
        ["create", node, "1MiB", "--force"],
        ["copy", image, node],
        ["copy", image, node, "--backend", "portable"],
        ["copy", image, other, "--force", "--rescue", node],
        ["read", image, "--output", node],
        ["read", image, "--output", link, "--force"],
        ["bmap", image, "--output", node],
        ["extract", image, "--output", node],
        ["extract", image, "--output", "/dev"],
        ["heat", trace, "--output", node],
        ["crash", "--recording", trace, "--check", "true", "--html", node],
        ["serve", image, "--trace", node],
        ["serve", image, "--stats", node],
      ]
    ) {
      const { code, out, err } = await platter(args);
      assertEquals([code, out], [2, ""], args.join(" "));
      assertMatch(err, /a file among devices|is among devices/);
      assert(!await exists(node));
    }
    const file = `/dev/shm/${crypto.randomUUID()}`;
    if (!await exists("/dev/shm")) return;
    try {
      assertEquals((await platter(["create", file, "1MiB"])).code, 0);
    } finally {
      await Deno.remove(file);
    }
  },
});

// --- compare ---

Deno.test("platter compare is silent if images are equal", async () => {
  await using scratch = await Scratch.make();
  const a = await scratch.image("a.img", 4 * MIB, { [MIB]: noise(999) });
  const b = await scratch.image("b.img", 4 * MIB, { [MIB]: noise(999) });
  const { code, out, err } = await platter(["compare", a, b]);
  assertEquals([code, out, err], [0, "", ""]);
  assertEquals((await platter(["compare", a, a])).code, 0);
});

Deno.test("platter compare names the first difference", async () => {
  await using scratch = await Scratch.make();
  const a = await scratch.image("a.img", 4 * MIB);
  const b = await scratch.image("b.img", 4 * MIB, {
    [MIB + 700]: "x",
    [3 * MIB]: "y",
  });
  const { code, out, err } = await platter(["compare", a, b]);
  assertEquals([code, err], [1, ""]);
  assertEquals(out, `${a} ${b} differ: sector 2049, byte 188\n`);
});

Deno.test(
  "platter compare finds the byte that cmp finds",
  needs("cmp"),
  async () => {
    await using scratch = await Scratch.make();
    const a = await scratch.image("a.img", MIB, { 0: noise(MIB) });
    const b = scratch.of("b.img");
    const random = new Random(7);
    for (let i = 0; i < 8; i++) {
      const content = noise(MIB);
      content[random.below(MIB)] = 0;
      await Deno.writeFile(b, content);
      const { out } = await platter(["compare", a, b]);
      const [, sector, byte] = /sector (\d+), byte (\d+)/.exec(out)!;
      const command = new Deno.Command("cmp", { args: [a, b] });
      const judged = new TextDecoder().decode((await command.output()).stdout);
      // cmp counts bytes from 1.
      const place = Number(sector) * 512 + Number(byte) + 1;
      // GNU cmp says "byte" or "char", as the locale has it.
      assertMatch(judged, new RegExp(`(byte|char) ${place},`));
    }
  },
);

Deno.test("platter compare takes different sizes for a difference", async () => {
  await using scratch = await Scratch.make();
  const a = await scratch.image("a.img", 4 * MIB);
  const b = await scratch.image("b.img", 3 * MIB);
  const { code, out } = await platter(["compare", a, b]);
  assertEquals(code, 1);
  assertEquals(out, `${a} ${b} differ: ${b} ends at sector 6144\n`);
});

// --- map ---

Deno.test("platter map shows data and holes", async () => {
  await using scratch = await Scratch.make();
  const path = await scratch.image("disk.img", 4 * MIB, { [MIB]: noise(MIB) });
  const { code, out } = await platter(["map", path]);
  assertEquals(code, 0);
  const json = await platter(["map", path, "--json"]);
  const extents = JSON.parse(json.out) as Record<string, unknown>[];
  assertEquals(
    extents.reduce((sum, it) => sum + (it.count as number), 0),
    8192,
  );
  if (Deno.build.os !== "linux") return;
  assertEquals(
    out,
    " sector  sectors       size\n" +
      "      0     2048      1 MiB  hole\n" +
      "   2048     2048      1 MiB  data\n" +
      "   4096     4096      2 MiB  hole\n" +
      "1 MiB of data in 1 run, 3 MiB of holes in 2 runs\n",
  );
  assertEquals(extents, [
    { sector: 0, count: 2048, hole: true },
    { sector: 2048, count: 2048, hole: false },
    { sector: 4096, count: 4096, hole: true },
  ]);
});

Deno.test("platter map joins extents across its windows", async () => {
  await using scratch = await Scratch.make();
  const path = await scratch.image("disk.img", 2 ** 40);
  const { out } = await platter(["map", path, "--json"]);
  assertEquals(JSON.parse(out).length, 1);
  assertNotEquals(out, "[]\n");
});
