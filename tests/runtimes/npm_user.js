/**
 * A program that uses the package as npm installed it, with nothing in between:
 * plain JavaScript, without flags, hooks and types. It prints what `child.ts`
 * prints.
 *
 * @module
 */

import { VirtualDisk } from "@jsr/platter__disk";
import { main } from "@jsr/platter__disk/cli";
import * as doctor from "@jsr/platter__disk/doctor";
import * as files from "@jsr/platter__disk/files";
import { readPartitions } from "@jsr/platter__disk/image";
import * as mount from "@jsr/platter__disk/mount";
import { NbdServer } from "@jsr/platter__disk/nbd";
import * as testing from "@jsr/platter__disk/testing";
import * as vhost from "@jsr/platter__disk/vhost";
import assert from "node:assert/strict";
import { once } from "node:events";
import { readdirSync, rmSync } from "node:fs";
import process from "node:process";
import {
  isMainThread,
  parentPort,
  Worker,
  workerData,
} from "node:worker_threads";

if (!isMainThread) {
  const disk = await VirtualDisk.open(workerData);
  await disk.write(0, new Uint8Array(512));
  parentPort.postMessage("open");
  // Until it is terminated.
  await once(parentPort, "message");
}

const tests = {
  "every entry has something in it": () => {
    for (const entry of [doctor, files, mount, testing, vhost]) {
      assert.notEqual(Object.keys(entry).length, 0);
    }
  },
  "a disk in a file keeps what is written, over NBD too": async () => {
    const path = `npm-user-${process.pid}.img`;
    try {
      await using disk = await VirtualDisk.create(path, { size: "1MiB" });
      assert.equal(disk.info.backend, "direct");
      await disk.write(8, new Uint8Array(4096).fill(7));
      await disk.flush();
      await using server = NbdServer.listen({ port: 0, exports: [{ disk }] });
      await using remote = await VirtualDisk.open(server.uri());
      assert.deepEqual(await remote.read(15, 1), new Uint8Array(512).fill(7));
      assert.equal((await readPartitions(remote)).kind, "none");
    } finally {
      rmSync(path, { force: true });
    }
  },
  "what a Worker had open is given back when it is terminated, but on Bun": async () => {
    const path = `npm-worker-${process.pid}.img`;
    try {
      await (await VirtualDisk.create(path, { size: "1MiB" })).close();
      const open = [];
      for (let round = 0; round < 3; round++) {
        const worker = new Worker(new URL(import.meta.url), {
          workerData: path,
        });
        await once(worker, "message");
        await worker.terminate();
        if (process.versions.bun !== undefined) {
          await assert.rejects(
            () => VirtualDisk.open(path),
            /as another thread of this process, bun \(process \d+\), holds it/,
          );
          return;
        }
        await using _disk = await VirtualDisk.open(path);
        open.push(readdirSync("/proc/self/fd").length);
      }
      assert.equal(open[2], open[1]);
    } finally {
      rmSync(path, { force: true });
    }
  },
  "the command line runs": async () => {
    let said = "";
    const output = {
      isTerminal: false,
      columns: 80,
      write: (bytes) => {
        said += new TextDecoder().decode(bytes);
        return Promise.resolve();
      },
    };
    const io = {
      stdout: output,
      stderr: output,
      debug: false,
      stdin: () => new ReadableStream(),
      now: () => 0,
      onInterrupt: () => () => {},
    };
    assert.equal(await main(["--version"], io), 0);
    assert.match(said, /^platter \d/);
  },
};

for (const [name, fn] of Object.entries(tests)) {
  let outcome = "ok";
  let why = "";
  try {
    await fn();
  } catch (error) {
    outcome = "failed";
    why = String(error.stack);
  }
  console.log(
    JSON.stringify({ file: "tests/runtimes/npm_user.js", name, outcome, why }),
  );
}
