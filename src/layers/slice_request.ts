/**
 * A part of a request as a request.
 *
 * @module
 */

import { SECTOR_BYTES } from "../geometry.ts";
import { Request } from "../request.ts";

/**
 * Makes a request for some of a request's sectors, with that part of its
 * memory.
 *
 * @param request The request.
 * @param from The first sector, counted from the request's own.
 * @param count Sectors.
 * @returns The part.
 */
export function sliceRequest(
  request: Request,
  from: number,
  count: number,
): Request {
  const { type, sector, flags } = request;
  const segments: Uint8Array[] = [];
  let start = from * SECTOR_BYTES;
  let left = count * SECTOR_BYTES;
  for (let i = 0; i < request.segmentCount && left > 0; i++) {
    const segment = request.segment(i);
    if (start < segment.length) {
      const part = segment.subarray(start, start + left);
      segments.push(part);
      left -= part.length;
    }
    start = Math.max(0, start - segment.length);
  }
  const [data = null, ...more] = segments;
  return new Request(type, sector + from, count, flags, data, more);
}
