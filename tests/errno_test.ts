import { assert, assertEquals } from "@std/assert";
import { abiFor, errnoName } from "../ffi/abi.ts";
import {
  canonicalCode,
  codeOfErrno,
  errnoOf,
  errnoText,
} from "../src/errno.ts";

const abi = abiFor(Deno.build.os, Deno.build.arch);

Deno.test("errnoOf() and codeOfErrno() are each other's inverse", () => {
  for (const code of ["EIO", "ENOSPC", "EROFS", "EAGAIN", "ESHUTDOWN"]) {
    assertEquals(codeOfErrno(errnoOf(code)!), code);
  }
  assertEquals(errnoOf("EWHATEVER"), undefined);
  assertEquals(errnoOf("constructor"), undefined);
  assertEquals(codeOfErrno(4095), undefined);
});

Deno.test({
  name: "errnoOf() and codeOfErrno() say what the direct backend's table says",
  ignore: abi === undefined,
  fn() {
    let known = 0;
    for (const [code, number] of Object.entries(abi!.errno)) {
      const text = errnoText(code);
      // What storage meets has a text, and is known with and without FFI.
      if (text === undefined) continue;
      known++;
      assertEquals(errnoOf(code), number, code);
      assertEquals(codeOfErrno(number), errnoName(abi!, number), code);
    }
    assert(known > 50, `${known} errors have a text`);
    for (let number = 1; number < 200; number++) {
      const code = codeOfErrno(number);
      if (code !== undefined) assertEquals(code, errnoName(abi!, number));
    }
  },
});

Deno.test("canonicalCode() has one name for one number", () => {
  assertEquals(canonicalCode("EWOULDBLOCK"), "EAGAIN");
  assertEquals(canonicalCode("EIO"), "EIO");
  assertEquals(canonicalCode("EWHATEVER"), "EWHATEVER");
  assertEquals(
    canonicalCode("ENOTSUP"),
    errnoOf("ENOTSUP") === errnoOf("EOPNOTSUPP") ? "EOPNOTSUPP" : "ENOTSUP",
  );
});

Deno.test("errnoText() has a text for what storage meets", () => {
  assertEquals(errnoText("EIO"), "Input/output error");
  assertEquals(errnoText("EOPNOTSUPP"), "Operation not supported");
  assertEquals(errnoText("EUCLEAN"), "Structure needs cleaning");
  assertEquals(errnoText("EWHATEVER"), undefined);
  assertEquals(errnoText("constructor"), undefined);
});
