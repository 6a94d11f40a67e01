/**
 * Requests that are aborted, and whose memory is taken away, at any moment, over
 * a server that carries out what it has in any order: whatever becomes of them,
 * no sector ever holds what nobody wrote there, or what an acknowledged write
 * had replaced, and what was read once stays.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { VirtualDisk } from "../../../src/disk/disk.ts";
import { DiskError } from "../../../src/errors.ts";
import { ChunkType, Command } from "../../../src/protocol/nbd/numbers.ts";
import { Random } from "../../../src/random.ts";
import { LONG } from "../../helpers.ts";
import { joined, u64 } from "../../nbd/wire.ts";
import { type RawPeer, RawServer } from "./raw_server.ts";

/** Few, so that requests overlap. */
const SECTORS = 4096;

/** What memory is filled with by its next owner. */
const FOREIGN = 0xee;

/** Batches of requests of one seed. */
const BATCHES = 20;

/** Requests that are in flight together. */
const BATCH = 40;

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** A server over memory whose requests wait for their turn to be carried out. */
function lateServer(stored: Uint8Array, random: Random) {
  let idle = Promise.resolve<unknown>(undefined);
  const serve = async (peer: RawPeer) => {
    await peer.attach({ size: stored.length });
    const work: Promise<void>[] = [];
    let sending = Promise.resolve();
    try {
      for (;;) {
        const request = await peer.request();
        if (request.type === Command.Disconnect) break;
        const { type, offset, length, payload } = request;
        const late = random.chance(1, 4) ? random.below(6) : 0;
        work.push(
          pause(late).then(() => {
            if (type === Command.Write) stored.set(payload, offset);
            if (type === Command.WriteZeroes) {
              stored.fill(0, offset, offset + length);
            }
            const data = stored.slice(offset, offset + length);
            const reply = type === Command.Read
              ? () =>
                peer.chunk(
                  request,
                  ChunkType.OffsetData,
                  joined([u64(offset), data]),
                )
              : () => peer.simple(request);
            return sending = sending.then(reply).catch(() => {});
          }),
        );
        // Now and then it takes nothing, and the socket fills.
        if (random.chance(1, 10)) await pause(random.below(4));
      }
    } finally {
      await Promise.all(work);
    }
  };
  return RawServer.start((peer) => {
    const served = serve(peer).catch(() => {});
    idle = served;
    return served;
  }).then((server) => ({ server, idle: () => idle }));
}

async function torture(seed: number, batches: number) {
  const random = new Random(seed);
  const stored = new Uint8Array(SECTORS * 512);
  const { server, idle } = await lateServer(stored, new Random(seed + 1));
  const count = { done: 0, aborted: 0, changed: 0, lost: 0 };
  /** What each sector may hold. */
  const may = Array.from({ length: SECTORS }, () => [0]);
  let stamp = 0;
  const check = (sector: number, data: Uint8Array, what: string) => {
    for (let i = 0; i < data.length / 512; i++) {
      const bytes = data.subarray(i * 512, (i + 1) * 512);
      const value = bytes[0]!;
      assert(
        may[sector + i]!.includes(value) && bytes.every((it) => it === value),
        `${what}: sector ${sector + i} has ${value} and not one of ${
          may[sector + i]
        }, seed ${seed}`,
      );
      may[sector + i] = [value];
    }
  };
  const later = (act: () => void) => {
    const when = random.below(6);
    if (when === 0) act();
    else if (when === 1) queueMicrotask(act);
    else setTimeout(act, when - 2);
  };
  try {
    let disk = await VirtualDisk.open(server.uri);
    for (let batch = 0; batch < batches; batch++) {
      const requests = Array.from({ length: BATCH }, () => {
        const length = random.chance(1, 12)
          ? random.between(100, 1500)
          : random.between(1, 40);
        const sector = random.below(SECTORS - length);
        const controller = new AbortController();
        const { signal } = controller;
        const withSignal = random.chance(1, 5);
        if (withSignal) later(() => controller.abort(new Error("Aborted")));
        const options = withSignal ? { signal } : {};
        const kind = random.pick(["write", "write", "read", "zeroes", "flush"]);
        const value = kind === "zeroes" ? 0 : stamp = stamp % 200 + 1;
        const data = new Uint8Array(
          kind === "write" || kind === "read" ? length * 512 : 0,
        );
        let gone = false;
        if (kind === "write") data.fill(value);
        const promise = kind === "write"
          ? disk.write(sector, data, { ...options, fua: random.chance(1, 9) })
          : kind === "read"
          ? disk.readInto(sector, data, options)
          : kind === "zeroes"
          ? disk.writeZeroes(sector, length, options)
          : disk.flush(options);
        if (data.length > 0 && random.chance(1, 8)) {
          later(() => {
            gone = true;
            const { buffer } = data;
            new Uint8Array(structuredClone(buffer, { transfer: [buffer] }))
              .fill(FOREIGN);
          });
        }
        return {
          kind,
          sector,
          length,
          value,
          data,
          promise,
          isGone: () => gone,
        };
      });
      const outcomes = await Promise.allSettled(
        requests.map(({ promise }) => promise),
      );
      // In the order in which they were made, which is that of their effect.
      outcomes.forEach((outcome, i) => {
        const { kind, sector, length, value, data, isGone } = requests[i]!;
        if (outcome.status === "fulfilled") {
          count.done++;
          if (kind === "write" || kind === "zeroes") {
            may.fill([value], sector, sector + length);
          } else if (kind === "read" && !isGone()) {
            check(sector, data, `batch ${batch}, request ${i}`);
          }
          return;
        }
        const error = outcome.reason;
        if (!(error instanceof DiskError)) count.aborted++;
        else if (error.kind === "argument") count.changed++;
        else count.lost++;
        if (kind !== "write" && kind !== "zeroes") return;
        for (let at = sector; at < sector + length; at++) {
          may[at] = [...may[at]!, value];
        }
      });
      if (outcomes.some(({ status }) => status === "rejected")) {
        const alive = await disk.read(0, 1).then(() => true, () => false);
        if (!alive || disk.failure !== null) {
          await disk.close();
          await idle();
          disk = await VirtualDisk.open(server.uri);
        }
      }
    }
    check(0, await disk.read(0, SECTORS), "at the end");
    await disk.close();
    await idle();
    check(0, stored, "on the server");
  } finally {
    await server[Symbol.asyncDispose]();
  }
  return count;
}

Deno.test("VirtualDisk over NBD keeps its promises when requests are aborted and memory goes", async () => {
  const sum = { done: 0, aborted: 0, changed: 0, lost: 0 };
  const hasAll = () => Object.values(sum).every((times) => times > 0);
  let seeds = 0;
  // On a busy machine some of it may not happen for a while.
  while (seeds < (LONG ? 100 : 2) || !hasAll() && seeds < 100) {
    // The first one of which memory goes in the midst of a system call.
    const count = await torture(11 + seeds++, BATCHES);
    for (const key of Object.keys(sum) as (keyof typeof sum)[]) {
      sum[key] += count[key];
    }
  }
  const all = Object.values(sum).reduce((a, b) => a + b);
  assertEquals(all, seeds * BATCHES * BATCH);
  // All of it happened.
  for (const [what, times] of Object.entries(sum)) {
    assert(times > 0, `${what}: ${JSON.stringify(sum)}`);
  }
});
