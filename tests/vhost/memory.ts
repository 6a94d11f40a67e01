/**
 * A guest's memory: regions of memfds that are given to the back end, with a
 * guard before and behind each in the same memfd, and an allocator over all of
 * them. Guest addresses, user addresses and places in the memfd are three
 * different numbers, so that whoever takes one for the other is found out.
 *
 * @module
 */

import type { MappedMemory } from "../../ffi/mapped_memory.ts";
import type { Kernel } from "./kernel.ts";
import type { Region } from "./messages.ts";

/** The unit of allocation, and the length of the guard behind a region. */
export const PAGE_BYTES = 4096;

/** What guards, and gaps between buffers, are filled with. */
export const GUARD = 0xc7;

/** Adds up to user addresses that are nowhere near those of the guest. */
const USER_BASE = 0x7a00_0000_0000;

/** A region of guest memory. */
export interface GuestRegion extends Region {
  /** Its memfd. */
  readonly fd: number;
  /** Its bytes, without the guards. */
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** The whole memfd, guards included. */
  readonly mapped: MappedMemory;
}

/** How a region is made. */
export interface RegionOptions {
  /** Where the guest sees it, a multiple of 4096. */
  guestAddress: number;
  /** Bytes, a multiple of 4096. */
  byteLength: number;
  /** Where it begins in its memfd, a multiple of 4096. */
  mapOffset?: number;
  /** Seals of the memfd. */
  seals?: number;
}

/** A guest's memory. */
export class GuestMemory {
  readonly #kernel: Kernel;
  /** 1 for each page in use, by region. */
  readonly #inUse = new Map<GuestRegion, Uint8Array>();
  /** The regions, by rising guest address. */
  regions: GuestRegion[] = [];

  /**
   * @param kernel The kernel.
   */
  constructor(kernel: Kernel) {
    this.#kernel = kernel;
  }

  /** Adds a region. */
  add(options: RegionOptions): GuestRegion {
    const { guestAddress, byteLength, mapOffset = 2 * PAGE_BYTES } = options;
    const whole = mapOffset + byteLength + PAGE_BYTES;
    const fd = this.#kernel.memfd(whole, options.seals);
    const mapped = this.#kernel.map(fd, whole);
    mapped.bytes.fill(GUARD, 0, mapOffset);
    mapped.bytes.fill(GUARD, mapOffset + byteLength);
    const region: GuestRegion = {
      guestAddress,
      byteLength,
      userAddress: USER_BASE + guestAddress * 2,
      mapOffset,
      fd,
      mapped,
      bytes: mapped.bytes.subarray(mapOffset, mapOffset + byteLength),
    };
    this.#inUse.set(region, new Uint8Array(byteLength / PAGE_BYTES));
    this.regions = [...this.regions, region].toSorted((a, b) =>
      a.guestAddress - b.guestAddress
    );
    return region;
  }

  /** Whether anything of a region is allocated. */
  isUsed(region: GuestRegion): boolean {
    return this.#inUse.get(region)!.includes(1);
  }

  /** Takes a region away, for good. */
  remove(region: GuestRegion): void {
    this.regions = this.regions.filter((each) => each !== region);
    this.#inUse.delete(region);
    this.#kernel.libc.close(region.fd);
    region.mapped.release();
  }

  /**
   * Allocates guest memory, which may cross from one region into the next if
   * they adjoin.
   *
   * @param byteLength Bytes.
   * @param within Whether it must lie in one region.
   * @param from Where to begin to look: a guest address.
   * @returns Its guest address; `null` if there is none left.
   */
  take(byteLength: number, within = false, from = 0): number | null {
    const pages = Math.ceil(byteLength / PAGE_BYTES);
    return this.#find(pages, within, from) ?? this.#find(pages, within, 0);
  }

  #find(pages: number, within: boolean, from: number): number | null {
    let start = 0;
    let next = -1;
    let run = 0;
    for (const region of this.regions) {
      const used = this.#inUse.get(region)!;
      if (within || region.guestAddress !== next) run = 0;
      next = region.guestAddress + region.byteLength;
      for (let page = 0; page < used.length; page++) {
        const address = region.guestAddress + page * PAGE_BYTES;
        if (used[page] === 1 || address < from) {
          run = 0;
          continue;
        }
        if (run++ === 0) start = address;
        if (run < pages) continue;
        this.#mark(start, pages, 1);
        return start;
      }
    }
    return null;
  }

  /** Gives memory back that {@linkcode GuestMemory.take} gave. */
  give(address: number, byteLength: number): void {
    this.#mark(address, Math.ceil(byteLength / PAGE_BYTES), 0);
  }

  #mark(address: number, pages: number, value: 0 | 1): void {
    for (let i = 0; i < pages; i++) {
      const at = address + i * PAGE_BYTES;
      const region = this.regionOf(at)!;
      const page = (at - region.guestAddress) / PAGE_BYTES;
      this.#inUse.get(region)![page] = value;
    }
  }

  /** The region that a guest address is in. */
  regionOf(address: number): GuestRegion | undefined {
    return this.regions.find(({ guestAddress, byteLength }) =>
      address >= guestAddress && address < guestAddress + byteLength
    );
  }

  /** The user address of a guest address. */
  userAddress(address: number): number {
    const region = this.regionOf(address)!;
    return region.userAddress + (address - region.guestAddress);
  }

  /** Views of guest memory: one for each region that it is in. */
  pieces(address: number, byteLength: number): Uint8Array<ArrayBuffer>[] {
    const views: Uint8Array<ArrayBuffer>[] = [];
    const end = address + byteLength;
    for (let at = address; at < end;) {
      const region = this.regionOf(at)!;
      const start = at - region.guestAddress;
      const view = region.bytes.subarray(start, start + end - at);
      views.push(view);
      at += view.length;
    }
    return views;
  }

  /** A view of guest memory that is in one region. */
  view(address: number, byteLength: number): Uint8Array<ArrayBuffer> {
    const [view, ...more] = this.pieces(address, byteLength);
    if (more.length > 0) throw new RangeError("It is in two regions");
    return view!;
  }

  /** A copy of guest memory. */
  read(address: number, byteLength: number): Uint8Array<ArrayBuffer> {
    const copy = new Uint8Array(byteLength);
    let at = 0;
    for (const view of this.pieces(address, byteLength)) {
      copy.set(view, at);
      at += view.length;
    }
    return copy;
  }

  /** Writes guest memory. */
  write(address: number, bytes: Uint8Array): void {
    let at = 0;
    for (const view of this.pieces(address, bytes.length)) {
      view.set(bytes.subarray(at, at + view.length));
      at += view.length;
    }
  }

  /**
   * Looks at the guards around the regions.
   *
   * @throws If one was touched.
   */
  checkGuards(): void {
    for (const { mapped, mapOffset, byteLength } of this.regions) {
      const end = mapOffset + byteLength;
      const around = [
        mapped.bytes.subarray(0, mapOffset),
        mapped.bytes.subarray(end, end + PAGE_BYTES),
      ];
      for (const guard of around) {
        for (let i = 0; i < guard.length; i++) {
          if (guard[i] === GUARD) continue;
          throw new Error("Bytes beside a region of guest memory were written");
        }
      }
    }
  }

  /** Gives all of it back. */
  close(): void {
    for (const region of [...this.regions]) this.remove(region);
  }
}
