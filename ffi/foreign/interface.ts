/**
 * The seam between ffi/ and the runtime's foreign function interface: how a
 * library is opened, where memory lies, and what lies at an address. Everything
 * else here goes through it, and only the files of this folder name a runtime.
 * The functions of a library are those that the runtime made: nothing stands
 * between a call and the system.
 *
 * @module
 */

import type { Permissions } from "../../src/platform/permissions.ts";

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

/** What says whether foreign functions may be used. */
export type FfiPermissions = Pick<Permissions, "querySync" | "requestSync">;

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

/**
 * Binds the functions of a library one by one, for a runtime that refuses all of
 * them where one is missing.
 *
 * @param functions How they are called.
 * @param bind Takes one out of the library by its name there, or throws.
 * @param hasThreads Whether it can be told to call it on another thread.
 * @returns The functions; `null` for an optional one that could not be taken.
 * @throws {Error} As `bind` does for one that is not optional, or if it is to be
 * called on another thread, and the runtime cannot.
 */
export function bindEach(
  functions: ForeignFunctions,
  bind: (name: string, signature: ForeignFunction) => unknown,
  hasThreads = false,
): Record<string, unknown> {
  const symbols: Record<string, unknown> = {};
  for (const [key, signature] of Object.entries(functions)) {
    if (signature.nonblocking && !hasThreads) {
      throw new Error(
        `Cannot call ${key} on another thread as this runtime has no such calls`,
      );
    }
    try {
      symbols[key] = bind(signature.name ?? key, signature);
    } catch (error) {
      if (signature.optional !== true) throw error;
      symbols[key] = null;
    }
  }
  return symbols;
}
