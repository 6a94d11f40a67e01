/**
 * The limit on the size of files, as the kernel and as a fake tell it.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { fileSizeLimit } from "../../ffi/file_size_limit.ts";
import { openLibc } from "../../ffi/libc.ts";
import { fakeLibc } from "./fake_library.ts";

Deno.test({
  name: "fileSizeLimit() tells this process' limit",
  ignore: Deno.build.os !== "linux",
  fn() {
    const limit = fileSizeLimit(openLibc());
    assert(limit > 0, `${limit}`);
    const text = Deno.readTextFileSync("/proc/self/limits");
    const soft = /^Max file size\s+(\S+)/m.exec(text)![1]!;
    assertEquals(limit, soft === "unlimited" ? Infinity : Number(soft));
  },
});

Deno.test("fileSizeLimit() tells what the kernel refuses, and where there is none to ask", () => {
  const { libc, setErrno } = fakeLibc("linux", "x86_64", {
    syscall: () => {
      setErrno(1);
      return -1;
    },
  });
  assertEquals(fileSizeLimit(libc), -1);
  const { libc: other } = fakeLibc("freebsd", "x86_64");
  assertEquals(fileSizeLimit(other), -other.abi.errno.ENOSYS);
});
