/**
 * A Worker that has a synchronous disk of its own, for `sync_worker_test.ts`.
 *
 * @module
 */

import type { OpenOptions } from "../../src/disk/open.ts";
import { SyncDisk } from "../../src/disk/sync_disk.ts";
import { Random } from "../../src/random.ts";
import { pause } from "../helpers.ts";

/** What a Worker does with an image. */
export interface SyncTask {
  readonly path: string;
  readonly options: OpenOptions;
  /** Its part of the image, in sectors. */
  readonly first: number;
  readonly count: number;
  /**
   * Writes that it makes at random, read back each; then it tells what its part
   * must be. Without a number it writes on and on, some times in each turn of its
   * event loop.
   */
  readonly writes: number | null;
  readonly seed: number;
}

async function work(task: SyncTask): Promise<Uint8Array> {
  const { path, options, first, count, writes, seed } = task;
  await using disk = await SyncDisk.open(path, options);
  if (writes === null) {
    for (let fill = 1;; fill = fill % 255 + 1) {
      disk.write(first, new Uint8Array(count * 512).fill(fill));
      if (fill === 1) tell("it writes on and on");
      if (fill % 5 === 0) await pause(5);
    }
  }
  const random = new Random(seed);
  const model = new Uint8Array(count * 512);
  for (let i = 0; i < writes; i++) {
    const length = 1 + random.below(8);
    const sector = random.below(count - length + 1);
    const data = random.bytes(length * 512);
    model.set(data, sector * 512);
    disk.write(first + sector, data);
    const back = disk.read(first + sector, length);
    if (back.some((byte, at) => byte !== data[at])) {
      throw new Error(`Sector ${first + sector} does not read as written`);
    }
    if (i % 50 === 0) disk.flush();
  }
  disk.flush();
  return model;
}

function tell(what: Uint8Array | string): void {
  (globalThis as unknown as Worker).postMessage(what);
}

addEventListener("message", async (event) => {
  tell(await work((event as MessageEvent<SyncTask>).data));
});
