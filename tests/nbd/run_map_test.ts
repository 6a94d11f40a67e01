import { assert, assertEquals } from "@std/assert";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { RunMap } from "../../src/nbd/run_map.ts";

const TIB = 2 ** 40;

Deno.test("RunMap takes large steps over what is one run, small ones elsewhere", async () => {
  await using disk = VirtualDisk.memory({ sectors: 4 * TIB / 512 });
  // Runs of 64 KiB after 3 TiB of nothing.
  const fragments = 3 * TIB;
  for (let i = 0; i < 256; i++) {
    await disk.write((fragments + i * 131_072) / 512, new Uint8Array(512));
  }
  const map = new RunMap(disk, 0, disk.sectors * 512, 2 ** 20, 128);
  let steps = 0;
  let largest = 0;
  for (; !map.done; steps++) {
    const before = map.runs.length;
    await map.step();
    largest = Math.max(largest, map.runs.length - before);
  }
  assertEquals(map.runs.length, 513);
  // The disk ends an answer that has so many.
  assert(largest <= 256, `${largest} runs in one step`);
  // And so few steps that they cost nothing.
  assert(steps < 50, `${steps} steps`);
  assertEquals(map.runs[0], { start: 0, end: fragments, hole: true });
  assertEquals(map.runs.at(-1)!.end, disk.sectors * 512);
});
