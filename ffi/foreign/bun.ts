/**
 * The foreign function interface of Bun, `bun:ffi`. It calls nothing on another
 * thread.
 *
 * @module
 */

import process from "node:process";
import { permissions } from "../../src/platform/permissions.ts";
import { bindEach, type Foreign } from "./interface.ts";

/** What is used of the module. */
interface BunFfi {
  dlopen(
    path: string,
    functions: Record<string, { args: readonly string[]; returns: string }>,
  ): { symbols: Record<string, unknown>; close(): void };
  ptr(buffer: ArrayBuffer): number;
  toArrayBuffer(
    address: number,
    byteOffset: number,
    byteLength: number,
  ): ArrayBuffer;
}

/** Names of types that are others there. */
const TYPES: Readonly<Record<string, string>> = { buffer: "ptr" };

/** {@linkcode Foreign} by `bun:ffi`. */
export function bunForeign(): Foreign {
  const { createRequire } = process.getBuiltinModule("node:module");
  const ffi: BunFfi = createRequire(import.meta.url)("bun:ffi");
  const type = (name: string) => TYPES[name] ?? name;
  return {
    openLibrary(fileName, functions) {
      const symbols = bindEach(
        functions,
        (name, { parameters, result }) =>
          ffi.dlopen(fileName, {
            [name]: { args: parameters.map(type), returns: type(result) },
          }).symbols[name],
      );
      return { symbols, close() {} };
    },
    addressOf: (buffer) => BigInt(ffi.ptr(buffer)),
    memoryAt: (address, byteLength) =>
      ffi.toArrayBuffer(Number(address), 0, byteLength),
    permissions,
  };
}
