/**
 * Synchronous disks in Workers, where programs have them that are not to hold up
 * others.
 *
 * @module
 */

import { assert, assertEquals, assertRejects } from "@std/assert";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { SyncDisk } from "../../src/disk/sync_disk.ts";
import { DiskError } from "../../src/errors.ts";
import { LONG, pause, tempDir } from "../helpers.ts";
import type { SyncTask } from "./sync_worker.ts";

const linux = Deno.build.os === "linux";

/** Attempts to open an image of a Worker that ends, 20 ms apart: a minute. */
const ATTEMPTS = 3000;

/** Starts a Worker; it answers once. */
function start(task: SyncTask): {
  worker: Worker;
  answer: Promise<Uint8Array | string>;
} {
  const worker = new Worker(new URL("./sync_worker.ts", import.meta.url), {
    type: "module",
  });
  const answer = new Promise<Uint8Array | string>((resolve, reject) => {
    worker.onmessage = ({ data }) => resolve(data);
    worker.onerror = (event) => {
      event.preventDefault();
      reject(new Error(event.message));
    };
  });
  worker.postMessage(task);
  return { worker, answer };
}

for (const backend of ["direct", "portable"] as const) {
  const ignore = backend === "direct" && !linux;

  Deno.test({
    name:
      `SyncDisk over ${backend} in several Workers has one image with others`,
    ignore: ignore || backend === "portable" && linux && !LONG,
    async fn() {
      await using dir = await tempDir();
      const path = await dir.file("disk.img", 1 << 20);
      // This thread has the lock for all of them.
      await using disk = await VirtualDisk.open(path, { backend });
      const options = { backend, lock: "none" } as const;
      const workers = [0, 1].map((index) =>
        start({
          ...{ path, options, first: index * 512, count: 512 },
          ...{ writes: 200, seed: index },
        })
      );
      try {
        const models = await Promise.all(workers.map(({ answer }) => answer));
        for (const [index, model] of models.entries()) {
          assertEquals(await disk.read(index * 512, 512), model);
        }
        assert((await disk.read(1024, 1024)).every((byte) => byte === 0));
      } finally {
        for (const { worker } of workers) worker.terminate();
      }
    },
  });

  Deno.test({
    name:
      `SyncDisk over ${backend} lets go of its image when its Worker is terminated`,
    ignore,
    async fn() {
      await using dir = await tempDir();
      const path = await dir.file("disk.img", 1 << 20);
      const { worker, answer } = start({
        ...{ path, options: { backend }, first: 8, count: 16 },
        ...{ writes: null, seed: 0 },
      });
      try {
        assertEquals(await answer, "it writes on and on");
        const refused = await assertRejects(
          () => SyncDisk.open(path, { backend }),
          DiskError,
        );
        assertEquals(refused.kind, "locked");
      } finally {
        worker.terminate();
      }
      // Deno ends it when its event loop turns.
      let disk: SyncDisk | null = null;
      for (let left = ATTEMPTS; disk === null; left--) {
        try {
          disk = await SyncDisk.open(path, { backend });
        } catch (error) {
          if (left === 0) throw error;
          await pause(20);
        }
      }
      // No sector is half of one write and half of another.
      for (let sector = 8; sector < 24; sector++) {
        const [byte, ...others] = disk.read(sector, 1);
        assert(byte! >= 1 && others.every((other) => other === byte));
      }
      assertEquals(disk.read(7, 1), new Uint8Array(512));
      await disk.close();
    },
  });
}
