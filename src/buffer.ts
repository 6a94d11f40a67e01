/**
 * Copies between a request's segments and one flat piece of memory.
 *
 * A request's memory can be detached or resized while the request waits. Where
 * each segment begins is no longer known then, so nothing is copied at all,
 * neither to a neighbour's memory nor from what a bounce buffer held before.
 *
 * @module
 */

import { isIntact, type Request } from "./request.ts";

/**
 * Copies out of a request's segments.
 *
 * @param request The request.
 * @param from Offset in the request's data, in bytes.
 * @param target Where to; filled wholly.
 * @returns Whether it was; if not, the memory has changed and nothing was copied.
 */
export function gather(
  request: Request,
  from: number,
  target: Uint8Array,
): boolean {
  if (!isIntact(request)) return false;
  const data = request.data!;
  if (from + target.length <= data.length) {
    target.set(data.subarray(from, from + target.length));
  } else {
    walk(request, from, target.length, (segment, start, end, at) => {
      // To make a view takes longer than to copy a sector.
      const whole = start === 0 && end === segment.length;
      target.set(whole ? segment : segment.subarray(start, end), at);
    });
  }
  return true;
}

/**
 * Copies into a request's segments.
 *
 * @param request The request.
 * @param from Offset in the request's data, in bytes.
 * @param source The bytes.
 * @returns Whether they were; if not, the memory has changed and nothing was
 * copied.
 */
export function scatter(
  request: Request,
  from: number,
  source: Uint8Array,
): boolean {
  if (!isIntact(request)) return false;
  const data = request.data!;
  if (from + source.length <= data.length) {
    data.set(source, from);
  } else {
    walk(request, from, source.length, (segment, start, end, at) => {
      segment.set(source.subarray(at, at + end - start), start);
    });
  }
  return true;
}

/**
 * Fills a range of a request's segments with zeroes.
 *
 * @param request The request.
 * @param from Offset in the request's data, in bytes.
 * @param length Bytes.
 * @returns Whether it was; if not, the memory has changed and nothing was done.
 */
export function clear(
  request: Request,
  from: number,
  length: number,
): boolean {
  if (!isIntact(request)) return false;
  const data = request.data!;
  if (from + length <= data.length) {
    data.fill(0, from, from + length);
  } else {
    walk(request, from, length, (segment, start, end) => {
      segment.fill(0, start, end);
    });
  }
  return true;
}

function walk(
  request: Request,
  from: number,
  length: number,
  visit: (segment: Uint8Array, start: number, end: number, at: number) => void,
): void {
  let base = 0;
  for (let i = 0; i < request.segmentCount; i++) {
    const segment = request.segment(i);
    const start = Math.max(from, base);
    const end = Math.min(from + length, base + segment.length);
    if (start < end) visit(segment, start - base, end - base, start - from);
    base += segment.length;
    if (base >= from + length) return;
  }
}

/** Where memory for a caller begins in its buffer, in bytes. */
const OFFSET_BYTES = 4096;

/**
 * Makes memory for a caller that begins inside of its buffer, as aligned memory
 * does: a program that takes a view's `buffer` for the view then fails with
 * every disk, also with one in memory, and not with real ones alone.
 *
 * @param byteLength Bytes.
 * @returns The memory, zeroed.
 */
export function offsetMemory(byteLength: number): Uint8Array<ArrayBuffer> {
  return new Uint8Array(
    new ArrayBuffer(OFFSET_BYTES + byteLength),
    OFFSET_BYTES,
    byteLength,
  );
}

/**
 * Tells whether memory holds nothing but zeroes.
 *
 * @param bytes The memory.
 * @returns Whether every byte is zero.
 */
export function isZero(bytes: Uint8Array): boolean {
  // Four bytes at a time between the unaligned ends.
  const head = Math.min((4 - bytes.byteOffset % 4) % 4, bytes.length);
  const wordCount = (bytes.length - head) >> 2;
  const words = new Int32Array(
    bytes.buffer,
    wordCount === 0 ? 0 : bytes.byteOffset + head,
    wordCount,
  );
  for (let i = 0; i < wordCount; i++) if (words[i] !== 0) return false;
  for (let i = 0; i < head; i++) if (bytes[i] !== 0) return false;
  for (let i = head + wordCount * 4; i < bytes.length; i++) {
    if (bytes[i] !== 0) return false;
  }
  return true;
}
