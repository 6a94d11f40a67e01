/**
 * The messages of vhost-user: numbers, and how their payloads are read and
 * written. No state, no I/O.
 *
 * Source: QEMU, docs/interop/vhost-user.rst. Host byte order, which is little
 * endian on every system that has FFI here.
 *
 * @module
 */

import { viewOf } from "../bytes.ts";

/** The front end broke the protocol. */
export class VhostProtocolError extends Error {
  /** Always `"VhostProtocolError"`. */
  override readonly name = "VhostProtocolError";
}

/** Messages of a front end (`VHOST_USER_*`). */
export const FrontEndMessage = {
  /** Which virtio features there are. */
  GetFeatures: 1,
  /** Which of them are in use. */
  SetFeatures: 2,
  /** The session begins. */
  SetOwner: 3,
  /** Obsolete: disable all rings. */
  ResetOwner: 4,
  /** The guest's memory. */
  SetMemTable: 5,
  /** Size of a ring. */
  SetVringNum: 8,
  /** Addresses of a ring. */
  SetVringAddr: 9,
  /** Where a ring goes on. */
  SetVringBase: 10,
  /** Stop a ring, and tell where it would go on. */
  GetVringBase: 11,
  /** By what a driver tells of new requests. */
  SetVringKick: 12,
  /** By what it is told of answers. */
  SetVringCall: 13,
  /** By what the front end is told that a ring is broken. */
  SetVringErr: 14,
  /** Which features of the protocol there are. */
  GetProtocolFeatures: 15,
  /** Which of them are in use. */
  SetProtocolFeatures: 16,
  /** How many rings there may be. */
  GetQueueNum: 17,
  /** Enable or disable a ring. */
  SetVringEnable: 18,
  /** A socket for messages of ours. */
  SetBackendReqFd: 21,
  /** Read the configuration space. */
  GetConfig: 24,
  /** Write it. */
  SetConfig: 25,
  /** Memory to note requests in flight in. */
  GetInflightFd: 31,
  /** The memory that they are noted in from now on. */
  SetInflightFd: 32,
  /** Back to the start. */
  ResetDevice: 34,
} as const;

/** Messages to a front end (`VHOST_USER_BACKEND_*`). */
export const BackEndMessage = {
  /** The configuration space has changed. */
  ConfigChange: 2,
} as const;

/** Features of the protocol, by bit. */
export const ProtocolFeature = {
  /** Several rings. */
  MultiQueue: 0,
  /** Answers to messages that have none. */
  ReplyAck: 3,
  /** Messages of ours. */
  BackendReq: 5,
  /** The configuration space. */
  Config: 9,
  /** Requests in flight are noted in memory that the front end keeps. */
  InflightShmfd: 12,
  /** ResetDevice. */
  ResetDevice: 13,
} as const;

/** The virtio feature bit that says that there are features of the protocol. */
export const PROTOCOL_FEATURES_BIT = 1n << 30n;

/** Bytes of a header: u32 request@0, u32 flags@4, u32 size@8. */
export const HEADER_BYTES = 12;

/** The longest payload that is taken: none of those below is longer. */
export const MAX_PAYLOAD_BYTES = 1024;

/** Descriptors that one message may bring; one for each region of memory. */
export const MAX_DESCRIPTORS = 8;

/** Bytes of the configuration space that can be asked for at all. */
export const MAX_CONFIG_BYTES = 256;

const VERSION = 1;
const VERSION_MASK = 3;
const FLAG_REPLY = 4;
const FLAG_NEED_REPLY = 8;
const REGION_BYTES = 32;
const VRING_INDEX_MASK = 0xff;
const VRING_NO_DESCRIPTOR = 0x100;

/** What stands before a payload. */
export interface Header {
  /** Which message. */
  readonly request: number;
  /** Whether it wants an answer although it has none of its own. */
  readonly needsReply: boolean;
  /** Bytes of the payload. */
  readonly size: number;
}

/** One region of the guest's memory. */
export interface RegionMessage {
  /** Its first address as the guest knows it. */
  readonly guestAddress: number;
  /** Bytes. */
  readonly byteLength: number;
  /** Its first address as the front end knows it. */
  readonly userAddress: number;
  /** Where it is in the file that came with it. */
  readonly fileOffset: number;
}

/** A ring, and a number for it. */
export interface VringState {
  /** Which ring. */
  readonly index: number;
  /** The number. */
  readonly value: number;
}

/** Where a ring is, by the front end's addresses. */
export interface VringAddresses {
  /** Which ring. */
  readonly index: number;
  /** The descriptors. */
  readonly descriptors: number;
  /** What the device has used. */
  readonly used: number;
  /** What the driver makes available. */
  readonly available: number;
}

/** A ring, and whether a descriptor came for it. */
export interface VringDescriptor {
  /** Which ring. */
  readonly index: number;
  /** Whether a descriptor comes with the message. */
  readonly hasDescriptor: boolean;
}

/** Memory in which requests in flight are noted. */
export interface InflightMessage {
  /** Bytes that it has: `mmap_size`. */
  readonly byteLength: number;
  /** Where it is in the file that comes with it: `mmap_offset`. */
  readonly fileOffset: number;
  /** Rings that are noted. */
  readonly queues: number;
  /** Descriptors of each. */
  readonly queueSize: number;
}

/** A part of the configuration space. */
export interface ConfigMessage {
  /** First byte. */
  readonly offset: number;
  /** Bytes. */
  readonly size: number;
  /** The bytes, when it is written. */
  readonly bytes: Uint8Array<ArrayBuffer>;
}

/**
 * Reads a header.
 *
 * @param view Its {@linkcode HEADER_BYTES} bytes.
 * @returns What it says.
 * @throws {VhostProtocolError} If it is of another version, a reply, or too long.
 */
export function parseHeader(view: DataView): Header {
  const request = view.getUint32(0, true);
  const flags = view.getUint32(4, true);
  const size = view.getUint32(8, true);
  if ((flags & VERSION_MASK) !== VERSION || (flags & FLAG_REPLY) !== 0) {
    throw new VhostProtocolError(
      `Cannot take a message as it must be a request of version 1: current flags are ${flags}`,
    );
  }
  if (size > MAX_PAYLOAD_BYTES) {
    throw new VhostProtocolError(
      `Cannot take message ${request} as its payload must be at most ${MAX_PAYLOAD_BYTES} bytes: current value is ${size}`,
    );
  }
  return { request, needsReply: (flags & FLAG_NEED_REPLY) !== 0, size };
}

/**
 * Writes a message.
 *
 * @param target Where to, from its first byte on.
 * @param request Which message.
 * @param isReply Whether it answers one.
 * @param payload Its payload.
 * @returns Bytes that it has.
 */
export function formatMessage(
  target: Uint8Array<ArrayBuffer>,
  request: number,
  isReply: boolean,
  payload: Uint8Array,
): number {
  const view = viewOf(target);
  view.setUint32(0, request, true);
  // A front end takes no reply with any other flag.
  view.setUint32(4, isReply ? VERSION | FLAG_REPLY : VERSION, true);
  view.setUint32(8, payload.length, true);
  target.set(payload, HEADER_BYTES);
  return HEADER_BYTES + payload.length;
}

/**
 * A payload that is one number.
 *
 * @param value The number.
 * @returns The payload.
 */
export function formatU64(value: bigint): Uint8Array<ArrayBuffer> {
  const payload = new Uint8Array(8);
  viewOf(payload).setBigUint64(0, value, true);
  return payload;
}

/**
 * Reads a payload that is one number.
 *
 * @param payload The payload.
 * @returns The number.
 * @throws {VhostProtocolError} If it has another length.
 */
export function parseU64(payload: Uint8Array<ArrayBuffer>): bigint {
  return exactly(payload, 8).getBigUint64(0, true);
}

/**
 * Reads a payload that is empty.
 *
 * @param payload The payload.
 * @throws {VhostProtocolError} If it is not.
 */
export function parseEmpty(payload: Uint8Array<ArrayBuffer>): void {
  exactly(payload, 0);
}

/**
 * Reads the guest's memory.
 *
 * @param payload The payload.
 * @returns Its regions, one for each descriptor that comes with it.
 * @throws {VhostProtocolError} If it is shorter than it says, or has a number that
 * is no safe integer.
 */
export function parseMemoryTable(
  payload: Uint8Array<ArrayBuffer>,
): RegionMessage[] {
  const view = atLeast(payload, 8);
  const count = view.getUint32(0, true);
  if (count < 1 || count > MAX_DESCRIPTORS) {
    throw new VhostProtocolError(
      `Cannot take a table of memory as it must have from 1 to ${MAX_DESCRIPTORS} regions: current value is ${count}`,
    );
  }
  // User Mode Linux sends room for two, whatever their number
  // (struct vhost_user_mem_regions of arch/um/drivers/vhost_user.h).
  atLeast(payload, 8 + count * REGION_BYTES);
  return Array.from({ length: count }, (_, i) => {
    const at = 8 + i * REGION_BYTES;
    return {
      guestAddress: safeU64(view, at),
      byteLength: safeU64(view, at + 8),
      userAddress: safeU64(view, at + 16),
      fileOffset: safeU64(view, at + 24),
    };
  });
}

/**
 * Reads a number for a ring.
 *
 * @param payload The payload.
 * @returns The ring and the number.
 * @throws {VhostProtocolError} If it has another length.
 */
export function parseVringState(payload: Uint8Array<ArrayBuffer>): VringState {
  const view = exactly(payload, 8);
  return { index: view.getUint32(0, true), value: view.getUint32(4, true) };
}

/**
 * Writes a number for a ring.
 *
 * @param state The ring and the number.
 * @returns The payload.
 */
export function formatVringState(state: VringState): Uint8Array<ArrayBuffer> {
  const payload = new Uint8Array(8);
  const view = viewOf(payload);
  view.setUint32(0, state.index, true);
  view.setUint32(4, state.value, true);
  return payload;
}

/**
 * Reads where a ring is.
 *
 * @param payload The payload.
 * @returns Its addresses.
 * @throws {VhostProtocolError} If it has another length, or an address that is no
 * safe integer.
 */
export function parseVringAddresses(
  payload: Uint8Array<ArrayBuffer>,
): VringAddresses {
  // u32 index@0, u32 flags@4, u64 desc@8, used@16, avail@24, log@32.
  const view = exactly(payload, 40);
  return {
    index: view.getUint32(0, true),
    descriptors: safeU64(view, 8),
    used: safeU64(view, 16),
    available: safeU64(view, 24),
  };
}

/**
 * Reads for which ring a descriptor is.
 *
 * @param payload The payload.
 * @returns The ring, and whether there is a descriptor.
 * @throws {VhostProtocolError} If it has another length.
 */
export function parseVringDescriptor(
  payload: Uint8Array<ArrayBuffer>,
): VringDescriptor {
  const view = exactly(payload, 8);
  const value = view.getUint32(0, true);
  return {
    index: value & VRING_INDEX_MASK,
    hasDescriptor: (value & VRING_NO_DESCRIPTOR) === 0,
  };
}

/**
 * Reads what is said of memory for requests in flight.
 *
 * @param payload The payload.
 * @returns What it says.
 * @throws {VhostProtocolError} If it is shorter, or has a number that is no safe
 * integer.
 */
export function parseInflight(
  payload: Uint8Array<ArrayBuffer>,
): InflightMessage {
  // u64 mmap_size@0, u64 mmap_offset@8, u16 num_queues@16, u16 queue_size@18.
  // QEMU sends its struct as it lies in memory, with four bytes more.
  const view = atLeast(payload, 20);
  return {
    byteLength: safeU64(view, 0),
    fileOffset: safeU64(view, 8),
    queues: view.getUint16(16, true),
    queueSize: view.getUint16(18, true),
  };
}

/**
 * Writes what is to be known of memory for requests in flight.
 *
 * @param message What is to be known.
 * @param length Bytes of the payload: as many as those of what is answered.
 * @returns The payload.
 */
export function formatInflight(
  { byteLength, fileOffset, queues, queueSize }: InflightMessage,
  length: number,
): Uint8Array<ArrayBuffer> {
  const payload = new Uint8Array(length);
  const view = viewOf(payload);
  view.setBigUint64(0, BigInt(byteLength), true);
  view.setBigUint64(8, BigInt(fileOffset), true);
  view.setUint16(16, queues, true);
  view.setUint16(18, queueSize, true);
  return payload;
}

/**
 * Reads which part of the configuration space is meant.
 *
 * @param payload The payload.
 * @returns The part.
 * @throws {VhostProtocolError} If it has another length than it says, or leaves
 * the configuration space.
 */
export function parseConfig(payload: Uint8Array<ArrayBuffer>): ConfigMessage {
  // u32 offset@0, u32 size@4, u32 flags@8, bytes@12.
  const view = atLeast(payload, 12);
  const offset = view.getUint32(0, true);
  const size = view.getUint32(4, true);
  if (offset + size > MAX_CONFIG_BYTES || payload.length !== 12 + size) {
    throw new VhostProtocolError(
      `Cannot reach the configuration space as ${size} bytes from ${offset} must be within ${MAX_CONFIG_BYTES}, and ${
        12 + size
      } of payload: current value is ${payload.length}`,
    );
  }
  return { offset, size, bytes: payload.slice(12) };
}

/**
 * Writes a part of the configuration space.
 *
 * @param offset First byte.
 * @param bytes The bytes.
 * @returns The payload.
 */
export function formatConfig(
  offset: number,
  bytes: Uint8Array,
): Uint8Array<ArrayBuffer> {
  const payload = new Uint8Array(12 + bytes.length);
  const view = viewOf(payload);
  view.setUint32(0, offset, true);
  view.setUint32(4, bytes.length, true);
  payload.set(bytes, 12);
  return payload;
}

/**
 * A set of features of the protocol.
 *
 * @param features Numbers of bits.
 * @returns The set.
 */
export function protocolBits(...features: number[]): bigint {
  return features.reduce((bits, bit) => bits | 1n << BigInt(bit), 0n);
}

function exactly(payload: Uint8Array<ArrayBuffer>, length: number): DataView {
  if (payload.length === length) return viewOf(payload);
  throw new VhostProtocolError(
    `Cannot read a message as its payload must be ${length} bytes: current value is ${payload.length}`,
  );
}

function atLeast(payload: Uint8Array<ArrayBuffer>, length: number): DataView {
  if (payload.length >= length) return viewOf(payload);
  throw new VhostProtocolError(
    `Cannot read a message as its payload must be at least ${length} bytes: current value is ${payload.length}`,
  );
}

/** An address or a length: none that there is reaches 2^53. */
function safeU64(view: DataView, at: number): number {
  const value = view.getUint32(at + 4, true) * 2 ** 32 +
    view.getUint32(at, true);
  if (Number.isSafeInteger(value)) return value;
  throw new VhostProtocolError(
    `Cannot take a number of a message as it must be below 2^53: current value is ${value}`,
  );
}
