/**
 * Layers under the differential fuzzer: through a disk and its queue, with
 * everything at once, they must be no different from plain memory.
 *
 * @module
 */

import type { Backend } from "../../src/backend.ts";
import { VirtualDisk } from "../../src/disk.ts";
import { faults } from "../../src/layers/faults.ts";
import { latency } from "../../src/layers/latency.ts";
import { overlay } from "../../src/layers/overlay.ts";
import { readahead } from "../../src/layers/readahead.ts";
import { trace } from "../../src/layers/trace.ts";
import { verify } from "../../src/layers/verify.ts";
import { fuzz } from "../fuzz.ts";
import { memory } from "./stacks.ts";

/** A disk in memory that answers late and in any order. */
function jittery(seed: number): Backend {
  const spikes = [1, 2, 3].map((ms) => ({
    ratio: { numerator: 1, denominator: 12 },
    ms: ms / 20,
  }));
  return latency(memory(), { seed, spikes });
}

const small = { pieceBytes: 8192, windowBytes: 32_768, memoryBytes: 65_536 };

const LAYERS: Record<string, (backend: Backend) => Backend> = {
  overlay: (backend) => overlay(backend, { ownsBase: true }),
  "overlay over overlay": (backend) =>
    overlay(overlay(backend, { ownsBase: true }).fork(), { ownsBase: true }),
  "faults with a cache": (backend) => faults(backend, ["flush=kept off"]),
  "faults with a small cache": (backend) =>
    faults(backend, ["flush=kept off"], { cacheBytes: 65_536 }),
  readahead: (backend) => readahead(backend, small),
  verify: (backend) => verify(backend, memory()),
  "all of them": (backend) =>
    readahead(
      overlay(
        trace(
          faults(verify(backend, memory()), ["flush=late off"]),
          () => {},
          { data: true },
        ),
        { ownsBase: true },
      ),
      small,
    ),
};

for (const [name, layer] of Object.entries(LAYERS)) {
  for (const late of [false, true]) {
    const over = late ? "a slow disk" : "memory";
    Deno.test(`a disk with ${name} over ${over} is no different from memory`, async () => {
      const disk = VirtualDisk.over(layer(late ? jittery(1) : memory()));
      await fuzz({
        disk,
        start: 0,
        [Symbol.asyncDispose]: () => disk.close(),
      }, { seed: late ? 31 : 5, requests: late ? 1500 : 6000, phase: 500 });
      await disk.close();
    });
  }
}
