/**
 * The shape of what is pending at each crash point, and the points in groups of
 * the same shape: a few states of each group tell more than many of one.
 *
 * A shape is how many requests of which kind are not durable: what they do, how
 * long they are, how often the recording writes that place, where it lies; and
 * how many of them had completed before the last acknowledgement. What happens
 * only now and then, such as a flush that is missing once, has a rare shape.
 *
 * `crash_timeline.ts` says what happens, in order; `crash_order.ts` takes the
 * groups.
 *
 * @module
 */

import type { RecordedRequest } from "./block_version.ts";
import type { CrashRecording } from "./crash_recording.ts";

/** Groups up to which a finer shape is taken, in any case and at most. */
const FEW_GROUPS = 8;
const MOST_GROUPS = 64;

/** Parts of the written span that count as places of their own. */
const REGIONS = 8;

/** Names of shapes as numbers: the same name, the same number. */
class Names {
  readonly #numbers = new Map<string, number>();

  /** How many there are. */
  get size(): number {
    return this.#numbers.size;
  }

  /** The number of a name. */
  of(name: string): number {
    let number = this.#numbers.get(name);
    if (number === undefined) {
      this.#numbers.set(name, number = this.#numbers.size);
    }
    return number;
  }
}

/** How finely requests are told apart, the finest first. */
const LEVELS = 3;

/** The shapes of the points of a recording. */
export class CrashShapes {
  /** How often each place is written. */
  readonly #writes = new Map<number, number>();
  readonly #first: number;
  readonly #span: number;
  /** Open blocks of each open request, and its kind at each level. */
  readonly #open = new Map<
    RecordedRequest,
    { blocks: number; readonly kinds: readonly string[] }
  >();
  /** The kinds of requests, by what tells them apart. */
  readonly #known = new Map<number, readonly string[]>();
  /** Open requests by kind, at each level. */
  readonly #kinds = Array.from(
    { length: LEVELS },
    () => new Map<string, number>(),
  );
  readonly #names = Array.from({ length: LEVELS }, () => new Names());
  /** The shape of each point, at each level. */
  readonly #shapes: number[][] = Array.from({ length: LEVELS }, () => []);
  #acknowledgedAt = -1;
  /** Open requests that had completed before the last acknowledgement. */
  #older = 0;
  /** Open requests that have completed. */
  #completed = 0;

  /**
   * Constructs a new instance.
   *
   * @param recording What is gone through, event by event.
   */
  constructor({ requests }: CrashRecording) {
    let [first, end] = [Infinity, 0];
    for (const { sector, count, blocks } of requests) {
      if (blocks === 0) continue;
      this.#writes.set(sector, (this.#writes.get(sector) ?? 0) + 1);
      first = Math.min(first, sector);
      end = Math.max(end, sector + count);
    }
    this.#first = first;
    this.#span = Math.max(1, end - first);
  }

  /** A write is submitted. */
  submit(request: RecordedRequest): void {
    const kinds = this.#kindsOf(request);
    this.#open.set(request, { blocks: request.blocks, kinds });
    this.#count(kinds, 1);
  }

  /** A block of a write is not pending any more. */
  close(request: RecordedRequest): void {
    const open = this.#open.get(request)!;
    if (--open.blocks > 0) return;
    this.#open.delete(request);
    this.#count(open.kinds, -1);
    this.#completed--;
    if (request.completedAt < this.#acknowledgedAt) this.#older--;
  }

  /** A write has completed. */
  complete(request: RecordedRequest): void {
    if (this.#open.has(request)) this.#completed++;
  }

  /** Something was acknowledged. */
  acknowledge(event: number): void {
    this.#acknowledgedAt = event;
    this.#older = this.#completed;
  }

  /** A crash point is reached. */
  addPoint(): void {
    for (const [level, kinds] of this.#kinds.entries()) {
      const words: string[] = [];
      for (const [kind, count] of kinds) words.push(`${kind}x${few(count)}`);
      words.sort();
      const name = `${words.join(" ")}|${few(this.#older)}`;
      this.#shapes[level]!.push(this.#names[level]!.of(name));
    }
  }

  /**
   * The points in groups of the same shape.
   *
   * @returns Indexes of points; the rarest group first, and of a group first the
   * last point, then others far from those before.
   */
  groups(): number[][] {
    const points = this.#shapes[0]!.length;
    const most = Math.min(
      MOST_GROUPS,
      Math.max(FEW_GROUPS, Math.floor(Math.sqrt(points))),
    );
    let level = 0;
    while (level < LEVELS - 1 && this.#names[level]!.size > most) level++;
    const groups = new Map<number, number[]>();
    for (const [i, shape] of this.#shapes[level]!.entries()) {
      const group = groups.get(shape);
      if (group === undefined) groups.set(shape, [i]);
      else group.push(i);
    }
    return [...groups.values()].sort((a, b) => a.length - b.length);
  }

  #kindsOf(request: RecordedRequest): readonly string[] {
    const { type, fua, sector } = request;
    const heat = few(this.#writes.get(sector)!);
    const length = few(request.count);
    const region = Math.floor((sector - this.#first) / this.#span * REGIONS);
    // Each of them less than 64, and the region less than how many there are.
    const key = (((type * 2 + Number(fua)) * 64 + heat) * 64 + length) *
        REGIONS + region;
    let kinds = this.#known.get(key);
    if (kinds === undefined) {
      kinds = [
        `${type}.${fua}.${heat}.${length}.${region}`,
        `${type}.${fua}.${heat}.${length}`,
        `${type}.${heat}`,
      ];
      this.#known.set(key, kinds);
    }
    return kinds;
  }

  #count(names: readonly string[], change: number): void {
    for (let level = 0; level < LEVELS; level++) {
      const kinds = this.#kinds[level]!;
      const name = names[level]!;
      const open = (kinds.get(name) ?? 0) + change;
      if (open === 0) kinds.delete(name);
      else kinds.set(name, open);
    }
  }
}

/** A count, roughly: exactly up to 3, then by powers of two. */
function few(count: number): number {
  return count <= 3 ? count : 2 + Math.floor(Math.log2(count));
}
