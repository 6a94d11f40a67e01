/**
 * Layers under the differential fuzzer: through a disk and its queue, with
 * everything at once, they must be no different from plain memory.
 *
 * @module
 */

import { VirtualDisk } from "../../src/disk/disk.ts";
import { fuzz } from "../fuzz.ts";
import { jittery, LAYERS, memory } from "./stacks.ts";

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
