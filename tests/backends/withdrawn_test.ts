/**
 * A request that takes many calls ends between two of them once it is withdrawn:
 * zeroes over a whole disk would be written for hours otherwise.
 *
 * @module
 */

import { assertEquals, assertLess, assertRejects } from "@std/assert";
import { VirtualDisk } from "../../src/disk/disk.ts";
import type { OpenOptions } from "../../src/disk/open.ts";
import { tempDir } from "../helpers.ts";
import { hasEngine } from "./direct/harness.ts";

/** Pieces of 1 MiB, as all of these are moved in. */
const PIECES = 512;

const SECTORS = PIECES * 2048;

type Act = (disk: VirtualDisk, signal: AbortSignal) => Promise<unknown>;

const read: Act = (disk, signal) => disk.read(0, SECTORS, { signal });
const zero: Act = (disk, signal) => disk.writeZeroes(0, SECTORS, { signal });

const CASES: [string, OpenOptions, Act][] = [
  ["writeZeroes() by backend portable", { backend: "portable" }, zero],
  ["read() by engine sync", { engine: "sync" }, read],
  ["read() by engine libaio", { engine: "libaio" }, read],
  ["read() by engine io_uring", { engine: "io_uring" }, read],
];

for (const [name, options, act] of CASES) {
  const { engine } = options;
  Deno.test({
    name: `VirtualDisk.${name} ends after its next piece once it is withdrawn`,
    ignore: engine !== undefined && !hasEngine(engine),
    async fn() {
      await using dir = await tempDir();
      await using disk = await VirtualDisk.create(dir.join("a.img"), {
        sectors: SECTORS,
        ...options,
      });
      const before = disk.counters.systemCalls;
      const controller = new AbortController();
      const acting = assertRejects(
        () => act(disk, controller.signal),
        Error,
        "Enough",
      );
      while (disk.counters.systemCalls < before + 3) {
        await new Promise((resolve) => setTimeout(resolve));
      }
      controller.abort(new Error("Enough"));
      const atAbort = disk.counters.systemCalls;
      await acting;
      assertLess(disk.counters.systemCalls - atAbort, PIECES / 4);
      // The next one is another one.
      assertEquals((await disk.read(SECTORS - 8, 8))[0], 0);
    },
  });
}
