/**
 * What a disk needs of Windows, with plain numbers for arguments and results. It
 * opens its libraries on first use, and knows no disks.
 *
 * A handle is a positive number here, as a descriptor is elsewhere. What is begun
 * (`start…`) returns a status, and comes to an end in a completion port or at an
 * event; every other call waits, and returns a result ≥ 0 or −errno.
 *
 * @module
 */

import { FfiError } from "./ffi_error.ts";
import type { OpenLibrary } from "./foreign/interface.ts";
import { foreign } from "./foreign/mod.ts";
import type { MappedMemory } from "./mapped_memory.ts";
import { memoryAt, readU64, writeU64 } from "./memory.ts";
import {
  CONTROL,
  errnoOfLastError,
  errnoOfStatus,
  FILE_INFORMATION,
  isFailure,
  LOCKFILE,
  OPEN_EXISTING,
  resultOf,
  STATUS,
  VIRTUAL,
} from "./windows_abi.ts";
import {
  ensureWindowsPermission,
  type OffThreadFunctions,
  openOffThreadFunctions,
  openWindowsFunctions,
  type WindowsFunctions,
} from "./windows_library.ts";

const TWO_32 = 0x1_0000_0000;

/** `INVALID_HANDLE_VALUE`. */
const INVALID_HANDLE = 0xffff_ffff_ffff_ffffn;

/** `INFINITE` of `WaitForSingleObject`. */
const INFINITE = -1;

// A bigint out of a typed array is not allocated when it goes into a fast call:
// see `./libc.ts`.
const words = new BigUint64Array(7);
const halves = new Int32Array(words.buffer);

function put(index: number, value: number): void {
  halves[index * 2] = value;
  halves[index * 2 + 1] = Math.floor(value / TWO_32);
}

/**
 * Memory of one operation, which Windows writes into when it is over: a status
 * block (status i32@0, information u64@8), and what goes with it in memory.
 */
export const OPERATION_BYTES = 48;
/** Where its offset in the file is. */
const OFFSET_AT = 16;
/** Where the input of a control code is, of two words. */
const INPUT_AT = 24;

/** The memory of operations that may be in flight at once. */
export class OperationMemory {
  readonly #mapped: MappedMemory;
  readonly #view: DataView<ArrayBuffer>;

  /**
   * Constructs a new instance.
   *
   * @param windows Windows.
   * @param count Operations.
   */
  constructor(windows: Windows, count: number) {
    this.#mapped = windows.mapMemory(count * OPERATION_BYTES);
    const { buffer, byteOffset } = this.#mapped.bytes;
    this.#view = new DataView(buffer, byteOffset);
  }

  /** The address of an operation's memory: that of its status block. */
  addressOf(index: number): number {
    return this.#mapped.address + index * OPERATION_BYTES;
  }

  /** Puts down where in a file an operation is. */
  setOffset(index: number, offset: number): void {
    writeU64(this.#view, index * OPERATION_BYTES + OFFSET_AT, offset);
  }

  /** Puts down the two words of a control code's input. */
  setInput(index: number, first: number, second: number): void {
    const at = index * OPERATION_BYTES + INPUT_AT;
    writeU64(this.#view, at, first);
    writeU64(this.#view, at + 8, second);
  }

  /** The status of an operation that is over. */
  statusOf(index: number): number {
    return this.#view.getInt32(index * OPERATION_BYTES, true);
  }

  /** Bytes that it moved. */
  informationOf(index: number): number {
    return readU64(this.#view, index * OPERATION_BYTES + 8);
  }

  /** Gives the memory back. Nothing may be in flight. */
  release(): void {
    this.#mapped.release();
  }
}

/** An operation that is to be started. */
export interface Started {
  /** The file, opened with `FILE_FLAG.OVERLAPPED`. */
  readonly handle: number;
  /** An event that is set when it is over; 0 for none. */
  readonly event: number;
  /** What a completion port tells of it; 0 for no completion there. */
  readonly context: number;
  /** Where its memory is. */
  readonly memory: OperationMemory;
  /** Its place in that memory. */
  readonly index: number;
}

/**
 * What `LockFileEx` says where there are no locks: ERROR_INVALID_FUNCTION,
 * ERROR_NOT_SUPPORTED, ERROR_CALL_NOT_IMPLEMENTED.
 */
const NO_LOCKS: ReadonlySet<number> = new Set([1, 50, 120]);

/** Bytes of a struct, or of a list, that a call fills. */
const SCRATCH_BYTES = 4096;

/** Windows, in this thread. */
export class Windows {
  readonly #functions: WindowsFunctions;
  readonly #openLibrary: OpenLibrary;
  /** For calls that wait: one at a time, as the thread does. */
  readonly #memory: OperationMemory;
  readonly #scratch: MappedMemory;
  readonly #scratchView: DataView<ArrayBuffer>;
  readonly #event: number;

  /**
   * Constructs a new instance. Most callers want {@linkcode openWindows}.
   *
   * @param openLibrary What opens a library; the runtime unless given.
   * @throws {FfiError} If Windows is not to be had.
   */
  constructor(openLibrary: OpenLibrary = foreign().openLibrary) {
    this.#openLibrary = openLibrary;
    this.#functions = openWindowsFunctions(openLibrary);
    this.#memory = new OperationMemory(this, 1);
    this.#scratch = this.mapMemory(SCRATCH_BYTES);
    const { buffer, byteOffset } = this.#scratch.bytes;
    this.#scratchView = new DataView(buffer, byteOffset);
    this.#event = Number(this.#functions.CreateEventW(0n, 0, 0, 0n));
    if (this.#event === 0) {
      throw new FfiError(
        "library",
        "Cannot use Windows as it has no events left",
      );
    }
  }

  /**
   * Opens what a path leads to.
   *
   * @param path The path, absolute; one with a NUL character is not found.
   * @param access Bits of `ACCESS`; 0 to ask questions only.
   * @param share Bits of `SHARE`: what others may do meanwhile.
   * @param flags Bits of `FILE_FLAG`.
   * @returns The handle, or −errno: −EBUSY if others have it open otherwise.
   */
  createFile(
    path: string,
    access: number,
    share: number,
    flags: number,
  ): number {
    if (path.includes("\0")) return -errnoOfLastError(2);
    const handle = this.#functions.CreateFileW(
      utf16(path),
      access | 0,
      share,
      0n,
      OPEN_EXISTING,
      flags | 0,
      0n,
    );
    return handle === INVALID_HANDLE
      ? -errnoOfLastError(this.#functions.GetLastError())
      : Number(handle);
  }

  /** Closes a handle. */
  close(handle: number): void {
    put(0, handle);
    this.#functions.CloseHandle(words[0]!);
  }

  /**
   * Gives memory of Windows' own, zeroed, in pages.
   *
   * @param byteLength Bytes.
   * @returns The memory.
   * @throws {RangeError} If there is none left.
   * @throws {Deno.errors.NotCapable} If FFI is not allowed.
   */
  mapMemory(byteLength: number): MappedMemory {
    const { MEM_COMMIT, MEM_RESERVE, MEM_RELEASE, PAGE_READWRITE } = VIRTUAL;
    const found = this.#functions.VirtualAlloc(
      0n,
      BigInt(byteLength),
      MEM_COMMIT | MEM_RESERVE,
      PAGE_READWRITE,
    );
    const address = Number(found);
    if (address === 0) {
      throw new RangeError(`Cannot map ${byteLength} bytes of memory`);
    }
    const release = () => {
      this.#functions.VirtualFree(found, 0n, MEM_RELEASE);
    };
    try {
      const bytes = new Uint8Array(memoryAt(address, byteLength));
      return { bytes, address, release };
    } catch (error) {
      release();
      throw error;
    }
  }

  // ---- What is begun: each returns a status ----

  /** Begins to read into memory at an address. */
  startRead(
    started: Started,
    address: number,
    length: number,
    offset: number,
  ): number {
    this.#putStarted(started, offset);
    put(4, address);
    return this.#functions.NtReadFile(
      words[0]!,
      words[1]!,
      0n,
      words[2]!,
      words[3]!,
      words[4]!,
      length,
      words[5]!,
      0n,
    );
  }

  /** Begins to write from memory at an address. */
  startWrite(
    started: Started,
    address: number,
    length: number,
    offset: number,
  ): number {
    this.#putStarted(started, offset);
    put(4, address);
    return this.#functions.NtWriteFile(
      words[0]!,
      words[1]!,
      0n,
      words[2]!,
      words[3]!,
      words[4]!,
      length,
      words[5]!,
      0n,
    );
  }

  /** Begins to make a range read as zeroes; a hole in a sparse file. */
  startZero(started: Started, offset: number, length: number): number {
    this.#putStarted(started, offset);
    started.memory.setInput(started.index, offset, offset + length);
    put(4, started.memory.addressOf(started.index) + INPUT_AT);
    return this.#functions.NtFsControlFile(
      words[0]!,
      words[1]!,
      0n,
      words[2]!,
      words[3]!,
      CONTROL.FSCTL_SET_ZERO_DATA,
      words[4]!,
      16,
      0n,
      0,
    );
  }

  #putStarted(
    { handle, event, context, memory, index }: Started,
    offset: number,
  ): void {
    const address = memory.addressOf(index);
    memory.setOffset(index, offset);
    put(0, handle);
    put(1, event);
    put(2, context);
    put(3, address);
    put(5, address + OFFSET_AT);
  }

  /** Asks that what was begun with that memory be given up. */
  cancel({ handle, memory, index }: Started): void {
    put(0, handle);
    put(1, memory.addressOf(index));
    // The call has a status block of its own.
    put(2, this.#memory.addressOf(0));
    this.#functions.NtCancelIoFileEx(words[0]!, words[1]!, words[2]!);
  }

  // ---- What waits ----

  /** Reads into memory at an address; 0 at the end of a file. */
  read(
    handle: number,
    address: number,
    length: number,
    offset: number,
  ): number {
    const started = this.#blocking(handle);
    return this.#wait(this.startRead(started, address, length, offset));
  }

  /** Writes from memory at an address. */
  write(
    handle: number,
    address: number,
    length: number,
    offset: number,
  ): number {
    const started = this.#blocking(handle);
    return this.#wait(this.startWrite(started, address, length, offset));
  }

  /** Makes a range read as zeroes. */
  zero(handle: number, offset: number, length: number): number {
    const result = this.#wait(
      this.startZero(this.#blocking(handle), offset, length),
    );
    return Math.min(result, 0);
  }

  /** Flushes a file, and the cache of its device. */
  flush(handle: number): number {
    put(0, handle);
    put(1, this.#memory.addressOf(0));
    const status = this.#functions.NtFlushBuffersFile(words[0]!, words[1]!);
    return isFailure(status) ? -errnoOfStatus(status) : 0;
  }

  /**
   * Sends a control code.
   *
   * @param target Whether the device is to be asked, or the file system.
   * @param handle A file, or a device.
   * @param code The code.
   * @param input Its input: 32-bit or 64-bit words, little-endian.
   * @param outputBytes Bytes of its output at most.
   * @returns The output, until the next call here; or −errno. One that is cut is
   * as long as it could be.
   */
  control(
    target: "file system" | "device",
    handle: number,
    code: number,
    input: Uint8Array = new Uint8Array(),
    outputBytes = 0,
  ): DataView<ArrayBuffer> | number {
    const { bytes, address } = this.#scratch;
    if (input.length + outputBytes > SCRATCH_BYTES) {
      throw new RangeError(
        `Cannot send a control code as its input and output must be at most ${SCRATCH_BYTES} bytes: current value is ${
          input.length + outputBytes
        }`,
      );
    }
    const outputAt = SCRATCH_BYTES - outputBytes;
    bytes.fill(0);
    bytes.set(input);
    this.#putStarted(this.#blocking(handle), 0);
    put(4, address);
    put(5, address + outputAt);
    const call = target === "device"
      ? this.#functions.NtDeviceIoControlFile
      : this.#functions.NtFsControlFile;
    const result = this.#wait(call(
      words[0]!,
      words[1]!,
      0n,
      words[2]!,
      words[3]!,
      code,
      input.length === 0 ? 0n : words[4]!,
      input.length,
      outputBytes === 0 ? 0n : words[5]!,
      outputBytes,
    ));
    if (result < 0) return result;
    const { buffer, byteOffset } = this.#scratch.bytes;
    return new DataView(
      buffer,
      byteOffset + outputAt,
      Math.min(result, outputBytes),
    );
  }

  /**
   * Asks about a file.
   *
   * @param handle The file.
   * @param informationClass What to ask: of `FILE_INFORMATION`.
   * @returns The answer, until the next call here; or −errno.
   */
  fileInformation(
    handle: number,
    informationClass: number,
  ): DataView<ArrayBuffer> | number {
    return this.#ask(
      this.#functions.NtQueryInformationFile,
      handle,
      informationClass,
      40,
    );
  }

  /**
   * Asks about a file's volume.
   *
   * @param handle The file.
   * @param informationClass What to ask: of `VOLUME_INFORMATION`.
   * @returns The answer, until the next call here; or −errno.
   */
  volumeInformation(
    handle: number,
    informationClass: number,
  ): DataView<ArrayBuffer> | number {
    return this.#ask(
      this.#functions.NtQueryVolumeInformationFile,
      handle,
      informationClass,
      SCRATCH_BYTES,
    );
  }

  #ask(
    call: WindowsFunctions["NtQueryInformationFile"],
    handle: number,
    informationClass: number,
    byteLength: number,
  ): DataView<ArrayBuffer> | number {
    this.#scratch.bytes.fill(0);
    put(0, handle);
    put(1, this.#memory.addressOf(0));
    put(2, this.#scratch.address);
    const status = call(
      words[0]!,
      words[1]!,
      words[2]!,
      byteLength,
      informationClass,
    );
    return isFailure(status) ? -errnoOfStatus(status) : this.#scratchView;
  }

  /** Cuts a file, or makes it longer. */
  setSize(handle: number, sizeBytes: number): number {
    writeU64(this.#scratchView, 0, sizeBytes);
    put(0, handle);
    put(1, this.#memory.addressOf(0));
    put(2, this.#scratch.address);
    const status = this.#functions.NtSetInformationFile(
      words[0]!,
      words[1]!,
      words[2]!,
      8,
      FILE_INFORMATION.EndOfFile,
    );
    return isFailure(status) ? -errnoOfStatus(status) : 0;
  }

  /**
   * Locks bytes of a file until its handle is closed; does not wait.
   *
   * @param handle The file, opened without `FILE_FLAG.OVERLAPPED`.
   * @param offset The first byte; there need be none.
   * @param length Bytes, less than 2^31.
   * @param exclusive Whether against others that lock, too.
   * @returns Whether it is locked; or −errno.
   */
  lock(
    handle: number,
    offset: number,
    length: number,
    exclusive: boolean,
  ): boolean | number {
    const { FAIL_IMMEDIATELY, EXCLUSIVE_LOCK } = LOCKFILE;
    this.#memory.setOffset(0, offset);
    // No event: a file without `FILE_FLAG.OVERLAPPED` waits by itself.
    this.#memory.setInput(0, 0, 0);
    put(0, handle);
    put(1, this.#memory.addressOf(0));
    const locked = this.#functions.LockFileEx(
      words[0]!,
      FAIL_IMMEDIATELY | (exclusive ? EXCLUSIVE_LOCK : 0),
      0,
      length,
      0,
      words[1]!,
    );
    if (locked !== 0) return true;
    const code = this.#functions.GetLastError();
    // Only what says that there are no locks is taken for that.
    return NO_LOCKS.has(code) ? -errnoOfLastError(code) : false;
  }

  /** The names of the volumes, such as `\\?\Volume{…}\`. */
  volumes(): string[] {
    const characters = 260;
    const { address, bytes } = this.#scratch;
    const name = () => {
      const units = new Uint16Array(bytes.buffer, bytes.byteOffset, characters);
      return String.fromCharCode(...units.subarray(0, units.indexOf(0)));
    };
    put(0, address);
    const search = this.#functions.FindFirstVolumeW(words[0]!, characters);
    if (search === INVALID_HANDLE) return [];
    const found = [name()];
    for (;;) {
      put(0, address);
      if (
        this.#functions.FindNextVolumeW(search, words[0]!, characters) === 0
      ) break;
      found.push(name());
    }
    this.#functions.FindVolumeClose(search);
    return found;
  }

  // ---- Completion ports ----

  /**
   * Makes a completion port for a file.
   *
   * @param handle The file, opened with `FILE_FLAG.OVERLAPPED`.
   * @returns The port, a handle of its own; or −errno.
   */
  createPort(handle: number): number {
    put(0, handle);
    const port = this.#functions.CreateIoCompletionPort(
      words[0]!,
      0n,
      0n,
      0,
    );
    return port === 0n
      ? -errnoOfLastError(this.#functions.GetLastError())
      : Number(port);
  }

  /**
   * Takes completions out of a port, without waiting.
   *
   * @param port The port.
   * @param entries Address of room for them, 32 bytes each.
   * @param count How many there is room for.
   * @param removed Address of a u32 that is set to how many there were.
   * @param timeout Address of an i64 that is 0.
   * @returns The status: `STATUS.TIMEOUT` if there are none.
   */
  removeCompletions(
    port: number,
    entries: number,
    count: number,
    removed: number,
    timeout: number,
  ): number {
    put(0, port);
    put(1, entries);
    put(2, removed);
    put(3, timeout);
    return this.#functions.NtRemoveIoCompletionEx(
      words[0]!,
      words[1]!,
      count,
      words[2]!,
      words[3]!,
      0,
    );
  }

  /** Puts a completion of nothing into a port, under context 0. */
  postCompletion(port: number): void {
    put(0, port);
    this.#functions.PostQueuedCompletionStatus(words[0]!, 0, 0n, 0n);
  }

  /**
   * Functions that are called on another thread.
   *
   * @returns The functions, to be closed.
   * @throws If FFI is not allowed any more.
   */
  openOffThread(): OffThreadFunctions {
    return openOffThreadFunctions(this.#openLibrary);
  }

  #blocking(handle: number): Started {
    return {
      handle,
      event: this.#event,
      context: 0,
      memory: this.#memory,
      index: 0,
    };
  }

  /** The result of what was just begun, once it is over. */
  #wait(status: number): number {
    if (status === STATUS.PENDING) {
      put(0, this.#event);
      if (this.#functions.WaitForSingleObject(words[0]!, INFINITE) !== 0) {
        throw new Error("Cannot wait for an operation of Windows");
      }
      status = this.#memory.statusOf(0);
    }
    return resultOf(status, this.#memory.informationOf(0));
  }
}

function utf16(text: string): Uint8Array<ArrayBuffer> {
  const units = new Uint16Array(text.length + 1);
  for (let i = 0; i < text.length; i++) units[i] = text.charCodeAt(i);
  return new Uint8Array(units.buffer);
}

let shared: Windows | undefined;

/**
 * Opens Windows' libraries, once for this thread.
 *
 * @returns Windows.
 * @throws {FfiError} If FFI is not allowed, or they are not to be had.
 */
export function openWindows(): Windows {
  if (shared === undefined) {
    ensureWindowsPermission();
    shared = new Windows();
  }
  return shared;
}
