/**
 * A number for some of the blocks of a disk, 4 bytes each where blocks with
 * numbers are neighbours, however long the disk is.
 *
 * @module
 */

/** Blocks of a page. */
const PAGE_BLOCKS = 64;

/** Which content some blocks have. */
export class BlockTable {
  /** How many blocks have one. */
  size = 0;
  /** Contents plus one; 0 where there is none. */
  readonly #pages = new Map<number, Int32Array>();
  #lastIndex = -1;
  #last: Int32Array | undefined = undefined;

  /**
   * Gets the content of a block.
   *
   * @param block The block.
   * @returns Its number; -1 if there is none.
   */
  get(block: number): number {
    const page = this.#page(Math.floor(block / PAGE_BLOCKS));
    return page === undefined ? -1 : page[block % PAGE_BLOCKS]! - 1;
  }

  /**
   * Tells whether a block has one.
   *
   * @param block The block.
   * @returns Whether it has.
   */
  has(block: number): boolean {
    return this.get(block) >= 0;
  }

  /**
   * Sets the content of a block.
   *
   * @param block The block.
   * @param content Its number, from 0.
   */
  set(block: number, content: number): void {
    const index = Math.floor(block / PAGE_BLOCKS);
    let page = this.#page(index);
    if (page === undefined) {
      page = new Int32Array(PAGE_BLOCKS);
      this.#pages.set(index, page);
      this.#last = page;
    }
    const at = block % PAGE_BLOCKS;
    if (page[at] === 0) this.size++;
    page[at] = content + 1;
  }

  /**
   * The blocks that have one, with it.
   *
   * @returns Pairs, by page in the order of setting.
   */
  *entries(): Generator<[block: number, content: number]> {
    for (const [index, page] of this.#pages) {
      for (let at = 0; at < PAGE_BLOCKS; at++) {
        if (page[at] !== 0) yield [index * PAGE_BLOCKS + at, page[at]! - 1];
      }
    }
  }

  #page(index: number): Int32Array | undefined {
    if (index !== this.#lastIndex) {
      this.#lastIndex = index;
      this.#last = this.#pages.get(index);
    }
    return this.#last;
  }
}
