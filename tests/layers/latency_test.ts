import {
  assert,
  assertEquals,
  assertGreaterOrEqual,
  assertLess,
  assertThrows,
} from "@std/assert";
import process from "node:process";
import { type Latency, latency } from "../../src/layers/latency.ts";
import { flushRequest, readRequest, writeRequest } from "../../src/request.ts";
import { carryOut } from "../contract.ts";
import { isQuick } from "../helpers.ts";
import { memory } from "./stacks.ts";

const read = () => readRequest(0, new Uint8Array(512));
const write = () => writeRequest(0, new Uint8Array(512));

async function time(work: () => Promise<unknown>): Promise<number> {
  const start = performance.now();
  await work();
  return performance.now() - start;
}

Deno.test("latency() takes at least its time, for all of a batch at once", async () => {
  const slow = latency(memory(), { fixedMs: 10 });
  const work = async () => {
    const ms = await time(() =>
      carryOut(slow, ...Array.from({ length: 50 }, read))
    );
    assertGreaterOrEqual(ms, 10);
  };
  assert(await isQuick(200, work));
});

Deno.test("latency() takes less than a millisecond where it is told to", async () => {
  const slow = latency(memory(), { fixedMs: 0.2 });
  let least = Infinity;
  for (let i = 0; i < 50 || i < 5000 && least >= 1; i++) {
    const ms = await time(() => carryOut(slow, read()));
    assertGreaterOrEqual(ms, 0.2);
    least = Math.min(least, ms);
  }
  assertLess(least, 1);
});

Deno.test("latency() tells operations apart, and answers overtake each other", async () => {
  const slow = latency(memory(), {
    fixedMs: 0,
    // Far apart: another program may have the processor between two requests.
    operationMs: { write: 700, flush: 10 },
  });
  const order: string[] = [];
  const done = (name: string) => () => order.push(name);
  const all = [
    carryOut(slow, write()).then(done("write")),
    carryOut(slow, flushRequest()).then(done("flush")),
    carryOut(slow, read()).then(done("read")),
  ];
  await Promise.all(all);
  assertEquals(order, ["read", "flush", "write"]);
});

function pause(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve));
}

Deno.test("latency() has spikes, the same for a seed", async () => {
  const spiky = async (seed: number) => {
    const slow = latency(memory(), {
      seed,
      spikes: [
        {
          ratio: { numerator: 1, denominator: 4 },
          ms: 60_000,
          operation: "read",
        },
      ],
    });
    await carryOut(slow, write());
    const late: boolean[] = [];
    for (let i = 0; i < 24; i++) {
      const request = read();
      let isDone = false;
      const done = carryOut(slow, request).then(() => isDone = true);
      // What has no spike is answered within a turn of the event loop.
      for (let turn = 0; turn < 4; turn++) await pause();
      late.push(!isDone);
      slow.cancel(request);
      await done;
    }
    await slow.close();
    return late;
  };
  const first = await spiky(1);
  assert(first.includes(true) && first.includes(false));
  assertEquals(await spiky(1), first);
});

Deno.test("latency() can be changed, and switched off, while it runs", async () => {
  const slow: Latency = latency(memory(), { fixedMs: 30 });
  assertGreaterOrEqual(await time(() => carryOut(slow, read())), 30);
  slow.options = { fixedMs: 60_000 };
  slow.options = { fixedMs: 2 };
  assertGreaterOrEqual(await time(() => carryOut(slow, read())), 2);
  slow.options = { fixedMs: 60_000 };
  slow.enabled = false;
  await carryOut(slow, read());
});

Deno.test("latency() holds back no request that is cancelled", async () => {
  const slow = latency(memory(), { fixedMs: 60_000 });
  const request = read();
  const early = readRequest(1, new Uint8Array(512));
  const done = carryOut(slow, request, early);
  slow.cancel(request);
  slow.cancel(early);
  await done;
  await slow.close();
});

Deno.test("latency() answers the others where one who is answered throws", async () => {
  const slow = latency(memory(), { fixedMs: 200 });
  const mistake = new Error("a mistake");
  const thrown: unknown[] = [];
  const note = (error: unknown) => thrown.push(error);
  process.on("uncaughtException", note);
  try {
    const { promise, resolve } = Promise.withResolvers<void>();
    let left = 8;
    slow.submit(Array.from({ length: left }, read), () => {
      if (--left === 0) resolve();
      if (left % 2 === 0) throw mistake;
    });
    await promise;
    await slow.close();
    while (thrown.length === 0) await pause();
    assertEquals(thrown[0], mistake);
  } finally {
    process.off("uncaughtException", note);
  }
});

Deno.test("latency() throws on times and ratios that are none", () => {
  for (
    const options of [
      { fixedMs: -1 },
      { fixedMs: NaN },
      { operationMs: { read: Infinity } },
      { spikes: [{ ratio: { numerator: 2, denominator: 1 }, ms: 1 }] },
      { spikes: [{ ratio: { numerator: 1, denominator: 1 }, ms: -1 }] },
    ]
  ) assertThrows(() => latency(memory(), options), RangeError, "Cannot ");
});
