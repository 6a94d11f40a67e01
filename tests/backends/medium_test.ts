import { assert, assertEquals, assertMatch } from "@std/assert";
import {
  bufferingReason,
  directLimit,
  FILE_SYSTEMS,
  type FileSystem,
  fileSystemOf,
  flushReach,
  isOverlay,
  overlayAbove,
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
  assertEquals([unknown.zeroesRanges, unknown.cutsToZeroes], [false, false]);
  assertMatch(unknown.limit!, /not known/);
  // The Nanos unikernel says nothing.
  assertEquals(fileSystemOf(0).name, "0x0");
});

Deno.test("FILE_SYSTEMS says why of each that buffers", () => {
  for (const { name, buffers, ignoresDirect, limit } of FILE_SYSTEMS) {
    if (buffers || ignoresDirect) assert(limit !== null, name);
  }
});

const reachOf = (fileSystem: FileSystem) =>
  flushReach(fileSystem, "write back");

Deno.test("flushReach() promises the medium where a file system has its own disk alone", () => {
  const reach = (name: string) =>
    reachOf(FILE_SYSTEMS.find((known) => known.name === name)!);
  assertEquals(reach("ext4"), { flush: "media", reason: null });
  assertEquals(reach("tmpfs").flush, "page cache");
  for (const name of ["nfs", "9p", "fuse", "overlay"]) {
    assertEquals(reach(name).flush, "unknown");
    assertMatch(reach(name).reason!, new RegExp(name));
  }
  assertEquals(reachOf(fileSystemOf(0x1234)).flush, "unknown");
});

Deno.test("flushReach() promises the device's cache where flushes do not get there, if it has one", () => {
  const mounted = { ...named("ext4"), withoutBarriers: true };
  for (const cache of ["write back", "unknown"]) {
    assertEquals(flushReach(mounted, cache), {
      flush: "device cache",
      reason:
        "ext4 is mounted without barriers, so that no flush is sent to the device",
    });
  }
  assertEquals(flushReach(mounted, "write through").flush, "media");
});

const NOTHING = { statxAligns: false, noCow: false };
const ALIGNS = { statxAligns: true, noCow: false };
const named = (name: string) =>
  FILE_SYSTEMS.find((known) => known.name === name)!;

Deno.test("bufferingReason() takes the word of statx where that tells, and of no other", () => {
  for (const name of ["ext4", "xfs"]) {
    assertEquals(bufferingReason(named(name), NOTHING), null);
  }
  // ZFS from 2.3 on, an overlay above ext4, the Nanos unikernel.
  for (const one of [named("zfs"), named("overlay"), fileSystemOf(0)]) {
    assertMatch(bufferingReason(one, NOTHING)!, new RegExp(`^${one.name} `));
    assertEquals(bufferingReason(one, ALIGNS), null);
  }
  for (const name of ["nfs", "cifs", "smb2", "9p", "ceph", "fuse", "tmpfs"]) {
    assertMatch(bufferingReason(named(name), ALIGNS)!, new RegExp(`^${name} `));
  }
  const btrfs = named("btrfs");
  assertMatch(bufferingReason(btrfs, NOTHING)!, /checksums/);
  assertEquals(bufferingReason(btrfs, { ...NOTHING, noCow: true }), null);
  // The flag means nothing elsewhere.
  const elsewhere = { ...NOTHING, noCow: true };
  assertMatch(bufferingReason(named("nfs"), elsewhere)!, /^nfs /);
});

Deno.test("overlayAbove() is as good as what is below", () => {
  assert(isOverlay(named("overlay")));
  const above = (name: string) => overlayAbove(named(name), false);
  for (const { name } of FILE_SYSTEMS) {
    const overlay = above(name);
    assertEquals([overlay.name, overlay.below], ["overlay", name]);
    assertEquals(isOverlay(overlay), false);
    assertEquals(overlay.zeroesRanges, named(name).zeroesRanges);
    assertEquals(overlay.alignedAsDevice, false);
    assertEquals(reachOf(overlay).flush, reachOf(named(name)).flush);
    assertEquals(
      bufferingReason(overlay, NOTHING) === null,
      bufferingReason(named(name), NOTHING) === null,
    );
    const volatile = reachOf(overlayAbove(named(name), true));
    assertEquals(volatile.flush, "page cache");
    assertMatch(volatile.reason!, /mounted volatile/);
  }
  assertEquals(reachOf(above("ext4")), { flush: "media", reason: null });
  assertMatch(reachOf(above("tmpfs")).reason!, /^overlay above tmpfs /);
  assertMatch(directLimit(above("btrfs"))!, /^overlay above btrfs buffers/);
  assertMatch(bufferingReason(above("tmpfs"), ALIGNS)!, /in memory/);
  const noCow = { ...NOTHING, noCow: true };
  assertEquals(bufferingReason(above("btrfs"), noCow), null);
  const unseen = overlayAbove(null, false);
  assertEquals(reachOf(unseen).flush, "unknown");
  assertMatch(bufferingReason(unseen, NOTHING)!, /cannot be told from here/);
  assertEquals(reachOf(overlayAbove(null, true)).flush, "page cache");
});

Deno.test("FILE_SYSTEMS gives ranges up where that was tried, and cuts where that holds", () => {
  const zeroing = FILE_SYSTEMS.filter(({ zeroesRanges }) => zeroesRanges);
  assertEquals(zeroing.map(({ name }) => name), [
    ...["ext4", "xfs", "btrfs", "tmpfs"],
  ]);
  const keeping = FILE_SYSTEMS.filter(({ cutsToZeroes }) => !cutsToZeroes);
  assertEquals(keeping.map(({ name }) => name), ["zfs"]);
});
