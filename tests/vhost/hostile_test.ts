/**
 * Guests and front ends that do what they must not, one by one and by the
 * thousand; and what they may do at any time: stop, go on, take memory away, come
 * back.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { fileURLToPath } from "node:url";
import type { Backend } from "../../src/backend.ts";
import { MemoryBackend } from "../../src/backends/memory.ts";
import { VirtualDisk } from "../../src/disk/disk.ts";
import type { DiskError } from "../../src/errors.ts";
import { readRequest, writeRequest } from "../../src/request.ts";
import { VhostServer } from "../../src/vhost/mod.ts";
import { carryOut, readDisk } from "../contract.ts";
import { LONG, pause, tempDir } from "../helpers.ts";
import { VhostDriver } from "./driver.ts";
import type { MutationOutcome } from "./mutations.ts";
import {
  memoryTable,
  Message,
  ringAddresses,
  ringState,
  u64,
} from "./messages.ts";

const ignore = Deno.build.os !== "linux";

const SECTORS = 4096;

/** How long something that must happen may take, in ms. */
const DEADLINE_MS = 60_000;

/** A device over a disk in memory whose answers can be held back. */
class Device implements AsyncDisposable {
  readonly #memory = new MemoryBackend({ sectors: SECTORS });
  readonly #disk: VirtualDisk;
  readonly #dir: { [Symbol.asyncDispose](): PromiseLike<void> };
  readonly server: VhostServer;
  readonly faults: Error[] = [];
  /** What is to be carried out, while answers are held back. */
  #held: (() => void)[] | null = null;

  private constructor(
    dir: { join(name: string): string } & AsyncDisposable,
  ) {
    this.#dir = dir;
    this.#disk = VirtualDisk.over(this.#backend());
    this.server = VhostServer.listen({
      path: dir.join("vhost.sock"),
      disk: this.#disk,
      queues: 2,
      onError: (error) => this.faults.push(error),
    });
  }

  static async open(): Promise<Device> {
    return new Device(await tempDir());
  }

  #backend(): Backend {
    const memory = this.#memory;
    return {
      geometry: memory.geometry,
      abilities: memory.abilities,
      limits: memory.limits,
      info: memory.info,
      counters: memory.counters,
      submit: (batch, complete) => {
        const kept = [...batch];
        const work = () => memory.submit(kept, complete);
        if (this.#held === null) work();
        else this.#held.push(work);
      },
      allocate: (length) => memory.allocate(length),
      close: () => memory.close(),
    };
  }

  /** Holds answers back from now on. */
  hold(): void {
    this.#held = [];
  }

  /** Requests that are held back. */
  get held(): number {
    return this.#held?.length ?? 0;
  }

  /** Carries out what was held back. */
  release(): void {
    const held = this.#held ?? [];
    this.#held = null;
    for (const work of held) work();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.release();
    await this.server.close();
    await this.#disk.close();
    await this.#dir[Symbol.asyncDispose]();
  }
}

async function until(condition: () => boolean, what: string): Promise<void> {
  const end = performance.now() + DEADLINE_MS;
  while (!condition()) {
    if (performance.now() > end) throw new Error(`Never: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

/** Submits a write; resolves with how it ended. */
function write(
  driver: VhostDriver,
  sector: number,
  value: number,
): Promise<DiskError | null> {
  const { promise, resolve } = Promise.withResolvers<DiskError | null>();
  const data = new Uint8Array(4096).fill(value);
  driver.submit([writeRequest(sector, data)], (_, error) => resolve(error));
  return promise;
}

/** Whether a driver that makes sense is served. */
async function servesOthers(device: Device): Promise<void> {
  const driver = await VhostDriver.connect(device.server.path, {
    regions: [1 << 20],
  });
  assertEquals(await write(driver, 8, 0x5a), null);
  const back = new Uint8Array(4096);
  await carryOut(driver, readRequest(8, back));
  assert(back.every((byte) => byte === 0x5a));
  await driver.close();
}

Deno.test({
  name:
    "VhostServer stops a ring for each thing that a driver must not do, and tells it",
  ignore,
  async fn(t) {
    const at = 2 ** 40;
    // What each does to a chain of a header, data and a status.
    const ways: [
      string,
      (driver: VhostDriver, address: number) => void,
    ][] = [
      ["a loop", ({ queues: [queue] }, address) => {
        queue!.ring.put(0, address, 16, 1, 1);
        queue!.ring.put(1, address, 16, 1, 0);
      }],
      ["a loop of one", ({ queues: [queue] }, address) => {
        queue!.ring.put(0, address, 16, 1, 0);
      }],
      ["a next one that is none", ({ queues: [queue] }, address) => {
        queue!.ring.put(0, address, 16, 1, 9999);
      }],
      ["a buffer outside of memory", ({ queues: [queue] }) => {
        queue!.ring.put(0, at, 16, 1, 1);
        queue!.ring.put(1, at, 1, 2, 0);
      }],
      ["a buffer over the end of memory", ({ queues: [queue], memory }) => {
        const last = memory.regions.at(-1)!;
        const end = last.guestAddress + last.byteLength;
        queue!.ring.put(0, end - 16, 17, 1, 1);
        queue!.ring.put(1, end - 1, 1, 2, 0);
      }],
      ["an address whose end wraps", ({ queues: [queue] }, address) => {
        queue!.ring.put(0, address, 16, 1, 1);
        queue!.ring.put(1, 2n ** 64n - 8n, 64, 2, 0);
      }],
      ["a readable buffer after a writable one", (
        { queues: [queue] },
        address,
      ) => {
        queue!.ring.put(0, address, 16, 1, 1);
        queue!.ring.put(1, address + 64, 1, 3, 2);
        queue!.ring.put(2, address, 16, 0, 0);
      }],
      ["no buffer to write", ({ queues: [queue] }, address) => {
        queue!.ring.put(0, address, 16, 0, 0);
      }],
      ["no whole header", ({ queues: [queue] }, address) => {
        queue!.ring.put(0, address, 15, 1, 1);
        queue!.ring.put(1, address + 64, 1, 2, 0);
      }],
      ["a buffer of nothing", ({ queues: [queue] }, address) => {
        queue!.ring.put(0, address, 0, 1, 1);
        queue!.ring.put(1, address + 64, 1, 2, 0);
      }],
      ["a table of no whole descriptors", ({ queues: [queue] }, address) => {
        queue!.ring.put(0, address, 24, 4, 0);
      }],
      ["a table in a table", ({ queues: [queue], memory }, address) => {
        const table = new Uint8Array(16);
        const view = new DataView(table.buffer);
        view.setBigUint64(0, BigInt(address), true);
        view.setUint32(8, 16, true);
        view.setUint16(12, 4, true);
        memory.write(address, table);
        queue!.ring.put(0, address, 16, 4, 0);
      }],
      ["a table with a next one", ({ queues: [queue] }, address) => {
        queue!.ring.put(0, address, 32, 5, 1);
      }],
      ["an index that jumps", ({ queues: [queue] }) => {
        queue!.ring.forge(queue!.ring.nextAvailable + 1000);
      }],
    ];
    await using device = await Device.open();
    for (const [title, spoil] of ways) {
      await t.step(title, async () => {
        device.faults.length = 0;
        const driver = await VhostDriver.connect(device.server.path, {
          queues: 1,
        });
        const address = driver.memory.take(4096)!;
        const { brokenRings } = device.server.counters;
        const [queue] = driver.queues;
        spoil(driver, address);
        if (title !== "an index that jumps") {
          queue!.ring.offer(0);
          queue!.ring.publish();
        }
        driver.kernel.signal(queue!.kick);
        await until(
          () => device.server.counters.brokenRings > brokenRings,
          `the ring stops for ${title}`,
        );
        await until(() => driver.kernel.drain(queue!.error), "it is told");
        assertEquals(device.faults.length, 1);
        // The connection goes on: the front end may stop the ring.
        await driver.frontEnd.settled();
        await driver.drop();
      });
    }
    await servesOthers(device);
  },
});

Deno.test({
  name: "VhostServer answers what it has when a ring is stopped, and goes on",
  ignore,
  async fn() {
    await using device = await Device.open();
    const driver = await VhostDriver.connect(device.server.path);
    for (let round = 1; round <= 3; round++) {
      device.hold();
      const done = Promise.all(
        Array.from({ length: 20 }, (_, i) => write(driver, i * 8, round)),
      );
      await until(() => device.held > 0, "requests are in flight");
      let stopped = false;
      const stop = driver.stop().then((bases) => {
        stopped = true;
        return bases;
      });
      await new Promise((resolve) => setTimeout(resolve, 20));
      assertEquals(stopped, false);
      device.release();
      const bases = await stop;
      assertEquals(bases, driver.queues.map(({ ring }) => ring.usedIndex));
      driver.resume();
      assertEquals(await done, Array(20).fill(null));
    }
    const disk = await readDisk(driver);
    assert(disk.subarray(0, 20 * 4096).every((byte) => byte === 3));
    await driver.close();
    assertEquals(device.faults, []);
  },
});

Deno.test({
  name: "VhostServer takes memory given and taken away while rings run",
  ignore,
  async fn() {
    await using device = await Device.open();
    const driver = await VhostDriver.connect(device.server.path, {
      regions: [1 << 20, 1 << 20],
    });
    const { memory } = driver;
    for (let round = 1; round <= 4; round++) {
      const writes = Array.from(
        { length: 30 },
        (_, i) => write(driver, i * 8, round),
      );
      const added = memory.add({
        guestAddress: 0x1000_0000 * round,
        byteLength: 1 << 20,
      });
      await driver.tellMemory();
      writes.push(...Array.from(
        { length: 30 },
        (_, i) => write(driver, (i + 30) * 8, round),
      ));
      assertEquals(await Promise.all(writes), Array(60).fill(null));
      assertEquals(memory.isUsed(added), false);
      memory.remove(added);
      await driver.tellMemory();
    }
    const disk = await readDisk(driver);
    assert(disk.subarray(0, 60 * 4096).every((byte) => byte === 4));
    await driver.close();
    assertEquals(device.faults, []);
  },
});

Deno.test({
  name: "VhostServer stops a ring whose memory is taken away or cut",
  ignore,
  async fn() {
    await using device = await Device.open();
    for (const cut of [false, true]) {
      const driver = await VhostDriver.connect(device.server.path, {
        queues: 1,
        sealed: "none",
        regions: [1 << 20],
      });
      device.hold();
      const ended = write(driver, 0, 1);
      await until(() => device.held > 0, "a request is in flight");
      const { brokenRings } = device.server.counters;
      if (cut) {
        const [region] = driver.memory.regions;
        const whole = region!.mapped.bytes.length;
        driver.kernel.libc.ftruncate(region!.fd, 0);
        device.release();
        await until(
          () => device.server.counters.brokenRings > brokenRings,
          "the ring stops",
        );
        driver.kernel.libc.ftruncate(region!.fd, whole);
        // What is behind the cut is new, and so are the guards.
        region!.mapped.bytes.fill(0xc7);
      } else {
        const other = driver.memory.add({
          guestAddress: 0x1000_0000,
          byteLength: 1 << 20,
        });
        driver.frontEnd.tell(
          Message.SetMemTable,
          memoryTable([other]),
          [other.fd],
        );
        await until(
          () => device.server.counters.brokenRings > brokenRings,
          "the ring stops",
        );
        device.release();
      }
      assertEquals((await ended)?.kind, "io");
      await driver.drop();
      await servesOthers(device);
    }
  },
});

Deno.test({
  name: "VhostServer holds little memory that was taken away, whoever is slow",
  ignore,
  async fn() {
    await using device = await Device.open();
    const driver = await VhostDriver.connect(device.server.path, {
      queues: 1,
      regions: [1 << 20],
      sealed: "all",
    });
    const [region] = driver.memory.regions;
    const { ino } = await Deno.stat(`/proc/self/fd/${region!.fd}`);
    const mappings = () =>
      Deno.readTextFileSync("/proc/self/maps").split("\n")
        .filter((line) =>
          line.includes("memfd:") && line.split(/ +/)[4] === String(ino)
        ).length;
    device.hold();
    const writes: Promise<unknown>[] = [];
    for (let round = 1; round <= 20; round++) {
      writes.push(write(driver, 8 * round, round));
      await until(() => device.held === round, "a request is in flight");
      driver.frontEnd.tell(
        Message.SetMemTable,
        memoryTable([region!]),
        [region!.fd],
      );
    }
    const settled = driver.frontEnd.settled();
    for (let i = 0; i < 200; i++) await pause(1);
    // The driver's own, the one in use, and a few that were.
    assert(mappings() <= 10, `${mappings()}`);
    device.release();
    await settled;
    assertEquals(await Promise.all(writes), Array(20).fill(null));
    assertEquals(mappings(), 2);
    await driver.close();
    assertEquals(device.faults, []);
  },
});

Deno.test({
  name: "VhostServer waits nowhere for descriptors that take long to close",
  ignore,
  async fn(t) {
    const ways: [string, (driver: VhostDriver, fd: number) => Promise<void>][] =
      [
        ["of a ring", async ({ frontEnd }, fd) => {
          frontEnd.tell(Message.SetVringCall, u64(0), [fd]);
          await frontEnd.settled();
        }],
        ["of no use", async ({ frontEnd }, fd) => {
          frontEnd.tell(Message.SetOwner, undefined, [fd]);
          await pause(20);
        }],
        ["of memory", async ({ frontEnd, memory }, fd) => {
          const [region] = memory.regions;
          frontEnd.tell(Message.SetMemTable, memoryTable([region!]), [fd]);
          await pause(20);
        }],
        ["of a message that never ends", ({ frontEnd }, fd) => {
          frontEnd.raw(Uint8Array.of(1, 0, 0), [fd]);
          return Promise.resolve();
        }],
        ["that come in dozens", ({ frontEnd }, fd) => {
          frontEnd.raw(Uint8Array.of(1, 0, 0), Array(32).fill(fd));
          return Promise.resolve();
        }],
      ];
    await using device = await Device.open();
    for (const [title, send] of ways) {
      await t.step(title, async () => {
        using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
        const { port } = listener.addr as Deno.NetAddr;
        const driver = await VhostDriver.connect(device.server.path);
        const fd = driver.kernel.lingering(port, 60);
        using other = await listener.accept();
        const sent = send(driver, fd);
        // The device has the last one.
        driver.kernel.libc.close(fd);
        await sent;
        await driver.drop();
        for (let i = 0; i < 50; i++) {
          await new Promise((resolve) => setTimeout(resolve, 1));
        }
        // It is being closed: nobody else is served yet, and nothing waits.
        assert(device.server.attached);
        const bytes = new Uint8Array(65_536);
        while (await other.read(bytes) !== null);
        await servesOthers(device);
      });
    }
  },
});

Deno.test({
  name: "VhostServer goes on with a ring that moves while it runs",
  ignore,
  async fn() {
    await using device = await Device.open();
    const driver = await VhostDriver.connect(device.server.path);
    for (let round = 1; round <= 5; round++) {
      const writes = Array.from(
        { length: 20 },
        (_, i) => write(driver, i * 8, round),
      );
      for (const { index, ring } of driver.queues) {
        const { descriptors, used, available } = ring.parts;
        driver.frontEnd.tell(
          Message.SetVringAddr,
          ringAddresses(
            index,
            driver.memory.userAddress(descriptors),
            driver.memory.userAddress(used),
            driver.memory.userAddress(available),
          ),
        );
      }
      assertEquals(await Promise.all(writes), Array(20).fill(null));
    }
    await driver.close();
    assertEquals(device.faults, []);
  },
});

Deno.test({
  name: "VhostServer outlives a front end that hangs up in mid-request",
  ignore,
  async fn() {
    await using device = await Device.open();
    for (let round = 0; round < 5; round++) {
      const driver = await VhostDriver.connect(device.server.path);
      device.hold();
      const ended = Promise.all(
        Array.from({ length: 20 }, (_, i) => write(driver, i * 8, 1)),
      );
      await until(() => device.held > 0, "requests are in flight");
      await driver.drop();
      assert((await ended).every((error) => error?.kind === "io"));
      device.release();
      await servesOthers(device);
    }
    assertEquals(device.faults, []);
  },
});

Deno.test({
  name:
    "VhostServer sends away who sends too many descriptors, none, or wrong ones",
  ignore,
  async fn(t) {
    await using device = await Device.open();
    const ways: [string, (driver: VhostDriver) => void][] = [
      [
        "no memory for a region",
        ({ frontEnd, memory }) =>
          frontEnd.tell(Message.SetMemTable, memoryTable(memory.regions), []),
      ],
      ["memory for one region more", ({ frontEnd, memory }) =>
        frontEnd.tell(
          Message.SetMemTable,
          memoryTable(memory.regions),
          [...memory.regions, memory.regions[0]!].map(({ fd }) => fd),
        )],
      ["thirty descriptors", ({ frontEnd, queues: [queue] }) =>
        frontEnd.tell(
          Message.SetVringCall,
          u64(0),
          Array(30).fill(queue!.call),
        )],
      [
        "a counter for memory",
        ({ frontEnd, memory, queues: [queue] }) =>
          frontEnd.tell(
            Message.SetMemTable,
            memoryTable(memory.regions),
            memory.regions.map(() => queue!.call),
          ),
      ],
      [
        "no kick",
        ({ frontEnd }) => frontEnd.tell(Message.SetVringKick, u64(0)),
      ],
      [
        "a ring that there is not",
        ({ frontEnd }) =>
          frontEnd.tell(Message.SetVringEnable, ringState(200, 1)),
      ],
      [
        "a region longer than its memory",
        ({ frontEnd, memory }) =>
          frontEnd.tell(
            Message.SetMemTable,
            memoryTable([{ ...memory.regions[0]!, byteLength: 2 ** 40 }]),
            [memory.regions[0]!.fd],
          ),
      ],
      ["half a message", ({ frontEnd, kernel }) => {
        frontEnd.raw(Uint8Array.of(1, 0, 0));
        // The rest never comes.
        kernel.shutDown(frontEnd.fd);
      }],
    ];
    for (const [title, does] of ways) {
      await t.step(title, async () => {
        device.faults.length = 0;
        const driver = await VhostDriver.connect(device.server.path);
        does(driver);
        assert(await driver.frontEnd.hungUp(), title);
        assertEquals(device.faults.length, 1);
        await driver.drop();
      });
    }
    await servesOthers(device);
  },
});

Deno.test({
  name: "VhostServer serves a driver after each of many that went",
  ignore,
  async fn() {
    await using device = await Device.open();
    for (let i = 0; i < 20; i++) {
      const driver = await VhostDriver.connect(device.server.path, { seed: i });
      assertEquals(await write(driver, 0, i + 1), null);
      if (i % 2 === 0) await driver.close();
      else await driver.drop();
    }
    assertEquals(device.server.counters.frontEnds, 20);
    await servesOthers(device);
  },
});

Deno.test({
  name: "VhostServer outlives mutated rings and messages",
  ignore,
  async fn() {
    const seed = crypto.getRandomValues(new Uint32Array(1))[0]!;
    const sessions = LONG ? 100_000 : 2000;
    console.log(`seed ${seed}, ${sessions} sessions`);
    // A process of its own: what others open in this one is no leak.
    const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: [
        ...["run", "-A", "--no-check", "--quiet"],
        fileURLToPath(import.meta.resolve("./mutations.ts")),
        ...[sessions, seed, "--json"].map(String),
      ],
    }).output();
    const text = new TextDecoder();
    assertEquals(code, 0, text.decode(stderr));
    const outcome: MutationOutcome = JSON.parse(text.decode(stdout));
    // They reach all parts: some of them break a ring, some the protocol, and
    // some are served.
    const { dropped, brokenRings, requests, errors, finished } = outcome;
    for (const count of [dropped, brokenRings, requests, errors, finished]) {
      assert(count > sessions / 50, JSON.stringify(outcome));
    }
  },
});
