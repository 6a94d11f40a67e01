/**
 * Blocks whose contents depend on each other: atomic writes span them, or the
 * device keeps the order of writes.
 *
 * Their state is not chosen block by block but by pieces, the parts of writes
 * that reach the medium wholly or not: which ones did and, on a device that
 * keeps the order, how long the prefix is that did. A block then holds the last
 * of its pieces that reached the medium.
 *
 * @module
 */

import {
  type BlockVersion,
  type RecordedRequest,
  tears,
} from "./block_version.ts";
import type { CrashImage } from "./crash_state.ts";
import type {
  OptionOf,
  Reached,
  Variable,
  VisitOutcome,
} from "./crash_variable.ts";

/** Part of a write that is found wholly or not at all. */
export interface Piece {
  /** The write. */
  readonly request: RecordedRequest;
  /** What it makes of its blocks. */
  readonly versions: readonly BlockVersion[];
  /** Whether it may be missing though it lies within the prefix. */
  readonly optional: boolean;
  /** Whether it may be torn though it lies within the prefix. */
  readonly tearable: boolean;
  /** Whether it may be torn if the prefix ends with it. */
  readonly tearsLast: boolean;
}

/** What became of a piece; a number as an option of its variable. */
const LOST = 0;
const WHOLE = 1;
const TORN_FIRST = 2;
const TORN_LAST = 3;

/** States up to which they are counted by enumerating them. */
const MOST_COUNTED = 4096;

/** Variables up to which that is tried, as it recurses over them. */
const MOST_VARIABLES = 128;

/** A piece's part in one block. */
interface Layer {
  readonly piece: number;
  readonly version: BlockVersion;
}

/** A state of all pieces. */
interface JointState {
  /** Length of the prefix of pieces that reached the medium, in pieces. */
  end: number;
  /** What became of the piece at `end`: it is lost, or torn. */
  last: number;
  /** What became of each piece of the prefix. */
  readonly fates: Uint8Array;
}

/** Blocks that depend on each other, and what was written to them. */
export class Joint {
  /** What is undecided: the prefix, then the pieces from the last to the first. */
  readonly variables: readonly Variable[];
  /** The pieces, in order. */
  readonly pieces: readonly Piece[];
  readonly #durable: ReadonlyMap<number, BlockVersion>;
  readonly #order: OrderVariable | null;
  readonly #byPiece: (PieceVariable | null)[];
  readonly #layers = new Map<number, Layer[]>();
  readonly #torn = new Map<BlockVersion, Map<BlockVersion, BlockVersion[]>>();
  /** The state that the image shows. */
  readonly #now: JointState;

  /**
   * Constructs a new instance.
   *
   * @param durable What is durable of the blocks.
   * @param pieces What was written since, in order.
   * @param prefix How many of them are durable by the order, on a device that
   * keeps it; `null` on one that does not.
   */
  constructor(
    durable: ReadonlyMap<number, BlockVersion>,
    pieces: readonly Piece[],
    prefix: number | null,
  ) {
    this.#durable = durable;
    this.pieces = pieces;
    for (const [i, { versions }] of pieces.entries()) {
      for (const version of versions) {
        const layers = this.#layers.get(version.block);
        if (layers === undefined) {
          this.#layers.set(version.block, [{ piece: i, version }]);
        } else layers.push({ piece: i, version });
      }
    }
    this.#byPiece = pieces.map((piece, i) =>
      piece.optional ? new PieceVariable(this, i) : null
    );
    this.#order = prefix === null || prefix === pieces.length
      ? null
      : new OrderVariable(this, prefix);
    this.variables = [
      ...(this.#order === null ? [] : [this.#order]),
      ...this.#byPiece.filter((one) => one !== null).reverse(),
    ];
    this.#now = this.#stateOf(() => 0);
  }

  /**
   * How many states there are.
   *
   * @returns States; where they are very many, it may be more than there are.
   */
  count(): number {
    const { variables } = this;
    const product = variables.reduce((size, { count }) => size * count, 1);
    if (variables.length > MOST_VARIABLES) return product;
    const options = new Map<Variable, number>();
    const optionOf = (variable: Variable) => options.get(variable)!;
    let counted = 0;
    const count = (i: number) => {
      const variable = variables[i];
      if (variable === undefined) counted++;
      else {
        options.set(variable, 0);
        const end = variable.masked?.(optionOf) ? 1 : variable.count;
        for (let o = 0; o < end && counted < MOST_COUNTED; o++) {
          options.set(variable, o);
          count(i + 1);
        }
      }
    };
    count(0);
    return counted < MOST_COUNTED ? counted : product;
  }

  /** Sets the blocks of some pieces in the image to what they are found with. */
  show(image: CrashImage, pieces: Iterable<Piece>): void {
    for (const { versions } of pieces) {
      for (const { block } of versions) {
        image.set(this.#found(block, this.#now));
      }
    }
  }

  /** Decides what becomes of a piece. */
  decide(piece: number, fate: number): void {
    this.#now.fates[piece] = fate;
  }

  /** Decides how long the prefix is, and what becomes of the piece after it. */
  end(end: number, last: number): void {
    this.#now.end = end;
    this.#now.last = last;
  }

  /** Whether other pieces hide all of a piece. */
  hidden(piece: number, optionOf: OptionOf): boolean {
    const end = this.#order?.endOf(optionOf(this.#order)) ??
      this.pieces.length;
    return piece >= end ||
      this.pieces[piece]!.versions.every(({ block }) =>
        this.#layers.get(block)!.some((layer) =>
          layer.piece > piece && layer.piece < end &&
          this.#fate(layer.piece, optionOf) === WHOLE
        )
      );
  }

  /** Ways to tear a piece, if it is known what it is written over. */
  knownTears(piece: number): BlockVersion[] | null {
    const { block } = this.pieces[piece]!.versions[0]!;
    let under = this.#durable.get(block)!;
    for (const layer of this.#layers.get(block)!) {
      if (layer.piece >= piece) break;
      if (this.pieces[layer.piece]!.optional) return null;
      under = layer.version;
    }
    return this.#tears(this.pieces[piece]!.versions[0]!, under);
  }

  /** Reports what became of each block of each piece. */
  outcomes(optionOf: OptionOf, visit: VisitOutcome): void {
    const state = this.#stateOf(optionOf);
    for (const [i, { versions }] of this.pieces.entries()) {
      const fate = i < state.end
        ? state.fates[i]!
        : i === state.end
        ? state.last
        : LOST;
      for (const version of versions) {
        const found = this.#found(version.block, state);
        if (found === version) visit(version, "reached", null);
        else if (found.request === version.request) {
          visit(version, "torn", found);
        } else visit(version, fate === WHOLE ? "overwritten" : "lost", null);
      }
    }
  }

  #stateOf(optionOf: OptionOf): JointState {
    const option = this.#order === null ? 0 : optionOf(this.#order);
    return {
      end: this.#order?.endOf(option) ?? this.pieces.length,
      last: this.#order?.lastOf(option) ?? LOST,
      fates: Uint8Array.from(this.pieces, (_, i) => this.#fate(i, optionOf)),
    };
  }

  #fate(piece: number, optionOf: OptionOf): number {
    const variable = this.#byPiece[piece]!;
    return variable === null ? WHOLE : optionOf(variable);
  }

  /** The content of a block: the last piece that reached it, torn or not. */
  #found(block: number, { end, last, fates }: JointState): BlockVersion {
    const layers = this.#layers.get(block)!;
    let torn: BlockVersion | null = null;
    let kept = LOST;
    let under = this.#durable.get(block)!;
    for (let i = firstFrom(layers, end + 1) - 1; i >= 0; i--) {
      const { piece, version } = layers[i]!;
      const fate = piece === end ? last : fates[piece]!;
      if (fate === LOST) continue;
      if (fate === WHOLE) {
        under = version;
        break;
      }
      // A block is a mixture of two at most.
      if (torn !== null) continue;
      torn = version;
      kept = fate;
    }
    if (torn === null) return under;
    return this.#tears(torn, under)[kept - TORN_FIRST] ?? under;
  }

  #tears(version: BlockVersion, under: BlockVersion): BlockVersion[] {
    let byUnder = this.#torn.get(version);
    if (byUnder === undefined) this.#torn.set(version, byUnder = new Map());
    let both = byUnder.get(under);
    if (both === undefined) byUnder.set(under, both = tears(version, under));
    return both;
  }
}

/** The first layer of a piece or of one after it. */
function firstFrom(layers: readonly Layer[], piece: number): number {
  let [low, high] = [0, layers.length];
  while (low < high) {
    const middle = low + high >> 1;
    if (layers[middle]!.piece < piece) low = middle + 1;
    else high = middle;
  }
  return low;
}

function nameOf({ request, versions }: Piece): string {
  return `${request.number}/${versions.at(-1)!.block}`;
}

/** Whether a piece of the prefix reached the medium. */
class PieceVariable implements Variable {
  readonly id: string;
  readonly count: number;
  readonly latest = WHOLE;
  readonly #joint: Joint;
  readonly #at: number;
  readonly #piece: Piece;

  constructor(joint: Joint, at: number) {
    this.#joint = joint;
    this.#at = at;
    this.#piece = joint.pieces[at]!;
    this.id = `p${nameOf(this.#piece)}`;
    this.count = this.#piece.tearable ? TORN_LAST + 1 : WHOLE + 1;
  }

  blocks(): Iterable<number> {
    return this.#piece.versions.map(({ block }) => block);
  }

  apply(image: CrashImage, _from: number, to: number): void {
    this.#joint.decide(this.#at, to);
    this.#joint.show(image, [this.#piece]);
  }

  choose(reached: Reached): number {
    const { request, versions } = this.#piece;
    return reached(request, versions[0]!.block) ? WHOLE : LOST;
  }

  key(option: number): string {
    return `${option}`;
  }

  cost(option: number): number {
    return option === WHOLE ? 0 : this.#piece.versions.length;
  }

  outcomes(optionOf: OptionOf, visit: VisitOutcome): void {
    // The first one reports for all.
    if (this.#joint.variables[0] === this) {
      this.#joint.outcomes(optionOf, visit);
    }
  }

  masked(optionOf: OptionOf): boolean {
    return this.#joint.hidden(this.#at, optionOf);
  }
}

/** How long the prefix is, on a device that keeps the order. */
class OrderVariable implements Variable {
  readonly id = "order";
  readonly count: number;
  readonly latest: number;
  readonly #joint: Joint;
  /** By option: length of the prefix, and what becomes of the piece after it. */
  readonly #ends: { end: number; last: number }[] = [];

  constructor(joint: Joint, prefix: number) {
    this.#joint = joint;
    const { pieces } = joint;
    // What may be missing need not be a place to stop at.
    for (let end = prefix; end < pieces.length; end++) {
      if (!pieces[end]!.optional) this.#ends.push({ end, last: LOST });
    }
    this.#ends.push({ end: pieces.length, last: LOST });
    this.latest = this.#ends.length - 1;
    for (let end = prefix; end < pieces.length; end++) {
      if (!pieces[end]!.tearsLast) continue;
      if (joint.knownTears(end)?.length === 0) continue;
      for (const last of [TORN_FIRST, TORN_LAST]) {
        this.#ends.push({ end, last });
      }
    }
    this.count = this.#ends.length;
  }

  endOf(option: number): number {
    return this.#ends[option]!.end;
  }

  lastOf(option: number): number {
    return this.#ends[option]!.last;
  }

  *blocks(): Iterable<number> {
    for (const { versions } of this.#joint.pieces) {
      for (const { block } of versions) yield block;
    }
  }

  apply(image: CrashImage, from: number, to: number): void {
    const [a, { end, last }] = [this.endOf(from), this.#ends[to]!];
    this.#joint.end(end, last);
    this.#joint.show(
      image,
      this.#joint.pieces.slice(Math.min(a, end), Math.max(a, end) + 1),
    );
  }

  choose(reached: Reached): number {
    const { pieces } = this.#joint;
    for (let option = 0; option < this.latest; option++) {
      const { request, versions } = pieces[this.endOf(option)]!;
      if (!reached(request, versions[0]!.block)) return option;
    }
    return this.latest;
  }

  key(option: number): string {
    const { end, last } = this.#ends[option]!;
    const piece = this.#joint.pieces[end - 1];
    return `${piece === undefined ? "0" : nameOf(piece)}/${last}`;
  }

  cost(option: number): number {
    let blocks = 0;
    for (const { versions } of this.#joint.pieces.slice(this.endOf(option))) {
      blocks += versions.length;
    }
    return blocks;
  }

  outcomes(optionOf: OptionOf, visit: VisitOutcome): void {
    this.#joint.outcomes(optionOf, visit);
  }
}
