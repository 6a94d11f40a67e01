/**
 * How long a disk holds the event loop: while it is slow, while it is fast,
 * while it is idle.
 *
 * The bound is far above what is measured (a few ms), and far below what one
 * blocking call would take; the time for which other programs had the processor
 * does not count, and what a busy machine did once is measured again: a call that
 * blocks does so each time. The figures are printed.
 *
 * @module
 */

import { assert, assertEquals, assertGreater, assertLess } from "@std/assert";
import { cpuUsage } from "node:process";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { DiskError } from "../../src/errors.ts";
import { Random } from "../../src/random.ts";
import { needs, tempDir } from "../helpers.ts";
import {
  ASYNC_ENGINES,
  hasEngine,
  pause,
  program,
  SERVED_TOOLS,
  slowFile,
} from "../backends/direct/harness.ts";

const MIB = 1_048_576;

/** How long one request to the slow disk takes, in ms. */
const SLOW_MS = 250;

/** The longest that the loop may stand still meanwhile, in ms. */
const STALL_MS = 150;

interface Pulse {
  /** The longest time between two turns of the loop, in ms. */
  longestMs: number;
  /** The same without the time for which others had the processor. */
  ownMs: number;
  /** Turns of the loop. */
  turns: number;
  /** Runs of a timer of 1 ms. */
  ticks: number;
}

/** How long this thread has waited for a processor so far, in ms. */
function waitedMs(): number {
  try {
    // Time on the processor, time in line for it, in ns: sched-stats.rst.
    const text = Deno.readTextFileSync("/proc/thread-self/schedstat");
    return Number(text.split(" ")[1]) / 1e6;
  } catch {
    // A kernel that does not count.
    return 0;
  }
}

/** How often something is measured until it does not stall. */
const ATTEMPTS = 6;

/**
 * Measures how regularly the event loop turns while something runs; again if it
 * stood still, or turned too rarely for a timer.
 */
async function pulse(
  body: () => Promise<unknown>,
  leastTicks = 0,
): Promise<Pulse> {
  for (let attempt = 1;; attempt++) {
    const found = await measure(body);
    const isFine = found.ownMs < STALL_MS && found.ticks > leastTicks;
    if (isFine || attempt === ATTEMPTS) return found;
  }
}

/** How long this process has had a processor so far, in ms. */
function cpuMs(): number {
  const { user, system } = cpuUsage();
  return (user + system) / 1000;
}

async function measure(body: () => Promise<unknown>): Promise<Pulse> {
  const { port1, port2 } = new MessageChannel();
  const found: Pulse = { longestMs: 0, ownMs: 0, turns: 0, ticks: 0 };
  let last = performance.now();
  let waited = waitedMs();
  const beat = () => {
    const now = performance.now();
    const gap = now - last;
    found.turns++;
    found.longestMs = Math.max(found.longestMs, gap);
    if (gap > found.ownMs) {
      found.ownMs = Math.max(found.ownMs, gap - (waitedMs() - waited));
    }
    last = now;
  };
  port1.onmessage = () => {
    beat();
    port1.postMessage(0);
  };
  port2.onmessage = () => port2.postMessage(0);
  const timer = setInterval(() => {
    beat();
    found.ticks++;
    waited = waitedMs();
    last = performance.now();
  }, 1);
  port1.postMessage(0);
  try {
    await body();
  } finally {
    clearInterval(timer);
    port1.close();
    port2.close();
  }
  beat();
  return found;
}

function tell(name: string, { longestMs, ownMs, turns, ticks }: Pulse): void {
  console.log(
    `${name}: longest stall ${longestMs.toFixed(1)} ms, ${
      ownMs.toFixed(1)
    } without the waiting for a processor, ${turns} turns, ${ticks} ticks`,
  );
}

/** Reads one block from each of so many places that do not adjoin. */
function readApart(disk: VirtualDisk, count: number): Promise<unknown> {
  return Promise.all(
    Array.from({ length: count }, (_, i) => disk.read(i * 64, 8)),
  );
}

for (const engine of ASYNC_ENGINES) {
  const ignore = !hasEngine(engine);

  // FUSE takes twelve requests in the background (fs/fuse/inode.c,
  // FUSE_DEFAULT_MAX_BACKGROUND) and makes the submitter of another one wait:
  // io_submit blocks there, which is the trap of Linux AIO.
  for (const depth of engine === "io_uring" ? [1, 8, 32] : [1, 8]) {
    Deno.test({
      name: `${engine} lets the loop turn while ${depth} slow reads run`,
      ignore: ignore || needs(...SERVED_TOOLS).ignore,
      async fn() {
        await using file = await slowFile(new Random(1).bytes(MIB), SLOW_MS);
        await using disk = await VirtualDisk.open(file.path, {
          backend: "direct",
          engine,
        });
        // What is done once, first.
        await readApart(disk, 1);
        let before = 0;
        const found = await pulse(async () => {
          before = disk.counters.systemCalls;
          await readApart(disk, depth);
          await readApart(disk, depth);
        }, 20);
        tell(`${engine}, ${depth} slow reads`, found);
        assertLess(found.ownMs, STALL_MS);
        assertGreater(found.ticks, 20);
        // Waiting is done on another thread after a while: 64 short waits, and
        // then one in 50 ms, not thousands a second.
        if (depth === 1) {
          assertLess(disk.counters.systemCalls - before, 600);
        }
      },
    });
  }

  Deno.test({
    name: `${engine} lets the loop turn while slow writes and flushes run`,
    ignore: ignore || needs(...SERVED_TOOLS).ignore,
    async fn() {
      await using file = await slowFile(new Uint8Array(MIB), SLOW_MS);
      await using disk = await VirtualDisk.open(file.path, {
        backend: "direct",
        engine,
      });
      await readApart(disk, 1);
      const found = await pulse(async () => {
        await Promise.all(
          Array.from(
            { length: 6 },
            (_, i) => disk.write(i * 64, disk.allocate(8).fill(i + 1)),
          ),
        );
        await disk.flush();
      }, 10);
      tell(`${engine}, slow writes`, found);
      assertLess(found.ownMs, STALL_MS);
      assertGreater(found.ticks, 10);
      assertEquals((await disk.read(5 * 64, 1))[0], 6);
    },
  });

  Deno.test({
    name: `${engine} lets the loop turn with slow disks beside a fast one`,
    ignore: ignore || needs(...SERVED_TOOLS).ignore,
    async fn() {
      await using dir = await tempDir();
      const path = await dir.file("disk.img", new Random(1).bytes(8 * MIB));
      await using file = await slowFile(new Random(1).bytes(MIB), SLOW_MS);
      const options = { backend: "direct", engine } as const;
      await using fast = await VirtualDisk.open(path, options);
      await using slow = await VirtualDisk.open(file.path, options);
      await using slower = await VirtualDisk.open(file.path, {
        ...options,
        readOnly: true,
        lock: "none",
      });
      await Promise.all([readApart(slow, 1), readApart(slower, 1)]);
      const random = new Random(2);
      let reads = 0;
      let under = true;
      const beside = async () => {
        reads = 0;
        under = true;
        const all = Promise.all([readApart(slow, 6), readApart(slower, 4)])
          .finally(() => under = false);
        await Promise.all(Array.from({ length: 32 }, async () => {
          const buffer = fast.allocate(8);
          while (under) {
            await fast.readInto(random.below(2048) * 8, buffer);
            reads++;
          }
        }));
        await all;
      };
      for (let attempt = 1;; attempt++) {
        const found = await pulse(beside);
        tell(`${engine}, slow disks beside ${reads} fast reads`, found);
        assertLess(found.ownMs, STALL_MS);
        // The fast one does not wait for the slow ones: two rounds of 32 would be
        // all. On a busy machine it may be slow itself, by chance.
        if (reads > 500) break;
        assertLess(attempt, ATTEMPTS, `${reads} reads`);
      }
    },
  });

  for (const depth of [1, 32, 128]) {
    Deno.test({
      name: `${engine} lets the loop turn at depth ${depth}`,
      ignore,
      async fn() {
        await using dir = await tempDir();
        const path = await dir.file("disk.img", new Random(1).bytes(8 * MIB));
        await using disk = await VirtualDisk.open(path, {
          backend: "direct",
          engine,
          queueSize: 128,
        });
        const random = new Random(depth);
        let reads = 0;
        const found = await pulse(async () => {
          // On a busy machine until it has had a processor for long enough.
          const end = performance.now() + 700;
          const cpuEnd = cpuMs() + 150;
          const goesOn = () => performance.now() < end || cpuMs() < cpuEnd;
          const buffers = Array.from(
            { length: depth },
            () => disk.allocate(8),
          );
          await Promise.all(buffers.map(async (buffer) => {
            while (goesOn()) {
              await disk.readInto(random.below(2048) * 8, buffer);
              reads++;
            }
          }));
        }, 20);
        tell(`${engine}, depth ${depth}, ${reads} reads`, found);
        assertLess(found.ownMs, STALL_MS);
        assertGreater(found.ticks, 20);
      },
    });
  }

  Deno.test({
    name: `${engine} costs nothing while nothing is asked of it`,
    ignore,
    async fn() {
      await using dir = await tempDir();
      const path = await dir.file("disk.img", new Random(1).bytes(MIB));
      const used = await program<{ cpuMs: number; calls: number }>(
        `
        const { cpuUsage } = await import("node:process");
        const disk = await openWith(path, ${JSON.stringify(engine)}, 32);
        await using _ = { [Symbol.asyncDispose]: () => disk.close() };
        const { readRequest } = await import(${
          JSON.stringify(import.meta.resolve("../../src/request.ts"))
        });
        for (let i = 0; i < 200; i++) {
          await new Promise((resolve) => disk.submit([
            readRequest(i * 8, disk.allocate(4096)),
          ], resolve));
        }
        await pause(200);
        const calls = disk.counters.systemCalls;
        const before = cpuUsage();
        await pause(1000);
        const { user, system } = cpuUsage(before);
        return {
          cpuMs: (user + system) / 1000,
          calls: disk.counters.systemCalls - calls,
        };
        `,
        { args: [path] },
      );
      console.log(`${engine}, idle: ${used.cpuMs.toFixed(1)} ms of CPU in 1 s`);
      assertEquals(used.calls, 0);
      assertLess(used.cpuMs, 300);
    },
  });
}

for (const engine of [...ASYNC_ENGINES, "sync"] as const) {
  Deno.test({
    name: `${engine} does not keep a program that has nothing more to do`,
    ignore: !hasEngine(engine),
    async fn() {
      await using dir = await tempDir();
      const path = await dir.file("disk.img", new Random(1).bytes(MIB));
      const byte = await program(
        `
        const disk = await VirtualDisk.open(path, {
          backend: "direct", engine: ${JSON.stringify(engine)},
        });
        return (await disk.read(0, 1))[0];
        `,
        { args: [path] },
      );
      assert(byte);
    },
  });
}

Deno.test({
  name: "VirtualDisk.open() takes a stall that makes sense only",
  ignore: !hasEngine("io_uring"),
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", MIB);
    for (const stallMs of [0, -1, NaN, 1001]) {
      let error: unknown;
      try {
        await VirtualDisk.open(path, { backend: "direct", stallMs });
      } catch (thrown) {
        error = thrown;
      }
      assert(error instanceof RangeError && !(error instanceof DiskError));
    }
    for (const stallMs of [0.001, 20]) {
      await using disk = await VirtualDisk.open(path, {
        backend: "direct",
        engine: "io_uring",
        stallMs,
      });
      await Promise.all([disk.read(0, 8), disk.read(64, 8)]);
      await pause(1);
    }
  },
});
