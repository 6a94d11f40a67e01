import { assert, assertEquals, assertMatch } from "@std/assert";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { needs, run } from "../helpers.ts";
import { platter, Scratch } from "./harness.ts";

const MIB = 1 << 20;

Deno.test(
  "platter fill writes a pattern that qemu-io reads, and nothing around it",
  needs("qemu-io"),
  async () => {
    await using scratch = await Scratch.make();
    const path = await scratch.image("a.img", 4 * MIB);
    const { code, out } = await platter([
      ...["fill", path, "-P", "0xab", "--offset", "1MiB", "--length", "64KiB"],
    ]);
    assertEquals([code, out], [
      0,
      "Filled 64 KiB (128 sectors) at sector 2048 with 0xab\n",
    ]);
    const said = await run("qemu-io", [
      ...["-f", "raw", "-c", "read -P 0xab 1M 64k", "-c", "read -P 0 0 1M"],
      ...["-c", "read -P 0 1114112 3080192", path],
    ]);
    assert(!said.includes("verification failed"), said);
    assertEquals(said.match(/^read /gm)?.length, 3);
  },
);

Deno.test("platter fill repeats several bytes, by sectors too, and defaults to 0xcd", async () => {
  await using scratch = await Scratch.make();
  const path = await scratch.image("a.img", 4 * MIB);
  await platter(["fill", path, "--all", "--pattern", "0xDEADbeef", "--quiet"]);
  const bytes = await Deno.readFile(path);
  const word = [0xde, 0xad, 0xbe, 0xef];
  assertEquals(bytes.findIndex((byte, i) => byte !== word[i % 4]), -1);
  const { out } = await platter([
    ...["fill", path, "--sector", "0x8", "--count", "0x2", "--fua", "--json"],
  ]);
  assertEquals(JSON.parse(out), {
    image: path,
    sector: 8,
    count: 2,
    bytes: 1024,
    pattern: "0xcd",
  });
  const after = await Deno.readFile(path);
  assertEquals([after[4095], after[4096], after[5119], after[5120]], [
    ...[0xef, 0xcd, 0xcd, 0xde],
  ]);
});

for (const backend of ["direct", "portable"]) {
  Deno.test(`platter zero makes zeroes with and without holes (${backend})`, async () => {
    await using scratch = await Scratch.make();
    const full = new Uint8Array(4 * MIB).fill(1);
    const path = await scratch.image("a.img", full.length, { 0: full });
    const args = ["zero", path, "--backend", backend, "--offset", "64KiB"];
    const kept = await platter([...args, "--length", "1MiB"]);
    assertEquals([kept.code, kept.err], [0, ""]);
    full.fill(0, 65_536, 65_536 + MIB);
    assertEquals(await Deno.readFile(path), full);
    const { blocks } = await Deno.stat(path);
    const unmapped = await platter([...args, "--length", "2MiB", "--unmap"]);
    assertEquals(unmapped.out, "Zeroed 2 MiB (4,096 sectors) at sector 128\n");
    full.fill(0, 65_536, 65_536 + 2 * MIB);
    assertEquals(await Deno.readFile(path), full);
    await using disk = await VirtualDisk.open(path, {
      readOnly: true,
      backend: backend as "direct" | "portable",
    });
    if (disk.info.abilities.writeZeroes === "native") {
      assert((await Deno.stat(path)).blocks! < blocks!);
    }
  });
}

Deno.test("platter discard gives space back, or says that the disk cannot", async () => {
  await using scratch = await Scratch.make();
  const full = new Uint8Array(4 * MIB).fill(1);
  const path = await scratch.image("a.img", full.length, { 0: full });
  const { abilities } = await (async () => {
    await using disk = await VirtualDisk.open(path, { readOnly: true });
    return disk.info;
  })();
  const { code, out, err } = await platter(["discard", path, "--all"]);
  if (abilities.discard === "none") assertEquals(code, 2);
  else {
    assertEquals([code, err], [0, ""]);
    assertEquals(out, "Discarded 4 MiB (8,192 sectors) at sector 0\n");
  }
  await Deno.writeFile(path, full);
  const portable = await platter([
    ...["discard", path, "--all", "--backend", "portable"],
  ]);
  assertEquals([portable.code, portable.out], [2, ""]);
  assertMatch(portable.err, /Cannot discard .*: /);
  assertEquals(await Deno.readFile(path), full);
});

Deno.test("platter flush flushes, and says what that reaches", async () => {
  await using scratch = await Scratch.make();
  const path = await scratch.image("a.img", MIB);
  const { code, out } = await platter(["flush", path]);
  assertEquals(code, 0);
  assertMatch(out, /^Flushed .*a.img: reaches [a-z ]+, by \S+/);
  const json = JSON.parse((await platter(["flush", path, "--json"])).out);
  assertEquals(json.image, path);
  const missing = await platter(["flush", scratch.of("none")]);
  assertEquals([missing.code, missing.out], [2, ""]);
});

const MISTAKES: [args: string[], err: RegExp][] = [
  [["zero"], /nothing says where: give --sector or --offset, or --all/],
  [["zero", "--sector", "0"], /nothing says how much: give --count/],
  [["zero", "--all", "--sector", "0"], /--all together with a place/],
  [
    ["zero", "--offset", "100", "--length", "512"],
    /must be whole blocks of 512/,
  ],
  [["zero", "--sector", "0", "--count", "0"], /and one at least/],
  [
    ["zero", "--sector", "2047", "--count", "2"],
    /as the disk has 1,048,576 bytes/,
  ],
  [["discard", "--sector", "1", "--offset", "512"], /together/],
  [["fill", "--all", "-P", "256"], /must be a byte .* current value is "256"/],
  [["fill", "--all", "-P", "0x"], /must be a byte/],
  [["fill", "--all", "-P", "0x010203"], /whose number divides 512/],
  [["fill", "--all", "--pattern", "abc"], /must be a byte/],
];

Deno.test("platter zero, discard and fill change nothing if they are mistyped", async () => {
  await using scratch = await Scratch.make();
  const full = new Uint8Array(MIB).fill(1);
  const path = await scratch.image("a.img", MIB, { 0: full });
  for (const [[verb, ...options], words] of MISTAKES) {
    const { code, out, err } = await platter([verb!, path, ...options]);
    assertEquals([code, out], [2, ""], err);
    assertMatch(err, words);
  }
  assertEquals(await Deno.readFile(path), full);
});
