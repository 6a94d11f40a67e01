/**
 * The least that an asynchronous read of memory can cost: a promise, a
 * microtask that settles it, and the copy.
 *
 * @module
 */

import { placesOf, runLoop } from "../loop.mjs";
import type { Work } from "../work.ts";

const work: Work = JSON.parse(Deno.args[0]!);
const { blockBytes, depth } = work;

const content = new Uint8Array(work.bytes);
const buffers = Array.from({ length: depth }, () => new Uint8Array(blockBytes));
const next = placesOf(work);

const measured = await runLoop(
  { ...work, timed: false },
  (slot) =>
    new Promise<void>((resolve) => {
      queueMicrotask(() => {
        const from = next() * blockBytes;
        buffers[slot]!.set(content.subarray(from, from + blockBytes));
        resolve();
      });
    }),
);
console.log(JSON.stringify(measured));
