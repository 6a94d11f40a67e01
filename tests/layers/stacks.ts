/**
 * The disks that layers are tested over: in memory, and direct on a file.
 *
 * @module
 */

import type { Backend } from "../../src/backend.ts";
import { MemoryBackend } from "../../src/backends/memory.ts";
import { faults } from "../../src/layers/faults.ts";
import { latency } from "../../src/layers/latency.ts";
import { overlay } from "../../src/layers/overlay.ts";
import { readahead } from "../../src/layers/readahead.ts";
import { trace } from "../../src/layers/trace.ts";
import { verify } from "../../src/layers/verify.ts";
import { openBackend } from "../../src/disk/open.ts";
import {
  type ContractOptions,
  type ContractSubject,
  contractSuite,
} from "../contract.ts";
import { LONG, tempDir } from "../helpers.ts";

/** Sectors of the disks under test. */
export const SECTORS = 8192;

/** A disk in memory. */
export function memory(
  more: { blockSize?: number; readOnly?: boolean; sectors?: number } = {},
): MemoryBackend {
  return new MemoryBackend({ sectors: SECTORS, ...more });
}

/** A disk in memory that answers late and in any order. */
export function jittery(seed: number): Backend {
  const spikes = [1, 2, 3].map((ms) => ({
    ratio: { numerator: 1, denominator: 12 },
    ms: ms / 20,
  }));
  return latency(memory(), { seed, spikes });
}

const small = { pieceBytes: 8192, windowBytes: 32_768, memoryBytes: 65_536 };

/** Layers that change nothing of what a disk keeps, by name. */
export const LAYERS: Record<string, (backend: Backend) => Backend> = {
  overlay: (backend) => overlay(backend, { ownsBase: true }),
  "overlay over overlay": (backend) =>
    overlay(overlay(backend, { ownsBase: true }).fork(), { ownsBase: true }),
  "faults with a cache": (backend) => faults(backend, ["flush=kept off"]),
  "faults with a small cache": (backend) =>
    faults(backend, ["flush=kept off"], { cacheBytes: 65_536 }),
  readahead: (backend) => readahead(backend, small),
  verify: (backend) => verify(backend, memory()),
  "all of them": (backend) =>
    readahead(
      overlay(
        trace(
          faults(verify(backend, memory()), ["flush=late off"]),
          () => {},
          { data: true },
        ),
        { ownsBase: true },
      ),
      small,
    ),
};

/**
 * Runs the contract on a layer, over the disk in memory and over a direct one.
 *
 * @param name What is tested, for the titles.
 * @param layer Makes the layer.
 * @param options What the suite should know, and whether closing keeps the
 * layer's content.
 */
export function layerContract(
  name: string,
  layer: (backend: Backend) => Backend,
  options: ContractOptions & { forgets?: boolean } = {},
): void {
  const { forgets = false, ...suite } = options;
  for (const blockSize of LONG ? [512, 4096] : [512]) {
    contractSuite(
      `${name} over memory, blocks of ${blockSize}`,
      () => Promise.resolve({ backend: layer(memory({ blockSize })) }),
      {
        readOnly: () =>
          Promise.resolve({
            backend: layer(memory({ blockSize, readOnly: true })),
          }),
        ...suite,
      },
    );
  }
  contractSuite(`${name} over direct`, async () => {
    const dir = await tempDir();
    const path = await dir.file("disk.img", SECTORS * 512);
    const open = async () =>
      layer(await openBackend(path, { backend: "direct" }));
    const subject: ContractSubject = {
      backend: await open(),
      cleanup: () => dir[Symbol.asyncDispose](),
    };
    if (!forgets) subject.reopen = open;
    return subject;
  }, { ...suite, ignore: Deno.build.os !== "linux" });
}
