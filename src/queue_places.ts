/**
 * What a queue's overlap scan reads of the active requests, in flat arrays, and
 * how these are used again: to make them takes longer than all else of a queue,
 * and a program may open one disk after the other.
 *
 * @module
 */

/** Sectors and kinds of the active requests, by their position. */
export interface Places {
  /** First sectors. */
  readonly starts: Float64Array;
  /** The sectors after their last. */
  readonly ends: Float64Array;
  /** What they are to the scan. */
  readonly kinds: Uint8Array;
}

/** Closed queues of one size whose places are kept for the next ones, at most. */
const MOST_KEPT = 4;

/** Places of queues that were closed, by size. */
const kept = new Map<number, Places[]>();

/**
 * Places for a queue.
 *
 * @param size Requests that it may have active.
 * @returns The places; what is in them is of no request.
 */
export function placesFor(size: number): Places {
  return kept.get(size)?.pop() ?? {
    starts: new Float64Array(size),
    ends: new Float64Array(size),
    kinds: new Uint8Array(size),
  };
}

/**
 * Takes the places of a queue that is closed, for the next one of its size.
 *
 * @param size The queue's size.
 * @param places The places, which nobody uses any more.
 */
export function keepPlaces(size: number, places: Places): void {
  const some = kept.get(size);
  if (some === undefined) kept.set(size, [places]);
  else if (some.length < MOST_KEPT) some.push(places);
}
