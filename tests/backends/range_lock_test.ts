import { assertEquals } from "@std/assert";
import { RangeLock } from "../../src/backends/range_lock.ts";

Deno.test("RangeLock keeps whole host blocks, whatever part of them is claimed", () => {
  const lock = new RangeLock(4096);
  const held: string[] = [];
  const releases = new Map<string, () => void>();
  const claim = (name: string, start: number, end: number) =>
    lock.claim(start, end, (release) => {
      held.push(name);
      releases.set(name, release);
    });
  claim("first sector", 0, 512);
  claim("last sector", 3584, 4096);
  claim("next block", 4096, 4608);
  claim("both", 4095, 4097);
  assertEquals(held, ["first sector", "next block"]);
  releases.get("first sector")!();
  assertEquals(held, ["first sector", "next block", "last sector"]);
  releases.get("next block")!();
  releases.get("last sector")!();
  assertEquals(held.at(-1), "both");
});

Deno.test("RangeLock keeps single bytes apart without an alignment", () => {
  const lock = new RangeLock();
  const held: number[] = [];
  for (const at of [0, 1, 2]) lock.claim(at, at + 1, () => held.push(at));
  assertEquals(held, [0, 1, 2]);
});
