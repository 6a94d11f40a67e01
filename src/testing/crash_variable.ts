/**
 * What a power cut leaves undecided at a crash point: one variable for each
 * block, or for several whose contents depend on each other. A crash state is
 * one option of each variable.
 *
 * Options are numbered. 0 is the durable content: nothing since has reached the
 * medium. `latest` is the last write: everything has. Options beyond `latest`
 * are torn blocks.
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

/** Called for each block of each write that is not durable. */
export type VisitOutcome = (
  version: BlockVersion,
  outcome: Outcome,
  torn: BlockVersion | null,
) => void;

/** Which option each variable has. */
export type OptionOf = (variable: Variable) => number;

/** Something undecided. */
export interface Variable {
  /** A name that it keeps at other crash points. */
  readonly id: string;
  /** Options. */
  readonly count: number;
  /** The option in which everything reached the medium. */
  readonly latest: number;
  /** The blocks that depend on it. */
  blocks(): Iterable<number>;
  /** Changes an image from one option to another. */
  apply(image: CrashImage, from: number, to: number): void;
  /** The option in which just those parts of writes reached the medium. */
  choose(reached: Reached): number;
  /** A name of an option that it keeps at other crash points. */
  key(option: number): string;
  /** How many blocks are not as they were written last, or torn. */
  cost(option: number): number;
  /** Reports what became of each block of each write. */
  outcomes(optionOf: OptionOf, visit: VisitOutcome): void;
  /**
   * Whether the options of the variables before it in its space hide whatever
   * its own option is. Without this method, never.
   */
  masked?(optionOf: OptionOf): boolean;
}

/** One block by itself: it is found with its durable content or a later one. */
export class BlockVariable implements Variable {
  readonly count: number;
  readonly latest: number;
  readonly #options: BlockVersion[];

  /**
   * Constructs a new instance.
   *
   * @param durable What is durable.
   * @param pending What was written since, in order.
   * @param tearable Whether one of that may be torn inside.
   */
  constructor(
    durable: BlockVersion,
    pending: readonly BlockVersion[],
    tearable: (version: BlockVersion) => boolean,
  ) {
    const options = [durable, ...pending];
    this.latest = pending.length;
    for (let i = 1; i <= pending.length; i++) {
      if (!tearable(options[i]!)) continue;
      for (let under = 0; under < i; under++) {
        options.push(...tears(options[i]!, options[under]!));
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

  outcomes(optionOf: OptionOf, visit: VisitOutcome): void {
    const option = optionOf(this);
    const found = this.#options[option]!;
    const { tear } = found;
    const whole = tear === null
      ? option
      : this.#options.findIndex(({ request }) => request === found.request);
    for (let i = 1; i <= this.latest; i++) {
      const version = this.#options[i]!;
      if (i > whole) visit(version, "lost", null);
      else if (i < whole) visit(version, "overwritten", null);
      else if (tear === null) visit(version, "reached", null);
      else visit(version, "torn", found);
    }
  }
}
