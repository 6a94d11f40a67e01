import { assert, assertEquals, assertThrows } from "@std/assert";
import { DiskError } from "../../src/errors.ts";
import { RescueMap, RescueStatus } from "../../src/image/mod.ts";
import { Random } from "../../src/random.ts";
import { LONG, needs, run, tempDir } from "../helpers.ts";

const LETTERS = Object.values(RescueStatus);

/** As written by ddrescue 1.27. */
const THEIRS = `# Mapfile. Created by GNU ddrescue version 1.27
# Command line: ddrescue -n a b map
# Start time:   2026-01-01 00:00:00
# Copying non-tried blocks... Pass 1 (forwards)
# current_pos  current_status  current_pass
0x00010000     ?               1
#      pos        size  status
0x00000000  0x00010000  +
0x00010000  0x00000200  -
0x00010200  0x00000400  /
0x00010600  0x0000FA00  *
0x00020000  0x000E0000  ?
`;

Deno.test("RescueMap.parse() reads what ddrescue writes", () => {
  const map = RescueMap.parse(THEIRS);
  assertEquals([map.size, map.position, map.phase], [1 << 20, 0x10000, "?"]);
  assertEquals(map.blocks().map(({ status }) => status).join(""), "+-/*?");
  assertEquals(map.blocks(RescueStatus.Bad), [
    { position: 0x10000, size: 512, status: "-" },
  ]);
  assertEquals(RescueMap.parse(map.format()).blocks(), map.blocks());
});

Deno.test("RescueMap.parse() takes maps without a pass, decimals and neighbours alike", () => {
  const map = RescueMap.parse("0 +\r\n0 512 +\r\n512 0x200 + # good\r\n");
  assertEquals(map.blocks(), [{ position: 0, size: 1024, status: "+" }]);
});

const REFUSED: [title: string, text: string, RegExp][] = [
  ["an empty file", "", /a line of status and a block/],
  ["a map without blocks", "0 ?", /a line of status and a block/],
  ["another file", "hello", /line 1 must be "POSITION STATUS/],
  ["a gap", "0 ?\n0 10 +\n11 10 +", /line 3 must go on at 10/],
  ["an overlap", "0 ?\n0 10 +\n9 10 +", /line 3 must go on at 10/],
  ["a start that is not 0", "0 ?\n5 10 +", /line 2 must go on at 0/],
  ["a size of 0", "0 ?\n0 0 +", /line 2 must have a size/],
  ["a negative size", "0 ?\n0 -5 +", /line 2 must be/],
  ["a size too large", "0 ?\n0 0x20000000000000 +", /line 2 must have a size/],
  [
    "more digits than there are",
    "0 ?\n0 0x7FFFFFFFFFFFFFFF +",
    /line 2 must be/,
  ],
  ["an unknown status", "0 ?\n0 10 F", /line 2 must be/],
  ["a line that goes on", "0 ?\n0 10 + +", /line 2 must be/],
];

for (const [title, text, words] of REFUSED) {
  Deno.test(`RescueMap.parse() refuses ${title}`, () => {
    const error = assertThrows(() => RescueMap.parse(text), DiskError);
    assertEquals(error.kind, "argument");
    assert(words.test(error.message), error.message);
  });
}

Deno.test("RescueMap.set() does what an array of letters does", () => {
  const seed = crypto.getRandomValues(new Uint32Array(1))[0]!;
  const random = new Random(seed);
  const size = 60;
  const map = new RescueMap(size);
  const model = new Array<string>(size).fill("?");
  for (let round = 0; round < (LONG ? 100_000 : 2000); round++) {
    const position = random.below(size);
    const length = random.between(1, Math.min(size - position, 9));
    const status = LETTERS[random.below(LETTERS.length)]!;
    map.set(position, length, status);
    model.fill(status, position, position + length);
    const blocks = map.blocks();
    const drawn = blocks.map(({ size, status }) => status.repeat(size));
    assertEquals(drawn.join(""), model.join(""), `seed ${seed}`);
    blocks.forEach(({ position, status }, i) => {
      const before = blocks[i - 1];
      assertEquals(position, before ? before.position + before.size : 0);
      assert(before?.status !== status, `seed ${seed}: not joined`);
    });
  }
});

Deno.test("RescueMap.set() refuses what is not within the map", () => {
  const map = new RescueMap(100);
  for (
    const [position, size] of [[-1, 2], [0, 101], [100, 1], [5, 0], [0.5, 1]]
  ) {
    assertThrows(() => map.set(position!, size!, "+"), RangeError);
  }
  assertThrows(() => new RescueMap(-1), DiskError);
  assertEquals(new RescueMap(0).blocks(), []);
});

Deno.test("RescueMap.parse() gives a map or a typed error, whatever is mutated", () => {
  const seed = crypto.getRandomValues(new Uint32Array(1))[0]!;
  const random = new Random(seed);
  const parts = ["\n", " ", "#", "0x", "-", "+", "?", "f".repeat(20), "9e9"];
  let read = 0;
  for (let round = 0; round < (LONG ? 100_000 : 2000); round++) {
    let text = THEIRS;
    for (let n = random.below(3); n >= 0; n--) {
      const at = random.below(text.length);
      const length = random.below(4) === 0 ? random.below(60) : 1;
      const put = random.below(2) === 0
        ? parts[random.below(parts.length)]!
        : String.fromCharCode(random.below(128));
      text = text.slice(0, at) + put + text.slice(at + length);
    }
    try {
      const map = RescueMap.parse(text);
      let end = 0;
      for (const { position, size } of map.blocks()) {
        assertEquals(position, end);
        end += size;
      }
      assertEquals(end, map.size);
      assertEquals(RescueMap.parse(map.format()).blocks(), map.blocks());
      read++;
    } catch (error) {
      assert(error instanceof DiskError, `seed ${seed}: ${error}`);
    }
  }
  assert(read > 0, `seed ${seed}: comments may change`);
});

Deno.test(
  "ddrescuelog counts in a map what RescueMap counts",
  needs("ddrescuelog"),
  async () => {
    await using dir = await tempDir();
    const random = new Random(3);
    const map = new RescueMap(1 << 20);
    for (let i = 0; i < 200; i++) {
      const sector = random.below(2000);
      const status = LETTERS[random.below(LETTERS.length)]!;
      map.set(sector * 512, 512 * random.between(1, 40), status);
    }
    await Deno.writeTextFile(dir.join("map"), map.format());
    for (const status of LETTERS) {
      const listed = await run("ddrescuelog", [
        ...["--block-size=512", `--list-blocks=${status}`, dir.join("map")],
      ]);
      const sectors = listed.trim().split("\n").filter((it) => it !== "");
      assertEquals(sectors.length * 512, map.bytes(status), status);
    }
    // What it makes of the map, read back.
    const inverted = await run("ddrescuelog", [
      ...["--invert-mapfile", dir.join("map")],
    ]);
    const theirs = RescueMap.parse(inverted);
    assertEquals(theirs.bytes("+") + map.bytes("+"), map.size);
  },
);
