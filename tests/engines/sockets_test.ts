/**
 * Sockets beside a busy disk: whoever serves a disk, or anything else, in the
 * same program has a turn between two requests to the disk.
 *
 * Without that, a round trip takes 25 to 50 ms, and with it 1 ms. The bound is in
 * between, far from both, and counts only the time in which this thread had a
 * processor or wanted none. A busy disk can block whoever submits to it, so that
 * what starves here must do so each time.
 *
 * @module
 */

import { assert, fail } from "@std/assert";
import { join } from "node:path";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { tempDir } from "../helpers.ts";
import { ENGINES, hasEngine } from "../backends/direct/harness.ts";

const BUSY_MS = 400;

/** Round trips within that time; 8 to 16 where sockets starve. */
const LEAST = 40;

/** How often to look, as each may be a bad moment. */
const ATTEMPTS = 6;

/** How long this thread has wanted a processor and had none, in ms. */
function waitedMs(): number {
  // Time on a processor and time on a run queue, in ns: Documentation/scheduler/
  // sched-stats.rst.
  const [, waited] = Deno.readTextFileSync("/proc/thread-self/schedstat")
    .split(" ");
  return Number(waited) / 1e6;
}

/** Counts round trips over loopback for as long as something is to be done. */
async function roundTrips(work: Promise<unknown>): Promise<number> {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const [client, server] = await Promise.all([
    Deno.connect({ hostname: "127.0.0.1", port: listener.addr.port }),
    listener.accept(),
  ]);
  const echo = server.readable.pipeTo(server.writable);
  let busy = true;
  const done = work.finally(() => busy = false);
  const byte = new Uint8Array(1);
  let count = 0;
  while (busy) {
    await client.write(byte);
    await client.read(byte);
    count++;
  }
  client.close();
  await Promise.all([done, echo]);
  listener.close();
  return count;
}

/** Reads for a while, and counts round trips meanwhile. */
async function beside(disk: VirtualDisk, depth: number) {
  const start = performance.now();
  const waited = waitedMs();
  let requests = 0;
  const buffers = Array.from({ length: depth }, () => disk.allocate(1));
  const trips = await roundTrips(Promise.all(buffers.map(async (one) => {
    while (performance.now() < start + BUSY_MS) {
      await disk.readInto(requests++ % 2048, one);
    }
  })));
  const hadMs = performance.now() - start - (waitedMs() - waited);
  return { trips, hadMs, requests };
}

for (const engine of ENGINES) {
  for (const depth of [1, 2, 32, 128]) {
    Deno.test({
      name: `sockets have their turn beside ${depth} in flight on ${engine}`,
      ignore: !hasEngine(engine),
      fn: async () => {
        await using dir = await tempDir();
        const path = join(dir.path, "disk.img");
        await (await VirtualDisk.create(path, { sectors: 2048 })).close();
        await using disk = await VirtualDisk.open(path, {
          backend: "direct",
          engine,
        });
        const found: string[] = [];
        for (let i = 0; i < ATTEMPTS; i++) {
          const { trips, hadMs, requests } = await beside(disk, depth);
          assert(requests > 0);
          if (trips > LEAST * hadMs / BUSY_MS) return;
          found.push(`${trips} in ${hadMs} ms, beside ${requests} requests`);
        }
        fail(found.join("\n"));
      },
    });
  }
}
