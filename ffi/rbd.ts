/**
 * Images of a Ceph cluster, by librbd: requests are handed over here, and are
 * over when librbd's threads say so, by bytes through a socket. No function of
 * ours is called by those threads.
 *
 * Source: `/usr/include/rbd/librbd.h` of Ceph 16. Results are ≥ 0 or −errno, in
 * the numbers of Linux.
 *
 * @module
 */

import { CallMemory } from "./call_memory.ts";
import type { CephLibrary, ReadyCall } from "./ceph_library.ts";
import type { Libc } from "./libc.ts";
import { addressOf, alignedMemory, memoryAt } from "./memory.ts";

/** librbd.h: EVENT_TYPE_PIPE, a byte is written for each completion. */
const EVENT_TYPE_PIPE = 1;

/** librbd.h: RBD_WRITE_ZEROES_FLAG_THICK_PROVISION. */
const THICK_PROVISION = 1;

/** librbd.h: RBD_LOCK_MODE_EXCLUSIVE. */
const LOCK_MODE_EXCLUSIVE = 0n;

/** rbd/features.h. */
export const RBD_FEATURE = {
  EXCLUSIVE_LOCK: 1 << 2,
  OBJECT_MAP: 1 << 3,
  NON_PRIMARY: 1 << 10,
};

/** librbd.h: RBD_FLAG_OBJECT_MAP_INVALID. */
export const RBD_FLAG_OBJECT_MAP_INVALID = 1;

/**
 * rbd_image_info_t: u64 size@0, u64 obj_size@8, u64 num_objs@16, int order@24,
 * char block_name_prefix[24]@28, i64 parent_pool@56, char parent_name[96]@64.
 */
const INFO_BYTES = 160;
const INFO_OBJECT_SIZE_AT = 8n;

/** rbd_image_watcher_t: char *addr@0, i64 id@8, u64 cookie@16. */
const WATCHER_BYTES = 24;
const MOST_WATCHERS = 64;

/** rbd_config_option_t: char *name@0, char *value@8, enum source@16. */
const OPTION_BYTES = 24;
const MOST_OPTIONS = 512;

/** Longest string of librbd's own that is read, in bytes. */
const MOST_TEXT_BYTES = 256;

/** Bytes of it that are read at once. */
const CHUNK_BYTES = 64;

/** Completions that are taken in one call. */
const MOST_COMPLETIONS = 64;

/** The largest number that a request can be known by, and its result have. */
export const MAX_INT = 0x7fff_ffff;

// A number that is read out of an array of bigints right into a call is not
// allocated (see libc.ts).
const words = new BigInt64Array(4);
const halves = new Int32Array(words.buffer);

function put(index: number, value: number): void {
  halves[index * 2] = value;
  halves[index * 2 + 1] = Math.floor(value / 0x1_0000_0000);
}

/** Memory of this thread for calls that wait for nobody. */
interface Cells {
  /** Where completions are put. */
  readonly address: bigint;
  readonly values: BigUint64Array<ArrayBuffer>;
}

let sharedCells: Cells | undefined;

function cells(): Cells {
  if (sharedCells === undefined) {
    const memory = alignedMemory(MOST_COMPLETIONS * 8, 8);
    sharedCells = {
      address: BigInt(addressOf(memory)),
      values: new BigUint64Array(
        memory.buffer,
        memory.byteOffset,
        MOST_COMPLETIONS,
      ),
    };
  }
  return sharedCells;
}

/** Something that librbd does by itself, and is asked about now and then. */
export interface RbdTask<T> {
  /**
   * Asks whether it is over. Once it is, it may not be asked any more.
   *
   * @returns What came of it, or −errno; `null` as long as it is not over.
   */
  poll(): T | number | null;
}

/** Makes a completion that is looked at by itself; its result is an `int`. */
function watchCompletion<T>(
  ceph: CephLibrary,
  start: (completion: bigint) => number,
  end: (result: number) => T | number,
): RbdTask<T> {
  const { address, values } = cells();
  ceph.calls.rbd_aio_create_completion(0n, 0n, address);
  const completion = values[0]!;
  const refused = start(completion);
  return {
    poll() {
      let result = refused;
      if (refused >= 0) {
        if (ceph.calls.rbd_aio_is_complete(completion) === 0) return null;
        result = ceph.calls.rbd_aio_get_return_value(completion);
      }
      ceph.calls.rbd_aio_release(completion);
      return end(result);
    },
  };
}

/**
 * Makes an image, with the features that the cluster gives new ones.
 *
 * @param libc The C library.
 * @param ceph The libraries.
 * @param pool The pool's handle.
 * @param name The image's name.
 * @param sizeBytes Its size in bytes.
 * @returns 0, or −errno (−EEXIST if there is one).
 */
export async function createRbd(
  libc: Libc,
  ceph: CephLibrary,
  pool: bigint,
  name: string,
  sizeBytes: number,
): Promise<number> {
  const memory = new CallMemory(libc);
  try {
    const out = memory.take(8);
    const text = memory.text(name);
    ceph.calls.rbd_image_options_create(out);
    const options = memory.pointer(out);
    try {
      return await ceph.wait(
        "rbd_create4",
        pool,
        text,
        BigInt(sizeBytes),
        options,
      );
    } finally {
      ceph.calls.rbd_image_options_destroy(options);
    }
  } finally {
    memory.release();
  }
}

/**
 * Removes an image that nobody has open.
 *
 * @param libc The C library.
 * @param ceph The libraries.
 * @param pool The pool's handle.
 * @param name The image's name.
 * @returns 0, or −errno.
 */
export async function removeRbd(
  libc: Libc,
  ceph: CephLibrary,
  pool: bigint,
  name: string,
): Promise<number> {
  const memory = new CallMemory(libc);
  try {
    return await ceph.wait("rbd_remove", pool, memory.text(name));
  } finally {
    memory.release();
  }
}

/** Which image is opened, and how. */
export interface RbdOpening {
  /** The pool's handle. */
  readonly pool: bigint;
  /** The image's name. */
  readonly name: string;
  /** A snapshot's name; `null` for the image as it is now. */
  readonly snapshot: string | null;
  /** Whether it is opened unseen: no watch, which takes the right to write. */
  readonly unseen: boolean;
}

/** An image that is open. */
export class RbdImage {
  readonly #libc: Libc;
  readonly #ceph: CephLibrary;
  readonly #cells = cells();
  readonly #handle: BigUint64Array<ArrayBuffer>;
  /** What the completions of the last {@linkcode RbdImage.poll} are known by. */
  readonly tags: Int32Array<ArrayBuffer> = new Int32Array(MOST_COMPLETIONS);
  /** Their results: bytes, 0, or −errno. */
  readonly results: Int32Array<ArrayBuffer> = new Int32Array(MOST_COMPLETIONS);

  /** The size is asked for all the time, and once FFI is not allowed, too. */
  readonly #size: ReadyCall;
  readonly #sizeCell: CallMemory;

  private constructor(
    libc: Libc,
    ceph: CephLibrary,
    handle: bigint,
    size: ReadyCall,
    sizeCell: CallMemory,
  ) {
    this.#libc = libc;
    this.#ceph = ceph;
    this.#handle = BigUint64Array.of(handle);
    this.#size = size;
    this.#sizeCell = sizeCell;
  }

  /**
   * Begins to open an image.
   *
   * @param libc The C library.
   * @param ceph The libraries.
   * @param opening Which, and how.
   * @returns What will be the image. The pool stays open until it is over.
   * @throws {RangeError} If the system has no memory left.
   * @throws {Deno.errors.NotCapable} If FFI is not allowed.
   */
  static open(
    libc: Libc,
    ceph: CephLibrary,
    { pool, name, snapshot, unseen }: RbdOpening,
  ): RbdTask<RbdImage> {
    const { calls } = ceph;
    const start = unseen ? calls.rbd_aio_open_read_only : calls.rbd_aio_open;
    // First what may throw: nothing closes an image that is open and has no owner.
    const held: { close(): void }[] = [];
    const letGo = () => held.forEach((one) => one.close());
    try {
      const size = ceph.ready("rbd_get_size");
      held.push(size);
      const sizeCell = new CallMemory(libc, 8);
      held.push({ close: () => sizeCell.release() });
      const memory = new CallMemory(libc);
      held.push({ close: () => memory.release() });
      const out = memory.take(8);
      const image = memory.text(name);
      const at = snapshot === null ? 0n : memory.text(snapshot);
      return watchCompletion(
        ceph,
        (completion) => start(pool, image, out, at, completion),
        (result) => {
          if (result < 0) {
            letGo();
            return result;
          }
          const handle = memory.pointer(out);
          memory.release();
          return new RbdImage(libc, ceph, handle, size, sizeCell);
        },
      );
    } catch (error) {
      letGo();
      throw error;
    }
  }

  /**
   * Begins to close it; nothing may be asked of it any more. What is in flight
   * is waited for, and memory of it must stay until then.
   *
   * @returns What will be 0.
   */
  close(): RbdTask<number> {
    return watchCompletion(
      this.#ceph,
      (completion) =>
        this.#ceph.calls.rbd_aio_close(this.#handle[0]!, completion),
      (result) => {
        this.#size.close();
        this.#sizeCell.release();
        return result;
      },
    );
  }

  /**
   * Has librbd write a byte for each request that is over, from its threads and
   * for as long as the image is open. A byte for which there is no room is not
   * missed, as others are there then.
   *
   * @param fd A socket that nobody waits for to take a byte.
   * @returns 0, or −errno.
   */
  notifyBy(fd: number): number {
    return this.#ceph.calls.rbd_set_image_notification(
      this.#handle[0]!,
      fd,
      EVENT_TYPE_PIPE,
    );
  }

  /**
   * Begins to read.
   *
   * @param offset Where, in bytes.
   * @param length Bytes, below 2^31.
   * @param address Where they go; it stays mapped until the read is over.
   * @param tag What its completion is known by, from 0 to 2^31 − 1.
   * @returns 0, or −errno, after which there is no completion.
   */
  read(offset: number, length: number, address: number, tag: number): number {
    const completion = this.#begin(tag);
    put(0, offset);
    put(1, length);
    put(2, address);
    return this.#begun(
      completion,
      this.#ceph.calls.rbd_aio_read(
        this.#handle[0]!,
        words[0]!,
        words[1]!,
        words[2]!,
        completion,
      ),
    );
  }

  /**
   * Begins to read nothing, which is over when librbd has learned what it was told
   * has changed (librbd/io/RefreshImageDispatch.cc). What asks for the size waits
   * for that as well, and a thread with it.
   *
   * @param tag What its completion is known by.
   * @returns 0, or −errno, after which there is no completion.
   */
  refresh(tag: number): number {
    return this.read(0, 0, Number(this.#cells.address), tag);
  }

  /** Begins to write; as {@linkcode RbdImage.read}. */
  write(offset: number, length: number, address: number, tag: number): number {
    const completion = this.#begin(tag);
    put(0, offset);
    put(1, length);
    put(2, address);
    return this.#begun(
      completion,
      this.#ceph.calls.rbd_aio_write(
        this.#handle[0]!,
        words[0]!,
        words[1]!,
        words[2]!,
        completion,
      ),
    );
  }

  /** Begins to give content up. */
  discard(offset: number, length: number, tag: number): number {
    const completion = this.#begin(tag);
    put(0, offset);
    put(1, length);
    return this.#begun(
      completion,
      this.#ceph.calls.rbd_aio_discard(
        this.#handle[0]!,
        words[0]!,
        words[1]!,
        completion,
      ),
    );
  }

  /** Begins to make zeroes; `thick` keeps their space. */
  zero(offset: number, length: number, thick: boolean, tag: number): number {
    const completion = this.#begin(tag);
    put(0, offset);
    put(1, length);
    return this.#begun(
      completion,
      this.#ceph.calls.rbd_aio_write_zeroes(
        this.#handle[0]!,
        words[0]!,
        words[1]!,
        completion,
        thick ? THICK_PROVISION : 0,
        0,
      ),
    );
  }

  /** Begins to flush: all writes that were begun before are covered. */
  flush(tag: number): number {
    const completion = this.#begin(tag);
    return this.#begun(
      completion,
      this.#ceph.calls.rbd_aio_flush(this.#handle[0]!, completion),
    );
  }

  /**
   * Takes completions, as `tags` and `results`.
   *
   * @returns How many; there may be more if it is not 0.
   */
  poll(): number {
    const { calls } = this.#ceph;
    const { address, values } = this.#cells;
    const count = calls.rbd_poll_io_events(
      this.#handle[0]!,
      address,
      MOST_COMPLETIONS,
    );
    for (let i = 0; i < count; i++) {
      this.tags[i] = calls.rbd_aio_get_arg(values[i]!);
      this.results[i] = calls.rbd_aio_get_return_value(values[i]!);
      calls.rbd_aio_release(values[i]!);
    }
    return Math.max(count, 0);
  }

  #begin(tag: number): bigint {
    if (!(tag >= 0 && tag <= MAX_INT)) {
      throw new RangeError(
        `Cannot begin a request as its tag must be from 0 to ${MAX_INT}: current value is ${tag}`,
      );
    }
    put(0, tag);
    const { address, values } = this.#cells;
    // It fails for lack of memory alone, which C++ ends the process for.
    this.#ceph.calls.rbd_aio_create_completion(words[0]!, 0n, address);
    return values[0]!;
  }

  #begun(completion: bigint, result: number): number {
    if (result < 0) this.#ceph.calls.rbd_aio_release(completion);
    return result;
  }

  /**
   * Its size and that of its objects, as the cluster has them now.
   *
   * @returns Both in bytes, or −errno.
   */
  async sizes(): Promise<{ size: number; objectSize: number } | number> {
    return await this.#ask(async (memory) => {
      const info = memory.take(INFO_BYTES);
      const result = await this.#ceph.wait(
        "rbd_stat",
        this.#handle[0]!,
        info,
        BigInt(INFO_BYTES),
      );
      return result < 0 ? result : {
        size: memory.number(info),
        objectSize: memory.number(info + INFO_OBJECT_SIZE_AT),
      };
    });
  }

  /** The number of the pool that has its content. */
  get dataPool(): number {
    return this.#ceph.calls.rbd_get_data_pool_id(this.#handle[0]!);
  }

  /**
   * Its size, as the cluster has it now.
   *
   * @returns Bytes, or −errno. The image may be closed only once it is there.
   */
  async size(): Promise<number> {
    const out = this.#sizeCell.take(0);
    const result = await this.#size.call(this.#handle[0]!, out);
    return result < 0 ? result : this.#sizeCell.number(out);
  }

  /** Its features, bits of {@linkcode RBD_FEATURE}, or −errno. */
  features(): Promise<number> {
    return this.#number("rbd_get_features");
  }

  /** Its flags, or −errno. */
  flags(): Promise<number> {
    return this.#number("rbd_get_flags");
  }

  /** Over how many objects each part of it is spread, or −errno. */
  stripes(): Promise<number> {
    return this.#number("rbd_get_stripe_count");
  }

  /**
   * The number of a snapshot.
   *
   * @param name Its name.
   * @returns The number, or −errno.
   */
  snapshotId(name: string): Promise<number> {
    return this.#ofSnapshot("rbd_snap_get_id", name);
  }

  /**
   * Whether a snapshot is protected from being removed.
   *
   * @param name Its name.
   * @returns 1 if it is, 0 if not, or −errno.
   */
  snapshotIsProtected(name: string): Promise<number> {
    return this.#ofSnapshot("rbd_snap_is_protected", name);
  }

  /** Bytes that it shares with the image that it is a clone of, or −errno. */
  overlap(): Promise<number> {
    return this.#number("rbd_get_overlap");
  }

  /** Its number in the pool, as text, or −errno. */
  id(): Promise<string | number> {
    return this.#ask(async (memory) => {
      const text = memory.take(MOST_TEXT_BYTES);
      const result = await this.#ceph.wait(
        "rbd_get_id",
        this.#handle[0]!,
        text,
        BigInt(MOST_TEXT_BYTES),
      );
      return result < 0 ? result : memory.string(text);
    });
  }

  /**
   * Changes its size. What is in flight is waited for, maybe for ever; a program
   * that is done does not wait for that.
   *
   * @param sizeBytes The size.
   * @returns 0, or −errno.
   */
  resize(sizeBytes: number): Promise<number> {
    return this.#ceph.leave("rbd_resize", this.#handle[0]!, BigInt(sizeBytes));
  }

  /**
   * Takes the exclusive lock, and keeps it: nobody gets it by asking.
   *
   * @returns 0, or −errno.
   */
  lock(): Promise<number> {
    return this.#ceph.wait(
      "rbd_lock_acquire",
      this.#handle[0]!,
      LOCK_MODE_EXCLUSIVE,
    );
  }

  /**
   * Who holds the exclusive lock.
   *
   * @returns His address; `null` if nobody does, or −errno.
   */
  lockOwner(): Promise<string | null | number> {
    return this.#ask(async (memory) => {
      const mode = memory.take(8);
      const owners = memory.take(8);
      const count = memory.take(8);
      memory.set(count, 1n);
      const result = await this.#ceph.wait(
        "rbd_lock_get_owners",
        this.#handle[0]!,
        mode,
        owners,
        count,
      );
      // ENOENT: there is none.
      if (result === -2) return null;
      if (result < 0) return result;
      if (memory.number(count) === 0) return null;
      const owner = textAt(memory.pointer(owners));
      await this.#ceph.wait("rbd_lock_get_owners_cleanup", owners, 1n);
      return owner;
    });
  }

  /** Addresses of those who have the image open, this client too; or −errno. */
  watchers(): Promise<string[] | number> {
    return this.#ask(async (memory) => {
      const list = memory.take(MOST_WATCHERS * WATCHER_BYTES);
      const count = memory.take(8);
      memory.set(count, BigInt(MOST_WATCHERS));
      const result = await this.#ceph.wait(
        "rbd_watchers_list",
        this.#handle[0]!,
        list,
        count,
      );
      if (result < 0) return result;
      const found = memory.number(count);
      const texts: string[] = [];
      for (let i = 0; i < found; i++) {
        texts.push(textAt(memory.pointer(list + BigInt(i * WATCHER_BYTES))));
      }
      await this.#ceph.wait("rbd_watchers_list_cleanup", list, BigInt(found));
      return texts;
    });
  }

  /**
   * Options of librbd as they are for this image: its own go before those of the
   * pool, and these before those of the configuration.
   *
   * @param names Their names.
   * @returns Values of those that there are, or −errno.
   */
  options(names: readonly string[]): Promise<Map<string, string> | number> {
    return this.#ask(async (memory) => {
      const list = memory.take(MOST_OPTIONS * OPTION_BYTES);
      const count = memory.take(8);
      memory.set(count, BigInt(MOST_OPTIONS));
      const result = await this.#ceph.wait(
        "rbd_config_image_list",
        this.#handle[0]!,
        list,
        count,
      );
      if (result < 0) return result;
      const found = memory.int(count);
      const values = new Map<string, string>();
      for (let i = 0; i < found; i++) {
        const at = list + BigInt(i * OPTION_BYTES);
        const name = textAt(memory.pointer(at));
        if (names.includes(name)) {
          values.set(name, textAt(memory.pointer(at + 8n)));
        }
      }
      await this.#ceph.wait(
        "rbd_config_image_list_cleanup",
        list,
        BigInt(found),
      );
      return values;
    });
  }

  #number(
    name:
      | "rbd_get_stripe_count"
      | "rbd_get_features"
      | "rbd_get_flags"
      | "rbd_get_overlap",
  ): Promise<number> {
    return this.#ask(async (memory) => {
      const out = memory.take(8);
      const result = await this.#ceph.wait(name, this.#handle[0]!, out);
      return result < 0 ? result : memory.number(out);
    });
  }

  /** A number of a snapshot; an `int` is one of 64 bits, as what it goes to is zero. */
  #ofSnapshot(
    call: "rbd_snap_get_id" | "rbd_snap_is_protected",
    name: string,
  ): Promise<number> {
    return this.#ask(async (memory) => {
      const text = memory.text(name);
      const out = memory.take(8);
      const result = await this.#ceph.wait(
        call,
        this.#handle[0]!,
        text,
        out,
      );
      return result < 0 ? result : memory.number(out);
    });
  }

  async #ask<T>(call: (memory: CallMemory) => Promise<T>): Promise<T> {
    const memory = new CallMemory(this.#libc, 16_384);
    try {
      return await call(memory);
    } finally {
      memory.release();
    }
  }
}

/** Reads a string of librbd's own. */
function textAt(address: bigint): string {
  if (address === 0n) return "";
  const bytes: number[] = [];
  let at = Number(address);
  while (bytes.length < MOST_TEXT_BYTES) {
    // What is aligned lies in one page, and that is there as the string begins or
    // goes on in it.
    const skip = at % CHUNK_BYTES;
    const chunk = new Uint8Array(memoryAt(at - skip, CHUNK_BYTES)).subarray(
      skip,
    );
    const end = chunk.indexOf(0);
    bytes.push(...(end < 0 ? chunk : chunk.subarray(0, end)));
    if (end >= 0) break;
    at += chunk.length;
  }
  return new TextDecoder().decode(Uint8Array.from(bytes));
}
