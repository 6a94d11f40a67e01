/**
 * One rule of ownership for every layer: it closes what it was given, all of
 * it, once, unless it is told not to.
 *
 * @module
 */

import { assertEquals, assertMatch, assertThrows } from "@std/assert";
import type { Backend } from "../../src/backend.ts";
import { MemoryBackend } from "../../src/backends/memory.ts";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { SyncDisk } from "../../src/disk/sync_disk.ts";
import {
  faults,
  latency,
  type LayerOptions,
  overlay,
  readahead,
  trace,
  verify,
} from "../../src/layers/mod.ts";

/** A disk that counts how often it is closed, and told that it will be. */
class Counted extends MemoryBackend {
  closes = 0;
  told = 0;

  constructor() {
    super({ sectors: 64 });
  }

  closing(): void {
    this.told++;
  }

  override close(): Promise<void> {
    this.closes++;
    return super.close();
  }
}

const FACTORIES: Record<
  string,
  (bases: [Backend, Backend], options?: LayerOptions) => Backend
> = {
  faults: ([base], options) => faults(base, [], options),
  latency: ([base], options) => latency(base, options),
  overlay: ([base], options) => overlay(base, options),
  readahead: ([base], options) => readahead(base, options),
  trace: ([base], options) => trace(base, () => {}, options),
  verify: ([a, b], options) => verify(a, b, options),
};

/** What is no backend, though some of it has a part of one. */
const NO_BACKENDS: unknown[] = [
  undefined,
  null,
  {},
  "disk.img",
  VirtualDisk.memory({ sectors: 8 }),
  SyncDisk.memory({ sectors: 8 }),
];

Deno.test("A disk is made over a backend only, and says so", () => {
  for (const value of NO_BACKENDS as Backend[]) {
    for (const over of [VirtualDisk.over, SyncDisk.over]) {
      assertThrows(() => over(value), TypeError, "must be a Backend");
    }
  }
});

for (const [name, make] of Object.entries(FACTORIES)) {
  Deno.test(`${name}() lies over a backend only, and says so`, () => {
    for (const value of NO_BACKENDS as Backend[]) {
      const bases: [Backend, Backend][] = [[value, value]];
      if (name === "verify") bases.push([new Counted(), value]);
      for (const given of bases) {
        const error = assertThrows(() => make(given), TypeError);
        assertMatch(error.message, /must be a Backend: current value is /);
      }
    }
  });

  Deno.test(`${name}() closes what it was given, unless told not to`, async () => {
    const given = name === "verify" ? 2 : 1;
    for (
      const [options, closes] of [
        [undefined, 1],
        [{}, 1],
        [{ ownsBase: true }, 1],
        [{ ownsBase: false }, 0],
      ] as const
    ) {
      const bases: [Counted, Counted] = [new Counted(), new Counted()];
      const disk = VirtualDisk.over(make(bases, options));
      await disk.write(0, new Uint8Array(512));
      await disk.close();
      await disk.close();
      for (const base of bases.slice(0, given)) {
        assertEquals(base.closes, closes);
        // Whoever shares it goes on, and is to have all the time that it had.
        assertEquals(base.told > 0, closes > 0);
        // What it does not own it leaves as it found it.
        if (closes === 0) {
          const again = VirtualDisk.over(base);
          await again.write(0, new Uint8Array(512));
          await again.close();
        }
      }
    }
  });
}
