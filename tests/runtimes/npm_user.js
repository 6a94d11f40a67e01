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
import { spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, readdirSync, rmSync } from "node:fs";
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
  "what --permission of Node.js does not grant is refused in words": async () => {
    if (process.versions.bun !== undefined) return;
    const path = `npm-permission-${process.pid}.img`;
    try {
      await (await VirtualDisk.create(path, { size: "1MiB" })).close();
      const script = `
        import { VirtualDisk } from "@jsr/platter__disk";
        import { diagnose } from "@jsr/platter__disk/doctor";
        const [path] = process.argv.slice(1);
        const kindOf = async (opening) => {
          try {
            await using disk = await opening;
            return disk.info.backend;
          } catch (error) {
            return error.kind ?? String(error);
          }
        };
        console.log(JSON.stringify([
          await kindOf(VirtualDisk.open(path)),
          await kindOf(VirtualDisk.create(path + ".new", { size: "1MiB" })),
          await kindOf(VirtualDisk.open(path, { backend: "direct" })),
          await kindOf(VirtualDisk.open(path, { readOnly: true })),
          (await diagnose()).permissions.ffi,
        ]));
      `;
      const { stdout, stderr } = spawnSync(
        process.execPath,
        [
          ...["--no-warnings", "--permission"],
          ...["--allow-fs-read=*", "--allow-fs-write=*"],
          ...["--input-type=module", "--eval", script, path],
        ],
        { encoding: "utf8" },
      );
      assert.equal(stderr, "");
      assert.deepEqual(JSON.parse(stdout), [
        ...["permission", "permission", "permission", "portable", "denied"],
      ]);
      assert(!existsSync(`${path}.new`));
    } finally {
      rmSync(path, { force: true });
      rmSync(`${path}.new`, { force: true });
    }
  },
  "koffi that is there and cannot be used is no koffi that is missing, before Node.js 26": async () => {
    const isBun = process.versions.bun !== undefined;
    if (isBun || process.getBuiltinModule("node:ffi") !== undefined) return;
    const path = `npm-koffi-${process.pid}.img`;
    try {
      await (await VirtualDisk.create(path, { size: "1MiB" })).close();
      const script = `
        import Module from "node:module";
        const [how, path] = process.argv.slice(1);
        const fail = (message, code) => {
          throw Object.assign(new Error(message), { code });
        };
        const { _load, _resolveFilename } = Module;
        Module._resolveFilename = (name, ...rest) =>
          name === "koffi" && how === "missing"
            ? fail("Cannot find module 'koffi'", "MODULE_NOT_FOUND")
            : _resolveFilename(name, ...rest);
        Module._load = (name, ...rest) =>
          !name.includes("koffi")
            ? _load(name, ...rest)
            : how === "old"
            ? { version: "2.16.3" }
            : fail("no native module", how);
        const { VirtualDisk } = await import("@jsr/platter__disk");
        const answer = async (options) => {
          try {
            await using disk = await VirtualDisk.open(path, options);
            const { backend, lock } = disk.info;
            return backend + ", " + lock.method;
          } catch (error) {
            return error.kind + ": " + error.message;
          }
        };
        console.log(JSON.stringify([
          await answer({}),
          await answer({ backend: "direct" }),
          await answer({ backend: "portable" }),
          await answer({ backend: "portable", lock: "none" }),
        ]));
      `;
      const unusable = (why) => [why, why, why, /^portable, none$/];
      const portable = /^portable, none$/;
      for (
        const [how, answers] of Object.entries({
          old: unusable(/^platform: .* koffi must be 3 or later: .* 2\.16\.3/),
          EIO: unusable(/^platform: .* cannot be loaded: no native module/),
          MODULE_NOT_FOUND: unusable(/^platform: .* no native module/),
          missing: [portable, /^platform: .* install .* koffi/, portable, portable],
        })
      ) {
        const { stdout, stderr } = spawnSync(
          process.execPath,
          ["--input-type=module", "--eval", script, how, path],
          { encoding: "utf8" },
        );
        assert.equal(stderr, "");
        for (const [at, answer] of JSON.parse(stdout).entries()) {
          assert.match(answer, answers[at]);
        }
      }
    } finally {
      rmSync(path, { force: true });
    }
  },
  "doctor calls no tool good that only Deno could use": async () => {
    const { tools } = await doctor.diagnose();
    const remedyOf = (name) => tools.find((tool) => tool.name === name).remedy;
    assert.match(remedyOf("nbdfuse"), /^Deno: /);
    assert.doesNotMatch(remedyOf("qemu-nbd") ?? "", /Deno/);
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
