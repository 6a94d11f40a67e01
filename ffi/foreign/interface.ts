/**
 * The seam between ffi/ and the runtime's foreign function interface: how a
 * library is opened, where memory lies, and what lies at an address. Everything
 * else here goes through it, and only the files of this folder name a runtime.
 * The functions of a library are those that the runtime made: nothing stands
 * between a call and the system.
 *
 * @module
 */

/**
 * Types of arguments and results, each with the value that stands for it: a
 * number for 32 bits, a bigint for 64, and a buffer's address for `"buffer"`.
 */
export type NativeType = "i32" | "i64" | "u64" | "usize" | "buffer";

/** How one function is called. */
export interface ForeignFunction {
  /** Its name in the library, if it is another one. */
  readonly name?: string;
  /** What it takes. */
  readonly parameters: readonly NativeType[];
  /** What it returns. */
  readonly result: NativeType;
  /** Whether the library may lack it. */
  readonly optional?: boolean;
  /** Whether it is called on another thread, and returns a promise. */
  readonly nonblocking?: boolean;
}

/** How the functions of a library are called, by name. */
export type ForeignFunctions = Readonly<Record<string, ForeignFunction>>;

/** A library that has been opened. */
export interface OpenedLibrary {
  /** The functions by name; null for an optional one that is missing. */
  readonly symbols: Readonly<Record<string, unknown>>;
  /** Lets go of the library. */
  close(): void;
}

/** Opens a library; tests put a fake in its place. */
export type OpenLibrary = (
  fileName: string,
  functions: ForeignFunctions,
) => OpenedLibrary;

/** The part of `Deno.permissions` that is needed here. */
export type FfiPermissions = Pick<
  Deno.Permissions,
  "querySync" | "requestSync"
>;

/** A runtime's foreign function interface. */
export interface Foreign {
  /** Opens a library. */
  readonly openLibrary: OpenLibrary;
  /** The address of the first byte of a buffer, which does not move. */
  addressOf(buffer: ArrayBuffer): bigint;
  /** Shows memory that is not the runtime's own; the address is not 0. */
  memoryAt(address: bigint, byteLength: number): ArrayBuffer;
  /** Who says whether it may be used. */
  readonly permissions: FfiPermissions;
}
