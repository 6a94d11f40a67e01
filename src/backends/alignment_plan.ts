/**
 * Divides a request into pieces that the host takes: numbers in, numbers out.
 * Nothing here touches a disk or memory; the direct and the portable backend
 * move what is planned.
 *
 * With direct I/O a host takes whole blocks of its own, at multiples of their
 * size, and memory that is aligned as well. A request consists of blocks of the
 * disk, which may be smaller, and its memory may lie anywhere. Each piece of it
 * moves in one of three ways:
 *
 * | way | when | calls |
 * | --- | --- | --- |
 * | straight | whole host blocks and aligned memory | one, on the caller's memory |
 * | bounce | other memory, or a read that does not begin and end on host blocks | one, on aligned memory |
 * | modify | a write that does not begin and end on host blocks | one read for each edge that is part of a block, one write |
 *
 * So where does a host of 4,096 bytes split a write of 512 at sector 17? It does
 * not: a sector lies in one host block, and this one is read, changed, written.
 *
 * ```text
 *    8,192   8,704   9,216                      12,288
 *      |-------|#######|-------------------------|    # what is written
 *      `------------- one host block ------------'
 *    way Modify, offset 8,192, span 4,096, skip 512, length 512, readsFirst
 * ```
 *
 * Three sectors from sector 7 on share two host blocks. Both edges are read, and
 * both blocks are written at once:
 *
 * ```text
 *      0                       3,584   4,096   5,120           8,192
 *      |-------------------------|#######|#######|---------------|
 *      `----------- readsFirst ----------'------ readsLast ------'
 *    way Modify, offset 0, span 8,192, skip 3,584, length 1,536
 * ```
 *
 * The rules, in this order:
 *
 * 1. A piece stays on its side of `tailStart`. A file may end inside of a host
 *    block, and writing that block would make it grow, so its last bytes go
 *    through a descriptor that is buffered and takes any length.
 * 2. The rest goes straight if all of it can.
 * 3. With an edge that is no whole block, the rest goes through aligned memory
 *    if it fits there, as to copy it costs less than another call. (A loop
 *    device of 4,096 on a virtio disk, Linux 6.18, one read of so much and 512
 *    bytes in one piece against two: 4 KiB 290 and 583 µs, 256 KiB 894 and
 *    1,665, 1,020 KiB 2,188 and 2,303; writes 422 and 635, 698 and 849, 1,514 and
 *    1,509.) Otherwise the whole blocks go straight first, if they can.
 * 4. No piece is longer than one call, or the aligned memory, can take.
 *
 * A modified block must be locked from the read to the write: see
 * {@linkcode RangeLock}. A transfer that ended short is planned again from where
 * it ended.
 *
 * @module
 */

/** How a piece moves. */
export const Way = {
  /** The kernel gets the caller's memory. */
  Straight: 0,
  /** The kernel gets aligned memory, and the piece is copied. */
  Bounce: 1,
  /** As before, and the blocks at the edges are read before they are written. */
  Modify: 2,
} as const;

/** How a piece moves. */
export type Way = typeof Way[keyof typeof Way];

/** The address of memory that the kernel may not have: it must be copied. */
export const NO_ADDRESS = -1;

/**
 * Stands for the address of memory that the kernel may have whole, wherever in
 * it: it begins on a page.
 */
export const ANY_PAGE = 0;

/**
 * Bytes of one call at most: Linux moves less than 2 GiB at once (MAX_RW_COUNT
 * in include/linux/fs.h), and a submission of io_uring has 32 bits for them. A
 * power of two, so that what follows is aligned as well.
 */
export const MAX_CALL_BYTES = 2 ** 30;

/** What the host takes, for one kind of transfer. All but `writes` in bytes. */
export interface HostLimits {
  /** Whether it writes: then what surrounds a part of a block must be kept. */
  readonly writes: boolean;
  /** What offset and length of a call must be multiples of: the host's block. */
  readonly alignment: number;
  /** What the address of memory must be a multiple of: a power of two. */
  readonly memoryAlignment: number;
  /** Where a file's last, partial host block begins; `Infinity` without one. */
  readonly tailStart: number;
  /** The longest call on the caller's memory. */
  readonly maxStraightBytes: number;
  /** The longest call on aligned memory. */
  readonly maxBounceBytes: number;
  /** Segments of one call at most; IOV_MAX is 1,024 everywhere. */
  readonly maxSegments: number;
}

/** One piece of a request, and the calls that move it. */
export interface Piece {
  /** How it moves. */
  readonly way: Way;
  /** Bytes of the request. */
  readonly length: number;
  /** Where the call begins in the file, in bytes. */
  readonly offset: number;
  /** Bytes of the call, from `offset` on. */
  readonly span: number;
  /** Bytes of the call that come before the piece. */
  readonly skip: number;
  /** Whether it goes through the buffered descriptor of the tail. */
  readonly inTail: boolean;
  /** Whether the first block of the span must be read before it is written. */
  readonly readsFirst: boolean;
  /**
   * Whether the last block of the span must be; `false` if it is the first one
   * and that is read.
   */
  readonly readsLast: boolean;
}

/** A request's memory, as far as a plan depends on it. */
export interface Segments {
  /** How many segments there are. */
  readonly segmentCount: number;
  /** One of them. */
  segment(index: number): Uint8Array;
}

/** Plans transfers of one kind. */
export class AlignmentPlanner {
  /** What offset and length of a call are multiples of, in bytes. */
  readonly alignment: number;
  readonly #writes: boolean;
  /** The bits that are 0 in the address of aligned memory. */
  readonly #memoryMask: number;
  readonly #tailStart: number;
  readonly #maxSegments: number;
  readonly #maxStraight: number;
  readonly #maxBounce: number;
  // One for all plans, so that to plan allocates nothing.
  readonly #piece: { -readonly [K in keyof Piece]: Piece[K] } = {
    way: Way.Straight,
    length: 0,
    offset: 0,
    span: 0,
    skip: 0,
    inTail: false,
    readsFirst: false,
    readsLast: false,
  };

  /**
   * Constructs a new instance.
   *
   * @param limits What the host takes. Lengths that are no whole host blocks are
   * rounded down to such.
   * @throws {RangeError} If not even one host block can be moved at once.
   */
  constructor(limits: HostLimits) {
    const { alignment, maxStraightBytes, maxBounceBytes } = limits;
    this.alignment = alignment;
    this.#writes = limits.writes;
    this.#memoryMask = limits.memoryAlignment - 1;
    this.#tailStart = limits.tailStart;
    this.#maxSegments = limits.maxSegments;
    this.#maxStraight = roundDown(
      Math.min(maxStraightBytes, MAX_CALL_BYTES),
      alignment,
    );
    this.#maxBounce = roundDown(maxBounceBytes, alignment);
    if (this.#maxStraight === 0 || this.#maxBounce === 0) {
      throw new RangeError(
        `Cannot plan I/O as the host's alignment must be at most ${
          Math.min(maxStraightBytes, maxBounceBytes)
        } bytes: current value is ${alignment}`,
      );
    }
  }

  /**
   * Plans the next piece of a request.
   *
   * @param position Its first byte that has not been moved, in the file.
   * @param end The byte after its last.
   * @param address The address of the memory of `position`, or any number with
   * the same remainder; {@linkcode NO_ADDRESS} if it must be copied.
   * @returns The piece that begins at `position`. The next plan overwrites it.
   */
  plan(position: number, end: number, address: number): Piece {
    const piece = this.#piece;
    const inTail = position >= this.#tailStart;
    const block = inTail ? 1 : this.alignment;
    const until = inTail || end <= this.#tailStart ? end : this.#tailStart;
    const left = until - position;
    const skip = position % block;
    piece.inTail = inTail;
    piece.skip = skip;
    piece.offset = position - skip;
    if (skip === 0 && address >= 0 && (address & this.#memoryMask) === 0) {
      const edge = left % block;
      if (edge === 0 || left > this.#maxBounce) {
        piece.way = Way.Straight;
        piece.length = piece.span = Math.min(left - edge, this.#maxStraight);
        piece.readsFirst = piece.readsLast = false;
        return piece;
      }
    }
    const span = Math.min(roundUp(skip + left, block), this.#maxBounce);
    const length = Math.min(left, span - skip);
    const first = this.#writes && skip > 0;
    const last = this.#writes && skip + length < span;
    piece.way = first || last ? Way.Modify : Way.Bounce;
    piece.length = length;
    piece.span = span;
    // A block at both edges is read once.
    piece.readsFirst = first || last && span === block;
    piece.readsLast = last && span > block;
    return piece;
  }

  /**
   * Whether the segments of a request can go to the kernel in one call, as they
   * are: each whole host blocks, as older kernels want it, and no
   * shorter than a page, as less is sooner copied than described to the device.
   *
   * @param memory The segments.
   * @param addressOf Tells the address of one, or {@linkcode NO_ADDRESS}.
   * @returns Whether they can.
   */
  takesSegments(
    memory: Segments,
    addressOf: (segment: Uint8Array) => number,
  ): boolean {
    const { alignment } = this;
    const page = this.#memoryMask + 1;
    const count = memory.segmentCount;
    if (count > this.#maxSegments) return false;
    let total = 0;
    for (let i = 0; i < count; i++) {
      const segment = memory.segment(i);
      const address = addressOf(segment);
      if (
        address < 0 || (address & this.#memoryMask) !== 0 ||
        segment.length % alignment !== 0 || segment.length < page
      ) return false;
      total += segment.length;
    }
    return total <= this.#maxStraight;
  }
}

/**
 * Rounds down to a multiple.
 *
 * @param value A number ≥ 0.
 * @param multiple What to round to; not only powers of two, and not only 32
 * bits.
 * @returns The multiple at or below it.
 */
export function roundDown(value: number, multiple: number): number {
  return value - value % multiple;
}

/**
 * Rounds up to a multiple.
 *
 * @param value A number ≥ 0.
 * @param multiple What to round to.
 * @returns The multiple at or above it.
 */
export function roundUp(value: number, multiple: number): number {
  return roundDown(value + multiple - 1, multiple);
}
