/**
 * Exploration against a device that is played by brute force, for all promises
 * that a device can make, over small random workloads.
 *
 * The requests go to the device itself, past any queue, so that writes, flushes
 * and acknowledgements are in flight beside each other in every way.
 *
 * @module
 */

import {
  type Backend,
  type Complete,
  flushRequest,
  Request,
  RequestFlag,
  RequestType,
  type VirtualDisk,
} from "@platter/disk";
import {
  type CrashDevice,
  type CrashOptions,
  type CrashReport,
  exploreCrashes,
  Random,
} from "@platter/disk/testing";
import { assert, assertEquals } from "@std/assert";
import { LONG } from "../helpers.ts";
import {
  CrashModel,
  encodeRuns,
  type ModelEvent,
  type ModelOperation,
} from "./crash_model.ts";

const WORKLOADS = Number(
  Deno.env.get("PLATTER_CRASH_WORKLOADS") ?? (LONG ? 20_000 : 300),
);

const OPERATIONS: Record<ModelOperation, RequestType> = {
  "write": RequestType.Out,
  "write zeroes": RequestType.WriteZeroes,
  "discard": RequestType.Discard,
  "secure erase": RequestType.SecureErase,
  "flush": RequestType.Flush,
};

/** One step of a workload. */
type Step =
  | { readonly do: "submit"; readonly batch: readonly Asked[] }
  | { readonly do: "await" }
  | { readonly do: "acknowledge"; readonly value: number };

interface Asked {
  readonly operation: ModelOperation;
  readonly block: number;
  readonly values: readonly number[];
  readonly fua: boolean;
}

/** A device, and what is done to it. */
interface Workload {
  readonly blocks: number;
  readonly device: CrashDevice & { blockSize: number };
  readonly prepared: readonly number[] | null;
  readonly steps: readonly Step[];
}

/** Draws a request. */
function drawRequest(random: Random, blocks: number, value: number): Asked {
  const operation: ModelOperation = random.pick([
    "write",
    "write",
    "write",
    "write",
    "write zeroes",
    "discard",
    "secure erase",
    "flush",
    "flush",
  ]);
  if (operation === "flush") {
    return { operation, block: 0, values: [], fua: false };
  }
  const count = random.between(1, Math.min(3, blocks));
  const block = random.below(blocks - count + 1);
  const fua = random.chance(1, 5);
  // Now and then the same bytes again, or as many alike.
  const same = random.chance(1, 4);
  const first = random.chance(1, 6) ? 1 : value + 1;
  const values = Array.from(
    { length: count },
    (_, i) => operation !== "write" ? 0 : same ? first : first + i,
  );
  return { operation, block, values, fua };
}

/** Draws what a recovery does. */
function drawRecovery(random: Random, blocks: number): Asked[] {
  return Array.from(
    { length: random.between(1, 3) },
    (_, i) => drawRequest(random, blocks, 100 + 3 * i),
  );
}

/** Draws a device and a workload. */
function draw(random: Random): Workload {
  const blocks = random.between(2, 5);
  const blockSize = random.pick([512, 512, 512, 1024, 4096]);
  const device = {
    sectors: blocks * blockSize / 512,
    blockSize,
    cache: random.chance(1, 6) ? "writethrough" : "writeback",
    reorders: random.chance(1, 2),
    tornBlocks: random.chance(1, 3),
    atomicWriteBytes: random.pick([0, 0, 1, 2, 4]) * blockSize,
    honorsFlush: !random.chance(1, 10),
    honorsFua: !random.chance(1, 6),
    discarded: random.pick(["zero", "old", "either", "either"] as const),
    failFlushes: random.chance(1, 3)
      ? [random.between(1, 2), random.between(1, 4)]
      : [],
  } as const;
  let value = 0;
  const ask = (): Asked => {
    const asked = drawRequest(random, blocks, value);
    value += asked.values.length;
    return asked;
  };
  const steps: Step[] = [];
  let busy: Asked[] = [];
  let parts = 0;
  for (let left = random.between(1, 8); left > 0; left--) {
    const what = random.below(8);
    if (what === 0) {
      steps.push({ do: "acknowledge", value: ++value });
      continue;
    }
    const batch: Asked[] = [];
    for (let more = random.pick([1, 1, 1, 2, 3]); more > 0; more--) {
      const asked = ask();
      parts += asked.values.length;
      // A queue holds back what overlaps.
      const overlaps = busy.some(({ block, values }) =>
        block < asked.block + asked.values.length &&
        asked.block < block + values.length
      );
      if (overlaps || parts > 9) continue;
      batch.push(asked);
      busy.push(asked);
    }
    if (batch.length > 0) steps.push({ do: "submit", batch });
    if (random.chance(2, 3)) {
      steps.push({ do: "await" });
      busy = [];
    }
  }
  return {
    blocks,
    device: { ...device, failFlushes: [...new Set(device.failFlushes)] },
    prepared: random.chance(1, 2)
      ? Array.from({ length: blocks }, () => 200 + random.below(4))
      : null,
    steps,
  };
}

/** Makes a request of what is asked. */
function requestOf(asked: Asked, blockSize: number): Request {
  const { operation, block, values, fua } = asked;
  if (operation === "flush") return flushRequest();
  const sectors = blockSize / 512;
  let data: Uint8Array | null = null;
  if (operation === "write") {
    data = new Uint8Array(values.length * blockSize);
    for (const [i, value] of values.entries()) {
      data.fill(value, i * blockSize, (i + 1) * blockSize);
    }
  }
  return new Request(
    OPERATIONS[operation],
    block * sectors,
    values.length * sectors,
    fua ? RequestFlag.Fua : 0,
    data,
  );
}

/** Hands requests to a device and writes down what it answers. */
class Asking {
  readonly events: ModelEvent[] = [];
  readonly #device: Backend;
  readonly #blockSize: number;
  #next = 0;
  #pending: Promise<void>[] = [];

  constructor(device: Backend, blockSize: number) {
    this.#device = device;
    this.#blockSize = blockSize;
  }

  submit(batch: readonly Asked[]): void {
    const byRequest = new Map<Request, () => void>();
    const ids = new Map<Request, number>();
    for (const asked of batch) {
      const request = requestOf(asked, this.#blockSize);
      const id = this.#next++;
      ids.set(request, id);
      this.events.push({ kind: "submit", id, ...asked });
      this.#pending.push(
        new Promise((resolve) => byRequest.set(request, resolve)),
      );
    }
    const complete: Complete = (request, error) => {
      const id = ids.get(request)!;
      this.events.push({ kind: "complete", id, failed: error !== null });
      byRequest.get(request)!();
    };
    this.#device.submit([...byRequest.keys()], complete);
  }

  acknowledge(value: number): void {
    this.events.push({ kind: "acknowledge", value });
  }

  async answers(): Promise<void> {
    await Promise.all(this.#pending);
    this.#pending = [];
  }
}

/** What each block holds, in words. */
async function look(disk: VirtualDisk): Promise<string> {
  const all = await disk.read(0, disk.sectors);
  const words: string[] = [];
  for (let at = 0; at < all.length; at += disk.blockSize) {
    words.push(encodeRuns(all.subarray(at, at + disk.blockSize)));
  }
  return words.join(" ");
}

/** Explores a workload, and gathers what its recoveries are shown. */
async function explore(
  workload: Workload,
  more: Partial<CrashOptions<number>> = {},
): Promise<{ events: ModelEvent[]; found: string[]; report: CrashReport }> {
  const { device, steps, prepared } = workload;
  const { blockSize } = device;
  let asking: Asking;
  const found: string[] = [];
  const report = await exploreCrashes<number>({
    device,
    maxStates: 1_000_000,
    maxStatesPerRecovery: 1_000_000,
    progress: false,
    allowNoProof: true,
    layers(raw) {
      asking = new Asking(raw, blockSize);
      return raw;
    },
    ...(prepared === null ? {} : {
      async prepare(disk) {
        for (const [block, value] of prepared.entries()) {
          await disk.write(
            block * blockSize / 512,
            new Uint8Array(blockSize).fill(value),
          );
        }
      },
    }),
    async workload(_disk, acknowledge) {
      for (const step of steps) {
        if (step.do === "await") await asking.answers();
        else if (step.do === "acknowledge") {
          asking.acknowledge(step.value);
          acknowledge(step.value);
        } else asking.submit(step.batch);
      }
      await asking.answers();
    },
    async recover(disk, acknowledged) {
      found.push(`${await look(disk)} | ${acknowledged.join(" ")}`);
    },
    ...more,
  });
  return { events: asking!.events, found, report };
}

/** What a played device shows. */
function play({ blocks, device, prepared }: Workload, events: ModelEvent[]) {
  const initial = Array.from(
    { length: blocks },
    (_, i) => `${prepared?.[i] ?? 0}x${device.blockSize}`,
  );
  const model = new CrashModel(device, initial);
  model.play(events);
  return model.found;
}

/** What it shows when the power fails again while recovering. */
function playRecoveries(
  workload: Workload,
  recovery: readonly Asked[],
  first: ReadonlySet<string>,
) {
  const found = new Set(first);
  const events: ModelEvent[] = recovery.flatMap((asked, id) => [
    { kind: "submit", id, ...asked } as const,
    { kind: "complete", id, failed: false } as const,
  ]);
  for (const state of first) {
    const [image, acknowledged] = state.split(" | ");
    const device = { ...workload.device, failFlushes: [] };
    const model = new CrashModel(device, image!.split(" "));
    model.play(events);
    for (const again of model.found) {
      found.add(again.replace(/ \| $/, ` | ${acknowledged}`));
    }
  }
  return found;
}

/** What an exploration must have shown, and what else there may be. */
function assertShown(
  found: readonly string[],
  model: ReadonlySet<string>,
  whole: boolean,
  seed: number,
): void {
  const shown = new Set(found);
  const places = `Seed ${seed}: it shows what the device cannot leave`;
  assertEquals(found.filter((state) => !model.has(state)), [], places);
  if (!whole) return;
  const missing = [...model].filter((state) => !shown.has(state));
  assertEquals(missing, [], `Seed ${seed}: it leaves states out`);
}

/** Workloads, by their seeds. */
function* workloads(count: number): Generator<[seed: number, Workload]> {
  for (let seed = 0; seed < count; seed++) yield [seed, draw(new Random(seed))];
}

Deno.test("exploreCrashes() shows what a device may leave, and nothing else, whatever it promises", async () => {
  let states = 0;
  for (const [seed, workload] of workloads(WORKLOADS)) {
    const { events, found, report } = await explore(workload);
    const model = play(workload, events);
    states += model.size;
    assert(report.exhaustive, `Seed ${seed}: it does not say that this is all`);
    assertEquals(found.length, report.states);
    assertShown(found, model, true, seed);
    assertEquals(found.length, model.size, `Seed ${seed}: a state comes twice`);
  }
  if (LONG) console.log(`${states} states of ${WORKLOADS} workloads`);
});

Deno.test("exploreCrashes() says that it showed all states if it did, and only then", async () => {
  const random = new Random(1);
  for (const [seed, workload] of workloads(Math.ceil(WORKLOADS / 4))) {
    const { events } = await explore(workload, { maxStates: 1 });
    const model = play(workload, events);
    const maxStates = random.between(1, 2 * model.size);
    const { found, report } = await explore(workload, { maxStates });
    assert(found.length <= maxStates);
    assertEquals(
      report.exhaustive,
      model.size <= maxStates,
      `Seed ${seed}: ${found.length} of ${model.size} states`,
    );
    assertShown(found, model, report.exhaustive, seed);
  }
});

Deno.test("exploreCrashes() shows what a second power cut may leave of a recovery, and nothing else", async () => {
  const random = new Random(2);
  for (
    const [seed, workload] of workloads(Math.ceil(WORKLOADS / (LONG ? 40 : 10)))
  ) {
    const recovery = drawRecovery(random, workload.blocks);
    const found: string[] = [];
    const { events, report } = await explore(workload, {
      crashDuringRecovery: true,
      async recover(disk, acknowledged) {
        found.push(`${await look(disk)} | ${acknowledged.join(" ")}`);
        for (const asked of recovery) {
          await disk.submit(requestOf(asked, workload.device.blockSize));
        }
      },
    });
    const model = playRecoveries(workload, recovery, play(workload, events));
    assert(report.exhaustive, `Seed ${seed}: it does not say that this is all`);
    assertShown(found, model, true, seed);
  }
});
