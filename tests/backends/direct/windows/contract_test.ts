/**
 * The backend contract over a Windows of the tests' own, which refuses what
 * Windows refuses.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { Windows } from "../../../../ffi/windows.ts";
import type { EngineName } from "../../../../src/engines/choose_engine.ts";
import { openOnWindows } from "../../../../src/backends/direct/windows/mod.ts";
import { SECTOR_BYTES } from "../../../../src/geometry.ts";
import { type ContractSubject, contractSuite } from "../../../contract.ts";
import { FakeWindows } from "../../../ffi/fake_windows.ts";
import { LONG, tempDir } from "../../../helpers.ts";

const SECTORS = 4 * 1_048_576 / SECTOR_BYTES;

function file(
  engine: EngineName,
  depth: number,
  direct: "require" | "never",
  sector: number,
): () => Promise<ContractSubject> {
  return async () => {
    await using stack = new AsyncDisposableStack();
    const dir = stack.use(await tempDir());
    const path = dir.join("disk.img");
    const fake = new FakeWindows({ sector });
    const windows = new Windows(fake.openLibrary);
    const open = (create: boolean) =>
      openOnWindows(
        path,
        {
          readOnly: false,
          direct,
          lock: "auto",
          blockSize: 512,
          ...(create
            ? {
              create: { sizeBytes: SECTORS * SECTOR_BYTES, overwrite: false },
            }
            : {}),
        },
        { engine, depth, stallMs: 0.1, pollMs: 0.1 },
        windows,
      );
    const backend = await open(true);
    assertEquals(backend.info.direct.active, direct === "require");
    assertEquals(backend.info.engine.name, engine);
    const kept = stack.move();
    return {
      backend,
      reopen: () => open(false),
      cleanup: async () => {
        assertEquals([fake.refused, fake.openHandles], [0, 0]);
        assertEquals(fake.openLibraries, 0);
        await kept.disposeAsync();
      },
    };
  };
}

const ignore = Deno.build.os === "windows";

contractSuite(
  "a completion port",
  file("iocp", 64, "require", 512),
  { ignore },
);

for (const sector of LONG ? [512, 4096] : []) {
  for (const direct of ["require", "never"] as const) {
    for (const [engine, depth] of [["iocp", 2], ["sync", 64]] as const) {
      contractSuite(
        `${engine}, ${depth} at once, sectors of ${sector} bytes, direct: ${direct}`,
        file(engine, depth, direct, sector),
        { ignore },
      );
    }
  }
}
