/**
 * The data of an overlay's file: where it is stored and where it is a hole, and
 * how it gets to another place. Sectors are those of the disk; which of them are
 * changed is for others to know.
 *
 * @module
 */

import type { Backend, Extent } from "../../backend.ts";
import { SECTOR_BYTES, type SectorRange } from "../../geometry.ts";
import { Request, RequestFlag, RequestType } from "../../request.ts";
import { settleAll } from "../../settle_all.ts";
import { submitUnless } from "../layer.ts";

/** Sectors that are copied at once: 1 MiB. */
const COPY_SECTORS = 2048;

/** So many of them at a time. */
const PIECES_IN_FLIGHT = 4;

/** The data of one file. */
export class StoredData {
  readonly #file: Backend;
  readonly #first: number;

  /**
   * Constructs a new instance.
   *
   * @param file The file.
   * @param first The sector of the file that has the first of the disk.
   */
  constructor(file: Backend, first: number) {
    this.#file = file;
    this.#first = first;
  }

  /**
   * Data and holes among changed sectors.
   *
   * @param range The sectors.
   * @param once Whether to ask the file only once, so that the answer may end
   * before the range does.
   * @returns Extents in order, adjoining.
   */
  extents({ sector, count }: SectorRange, once = false): Extent[] {
    const found: Extent[] = [];
    for (let at = sector; at < sector + count;) {
      const rest = sector + count - at;
      const extents = this.#file.extents?.(this.#first + at, rest) ?? [];
      for (const extent of extents) {
        found.push({ ...extent, sector: extent.sector - this.#first });
      }
      const last = extents.at(-1);
      const next = last === undefined
        ? at
        : last.sector + last.count - this.#first;
      if (next <= at) {
        found.push({ sector: at, count: rest, hole: false });
        break;
      }
      at = next;
      if (once) break;
    }
    return found;
  }

  /**
   * Copies a run of changed sectors, a few pieces at once.
   *
   * @param run The sectors.
   * @param target Where to.
   * @param shift How much further they begin there, in sectors.
   * @param signal Interrupts it.
   * @param prepare Is awaited before anything is written.
   * @returns When they are copied; not flushed.
   * @throws {DiskError} If it fails. If the signal fired, its reason.
   */
  async copy(
    run: SectorRange,
    target: Backend,
    shift: number,
    signal?: AbortSignal,
    prepare?: () => Promise<void>,
  ): Promise<void> {
    const pieces = [...piecesOf(this.extents(run))];
    for (let i = 0; i < pieces.length; i += PIECES_IN_FLIGHT) {
      // None goes on when this has failed.
      await settleAll(
        pieces.slice(i, i + PIECES_IN_FLIGHT).map((piece) =>
          this.#copyPiece(piece, target, shift, signal, prepare)
        ),
      );
    }
  }

  async #copyPiece(
    { sector, count, hole }: Extent,
    target: Backend,
    shift: number,
    signal: AbortSignal | undefined,
    prepare: (() => Promise<void>) | undefined,
  ): Promise<void> {
    const to = sector + shift;
    if (hole && target.abilities.writeZeroes !== "none") {
      const { WriteZeroes } = RequestType;
      await prepare?.();
      return await carryOut(
        target,
        new Request(WriteZeroes, to, count, RequestFlag.Unmap),
        signal,
      );
    }
    const data = target.allocate(count * SECTOR_BYTES);
    const from = this.#first + sector;
    await carryOut(
      this.#file,
      new Request(RequestType.In, from, count, 0, data),
      signal,
    );
    await prepare?.();
    await carryOut(
      target,
      new Request(RequestType.Out, to, count, 0, data),
      signal,
    );
  }
}

async function carryOut(
  backend: Backend,
  request: Request,
  signal: AbortSignal | undefined,
): Promise<void> {
  const error = await submitUnless(backend, request, signal);
  if (error !== null) throw error;
}

function* piecesOf(extents: readonly Extent[]): Generator<Extent, void> {
  for (const { sector, count, hole } of extents) {
    const most = hole ? count : COPY_SECTORS;
    for (let done = 0; done < count; done += most) {
      yield {
        sector: sector + done,
        count: Math.min(most, count - done),
        hole,
      };
    }
  }
}
