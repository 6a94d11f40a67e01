/**
 * Finds which chunks of a sparse disk are in memory, in bounded time, however
 * long the disk is and however much of it is there.
 *
 * @module
 */

/** Chunks that are looked at for one answer: some 0.1 ms. */
const WINDOW = 4096;

/** Some of the chunks of a range. */
export interface StoredChunks {
  /** Indexes of those that are stored, in order. */
  readonly indexes: number[];
  /** The last chunk that was looked at: what is behind may be stored, too. */
  readonly last: number;
}

/**
 * Finds the stored chunks of a range, or of its beginning.
 *
 * @param chunks What is stored, by index.
 * @param first The first chunk of the range.
 * @param last The last chunk of the range.
 * @returns Those that are stored, and how far that goes.
 */
export function someStored(
  chunks: ReadonlyMap<number, unknown>,
  first: number,
  last: number,
): StoredChunks {
  const most = Math.min(last, first + WINDOW - 1);
  if (most === last || chunks.size <= WINDOW) {
    return { indexes: allStored(chunks, first, last), last };
  }
  const indexes = allStored(chunks, first, most);
  if (indexes.length > 0) return { indexes, last: most };
  // A gap is passed at once: otherwise a few chunks make a long disk slow.
  let next = last + 1;
  for (const index of chunks.keys()) {
    if (index > most && index < next) next = index;
  }
  return { indexes, last: next - 1 };
}

/**
 * Finds all stored chunks of a range.
 *
 * @param chunks What is stored, by index.
 * @param first The first chunk of the range.
 * @param last The last chunk of the range.
 * @returns The indexes of those that are stored, in order.
 */
export function allStored(
  chunks: ReadonlyMap<number, unknown>,
  first: number,
  last: number,
): number[] {
  // Whatever is less: a range may be far larger than what is stored.
  if (last - first >= chunks.size) {
    return [...chunks.keys()].filter((i) => i >= first && i <= last)
      .sort((a, b) => a - b);
  }
  const found: number[] = [];
  for (let i = first; i <= last; i++) if (chunks.has(i)) found.push(i);
  return found;
}
