/**
 * The peer that everybody could write: `node:fs` with promises around its
 * callbacks, in page-aligned memory. The same file runs in Deno and in Node:
 *
 * ```sh
 * node bench/peers/node_fs.mjs '{"path": "disk.img", ...}'
 * ```
 *
 * @module
 */

import fs from "node:fs";
import process from "node:process";
import { placesOf, runLoop } from "../loop.mjs";

const work = JSON.parse(process.argv[2]);
const { blockBytes, depth, descriptors } = work;

const access = work.operation === "read"
  ? fs.constants.O_RDONLY
  : fs.constants.O_RDWR;
const flags = access | (work.direct ? fs.constants.O_DIRECT : 0);
const files = Array.from(
  { length: descriptors },
  () => fs.openSync(work.path, flags),
);

// The memory of WebAssembly begins on a page, which O_DIRECT wants.
const memory = new WebAssembly.Memory({
  initial: Math.ceil(depth * blockBytes / 65_536),
});
const buffers = Array.from(
  { length: depth },
  (_, slot) => new Uint8Array(memory.buffer, slot * blockBytes, blockBytes),
);

const next = placesOf(work);
const move = work.operation === "read" ? fs.read : fs.write;

const measured = await runLoop(
  work,
  (slot) =>
    new Promise((resolve, reject) => {
      move(
        files[slot % descriptors],
        buffers[slot],
        0,
        blockBytes,
        next() * blockBytes,
        (error, count) => {
          if (error) reject(error);
          else if (count < blockBytes) reject(new Error("Short transfer"));
          else resolve();
        },
      );
    }),
);
for (const file of files) fs.closeSync(file);
console.log(JSON.stringify(measured));
