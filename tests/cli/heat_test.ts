/**
 * `platter heat`: what it gathers, and that the picture is one.
 *
 * @module
 */

import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { bandsOf, HeatMap } from "../../src/cli/heat_map.ts";
import { drawHeat } from "../../src/cli/heat_picture.ts";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { faults } from "../../src/layers/faults.ts";
import { MemoryBackend } from "../../src/backends/memory.ts";
import { parseTraceLine, trace } from "../../src/layers/trace.ts";
import { Random } from "../../src/random.ts";
import { tempDir } from "../helpers.ts";
import { platter } from "./harness.ts";

type Submit = { us: number; operation: string; sector: number; count: number };

/** A map of events, and the map. */
function mapOf(sectors: number, events: readonly Submit[]): HeatMap {
  const map = new HeatMap();
  map.add({
    event: "disk",
    version: 1,
    sectors,
    blockSize: 512,
    backend: "memory",
    path: "/tmp/<disk>.img",
  });
  events.forEach((event, i) => {
    const line = JSON.stringify({ event: "submit", id: i, batch: i, ...event });
    map.add(parseTraceLine(line));
  });
  return map;
}

Deno.test("HeatMap keeps every byte, however often its cells get coarser", () => {
  for (let seed = 0; seed < 2; seed++) {
    const random = new Random(seed);
    const events = Array.from({ length: 200 }, (_, i) => ({
      us: i * random.between(1, 5000),
      operation: random.pick(["read", "write", "discard", "flush", "get id"]),
      sector: random.below(2 ** 31),
      count: random.between(1, random.pick([8, 5000])),
    }));
    const map = mapOf(2 ** 32, events);
    const sums = { read: 0, write: 0, clear: 0 };
    const places = new Set<number>();
    for (const [kind, time, sector, bytes] of map.cells()) {
      sums[kind] += bytes;
      places.add(sector);
      assert(time < 256 && sector % map.placeSectors === 0);
    }
    const wanted = (operation: string) =>
      events.filter((it) => it.operation === operation)
        .reduce((sum, { count }) => sum + count * 512, 0);
    assertEquals(sums, {
      read: wanted("read"),
      write: wanted("write"),
      clear: wanted("discard"),
    }, `seed ${seed}`);
    assert(places.size <= 2048);
    assert(map.endUs < 256 * map.timeUs);
    assertEquals(
      [...map.flushes.values()].reduce((a, b) => a + b, 0),
      events.filter((it) => it.operation === "flush").length,
    );
  }
});

Deno.test("bandsOf() cuts wide gaps and nothing that was touched", () => {
  assertEquals(bandsOf([], 1, 64), [{ sector: 0, count: 64 }]);
  assertEquals(bandsOf([0, 8, 1000], 8, 2000), [
    { sector: 0, count: 16 },
    { sector: 1000, count: 8 },
  ]);
  // An even spread is left as it is.
  const even = Array.from({ length: 20 }, (_, i) => i * 100);
  assertEquals(bandsOf(even, 8, 2000), [{ sector: 0, count: 2000 }]);
  for (let seed = 0; seed < 50; seed++) {
    const random = new Random(seed);
    const places = [
      ...new Set(Array.from({ length: 8 }, () => random.below(1000) * 8)),
    ].sort((a, b) => a - b);
    const bands = bandsOf(places, 8, 8000);
    assert(bands.length <= 6);
    assert(
      places.every((place) =>
        bands.some(({ sector, count }) =>
          place >= sector && place + 8 <= sector + count
        )
      ),
    );
  }
});

/** The text of an SVG, if it is well formed as far as tags go. */
function checkSvg(svg: string): void {
  const open: string[] = [];
  for (
    const [, slash, name, own] of svg.matchAll(/<(\/?)([a-z]+)[^>]*?(\/?)>/g)
  ) {
    if (slash) assertEquals(open.pop(), name);
    else if (!own) open.push(name!);
  }
  assertEquals(open, []);
  assert(!/NaN|Infinity|undefined|null/.test(svg), svg);
}

Deno.test("drawHeat() draws any trace, also one that no disk makes", () => {
  const most = Number.MAX_SAFE_INTEGER;
  const at = { us: 0, operation: "write", sector: 0, count: 8 };
  const cases: [sectors: number, events: Submit[]][] = [
    [64, []],
    [64, [at]],
    [64, [{ ...at, operation: "flush", count: 0 }]],
    [64, [{ ...at, operation: "discard" }]],
    [64, [{ ...at, sector: 1000, us: most }]],
    [most, [at, { us: most, operation: "read", sector: most, count: most }]],
    [0, [{ ...at, operation: "read" }]],
  ];
  for (const [sectors, events] of cases) {
    const svg = drawHeat(mapOf(sectors, events));
    checkSvg(svg);
    assertStringIncludes(svg, "&lt;disk&gt;.img");
  }
});

Deno.test("drawHeat() names the colour of what was read and written, where there is any", () => {
  const write = { us: 0, operation: "write", sector: 0, count: 8 };
  const read = { ...write, operation: "read" };
  const draws = (events: Submit[]) => {
    const svg = drawHeat(mapOf(1 << 20, events));
    checkSvg(svg);
    return svg.includes(">both</text>");
  };
  assertEquals(draws([write, read]), true);
  assertEquals(draws([write, { ...read, sector: 1 << 19 }]), false);
  assertEquals(draws([write, { ...read, us: 1e6 }]), false);
  assertEquals(draws([write]), false);
});

Deno.test("platter heat draws what a traced disk did", async () => {
  await using dir = await tempDir();
  const [path, picture] = [dir.join("trace.jsonl"), dir.join("heat.svg")];
  const lines: string[] = [];
  {
    await using disk = VirtualDisk.over(
      trace(
        faults(new MemoryBackend({ size: "1GiB" }), ["read error=EIO"]),
        (line) => lines.push(line),
        { data: true },
      ),
    );
    // Longer than a line that is read whole.
    await disk.write(0, new Uint8Array(2 << 20));
    await disk.write(2_000_000, new Uint8Array(4096));
    await disk.flush();
    await disk.read(0, 1).catch(() => {});
  }
  // The last line is not whole, as after a kill.
  await Deno.writeTextFile(path, `${lines.join("\n")}\n{"event":"sub`);
  const { code, out, err } = await platter(["heat", path, "-o", picture]);
  assertEquals([code, err], [0, ""]);
  assertEquals(out, `Drew ${picture}\n`);
  const svg = await Deno.readTextFile(picture);
  checkSvg(svg);
  for (
    const words of [
      "1 read of 512 B",
      "2 writes of 2 MiB",
      "1 flush ·",
      "1 failed",
      "neither read nor written",
      'class="bad" cx',
    ]
  ) assertStringIncludes(svg, words);
  const again = await platter(["heat", path, "-o", picture]);
  assertEquals(again.code, 2);
  assertStringIncludes(again.err, "--force");
  // One that is there is cut last.
  await Deno.writeTextFile(picture, `${svg}more`);
  const forced = await platter(["heat", path, "-o", picture, "-f"]);
  assertEquals([forced.code, forced.err], [0, ""]);
  assertEquals(await Deno.readTextFile(picture), svg);
  const piped = await platter(["heat", path]);
  assertEquals([piped.code, piped.out], [0, svg]);
});

Deno.test("platter heat refuses what is no trace, and to draw over it", async () => {
  await using dir = await tempDir();
  const other = dir.join("other");
  await Deno.writeTextFile(other, "a letter\n");
  const empty = dir.join("empty");
  await Deno.writeTextFile(empty, "\n");
  const cases: [args: string[], words: string, terminal?: boolean][] = [
    [[other], "Cannot read line 1 of a trace"],
    [[empty], "it must be a trace"],
    [[dir.join("none")], "there is no such file"],
    [[other, "-f", "-o", other], "onto itself"],
    [[other], "Cannot draw to a terminal", true],
  ];
  for (const [args, words, terminal = false] of cases) {
    const { code, err } = await platter(["heat", ...args], { terminal });
    assertEquals(code, 2, err);
    assertStringIncludes(err, words);
  }
  assertEquals(await Deno.readTextFile(other), "a letter\n");
});
