import { assert, assertEquals, assertRejects } from "@std/assert";
import { MemoryBackend } from "../../src/backends/memory.ts";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { DiskError } from "../../src/errors.ts";
import { rescueDisk, RescueMap, RescueStatus } from "../../src/image/mod.ts";
import { faults } from "../../src/layers/mod.ts";
import { Random } from "../../src/random.ts";
import { type Request, RequestType } from "../../src/request.ts";
import { altered } from "../fake_backend.ts";
import { needs, run, tempDir } from "../helpers.ts";

const SECTORS = 4096;

/** A disk with noise, of which some sectors cannot be read. */
async function damaged(
  bad: readonly [sector: number, count: number][],
  rules: string[] = [],
): Promise<{ disk: VirtualDisk; content: Uint8Array }> {
  const memory = new MemoryBackend({ sectors: SECTORS });
  const content = new Random(5).bytes(SECTORS * 512);
  content.fill(0, 1000 * 512, 1500 * 512);
  const faulty = faults(memory, [
    ...bad.map(([sector, count]) => `read sector=${sector}+${count} EIO`),
    ...rules,
  ]);
  const disk = VirtualDisk.over(faulty);
  await disk.write(0, content);
  return { disk, content };
}

const BAD: [number, number][] = [[0, 1], [700, 3], [705, 1], [4095, 1]];

function mapOfBad(bad: readonly [number, number][]): RescueMap {
  const map = new RescueMap(SECTORS * 512);
  map.set(0, map.size, RescueStatus.Finished);
  for (const [sector, count] of bad) {
    map.set(sector * 512, count * 512, RescueStatus.Bad);
  }
  return map;
}

Deno.test("rescueDisk() copies all that can be read, and maps the rest to the sector", async () => {
  const { disk, content } = await damaged(BAD);
  await using source = disk;
  await using target = VirtualDisk.memory({ sectors: SECTORS });
  const before = new Uint8Array(SECTORS * 512).fill(0xee);
  await target.write(0, before);
  const map = new RescueMap(SECTORS * 512);
  let saves = 0;
  await rescueDisk(source, target, map, {
    save: (map) => {
      saves++;
      RescueMap.parse(map.format());
      return Promise.resolve();
    },
  });
  assertEquals(map.blocks(), mapOfBad(BAD).blocks());
  assertEquals([map.phase, saves], ["+", 1]);
  for (const [sector, count] of BAD) {
    content.fill(0xee, sector * 512, (sector + count) * 512);
  }
  const read = await target.read(0, SECTORS);
  assertEquals(read.findIndex((byte, i) => byte !== content[i]), -1);
});

Deno.test("rescueDisk() goes on with a map, reads nothing twice, and retries what is bad", async () => {
  const { disk } = await damaged([[700, 1]], ["read sector=1600 once EIO"]);
  await using source = disk;
  await using target = VirtualDisk.memory({ sectors: SECTORS });
  const map = new RescueMap(SECTORS * 512);
  await rescueDisk(source, target, map);
  // The piece failed once; block by block all of it could be read.
  assertEquals(map.blocks(), mapOfBad([[700, 1]]).blocks());
  const { requests } = source.counters;
  await rescueDisk(source, target, map, { retries: 3 });
  assertEquals(source.counters.requests - requests, 3);
  assertEquals(map.blocks(), mapOfBad([[700, 1]]).blocks());
});

Deno.test("rescueDisk() saves what it has before it gives up, if the target fails", async () => {
  const { disk } = await damaged([]);
  await using source = disk;
  await using target = VirtualDisk.over(
    faults(new MemoryBackend({ sectors: SECTORS }), [
      "write sector=3000 ENOSPC",
    ]),
  );
  const map = new RescueMap(SECTORS * 512);
  let saved: RescueMap | undefined;
  const error = await assertRejects(() =>
    rescueDisk(source, target, map, {
      save: (map) => {
        saved = RescueMap.parse(map.format());
        return Promise.resolve();
      },
    }), DiskError);
  assertEquals(error.kind, "no-space");
  // Nothing is called finished that the target did not take.
  const finished = saved!.blocks(RescueStatus.Finished);
  assert(finished.length > 0);
  for (const { position, size } of finished) {
    assert(3000 * 512 < position || position + size <= 3000 * 512);
  }
});

Deno.test("rescueDisk() saves nothing as finished that no flush of the target has covered", async () => {
  const store = new MemoryBackend({ sectors: 16 * SECTORS });
  await using source = VirtualDisk.memory({ sectors: 16 * SECTORS });
  await source.write(0, new Random(6).bytes(16 * SECTORS * 512));
  const durable = new Uint8Array(16 * SECTORS);
  const written: Request[] = [];
  let pieces = 0;
  let during = 0;
  let flushing = false;
  await using target = VirtualDisk.over(altered(store, {
    submit(batch, complete) {
      for (const request of batch) {
        if (request.type !== RequestType.Flush) {
          if (flushing) during++;
          pieces++;
          setTimeout(() => {
            written.push(request);
            store.submit([request], complete);
          }, 0);
          continue;
        }
        // Slow, so that the others go on; and it covers what came before it.
        flushing = true;
        for (const { sector, count } of written.splice(0)) {
          durable.fill(1, sector, sector + count);
        }
        setTimeout(() => {
          flushing = false;
          complete(request, null);
        }, 5);
      }
    },
  }));
  let saves = 0;
  const clock = performance.now;
  const start = clock.call(performance);
  // A checkpoint is due after some pieces.
  performance.now = () => start + Math.floor(pieces / 3) * 20_000;
  try {
    await rescueDisk(source, target, new RescueMap(durable.length * 512), {
      save(map) {
        saves++;
        for (const { position, size } of map.blocks(RescueStatus.Finished)) {
          const part = durable.subarray(
            position / 512,
            (position + size) / 512,
          );
          assert(part.every((each) => each === 1), "more than is durable");
        }
        return Promise.resolve();
      },
    });
  } finally {
    performance.now = clock;
  }
  assert(saves > 2 && during > 0, `${saves} saves, ${during} writes meanwhile`);
});

Deno.test("rescueDisk() takes a device that is gone for no bad sector", async () => {
  const { disk } = await damaged([], ["read sector=2048.. ENODEV"]);
  await using source = disk;
  await using target = VirtualDisk.memory({ sectors: SECTORS });
  const map = new RescueMap(SECTORS * 512);
  await assertRejects(() => rescueDisk(source, target, map), DiskError);
  assertEquals(map.bytes(RescueStatus.Bad), 0);
  assertEquals(map.bytes(RescueStatus.Untrimmed), 0);
});

Deno.test("rescueDisk() stops by a signal, with the map saved", async () => {
  const { disk } = await damaged([]);
  await using source = disk;
  await using target = VirtualDisk.memory({ sectors: SECTORS });
  const controller = new AbortController();
  let saves = 0;
  const error = await assertRejects(() =>
    rescueDisk(source, target, new RescueMap(SECTORS * 512), {
      signal: controller.signal,
      onProgress: () => controller.abort(new Error("enough")),
      save: () => Promise.resolve(void saves++),
    })
  );
  assertEquals((error as Error).message, "enough");
  assertEquals(saves, 1);
});

Deno.test("rescueDisk() refuses a map of another disk, a target too small, and one that overlaps", async () => {
  await using source = VirtualDisk.memory({ sectors: 64 });
  await using small = VirtualDisk.memory({ sectors: 32 });
  for (const [target, size] of [[source, 512], [small, 64 * 512]] as const) {
    const error = await assertRejects(
      () => rescueDisk(source, target, new RescueMap(size)),
      DiskError,
    );
    assertEquals(error.kind, "range");
  }
  const error = await assertRejects(
    () => rescueDisk(source.slice(4, 8), source, new RescueMap(8 * 512)),
    DiskError,
  );
  assertEquals(error.kind, "argument");
});

Deno.test("rescueDisk() tries whole blocks where a map cuts through them", async () => {
  await using source = VirtualDisk.memory({ sectors: 64, blockSize: 4096 });
  await source.write(0, new Uint8Array(64 * 512).fill(7));
  await using target = VirtualDisk.memory({ sectors: 64 });
  const map = new RescueMap(64 * 512);
  map.set(0, map.size, RescueStatus.Finished);
  map.set(512 * 9, 512, RescueStatus.Unscraped);
  map.set(512 * 20, 100, RescueStatus.Untried);
  await rescueDisk(source, target, map);
  assertEquals(map.blocks().length, 1);
  const read = await target.read(8, 8);
  assertEquals(read, new Uint8Array(4096).fill(7));
});

Deno.test("rescueDisk() ends when nothing is bad, however often it may retry", async () => {
  await using source = VirtualDisk.memory({ sectors: 64 });
  await using target = VirtualDisk.memory({ sectors: 64 });
  const map = new RescueMap(64 * 512);
  await rescueDisk(source, target, map, { retries: Number.MAX_SAFE_INTEGER });
  assertEquals(map.bytes(RescueStatus.Finished), 64 * 512);
});

Deno.test("rescueDisk() tries blocks in which a map has several statuses", async () => {
  const { Bad, Finished, Unscraped, Untried, Untrimmed } = RescueStatus;
  const statuses = [Finished, Bad, Unscraped, Untrimmed, Untried];
  const content = new Uint8Array(64 * 512).fill(7);
  // Any two of them, cut in the first, in a middle and in the last block.
  for (const first of statuses) {
    for (const second of statuses) {
      await using source = VirtualDisk.memory({ sectors: 64 });
      await source.write(0, content);
      await using target = VirtualDisk.memory({ sectors: 64, blockSize: 4096 });
      const map = new RescueMap(64 * 512);
      for (const sector of [0, 24, 56]) {
        map.set(sector * 512, 3 * 512, first);
        map.set((sector + 3) * 512, 5 * 512, second);
      }
      const before = map.blocks(Finished);
      await rescueDisk(source, target, map, { retries: 1 });
      assertEquals(map.blocks(), [
        { position: 0, size: map.size, status: Finished },
      ]);
      // All but what is said to be there already, as whole blocks.
      const read = await target.read(0, 64);
      for (let block = 0; block < 8; block++) {
        const isDone = before.some(({ position, size }) =>
          position <= block * 4096 && (block + 1) * 4096 <= position + size
        );
        assertEquals(read[block * 4096], isDone ? 0 : 7, `${first}${second}`);
      }
    }
  }
});

Deno.test("rescueDisk() tries what was not tried, though it shares a block with what is bad", async () => {
  const { Bad, Finished, Untried } = RescueStatus;
  await using source = VirtualDisk.memory({ sectors: 64 });
  await source.write(0, new Uint8Array(64 * 512).fill(7));
  await using target = VirtualDisk.memory({ sectors: 64, blockSize: 4096 });
  const map = new RescueMap(64 * 512);
  map.set(3 * 512, 512, Bad);
  assertEquals(map.bytes(Untried), 63 * 512);
  await rescueDisk(source, target, map);
  assertEquals(map.bytes(Finished), 64 * 512);
});

Deno.test(
  "ddrescue and rescueDisk() come to the same map, and go on with each other's",
  needs("ddrescue"),
  async () => {
    await using dir = await tempDir();
    // In its test mode it takes a bad end for the end of the file.
    const bad = BAD.slice(0, -1);
    const { disk, content } = await damaged(bad);
    await using source = disk;
    const image = await dir.file("a.img", content);
    // Its own test mode: what is not "+" in this map cannot be read.
    await Deno.writeTextFile(dir.join("bad"), mapOfBad(bad).format());
    const ddrescue = (map: string, ...options: string[]) =>
      run("ddrescue", [
        ...["--test-mode", dir.join("bad"), "--sector-size=512", "--force"],
        ...[...options, image, dir.join("out"), dir.join(map)],
      ]);
    await ddrescue("whole");
    const whole = RescueMap.parse(await Deno.readTextFile(dir.join("whole")));
    assertEquals(whole.blocks(), mapOfBad(bad).blocks());

    // Stopped before it scraped; the rest is ours.
    await ddrescue("half", "--no-trim", "--no-scrape");
    const half = RescueMap.parse(await Deno.readTextFile(dir.join("half")));
    assert(half.bytes(RescueStatus.Untrimmed) > 0);
    await using target = await VirtualDisk.open(dir.join("out"));
    await rescueDisk(source, target, half);
    assertEquals(half.blocks(), whole.blocks());
    await target.close();

    // Stopped by us; the rest is ddrescue's.
    const map = new RescueMap(SECTORS * 512);
    map.set(0, 2048 * 512, RescueStatus.Finished);
    map.set(704 * 512, 3 * 512, RescueStatus.Unscraped);
    await Deno.writeTextFile(dir.join("ours"), map.format());
    await ddrescue("ours");
    const theirs = RescueMap.parse(await Deno.readTextFile(dir.join("ours")));
    assertEquals(theirs.blocks(RescueStatus.Bad), [
      { position: 705 * 512, size: 512, status: "-" },
    ]);
  },
);
