/**
 * `Deno.FsFile`, which can neither take an offset nor pass by the cache: one
 * file, with a position of its own, for each request in flight.
 *
 * @module
 */

import { placesOf, runLoop } from "../loop.mjs";
import type { Work } from "../work.ts";

const work: Work = JSON.parse(Deno.args[0]!);
const { blockBytes, depth } = work;
const reads = work.operation === "read";

const files = await Promise.all(
  Array.from(
    { length: depth },
    () => Deno.open(work.path, { read: true, write: !reads }),
  ),
);
const buffers = files.map(() => new Uint8Array(blockBytes));
const next = placesOf(work);

const measured = await runLoop(work, async (slot) => {
  const file = files[slot]!;
  const buffer = buffers[slot]!;
  await file.seek(next() * blockBytes, Deno.SeekMode.Start);
  const count = reads ? await file.read(buffer) : await file.write(buffer);
  if (count !== blockBytes) throw new Error("Short transfer");
});
for (const file of files) file.close();
console.log(JSON.stringify(measured));
