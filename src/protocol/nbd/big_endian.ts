/**
 * Numbers in bytes as NBD has them: everything on the wire is big-endian, as a
 * `DataView` reads and writes by default.
 *
 * @module
 */

const TWO_32 = 2 ** 32;

/**
 * Reads a 64-bit number. Above 2^53 it is rounded, and still above 2^53: far
 * out of any disk's range.
 *
 * @param view Where from.
 * @param at Offset in bytes.
 * @returns The number.
 */
export function readU64(view: DataView, at: number): number {
  return view.getUint32(at) * TWO_32 + view.getUint32(at + 4);
}

/**
 * Writes a safe integer as a 64-bit number.
 *
 * @param view Where to.
 * @param at Offset in bytes.
 * @param value The number.
 */
export function writeU64(view: DataView, at: number, value: number): void {
  view.setUint32(at, Math.floor(value / TWO_32));
  view.setUint32(at + 4, value % TWO_32);
}
