import {
  assertEquals,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import type { Backend } from "../../src/backend.ts";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { DiskError } from "../../src/errors.ts";
import { faults } from "../../src/layers/faults.ts";
import { latency } from "../../src/layers/latency.ts";
import { Layer } from "../../src/layers/layer.ts";
import { MismatchError, verify } from "../../src/layers/verify.ts";
import { Random } from "../../src/random.ts";
import {
  discardRequest,
  readRequest,
  type Request,
  RequestType,
  writeRequest,
} from "../../src/request.ts";
import { carryOut, readDisk, readSectors, submitAll } from "../contract.ts";
import { holding } from "../fake_backend.ts";
import { memory } from "./stacks.ts";

const sector = (value: number, count = 1) =>
  new Uint8Array(count * 512).fill(value);

Deno.test("verify() names the sector and the byte that differ", async () => {
  const a = memory();
  const b = memory();
  const disk = verify(a, b);
  await carryOut(disk, writeRequest(0, sector(1, 8)));
  assertEquals(await readSectors(b, 0, 8), sector(1, 8));
  const spoiled = sector(1);
  spoiled[17] = 0xab;
  await carryOut(a, writeRequest(5, spoiled));
  const [error] = await submitAll(disk, [
    readRequest(2, sector(0, 2), sector(0, 4)),
  ]);
  if (!(error instanceof MismatchError)) throw error;
  assertEquals([error.kind, error.sector, error.count], ["io", 5, 1]);
  assertEquals(error.byte, 17);
  assertEquals([error.actual, error.expected], [spoiled, sector(1)]);
  assertStringIncludes(
    error.message,
    `Cannot read 6 sectors at sector 2 as sector 5 must be the same on both disks: byte 17 is 0xab on "memory" and 0x01 on "memory"`,
  );
  await carryOut(disk, readRequest(0, sector(0, 5)));
  disk.enabled = false;
  await carryOut(disk, readRequest(0, sector(0, 8)));
});

Deno.test("verify() passes errors of a disk on, and forgets what failed writes left", async () => {
  const a = faults(memory(), [
    {
      operation: "write",
      nth: 2,
      effect: { kind: "torn", keep: 1, code: "EIO" },
    },
    "read sector=9 error=EIO",
  ]);
  const disk = verify(a, memory());
  await carryOut(disk, writeRequest(0, sector(1, 4)));
  const errors = [
    ...await submitAll(disk, [writeRequest(0, sector(2, 4))]),
    ...await submitAll(disk, [readRequest(9, sector(0))]),
  ];
  assertEquals(errors.map((error) => error?.code), ["EIO", "EIO"]);
  const now = await readSectors(disk, 0, 4);
  assertEquals([now[0], now[512]], [2, 1]);
  // From then on it is known again.
  await carryOut(a, writeRequest(1, sector(3)));
  await assertRejects(() => readSectors(disk, 0, 4), MismatchError);
});

/** A disk that leaves bytes of its own where it discards. */
class Scribbler extends Layer {
  constructor(backend: Backend) {
    super("scribbler", backend);
  }
  protected override carryOut(
    batch: readonly Request[],
    complete: (request: Request, error: DiskError | null) => void,
  ): void {
    for (const request of batch) {
      const { type, sector: at, count } = request;
      const below = type === RequestType.Discard
        ? writeRequest(at, sector(0xdd, count))
        : request;
      this.backend.submit([below], (_, error) => complete(request, error));
    }
  }
}

Deno.test("verify() learns what a discard left, which must stay", async () => {
  const a = new Scribbler(memory());
  const disk = verify(a, memory());
  await carryOut(disk, writeRequest(0, sector(1, 8)));
  await carryOut(disk, discardRequest(2, 4));
  await carryOut(disk, writeRequest(3, sector(7)));
  const first = await readSectors(disk, 0, 8);
  assertEquals([first[1024], first[3 * 512], first[4 * 512]], [0xdd, 7, 0xdd]);
  await readSectors(disk, 0, 8);
  await carryOut(a, writeRequest(4, sector(0xde)));
  await assertRejects(() => readSectors(disk, 0, 8), MismatchError);
});

Deno.test("verify() finds no difference in memory that goes while it learns what a discard left", async () => {
  const { backend, held } = holding(
    memory(),
    ({ type }) => type === RequestType.Out,
  );
  const disk = verify(memory(), backend);
  const written = carryOut(disk, writeRequest(1, sector(2)));
  held.splice(0).forEach((submit) => submit());
  await written;
  await carryOut(disk, discardRequest(0, 1));
  const gone = sector(0);
  const read = submitAll(disk, [readRequest(0, gone, sector(0))]);
  structuredClone(gone, { transfer: [gone.buffer] });
  held.splice(0).forEach((submit) => submit());
  const [error] = await read;
  assertEquals(error?.kind, "argument");
});

Deno.test("verify() does only what both disks can do", async () => {
  const disk = verify(memory(), memory({ readOnly: true }));
  const [error] = await submitAll(disk, [writeRequest(0, sector(1))]);
  assertEquals(error?.kind, "read-only");
  await disk.close();
  for (const b of [memory({ sectors: 8 }), memory({ blockSize: 4096 })]) {
    assertThrows(
      () => verify(memory(), b),
      RangeError,
      "Cannot verify a disk of 8192 sectors in blocks of 512 bytes",
    );
  }
});

Deno.test("verify() closes both disks", async () => {
  const [a, b] = [memory(), memory()];
  await verify(a, b).close();
  for (const each of [a, b]) {
    await assertRejects(() => readDisk(each), DiskError, "closed");
  }
});

Deno.test("verify() as an oracle finds each kind of silent fault", async () => {
  for (
    const rule of [
      "write nth=7 lost",
      "write nth=7 misdirected",
      "write nth=7 torn=0",
      "write nth=7 corrupt",
      "read nth=7 corrupt",
    ]
  ) {
    const random = new Random(1);
    const disk = VirtualDisk.over(verify(faults(memory(), [rule]), memory()));
    for (let i = 0; i < 40; i++) {
      await disk.write(random.below(64) * 8, random.bytes(4096));
    }
    let found = 0;
    for (let at = 0; at < 8192; at += 64) {
      await disk.read(at, 64).catch((error) => {
        if (error instanceof MismatchError) found++;
        else throw error;
      });
    }
    if (found === 0) throw new Error(`${rule} is not found`);
    await disk.close();
  }
});

Deno.test("verify() finds nothing wrong with disks of different speed", async () => {
  const random = new Random(2);
  await using disk = VirtualDisk.over(
    verify(
      latency(memory(), {
        fixedMs: 0.01,
        spikes: [{ ratio: { numerator: 1, denominator: 20 }, ms: 1 }],
      }),
      memory(),
    ),
  );
  const under: Promise<unknown>[] = [];
  for (let i = 0; i < 500; i++) {
    const at = random.below(60);
    const count = random.between(1, 8);
    under.push(
      random.chance(1, 2)
        ? disk.write(at, random.bytes(count * 512))
        : disk.read(at, count),
    );
    if (under.length === 24) await Promise.all(under.splice(0));
  }
  await Promise.all(under);
});
