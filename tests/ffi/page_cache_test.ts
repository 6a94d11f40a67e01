import { assert, assertEquals } from "@std/assert";
import { openLibc } from "../../ffi/libc.ts";
import { addressOf, alignedMemory } from "../../ffi/memory.ts";
import { cachedPages } from "../../ffi/page_cache.ts";
import { statx } from "../../ffi/statx.ts";

const ignore = Deno.build.os !== "linux";

/** Bytes of 16 pages, whatever a page is: 4096 to 65536. */
const PAGES = 16;
const BYTES = PAGES * 65536;

Deno.test({
  name: "cachedPages() counts what buffered I/O leaves, and not direct I/O",
  ignore,
  fn() {
    const libc = openLibc();
    const { O_RDWR, O_CREAT, O_DIRECT } = libc.abi.open;
    const folder = Deno.makeTempDirSync();
    const path = `${folder}/disk.img`;
    const direct = libc.open(path, O_RDWR | O_CREAT | O_DIRECT!, 0o600);
    const buffered = libc.open(path, O_RDWR | O_CREAT, 0o600);
    try {
      const none = cachedPages(libc, buffered, 0, 0);
      // Before Linux 6.5.
      if (none === -libc.abi.errno.ENOSYS) return;
      assertEquals(none, 0);
      const memory = alignedMemory(BYTES).fill(1);
      // Some file systems have no O_DIRECT, and some buffer it.
      const status = direct < 0 ? direct : statx(libc, direct);
      const isDirect = typeof status === "object" &&
        (status.dioOffsetAlign ?? 0) > 0;
      if (isDirect) {
        assertEquals(libc.pwrite(direct, addressOf(memory), BYTES, 0), BYTES);
        assertEquals(cachedPages(libc, direct, 0, 0), 0);
      }
      assertEquals(libc.pwrite(buffered, addressOf(memory), BYTES, 0), BYTES);
      const all = cachedPages(libc, buffered, 0, BYTES);
      assert(all >= PAGES, `${all} pages`);
      assertEquals(cachedPages(libc, buffered, 0, 0), all);
      assertEquals(cachedPages(libc, buffered, 0, BYTES / 2), all / 2);
      assertEquals(cachedPages(libc, buffered, 2 ** 32, BYTES), 0);
    } finally {
      if (direct >= 0) libc.close(direct);
      libc.close(buffered);
      Deno.removeSync(folder, { recursive: true });
    }
  },
});

Deno.test({
  name: "cachedPages() returns -errno",
  ignore,
  fn() {
    const libc = openLibc();
    const { EBADF, ENOSYS } = libc.abi.errno;
    assert([-EBADF, -ENOSYS].includes(cachedPages(libc, -1, 0, 0)));
  },
});
