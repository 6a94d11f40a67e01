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
import { submitAllThen } from "./layer.ts";
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
export function writeBack(
  stores: readonly SectorStore[],
  runs: readonly Extent[],
  target: Backend,
): Promise<DiskError | null> {
  return new Promise((resolve, reject) =>
    writeBackThen(stores, runs, target, { done: resolve, threw: reject })
  );
}

/** What {@linkcode writeBackThen} ends with: one of the two is called. */
export interface WriteBackEnd {
  /** Called with the first error; `null` if all of it was written. */
  readonly done: (error: DiskError | null) => void;
  /** Called with what was thrown while memory was made. */
  readonly threw: (cause: unknown) => void;
}

/**
 * The same with callbacks, called before this returns if the backend answers
 * before `submit` does.
 *
 * @param stores The stores, the last one on top; they must not change.
 * @param runs What to write, whole blocks.
 * @param target The backend.
 * @param end Called at the end.
 */
export function writeBackThen(
  stores: readonly SectorStore[],
  runs: readonly Extent[],
  target: Backend,
  end: WriteBackEnd,
): void {
  const pieces = piecesOf(runs, target);
  let at = 0;
  // Answers that come at once must not pile up on the stack.
  let stepping = false;
  let again = false;
  const step = (): void => {
    again = true;
    if (stepping) return;
    stepping = true;
    while (again) {
      again = false;
      if (at >= pieces.length) return end.done(null);
      let batch: Request[];
      try {
        batch = pieces.slice(at, at += PIECES)
          .map((piece) => requestOf(piece, stores, target));
      } catch (cause) {
        return end.threw(cause);
      }
      submitAllThen(target, batch, (error) => {
        if (error === null) step();
        else end.done(error);
      });
    }
    stepping = false;
  };
  step();
}

function requestOf(
  piece: Extent,
  stores: readonly SectorStore[],
  target: Backend,
): Request {
  const { sector, count, hole } = piece;
  if (hole && target.abilities.writeZeroes !== "none") {
    const flags = RequestFlag.Unmap;
    return new Request(RequestType.WriteZeroes, sector, count, flags);
  }
  const data = target.allocate(count * SECTOR_BYTES);
  if (!hole) copyOut(stores, sector, data);
  return new Request(RequestType.Out, sector, count, 0, data);
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
