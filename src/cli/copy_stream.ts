/**
 * Copies that go through in order, from a stream or by a block map: the bytes
 * come in, are summed up where a sum is to be checked, and go to the target by
 * one writer. Memory is bounded by the few writes in flight, and, with
 * `--verify`, by 32 bytes for each MiB that was written.
 *
 * @module
 */

import { createHash } from "node:crypto";
import type { CopyPhase } from "../disk/copy.ts";
import type { VirtualDisk } from "../disk/disk.ts";
import { SECTOR_BYTES } from "../geometry.ts";
import type { Bmap, BmapRange } from "../image/mod.ts";
import { plural } from "../plural.ts";
import { formatSize } from "../units.ts";
import { type CopyTarget, failCopy } from "./copy_target.ts";
import type { CopySums } from "./copy_report.ts";
import { CliError } from "./images.ts";
import type { ByteSource } from "./image_stream.ts";
import { readBack } from "./read_back.ts";
import { SequentialWriter } from "./sequential_writer.ts";

/** What is copied how. */
export interface StreamCopy {
  /** Where from, at its start. */
  readonly source: ByteSource;
  /** Where to. */
  readonly target: CopyTarget;
  /** The part of it that begins where the copy does. */
  readonly onto: VirtualDisk;
  /** Bytes to copy; to the end of the source by default. */
  readonly bytes: number | undefined;
  /** Which blocks to copy, instead. */
  readonly bmap: Bmap | undefined;
  /** Whether the last block is filled with zeroes. */
  readonly pad: boolean;
  /** Whether zeroes may become holes. */
  readonly sparse: boolean;
  /** Writes in flight. */
  readonly depth: number | undefined;
  /** Whether to read the target again and compare. */
  readonly verify: boolean;
  /** Stops it. */
  readonly signal: AbortSignal;
  /**
   * Called as work goes on.
   *
   * @param bytes Bytes copied, or read back.
   * @param phase Which of it.
   */
  readonly onProgress: (bytes: number, phase: CopyPhase) => void;
}

/**
 * Copies, flushes, and reads back if wanted.
 *
 * @param copy What is copied how.
 * @returns What was done.
 * @throws {CliError} If it fails; it says what is left of the target.
 */
export async function copyStream(copy: StreamCopy): Promise<CopySums> {
  const { source, target, onto: disk, bmap, signal } = copy;
  const writer = new SequentialWriter(disk, {
    sparse: copy.sparse,
    targetIsZero: target.isNew,
    depth: copy.depth,
    sums: copy.verify,
    signal,
  });
  let reached: CopyPhase = "copy";
  try {
    if (bmap === undefined) await add(source.take(copy.bytes));
    else {
      checkBlocks(bmap, copy);
      await copyMapped(bmap);
    }
    const { ragged } = writer;
    if (ragged > 0) {
      // What a map calls the image may end anywhere.
      if (!copy.pad && bmap === undefined) {
        throw new CliError(
          `Cannot write the last ${plural(ragged, "byte")} of ${source.name} ` +
            `as ${ragged === 1 ? "it is" : "they are"} no whole block: fill ` +
            `it with --pad`,
        );
      }
      writer.pad();
    }
    // A map may have nothing mapped: then the image is all zeroes.
    if (writer.taken === 0 && bmap === undefined) {
      throw new CliError(`Cannot copy ${source.name} as it is empty`);
    }
    await writer.finish();
    if (copy.verify) {
      reached = "verify";
      copy.onProgress(0, reached);
      await readBack(
        disk,
        writer.pieces,
        signal,
        (sectors) => copy.onProgress(sectors * SECTOR_BYTES, "verify"),
      );
    }
  } catch (error) {
    await writer.giveUp();
    const part = `the first ${formatSize(writer.settled)} of it are new`;
    throw await failCopy(
      error,
      target,
      signal,
      reached,
      bmap === undefined && writer.settled > 0 ? part : undefined,
    );
  }
  const bytes = bmap?.imageBytes ?? writer.taken;
  const sectors = Math.ceil(bytes / SECTOR_BYTES);
  return { sectors, ...writer.counts, verified: copy.verify };

  async function add(
    pieces: AsyncIterable<Uint8Array>,
    see?: (piece: Uint8Array) => void,
  ): Promise<void> {
    for await (const piece of pieces) {
      signal.throwIfAborted();
      see?.(piece);
      if (!await writer.add(piece)) {
        throw new CliError(
          `Cannot write all of ${source.name} as "${target.path}" ends after ` +
            `${formatSize(disk.sectors * SECTOR_BYTES)} of it`,
        );
      }
      copy.onProgress(writer.taken, "copy");
    }
  }

  async function copyMapped(map: Bmap): Promise<void> {
    const { blockBytes, imageBytes, checksumType } = map;
    let at = 0;
    for (const { first, last, checksum } of map.ranges) {
      const from = first * blockBytes;
      const end = Math.min((last + 1) * blockBytes, imageBytes);
      await source.pass(from - at);
      writer.pass(from - at);
      const hash = checksum === null || checksumType === null
        ? undefined
        : createHash(checksumType);
      await add(source.take(end - from), (piece) => void hash?.update(piece));
      const sum = hash?.digest("hex") ?? null;
      if (sum !== checksum) {
        throw new CliError(
          `Cannot confirm blocks ${first} to ${last} of ${source.name} as ` +
            `their ${checksumType} must be ${checksum}, as the bmap says: ` +
            `current value is ${sum}`,
        );
      }
      at = end;
    }
    // Data whose end is missing was cut, also where nothing is mapped there.
    await source.pass(imageBytes - at);
    await source.end();
  }
}

/**
 * Refuses a map of which a range begins or ends within a block of the target:
 * the others would be written by the time that it is come to.
 */
function checkBlocks(
  { ranges, blockBytes, imageBytes }: Bmap,
  { onto: { blockSize }, target: { path } }: StreamCopy,
): void {
  const isWhole = ({ first, last }: BmapRange) => {
    const end = (last + 1) * blockBytes;
    return first * blockBytes % blockSize === 0 &&
      // What a map calls the image may end anywhere.
      (end % blockSize === 0 || end >= imageBytes);
  };
  const cut = ranges.find((range) => !isWhole(range));
  if (cut === undefined) return;
  throw new CliError(
    `Cannot write blocks ${cut.first} to ${cut.last} of ${blockBytes} bytes, as ` +
      `the bmap has them, as "${path}" takes whole blocks of ${blockSize} bytes`,
  );
}
