/**
 * GUIDs as GPT stores them: the first three fields in little-endian order, the
 * rest as it is written (UEFI 2.10, appendix A).
 *
 * @module
 */

/** Which byte of the 16 each pair of digits stands for, from the left. */
const PLACES = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];

/**
 * Reads a GUID.
 *
 * @param bytes What it is in.
 * @param at Where it begins.
 * @returns It, in upper case.
 */
export function decodeGuid(bytes: Uint8Array, at: number): string {
  const hex = PLACES.map((place) =>
    bytes[at + place]!.toString(16).padStart(2, "0")
  ).join("").toUpperCase();
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

/**
 * Writes a GUID.
 *
 * @param guid It, in either case; see {@linkcode isGuid}.
 * @param bytes Where to.
 * @param at Where it begins.
 */
export function encodeGuid(guid: string, bytes: Uint8Array, at: number): void {
  const hex = guid.replaceAll("-", "");
  for (const [i, place] of PLACES.entries()) {
    bytes[at + place] = Number.parseInt(hex.slice(2 * i, 2 * i + 2), 16);
  }
}

/**
 * Whether a text is a GUID.
 *
 * @param text The text.
 * @returns Whether it is, in either case.
 */
export function isGuid(text: string): boolean {
  return /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(text);
}
