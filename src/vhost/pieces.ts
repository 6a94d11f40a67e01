/**
 * Scattered guest memory as one row of bytes: counted, cut, and copied.
 *
 * @module
 */

import type { Piece } from "./memory_map.ts";

/**
 * Counts bytes.
 *
 * @param pieces The pieces.
 * @returns Bytes of all of them.
 */
export function byteLengthOf(pieces: readonly Piece[]): number {
  let bytes = 0;
  for (let i = 0; i < pieces.length; i++) bytes += pieces[i]!.length;
  return bytes;
}

/**
 * Cuts off what lies in front.
 *
 * @param pieces The pieces; what is cut off is taken out of them.
 * @param bytes Bytes to cut off, as many as there are at most.
 * @returns What was cut off.
 */
export function cutFront(pieces: Piece[], bytes: number): Piece[] {
  // Most often a header has a buffer of its own.
  if (pieces[0]?.length === bytes) return [pieces.shift()!];
  const front: Piece[] = [];
  let count = 0;
  for (; bytes > 0; count++) {
    const { memory, at, length } = pieces[count]!;
    if (length > bytes) {
      front.push({ memory, at, length: bytes });
      pieces[count] = { memory, at: at + bytes, length: length - bytes };
      break;
    }
    front.push(pieces[count]!);
    bytes -= length;
  }
  pieces.splice(0, count);
  return front;
}

/**
 * Cuts off the last byte.
 *
 * @param pieces The pieces, at least one; the byte is taken out of them.
 * @returns The byte.
 */
export function cutLastByte(pieces: Piece[]): Piece {
  const { memory, at, length } = pieces.pop()!;
  if (length > 1) pieces.push({ memory, at, length: length - 1 });
  return { memory, at: at + length - 1, length: 1 };
}

/**
 * Copies bytes out of guest memory.
 *
 * @param pieces The pieces.
 * @param target Where to, memory of `alignedMemory`, as long as they are.
 * @throws {GuestFault} If the memory has gone.
 */
export function copyOut(
  pieces: readonly Piece[],
  target: Uint8Array<ArrayBuffer>,
): void {
  // A view costs more than to copy a header.
  if (pieces.length === 1) return pieces[0]!.memory.read(pieces[0]!.at, target);
  let done = 0;
  for (const { memory, at, length } of pieces) {
    memory.read(at, target.subarray(done, done + length));
    done += length;
  }
}

/**
 * Copies bytes into guest memory.
 *
 * @param pieces The pieces.
 * @param source The bytes, memory of `alignedMemory`, as many as they have.
 * @throws {GuestFault} If the memory has gone.
 */
export function copyIn(
  pieces: readonly Piece[],
  source: Uint8Array<ArrayBuffer>,
): void {
  let done = 0;
  for (const { memory, at, length } of pieces) {
    memory.write(at, source.subarray(done, done + length));
    done += length;
  }
}
