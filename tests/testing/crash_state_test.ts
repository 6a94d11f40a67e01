import { assertEquals } from "@std/assert";
import { MemoryBackend, VirtualDisk } from "../../mod.ts";
import { exploreCrashes } from "../../src/testing/mod.ts";

const SECTORS = 65_536;

/** A backend below whose blocks are never at hand at once. */
async function filledBase(): Promise<MemoryBackend> {
  const base = new MemoryBackend({ sectors: SECTORS });
  const disk = VirtualDisk.over(base);
  const chunk = new Uint8Array(1_048_576).fill(7);
  for (let at = 0; at < SECTORS; at += 2048) await disk.write(at, chunk);
  return base;
}

Deno.test("exploreCrashes() shows recovery all of a large read over a base, whatever its cache holds", async () => {
  let seen = 0;
  await exploreCrashes({
    device: { sectors: SECTORS },
    base: await filledBase(),
    maxStates: 2,
    async workload(disk) {
      await disk.write(60_000, new Uint8Array(512).fill(9));
    },
    async recover(disk) {
      // A part of it is at hand, and more is read than is ever kept.
      await disk.read(0, 1);
      for (let chunk = 2; chunk <= 128; chunk++) {
        await disk.read(chunk * 128, 1);
      }
      const across = await disk.read(64, 128);
      assertEquals(across.findIndex((byte) => byte !== 7), -1);
      const large = await disk.read(0, 32_768);
      assertEquals(large.findIndex((byte) => byte !== 7), -1);
      seen++;
    },
  });
  assertEquals(seen > 0, true);
});
