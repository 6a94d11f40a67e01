/**
 * What is in bytes: numbers, texts, the same as in others.
 *
 * @module
 */

/**
 * Numbers in bytes.
 *
 * @param bytes The bytes, wherever in their buffer they begin.
 * @returns A view of exactly these.
 */
export function viewOf<T extends ArrayBufferLike>(
  bytes: Uint8Array<T>,
): DataView<T> {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/**
 * Whether a text stands in bytes.
 *
 * @param bytes The bytes.
 * @param at Where; it may be beyond their end.
 * @param text The text, a character for each byte (ISO 8859-1).
 * @returns Whether it does.
 */
export function hasText(bytes: Uint8Array, at: number, text: string): boolean {
  for (let i = 0; i < text.length; i++) {
    if (bytes[at + i] !== text.charCodeAt(i)) return false;
  }
  return true;
}

/**
 * Whether two pieces of memory hold the same.
 *
 * @param a One.
 * @param b The other.
 * @returns Whether they do, and are as long.
 */
export function isSame(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}
