/**
 * The format of a recording's file: what `docs/recordings.md` says, in numbers.
 *
 * A file is a magic number and a version, and then frames. A frame is a payload
 * with its length and checksums, written at once: what a killed recorder leaves
 * is whole up to its last frame. Payloads are records, each a kind and fields,
 * all of them little-endian.
 *
 * @module
 */

/** The first bytes of a file: 0x89, `PLTREC`, a line feed. */
export const MAGIC: Uint8Array = Uint8Array.from(
  "\x89PLTREC\n",
  (character) => character.charCodeAt(0),
);

/** The version that is written, and the only one that is read. */
export const VERSION = 1;

/** Bytes of magic number and version. */
export const PREFIX_BYTES = 12;

/**
 * Bytes before a payload: its length, the CRC-32 of the payload, and the CRC-32
 * of these two.
 */
export const FRAME_BYTES = 12;

/** Bytes that a payload may have: one record may need more than the usual. */
export const MOST_PAYLOAD_BYTES = 64 << 20;

/** Kinds of records. */
export const RecordKind = {
  /** u32 length, JSON: the device, and the shape of its base. */
  Header: 1,
  /** u32 count, then so many blocks: the contents with the next numbers. */
  Contents: 2,
  /** u64 block, u32 count, u32 each: contents of blocks before all writes. */
  Initial: 3,
  /** The same: contents of blocks of the base. */
  BaseBlocks: 4,
  /** Nothing: all other blocks of the base are zeroes. */
  BaseWhole: 5,
  /** u64 chunk of 64 KiB, u32 CRC-32: what was read of the base. */
  BaseSum: 6,
  /** u32 length, UTF-8: the call site with the next number, from 1. */
  Origin: 7,
  /**
   * u8 type, u8 flags, u64 sector, u64 count, u32 origin; for a write of data
   * u32 runs, and for each u32 blocks, u32 content of the first.
   */
  Submit: 8,
  /** u32 number of the request, from 1 over the whole file. */
  Complete: 9,
  /** u32 length, JSON; no bytes for `undefined`. */
  Acknowledge: 10,
  /** Nothing: what was written so far is what the disk had. */
  Start: 11,
  /** Nothing: the recorder ended the recording. */
  End: 12,
} as const;

/** In the flags of a request: it is durable when it completes. */
export const FUA_FLAG = 1;
