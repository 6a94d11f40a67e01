/**
 * The guest's memory as a front end describes it: regions, each known by two
 * addresses, and nothing in between. Whatever comes from a guest is looked up
 * here before a byte of it is touched; what lies outside is a
 * {@linkcode GuestFault}, and a range that leaves a region goes on in the next
 * one or not at all.
 *
 * How the bytes of a region are reached is a {@linkcode RegionMemory}. A map is
 * held by whoever may still touch it, and gives its memory back with the last of
 * them: a front end may take its memory away while a disk still moves data.
 *
 * @module
 */

/** The guest named memory that it does not have, or took it away. */
export class GuestFault extends Error {
  /** Always `"GuestFault"`. */
  override readonly name = "GuestFault";
}

/** The bytes of one region. Offsets count from its first byte. */
export interface RegionMemory {
  /**
   * The memory itself, if it can be given away.
   *
   * @param at Offset.
   * @param length Bytes, within the region.
   * @returns The memory; `null` if it is reached by copies only.
   */
  lend(at: number, length: number): Uint8Array<ArrayBuffer> | null;
  /**
   * Copies bytes out of the region.
   *
   * @param at Offset.
   * @param target Where to: memory of `alignedMemory`, filled wholly.
   * @throws {GuestFault} If the memory has gone.
   */
  read(at: number, target: Uint8Array<ArrayBuffer>): void;
  /**
   * Copies bytes into the region.
   *
   * @param at Offset.
   * @param source The bytes, memory of `alignedMemory`.
   * @throws {GuestFault} If the memory has gone.
   */
  write(at: number, source: Uint8Array<ArrayBuffer>): void;
  /**
   * Loads a little-endian u16 that the driver stores, in one piece. What is
   * loaded after it is not older than what the driver stored before it
   * (acquire), and it is not loaded before what was stored here by
   * {@linkcode RegionMemory.storeU16} earlier on.
   *
   * @param at Offset, even.
   * @returns The value.
   * @throws {GuestFault} If the offset is odd or the memory has gone.
   */
  loadU16(at: number): number;
  /**
   * Stores a little-endian u16 that the driver loads, in one piece. A driver that
   * sees it sees what was stored here before it (release).
   *
   * @param at Offset, even.
   * @param value The value.
   * @throws {GuestFault} If the offset is odd or the memory has gone.
   */
  storeU16(at: number, value: number): void;
  /** Gives the memory back. Nobody touches it from then on. */
  release(): void;
}

/** One region of guest memory. */
export interface Region {
  /** Its first address as the guest knows it. */
  readonly guestAddress: number;
  /** Its first address as the front end knows it. */
  readonly userAddress: number;
  /** Bytes. */
  readonly byteLength: number;
  /** Its bytes. */
  readonly memory: RegionMemory;
}

/** A stretch of memory in one region. */
export interface Piece {
  /** The memory that it is in. */
  readonly memory: RegionMemory;
  /** Its offset there. */
  readonly at: number;
  /** Bytes, at least one. */
  readonly length: number;
}

/** All of a guest's memory, until the front end describes it anew. */
export class MemoryMap {
  readonly #regions: readonly Region[];
  /** Where most addresses are: the region of the last one. */
  #last: Region | undefined;
  #holders = 1;
  readonly #released = Promise.withResolvers<void>();

  /**
   * Constructs a new instance, held once.
   *
   * @param regions The regions; the map gives their memory back.
   */
  constructor(regions: readonly Region[]) {
    this.#regions = regions;
    this.#last = regions[0];
  }

  /** When its memory has been given back. */
  get released(): Promise<void> {
    return this.#released.promise;
  }

  /** Lets it stay for one holder more. */
  hold(): void {
    this.#holders++;
  }

  /** Ends what {@linkcode MemoryMap.hold} or the constructor began. */
  release(): void {
    if (--this.#holders > 0) return;
    for (const { memory } of this.#regions) memory.release();
    this.#released.resolve();
  }

  /**
   * Finds memory by the guest's address.
   *
   * @param address The guest's address of its first byte.
   * @param length Bytes, at least one.
   * @param pieces Where to add what was found: one piece, or as many as there
   * are regions that it goes through.
   * @throws {GuestFault} If a byte of it is in no region.
   */
  find(address: number, length: number, pieces: Piece[]): void {
    while (length > 0) {
      const region = this.#regionOf(address);
      const at = address - region.guestAddress;
      const here = Math.min(length, region.byteLength - at);
      pieces.push({ memory: region.memory, at, length: here });
      address += here;
      length -= here;
    }
  }

  /**
   * Finds memory by the front end's address, as those of rings are. It must be
   * in one region.
   *
   * @param address The front end's address of its first byte.
   * @param length Bytes.
   * @returns The memory.
   * @throws {GuestFault} If a byte of it is in another region, or in none.
   */
  findByUser(address: number, length: number): Piece {
    for (const { userAddress, byteLength, memory } of this.#regions) {
      const at = address - userAddress;
      if (at >= 0 && at < byteLength && length <= byteLength - at) {
        return { memory, at, length };
      }
    }
    throw new GuestFault(
      `Cannot find ${length} bytes at the front end's address ${
        hex(address)
      } as no region has them`,
    );
  }

  #regionOf(address: number): Region {
    const last = this.#last;
    if (last !== undefined && contains(last, address)) return last;
    const found = this.#regions.find((region) => contains(region, address));
    if (found === undefined) {
      throw new GuestFault(
        `Cannot find memory at the guest's address ${
          hex(address)
        } as no region has it`,
      );
    }
    return this.#last = found;
  }
}

/**
 * Tells whether two ranges of addresses have any in common.
 *
 * @param a First address of the one.
 * @param aLength Bytes of it.
 * @param b First address of the other.
 * @param bLength Bytes of it.
 * @returns Whether they have.
 */
export function overlap(
  a: number,
  aLength: number,
  b: number,
  bLength: number,
): boolean {
  return a < b + bLength && b < a + aLength;
}

function contains({ guestAddress, byteLength }: Region, address: number) {
  const at = address - guestAddress;
  return at >= 0 && at < byteLength;
}

function hex(address: number): string {
  return `0x${address.toString(16)}`;
}
