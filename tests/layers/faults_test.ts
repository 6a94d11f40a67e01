import { assert, assertEquals } from "@std/assert";
import type { Backend } from "../../src/backend.ts";
import { VirtualDisk } from "../../src/disk/disk.ts";
import type { FaultRule } from "../../src/layers/fault_rule.ts";
import { type Faults, faults } from "../../src/layers/faults.ts";
import { latency } from "../../src/layers/latency.ts";
import { Random } from "../../src/random.ts";
import { flushRequest, readRequest, writeRequest } from "../../src/request.ts";
import { assertContent, readSectors, submitAll } from "../contract.ts";
import { sector } from "./faulty.ts";
import { memory } from "./stacks.ts";

Deno.test("VirtualDisk meets each request's own fault, and merges none", async () => {
  await using disk = VirtualDisk.over(
    faults(memory(), ["write nth=3 error=EIO"]),
  );
  const results = await Promise.allSettled(
    Array.from({ length: 6 }, (_, i) => disk.write(i, sector(1))),
  );
  assertEquals(
    results.map(({ status }) => status),
    [
      "fulfilled",
      "fulfilled",
      "rejected",
      "fulfilled",
      "fulfilled",
      "fulfilled",
    ],
  );
  assertEquals(disk.counters.merged, 0);
});

const SWARM: (FaultRule | string)[] = [
  "read ratio=1/30 error=EIO",
  "write ratio=1/30 error=ENOSPC",
  "write ratio=1/20 torn",
  "write ratio=1/40 lost",
  "write ratio=1/40 misdirected",
  "read,write ratio=1/30 corrupt=2",
  "read,write ratio=1/60 bad",
  "ratio=1/4 flush=kept",
  "ratio=1/4 flush=reverted",
  "ratio=1/4 flush=late",
  "read,write ratio=1/200 delay=10us",
];

/** Everything that a workload sees: answers, bytes, and what is left. */
async function runSwarm(
  below: Backend,
  seed: number,
): Promise<{ seen: string[]; below: Uint8Array }> {
  const events: string[] = [];
  const faulty: Faults = faults(below, SWARM, {
    seed,
    onFault: ({ rule, operation, sector, count }) =>
      events.push(
        `${faulty.rules.indexOf(rule)} ${operation} ${sector} ${count}`,
      ),
  });
  const random = new Random(seed);
  const seen: string[] = [];
  for (let i = 0; i < 1500; i++) {
    const at = random.below(200);
    const count = random.between(1, 8);
    const [request, data] = random.chance(1, 12)
      ? [flushRequest(), null]
      : random.chance(1, 2)
      ? [writeRequest(at, random.bytes(count * 512)), null]
      : (() => {
        const data = sector(0, count);
        return [readRequest(at, data), data] as const;
      })();
    const [error] = await submitAll(faulty, [request]);
    let sum = 0;
    for (const byte of data ?? []) sum = (sum * 31 + byte) >>> 0;
    seen.push(`${error?.message} ${sum}`);
  }
  seen.push(...events, JSON.stringify(faulty.badSectors));
  faulty.clear();
  faulty.powerCut();
  return { seen, below: await readSectors(below, 0, 256) };
}

Deno.test("faults() of every kind at once repeat by their seed, over any backend", async () => {
  const first = await runSwarm(memory(), 5);
  const again = await runSwarm(latency(memory(), { fixedMs: 0.001 }), 5);
  assertEquals(again.seen, first.seen);
  assertContent(again.below, first.below, "below");
  const other = await runSwarm(memory(), 6);
  assert(other.seen.some((line, i) => line !== first.seen[i]));
});
