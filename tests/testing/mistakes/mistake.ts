/**
 * What the mistakes have in common: a wrong and a right form of a small storage
 * program, and records to store.
 *
 * @module
 */

import { type CrashOptions, exploreCrashes } from "@platter/disk/testing";

/** A mistake that storage programs are known to make. */
export interface Mistake {
  /** What is wrong, in a few words. */
  readonly title: string;
  /** Explores the wrong form. */
  wrong(): Promise<unknown>;
  /** Explores the right form. */
  right(): ReturnType<typeof exploreCrashes>;
  /** The wrong form, to replay a crash of it. */
  replay(token: string): Promise<unknown>;
}

/**
 * Describes a mistake.
 *
 * @param title What is wrong.
 * @param make The program; its argument says which form.
 */
export function mistake<Value>(
  title: string,
  make: (right: boolean) => CrashOptions<Value>,
): Mistake {
  const explore = (right: boolean, more = {}) =>
    exploreCrashes<Value>({ progress: false, ...make(right), ...more });
  return {
    title,
    wrong: () => explore(false),
    right: () => explore(true),
    replay: (token) => explore(false, { only: token }),
  };
}

/** Bytes of the checksum and of the length before a record's text. */
const HEAD_BYTES = 8;

/** A checksum of 32 bits (FNV-1a). */
export function checksum(bytes: Uint8Array): number {
  let hash = 0x811c9dc5;
  for (const byte of bytes) hash = Math.imul(hash ^ byte, 0x01000193);
  return hash >>> 0;
}

/**
 * Makes a record: a checksum, a length, the value as JSON, and the same again
 * up to the end, so that every sector of it has its share.
 *
 * @param value What to store.
 * @param sectors Sectors of the record.
 * @param covered Bytes that the checksum covers.
 */
export function seal(
  value: unknown,
  sectors = 1,
  covered: number = sectors * 512,
): Uint8Array {
  const text = new TextEncoder().encode(JSON.stringify(value));
  const bytes = new Uint8Array(sectors * 512);
  for (let i = HEAD_BYTES; i < bytes.length; i++) {
    bytes[i] = text[(i - HEAD_BYTES) % text.length]!;
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  view.setUint32(4, text.length);
  view.setUint32(0, checksum(bytes.subarray(4, covered)));
  return bytes;
}

/**
 * Opens a record.
 *
 * @param bytes The record.
 * @param covered Bytes that the checksum covers.
 * @returns The value; `null` if the checksum is wrong or nothing was written.
 */
export function unseal<T>(
  bytes: Uint8Array,
  covered: number = bytes.length,
): T | null {
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  if (view.getUint32(4) === 0) return null;
  if (view.getUint32(0) !== checksum(bytes.subarray(4, covered))) return null;
  return parse<T>(bytes);
}

/** The value of a record, whatever its checksum says; `null` if it has none. */
export function parse<T>(bytes: Uint8Array): T | null {
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const length = view.getUint32(4);
  if (length === 0 || length > bytes.length - HEAD_BYTES) return null;
  const text = bytes.subarray(HEAD_BYTES, HEAD_BYTES + length);
  return JSON.parse(new TextDecoder().decode(text)) as T;
}

/** Whether the rest of a record repeats its value, in every sector. */
export function isWhole(bytes: Uint8Array): boolean {
  const value = parse(bytes);
  if (value === null) return false;
  const again = seal(value, bytes.length / 512);
  return bytes.subarray(4).every((byte, i) => byte === again[i + 4]);
}

/**
 * Says that something is not as it must be.
 *
 * @param condition How it must be.
 * @param problem What it is instead.
 */
export function must(condition: boolean, problem: string): asserts condition {
  if (!condition) throw new Error(problem);
}
