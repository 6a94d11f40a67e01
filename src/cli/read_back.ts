/**
 * Reads a target again after it was written from a stream, and compares what it
 * has with sums that were made of what came in: the stream is gone by then.
 *
 * @module
 */

import { isSame } from "../bytes.ts";
import type { VirtualDisk } from "../disk/disk.ts";
import { DiskError } from "../errors.ts";
import { SECTOR_BYTES } from "../geometry.ts";
import { plural } from "../plural.ts";
import type { WrittenPiece } from "./sequential_writer.ts";

/** Reads in flight. */
const DEPTH = 4;

/**
 * Compares a disk with what was written to it.
 *
 * @param disk The disk.
 * @param pieces What was written, with sums.
 * @param signal Stops it.
 * @param onProgress Called with the sectors that are done.
 * @returns When all is compared.
 * @throws {DiskError} Kind `"io"`, operation `"verify"`, if one reads otherwise;
 * and whatever a read failed with.
 */
export async function readBack(
  disk: VirtualDisk,
  pieces: readonly WrittenPiece[],
  signal: AbortSignal,
  onProgress: (doneSectors: number) => void,
): Promise<void> {
  let next = 0;
  let done = 0;
  const failures: { sector: number; error: unknown }[] = [];
  async function work(): Promise<void> {
    let memory: Uint8Array<ArrayBuffer> | undefined;
    while (failures.length === 0 && next < pieces.length) {
      const { sector, count, sum } = pieces[next++]!;
      try {
        if (memory === undefined || memory.length < count * SECTOR_BYTES) {
          memory = disk.allocate(count);
        }
        const data = memory.subarray(0, count * SECTOR_BYTES);
        await disk.readInto(sector, data, { signal });
        const read = await crypto.subtle.digest("SHA-256", data);
        if (!isSame(new Uint8Array(read), sum)) {
          throw new DiskError(
            "io",
            `Cannot confirm the copy as ${plural(count, "sector")} at sector ` +
              `${sector} do not read back as they were written`,
            { operation: "verify", sector, count },
          );
        }
        done += count;
        onProgress(done);
      } catch (error) {
        failures.push({ sector, error });
      }
    }
  }
  await Promise.all(Array.from({ length: DEPTH }, work));
  // Every one begun is finished: the first on the disk is the answer.
  const [first] = failures.sort((a, b) => a.sector - b.sector);
  if (first !== undefined) throw first.error;
}
