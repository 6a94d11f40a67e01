/**
 * When a file is written back before it is read and written past the page cache.
 *
 * @module
 */

import { assertThrows } from "@std/assert";
import fs from "node:fs";
import { writeBack } from "../../src/backends/write_back.ts";

Deno.test({
  name: "writeBack() flushes where nothing is known of the file system",
  ignore: Deno.build.os !== "linux",
  fn() {
    // No descriptor: whether it is flushed shows.
    const none = 1_000_000;
    for (const name of ["ext4", "overlay", null]) writeBack(none, name);
    // What statfs(2) says on Nanos.
    assertThrows(
      () => writeBack(none, "0x0"),
      Error,
      "ad file descriptor",
    );
    // A device that cannot be flushed, and says so.
    const fd = fs.openSync("/dev/null", "r");
    try {
      writeBack(fd, "0x0");
    } finally {
      fs.closeSync(fd);
    }
  },
});
