import { assertEquals, assertThrows } from "@std/assert";
import type { Abilities } from "../src/backend.ts";
import { makeGeometry } from "../src/geometry.ts";
import { Random } from "../src/random.ts";
import {
  CONFIG_BYTES,
  configOf,
  decodeConfig,
  decodeId,
  encodeConfig,
  encodeId,
  featureBits,
  featureNames,
  featuresOf,
  hasFeature,
  type VirtioConfig,
  VirtioFeature,
} from "../src/virtio.ts";

const ALL: Abilities = {
  readOnly: false,
  flush: "native",
  fua: "native",
  discard: "native",
  writeZeroes: "native",
  secureErase: "native",
};

const NONE: Abilities = {
  readOnly: false,
  flush: "none",
  fua: "none",
  discard: "none",
  writeZeroes: "none",
  secureErase: "none",
};

/** Offset and width of every field, as the specification has them. */
const LAYOUT: Record<string, [offset: number, bytes: number]> = {
  capacity: [0, 8],
  sizeMax: [8, 4],
  segMax: [12, 4],
  cylinders: [16, 2],
  heads: [18, 1],
  trackSectors: [19, 1],
  blkSize: [20, 4],
  physicalBlockExp: [24, 1],
  alignmentOffset: [25, 1],
  minIoSize: [26, 2],
  optIoSize: [28, 4],
  writeback: [32, 1],
  numQueues: [34, 2],
  maxDiscardSectors: [36, 4],
  maxDiscardSeg: [40, 4],
  discardSectorAlignment: [44, 4],
  maxWriteZeroesSectors: [48, 4],
  maxWriteZeroesSeg: [52, 4],
  writeZeroesMayUnmap: [56, 1],
  maxSecureEraseSectors: [60, 4],
  maxSecureEraseSeg: [64, 4],
  secureEraseSectorAlignment: [68, 4],
  "zoned.zoneSectors": [72, 4],
  "zoned.maxOpenZones": [76, 4],
  "zoned.maxActiveZones": [80, 4],
  "zoned.maxAppendSectors": [84, 4],
  "zoned.writeGranularity": [88, 4],
  "zoned.model": [92, 1],
};

type Numbers = Record<string, number>;

/** Sets a field by its name in the layout. */
function setField(config: VirtioConfig, name: string, value: number): void {
  const [outer, inner] = name.split(".");
  if (inner === undefined) (config as unknown as Numbers)[outer!] = value;
  else (config.zoned as unknown as Numbers)[inner] = value;
}

function emptyConfig(): VirtioConfig {
  return decodeConfig(new Uint8Array(CONFIG_BYTES));
}

Deno.test("VirtioFeature has the bits of the specification", () => {
  assertEquals(VirtioFeature, {
    SizeMax: 1,
    SegMax: 2,
    Geometry: 4,
    ReadOnly: 5,
    BlkSize: 6,
    Flush: 9,
    Topology: 10,
    ConfigWce: 11,
    MultiQueue: 12,
    Discard: 13,
    WriteZeroes: 14,
    Lifetime: 15,
    SecureErase: 16,
    Zoned: 17,
    IndirectDescriptors: 28,
    EventIndex: 29,
    Version1: 32,
    AccessPlatform: 33,
    RingPacked: 34,
    InOrder: 35,
    OrderPlatform: 36,
    SrIov: 37,
    NotificationData: 38,
    NotificationConfigData: 39,
    RingReset: 40,
    AdminQueue: 41,
    Suspend: 43,
  });
});

Deno.test("featureBits(), hasFeature() and featureNames() agree", () => {
  const bits = featureBits(VirtioFeature.Flush, VirtioFeature.Version1);
  assertEquals(bits, 0x1_0000_0200n);
  assertEquals(hasFeature(bits, VirtioFeature.Flush), true);
  assertEquals(hasFeature(bits, VirtioFeature.Discard), false);
  assertEquals(hasFeature(bits, VirtioFeature.Version1), true);
  assertEquals(featureNames(bits | 1n << 42n), ["Flush", "Version1", "bit 42"]);
  assertEquals(featureNames(0n), []);
});

Deno.test("encodeConfig() puts every field where the specification has it", () => {
  for (const [name, [offset, width]] of Object.entries(LAYOUT)) {
    const config = emptyConfig();
    // Bytes 1, 2, 3 … little endian: the order shows.
    let value = 0;
    for (let i = Math.min(width, 6); i > 0; i--) value = value * 256 + i;
    setField(config, name, value);
    const expected = new Uint8Array(CONFIG_BYTES);
    for (let i = 0; i < Math.min(width, 6); i++) expected[offset + i] = i + 1;
    assertEquals(encodeConfig(config), expected, name);
  }
});

Deno.test("decodeConfig() reads back what encodeConfig() wrote", () => {
  const random = new Random(0x5ec70a);
  for (let round = 0; round < 200; round++) {
    const config = emptyConfig();
    for (const [name, [, width]] of Object.entries(LAYOUT)) {
      const value = width === 8
        ? random.below(2 ** 21) * 2 ** 32 + random.next()
        : random.next() % 2 ** (width * 8);
      setField(config, name, value);
    }
    assertEquals(decodeConfig(encodeConfig(config)), config);
  }
});

Deno.test("decodeConfig() takes shorter and longer configurations", () => {
  const whole = new Uint8Array(128).fill(0xff);
  whole.set([8, 0, 0, 0, 0, 0, 0, 0]);
  assertEquals(decodeConfig(whole).zoned.model, 255);
  const short = decodeConfig(whole.subarray(0, 60));
  assertEquals(short.writeZeroesMayUnmap, 255);
  assertEquals(short.maxSecureEraseSectors, 0);
  assertEquals(short.zoned.zoneSectors, 0);
  assertThrows(() => decodeConfig(whole.subarray(0, 7)), RangeError, "is 7");
  const huge = new Uint8Array(96).fill(0xff);
  assertThrows(() => decodeConfig(huge), RangeError, "safe integer");
});

Deno.test("encodeConfig() throws on what does not fit its field", () => {
  for (const [name, [, width]] of Object.entries(LAYOUT)) {
    const wrong = width === 8 ? [2 ** 53] : [2 ** (width * 8)];
    for (const value of [...wrong, -1, 0.5, NaN]) {
      const config = emptyConfig();
      setField(config, name, value);
      assertThrows(
        () => encodeConfig(config),
        RangeError,
        `${name.split(".").at(-1)} must be an integer`,
      );
    }
  }
});

Deno.test("featuresOf() offers what the disk can do", () => {
  assertEquals(featureNames(featuresOf(NONE)), [
    "SegMax",
    "BlkSize",
    "Topology",
    "Version1",
  ]);
  assertEquals(featureNames(featuresOf(ALL)), [
    "SegMax",
    "BlkSize",
    "Flush",
    "Topology",
    "Discard",
    "WriteZeroes",
    "SecureErase",
    "Version1",
  ]);
  assertEquals(
    featureNames(featuresOf({ ...ALL, readOnly: true }, {
      queues: 4,
      configWce: true,
    })),
    [
      "SegMax",
      "ReadOnly",
      "BlkSize",
      "Flush",
      "Topology",
      "ConfigWce",
      "MultiQueue",
      "Version1",
    ],
  );
});

Deno.test("featuresOf() offers no cache switch without a flush", () => {
  const bits = featuresOf(NONE, { configWce: true });
  assertEquals(hasFeature(bits, VirtioFeature.ConfigWce), false);
});

Deno.test("configOf() describes a disk of 4 KiB blocks", () => {
  const geometry = makeGeometry(2 ** 40, 4096, {
    physicalBlockSize: 16_384,
    minimumIoSize: 16_384,
    optimalIoSize: 1 << 20,
  });
  assertEquals(configOf(geometry, ALL, { queues: 3 }), {
    ...emptyConfig(),
    capacity: 2 ** 40,
    segMax: 126,
    blkSize: 4096,
    physicalBlockExp: 2,
    minIoSize: 4,
    optIoSize: 256,
    writeback: 1,
    numQueues: 3,
    maxDiscardSectors: 32_768,
    maxDiscardSeg: 1,
    discardSectorAlignment: 8,
    maxWriteZeroesSectors: 32_768,
    maxWriteZeroesSeg: 1,
    writeZeroesMayUnmap: 1,
    maxSecureEraseSectors: 32_768,
    maxSecureEraseSeg: 1,
    secureEraseSectorAlignment: 8,
  });
});

Deno.test("configOf() leaves what is not offered at 0", () => {
  assertEquals(configOf(makeGeometry(64), NONE), {
    ...emptyConfig(),
    capacity: 64,
    segMax: 126,
    blkSize: 512,
  });
  const emulated = configOf(makeGeometry(64), {
    ...NONE,
    flush: "native",
    writeZeroes: "emulated",
  }, { writeback: false, maxRangeSectors: 100, maxRanges: 7 });
  assertEquals(emulated.writeback, 0);
  assertEquals(emulated.maxWriteZeroesSectors, 100);
  assertEquals(emulated.maxWriteZeroesSeg, 7);
  assertEquals(emulated.writeZeroesMayUnmap, 0);
});

Deno.test("configOf() keeps ranges in whole blocks and options in range", () => {
  const geometry = makeGeometry(1024, 4096);
  const config = configOf(geometry, ALL, { maxRangeSectors: 15 });
  assertEquals(config.maxDiscardSectors, 8);
  assertEquals(
    configOf(geometry, ALL, { maxRangeSectors: 1 }).maxDiscardSectors,
    8,
  );
  assertThrows(
    () => configOf(geometry, ALL, { queues: 65_536 }),
    RangeError,
    "numQueues must be an integer from 0 to 65535: current value is 65536",
  );
});

Deno.test("encodeId() pads with NULs, and decodeId() reads it back", () => {
  const bytes = encodeId("disk");
  assertEquals(bytes.length, 20);
  assertEquals(bytes.subarray(0, 5), Uint8Array.of(100, 105, 115, 107, 0));
  assertEquals(decodeId(bytes), "disk");
  const longest = "x".repeat(20);
  assertEquals(decodeId(encodeId(longest)), longest);
  assertEquals(decodeId(encodeId("")), "");
  for (const id of ["x".repeat(21), "é", "a\nb", "a\0"]) {
    assertThrows(() => encodeId(id), RangeError, "20 printable ASCII");
  }
});
