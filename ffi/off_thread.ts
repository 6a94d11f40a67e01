/**
 * Functions of the C library that are called on a thread of Deno's pool, as they
 * may take long.
 *
 * @module
 */

import type { Libc } from "./libc.ts";
import { libcFileNames } from "./library.ts";
import { assertFfiGranted } from "./permission.ts";

/**
 * Opens the C library once more, for a few calls (some 50 µs): one that stays
 * open counts as a leak.
 *
 * @param libc The C library.
 * @param functions The functions, each with `nonblocking`.
 * @returns The library, to be closed.
 * @throws {Deno.errors.NotCapable} If FFI is not allowed.
 */
export function openOffThread<
  const Functions extends Deno.ForeignLibraryInterface,
>(
  libc: Libc,
  functions: Functions,
): Deno.DynamicLibrary<Functions> {
  assertFfiGranted();
  const names = libcFileNames(libc.abi);
  for (const [i, name] of names.entries()) {
    try {
      return Deno.dlopen(name, functions);
    } catch (error) {
      if (i === names.length - 1) throw error;
    }
  }
  throw new Error("Cannot open libc as no name of it is known");
}
