/**
 * The backend contract where the environment says: in the folder that
 * `PLATTER_TEST_DIR` names, or on the device that `PLATTER_TEST_DEVICE` names,
 * whose content it destroys. Of every engine that is to be had there, and of the
 * portable backend; direct where it is to be had.
 *
 * Platforms run it where they are; it is no test of this machine's.
 *
 * @module
 */

import { openPortable } from "../../src/backends/portable/mod.ts";
import { type ContractSubject, contractSuite } from "../contract.ts";
import { ENGINES, hasEngine, openWith } from "../backends/direct/harness.ts";
import { tempDir } from "../helpers.ts";

const IMAGE_BYTES = 4 << 20;

const device = Deno.env.get("PLATTER_TEST_DEVICE");

/** A backend over the device, or over an image of a folder of its own. */
async function subject(
  open: (path: string) => Promise<ContractSubject["backend"]>,
): Promise<ContractSubject> {
  if (device !== undefined) {
    // Every test finds it as a new one.
    using file = await Deno.open(device, { write: true });
    for (let at = 0; at < IMAGE_BYTES; at += 1 << 20) {
      await file.write(new Uint8Array(1 << 20));
    }
    await file.sync();
    return { backend: await open(device), reopen: () => open(device) };
  }
  const dir = await tempDir();
  try {
    const path = await dir.file("disk.img", IMAGE_BYTES);
    return {
      backend: await open(path),
      reopen: () => open(path),
      cleanup: () => dir[Symbol.asyncDispose](),
    };
  } catch (error) {
    await dir[Symbol.asyncDispose]();
    throw error;
  }
}

for (const engine of ENGINES) {
  contractSuite(
    `direct backend, ${engine}`,
    () => subject((path) => openWith(path, engine, 64)),
    { ignore: Deno.build.os !== "linux" || !hasEngine(engine) },
  );
}

contractSuite(
  "portable backend",
  () => subject((path) => openPortable(path, { direct: "prefer" })),
);
