/**
 * What a virtio-blk device says of itself: feature bits, the 96 bytes of its
 * configuration space, and the 20 bytes of its identity.
 *
 * Numbers: OASIS virtio 1.3 §5.2.3 "Feature bits", §5.2.4 "Device
 * configuration layout"; Linux `include/uapi/linux/virtio_blk.h`.
 *
 * @module
 */

import type { Abilities } from "./backend.ts";
import { type Geometry, SECTOR_BYTES } from "./geometry.ts";
import { ID_BYTES } from "./request.ts";

/** Feature bits, by number: those of virtio-blk, then those of every device. */
export const VirtioFeature = {
  /** `size_max` is valid. */
  SizeMax: 1,
  /** `seg_max` is valid. */
  SegMax: 2,
  /** Cylinders, heads and sectors are valid. */
  Geometry: 4,
  /** The device is read-only. */
  ReadOnly: 5,
  /** `blk_size` is valid. */
  BlkSize: 6,
  /** Flush is supported. */
  Flush: 9,
  /** The topology fields are valid. */
  Topology: 10,
  /** The driver may switch the cache by `writeback`. */
  ConfigWce: 11,
  /** `num_queues` is valid. */
  MultiQueue: 12,
  /** Discard is supported. */
  Discard: 13,
  /** Write zeroes is supported. */
  WriteZeroes: 14,
  /** Lifetime information is supported. */
  Lifetime: 15,
  /** Secure erase is supported. */
  SecureErase: 16,
  /** The zoned fields are valid. */
  Zoned: 17,
  /** Descriptors may point to tables of descriptors. */
  IndirectDescriptors: 28,
  /** `used_event` and `avail_event` are in use. */
  EventIndex: 29,
  /** Virtio 1.0 or later. */
  Version1: 32,
  /** Memory is reached through an IOMMU. */
  AccessPlatform: 33,
  /** The packed ring layout. */
  RingPacked: 34,
  /** Buffers are used in the order they were made available. */
  InOrder: 35,
  /** Memory accesses are ordered as the platform does. */
  OrderPlatform: 36,
  /** Single root I/O virtualisation. */
  SrIov: 37,
  /** Notifications carry data. */
  NotificationData: 38,
  /** The notification's data comes from the configuration. */
  NotificationConfigData: 39,
  /** A queue can be reset alone. */
  RingReset: 40,
  /** There is an administration queue. */
  AdminQueue: 41,
  /** The device can be suspended. */
  Suspend: 43,
} as const;

/** The number of a feature bit. */
export type VirtioFeature = typeof VirtioFeature[keyof typeof VirtioFeature];

/** Bytes of the configuration space, with its zoned part. */
export const CONFIG_BYTES = 96;

/**
 * Sectors that one discard or write zeroes takes by default: 16 MiB, as QEMU's
 * own export has it, so that one request does not hold a queue for long.
 */
const DEFAULT_MAX_RANGE_SECTORS = 32_768;

/** Segments by default: a queue of 128, less the header and the status. */
const DEFAULT_SEG_MAX = 126;

const U16_MAX = 0xffff;

/** Zoned block devices' part of the configuration space. */
export interface VirtioZonedConfig {
  /** Sectors of a zone. */
  zoneSectors: number;
  /** Zones that may be open at once; 0 for no limit. */
  maxOpenZones: number;
  /** Zones that may be active at once; 0 for no limit. */
  maxActiveZones: number;
  /** Sectors of the largest zone append. */
  maxAppendSectors: number;
  /** Bytes that writes to sequential zones must be multiples of. */
  writeGranularity: number;
  /** 0 for none, 1 for host-managed, 2 for host-aware. */
  model: number;
}

/** The configuration space. Each field is valid with its feature bit only. */
export interface VirtioConfig {
  /** Sectors of 512 bytes, whatever `blkSize` says. */
  capacity: number;
  /** Bytes of the largest segment. */
  sizeMax: number;
  /** Segments of a request, without header and status. */
  segMax: number;
  /** Cylinders of the legacy geometry. */
  cylinders: number;
  /** Heads of the legacy geometry. */
  heads: number;
  /** Sectors of a track of the legacy geometry. */
  trackSectors: number;
  /** Bytes of a logical block. */
  blkSize: number;
  /** Logarithm to base 2 of the logical blocks of a physical block. */
  physicalBlockExp: number;
  /** The first logical block that starts a physical block. */
  alignmentOffset: number;
  /** Logical blocks of the smallest I/O that performs well. */
  minIoSize: number;
  /** Logical blocks of the I/O that performs best. */
  optIoSize: number;
  /** 0 for write-through, 1 for write-back. */
  writeback: number;
  /** Request queues. */
  numQueues: number;
  /** Sectors of the largest discard. */
  maxDiscardSectors: number;
  /** Ranges of one discard request. */
  maxDiscardSeg: number;
  /** Sectors that discards had better be aligned to. */
  discardSectorAlignment: number;
  /** Sectors of the largest write of zeroes. */
  maxWriteZeroesSectors: number;
  /** Ranges of one request to write zeroes. */
  maxWriteZeroesSeg: number;
  /** 1 if writing zeroes can deallocate. */
  writeZeroesMayUnmap: number;
  /** Sectors of the largest secure erase. */
  maxSecureEraseSectors: number;
  /** Ranges of one secure erase. */
  maxSecureEraseSeg: number;
  /** Sectors that secure erases had better be aligned to. */
  secureEraseSectorAlignment: number;
  /** What zoned devices have. */
  zoned: VirtioZonedConfig;
}

/** What a device offers beyond what its disk can do. */
export interface VirtioOptions {
  /**
   * Request queues.
   *
   * @default {1}
   */
  queues?: number | undefined;
  /**
   * Data segments of a request: the size of a queue, less two.
   *
   * @default {126}
   */
  segMax?: number | undefined;
  /**
   * Whether completed writes may still be volatile: `false` promises that the
   * device makes every write durable before it answers.
   *
   * @default {true}
   */
  writeback?: boolean | undefined;
  /**
   * Whether the driver may switch `writeback` while running.
   *
   * @default {false}
   */
  configWce?: boolean | undefined;
  /**
   * Sectors of the largest discard, write of zeroes and secure erase.
   *
   * @default {32768}
   */
  maxRangeSectors?: number | undefined;
  /**
   * Ranges of one such request.
   *
   * @default {1}
   */
  maxRanges?: number | undefined;
}

/** One field of the configuration space: where it is and how wide. */
interface Field<Name> {
  readonly name: Name;
  readonly offset: number;
  readonly bytes: 1 | 2 | 4;
}

type NumberField = Exclude<keyof VirtioConfig, "capacity" | "zoned">;

/** `struct virtio_blk_config` after `capacity`, little endian throughout. */
const FIELDS: readonly Field<NumberField>[] = [
  { name: "sizeMax", offset: 8, bytes: 4 },
  { name: "segMax", offset: 12, bytes: 4 },
  { name: "cylinders", offset: 16, bytes: 2 },
  { name: "heads", offset: 18, bytes: 1 },
  { name: "trackSectors", offset: 19, bytes: 1 },
  { name: "blkSize", offset: 20, bytes: 4 },
  { name: "physicalBlockExp", offset: 24, bytes: 1 },
  { name: "alignmentOffset", offset: 25, bytes: 1 },
  { name: "minIoSize", offset: 26, bytes: 2 },
  { name: "optIoSize", offset: 28, bytes: 4 },
  { name: "writeback", offset: 32, bytes: 1 },
  // 33 is unused.
  { name: "numQueues", offset: 34, bytes: 2 },
  { name: "maxDiscardSectors", offset: 36, bytes: 4 },
  { name: "maxDiscardSeg", offset: 40, bytes: 4 },
  { name: "discardSectorAlignment", offset: 44, bytes: 4 },
  { name: "maxWriteZeroesSectors", offset: 48, bytes: 4 },
  { name: "maxWriteZeroesSeg", offset: 52, bytes: 4 },
  { name: "writeZeroesMayUnmap", offset: 56, bytes: 1 },
  // 57 to 59 are unused.
  { name: "maxSecureEraseSectors", offset: 60, bytes: 4 },
  { name: "maxSecureEraseSeg", offset: 64, bytes: 4 },
  { name: "secureEraseSectorAlignment", offset: 68, bytes: 4 },
];

/** `struct virtio_blk_zoned_characteristics`; 93 to 95 are unused. */
const ZONED_FIELDS: readonly Field<keyof VirtioZonedConfig>[] = [
  { name: "zoneSectors", offset: 72, bytes: 4 },
  { name: "maxOpenZones", offset: 76, bytes: 4 },
  { name: "maxActiveZones", offset: 80, bytes: 4 },
  { name: "maxAppendSectors", offset: 84, bytes: 4 },
  { name: "writeGranularity", offset: 88, bytes: 4 },
  { name: "model", offset: 92, bytes: 1 },
];

/**
 * A set of features as virtio negotiates it: one bit each.
 *
 * @param features Numbers of bits.
 * @returns The set.
 */
export function featureBits(...features: VirtioFeature[]): bigint {
  let bits = 0n;
  for (const feature of features) bits |= 1n << BigInt(feature);
  return bits;
}

/**
 * Tells whether a set of features has one.
 *
 * @param bits The set.
 * @param feature The number of the bit.
 * @returns Whether it is set.
 */
export function hasFeature(bits: bigint, feature: VirtioFeature): boolean {
  return (bits >> BigInt(feature) & 1n) === 1n;
}

/**
 * The names of a set of features, for people.
 *
 * @param bits The set.
 * @returns Names as in {@linkcode VirtioFeature}, lowest bit first; bits
 * without one as `"bit 40"`.
 */
export function featureNames(bits: bigint): string[] {
  const names: string[] = [];
  for (let bit = 0; bits >> BigInt(bit) !== 0n; bit++) {
    if ((bits >> BigInt(bit) & 1n) === 0n) continue;
    const entry = Object.entries(VirtioFeature).find(([, n]) => n === bit);
    names.push(entry === undefined ? `bit ${bit}` : entry[0]);
  }
  return names;
}

/**
 * The features that a device over a disk offers, without those of its queues
 * and transport except `Version1`.
 *
 * `SizeMax` is never among them, as Linux takes a `size_max` of 0 for 4,096
 * bytes; nor is what a read-only device could not do anyway.
 *
 * @param abilities What the disk can do.
 * @param options What the device offers beyond that.
 * @returns The features.
 */
export function featuresOf(
  abilities: Abilities,
  options: VirtioOptions = {},
): bigint {
  const features: VirtioFeature[] = [
    VirtioFeature.SegMax,
    VirtioFeature.BlkSize,
    VirtioFeature.Topology,
    VirtioFeature.Version1,
  ];
  const add = (feature: VirtioFeature, offered: boolean) => {
    if (offered) features.push(feature);
  };
  const flushes = abilities.flush !== "none";
  const writable = !abilities.readOnly;
  add(VirtioFeature.Flush, flushes);
  // The specification has a device that offers this offer flush too.
  add(VirtioFeature.ConfigWce, flushes && (options.configWce ?? false));
  add(VirtioFeature.ReadOnly, abilities.readOnly);
  add(VirtioFeature.MultiQueue, (options.queues ?? 1) > 1);
  add(VirtioFeature.Discard, writable && abilities.discard !== "none");
  add(VirtioFeature.WriteZeroes, writable && abilities.writeZeroes !== "none");
  add(VirtioFeature.SecureErase, writable && abilities.secureErase !== "none");
  return featureBits(...features);
}

/**
 * The configuration space of a device over a disk. Fields whose feature
 * {@linkcode featuresOf} does not offer are 0.
 *
 * @param geometry The disk's shape.
 * @param abilities What the disk can do.
 * @param options What the device offers beyond that.
 * @returns The configuration space.
 * @throws {RangeError} If an option does not fit its field.
 */
export function configOf(
  geometry: Geometry,
  abilities: Abilities,
  options: VirtioOptions = {},
): VirtioConfig {
  const { blockSize } = geometry;
  const blockSectors = blockSize / SECTOR_BYTES;
  const features = featuresOf(abilities, options);
  const blocks = (bytes: number) => Math.floor(bytes / blockSize);
  // The limits are in sectors but ranges are of whole blocks.
  const rangeSectors = Math.max(
    blockSectors,
    Math.floor(
      (options.maxRangeSectors ?? DEFAULT_MAX_RANGE_SECTORS) / blockSectors,
    ) * blockSectors,
  );
  const ranges = options.maxRanges ?? 1;
  const discards = hasFeature(features, VirtioFeature.Discard);
  const zeroes = hasFeature(features, VirtioFeature.WriteZeroes);
  const erases = hasFeature(features, VirtioFeature.SecureErase);
  const config: VirtioConfig = {
    capacity: geometry.sectors,
    sizeMax: 0,
    segMax: options.segMax ?? DEFAULT_SEG_MAX,
    cylinders: 0,
    heads: 0,
    trackSectors: 0,
    blkSize: blockSize,
    physicalBlockExp: Math.floor(
      Math.log2(geometry.physicalBlockSize / blockSize),
    ),
    alignmentOffset: 0,
    minIoSize: Math.min(U16_MAX, blocks(geometry.minimumIoSize)),
    optIoSize: blocks(geometry.optimalIoSize),
    writeback: hasFeature(features, VirtioFeature.Flush) &&
        (options.writeback ?? true)
      ? 1
      : 0,
    numQueues: hasFeature(features, VirtioFeature.MultiQueue)
      ? options.queues ?? 1
      : 0,
    maxDiscardSectors: discards ? rangeSectors : 0,
    maxDiscardSeg: discards ? ranges : 0,
    discardSectorAlignment: discards ? blockSectors : 0,
    maxWriteZeroesSectors: zeroes ? rangeSectors : 0,
    maxWriteZeroesSeg: zeroes ? ranges : 0,
    // To be clear if and only if zeroes never deallocate.
    writeZeroesMayUnmap: zeroes && abilities.writeZeroes === "native" ? 1 : 0,
    maxSecureEraseSectors: erases ? rangeSectors : 0,
    maxSecureEraseSeg: erases ? ranges : 0,
    secureEraseSectorAlignment: erases ? blockSectors : 0,
    zoned: emptyZoned(),
  };
  checkConfig(config);
  return config;
}

/**
 * Writes a configuration space out.
 *
 * @param config The configuration space.
 * @returns {@linkcode CONFIG_BYTES} bytes.
 * @throws {RangeError} If a number does not fit its field.
 */
export function encodeConfig(config: VirtioConfig): Uint8Array<ArrayBuffer> {
  checkConfig(config);
  const bytes = new Uint8Array(CONFIG_BYTES);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, BigInt(config.capacity), true);
  for (const field of FIELDS) put(view, field, config[field.name]);
  for (const field of ZONED_FIELDS) put(view, field, config.zoned[field.name]);
  return bytes;
}

/**
 * Reads a configuration space. A shorter one, as older devices and drivers
 * have it, is read as far as it goes: what is not there is 0.
 *
 * @param bytes The bytes.
 * @returns The configuration space.
 * @throws {RangeError} If it does not even have a capacity, or one that is no
 * safe integer.
 */
export function decodeConfig(bytes: Uint8Array): VirtioConfig {
  if (bytes.length < 8) {
    throw new RangeError(
      `Cannot decode a configuration space as it must have at least 8 bytes: current value is ${bytes.length}`,
    );
  }
  const whole = new Uint8Array(CONFIG_BYTES);
  whole.set(bytes.subarray(0, CONFIG_BYTES));
  const view = new DataView(whole.buffer);
  const capacity = Number(view.getBigUint64(0, true));
  if (!Number.isSafeInteger(capacity)) {
    throw new RangeError(
      `Cannot decode a configuration space as its capacity must be a safe integer: current value is ${capacity}`,
    );
  }
  const config = { capacity, zoned: emptyZoned() } as VirtioConfig;
  for (const field of FIELDS) config[field.name] = take(view, field);
  for (const field of ZONED_FIELDS) {
    config.zoned[field.name] = take(view, field);
  }
  return config;
}

/**
 * The bytes that answer GET_ID.
 *
 * @param id Up to 20 printable ASCII characters.
 * @returns {@linkcode ID_BYTES} bytes, padded with NULs; without any if the
 * identity is exactly that long.
 * @throws {RangeError} If it is longer or has other characters.
 */
export function encodeId(id: string): Uint8Array<ArrayBuffer> {
  if (id.length > ID_BYTES || !/^[\x20-\x7e]*$/.test(id)) {
    throw new RangeError(
      `Cannot use an identity as it must be at most ${ID_BYTES} printable ASCII characters: current value is ${
        JSON.stringify(id)
      }`,
    );
  }
  const bytes = new Uint8Array(ID_BYTES);
  for (let i = 0; i < id.length; i++) bytes[i] = id.charCodeAt(i);
  return bytes;
}

/**
 * Reads the bytes that answered GET_ID.
 *
 * @param bytes The bytes.
 * @returns The identity, up to the first NUL.
 */
export function decodeId(bytes: Uint8Array): string {
  const field = bytes.subarray(0, ID_BYTES);
  const end = field.indexOf(0);
  return String.fromCharCode(...(end < 0 ? field : field.subarray(0, end)));
}

function emptyZoned(): VirtioZonedConfig {
  return {
    zoneSectors: 0,
    maxOpenZones: 0,
    maxActiveZones: 0,
    maxAppendSectors: 0,
    writeGranularity: 0,
    model: 0,
  };
}

function checkConfig(config: VirtioConfig): void {
  checkField("capacity", config.capacity, Number.MAX_SAFE_INTEGER);
  for (const { name, bytes } of FIELDS) {
    checkField(name, config[name], 2 ** (bytes * 8) - 1);
  }
  for (const { name, bytes } of ZONED_FIELDS) {
    checkField(name, config.zoned[name], 2 ** (bytes * 8) - 1);
  }
}

function checkField(name: string, value: number, max: number): void {
  if (Number.isInteger(value) && value >= 0 && value <= max) return;
  throw new RangeError(
    `Cannot make a configuration space as ${name} must be an integer from 0 to ${max}: current value is ${value}`,
  );
}

function put<Name>(view: DataView, field: Field<Name>, value: number): void {
  if (field.bytes === 1) view.setUint8(field.offset, value);
  else if (field.bytes === 2) view.setUint16(field.offset, value, true);
  else view.setUint32(field.offset, value, true);
}

function take<Name>(view: DataView, field: Field<Name>): number {
  if (field.bytes === 1) return view.getUint8(field.offset);
  if (field.bytes === 2) return view.getUint16(field.offset, true);
  return view.getUint32(field.offset, true);
}
