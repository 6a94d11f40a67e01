import { assertEquals } from "@std/assert";
import { MemoryBackend, VirtualDisk } from "../../mod.ts";
import { Random } from "../../src/random.ts";
import { ZeroSource } from "../../src/testing/block_source.ts";
import { completeCrashDevice } from "../../src/testing/crash_device.ts";
import {
  CrashImage,
  CrashStateBackend,
} from "../../src/testing/crash_state.ts";
import { CrashTimeline } from "../../src/testing/crash_timeline.ts";
import { exploreCrashes, recordWorkload } from "../../src/testing/mod.ts";

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

Deno.test("CrashImage shows what was chosen of a block, whatever it forgets and whenever it is read", async () => {
  const blocks = 12;
  await using recording = await recordWorkload({
    device: { sectors: blocks },
    async workload(disk) {
      for (let value = 1; value < 4; value++) {
        for (let block = 0; block < blocks; block++) {
          await disk.write(block, new Uint8Array(512).fill(value));
        }
        if (value === 1) await disk.flush();
      }
    },
  });
  const timeline = CrashTimeline.of(recording);
  const events = recording.events.length;
  // The same is done to one that forgets and to one that has room for all.
  const shown = [2, 1000].map((mostCells) => ({
    image: new CrashImage(recording.source, timeline, mostCells),
    // What is undecided is entered again as it was, as long as there is room.
    spaces: [events - 5, events - 1].map((point) => timeline.space(point)),
  }));
  const random = new Random(1);
  for (let visit = 0; visit < 200; visit++) {
    const entered = random.below(2);
    for (const { image, spaces } of shown) {
      image.moveTo(spaces[entered]!.point, 0, 0);
    }
    const { variables } = shown[0]!.spaces[entered]!;
    const options = variables.map(() => 0);
    for (let step = 0; step < 30; step++) {
      if (random.below(2) === 0) {
        const i = random.below(variables.length);
        const to = random.below(variables[i]!.count);
        for (const { image, spaces } of shown) {
          spaces[entered]!.variables[i]!.apply(image, options[i]!, to);
        }
        options[i] = to;
      }
      const block = random.below(blocks);
      const [forgets, keeps] = shown.map(({ image }) => [
        image.peek(block)![0],
        image.high,
        image.low,
        image.freeze().peek(block)![0],
      ]);
      assertEquals(forgets, keeps, `visit ${visit}, step ${step}`);
    }
  }
});

Deno.test("CrashStateBackend takes nothing of a write that waits, and whose memory has gone", async () => {
  const device = { sectors: 64, blockSize: 512 };
  const fetched = Promise.withResolvers<void>();
  class LateSource extends ZeroSource {
    override peek(): Uint8Array {
      return undefined as unknown as Uint8Array;
    }
    override async fetch(block: number): Promise<Uint8Array> {
      await fetched.promise;
      return await super.fetch(block);
    }
  }
  await using disk = VirtualDisk.over(
    new CrashStateBackend(new LateSource(512), completeCrashDevice(device)),
  );
  const first = disk.read(0, 1);
  const gone = new Uint8Array(512).fill(9);
  const writes = [disk.write(8, gone), disk.write(16, new Uint8Array(512))];
  disk.kick();
  structuredClone(gone, { transfer: [gone.buffer] });
  fetched.resolve();
  const [taken, left] = await Promise.allSettled(writes);
  assertEquals([taken!.status, left!.status], ["rejected", "fulfilled"]);
  assertEquals((taken as PromiseRejectedResult).reason.kind, "argument");
  await first;
});
