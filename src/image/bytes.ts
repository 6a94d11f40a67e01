/**
 * Views of bytes, wherever in their buffer they begin.
 *
 * @module
 */

/**
 * Numbers in bytes.
 *
 * @param bytes The bytes.
 * @returns A view of exactly these.
 */
export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/**
 * Whether an ASCII text stands in bytes.
 *
 * @param bytes The bytes.
 * @param at Where; it may be beyond their end.
 * @param text The text.
 * @returns Whether it does.
 */
export function hasText(bytes: Uint8Array, at: number, text: string): boolean {
  for (let i = 0; i < text.length; i++) {
    if (bytes[at + i] !== text.charCodeAt(i)) return false;
  }
  return true;
}
