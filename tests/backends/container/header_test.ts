/**
 * What a container's header names, made up and mutated: a list of names or a
 * typed error, soon, and from few bytes.
 *
 * @module
 */

import { assert, assertEquals, assertThrows } from "@std/assert";
import {
  HeaderError,
  isForReading,
  otherFilesOf,
  type ReadAt,
  virtualBytesOf,
} from "../../../src/backends/container/header.ts";
import {
  CONTAINER_FORMATS,
  type ContainerFormat,
  containerOf,
  contentFormatOf,
  FORMAT_BYTES,
  formatsOfName,
} from "../../../src/content_format.ts";
import { Random } from "../../../src/random.ts";
import { LONG, needs, run, tempDir } from "../../helpers.ts";

/** Mutations of one image; eight images make 2,000, or 100,000. */
const MUTATIONS = LONG ? 12_500 : 250;

/** Bytes that finding the names may read: a descriptor, and then some. */
const MOST_READ = 1_250_000;

function readerOf(bytes: Uint8Array): { read: ReadAt; count: () => number } {
  let count = 0;
  return {
    read(offset, length) {
      assert(Number.isSafeInteger(offset) && offset >= 0, `offset ${offset}`);
      assert(Number.isSafeInteger(length) && length >= 0, `length ${length}`);
      count += length;
      return bytes.slice(offset, offset + length);
    },
    count: () => count,
  };
}

function namesIn(format: ContainerFormat, bytes: Uint8Array) {
  const { read, count } = readerOf(bytes);
  try {
    return otherFilesOf(format, read, bytes.length);
  } finally {
    assert(count() <= MOST_READ, `it reads ${count()} bytes`);
  }
}

/** A VMDK's descriptor with one line more. */
const descriptor = (...lines: string[]) =>
  new TextEncoder().encode(
    ["# Disk DescriptorFile", "version=1", "parentCID=ffffffff", ...lines]
      .join("\n") + "\n",
  );

Deno.test("otherFilesOf() reads the extents and the parent of a VMDK's descriptor", () => {
  assertEquals(
    namesIn(
      "vmdk",
      descriptor(
        'RW 2048 FLAT "one-flat.vmdk" 0',
        '  RDONLY 2048 SPARSE "/etc/two.vmdk"',
        "RW 2048 ZERO",
      ),
    ),
    [
      { role: "extent", name: "one-flat.vmdk", format: null },
      { role: "extent", name: "/etc/two.vmdk", format: null },
    ],
  );
  const parent = new TextEncoder().encode(
    '# Disk DescriptorFile\nparentCID=12345678\nparentFileNameHint="/a b.vmdk"\nRW 1 FLAT "x" 0\n',
  );
  assertEquals(namesIn("vmdk", parent)[0], {
    role: "backing file",
    name: "/a b.vmdk",
    format: "vmdk",
  });
});

Deno.test("otherFilesOf() takes a sparse VMDK without sectors for its descriptor", () => {
  const bytes = new Uint8Array(2048);
  const view = new DataView(bytes.buffer);
  bytes.set(new TextEncoder().encode("KDMV"));
  view.setBigUint64(28, 1n, true);
  view.setBigUint64(36, 2n, true);
  bytes.set(descriptor('RW 2048 FLAT "/etc/shadow" 0'), 512);
  const [extent] = namesIn("vmdk", bytes);
  assertEquals(extent?.name, "/etc/shadow");
  // With sectors of its own, QEMU leaves the extents alone.
  view.setBigUint64(12, 2048n, true);
  assertEquals(namesIn("vmdk", bytes), []);
});

Deno.test("otherFilesOf() refuses a header that cannot be what it says", () => {
  const qcow2 = (change: (view: DataView) => void) => {
    const bytes = new Uint8Array(512);
    const view = new DataView(bytes.buffer);
    bytes.set(new TextEncoder().encode("QFI"));
    view.setUint8(3, 0xfb);
    view.setUint32(4, 3);
    view.setUint32(100, 104);
    change(view);
    return bytes;
  };
  const cases: [ContainerFormat, Uint8Array, string][] = [
    ["qcow2", new Uint8Array(50), "ends within its header"],
    ["qcow2", qcow2((v) => v.setUint32(4, 9)), "version must be 2 or 3"],
    [
      "qcow2",
      qcow2((v) => v.setUint32(76, 4)),
      "has its data in another file and names none",
    ],
    [
      "qcow2",
      qcow2((v) => (v.setBigUint64(8, 256n), v.setUint32(16, 1024))),
      "1023 bytes at most: current value is 1024",
    ],
    [
      "qcow2",
      qcow2((v) => (v.setBigUint64(8, 500n), v.setUint32(16, 100))),
      "ends before the name",
    ],
    [
      "qcow2",
      qcow2((v) => (v.setBigUint64(8, 2n ** 63n), v.setUint32(16, 10))),
      "backing file",
    ],
    [
      "qcow2",
      qcow2((v) => (v.setBigUint64(8, 256n), v.setUint32(16, 8))),
      "names a file without saying which",
    ],
    ["vmdk", descriptor(), "names no extents"],
    ["vmdk", descriptor('RW 1 FLAT "" 0'), "without saying which"],
    [
      "vmdk",
      descriptor(...Array(5000).fill('RW 1 FLAT "x" 0')),
      "4096 extents at most",
    ],
    ["vhd", new Uint8Array(1024), "has no footer"],
  ];
  for (const [format, bytes, words] of cases) {
    assertThrows(() => namesIn(format, bytes), HeaderError, words);
  }
  const vhd = new Uint8Array(1024);
  vhd.set(new TextEncoder().encode("conectix"), 512);
  new DataView(vhd.buffer).setUint32(512 + 60, 4);
  assertThrows(() => namesIn("vhd", vhd), HeaderError, "differs from a parent");
});

Deno.test({
  name:
    "otherFilesOf() and contentFormatOf() take any mutation of an image that QEMU makes",
  ...needs("qemu-img"),
  async fn() {
    const seed = crypto.getRandomValues(new Uint32Array(1))[0]!;
    const random = new Random(seed);
    await using dir = await tempDir();
    const base = await dir.file("base.img", 1_048_576);
    const images: [ContainerFormat, string, ...string[]][] = [
      ["qcow2", "qcow2", "-b", base, "-F", "raw"],
      ["qcow2", "qcow2", "-o", "compat=0.10", "1M"],
      ["qed", "qed", "-b", base, "-F", "raw"],
      ["qcow", "qcow", "1M"],
      ["vmdk", "vmdk", "1M"],
      ["vmdk", "vmdk", "-o", "subformat=monolithicFlat", "1M"],
      ["vhd", "vpc", "1M"],
      ["vdi", "vdi", "1M"],
    ];
    const found: Record<string, number> = {};
    for (const [format, tool, ...args] of images) {
      const path = dir.join(`disk.${tool}`);
      const size = args.at(-1) === "1M" ? args.splice(-1) : [];
      await run("qemu-img", [
        ...["create", "-q", "-f", tool, ...args, path, ...size],
      ]);
      // The first clusters, and for a VHD the end.
      const whole = await Deno.readFile(path);
      const bytes = format === "vhd"
        ? whole.slice(-4096)
        : whole.slice(0, 8192);
      assertEquals(containerOf(ends(bytes)), format);
      namesIn(format, bytes);
      for (let i = 0; i < MUTATIONS; i++) {
        const mutant = mutate(bytes, random);
        const kind = containerOf(ends(mutant));
        const tried = kind ?? format;
        let outcome: string;
        try {
          outcome = `${namesIn(tried, mutant).length} names`;
          const { read } = readerOf(mutant);
          isForReading(tried, read);
          const bytes = virtualBytesOf(tried, read, mutant.length);
          assert(bytes === null || Number.isSafeInteger(bytes) && bytes >= 0);
        } catch (error) {
          const place = `seed ${seed}, ${format}, mutation ${i}: ${error}`;
          assert(error instanceof HeaderError, place);
          outcome = "refused";
        }
        found[outcome] = (found[outcome] ?? 0) + 1;
      }
    }
    // It is not one answer to everything.
    assert(Object.keys(found).length > 2, JSON.stringify(found));
  },
});

function ends(bytes: Uint8Array): string | null {
  return contentFormatOf(
    bytes.subarray(0, FORMAT_BYTES),
    bytes.subarray(-FORMAT_BYTES),
  );
}

/** Bits, bytes, numbers of note, cuts and copies, mostly near the start. */
function mutate(bytes: Uint8Array, random: Random): Uint8Array {
  let mutant = bytes.slice();
  for (let times = 1 + random.below(4); times > 0; times--) {
    const end = Math.min(mutant.length - 8, random.pick([128, 600, 8192]));
    if (end < 1) break;
    const at = random.below(end);
    const view = new DataView(mutant.buffer);
    switch (random.below(6)) {
      case 0:
        view.setUint8(at, view.getUint8(at) ^ (1 << random.below(8)));
        break;
      case 1:
        view.setUint8(at, random.below(256));
        break;
      case 2:
        view.setUint32(at, random.pick([0, 1, 0x7fff_ffff, 0xffff_ffff]));
        break;
      case 3:
        view.setBigUint64(at, random.pick([0n, 1n, 2n ** 53n, 2n ** 64n - 1n]));
        break;
      case 4:
        mutant = mutant.slice(0, random.below(mutant.length));
        break;
      default:
        mutant.copyWithin(at, random.below(end), random.below(mutant.length));
    }
  }
  return mutant;
}

Deno.test("contentFormatOf() finds a signature only where it belongs", () => {
  const text = (value: string) =>
    Uint8Array.from(value, (character) => character.charCodeAt(0));
  const at = (offset: number, value: string) => {
    const bytes = new Uint8Array(512);
    bytes.set(text(value), offset);
    return bytes;
  };
  const zeroes = new Uint8Array(512);
  assertEquals(contentFormatOf(at(0, "QFI\xfb\0\0\0\x03"), zeroes), "qcow2");
  assertEquals(contentFormatOf(at(0, "QFI\xfb\0\0\0\x01"), zeroes), "qcow");
  assertEquals(contentFormatOf(at(1, "QFI\xfb\0\0\0\x03"), zeroes), null);
  assertEquals(contentFormatOf(zeroes, at(0, "koly")), "DMG");
  assertEquals(contentFormatOf(at(0, "koly"), zeroes), null);
  assertEquals(contentFormatOf(zeroes, at(0, "conectix")), "VHD");
  assertEquals(contentFormatOf(zeroes, at(1, "conectix")), "VHD");
  assertEquals(contentFormatOf(zeroes, at(2, "conectix")), null);
  for (
    const [value, found] of [
      ["# comment\r\n\r\nversion=1\r\n", "VMDK"],
      ["version=3\n", "VMDK"],
      ["version=4\n", null],
      ["# version=1\n", null],
      ["#!/bin/sh\nversion=10\n", null],
    ] as const
  ) assertEquals(contentFormatOf(text(value), zeroes), found, value);
});

Deno.test("formatsOfName() reads a name's ending, and knows the raw half of a VMDK", () => {
  const cases: [string, readonly string[]][] = [
    ["/a/disk.qcow2", ["qcow2"]],
    ["DISK.VMDK", ["vmdk"]],
    ["disk.vhd", ["vhd"]],
    ["disk.qcow", ["qcow", "qcow2"]],
    ["disk-flat.vmdk", []],
    ["disk-f001.vmdk", []],
    ["disk-s001.vmdk", ["vmdk"]],
    ["disk.img", []],
    ["/a.qcow2/disk", []],
    ["qcow2", []],
    ["disk.", []],
    ["disk.constructor", []],
    ["disk.qcow2.bak", []],
  ];
  for (const [path, formats] of cases) {
    assertEquals(formatsOfName(path), formats, path);
  }
  // Every format but Parallels', whose usual ending is that of many raw disks,
  // goes by its own name.
  for (const format of CONTAINER_FORMATS) {
    const named = formatsOfName(`disk.${format}`);
    assertEquals(named.includes(format), format !== "parallels", format);
  }
});
