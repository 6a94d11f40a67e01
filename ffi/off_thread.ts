/**
 * Functions of the C library that are called on a thread of Deno's pool, as they
 * may take long.
 *
 * @module
 */

import type { ForeignFunctions } from "./foreign/interface.ts";
import { foreign } from "./foreign/mod.ts";
import type { Libc } from "./libc.ts";
import { libcFileNames } from "./library.ts";
import { assertFfiGranted } from "./permission.ts";

/** Functions that are called on another thread. */
export interface OffThreadLibrary {
  /** The functions by name, each with a number for its result. */
  readonly symbols: Readonly<
    Record<string, (...args: (number | bigint)[]) => Promise<number>>
  >;
  /** Lets go of the library. */
  close(): void;
}

/**
 * Opens the C library once more, for a few calls (some 50 µs): one that stays
 * open counts as a leak.
 *
 * @param libc The C library.
 * @param functions The functions, each with `nonblocking`.
 * @returns The library, to be closed.
 * @throws {Deno.errors.NotCapable} If FFI is not allowed.
 */
export function openOffThread(
  libc: Libc,
  functions: ForeignFunctions,
): OffThreadLibrary {
  assertFfiGranted();
  const names = libcFileNames(libc.abi);
  for (const [i, name] of names.entries()) {
    try {
      return foreign().openLibrary(name, functions) as OffThreadLibrary;
    } catch (error) {
      if (i === names.length - 1) throw error;
    }
  }
  throw new Error("Cannot open libc as no name of it is known");
}
