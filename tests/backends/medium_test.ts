import { assert, assertEquals, assertMatch } from "@std/assert";
import {
  FILE_SYSTEMS,
  fileSystemOf,
  flushReach,
} from "../../src/backends/medium.ts";

Deno.test("fileSystemOf() has the numbers of statfs(2)", () => {
  const numbers = {
    ext4: 0xef53,
    xfs: 0x58465342,
    btrfs: 0x9123683e,
    tmpfs: 0x01021994,
    zfs: 0x2fc12fc1,
    nfs: 0x6969,
    fuse: 0x65735546,
    overlay: 0x794c7630,
  };
  for (const [name, magic] of Object.entries(numbers)) {
    assertEquals(fileSystemOf(magic).name, name);
  }
  const all = FILE_SYSTEMS.flatMap(({ magic, name }) => [magic, name]);
  assertEquals(new Set(all).size, all.length);
});

Deno.test("fileSystemOf() relies on nothing of a file system that it does not know", () => {
  const unknown = fileSystemOf(0x1234);
  assertEquals([unknown.name, unknown.local], ["0x1234", false]);
  assertEquals(unknown.alignedAsDevice, false);
  assertMatch(unknown.limit!, /not known/);
});

Deno.test("FILE_SYSTEMS says why of each that buffers", () => {
  for (const { name, buffers, ignoresDirect, limit } of FILE_SYSTEMS) {
    if (buffers || ignoresDirect) assert(limit !== null, name);
  }
});

Deno.test("flushReach() promises the medium where a file system has its own disk alone", () => {
  const reach = (name: string) =>
    flushReach(FILE_SYSTEMS.find((known) => known.name === name)!);
  assertEquals(reach("ext4"), { flush: "media", reason: null });
  assertEquals(reach("tmpfs").flush, "page cache");
  for (const name of ["nfs", "9p", "fuse", "overlay"]) {
    assertEquals(reach(name).flush, "unknown");
    assertMatch(reach(name).reason!, new RegExp(name));
  }
  assertEquals(flushReach(fileSystemOf(0x1234)).flush, "unknown");
});
