/**
 * What is open at a crash point: for each block, or for blocks that go
 * together, which of several contents is found. A state of the disk is one
 * option of each variable.
 *
 * Options are numbered. 0 is what is durable: nothing since has reached the
 * medium. `latest` is what was written last: everything has. Beyond `latest`
 * are the blocks torn inside.
 *
 * @module
 */

import {
  type BlockVersion,
  type RecordedRequest,
  tears,
} from "./block_version.ts";
import type { CrashImage } from "./crash_state.ts";

/** Whether the part of a write that concerns a block reached the medium. */
export type Reached = (request: RecordedRequest, block: number) => boolean;

/** What became of a block of a write. */
export type Outcome = "reached" | "lost" | "overwritten" | "torn";

/** Says what became of a block of a write. */
export type Tell = (
  version: BlockVersion,
  outcome: Outcome,
  torn: BlockVersion | null,
) => void;

/** Something that is open. */
export interface Variable {
  /** A name that it keeps at other crash points. */
  readonly id: string;
  /** Options. */
  readonly count: number;
  /** The option in which everything reached the medium. */
  readonly latest: number;
  /** Whether the options are all that there are. */
  readonly complete: boolean;
  /** The blocks that depend on it. */
  blocks(): Iterable<number>;
  /** Turns an image from one option to another. */
  apply(image: CrashImage, from: number, to: number): void;
  /** The option in which just those parts of writes reached the medium. */
  choose(reached: Reached): number;
  /** A name of an option that it keeps at other crash points. */
  key(option: number): string;
  /** How many blocks are not as they were written last, or torn. */
  cost(option: number): number;
  /** Says what became of each part of each write. */
  tell(option: number, tell: Tell): void;
}

/** One block. Any one of its contents is found, the durable or a later one. */
export class BlockVariable implements Variable {
  readonly count: number;
  readonly latest: number;
  readonly complete = true;
  readonly #options: BlockVersion[];

  /**
   * Constructs a new instance.
   *
   * @param durable What is durable.
   * @param pending What was written since, in order.
   * @param torn Whether it may be torn inside.
   */
  constructor(
    durable: BlockVersion,
    pending: readonly BlockVersion[],
    torn: boolean,
  ) {
    const options = [durable, ...pending];
    this.latest = pending.length;
    if (torn) {
      for (let i = 1; i <= pending.length; i++) {
        for (let under = 0; under < i; under++) {
          options.push(...tears(options[i]!, options[under]!));
        }
      }
    }
    this.#options = options;
    this.count = options.length;
  }

  get id(): string {
    return `${this.#options[0]!.block}`;
  }

  blocks(): Iterable<number> {
    return [this.#options[0]!.block];
  }

  apply(image: CrashImage, _from: number, to: number): void {
    image.set(this.#options[to]!);
  }

  choose(reached: Reached): number {
    for (let i = this.latest; i > 0; i--) {
      const { request, block } = this.#options[i]!;
      if (reached(request!, block)) return i;
    }
    return 0;
  }

  key(option: number): string {
    const { request, tear } = this.#options[option]!;
    if (option === 0) return "0";
    if (tear === null) return `${request!.number}`;
    const under = tear.under === this.#options[0]
      ? 0
      : tear.under.request!.number;
    return `${request!.number}/${tear.kept}/${under}`;
  }

  cost(option: number): number {
    return option === this.latest ? 0 : 1;
  }

  tell(option: number, tell: Tell): void {
    const found = this.#options[option]!;
    const { tear } = found;
    const whole = tear === null
      ? option
      : this.#options.findIndex(({ request }) => request === found.request);
    for (let i = 1; i <= this.latest; i++) {
      const version = this.#options[i]!;
      if (i > whole) tell(version, "lost", null);
      else if (i < whole) tell(version, "overwritten", null);
      else if (tear === null) tell(version, "reached", null);
      else tell(version, "torn", found);
    }
  }
}

/** Part of a write that is found wholly or not at all. */
export interface Piece {
  /** The write. */
  readonly request: RecordedRequest;
  /** What it makes of its blocks. */
  readonly versions: readonly BlockVersion[];
}

/** Pieces up to which all of their subsets are options. */
const MAX_SUBSET_PIECES = 10;

/** Blocks that go together as atomic writes hold them together. */
export class GroupVariable implements Variable {
  readonly id: string;
  readonly count: number;
  readonly latest: number;
  readonly complete: boolean;
  readonly #pieces: readonly Piece[];
  readonly #durable: readonly BlockVersion[];
  /** By option: what is found of each block, in the order of `#durable`. */
  readonly #options: BlockVersion[][] = [];
  /** By option: which pieces reached the medium. */
  readonly #subsets: boolean[][] = [];
  readonly #optionBySubset = new Map<string, number>();

  /**
   * Constructs a new instance.
   *
   * @param durable What is durable of its blocks.
   * @param pieces What was written since, in order.
   */
  constructor(durable: readonly BlockVersion[], pieces: readonly Piece[]) {
    this.id = `g${durable[0]!.block}`;
    this.#durable = durable;
    this.#pieces = pieces;
    const n = pieces.length;
    this.complete = n <= MAX_SUBSET_PIECES;
    const byResult = new Map<string, number>();
    const add = (subset: boolean[]) => {
      const versions = this.#resolve(subset);
      const result = versions.map(({ request }) => request?.number ?? 0).join();
      let option = byResult.get(result);
      if (option === undefined) {
        option = this.#options.length;
        byResult.set(result, option);
        this.#options.push(versions);
        this.#subsets.push(subset);
      }
      this.#optionBySubset.set(subset.map(Number).join(""), option);
    };
    const subset = (test: (i: number) => boolean) =>
      Array.from(pieces, (_, i) => test(i));
    if (this.complete) {
      for (let mask = 0; mask < 2 ** n; mask++) {
        add(subset((i) => (mask >> i & 1) === 1));
      }
    } else {
      for (let k = 0; k <= n; k++) add(subset((i) => i < k));
      for (let k = 0; k < n; k++) add(subset((i) => i === k));
      for (let k = 0; k < n; k++) add(subset((i) => i !== k));
    }
    this.count = this.#options.length;
    this.latest = this.#optionBySubset.get("1".repeat(n))!;
  }

  blocks(): Iterable<number> {
    return this.#durable.map(({ block }) => block);
  }

  apply(image: CrashImage, _from: number, to: number): void {
    for (const version of this.#options[to]!) image.set(version);
  }

  choose(reached: Reached): number {
    const subset = this.#pieces.map(({ request, versions }) =>
      reached(request, versions[0]!.block)
    );
    const known = this.#optionBySubset.get(subset.map(Number).join(""));
    if (known !== undefined) return known;
    const lost = subset.indexOf(false);
    const prefix = subset.map((_, i) => i < lost);
    return this.#optionBySubset.get(prefix.map(Number).join(""))!;
  }

  key(option: number): string {
    return this.#options[option]!.map(({ request }) => request?.number ?? 0)
      .join("/");
  }

  cost(option: number): number {
    const latest = this.#options[this.latest]!;
    return this.#options[option]!.filter((version, i) => version !== latest[i])
      .length;
  }

  tell(option: number, tell: Tell): void {
    const found = new Set(this.#options[option]!);
    for (const [i, { versions }] of this.#pieces.entries()) {
      for (const version of versions) {
        const reached = this.#subsets[option]![i]!;
        tell(
          version,
          found.has(version) ? "reached" : reached ? "overwritten" : "lost",
          null,
        );
      }
    }
  }

  #resolve(subset: readonly boolean[]): BlockVersion[] {
    const found = new Map(this.#durable.map((one) => [one.block, one]));
    for (const [i, { versions }] of this.#pieces.entries()) {
      if (!subset[i]) continue;
      for (const version of versions) found.set(version.block, version);
    }
    return [...found.values()];
  }
}

/** Everything, on a device that keeps the order: the first so many pieces. */
export class OrderedVariable implements Variable {
  readonly id = "order";
  readonly count: number;
  readonly latest: number;
  readonly complete = true;
  readonly #pieces: readonly Piece[];
  /** By piece: what its blocks were before it. */
  readonly #before: BlockVersion[][] = [];
  /** Beyond `latest`: a torn block, after so many whole pieces. */
  readonly #torn: { after: number; version: BlockVersion }[] = [];

  /**
   * Constructs a new instance.
   *
   * @param durable What is durable, by block.
   * @param pieces What was written since, in order.
   * @param torn Whether the last block may be torn inside.
   */
  constructor(
    durable: ReadonlyMap<number, BlockVersion>,
    pieces: readonly Piece[],
    torn: boolean,
  ) {
    this.#pieces = pieces;
    this.latest = pieces.length;
    const current = new Map(durable);
    for (const [after, { versions }] of pieces.entries()) {
      const before = versions.map(({ block }) => current.get(block)!);
      if (torn && versions.length === 1) {
        for (const version of tears(versions[0]!, before[0]!)) {
          this.#torn.push({ after, version });
        }
      }
      this.#before.push(before);
      for (const version of versions) current.set(version.block, version);
    }
    this.count = pieces.length + 1 + this.#torn.length;
  }

  blocks(): Iterable<number> {
    return new Set(
      this.#pieces.flatMap(({ versions }) =>
        versions.map(({ block }) => block)
      ),
    );
  }

  apply(image: CrashImage, from: number, to: number): void {
    let at = from;
    if (from > this.latest) {
      const { after, version } = this.#torn[from - this.latest - 1]!;
      image.set(version.tear!.under);
      at = after;
    }
    const torn = to > this.latest ? this.#torn[to - this.latest - 1]! : null;
    const end = torn?.after ?? to;
    for (; at < end; at++) {
      for (const version of this.#pieces[at]!.versions) image.set(version);
    }
    for (; at > end; at--) {
      for (const version of this.#before[at - 1]!) image.set(version);
    }
    if (torn !== null) image.set(torn.version);
  }

  choose(reached: Reached): number {
    const lost = this.#pieces.findIndex(({ request, versions }) =>
      !reached(request, versions[0]!.block)
    );
    return lost < 0 ? this.latest : lost;
  }

  key(option: number): string {
    const torn = option > this.latest
      ? this.#torn[option - this.latest - 1]!
      : null;
    const after = torn?.after ?? option;
    const last = this.#pieces[after - 1];
    const name = last === undefined
      ? "0"
      : `${last.request.number}/${last.versions.at(-1)!.block}`;
    return torn === null ? name : `${name}/${torn.version.tear!.kept}`;
  }

  cost(option: number): number {
    const after = option > this.latest
      ? this.#torn[option - this.latest - 1]!.after
      : option;
    let blocks = 0;
    for (let i = after; i < this.latest; i++) {
      blocks += this.#pieces[i]!.versions.length;
    }
    return blocks;
  }

  tell(option: number, tell: Tell): void {
    const torn = option > this.latest
      ? this.#torn[option - this.latest - 1]!
      : null;
    const after = torn?.after ?? option;
    for (const [i, { versions }] of this.#pieces.entries()) {
      for (const version of versions) {
        if (i < after) tell(version, "reached", null);
        else if (i === torn?.after) tell(version, "torn", torn.version);
        else tell(version, "lost", null);
      }
    }
  }
}
