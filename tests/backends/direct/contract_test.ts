/**
 * The backend contract on every engine: on files and devices, direct and
 * buffered, with as few places as there can be.
 *
 * @module
 */

import { assert, assertEquals, assertGreater } from "@std/assert";
import type { DirectOptions } from "../../../src/backends/direct/mod.ts";
import type { EngineName } from "../../../src/engines/choose_engine.ts";
import { SECTOR_BYTES } from "../../../src/geometry.ts";
import { createBackend, openBackend } from "../../../src/disk/open.ts";
import { Random } from "../../../src/random.ts";
import { readRequest, writeRequest } from "../../../src/request.ts";
import {
  assertContent,
  carryOut,
  type ContractSubject,
  contractSuite,
  readDisk,
  submitAll,
} from "../../contract.ts";
import { LONG, loopDevice, needs, tempDir } from "../../helpers.ts";
import {
  ASYNC_ENGINES,
  ENGINES,
  hasDirect,
  hasEngine,
  openWith,
} from "./harness.ts";

const MIB = 1_048_576;

/** A fresh file, through the front door. */
function file(
  engine: EngineName,
  blockSize: number,
  queueSize: number,
  direct: "require" | "never",
): () => Promise<ContractSubject> {
  return async () => {
    await using stack = new AsyncDisposableStack();
    const dir = stack.use(await tempDir());
    const path = dir.join("disk.img");
    const options = {
      backend: "direct",
      engine,
      queueSize,
      blockSize,
      direct,
    } as const;
    const backend = await createBackend(path, {
      ...options,
      sectors: 4 * MIB / SECTOR_BYTES,
    });
    assertEquals(backend.info.engine.name, engine);
    assertEquals(backend.info.direct.active, direct === "require");
    const kept = stack.move();
    return {
      backend,
      reopen: () => openBackend(path, options),
      cleanup: () => kept.disposeAsync(),
    };
  };
}

/** A fresh device with large sectors, under a disk with small ones. */
function device(
  engine: EngineName,
  depth: number,
  options: Partial<DirectOptions> = {},
): () => Promise<ContractSubject> {
  return async () => {
    await using stack = new AsyncDisposableStack();
    const dir = stack.use(await tempDir());
    const path = await dir.file("disk.img", 4 * MIB);
    const loop = stack.use(await loopDevice(path, 4096));
    const open = () =>
      openWith(loop.path, engine, depth, { blockSize: 512, ...options });
    const backend = await open();
    const kept = stack.move();
    return { backend, reopen: open, cleanup: () => kept.disposeAsync() };
  };
}

const noDirect = Deno.build.os !== "linux" || !await hasDirect();

for (const engine of ENGINES) {
  const ignore = !hasEngine(engine);

  // The direct backend's own tests do these on every engine as well.
  for (const blockSize of LONG ? [512, 4096] : []) {
    contractSuite(
      `${engine}, blocks of ${blockSize} bytes`,
      file(engine, blockSize, 128, "require"),
      { ignore: ignore || noDirect },
    );
  }

  contractSuite(
    `${engine}, blocks of 512 bytes on a device with 4,096`,
    device(engine, 64),
    { ignore: ignore || needs("root", "losetup").ignore },
  );
}

for (const engine of ASYNC_ENGINES) {
  const ignore = !hasEngine(engine);

  for (const depth of LONG ? [1, 2, 4] : [2]) {
    contractSuite(
      `${engine}, ${depth} at once`,
      file(engine, 512, depth, "require"),
      { ignore: ignore || noDirect },
    );
  }

  if (LONG) {
    contractSuite(
      `${engine}, blocks of 512 bytes on a device with 4,096, 2 at once`,
      device(engine, 2),
      { ignore: ignore || needs("root", "losetup").ignore },
    );
  }

  contractSuite(
    `${engine}, buffered`,
    file(engine, 512, 128, "never"),
    { ignore },
  );

  for (const depth of [2, 64]) {
    Deno.test({
      name:
        `${engine} keeps every sector of a host block that is written in parts, ${depth} at once`,
      ignore: ignore || needs("root", "losetup").ignore,
      async fn() {
        const { backend, cleanup } = await device(engine, depth)();
        try {
          const random = new Random(depth);
          const model = random.bytes(backend.geometry.sectors * SECTOR_BYTES);
          await carryOut(backend, writeRequest(0, model));
          for (let round = 0; round < 16; round++) {
            // Every sector of sixteen host blocks by itself, in any order.
            const requests = random.shuffle(
              Array.from({ length: 128 }, (_, sector) => {
                const bytes = random.bytes(SECTOR_BYTES);
                model.set(bytes, sector * SECTOR_BYTES);
                const memory = random.chance(1, 2)
                  ? backend.allocate(SECTOR_BYTES)
                  : new Uint8Array(SECTOR_BYTES);
                memory.set(bytes);
                return writeRequest(sector, memory);
              }),
            );
            const far = backend.allocate(4096);
            const reads = [200, 208, 4096].map((at) => readRequest(at, far));
            await carryOut(backend, ...requests, ...reads);
            assertContent(await readDisk(backend), model, `round ${round}`);
          }
          assertGreater(backend.counters.readModifyWrites, 1000);
        } finally {
          await backend.close();
          await cleanup!();
        }
      },
    });

    Deno.test({
      name:
        `${engine} answers a batch much larger than its ring, ${depth} at once`,
      ignore: ignore || noDirect,
      async fn() {
        const { backend, cleanup } = await file(
          engine,
          512,
          depth,
          "require",
        )();
        try {
          const model = new Random(9).bytes(MIB);
          await carryOut(backend, writeRequest(0, model));
          const back = Array.from(
            { length: 2000 },
            () => backend.allocate(SECTOR_BYTES),
          );
          const errors = await submitAll(
            backend,
            back.map((memory, i) => readRequest(i, memory)),
          );
          assert(errors.every((error) => error === null));
          back.forEach((memory, i) =>
            assertEquals(
              memory,
              model.slice(i * SECTOR_BYTES, (i + 1) * SECTOR_BYTES),
            )
          );
        } finally {
          await backend.close();
          await cleanup!();
        }
      },
    });
  }
}
