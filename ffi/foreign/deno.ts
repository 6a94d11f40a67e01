/**
 * The foreign function interface of Deno.
 *
 * @module
 */

import type { Foreign, OpenedLibrary } from "./interface.ts";

/** {@linkcode Foreign} by `Deno.dlopen`. */
export const denoForeign: Foreign = {
  openLibrary: (fileName, functions) =>
    Deno.dlopen(
      fileName,
      functions as Deno.ForeignLibraryInterface,
    ) as OpenedLibrary,
  addressOf: (buffer) =>
    Deno.UnsafePointer.value(Deno.UnsafePointer.of(buffer)),
  memoryAt: (address, byteLength) =>
    Deno.UnsafePointerView.getArrayBuffer(
      Deno.UnsafePointer.create(address)!,
      byteLength,
    ),
  get permissions() {
    return Deno.permissions;
  },
};
