/**
 * What a flush covers when requests are in flight beside it, which no queue
 * does: these go to the device itself.
 *
 * @module
 */

import {
  flushRequest,
  type Request,
  writeFuaRequest,
  writeRequest,
} from "@platter/disk";
import { assertEquals } from "@std/assert";
import { ZeroSource } from "../../src/testing/block_source.ts";
import {
  completeCrashDevice,
  type CrashDevice,
} from "../../src/testing/crash_device.ts";
import { CrashRecorder } from "../../src/testing/crash_recorder.ts";
import { CrashTimeline } from "../../src/testing/crash_timeline.ts";

/** Submits batches, each when the one before is answered. */
async function sizesAfter(
  batches: Request[][],
  device: CrashDevice = {},
): Promise<number[]> {
  const source = new ZeroSource(512);
  const recorder = new CrashRecorder(
    completeCrashDevice({ sectors: 64, ...device }),
    source,
    { origins: false, turns: true },
  );
  const backend = recorder.open();
  for (const batch of batches) {
    let left = batch.length;
    await new Promise<void>((resolve) =>
      backend.submit(batch, () => --left === 0 && resolve())
    );
  }
  await backend.close();
  const recording = await recorder.end();
  const sizes: number[] = [];
  const timeline = new CrashTimeline(recording);
  for (let point = 0; point <= recording.events.length; point++) {
    sizes.push(timeline.space(point).size);
  }
  return sizes;
}

const write = (sector: number) => writeRequest(sector, bytes());
const writeFua = (sector: number) => writeFuaRequest(sector, bytes());

let written = 0;

/** A sector that no other one is like. */
function bytes(): Uint8Array {
  return new Uint8Array(512).fill(++written);
}

Deno.test("a flush does not cover what completes while it is in flight", async () => {
  assertEquals(
    await sizesAfter([[write(0)], [write(1), flushRequest(), write(2)]]),
    // 0 is written; 1, the flush and 2 are in flight; 1 completes; the flush
    // does, with 0 alone; 2 completes.
    [1, 2, 2, 4, 4, 8, 8, 4, 4],
  );
});

Deno.test("a flush that keeps the order covers what came before, too", async () => {
  assertEquals(
    await sizesAfter([[write(0), write(1)], [write(2), flushRequest()]], {
      reorders: false,
    }),
    [1, 2, 3, 3, 3, 4, 4, 4, 2],
  );
});

Deno.test("a FUA write covers itself alone", async () => {
  assertEquals(
    await sizesAfter([[write(0)], [writeFua(1)], [writeFua(0)]]),
    [1, 2, 2, 4, 2, 3, 1],
  );
});
