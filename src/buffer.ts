/**
 * Copies between a request's segments and one flat piece of memory.
 *
 * @module
 */

import type { Request } from "./request.ts";

/**
 * Copies out of a request's segments.
 *
 * @param request The request.
 * @param from Offset in the request's data, in bytes.
 * @param target Where to; filled wholly.
 */
export function gather(
  request: Request,
  from: number,
  target: Uint8Array,
): void {
  const data = request.data!;
  if (from + target.length <= data.length) {
    target.set(data.subarray(from, from + target.length));
    return;
  }
  walk(request, from, target.length, (segment, start, end, at) => {
    target.set(segment.subarray(start, end), at);
  });
}

/**
 * Copies into a request's segments.
 *
 * @param request The request.
 * @param from Offset in the request's data, in bytes.
 * @param source The bytes.
 */
export function scatter(
  request: Request,
  from: number,
  source: Uint8Array,
): void {
  const data = request.data!;
  if (from + source.length <= data.length) {
    data.set(source, from);
    return;
  }
  walk(request, from, source.length, (segment, start, end, at) => {
    segment.set(source.subarray(at, at + end - start), start);
  });
}

/**
 * Fills a range of a request's segments with zeroes.
 *
 * @param request The request.
 * @param from Offset in the request's data, in bytes.
 * @param length Bytes.
 */
export function clear(request: Request, from: number, length: number): void {
  walk(request, from, length, (segment, start, end) => {
    segment.fill(0, start, end);
  });
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
