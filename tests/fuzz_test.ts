/**
 * The differential fuzzer over every backend, for as long as a test may take.
 * `PLATTER_FUZZ_REQUESTS` makes it longer; `tests/fuzz.ts` replays a seed.
 *
 * @module
 */

import { assert, assertEquals, assertRejects } from "@std/assert";
import { MemoryBackend } from "../src/backends/memory.ts";
import type { Backend, Complete } from "../src/backend.ts";
import { VirtualDisk } from "../src/disk/disk.ts";
import { type Request, RequestType } from "../src/request.ts";
import { fuzz, needsRoot, SUBJECTS } from "./fuzz.ts";
import { hasTmpfs, needs } from "./helpers.ts";

/** Those that are memory take 100,000 requests in the time of a blink. */
const FAST = /^(memory|slice|direct, tmpfs)/;

function requestsFor(name: string): number {
  const wanted = Number(Deno.env.get("PLATTER_FUZZ_REQUESTS") ?? 0);
  if (wanted > 0) return wanted;
  return FAST.test(name) ? 100_000 : 4_000;
}

for (const [name, make] of Object.entries(SUBJECTS)) {
  const linux = Deno.build.os === "linux";
  const ignore = !linux && /direct|tmpfs|device|tail/.test(name) ||
    name.includes("tmpfs") && !hasTmpfs() ||
    needsRoot(name) && needs("root", "losetup", "mkfs.ext4").ignore;
  Deno.test({
    name: `fuzz() finds nothing: ${name}`,
    ignore,
    async fn() {
      await using subject = await make();
      const seed = crypto.getRandomValues(new Uint32Array(1))[0]!;
      const requests = requestsFor(name);
      console.log(`${name}: seed ${seed}, ${requests} requests`);
      await fuzz(subject, { seed, requests, phase: 1000 });
    },
  });
}

Deno.test("fuzz() asks the same of the same seed", async () => {
  const runs: string[] = [];
  for (let i = 0; i < 2; i++) {
    const log: string[] = [];
    const inner = new MemoryBackend({ sectors: 4096 });
    const backend = spoilt(inner, (request) => {
      log.push(`${request.type} ${request.sector} ${request.count}`);
      return true;
    });
    const disk = VirtualDisk.over(backend);
    await using subject = {
      disk,
      start: 0,
      [Symbol.asyncDispose]: () => disk.close(),
    };
    const result = await fuzz(subject, { seed: 42, requests: 3000 });
    assert(result.requests >= 3000);
    runs.push(log.join("\n"));
  }
  assertEquals(runs[0], runs[1]);
});

/** A backend that carries out what `take` lets it, and calls the rest done. */
function spoilt(
  inner: MemoryBackend,
  take: (request: Request) => boolean,
): Backend {
  return {
    geometry: inner.geometry,
    abilities: inner.abilities,
    limits: inner.limits,
    info: inner.info,
    counters: inner.counters,
    submit(batch: readonly Request[], complete: Complete) {
      for (const request of batch) {
        if (take(request)) inner.submit([request], complete);
        else complete(request, null);
      }
    },
    allocate: (byteLength) => inner.allocate(byteLength),
    close: () => inner.close(),
  };
}

const FAULTS: [string, (seen: number, request: Request) => boolean][] = [
  ["a lost write", (n, { type }) => type !== RequestType.Out || n % 500 !== 0],
  [
    "a lost write of zeroes",
    (n, { type }) => type !== RequestType.WriteZeroes || n % 50 !== 0,
  ],
  [
    "a read of nothing",
    (n, { type }) => type !== RequestType.In || n % 500 > 0,
  ],
];

for (const [title, take] of FAULTS) {
  Deno.test(`fuzz() finds ${title}, and names the seed`, async () => {
    let seen = 0;
    const disk = VirtualDisk.over(
      spoilt(
        new MemoryBackend({ sectors: 4096 }),
        (request) => take(++seen, request),
      ),
    );
    await using subject = {
      disk,
      start: 0,
      [Symbol.asyncDispose]: () => disk.close(),
    };
    await assertRejects(
      () => fuzz(subject, { seed: 7, requests: 20_000 }),
      Error,
      "Seed 7, request ",
    );
  });
}
