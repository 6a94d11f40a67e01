/**
 * The vhost-user protocol's numbers and message layouts, as a front end has
 * them. Host byte order, which is little endian wherever this runs.
 *
 * Source: QEMU, docs/interop/vhost-user.rst. Written apart from the device's
 * table, so that a wrong number is not wrong on both sides.
 *
 * @module
 */

/** Requests of the front end. */
export const Message = {
  GetFeatures: 1,
  SetFeatures: 2,
  SetOwner: 3,
  ResetOwner: 4,
  SetMemTable: 5,
  SetVringNum: 8,
  SetVringAddr: 9,
  SetVringBase: 10,
  GetVringBase: 11,
  SetVringKick: 12,
  SetVringCall: 13,
  SetVringErr: 14,
  GetProtocolFeatures: 15,
  SetProtocolFeatures: 16,
  GetQueueNum: 17,
  SetVringEnable: 18,
  SetBackendReqFd: 21,
  GetConfig: 24,
  SetConfig: 25,
  GetInflightFd: 31,
  SetInflightFd: 32,
  ResetDevice: 34,
  GetMaxMemSlots: 36,
  AddMemReg: 37,
  RemMemReg: 38,
  SetStatus: 39,
  GetStatus: 40,
} as const;

/** Requests of the back end, on the socket of `SetBackendReqFd`. */
export const BackMessage = { ConfigChange: 2 } as const;

/** Bits of the protocol features. */
export const ProtocolFeature = {
  MultiQueue: 0,
  ReplyAck: 3,
  BackendReq: 5,
  Config: 9,
  InflightShmfd: 12,
  ResetDevice: 13,
  ConfigureMemSlots: 15,
  Status: 16,
} as const;

/** The feature bit that says that there are protocol features. */
export const PROTOCOL_FEATURES = 30;

/** Bits of a message's flags: the version is 1. */
export const Flag = { Version: 1, Reply: 4, NeedReply: 8 } as const;

/** Bytes of a message's header: u32 request, u32 flags, u32 size. */
export const HEADER_BYTES = 12;

/** One region of guest memory, as a memory table has it. */
export interface Region {
  /** Where the guest sees it. */
  readonly guestAddress: number;
  /** Bytes. */
  readonly byteLength: number;
  /** Where the front end says that it has it: what ring addresses are in. */
  readonly userAddress: number;
  /** Where it begins in its descriptor. */
  readonly mapOffset: number;
}

/** Puts a message together. */
export function message(
  request: number,
  payload: Uint8Array = new Uint8Array(0),
  flags: number = Flag.Version,
): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(HEADER_BYTES + payload.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, request, true);
  view.setUint32(4, flags, true);
  view.setUint32(8, payload.length, true);
  bytes.set(payload, HEADER_BYTES);
  return bytes;
}

/** A payload of one u64. */
export function u64(value: bigint | number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(value), true);
  return bytes;
}

/** A payload of two u32: the state of a ring. */
export function ringState(
  index: number,
  num: number,
): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(8);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, index, true);
  view.setUint32(4, num, true);
  return bytes;
}

/** The payload of a memory table. */
export function memoryTable(
  regions: readonly Region[],
): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(8 + 32 * regions.length);
  new DataView(bytes.buffer).setUint32(0, regions.length, true);
  regions.forEach((region, i) => bytes.set(regionBytes(region), 8 + 32 * i));
  return bytes;
}

/** The payload of one memory region added or removed. */
export function memoryRegion(region: Region): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(40);
  bytes.set(regionBytes(region), 8);
  return bytes;
}

function regionBytes(region: Region): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(32);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, BigInt(region.guestAddress), true);
  view.setBigUint64(8, BigInt(region.byteLength), true);
  view.setBigUint64(16, BigInt(region.userAddress), true);
  view.setBigUint64(24, BigInt(region.mapOffset), true);
  return bytes;
}

/** The payload of a ring's addresses, all of them user addresses. */
export function ringAddresses(
  index: number,
  descriptors: number,
  used: number,
  available: number,
): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(40);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, index, true);
  view.setBigUint64(8, BigInt(descriptors), true);
  view.setBigUint64(16, BigInt(used), true);
  view.setBigUint64(24, BigInt(available), true);
  return bytes;
}

/** The payload of a part of the configuration space. */
export function configPart(
  offset: number,
  content: Uint8Array,
  flags = 0,
): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(12 + content.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, offset, true);
  view.setUint32(4, content.length, true);
  view.setUint32(8, flags, true);
  bytes.set(content, 12);
  return bytes;
}

/** The payload of memory for requests in flight, as long as QEMU's. */
export function inflight(
  byteLength: number,
  queues: number,
  queueSize: number,
): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(24);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, BigInt(byteLength), true);
  view.setUint16(16, queues, true);
  view.setUint16(18, queueSize, true);
  return bytes;
}
