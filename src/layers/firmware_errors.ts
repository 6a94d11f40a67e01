/**
 * What becomes of a request that a drive's firmware gets wrong: of a write some
 * blocks land, or a request is done at another place. One that is acknowledged
 * and never done is answered and needs nothing of this.
 *
 * Torn: "shorn writes" of SSDs whose power is cut (Zheng et al., "Understanding
 * the Robustness of SSDs under Power Fault", FAST 2013). Misdirected: Krioukov
 * et al., "Parity Lost and Parity Regained", FAST 2008; Bairavasundaram et al.,
 * "An Analysis of Data Corruption in the Storage Stack", FAST 2008. Lost writes:
 * Krioukov et al.; flushes that are acknowledged and not done: drives (Rajimwale
 * et al., "Coerced Cache Eviction and Discreet Mode Journaling", DSN 2011) and
 * QEMU's `cache=unsafe`.
 *
 * A write is torn by logical blocks, the unit that a disk promises to write
 * whole; any of them may land, not only the first ones.
 *
 * @module
 */

import { type Geometry, SECTOR_BYTES, type SectorRange } from "../geometry.ts";
import type { Random } from "../random.ts";
import { Request } from "../request.ts";
import { sliceRequest } from "./slice_request.ts";

/** Which blocks of a torn write land: so many, these, or drawn ones. */
export type Keep = number | readonly number[] | undefined;

/**
 * The parts of a torn write that land.
 *
 * @param request The write.
 * @param keep Which blocks land.
 * @param part What may tear; all beside it lands.
 * @param geometry The disk's shape.
 * @param random Where to draw from.
 * @returns The parts, in order.
 */
export function tornPieces(
  request: Request,
  keep: Keep,
  part: SectorRange,
  geometry: Geometry,
  random: Random,
): Request[] {
  const blockSectors = geometry.blockSize / SECTOR_BYTES;
  const blocks = request.count / blockSectors;
  const lands = landing(keep, blocks, random);
  for (let i = 0; i < blocks; i++) {
    const first = request.sector + i * blockSectors;
    if (
      first + blockSectors <= part.sector ||
      first >= part.sector + part.count
    ) lands[i] = true;
  }
  const pieces: Request[] = [];
  for (let from = 0; from < blocks; from++) {
    if (!lands[from]) continue;
    let to = from + 1;
    while (to < blocks && lands[to]) to++;
    pieces.push(
      sliceRequest(request, from * blockSectors, (to - from) * blockSectors),
    );
    from = to;
  }
  return pieces;
}

/**
 * The same request at another place; only one of the whole disk has no other.
 *
 * @param request The request.
 * @param offset How many sectors away, in whole blocks; as far the other way if
 * the disk ends before; drawn if not given.
 * @param geometry The disk's shape.
 * @param random Where to draw from.
 * @returns The request as it is done.
 */
export function misdirected(
  request: Request,
  offset: number | undefined,
  geometry: Geometry,
  random: Random,
): Request {
  const { type, sector, count, flags, data, more } = request;
  const blockSectors = geometry.blockSize / SECTOR_BYTES;
  const places = (geometry.sectors - count) / blockSectors + 1;
  const home = sector / blockSectors;
  let place = home;
  if (offset !== undefined) {
    // On the disk, or there would be nothing to see.
    const away = (blocks: number) =>
      Math.min(Math.max(home + blocks, 0), places - 1);
    const blocks = Math.sign(offset) *
      Math.max(Math.round(Math.abs(offset) / blockSectors), 1);
    place = away(blocks);
    if (place === home) place = away(-blocks);
  } else if (places > 1) {
    place = random.below(places - 1);
    if (place >= home) place++;
  }
  return new Request(type, place * blockSectors, count, flags, data, more);
}

/** Which blocks of a torn write land. */
function landing(
  keep: Keep,
  blocks: number,
  random: Random,
): boolean[] {
  const lands = new Array<boolean>(blocks).fill(false);
  if (typeof keep === "number") return lands.fill(true, 0, keep);
  if (keep !== undefined) {
    for (const block of keep) if (block < blocks) lands[block] = true;
    return lands;
  }
  for (let i = 0; i < blocks; i++) lands[i] = random.chance(1, 2);
  if (blocks === 1) return lands;
  // All or nothing is not torn.
  const odd = random.below(blocks);
  if (lands.every((each) => each === lands[0])) lands[odd] = !lands[odd];
  return lands;
}
