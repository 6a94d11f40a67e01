/**
 * Bytes as text in base64 (RFC 4648 §4), as every runtime can do it: not all of
 * them have `Uint8Array.fromBase64()`.
 *
 * @module
 */

import { Buffer } from "node:buffer";

/** Padded to whole groups of four. */
const BASE64 = /^[A-Za-z0-9+/]*={0,2}$/;

/**
 * Writes bytes as text.
 *
 * @param bytes The bytes.
 * @returns The text.
 */
export function toBase64(bytes: Uint8Array): string {
  const { buffer, byteOffset, length } = bytes;
  return Buffer.from(buffer, byteOffset, length).toString("base64");
}

/**
 * Reads bytes from text.
 *
 * @param text The text.
 * @returns The bytes; `null` if it is no base64.
 */
export function fromBase64(text: string): Uint8Array<ArrayBuffer> | null {
  if (text.length % 4 !== 0 || !BASE64.test(text)) return null;
  return new Uint8Array(Buffer.from(text, "base64"));
}
