import {
  assertEquals,
  assertInstanceOf,
  assertStrictEquals,
} from "@std/assert";
import { describePlace, DiskError, kindOfCode } from "../src/errors.ts";

Deno.test("DiskError has what it was given, and nothing else", () => {
  const cause = new Error("Below");
  const error = new DiskError("io", "Cannot read", {
    operation: "read",
    path: "disk.img",
    sector: 8,
    count: 2,
    errno: 5,
    code: "EIO",
    cause,
  });
  assertInstanceOf(error, Error);
  assertEquals(error.name, "DiskError");
  assertEquals(error.message, "Cannot read");
  assertEquals(error.kind, "io");
  assertEquals([error.operation, error.path], ["read", "disk.img"]);
  assertEquals([error.sector, error.count], [8, 2]);
  assertEquals([error.errno, error.code], [5, "EIO"]);
  assertStrictEquals(error.cause, cause);
  const bare = new DiskError("closed", "Cannot read");
  assertEquals([bare.operation, bare.path, bare.sector, bare.errno], [
    undefined,
    undefined,
    undefined,
    undefined,
  ]);
});

Deno.test("kindOfCode() knows what is no plain I/O error", () => {
  const kinds = {
    EACCES: "permission",
    EPERM: "permission",
    EROFS: "read-only",
    ENOENT: "not-found",
    EEXIST: "exists",
    ENOSPC: "no-space",
    EDQUOT: "no-space",
    EOPNOTSUPP: "unsupported",
    ENOSYS: "unsupported",
    EIO: "io",
    EWHATEVER: "io",
    toString: "io",
    ["__proto__"]: "io",
  };
  for (const [code, kind] of Object.entries(kinds)) {
    assertEquals(kindOfCode(code), kind, code);
  }
});

Deno.test("describePlace() names as much as is known", () => {
  assertEquals(describePlace("flush"), "flush");
  assertEquals(describePlace("flush", undefined, undefined, "a"), 'flush "a"');
  assertEquals(describePlace("read", 8, 1), "read 1 sector at sector 8");
  assertEquals(
    describePlace("write", 16, 8, "disk.img"),
    'write 8 sectors at sector 16 of "disk.img"',
  );
});
