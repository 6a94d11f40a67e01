/**
 * Requests that are withdrawn while the kernel has them: their promise is kept
 * until the kernel is done, and from then on nobody touches their memory.
 *
 * @module
 */

import { assert, assertEquals, assertStrictEquals } from "@std/assert";
import { VirtualDisk } from "../../../src/disk/disk.ts";
import { Random } from "../../../src/random.ts";
import { needs, tempDir } from "../../helpers.ts";
import {
  ASYNC_ENGINES,
  ENGINES,
  hasEngine,
  heldFile,
  pause,
  SERVED_TOOLS,
} from "./harness.ts";

const MIB = 1_048_576;

/** Until requests are the kernel's. */
const TAKEN_MS = 30;

/** In which the kernel would write, if it still were to. */
const LATE_MS = 150;

/** What a promise came to: nothing, or the reason of its rejection. */
function reasonOf(promise: Promise<unknown>): Promise<unknown> {
  return promise.then(() => undefined, (reason) => reason);
}

for (const engine of ASYNC_ENGINES) {
  const ignore = !hasEngine(engine) || needs(...SERVED_TOOLS).ignore;

  for (const aligned of [true, false]) {
    Deno.test({
      name: `${engine} leaves the memory of reads that were withdrawn alone, ${
        aligned ? "lent" : "copied"
      }`,
      ignore,
      async fn() {
        const content = new Random(1).bytes(MIB);
        await using file = await heldFile(content);
        await using disk = await VirtualDisk.open(file.path, {
          backend: "direct",
          engine,
        });
        const memory = Array.from(
          { length: 8 },
          () => aligned ? disk.allocate(8) : new Uint8Array(4097).subarray(1),
        );
        await file.hold();
        const abort = new AbortController();
        const reasons = memory.map((bytes, i) =>
          reasonOf(disk.readInto(i * 64, bytes, { signal: abort.signal }))
            .then((reason) => {
              // From here on it is ours.
              bytes.fill(0xee);
              return reason;
            })
        );
        const other = disk.allocate(8);
        const kept = disk.readInto(1024, other);
        await pause(TAKEN_MS);
        const why = new Error("Not wanted any more");
        abort.abort(why);
        await file.letGo();
        for (const reason of await Promise.all(reasons)) {
          assertStrictEquals(reason, why);
        }
        await kept;
        await pause(LATE_MS);
        for (const bytes of memory) {
          assertEquals(bytes, new Uint8Array(4096).fill(0xee));
        }
        assertEquals(other, content.slice(1024 * 512, 1024 * 512 + 4096));
        // What was withdrawn left no trace.
        const back = await disk.read(0, 8);
        assertEquals(back, content.slice(0, 4096));
        assertEquals(disk.counters.errors, 8);
      },
    });
  }

  Deno.test({
    name: `${engine} writes all or nothing of writes that were withdrawn`,
    ignore,
    async fn() {
      await using file = await heldFile(new Uint8Array(MIB).fill(7));
      const states: number[] = [];
      {
        await using disk = await VirtualDisk.open(file.path, {
          backend: "direct",
          engine,
        });
        await file.hold();
        const abort = new AbortController();
        const reasons = Array.from({ length: 8 }, (_, i) => {
          const bytes = disk.allocate(8).fill(9);
          return reasonOf(
            disk.write(i * 64, bytes, { signal: abort.signal }),
          ).then((reason) => {
            // Must not get to the disk: the write is over.
            bytes.fill(0xee);
            return reason;
          });
        });
        await pause(TAKEN_MS);
        abort.abort();
        await file.letGo();
        for (const reason of await Promise.all(reasons)) {
          assert(reason instanceof DOMException);
          assertEquals(reason.name, "AbortError");
        }
        assertEquals(disk.failure, null);
        await pause(LATE_MS);
        for (let i = 0; i < 8; i++) {
          const bytes = await disk.read(i * 64, 8);
          assert(bytes.every((byte) => byte === bytes[0]));
          states.push(bytes[0]!);
        }
        await disk.flush();
      }
      assert(states.every((byte) => byte === 7 || byte === 9), `${states}`);
      const content = await Deno.readFile(file.behind);
      assertEquals(states, states.map((_, i) => content[i * 64 * 512]!));
    },
  });

  Deno.test({
    name: `${engine} withdraws requests that wait for a place`,
    ignore,
    async fn() {
      const content = new Random(2).bytes(MIB);
      await using file = await heldFile(content);
      await using disk = await VirtualDisk.open(file.path, {
        backend: "direct",
        engine,
        queueSize: 2,
      });
      await file.hold();
      const abort = new AbortController();
      const first = Promise.all([disk.read(0, 8), disk.read(64, 8)]);
      const bytes = disk.allocate(8).fill(0xee);
      const all = Array.from(
        { length: 20 },
        (_, i) =>
          reasonOf(disk.readInto(i * 64, bytes, { signal: abort.signal })),
      );
      await pause(10);
      abort.abort("Enough");
      await file.letGo();
      assertEquals(await Promise.all(all), all.map(() => "Enough"));
      const [one, two] = await first;
      assertEquals(one, content.slice(0, 4096));
      assertEquals(two, content.slice(32_768, 36_864));
      assertEquals(bytes, new Uint8Array(4096).fill(0xee));
    },
  });
}

for (const engine of ENGINES) {
  const ignore = !hasEngine(engine);

  Deno.test({
    name: `${engine} goes on after flushes and durable writes were withdrawn`,
    ignore,
    async fn() {
      await using dir = await tempDir();
      const path = await dir.file("disk.img", 4 * MIB);
      await using disk = await VirtualDisk.open(path, {
        backend: "direct",
        engine,
      });
      for (let round = 0; round < 40; round++) {
        const abort = new AbortController();
        const { signal } = abort;
        const all: Promise<unknown>[] = [];
        for (let i = 0; i < 8; i++) {
          const at = (round * 64 + i * 8) % 8192;
          all.push(
            disk.write(at, disk.allocate(4).fill(1), { signal, fua: true }),
            disk.write(at + 4, disk.allocate(4).fill(2)),
            disk.flush({ signal }),
            disk.writeZeroes(at, 1, { signal, fua: true }),
          );
        }
        const settled = Promise.allSettled(all);
        // At once, in the next microtask, in the next turn of the loop, later.
        if (round % 4 === 1) await Promise.resolve();
        if (round % 4 === 2) await pause(0);
        if (round % 4 === 3) await pause(1);
        abort.abort();
        for (const result of await settled) {
          if (result.status === "fulfilled") continue;
          assertEquals(result.reason?.name, "AbortError", `${result.reason}`);
        }
        // An abort is no failure of the medium.
        assertEquals(disk.failure, null, `round ${round}`);
      }
      await disk.write(0, new Uint8Array(512));
      await disk.flush();
    },
  });

  Deno.test({
    name: `${engine} keeps every byte right while requests are withdrawn`,
    ignore,
    async fn() {
      await using dir = await tempDir();
      const model = new Random(3).bytes(2 * MIB);
      const path = await dir.file("disk.img", model);
      await using disk = await VirtualDisk.open(path, {
        backend: "direct",
        engine,
        queueSize: 16,
      });
      const random = new Random(4);
      for (let round = 0; round < 60; round++) {
        const abort = new AbortController();
        const all = Array.from({ length: 60 }, async () => {
          const withdrawn = random.chance(1, 2);
          const length = random.between(1, 16);
          const sector = random.below(4096 - length);
          const bytes = random.chance(1, 2)
            ? disk.allocate(length)
            : new Uint8Array(length * 512);
          try {
            await disk.readInto(
              sector,
              bytes,
              withdrawn ? { signal: abort.signal } : {},
            );
          } catch (reason) {
            assert(withdrawn);
            assertEquals(reason, "Enough");
            bytes.fill(0xee);
            await pause(1);
            assert(bytes.every((byte) => byte === 0xee));
            return;
          }
          assertEquals(
            bytes,
            model.slice(sector * 512, (sector + length) * 512),
          );
        });
        if (random.chance(1, 2)) await pause(0);
        else await Promise.resolve();
        abort.abort("Enough");
        await Promise.all(all);
      }
      assertEquals(disk.failure, null);
    },
  });
}
