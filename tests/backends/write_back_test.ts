/**
 * When a file is written back before it is read and written past the page cache.
 *
 * @module
 */

import { assertRejects } from "@std/assert";
import fs from "node:fs";
import { writeBack } from "../../src/backends/write_back.ts";

Deno.test({
  name: "writeBack() flushes where nothing is known of the file system",
  ignore: Deno.build.os !== "linux",
  async fn() {
    // A device that cannot be flushed, and says so.
    const fd = fs.openSync("/dev/null", "r");
    try {
      // What statfs(2) says on Nanos.
      await assertRejects(() => writeBack(fd, "0x0"), Error);
      for (const known of ["ext4", "overlay", null]) await writeBack(fd, known);
    } finally {
      fs.closeSync(fd);
    }
  },
});
