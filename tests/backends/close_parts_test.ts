import { assertEquals, assertRejects } from "@std/assert";
import fs from "node:fs";
import { closeParts } from "../../src/backends/close_parts.ts";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { DiskError } from "../../src/errors.ts";
import { tempDir } from "../helpers.ts";

/** What close(2) says of a file on a network whose data was lost. */
function failure(): Error {
  const error = new Error("EIO: i/o error, close");
  return Object.assign(error, { code: "EIO", errno: -5, syscall: "close" });
}

Deno.test("closeParts() closes all in order, and tells the first failure", async () => {
  const closed: number[] = [];
  const part = (number: number, error?: Error) => () => {
    closed.push(number);
    if (error !== undefined) throw error;
  };
  const error = await assertRejects(
    () =>
      closeParts("disk.img", [
        part(1),
        part(2, failure()),
        () => Promise.resolve(part(3)()),
        part(4, new Error("later")),
      ]),
    DiskError,
  );
  assertEquals(closed, [1, 2, 3, 4]);
  assertEquals([error.kind, error.code, error.operation], [
    "io",
    "EIO",
    "close",
  ]);
});

Deno.test("a portable disk whose close fails lets go of its image", async () => {
  await using dir = await tempDir();
  const path = dir.join("disk.img");
  const create = { size: "64KiB", backend: "portable" } as const;
  const disk = await VirtualDisk.create(path, create);
  await disk.write(0, new Uint8Array(512));
  const { closeSync } = fs;
  let calls = 0;
  fs.closeSync = (fd) => {
    closeSync(fd);
    if (calls++ === 0) throw failure();
  };
  try {
    const error = await assertRejects(() => disk.close(), DiskError);
    assertEquals(error.code, "EIO");
  } finally {
    fs.closeSync = closeSync;
  }
  for (const backend of ["portable", "auto"] as const) {
    await using _again = await VirtualDisk.open(path, { backend });
  }
});
