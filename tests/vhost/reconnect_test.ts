/**
 * Devices that end in the middle of their requests, and the next one, which goes
 * on with them: the driver asks nothing twice, and gets each answer once.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import type { Backend, Complete } from "../../src/backend.ts";
import { MemoryBackend } from "../../src/backends/memory.ts";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { Random } from "../../src/random.ts";
import {
  flushRequest,
  readRequest,
  type Request,
  RequestType,
  writeRequest,
} from "../../src/request.ts";
import { requestError } from "../../src/request_error.ts";
import { VhostServer } from "../../src/vhost/mod.ts";
import { carryOut, readDisk, submitAll } from "../contract.ts";
import { altered } from "../fake_backend.ts";
import { fuzz } from "../fuzz.ts";
import { pause, tempDir } from "../helpers.ts";
import { type DriverOptions, VhostDriver } from "./driver.ts";
import { FrontEnd } from "./front_end.ts";
import { Message } from "./messages.ts";

const ignore = Deno.build.os !== "linux";

const SECTORS = 4096;

/** When a device does a request, and when it answers it: in ms, or never. */
type Pace = (request: Request) => readonly [done: number, answered: number];

const AT_ONCE: Pace = () => [0, 0];

function endedError(request: Request) {
  return requestError("io", request, "the device has ended");
}

/** A device over a disk that outlives it. */
class Life {
  readonly #below: Backend;
  readonly #disk: VirtualDisk;
  readonly #pace: Pace;
  readonly #timers = new Set<ReturnType<typeof setTimeout>>();
  /** Requests that were not answered. */
  readonly #open = new Map<Request, Complete>();
  #ended = false;
  readonly server: VhostServer;
  /** What reached the disk, in order. */
  readonly seen: Request[] = [];
  /** Requests that were answered. */
  answers = 0;

  constructor(below: Backend, path: string, pace: Pace) {
    this.#below = below;
    this.#pace = pace;
    this.#disk = VirtualDisk.over(altered(below, {
      // Merged requests would be done together.
      limits: { ...below.limits, maxSegments: 1 },
      submit: (batch, complete) =>
        batch.forEach((request) => this.#submit(request, complete)),
      close: () => Promise.resolve(),
    }));
    this.server = VhostServer.listen({ path, disk: this.#disk });
  }

  #submit(request: Request, complete: Complete): void {
    if (this.#ended) {
      // It has waited in the server for memory of others.
      return queueMicrotask(() => complete(request, endedError(request)));
    }
    this.seen.push(request);
    this.#open.set(request, complete);
    const [done, answered] = this.#pace(request);
    this.#after(done, () => {
      this.#below.submit([request], (_, error) => {
        this.#after(answered, () => {
          this.#open.delete(request);
          this.answers++;
          complete(request, error);
        });
      });
    });
  }

  #after(ms: number, work: () => void): void {
    if (ms === Infinity) return;
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      if (!this.#ended) work();
    }, ms);
    this.#timers.add(timer);
  }

  /** Ends it at once: nothing more is done, and nothing is answered. */
  async kill(): Promise<void> {
    this.#ended = true;
    this.#timers.forEach(clearTimeout);
    const closed = this.server.close();
    // By now nobody hears of it; so that its memory is given back here.
    for (const [request, complete] of this.#open) {
      complete(request, endedError(request));
    }
    await closed;
    await this.#disk.close();
  }
}

/** A disk, its first device, and a driver that goes on with the next ones. */
async function begin(pace: Pace, options: DriverOptions = {}) {
  await using stack = new AsyncDisposableStack();
  const dir = stack.use(await tempDir());
  const below = new MemoryBackend({ sectors: SECTORS });
  const path = dir.join("disk.sock");
  let life = new Life(below, path, pace);
  stack.defer(() => life.kill());
  const driver = await VhostDriver.connect(path, {
    reconnect: true,
    ...options,
  });
  stack.defer(() => driver.close());
  const kept = stack.move();
  return {
    path,
    driver,
    below,
    get life() {
      return life;
    },
    /** Kills the device, and starts another one. */
    async next(pace: Pace): Promise<Life> {
      await life.kill();
      return life = new Life(below, path, pace);
    },
    [Symbol.asyncDispose]: () => kept.disposeAsync(),
  };
}

/** The identity is asked for by the driver when it attaches. */
function withoutIdentity(pace: Pace): Pace {
  return (request) =>
    request.type === RequestType.GetId ? [0, 0] : pace(request);
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await pause(1);
}

Deno.test(
  "VhostServer goes on with the requests that one before it had in flight, in order",
  {
    ignore,
  },
  async () => {
    // Done but not answered, neither, and answered, in turn.
    const paces = [[0, Infinity], [Infinity, 0], [0, 0]] as const;
    await using served = await begin(
      withoutIdentity((request) => paces[request.sector / 8 % 3]!),
      { queues: 1 },
    );
    const { driver } = served;
    const requests = Array.from(
      { length: 12 },
      (_, i) => writeRequest(8 * i, new Uint8Array(512).fill(i + 1)),
    );
    const answered: number[] = [];
    const answers = Promise.all(requests.map(async (request, i) => {
      await carryOut(driver, request);
      answered.push(i);
    }));
    await until(() => answered.length === 4);
    assertEquals(answered, [2, 5, 8, 11]);
    const { seen } = await served.next(AT_ONCE);
    await answers;
    assertEquals(driver.reconnects, 1);
    assertEquals(
      seen.map(({ sector }) => sector / 8),
      [0, 1, 3, 4, 6, 7, 9, 10],
    );
    const content = await readDisk(driver);
    assertEquals(
      requests.map((_, i) => content[8 * i * 512]),
      requests.map((_, i) => i + 1),
    );
  },
);

Deno.test(
  "VhostServer goes on with what was made available while there was none",
  {
    ignore,
  },
  async () => {
    await using served = await begin(AT_ONCE, { queues: 2 });
    const { driver, below } = served;
    await served.life.kill();
    const answers = submitAll(driver, [
      writeRequest(0, new Uint8Array(512).fill(1)),
      flushRequest(),
    ]);
    await pause(5);
    await served.next(AT_ONCE);
    assertEquals(await answers, [null, null]);
    assertEquals((await readDisk(below))[0], 1);
  },
);

Deno.test(
  "VhostServer keeps the write cache off that a driver turned off before",
  {
    ignore,
  },
  async () => {
    await using served = await begin(AT_ONCE);
    const { driver } = served;
    const write = () =>
      carryOut(driver, writeRequest(0, new Uint8Array(512).fill(1)));
    await write();
    assertEquals(served.life.seen.at(-1)!.fua, false);
    driver.setWriteback(false);
    await driver.frontEnd.settled();
    const off = await served.next(AT_ONCE);
    await write();
    // What was answered by the one before is durable first.
    assertEquals(off.seen.map(({ type, fua }) => [type, fua]), [
      [RequestType.Flush, false],
      [RequestType.Out, true],
    ]);
    assertEquals((await driver.readConfig()).writeback, 0);
    driver.setWriteback(true);
    await driver.frontEnd.settled();
    const on = await served.next(AT_ONCE);
    await write();
    assertEquals(on.seen.map(({ fua }) => fua), [false]);
  },
);

Deno.test(
  "VhostServer turns the write cache on for nobody who does not ask for it",
  { ignore },
  async () => {
    for (const reconnect of [false, true]) {
      await using served = await begin(AT_ONCE, { queues: 1, reconnect });
      const { driver } = served;
      const { frontEnd } = driver;
      const isDurable = async () => {
        await carryOut(driver, writeRequest(0, new Uint8Array(512)));
        return served.life.seen.at(-1)!.fua;
      };
      assertEquals(await isDurable(), false);
      driver.setWriteback(false);
      await frontEnd.settled();
      // A reboot as QEMU has it: the firmware's driver, then the first one again.
      await driver.stop();
      frontEnd.setFeatures(1n << 30n | 1n << 32n);
      await frontEnd.settled();
      await driver.start();
      assertEquals(await isDurable(), true);
      assertEquals((await driver.readConfig()).writeback, 0);
      await driver.stop();
      frontEnd.tell(Message.ResetDevice);
      await driver.start();
      assertEquals(await isDurable(), true);
      assertEquals((await driver.readConfig()).writeback, 0);
      driver.setWriteback(true);
      await frontEnd.settled();
      assertEquals(await isDurable(), false);
      // A driver may write there before the front end tells its features.
      await driver.stop();
      frontEnd.tell(Message.ResetDevice);
      driver.setWriteback(false);
      await driver.start();
      assertEquals(await isDurable(), true);
    }
  },
);

Deno.test(
  "VhostServer has the write cache off for who attaches and does not ask whether it is on",
  { ignore },
  async () => {
    await using served = await begin(AT_ONCE, { queues: 1, reconnect: false });
    const { driver } = served;
    const again = async () => {
      const life = await served.next(AT_ONCE);
      await driver.frontEnd.close();
      driver.frontEnd = new FrontEnd(driver.kernel, served.path);
      return life;
    };
    const isDurable = async (life: Life) => {
      await carryOut(driver, writeRequest(0, new Uint8Array(512)));
      return life.seen.at(-1)!.fua;
    };
    const silent = await again();
    await driver.attach();
    await driver.readConfig();
    assertEquals(await isDurable(silent), true);
    const asked = await again();
    await driver.readConfig();
    await driver.attach();
    assertEquals(await isDurable(asked), false);
  },
);

Deno.test("fuzz() finds nothing through devices that end one after the other", {
  ignore,
}, async () => {
  const seed = crypto.getRandomValues(new Uint32Array(1))[0]!;
  console.log(`seed ${seed}`);
  const random = new Random(seed);
  const pace: Pace = () => [random.below(2), random.below(2)];
  await using served = await begin(pace, { seed, queues: 2 });
  const { driver } = served;
  let over = false;
  const killing = (async () => {
    while (!over) {
      // Some end before they have answered anything, but not all of them.
      const enough = random.chance(1, 3) ? 0 : random.between(1, 30);
      await until(() => over || served.life.answers >= enough);
      await served.next(pace);
    }
  })();
  const disk = VirtualDisk.over(altered(driver, {
    close: () => Promise.resolve(),
  }));
  try {
    await fuzz(
      { disk, start: 0, [Symbol.asyncDispose]: () => disk.close() },
      { seed, requests: 300, phase: 300 },
    );
  } finally {
    over = true;
    await killing;
  }
  await carryOut(driver, readRequest(0, new Uint8Array(512)));
  assert(driver.reconnects > 2);
});
