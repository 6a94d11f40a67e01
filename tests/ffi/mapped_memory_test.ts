/**
 * Memory from the kernel: what it is like, and that it goes.
 *
 * @module
 */

import { assert, assertEquals, assertFalse, assertThrows } from "@std/assert";
import { openLibc } from "../../ffi/libc.ts";
import { mapMemory } from "../../ffi/mapped_memory.ts";

const ignore = Deno.build.os !== "linux";

/** Whether an address is mapped, by the kernel's own list. */
function isMapped(address: number): boolean {
  return Deno.readTextFileSync("/proc/self/maps").split("\n").some((line) => {
    const range = /^([0-9a-f]+)-([0-9a-f]+) /.exec(line);
    return range !== null && parseInt(range[1]!, 16) <= address &&
      address < parseInt(range[2]!, 16);
  });
}

Deno.test({
  name: "mapMemory() gives zeroed pages until they are given back",
  ignore,
  fn() {
    const libc = openLibc();
    for (const size of [1, 4096, 16_384, 1_048_576, 67_108_864]) {
      const { bytes, address, release } = mapMemory(libc, size);
      assertEquals(bytes.length, size);
      assertEquals(address % 4096, 0);
      assert(isMapped(address));
      assertEquals([bytes[0], bytes[size >> 1], bytes[size - 1]], [0, 0, 0]);
      bytes.fill(0xff, Math.max(0, size - 4096));
      release();
      assertFalse(isMapped(address));
    }
  },
});

Deno.test({
  name: "mapMemory() shows the memory that the kernel sees",
  ignore,
  async fn() {
    const libc = openLibc();
    const path = await Deno.makeTempFile();
    const { bytes, address, release } = mapMemory(libc, 8192);
    const fd = libc.open(path, libc.abi.open.O_RDWR);
    try {
      bytes.fill(0x5a);
      assertEquals(libc.pwrite(fd, address, 8192, 0), 8192);
      assertEquals(await Deno.readFile(path), new Uint8Array(8192).fill(0x5a));
      await Deno.writeFile(path, new Uint8Array(4096).fill(0x11));
      assertEquals(libc.pread(fd, address, 4096, 0), 4096);
      assertEquals([bytes[0], bytes[4095], bytes[4096]], [0x11, 0x11, 0x5a]);
    } finally {
      libc.close(fd);
      release();
      await Deno.remove(path);
    }
  },
});

Deno.test({
  name: "mapMemory() throws if there is no memory left",
  ignore,
  fn() {
    const libc = openLibc();
    assertThrows(() => mapMemory(libc, 0), RangeError, "errno 22");
    assertThrows(() => mapMemory(libc, 2 ** 52), RangeError, "errno 12");
  },
});
