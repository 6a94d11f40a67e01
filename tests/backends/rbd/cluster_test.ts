/**
 * The backend over a real cluster: the contract, random requests against the
 * model, and what else holds on a day on which nothing goes wrong. `deno task ceph`
 * runs it.
 *
 * @module
 */

import { assert, assertEquals, assertRejects } from "@std/assert";
import type { Backend } from "../../../src/backend.ts";
import { VirtualDisk } from "../../../src/disk/disk.ts";
import { openBackend, type OpenOptions } from "../../../src/disk/open.ts";
import { DiskError } from "../../../src/errors.ts";
import { SECTOR_BYTES } from "../../../src/geometry.ts";
import { exploreCrashes } from "../../../src/testing/explore_crashes.ts";
import { CrashFailure } from "../../../src/testing/crash_failure.ts";
import { contractSuite } from "../../contract.ts";
import { fuzz } from "../../fuzz.ts";
import { LONG, pause, run, tempDir, untilListening } from "../../helpers.ts";
import { CephCluster, needsCeph } from "./cluster.ts";

const { ignore } = needsCeph();
const cluster = ignore ? null : await CephCluster.start();
Deno.test.afterAll(async () => {
  await cluster?.[Symbol.asyncDispose]();
});

let images = 0;

/** Makes an image; returns its name. */
async function image(sizeMiB: number, ...more: string[]): Promise<string> {
  const name = `image${++images}`;
  await cluster!.rbd("create", "--size", String(sizeMiB), ...more, name);
  return name;
}

async function subject(options: OpenOptions = {}, ...more: string[]) {
  const name = await image(8, ...more);
  const open = (): Promise<Backend> =>
    openBackend(cluster!.uri(name), { ...options });
  return { backend: await open(), reopen: open };
}

for (const blockSize of [512, 4096]) {
  contractSuite(
    `RbdBackend, blocks of ${blockSize}`,
    () => subject({ blockSize }),
    {
      ignore,
      copiesAllocated: true,
      readOnly: () => subject({ blockSize, readOnly: true }),
    },
  );
}

contractSuite(
  "RbdBackend, objects of 64 KiB in stripes",
  () =>
    subject(
      {},
      "--object-size",
      "64K",
      "--stripe-unit",
      "16K",
      "--stripe-count",
      "4",
    ),
  { ignore: ignore || !LONG, copiesAllocated: true },
);

Deno.test({
  name: "fuzz() finds nothing: rbd",
  ignore,
  async fn() {
    const name = await image(8);
    const seed = crypto.getRandomValues(new Uint32Array(1))[0]!;
    const requests = LONG ? 100_000 : 10_000;
    console.log(`rbd: seed ${seed}, ${requests} requests`);
    const disk = await VirtualDisk.open(cluster!.uri(name));
    await using subject = {
      disk,
      start: 0,
      [Symbol.asyncDispose]: () => disk.close(),
    };
    await fuzz(subject, { seed, requests, phase: 1000 });
  },
});

Deno.test({
  name: "VirtualDisk.open() of an image is what rbd export reads",
  ignore,
  async fn() {
    await using dir = await tempDir();
    const name = await image(16);
    const expected = new Uint8Array(16 << 20);
    {
      await using disk = await VirtualDisk.open(cluster!.uri(name));
      const data = crypto.getRandomValues(new Uint8Array(65_536));
      for (const sector of [0, 8191, 20_000, disk.sectors - 128]) {
        await disk.write(sector, data);
        expected.set(data, sector * SECTOR_BYTES);
      }
    }
    const path = dir.join("exported");
    await cluster!.rbd("export", "--no-progress", name, path);
    assertEquals(await Deno.readFile(path), expected);
  },
});

Deno.test({
  name: "VirtualDisk.create() of an image makes it, and not twice",
  ignore,
  async fn() {
    const uri = cluster!.uri("made");
    {
      await using disk = await VirtualDisk.create(uri, { size: "5MiB" });
      assertEquals(disk.sectors, 10_240);
      assertEquals(await disk.id(), "made");
      await disk.write(0, new Uint8Array(512).fill(1));
    }
    const error = await assertRejects(
      () => VirtualDisk.create(uri, { size: "1MiB", overwrite: true }),
      DiskError,
    );
    assertEquals(error.kind, "exists");
    await using disk = await VirtualDisk.open(uri);
    assertEquals(disk.sectors, 10_240);
    assertEquals((await disk.read(0, 1))[0], 1);
  },
});

Deno.test({
  name: "VirtualDisk.open() of a snapshot reads what it was, and no writes",
  ignore,
  async fn() {
    const name = await image(4);
    const uri = cluster!.uri(name);
    await using disk = await VirtualDisk.open(uri);
    await disk.write(0, new Uint8Array(512).fill(1));
    await disk.flush();
    await cluster!.rbd("snap", "create", "--no-progress", `${name}@before`);
    await disk.write(0, new Uint8Array(512).fill(2));
    await disk.flush();
    await using before = await VirtualDisk.open(
      cluster!.uri(`${name}@before`),
    );
    assertEquals((await before.read(0, 1))[0], 1);
    assertEquals((await disk.read(0, 1))[0], 2);
    const error = await assertRejects(
      () => before.write(0, new Uint8Array(512)),
      DiskError,
    );
    assertEquals(error.kind, "read-only");
  },
});

Deno.test({
  name: "disk.extents() of an image knows objects that there are not",
  ignore,
  async fn() {
    const name = await image(16);
    const map = async (disk: VirtualDisk) =>
      (await disk.extents()).map(({ sector, count, hole }) =>
        `${hole ? "hole" : "data"} ${sector}+${count}`
      );
    const written = ["hole 0+8192", "data 8192+8192", "hole 16384+16384"];
    {
      await using disk = await VirtualDisk.open(cluster!.uri(name));
      assertEquals(await map(disk), ["hole 0+32768"]);
      await disk.write(8192 + 5, new Uint8Array(512).fill(1));
      assertEquals(await map(disk), written);
    }
    await cluster!.rbd("snap", "create", "--no-progress", `${name}@one`);
    {
      await using disk = await VirtualDisk.open(cluster!.uri(name));
      assertEquals(await map(disk), written);
      await disk.writeZeroes(0, 8);
      assertEquals(await map(disk), ["data 0+16384", "hole 16384+16384"]);
    }
    await using before = await VirtualDisk.open(cluster!.uri(`${name}@one`));
    assertEquals(await map(before), written);
    // Others may write to it meanwhile.
    await using reader = await VirtualDisk.open(cluster!.uri(name), {
      readOnly: true,
    });
    assertEquals(await map(reader), ["data 0+32768"]);
    // What a clone has not, its parent may have.
    await cluster!.rbd("snap", "protect", `${name}@one`);
    await cluster!.rbd("clone", `${name}@one`, "clone");
    await using clone = await VirtualDisk.open(cluster!.uri("clone"));
    assertEquals(await map(clone), ["data 0+32768"]);
    assertEquals((await clone.read(8192 + 5, 1))[0], 1);
  },
});

Deno.test({
  name: "VirtualDisk.open() of an image in a namespace",
  ignore,
  async fn() {
    await cluster!.rbd("namespace", "create", "rbd/tenant");
    const uri = `rbd:rbd/tenant/disk?conf=${cluster!.conf}&id=admin`;
    {
      await using made = await VirtualDisk.create(uri, { size: "1MiB" });
      await made.write(1, new Uint8Array(512).fill(3));
    }
    assertEquals((await cluster!.rbd("ls", "rbd/tenant")).trim(), "disk");
    await using disk = await VirtualDisk.open(uri, { readOnly: true });
    assertEquals((await disk.read(1, 1))[0], 3);
  },
});

Deno.test({
  name: "VirtualDisk.open() names who holds an image, and reads beside him",
  ignore,
  async fn() {
    const uri = cluster!.uri(await image(1));
    await using writer = await VirtualDisk.open(uri);
    assertEquals(writer.info.lock.method, "exclusive-lock");
    const error = await assertRejects(() => VirtualDisk.open(uri), DiskError);
    assertEquals(error.kind, "locked");
    assert(/the client at 127\.0\.0\.1:\d+\/\d+ holds/.test(error.message));
    await assertRejects(
      () => VirtualDisk.open(uri, { readOnly: true, lock: "exclusive" }),
      DiskError,
      "holds its exclusive lock",
    );
    await writer.write(0, new Uint8Array(512).fill(9));
    await writer.flush();
    await using reader = await VirtualDisk.open(uri, { readOnly: true });
    assertEquals((await reader.read(0, 1))[0], 9);
    await writer.close();
    await using next = await VirtualDisk.open(uri);
    assertEquals((await next.read(0, 1))[0], 9);
  },
});

Deno.test({
  name: "VirtualDisk.resize() of an image; others see it",
  ignore,
  async fn() {
    const name = await image(2);
    const uri = cluster!.uri(name);
    await using reader = await VirtualDisk.open(uri, { readOnly: true });
    await using disk = await VirtualDisk.open(uri);
    await disk.resize({ size: "4MiB" });
    assertEquals(disk.sectors, 8192);
    await disk.write(8191, new Uint8Array(512).fill(4));
    await until(() => reader.sectors === 8192);
    // By somebody else: librbd carries it out here, where the lock is.
    await cluster!.rbd("resize", "--no-progress", "--size", "8", name);
    await until(() => disk.sectors === 16_384);
    await disk.write(16_383, new Uint8Array(512).fill(5));
    assertEquals((await disk.read(8191, 1))[0], 4);
  },
});

/** Waits until something is so, for a minute. */
async function until(isSo: () => boolean): Promise<void> {
  for (let attempts = 0; !isSo(); attempts++) {
    assert(attempts < 1200, "it is not so after a minute");
    await pause(50);
  }
}

Deno.test({
  name:
    "disk.info of an image says what a flush reaches, and how the cluster is",
  ignore,
  async fn() {
    await cluster!.ceph("osd", "set", "noout");
    await using disk = await VirtualDisk.open(cluster!.uri(await image(1)));
    const { durability, backend, warnings = [] } = disk.info;
    assertEquals(backend, "rbd");
    assertEquals(durability.flush, "media");
    assert(durability.reason!.includes("the pool rbd keeps one replica"));
    assert(durability.reason!.includes("librbd's cache is on (writearound)"));
    assertEquals(warnings.length, 1);
    assert(/^the cluster said HEALTH_WARN .*noout/.test(warnings[0]!));
    await cluster!.ceph("osd", "unset", "noout");
    assertEquals(disk.info.optimalIoSize, 4 << 20);
  },
});

Deno.test({
  name: "VirtualDisk.open() of an image with its cache off says so",
  ignore,
  async fn() {
    const name = await image(1);
    await cluster!.rbd("config", "image", "set", name, "rbd_cache", "false");
    await using disk = await VirtualDisk.open(cluster!.uri(name));
    assertEquals(disk.info.durability.deviceCache, "none");
  },
});

Deno.test({
  name:
    "VirtualDisk.open() of an image with a cache that writes through says so",
  ignore,
  async fn() {
    for (
      const [option, value] of [
        ["rbd_cache_policy", "writethrough"],
        ["rbd_cache_max_dirty", "0"],
      ] as const
    ) {
      const name = await image(1);
      await cluster!.rbd("config", "image", "set", name, option, value);
      await using disk = await VirtualDisk.open(cluster!.uri(name));
      const reason = disk.info.durability.reason!;
      assert(reason.includes("a write is over once the cluster has it"));
    }
  },
});

Deno.test({
  name: "VirtualDisk.open() says what there is not",
  ignore,
  async fn() {
    const { conf } = cluster!;
    for (
      const [uri, text] of [
        [`rbd:nowhere/x?conf=${conf}`, 'the cluster has no pool "nowhere"'],
        [`rbd:rbd/x?conf=${conf}`, 'there is no image "x" in the pool "rbd"'],
        [`rbd:rbd/x@y?conf=${conf}`, 'or it has no snapshot "y"'],
        [`rbd:rbd/x?conf=${conf}.not`, "there is no configuration file"],
      ] as const
    ) {
      const error = await assertRejects(
        () => VirtualDisk.open(uri),
        DiskError,
        text,
      );
      assertEquals(error.kind, "not-found");
    }
  },
});

Deno.test({
  name: "exploreCrashes() takes an image for the base of its device",
  ignore,
  async fn() {
    const base = await openBackend(cluster!.uri(await image(2)));
    {
      await using disk = VirtualDisk.over(base);
      await disk.write(100, new Uint8Array(512).fill(7));
      await disk.flush();
    }
    const uri = base.info.path!;
    const explore = async (flushes: boolean) => {
      const below = await openBackend(uri, { readOnly: true });
      try {
        return await exploreCrashes<number>({
          base: below,
          device: {},
          async workload(disk, acknowledge) {
            for (const value of [1, 2]) {
              await disk.write(0, new Uint8Array(512).fill(value));
              if (flushes) await disk.flush();
              acknowledge(value);
            }
          },
          async recover(disk, acknowledged) {
            assertEquals((await disk.read(100, 1))[0], 7);
            const [value = 0] = await disk.read(0, 1);
            assert(value >= (acknowledged.at(-1) ?? 0), `${value} is older`);
          },
        });
      } finally {
        await below.close();
      }
    };
    const report = await explore(true);
    assert(report.states > 2);
    await assertRejects(() => explore(false), CrashFailure);
  },
});

Deno.test({
  name: "platter copy, info and serve know images of a cluster",
  ignore,
  async fn() {
    await using dir = await tempDir();
    const content = crypto.getRandomValues(new Uint8Array(65_536));
    const bytes = new Uint8Array(8 << 20);
    bytes.set(content, 1 << 20);
    const path = await dir.file("disk.img", bytes);
    const uri = cluster!.uri("copied");
    const platter = (...args: string[]) =>
      run(Deno.execPath(), ["run", "-A", CLI, ...args]);
    await platter("copy", "--quiet", path, uri);
    await assertRejects(() => platter("copy", path, uri), Error, "--force");
    const socket = dir.join("served.sock");
    const server = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", CLI, "serve", uri, "--read-only", "--socket", socket],
      stdin: "null",
      stdout: "null",
      stderr: "null",
    }).spawn();
    try {
      await untilListening(socket);
      await using served = await VirtualDisk.open(
        `nbd+unix:///?socket=${socket}`,
      );
      assertEquals(await served.read(2048, 128), content);
    } finally {
      server.kill("SIGTERM");
      await server.status;
    }
    const back = dir.join("back.img");
    await platter("copy", "--quiet", uri, back);
    assertEquals(await Deno.readFile(back), bytes);
    const info = await platter("info", uri);
    assert(info.includes("exclusive") || info.includes("network"), info);
    assert(info.includes("one replica"), info);
  },
});

const CLI = new URL("../../../src/cli/main.ts", import.meta.url).pathname;
