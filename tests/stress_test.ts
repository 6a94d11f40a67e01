/**
 * The stress test for as long as a test may take; `deno task stress` runs it
 * for longer. `PLATTER_STRESS_SECONDS` does so for every engine in turn.
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertGreater,
  assertRejects,
} from "@std/assert";
import { ENGINES, hasEngine } from "./backends/direct/harness.ts";
import { loopDevice, needs, tempDir } from "./helpers.ts";
import { stress } from "./stress.ts";

const SECONDS = Number(Deno.env.get("PLATTER_STRESS_SECONDS") ?? 3);

/** Runs until everything was tried. */
const RUNS = 8;

for (const engine of ENGINES) {
  Deno.test({
    name: `stress() finds nothing, ${engine}`,
    ignore: !hasEngine(engine),
    async fn() {
      // A busy machine gets less done: again, until each kind was tried.
      const kinds: Record<string, number> = {};
      let withdrawn = 0;
      let isComplete = false;
      for (let run = 0; run < RUNS && !isComplete; run++) {
        const seed = crypto.getRandomValues(new Uint32Array(1))[0]!;
        const result = await stress({
          seed,
          durationMs: SECONDS * 1000,
          open: { engine },
          sectors: 32_768,
        });
        console.log(
          `${engine}: seed ${seed}, ${result.requests} requests, longest stall ${
            result.longestStallMs.toFixed(1)
          } ms`,
        );
        assertEquals(result.engine, engine);
        assertGreater(result.verified, 0);
        withdrawn += result.withdrawn;
        for (const [kind, count] of Object.entries(result.kinds)) {
          kinds[kind] = (kinds[kind] ?? 0) + count;
        }
        isComplete = withdrawn > 0 &&
          Object.values(kinds).every((count) => count > 0);
      }
      assertGreater(withdrawn, 0);
      for (const [kind, count] of Object.entries(kinds)) {
        assertGreater(count, 0, kind);
      }
    },
  });
}

Deno.test({
  name: "stress() finds nothing on a device with sectors of 4,096 bytes",
  ignore: !hasEngine("io_uring") || needs("root", "losetup").ignore,
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", 4 * 1_048_576);
    await using loop = await loopDevice(path, 4096);
    const seed = crypto.getRandomValues(new Uint32Array(1))[0]!;
    const { requests } = await stress({
      seed,
      durationMs: SECONDS * 400,
      open: { engine: "io_uring", blockSize: 512, queueSize: 16 },
      path: loop.path,
    });
    console.log(`4Kn: seed ${seed}, ${requests} requests`);
    assert(requests > 0);
  },
});

Deno.test({
  name: "stress() finds a write behind the disk's back, and names the seed",
  ignore: !hasEngine("sync"),
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", 1_048_576);
    let left = false;
    const spoil = (async () => {
      for (let i = 0; !left && i < 1000; i++) {
        await new Promise((resolve) => setTimeout(resolve, 5));
        using file = await Deno.open(path, { write: true });
        await file.write(new Uint8Array(1_048_576).fill(1));
      }
    })();
    try {
      await assertRejects(
        () =>
          stress({ seed: 7, durationMs: 3000, open: { engine: "sync" }, path }),
        Error,
        "Seed 7, request ",
      );
    } finally {
      left = true;
      await spoil;
    }
  },
});
