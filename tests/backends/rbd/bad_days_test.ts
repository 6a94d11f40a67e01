/**
 * A real cluster on days on which things go wrong: daemons that end or hold still,
 * monitors that are not there, a full pool, a stolen lock, no key, no library.
 * `deno task ceph` runs it.
 *
 * @module
 */

import { assert, assertEquals, assertRejects } from "@std/assert";
import { openRbd } from "../../../src/backends/rbd/mod.ts";
import { loadLibraries } from "../../../src/backends/rbd/session.ts";
import { VirtualDisk } from "../../../src/disk/disk.ts";
import type { OpenOptions } from "../../../src/disk/open.ts";
import { DiskError } from "../../../src/errors.ts";
import { Random } from "../../../src/random.ts";
import { LONG, needs, pause, run } from "../../helpers.ts";
import { CephCluster, needsCeph } from "./cluster.ts";

const { ignore } = needsCeph();
const cluster = ignore ? null : await CephCluster.start();
Deno.test.afterAll(async () => {
  await cluster?.[Symbol.asyncDispose]();
});

const EPERM = 1;

let images = 0;

async function openNew(options: OpenOptions = {}) {
  const name = `image${++images}`;
  await cluster!.rbd("create", "--size", "8", name);
  return {
    name,
    disk: await VirtualDisk.open(cluster!.uri(name), options),
  };
}

/** A block whose bytes say which write it is of. */
function block(stamp: number): Uint8Array {
  const bytes = new Uint8Array(4096);
  new Uint32Array(bytes.buffer).fill(stamp);
  return bytes;
}

Deno.test({
  name: "a flush that is acknowledged survives every kill of the OSD",
  ignore,
  async fn() {
    const kills = LONG ? 50 : 2;
    const seed = crypto.getRandomValues(new Uint32Array(1))[0]!;
    console.log(`seed ${seed}, ${kills} kills`);
    const random = new Random(seed);
    const { name, disk } = await openNew({ requestTimeoutMs: 300_000 });
    const blocks = disk.sectors / 8;
    /** What each block had when a flush was acknowledged, and since then. */
    const durable = new Uint32Array(blocks);
    const written: Set<number>[] = Array.from(
      { length: blocks },
      () => new Set(),
    );
    let stamp = 0;
    let flushes = 0;
    let stop = false;
    const writing = (async () => {
      while (!stop) {
        const now = new Map<number, number>();
        const writes: Promise<void>[] = [];
        for (let i = random.between(1, 16); i > 0; i--) {
          const at = random.below(blocks);
          now.set(at, ++stamp);
          written[at]!.add(stamp);
          writes.push(disk.write(at * 8, block(stamp)));
        }
        await Promise.all(writes);
        await disk.flush();
        flushes++;
        for (const [at, value] of now) {
          durable[at] = value;
          written[at]!.clear();
        }
      }
    })();
    for (let i = 0; i < kills; i++) {
      const before = flushes;
      while (flushes < before + 3) await pause(10);
      await pause(random.below(200));
      await cluster!.stopOsd("SIGKILL");
      cluster!.startOsd();
    }
    const before = flushes;
    while (flushes < before + 2) await pause(10);
    stop = true;
    await writing;
    const check = async (from: VirtualDisk) => {
      const content = new Uint32Array(
        (await from.read(0, from.sectors)).slice().buffer,
      );
      for (let at = 0; at < blocks; at++) {
        const found = content[at * 1024]!;
        assert(
          found === durable[at] || written[at]!.has(found),
          `block ${at} has ${found} and must have ${durable[at]}`,
        );
      }
    };
    await check(disk);
    await disk.close();
    await using again = await VirtualDisk.open(cluster!.uri(name));
    await check(again);
    console.log(`${stamp} writes, ${flushes} flushes`);
  },
});

Deno.test({
  name: "requests wait for an OSD that holds still, for requestTimeoutMs",
  ignore,
  async fn() {
    // Four of them have to be over before the OSD's lease to answer reads is: 16 s
    // (osd_heartbeat_grace x osd_pool_default_read_lease_ratio), of which half may
    // be gone. An OSD that slept for longer may not answer for minutes.
    const { disk } = await openNew({ requestTimeoutMs: 1500 });
    await disk.write(0, block(1));
    await disk.flush();
    await cluster!.holdOsd();
    try {
      for (
        const request of [
          () => disk.read(64, 8),
          // Without FUA, librbd's cache would have it.
          () => disk.write(0, block(2), { fua: true }),
          // Waits for what librbd still has of the one before.
          () => disk.read(0, 8),
          () => disk.read(4, 8),
        ]
      ) {
        const error = await assertRejects(request, DiskError);
        assertEquals([error.kind, error.code], ["io", "ETIMEDOUT"]);
        assert(/the cluster has not answered for \d+ ms/.test(error.message));
      }
    } finally {
      cluster!.releaseOsd();
    }
    // What was given up is over before what overlaps: never after it.
    assertEquals(await retried(() => disk.read(0, 8)), block(2));
    // And a flush that failed is final.
    const error = await assertRejects(
      () => disk.write(0, block(3)),
      DiskError,
    );
    assertEquals(error.kind, "latched");
    await disk.close();
  },
});

/** A request to a cluster that has just come back. */
async function retried<T>(request: () => Promise<T>): Promise<T> {
  for (let attempts = 0;; attempts++) {
    try {
      return await request();
    } catch (error) {
      if (
        !(error instanceof DiskError) || error.code !== "ETIMEDOUT" ||
        attempts > 20
      ) throw error;
    }
  }
}

/** Opens an image that somebody else is about to close. */
async function openFreed(uri: string): Promise<VirtualDisk> {
  for (let attempts = 1;; attempts++) {
    try {
      return await VirtualDisk.open(uri);
    } catch (error) {
      if (
        !(error instanceof DiskError) || error.kind !== "locked" ||
        attempts === 600
      ) throw error;
      await pause(100);
    }
  }
}

Deno.test({
  name: "an abort ends a request that an OSD holds up, at once",
  ignore,
  async fn() {
    const { disk } = await openNew();
    await disk.write(0, block(1));
    await cluster!.holdOsd();
    try {
      for (
        const request of [
          (signal: AbortSignal) => disk.read(64, 8, { signal }),
          (signal: AbortSignal) =>
            disk.write(0, block(2), { signal, fua: true }),
          (signal: AbortSignal) => disk.read(0, 8, { signal }),
        ]
      ) {
        const abort = new AbortController();
        const asked = request(abort.signal);
        await pause(50);
        abort.abort();
        const error = await assertRejects(() => asked, DOMException);
        assertEquals(error.name, "AbortError");
      }
    } finally {
      cluster!.releaseOsd();
    }
    // Held back until the aborted write is over.
    assertEquals(await disk.read(0, 8), block(2));
    await disk.close();
  },
});

/**
 * Runs a program with a `disk` that is open. It awaits `told()` before it goes on.
 *
 * @returns What it printed, once it has ended by itself.
 */
async function program(
  name: string,
  options: OpenOptions,
  source: string,
  tell: () => Promise<void>,
): Promise<string> {
  const script = cluster!.join(`${name}.ts`);
  const disks = new URL("../../../mod.ts", import.meta.url).href;
  await Deno.writeTextFile(
    script,
    `import { VirtualDisk } from ${JSON.stringify(disks)};
const told = async () => {
  console.error("ready");
  await Deno.stdin.read(new Uint8Array(1));
};
const disk = await VirtualDisk.open(Deno.args[0], ${JSON.stringify(options)});
${source}`,
  );
  const child = new Deno.Command("timeout", {
    args: ["60", Deno.execPath(), "run", "-A", script, cluster!.uri(name)],
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const said = new Response(child.stdout).text();
  const errors = child.stderr.pipeThrough(new TextDecoderStream());
  for await (const text of errors) {
    if (text.includes("ready")) break;
  }
  try {
    await tell();
  } catch (error) {
    child.kill();
    throw error;
  }
  const input = child.stdin.getWriter();
  await input.write(new Uint8Array(1));
  await input.close();
  assertEquals((await child.status).code, 0);
  return await said;
}

Deno.test({
  name: "disk.close() ends while an OSD holds still, and so does the program",
  ignore,
  async fn() {
    const name = `image${++images}`;
    await cluster!.rbd("create", "--size", "8", name);
    try {
      const said = await program(
        name,
        { closeTimeoutMs: 1000 },
        `await disk.write(0, new Uint8Array(512));
await disk.flush();
await told();
const write = disk.write(8, new Uint8Array(512), { fua: true })
  .catch((e) => e.code);
const close = disk.close().catch((e) => e.message);
console.log(await write);
console.log(await close);
`,
        () => cluster!.holdOsd(),
      );
      const [write, close] = said.split("\n");
      assertEquals(write, "ETIMEDOUT");
      assert(close!.includes("what was not flushed may be lost"), close);
    } finally {
      cluster!.releaseOsd();
    }
  },
});

Deno.test({
  name: "a program ends though an OSD keeps a new size of its image to itself",
  ignore,
  async fn() {
    const name = `image${++images}`;
    await cluster!.rbd("create", "--size", "8", name);
    try {
      await program(
        name,
        { readOnly: true, closeTimeoutMs: 1000 },
        `await told();
// Until it has looked, once a second.
await new Promise((resolve) => setTimeout(resolve, 2500));
await disk.close().catch(() => {});
`,
        async () => {
          await cluster!.rbd("resize", "--no-progress", "--size", "16", name);
          await cluster!.holdOsd();
        },
      );
    } finally {
      cluster!.releaseOsd();
    }
  },
});

Deno.test({
  name: "a program ends though an OSD keeps the resize of its image to itself",
  ignore,
  async fn() {
    const name = `image${++images}`;
    await cluster!.rbd("create", "--size", "8", name);
    try {
      const said = await program(
        name,
        { openTimeoutMs: 5000, closeTimeoutMs: 1000 },
        `await told();
console.log(await disk.resize({ size: "16MiB" }).catch((e) => e.message));
console.log(await disk.close().catch((e) => e.code));
`,
        () => cluster!.holdOsd(),
      );
      const [resize, close] = said.split("\n");
      assert(resize!.includes("and may do it later"), resize);
      assertEquals(close, "ETIMEDOUT");
    } finally {
      cluster!.releaseOsd();
    }
  },
});

Deno.test({
  name: "a cluster that answers in fits and starts only takes longer",
  ignore,
  async fn() {
    const { disk } = await openNew();
    let stop = false;
    const hiccups = (async () => {
      while (!stop) {
        await cluster!.holdOsd();
        await pause(150);
        cluster!.releaseOsd();
        await pause(50);
      }
    })();
    try {
      for (let i = 1; i <= 20; i++) {
        await Promise.all([
          disk.write(i * 8, block(i)),
          disk.write(i * 800, block(i)),
        ]);
        await disk.flush();
        assertEquals(await disk.read(i * 8, 8), block(i));
      }
    } finally {
      stop = true;
      await hiccups;
    }
    await disk.close();
  },
});

Deno.test({
  name: "VirtualDisk.open() ends while an OSD holds still",
  ignore,
  async fn() {
    const { disk, name } = await openNew();
    await disk.close();
    await cluster!.holdOsd();
    try {
      const error = await assertRejects(
        () => VirtualDisk.open(cluster!.uri(name), { openTimeoutMs: 1000 }),
        DiskError,
      );
      assertEquals([error.kind, error.code], ["io", "ETIMEDOUT"]);
    } finally {
      cluster!.releaseOsd();
    }
    // Until what came too late is closed again.
    await pause(3000);
    await using again = await openFreed(cluster!.uri(name));
    await again.read(0, 8);
  },
});

Deno.test({
  name: "a lock that is stolen shuts the disk out, and says so",
  ignore,
  async fn() {
    const { disk, name } = await openNew();
    await disk.write(0, block(1));
    await disk.flush();
    const locks = JSON.parse(
      await cluster!.rbd("lock", "ls", "--format", "json", name),
    ) as { id: string; locker: string }[];
    const { id, locker } = locks[0]!;
    await cluster!.rbd("lock", "rm", name, id, locker);
    const error = await assertRejects(
      () => disk.write(0, block(2)),
      DiskError,
    );
    assertEquals([error.kind, error.code], ["io", "ESHUTDOWN"]);
    assert(error.message.includes("another one has broken its lock"));
    await assertRejects(() => disk.flush(), DiskError);
    await disk.close().catch((closing) => assert(closing instanceof DiskError));
    await using next = await VirtualDisk.open(cluster!.uri(name));
    assertEquals(await next.read(0, 8), block(1));
  },
});

/** Waits until something is so, for a minute. */
async function until(isSo: () => Promise<boolean>): Promise<void> {
  for (let attempts = 0; !await isSo(); attempts++) {
    assert(attempts < 600, "it is not so after a minute");
    await pause(100);
  }
}

Deno.test({
  name: "a disk that asks for nothing learns that its lock was stolen",
  ignore,
  async fn() {
    const { disk, name } = await openNew();
    const all = { sector: 0, count: disk.sectors };
    assertEquals(await disk.extents(), [{ ...all, hole: true }]);
    const [{ id, locker }] = JSON.parse(
      await cluster!.rbd("lock", "ls", "--format", "json", name),
    ) as [{ id: string; locker: string }];
    await cluster!.rbd("lock", "rm", name, id, locker);
    await until(() => Promise.resolve(disk.info.lock.method === "none"));
    assertEquals(await disk.extents(), [{ ...all, hole: false }]);
    await disk.close().catch((closing) => assert(closing instanceof DiskError));
  },
});

Deno.test({
  name: "a snapshot that can be removed says so, and fails once it is",
  ignore,
  async fn() {
    const { disk, name } = await openNew();
    await disk.write(0, block(1));
    await disk.flush();
    await cluster!.rbd("snap", "create", "--no-progress", `${name}@one`);
    const uri = cluster!.uri(`${name}@one`);
    const isWarned = ({ info }: VirtualDisk) =>
      info.warnings!.some((text) =>
        text.includes("the snapshot is not protected")
      );
    await cluster!.rbd("snap", "protect", `${name}@one`);
    {
      await using protected_ = await VirtualDisk.open(uri);
      assert(!isWarned(protected_));
    }
    await cluster!.rbd("snap", "unprotect", `${name}@one`);
    await using snapshot = await VirtualDisk.open(uri);
    assert(isWarned(snapshot));
    assertEquals(await snapshot.read(0, 8), block(1));
    await cluster!.rbd("snap", "rm", "--no-progress", `${name}@one`);
    await until(() =>
      snapshot.read(0, 8).then(() => false, (error) => error.code === "ENOENT")
    );
    await disk.close();
  },
});

/** How {@linkcode openUnseen} opens. */
const READING = {
  readOnly: true,
  lock: "auto",
  openTimeoutMs: 30_000,
  closeTimeoutMs: 30_000,
} as const;

/** Looks for images that {@linkcode openUnseen} has opened. */
let looks = 0;

/** Opens an image without a watch, as with a key that may only read. */
async function openUnseen(uri: string): Promise<VirtualDisk> {
  const backend = await openRbd(uri, READING, (uri) => {
    const { libc, ceph } = loadLibraries(uri);
    const calls: typeof ceph.calls = {
      ...ceph.calls,
      rbd_aio_open: () => -EPERM,
      rados_aio_exec(...args) {
        looks++;
        return ceph.calls.rados_aio_exec(...args);
      },
    };
    return { libc, ceph: { ...ceph, calls } };
  });
  return VirtualDisk.over(backend);
}

Deno.test({
  name:
    "a snapshot stays when others switch features off, and goes with itself",
  ignore,
  async fn() {
    const { disk, name } = await openNew();
    await disk.write(0, block(1));
    await disk.close();
    await cluster!.rbd("snap", "create", "--no-progress", `${name}@one`);
    const uri = cluster!.uri(`${name}@one`);
    await using unseen = await openUnseen(uri);
    await using seen = await VirtualDisk.open(uri);
    await using image = await openUnseen(cluster!.uri(name));
    const disks = [unseen, seen, image];
    for (
      const feature of ["object-map", "exclusive-lock"]
    ) await cluster!.rbd("feature", "disable", name, feature);
    // Each of two has begun a look since then, and heard of it.
    const before = looks;
    await until(() => Promise.resolve(looks >= before + 5));
    for (const each of disks) assertEquals(await each.read(0, 8), block(1));
    await cluster!.rbd("snap", "rm", "--no-progress", `${name}@one`);
    const isGone = (each: VirtualDisk) =>
      each.read(0, 8).then(() => false, ({ code }) => code === "ENOENT");
    await until(() => isGone(unseen));
    await until(() => isGone(seen));
    assertEquals(await image.read(0, 8), block(1));
    await seen.close();
    await cluster!.rbd("rm", "--no-progress", name);
    await until(() => isGone(image));
  },
});

Deno.test({
  name: "disk.close() gives up a look that an OSD keeps to itself",
  ignore,
  async fn() {
    const { disk, name } = await openNew();
    await disk.close();
    const reader = await openUnseen(cluster!.uri(name));
    await cluster!.holdOsd();
    try {
      const before = looks;
      await until(() => Promise.resolve(looks > before));
      // Nothing else is asked of the cluster then.
      await reader.close();
    } finally {
      cluster!.releaseOsd();
    }
  },
});

Deno.test({
  name: "a durable write that somebody has cut the image under fails",
  ignore,
  async fn() {
    const { disk, name } = await openNew();
    await cluster!.rbd(
      "resize",
      "--no-progress",
      "--allow-shrink",
      "--size",
      "4",
      name,
    );
    const error = await assertRejects(
      () => disk.write(8184, new Uint8Array(8192), { fua: true }),
      DiskError,
    );
    assert(["io", "range"].includes(error.kind), error.message);
    await disk.close();
  },
});

Deno.test({
  name: "disk.close() with FFI revoked lets go of all of it",
  ignore,
  async fn() {
    const name = `image${++images}`;
    await cluster!.rbd("create", "--size", "8", name);
    const said = await program(
      name,
      {},
      `await disk.write(0, new Uint8Array(512), { fua: true });
await told();
Deno.permissions.revokeSync({ name: "ffi" });
console.log(await disk.write(0, new Uint8Array(1 << 20)).catch((e) => e.kind));
await disk.flush();
console.log(await disk.resize({ size: "16MiB" }).catch((e) => e.kind));
await disk.close();
console.log("closed");
`,
      () => Promise.resolve(),
    );
    assertEquals(said, "permission\npermission\nclosed\n");
    assert((await cluster!.rbd("status", name)).includes("Watchers: none"));
  },
});

Deno.test({
  name: "VirtualDisk.open() and create() say whose an image is",
  ignore,
  async fn() {
    const name = `image${++images}`;
    await cluster!.rbd("create", "--size", "8", name);
    await cluster!.rbd("lock", "add", name, "bob");
    const uri = cluster!.uri(name);
    const held = await assertRejects(() => VirtualDisk.open(uri), DiskError);
    assertEquals(held.kind, "locked");
    const other = `image${++images}`;
    await cluster!.rbd("create", "--size", "8", other);
    await cluster!.rbd("mirror", "pool", "enable", "rbd", "image");
    await cluster!.rbd("mirror", "image", "enable", `rbd/${other}`, "snapshot");
    await cluster!.rbd("mirror", "image", "demote", `rbd/${other}`);
    for (const lock of ["auto", "none"] as const) {
      const mirror = await assertRejects(
        () => VirtualDisk.open(cluster!.uri(other), { lock }),
        DiskError,
        "it is the mirror of an image of another cluster",
      );
      assertEquals(mirror.kind, "read-only");
    }
    const nowhere = await assertRejects(
      () =>
        VirtualDisk.create(cluster!.uri("x").replace("/x", "/not/x"), {
          size: "8MiB",
        }),
      DiskError,
      'there is no namespace "not" of the pool "rbd"',
    );
    assertEquals([nowhere.kind, nowhere.operation], ["not-found", "create"]);
  },
});

Deno.test({
  name: "VirtualDisk.create() that is not over in time says what may be left",
  ignore,
  async fn() {
    const uri = cluster!.uri(`image${++images}`);
    await cluster!.holdOsd();
    try {
      const error = await assertRejects(
        () => VirtualDisk.create(uri, { size: "8MiB", openTimeoutMs: 1000 }),
        DiskError,
        "`rbd rm` removes it",
      );
      assertEquals([error.operation, error.code], ["create", "ETIMEDOUT"]);
    } finally {
      cluster!.releaseOsd();
    }
    // Until what came too late is gone again.
    await pause(3000);
  },
});

Deno.test({
  name: "writes to a pool that is full wait for room, for requestTimeoutMs",
  ignore,
  async fn() {
    const { disk } = await openNew({ requestTimeoutMs: 5000 });
    await disk.write(0, block(1));
    await disk.flush();
    const ratio = (name: string, value: string) =>
      cluster!.ceph("osd", `set-${name}-ratio`, value);
    await ratio("nearfull", "0.0001");
    await ratio("backfillfull", "0.0001");
    await ratio("full", "0.0001");
    try {
      while (!(await cluster!.ceph("health", "detail")).includes("OSD_FULL")) {
        await pause(500);
      }
      const error = await assertRejects(async () => {
        // Until this client has heard of it.
        for (let i = 0; i < 600; i++) {
          await disk.write(8 * i, block(2), { fua: true });
          await pause(100);
        }
      }, DiskError);
      assert(
        error.code === "ETIMEDOUT" || error.kind === "no-space",
        error.message,
      );
      // Reads go on, but for what the write left behind overlaps.
      assertEquals((await disk.read(8192, 8)).length, 4096);
    } finally {
      await ratio("full", "0.95");
      await ratio("backfillfull", "0.9");
      await ratio("nearfull", "0.85");
    }
    while ((await cluster!.ceph("health", "detail")).includes("OSD_FULL")) {
      await pause(500);
    }
    await disk.close();
  },
});

Deno.test({
  name: "an image that is open cannot be removed",
  ignore,
  async fn() {
    const { disk, name } = await openNew({ readOnly: true });
    await assertRejects(
      () => cluster!.rbd("rm", "--no-progress", name),
      Error,
      "still has watchers",
    );
    await disk.close();
    await cluster!.rbd("rm", "--no-progress", name);
    const error = await assertRejects(
      () => VirtualDisk.open(cluster!.uri(name)),
      DiskError,
    );
    assertEquals(error.kind, "not-found");
  },
});

Deno.test({
  name: "VirtualDisk.open() without a key says where it looked for one",
  ignore,
  async fn() {
    const conf = cluster!.join("cephx.conf");
    const text = await Deno.readTextFile(cluster!.conf);
    await Deno.writeTextFile(
      conf,
      text.replace(
        "auth client required = none",
        `auth client required = cephx\nkeyring = ${conf}.keyring`,
      ),
    );
    const error = await assertRejects(
      () => VirtualDisk.open(`rbd:rbd/x?conf=${conf}&id=nobody`),
      DiskError,
      "client.nobody",
    );
    assertEquals(error.kind, "permission");
    assert(error.message.includes(`${conf}.keyring`), error.message);
  },
});

Deno.test({
  name: "VirtualDisk.open() without librbd says which package has it",
  ...(ignore ? { ignore } : needs("unshare", "mount")),
  async fn() {
    const script = `
      for f in $(ldconfig -p | sed -n 's/.*librbd\\.so\\.1.* => //p'); do
        mount --bind /dev/null "$(readlink -f "$f")"
      done
      exec "$0" eval -A '
        import { VirtualDisk } from "${
      new URL("../../../mod.ts", import.meta.url).href
    }";
        try { await VirtualDisk.open("${cluster!.uri("x")}"); }
        catch (error) { console.log(error.kind, error.message); }'`;
    const said = await run("unshare", [
      "--mount",
      "bash",
      "-c",
      script,
      Deno.execPath(),
    ]);
    assert(said.startsWith("platform "), said);
    assert(said.includes("install librbd1"), said);
  },
});

Deno.test({
  name: "VirtualDisk.open() without a monitor ends after openTimeoutMs",
  ignore,
  async fn() {
    await cluster!.stopMonitor();
    try {
      const error = await assertRejects(
        () => VirtualDisk.open(cluster!.uri("x"), { openTimeoutMs: 1000 }),
        DiskError,
      );
      assertEquals([error.kind, error.code], ["io", "ETIMEDOUT"]);
      const abort = new AbortController();
      const opening = VirtualDisk.open(cluster!.uri("x"), {
        openTimeoutMs: 2000,
        signal: abort.signal,
      });
      abort.abort(new Error("Enough"));
      await assertRejects(() => opening, Error, "Enough");
      // Until librados has given up, too.
      await pause(6000);
    } finally {
      cluster!.startMonitor();
    }
  },
});
