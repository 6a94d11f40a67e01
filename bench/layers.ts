/**
 * What the layers protect and observe cost: a disk in memory beside the same
 * under a layer, 4 KiB at random, 32 in flight, in turns in one process.
 *
 * ```sh
 * deno task bench:layers [--rounds 200] [--requests 10000]
 * ```
 *
 * A round is short and does each disk once, in an order that turns; what is told
 * is the middle of the rounds' quotients. The time is the processor's, which a
 * busy machine changes least. What is to be reached is 0.95.
 *
 * @module
 */

import { parseArgs } from "@std/cli/parse-args";
import process from "node:process";
import { type Backend, MemoryBackend, VirtualDisk } from "@platter/disk";
import { observe, protect, Random } from "@platter/disk/testing";
import { grouped } from "./format.ts";
import { median, ratio } from "./statistics.ts";

const SECTORS = 131_072;
const DEPTH = 32;
const BLOCK_SECTORS = 8;

const GUARDED = [
  { sector: 0, count: 34 },
  { name: "partition 1", sector: SECTORS / 2, count: 8 },
];

const CONTENDERS: readonly [string, (backend: Backend) => Backend][] = [
  ["memory", (backend) => backend],
  ["protect, two ranges", (backend) => protect(backend, GUARDED)],
  ["observe", (backend) => observe(backend)],
  [
    "observe, two partitions",
    (backend) =>
      observe(backend, {
        ranges: [
          { sector: 0, count: SECTORS / 2 },
          { sector: SECTORS / 2 },
        ],
      }),
  ],
];

/** Requests a second, of the processor's time. */
async function round(
  disk: VirtualDisk,
  writes: boolean,
  requests: number,
  random: Random,
): Promise<number> {
  let left = requests;
  const before = process.cpuUsage();
  await Promise.all(Array.from({ length: DEPTH }, async () => {
    const memory = disk.allocate(BLOCK_SECTORS);
    while (left-- > 0) {
      // What is protected is left alone: it is the check that costs.
      const block = random.between(5, SECTORS / BLOCK_SECTORS / 2 - 1);
      const sector = block * BLOCK_SECTORS;
      if (writes) await disk.write(sector, memory);
      else await disk.readInto(sector, memory);
    }
  }));
  const { user, system } = process.cpuUsage(before);
  return requests / (user + system) * 1e6;
}

if (import.meta.main) {
  const { rounds, requests } = parseArgs(Deno.args, {
    string: ["rounds", "requests"],
    default: { rounds: "200", requests: "10000" },
  });
  for (const writes of [false, true]) {
    const disks = CONTENDERS.map(([, layer]) =>
      VirtualDisk.over(layer(new MemoryBackend({ sectors: SECTORS })))
    );
    const rates: number[][] = CONTENDERS.map(() => []);
    const count = Number(rounds);
    for (let i = -10; i < count; i++) {
      for (let j = 0; j < disks.length; j++) {
        const which = (j + Math.abs(i)) % disks.length;
        const random = new Random(Math.abs(i));
        const rate = await round(
          disks[which]!,
          writes,
          Number(requests),
          random,
        );
        // The first rounds warm up.
        if (i >= 0) rates[which]!.push(rate);
      }
    }
    console.log(writes ? "\nrandom writes" : "random reads");
    CONTENDERS.forEach(([name], i) => {
      const each = ratio(rates[i]!, rates[0]!).median;
      console.log(
        `  ${name.padEnd(24)} ${
          grouped(Math.round(median(rates[i]!))).padStart(9)
        } a second of CPU  ${each.toFixed(3)}`,
      );
    });
    for (const disk of disks) await disk.close();
  }
}
