/**
 * Writes sectors that are kept in memory to a backend, in pieces, a few at
 * once: memory is bounded, however much there is to write.
 *
 * @module
 */

import type { Backend, Extent } from "../backend.ts";
import { DiskError } from "../errors.ts";
import { type Geometry, SECTOR_BYTES } from "../geometry.ts";
import { plural } from "../plural.ts";
import { Request, RequestFlag, RequestType } from "../request.ts";
import { submitAll } from "./layer.ts";
import { copyOut, type SectorStore } from "./sector_store.ts";

/** Bytes of a piece, and pieces in flight. */
const PIECE_BYTES = 1 << 20;
const PIECES = 4;

/**
 * Writes what some stores have to a backend. Does not flush.
 *
 * @param stores The stores, the last one on top; they must not change.
 * @param runs What to write, whole blocks.
 * @param target The backend.
 * @returns The first error; `null` if all of it was written.
 */
export async function writeBack(
  stores: readonly SectorStore[],
  runs: readonly Extent[],
  target: Backend,
): Promise<DiskError | null> {
  const pieces = piecesOf(runs, target);
  for (let i = 0; i < pieces.length; i += PIECES) {
    const batch = pieces.slice(i, i + PIECES).map((piece) => {
      if (piece.hole && target.abilities.writeZeroes !== "none") {
        const { sector, count } = piece;
        const flags = RequestFlag.Unmap;
        return new Request(RequestType.WriteZeroes, sector, count, flags);
      }
      const data = target.allocate(piece.count * SECTOR_BYTES);
      if (!piece.hole) copyOut(stores, piece.sector, data);
      return new Request(RequestType.Out, piece.sector, piece.count, 0, data);
    });
    const error = await submitAll(target, batch);
    if (error !== null) return error;
  }
  return null;
}

function piecesOf(runs: readonly Extent[], target: Backend): Extent[] {
  const most = PIECE_BYTES / SECTOR_BYTES;
  const pieces: Extent[] = [];
  for (const run of runs) {
    if (run.hole && target.abilities.writeZeroes !== "none") {
      pieces.push(run);
      continue;
    }
    for (let done = 0; done < run.count; done += most) {
      const count = Math.min(most, run.count - done);
      pieces.push({ sector: run.sector + done, count, hole: run.hole });
    }
  }
  return pieces;
}

/**
 * Checks whether the changes of an overlay can go to a disk.
 *
 * @param target The disk.
 * @param geometry The shape of the overlay.
 * @returns Why they cannot; `null` if they can.
 */
export function refuseTarget(
  target: Backend,
  { sectors, blockSize }: Geometry,
): DiskError | null {
  if (
    !target.abilities.readOnly && target.geometry.sectors >= sectors &&
    target.geometry.blockSize <= blockSize
  ) return null;
  return new DiskError(
    target.abilities.readOnly ? "read-only" : "geometry",
    `Cannot commit as the target must be writable, of at least ${
      plural(sectors, "sector")
    } and of blocks of at most ${blockSize} bytes: current value is ${
      target.abilities.readOnly ? "read-only, " : ""
    }${
      plural(target.geometry.sectors, "sector")
    }, blocks of ${target.geometry.blockSize} bytes`,
    { operation: "commit" },
  );
}
