/**
 * Sockets beside a busy disk: whoever serves a disk, or anything else, in the
 * same program has a turn between two requests to the disk.
 *
 * Without that, a round trip takes 25 to 50 ms here, or 300 requests and more,
 * and with it 1 ms. The bounds are in between, far from both; on a machine that
 * is busy, where neither has its time, that of requests still tells.
 *
 * @module
 */

import { assert, assertGreater } from "@std/assert";
import { join } from "node:path";
import process from "node:process";
import { VirtualDisk } from "../../../src/disk/disk.ts";
import { tempDir } from "../../helpers.ts";
import { ENGINES, hasEngine } from "./harness.ts";

const BUSY_MS = 400;

/** Round trips within that time; 8 to 16 where sockets starve. */
const LEAST = 40;

/** Requests in the time of a round trip. */
const MOST_REQUESTS = 100;

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
        const until = performance.now() + BUSY_MS;
        const before = process.cpuUsage();
        let requests = 0;
        const buffers = Array.from({ length: depth }, () => disk.allocate(1));
        const count = await roundTrips(Promise.all(buffers.map(async (one) => {
          while (performance.now() < until) {
            await disk.readInto(requests++ % 2048, one);
          }
        })));
        assert(requests > 0);
        // Blocking calls want the processor all the time: what others have of it
        // is not this program's to use.
        const { user, system } = process.cpuUsage(before);
        const share = engine === "sync"
          ? Math.min(1, (user + system) / 1000 / BUSY_MS)
          : 1;
        assertGreater(
          count,
          Math.min(LEAST * share, requests / MOST_REQUESTS),
          `${count} in ${BUSY_MS} ms, beside ${requests} requests`,
        );
      },
    });
  }
}
