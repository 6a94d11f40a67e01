/**
 * The direct backend over an engine that does as it is told: what it hands over
 * for large requests, and what it makes of answers that kernels rarely give.
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertRejects,
  assertThrows,
  fail,
} from "@std/assert";
import { fstatSync, openSync } from "node:fs";
import { openLibc } from "../../../ffi/libc.ts";
import { DirectBackend } from "../../../src/backends/direct/backend.ts";
import { PosixFileHost } from "../../../src/backends/direct/posix_file_host.ts";
import type { DirectImage } from "../../../src/backends/direct/image.ts";
import type { Transfer } from "../../../src/backends/direct/transfer.ts";
import { type Engine, OperationCode } from "../../../src/engines/engine.ts";
import { VirtualDisk } from "../../../src/disk/disk.ts";
import { DiskError } from "../../../src/errors.ts";
import { makeGeometry } from "../../../src/geometry.ts";
import { Random } from "../../../src/random.ts";
import {
  discardRequest,
  flushRequest,
  readRequest,
  RequestFlag,
  writeFuaRequest,
  writeRequest,
  writeZeroesRequest,
} from "../../../src/request.ts";
import { catchThrown, submitAll, Thrown } from "../../contract.ts";
import { LONG, tempDir } from "../../helpers.ts";
import { ENGINES, hasDirect, hasEngine } from "./harness.ts";

const ignore = !hasEngine("sync");
const GIB = 2 ** 30;

/** What one operation asked for. */
interface Asked {
  code: OperationCode;
  address: number;
  length: number;
  offset: number;
  durable: boolean;
}

/** Answers an operation: bytes moved or −errno. */
type Answer = (transfer: Transfer) => number;

/** What its engine is asked to cancel goes here. */
let cancels: ((matches: (transfer: Transfer) => boolean) => void) | null = null;

/** A backend whose operations are written down and answered at once. */
function backendOver(
  fd: number,
  sectors: number,
  answer: Answer,
  hostBlock = 512,
  close = () => Promise.resolve(),
) {
  const host = new PosixFileHost(openLibc());
  const asked: Asked[] = [];
  const image: DirectImage = {
    fd,
    tailFd: -1,
    openTail: () => fail("It has no tail"),
    geometry: makeGeometry(sectors, 512),
    abilities: {
      readOnly: false,
      flush: "native",
      fua: "native",
      discard: "native",
      writeZeroes: "native",
      secureErase: "none",
    },
    writeAlignment: hostBlock,
    readAlignment: 512,
    blockDevice: false,
    zeroesRanges: true,
    claim: null,
    signal: null,
    info: {
      backend: "direct",
      path: null,
      medium: "file",
      fileSystem: null,
      engine: { name: "sync", reason: null },
      direct: {
        active: true,
        method: null,
        reason: null,
        memoryAlignment: 1,
        offsetAlignment: 1,
        readOffsetAlignment: 1,
        alignmentSource: "none",
      },
      durability: {
        flush: "unknown",
        method: "",
        deviceCache: "unknown",
        fua: "",
        reason: null,
      },
      lock: { method: "none", reason: null },
      id: "test",
    },
  };
  const backend = new DirectBackend(host, image, (complete) => {
    const queue: Transfer[] = [];
    let runs = false;
    const engine: Engine<Transfer> = {
      info: { name: "sync", reason: null },
      systemCalls: 0,
      push(transfer) {
        queue.push(transfer);
      },
      kick() {
        if (runs) return;
        runs = true;
        try {
          while (queue.length > 0) {
            const transfer = queue.shift()!;
            const { code, address, length, offset, durable } = transfer;
            asked.push({ code, address, length, offset, durable });
            complete(transfer, answer(transfer));
          }
        } finally {
          runs = false;
        }
      },
      cancel: (matches) => cancels?.(matches),
      close,
    };
    return engine;
  });
  return { backend, asked };
}

async function scratch(bytes: number) {
  const dir = await tempDir();
  const path = await dir.file("disk.img", bytes);
  return {
    path,
    fd: openSync(path, "r+"),
    [Symbol.asyncDispose]: () => dir[Symbol.asyncDispose](),
  };
}

Deno.test({
  name:
    "DirectBackend answers all who wait for a flush that failed, though callbacks throw",
  ignore,
  async fn() {
    await using file = await scratch(65_536);
    const { EIO } = openLibc().abi.errno;
    const { backend } = backendOver(file.fd, 128, () => -EIO);
    const answered: string[] = [];
    const request = flushRequest();
    using uncaught = catchThrown();
    backend.submit([request, flushRequest(), flushRequest()], (one) => {
      answered.push(one === request ? "first" : "other");
      throw new Thrown();
    });
    assertEquals(answered, ["first", "other", "other"]);
    await Promise.resolve();
    assertEquals(uncaught.count, 3);
    // Nothing is left in flight.
    await backend.close();
  },
});

Deno.test({
  name:
    "DirectBackend makes writes durable by its own syncs once parts of blocks were zeroed",
  ignore,
  async fn() {
    for (const zeroes of [writeZeroesRequest, discardRequest]) {
      await using file = await scratch(65_536);
      const { backend, asked } = backendOver(
        file.fd,
        128,
        ({ length }) => length,
      );
      const write = () => writeFuaRequest(16, new Uint8Array(4096));
      const codes = () => asked.splice(0).map(({ code }) => code);
      // Whole blocks of the file system are zeroed on the medium.
      await submitAll(backend, [zeroes(8, 8), write()]);
      assertEquals(codes(), [
        OperationCode.Allocate,
        OperationCode.WriteVector,
      ]);
      // And parts of them in its cache.
      await submitAll(backend, [zeroes(9, 1), write()]);
      assertEquals(codes(), [
        OperationCode.Allocate,
        OperationCode.Write,
        OperationCode.Sync,
      ]);
      assertEquals(backend.abilities.fua, "emulated");
      await backend.close();
    }
  },
});

Deno.test({
  name:
    "DirectBackend zeroes parts of blocks when the durable writes in flight are over",
  ignore,
  async fn() {
    for (const zeroes of [writeZeroesRequest, discardRequest]) {
      for (const fails of [false, true]) {
        await using file = await scratch(65_536);
        const { EIO } = openLibc().abi.errno;
        const { backend, asked } = backendOver(
          file.fd,
          128,
          ({ length, durable }) => fails && durable ? -EIO : length,
        );
        const write = (sector: number) =>
          writeFuaRequest(sector, new Uint8Array(4096));
        await submitAll(backend, [
          ...[write(16), write(32), zeroes(9, 1), zeroes(57, 1)],
          readRequest(48, new Uint8Array(4096)),
        ]);
        assertEquals(asked.map(({ code }) => code), [
          ...[OperationCode.WriteVector, OperationCode.WriteVector],
          ...[OperationCode.Read],
          ...[OperationCode.Allocate, OperationCode.Allocate],
        ]);
        await backend.close();
      }
    }
  },
});

Deno.test({
  name: "DirectBackend has the engine cancel what moves data, and no sync",
  ignore,
  async fn() {
    await using file = await scratch(65_536);
    const asked: [OperationCode, boolean][] = [];
    const requests = [
      readRequest(0, new Uint8Array(4096)),
      flushRequest(),
    ];
    const { backend } = backendOver(file.fd, 128, (transfer) => {
      // While the engine has it.
      cancels = (matches) => asked.push([transfer.code, matches(transfer)]);
      backend.cancel(transfer.request!);
      return transfer.length;
    });
    await submitAll(backend, requests);
    assertEquals(asked, [
      [OperationCode.Read, true],
      [OperationCode.Sync, false],
    ]);
    cancels = null;
    await backend.close();
  },
});

Deno.test({
  name: "DirectBackend reads edges of small host blocks into whole pages",
  ignore,
  async fn() {
    await using file = await scratch(65_536);
    const { backend, asked } = backendOver(
      file.fd,
      128,
      ({ length }) => length,
      1024,
    );
    // From within the first block to within the second, third, … one.
    for (let sectors = 2; sectors < 20; sectors++) {
      await submitAll(backend, [
        writeRequest(1, new Uint8Array(sectors * 512)),
        writeRequest(2, new Uint8Array(sectors * 512)),
      ]);
    }
    const reads = asked.filter(({ code }) => code === OperationCode.Read);
    assert(reads.length > 20);
    for (const { address, offset, length } of asked) {
      assertEquals([address % 4096, offset % 1024, length % 1024], [0, 0, 0]);
    }
    await backend.close();
  },
});

Deno.test({
  name: "DirectBackend goes on where the read of an edge ended short",
  ignore,
  async fn() {
    await using file = await scratch(65_536);
    let moved = 0;
    const { backend, asked } = backendOver(
      file.fd,
      128,
      ({ code, length }) => {
        if (code !== OperationCode.Read) return length;
        // 512 bytes of them at a time; then the file ends.
        return moved++ < 8 ? 512 : 0;
      },
      4096,
    );
    const write = () => writeRequest(1, new Uint8Array(512));
    assertEquals(await submitAll(backend, [write()]), [null]);
    const reads = asked.filter(({ code }) => code === OperationCode.Read);
    assertEquals(
      reads.map(({ offset, length }) => [offset, length]),
      Array.from({ length: 8 }, (_, i) => [i * 512, 4096 - i * 512]),
    );
    const [error] = await submitAll(backend, [write()]);
    assertEquals(error?.kind, "io");
    await backend.close();
  },
});

/** The most that Linux moves at once: MAX_RW_COUNT of include/linux/fs.h. */
const MOST = 0x7fff_f000;

for (const bytes of [4 * GIB, 4 * GIB + 2 ** 20, 2 * GIB, GIB + 512]) {
  Deno.test({
    name: `DirectBackend moves a request of ${bytes} bytes in pieces that fit`,
    ignore,
    async fn() {
      await using file = await scratch(16 * GIB);
      const { backend, asked } = backendOver(
        file.fd,
        16 * GIB / 512,
        // No memory is touched, and none is needed.
        (transfer) =>
          transfer.code === OperationCode.Sync ? 0 : transfer.length,
      );
      let data: Uint8Array;
      try {
        data = backend.allocate(bytes);
      } catch {
        console.warn(
          `Skipped, as there is no address space for ${bytes} bytes`,
        );
        return await backend.close();
      }
      const errors = await submitAll(backend, [
        readRequest(8, data),
        writeRequest(16, data),
        writeFuaRequest(16, data),
      ]);
      assertEquals(errors, [null, null, null]);
      let done = 0;
      let total = 0;
      for (const { length, offset, code } of asked) {
        if (code === OperationCode.Sync) continue;
        assert(length > 0 && length <= MOST, `${length}`);
        if (done === bytes) done = 0;
        assertEquals(offset % 512, 0);
        assertEquals(length % 512, 0);
        done += length;
        total += length;
      }
      assertEquals(total, 3 * bytes);
      // One sync makes all the pieces of the durable write durable.
      const last = asked.at(-1)!;
      const pieces = bytes > GIB;
      assertEquals(last.code === OperationCode.Sync, pieces);
      assertEquals(last.durable, false);
      assert(!pieces || asked.every(({ durable }) => !durable));
      await backend.close();
    },
  });
}

Deno.test({
  name: "DirectBackend gives up ranges of more than 4 GiB in one operation",
  ignore,
  async fn() {
    await using file = await scratch(16 * GIB);
    const { backend, asked } = backendOver(file.fd, 16 * GIB / 512, () => 0);
    const count = 5 * GIB / 512;
    const errors = await submitAll(backend, [
      discardRequest(8, count),
      writeZeroesRequest(8, count),
      writeZeroesRequest(8, count, RequestFlag.Unmap),
    ]);
    assertEquals(errors, [null, null, null]);
    for (const { code, length, offset } of asked) {
      assertEquals(
        [code, offset, length],
        [OperationCode.Allocate, 4096, 5 * GIB],
      );
    }
    assertEquals(asked.length, 3);
    await backend.close();
  },
});

for (const engine of ENGINES) {
  Deno.test({
    name: `${engine} gives up 5 GiB, and nothing beside them`,
    ignore: !hasEngine(engine),
    async fn() {
      await using dir = await tempDir();
      const path = await dir.file("disk.img", 8 * GIB);
      await using disk = await VirtualDisk.open(path, { engine });
      const first = 2 ** 20;
      const count = 5 * GIB / 512;
      const inside = [
        0,
        GIB / 512,
        4 * GIB / 512 - 8,
        4 * GIB / 512,
        count - 8,
      ];
      const places = [-8, ...inside, count].map((place) => first + place);
      for (const discards of [true, false]) {
        await Promise.all(
          places.map((place, i) =>
            disk.write(place, disk.allocate(8).fill(i + 1))
          ),
        );
        if (discards) await disk.discard(first, count);
        else await disk.writeZeroes(first, count, { unmap: true });
        const now = await Promise.all(
          places.map(async (place) => (await disk.read(place, 8))[4095]),
        );
        assertEquals(now, [1, 0, 0, 0, 0, 0, 7]);
      }
    },
  });
}

for (const engine of ["portable", ...ENGINES] as const) {
  Deno.test({
    name: `${engine} moves 4 GiB and more at once`,
    // It takes so much memory, and seconds.
    ignore: !LONG || engine !== "portable" && !hasEngine(engine),
    async fn() {
      await using dir = await tempDir();
      const path = await dir.file("disk.img", 8 * GIB);
      await using disk = await VirtualDisk.open(
        path,
        engine === "portable" ? { backend: "portable" } : { engine },
      );
      const sectors = (4 * GIB + 2 ** 20) / 512;
      const marks = [
        0,
        GIB / 512,
        4 * GIB / 512 - 1,
        4 * GIB / 512,
        sectors - 1,
      ];
      for (const mark of marks) {
        await disk.write(mark, new Uint8Array(512).fill(mark % 255 + 1));
      }
      const memory = disk.allocate(sectors);
      await disk.readInto(0, memory);
      for (const mark of marks) {
        assertEquals(memory[mark * 512], mark % 255 + 1);
        assertEquals(memory[mark * 512 + 511], mark % 255 + 1);
      }
      const halves = [memory.subarray(0, GIB), memory.subarray(GIB)];
      assertEquals(await disk.submit(readRequest(0, ...halves)), 0);
      assertEquals(memory[(sectors - 1) * 512], (sectors - 1) % 255 + 1);
    },
  });
}

Deno.test({
  name:
    "DirectBackend does by a blocking call what the kernel cancelled unasked, but for what makes durable",
  // What has no direct I/O may have no way to zero a range either: tmpfs.
  ignore: ignore || !await hasDirect(),
  async fn() {
    await using file = await scratch(2 ** 20);
    const { errno } = openLibc().abi;
    const { backend, asked } = backendOver(
      file.fd,
      2 ** 20 / 512,
      () => -errno.ECANCELED,
    );
    const data = new Random(1).bytes(8192);
    const memory = backend.allocate(8192);
    const back = backend.allocate(8192);
    memory.set(data);
    // Through memory that is aligned, and as it is; vectored as well.
    const done = await submitAll(backend, [
      writeRequest(0, memory),
      writeRequest(64, data),
      writeRequest(128, memory.subarray(0, 4096), memory.subarray(4096)),
      writeZeroesRequest(192, 8),
      discardRequest(200, 8),
    ]);
    assertEquals(done, [null, null, null, null, null]);
    assertEquals(await submitAll(backend, [readRequest(64, back)]), [null]);
    assertEquals(back, data);
    const now = await Deno.readFile(file.path);
    for (const sector of [0, 64, 128]) {
      assertEquals(now.slice(sector * 512, sector * 512 + 8192), data);
    }
    const before = asked.length;
    const [flush, durable] = await submitAll(backend, [
      flushRequest(),
      writeFuaRequest(256, memory),
    ]);
    assertEquals([flush?.code, durable?.code], ["ECANCELED", "ECANCELED"]);
    assertEquals(asked.length, before + 2);
    await backend.close();
  },
});

Deno.test({
  name:
    "DirectBackend syncs a durable write that ended short, and no whole one",
  ignore,
  async fn() {
    await using file = await scratch(65_536);
    let most = 512;
    const { backend, asked } = backendOver(file.fd, 128, ({ length }) => {
      const moved = Math.min(length, most);
      most = Infinity;
      return moved;
    });
    const seen = () =>
      asked.splice(0).map(({ code, length, durable }) => [
        code,
        length,
        durable,
      ]);
    const write = () =>
      submitAll(backend, [writeFuaRequest(8, new Uint8Array(4096))]);
    const { WriteVector, Sync } = OperationCode;
    assertEquals(await write(), [null]);
    const [first, rest, sync] = seen();
    assertEquals(first, [WriteVector, 4096, true]);
    assertEquals([rest?.[1], rest?.[2]], [3584, false]);
    assertEquals([sync?.[0], sync?.[2]], [Sync, false]);
    assertEquals(await write(), [null]);
    assertEquals(seen(), [[WriteVector, 4096, true]]);
    await backend.close();
  },
});

Deno.test({
  name: "DirectBackend closes its descriptors though its engine does not close",
  ignore,
  async fn() {
    await using file = await scratch(65_536);
    const { backend } = backendOver(
      file.fd,
      128,
      () => 0,
      512,
      () => Promise.reject(new Error("It does not close")),
    );
    await assertRejects(() => backend.close(), DiskError, "It does not close");
    assertThrows(() => fstatSync(file.fd), Error, "EBADF");
  },
});
