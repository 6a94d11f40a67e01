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
  /** Changes an image from one option to another: always the same image. */
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
  /** What is durable, and what was written since, in order. */
  readonly #written: readonly BlockVersion[];
  /**
   * The different contents: that of what is durable, then others in the order of
   * their first writes, then torn ones. Each is the last version that has it.
   */
  readonly #options: BlockVersion[];
  /** The option that each of what was written is. */
  readonly #optionOf: readonly number[];

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
    const written = [durable, ...pending];
    const options: BlockVersion[] = [];
    const byContent = new Map<number, number>();
    const add = (version: BlockVersion): number => {
      const content = contentKey(version);
      let option = byContent.get(content);
      if (option === undefined) {
        byContent.set(content, option = options.length);
        options.push(version);
      }
      return option;
    };
    this.#optionOf = written.map((version) => {
      const option = add(version);
      options[option] = version;
      return option;
    });
    this.latest = this.#optionOf.at(-1)!;
    for (let i = 1; i <= pending.length; i++) {
      if (!tearable(written[i]!)) continue;
      for (let under = 0; under < i; under++) {
        for (const torn of tears(written[i]!, written[under]!)) add(torn);
      }
    }
    this.#written = written;
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
    const written = this.#written;
    for (let i = written.length - 1; i > 0; i--) {
      const { request, block } = written[i]!;
      if (reached(request!, block)) return this.#optionOf[i]!;
    }
    return 0;
  }

  key(option: number): string {
    const { request, tear } = this.#options[option]!;
    if (option === 0) return "0";
    if (tear === null) return `${request!.number}`;
    const under = tear.under === this.#written[0]
      ? 0
      : tear.under.request!.number;
    return `${request!.number}/${tear.kept}/${under}`;
  }

  cost(option: number): number {
    return option === this.latest ? 0 : 1;
  }

  outcomes(optionOf: OptionOf, visit: VisitOutcome): void {
    const written = this.#written;
    const found = this.#options[optionOf(this)]!;
    const torn = found.tear !== null;
    const whole = written.findIndex((version) =>
      torn ? version.request === found.request : version === found
    );
    for (let i = 1; i < written.length; i++) {
      const version = written[i]!;
      if (i > whole) visit(version, "lost", null);
      else if (i < whole) visit(version, "overwritten", null);
      else if (torn) visit(version, "torn", found);
      else visit(version, "reached", null);
    }
  }
}

/** A content as a number of 53 bits, of its hash. */
function contentKey({ high, low }: BlockVersion): number {
  return (high >>> 0) * 2 ** 21 + (low >>> 11);
}
