/**
 * The backend contract and the differential fuzzer through the rings of a
 * vhost-user device, on every engine, without a guest. The driver is first tried
 * on somebody else's device.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { VirtualDisk } from "../../src/disk/disk.ts";
import type { OpenOptions } from "../../src/disk/open.ts";
import { VirtioFeature } from "../../src/virtio.ts";
import { VhostServer } from "../../src/vhost/mod.ts";
import { type ContractSubject, contractSuite } from "../contract.ts";
import { fuzz } from "../fuzz.ts";
import { LONG, needs, tempDir } from "../helpers.ts";
import { type DriverOptions, VhostDriver } from "./driver.ts";
import { foreignDevice } from "./foreign.ts";

/** Where there is no vhost-user, nothing of this runs. */
const ignore = Deno.build.os !== "linux";

const SECTORS = 4096;

/** Requests of a fuzz that is to be over soon. */
const FUZZ_REQUESTS = Number(Deno.env.get("PLATTER_FUZZ_REQUESTS") ?? 500);

/** A device of ours over a disk, and a driver that is attached to it. */
async function attach(
  makeDisk: (dir: string) => Promise<VirtualDisk>,
  options: DriverOptions & { readOnly?: boolean } = {},
): Promise<ContractSubject & { backend: VhostDriver; server: VhostServer }> {
  await using stack = new AsyncDisposableStack();
  const dir = stack.use(await tempDir());
  const disk = stack.use(await makeDisk(dir.path));
  const faults: Error[] = [];
  const server = stack.use(VhostServer.listen({
    path: dir.join("vhost.sock"),
    disk,
    readOnly: options.readOnly,
    onError: (error) => faults.push(error),
  }));
  const backend = await VhostDriver.connect(server.path, options);
  const kept = stack.move();
  return {
    backend,
    server,
    reopen: () => VhostDriver.connect(server.path, options),
    async cleanup() {
      await kept.disposeAsync();
      // Nothing that the driver does is a fault.
      assertEquals(faults, []);
    },
  };
}

function inMemory(blockSize = 512, sectors = SECTORS) {
  return () => Promise.resolve(VirtualDisk.memory({ sectors, blockSize }));
}

function onFile(options: Partial<OpenOptions>) {
  return (dir: string) =>
    VirtualDisk.create(`${dir}/disk.img`, { sectors: SECTORS, ...options });
}

contractSuite("vhost-user over memory", () => attach(inMemory()), {
  ignore,
  copiesAllocated: true,
  readOnly: () => attach(inMemory(), { readOnly: true }),
});

// The fuzzer below runs on all of these, also in the short form.
if (LONG) {
  contractSuite(
    "vhost-user over blocks of 4096, one queue of 16, no EVENT_IDX",
    () =>
      attach(inMemory(4096, 8 * SECTORS), {
        queues: 1,
        queueSize: 16,
        without: [VirtioFeature.EventIndex],
      }),
    { ignore, copiesAllocated: true },
  );
  for (const engine of ["io_uring", "libaio", "sync"] as const) {
    contractSuite(
      `vhost-user over a file by ${engine}`,
      () => attach(onFile({ backend: "direct", engine })),
      { ignore, copiesAllocated: true },
    );
  }
}

/** What the fuzzer runs on: a disk, and how the driver is set up. */
const SUBJECTS: Record<
  string,
  [(dir: string) => Promise<VirtualDisk>, DriverOptions]
> = {
  "memory": [inMemory(), { queues: 4 }],
  "memory, all sealed": [inMemory(), { sealed: "all" }],
  "memory, not sealed": [inMemory(), { sealed: "none" }],
  "memory, blocks of 4096": [inMemory(4096), {}],
  "memory, no indirect descriptors": [inMemory(), {
    without: [VirtioFeature.IndirectDescriptors],
    queueSize: 64,
  }],
  "memory, no EVENT_IDX": [inMemory(), {
    without: [VirtioFeature.EventIndex],
  }],
  "io_uring": [onFile({ backend: "direct", engine: "io_uring" }), {}],
  "libaio": [onFile({ backend: "direct", engine: "libaio" }), {}],
  "sync": [onFile({ backend: "direct", engine: "sync" }), {}],
  "portable": [onFile({ backend: "portable" }), {}],
};

for (const [name, [makeDisk, options]] of Object.entries(SUBJECTS)) {
  Deno.test({
    name: `fuzz() finds nothing through the rings: ${name}`,
    ignore,
    async fn() {
      const seed = crypto.getRandomValues(new Uint32Array(1))[0]!;
      console.log(`${name}: seed ${seed}, ${FUZZ_REQUESTS} requests`);
      const subject = await attach(makeDisk, { ...options, seed });
      await fuzzThrough(subject, seed);
    },
  });
}

async function fuzzThrough(
  { backend, cleanup }: ContractSubject,
  seed: number,
): Promise<void> {
  try {
    const disk = VirtualDisk.over(backend);
    try {
      await fuzz(
        { disk, start: 0, [Symbol.asyncDispose]: () => disk.close() },
        { seed, requests: FUZZ_REQUESTS, phase: 500 },
      );
    } finally {
      await disk.close();
    }
  } finally {
    await cleanup?.();
  }
}

Deno.test({
  name: "VhostDriver does the same on QEMU's storage daemon",
  ignore: ignore || needs("qemu-storage-daemon").ignore,
  async fn() {
    await using dir = await tempDir();
    const image = await dir.file("disk.img", SECTORS * 512);
    await using device = await foreignDevice(image, dir.join("vhost.sock"));
    const seed = crypto.getRandomValues(new Uint32Array(1))[0]!;
    console.log(`qemu-storage-daemon: seed ${seed}`);
    const backend = await VhostDriver.connect(device.socket, {
      seed,
      spareLibvhostUser: true,
    });
    assert(backend.queues.length === 2);
    await fuzzThrough({ backend }, seed);
  },
});
