/**
 * The disks that layers are tested over: in memory, and direct on a file.
 *
 * @module
 */

import type { Backend } from "../../src/backend.ts";
import { MemoryBackend } from "../../src/backends/memory.ts";
import { openBackend } from "../../src/open.ts";
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
