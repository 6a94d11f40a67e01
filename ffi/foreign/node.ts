/**
 * The foreign function interface of Node.js 26 and later, `node:ffi`. It calls
 * nothing on another thread.
 *
 * @module
 */

import process from "node:process";
import { permissions } from "../../src/platform/permissions.ts";
import { bindEach, type Foreign } from "./interface.ts";

/** What is used of the module. */
interface NodeFfi {
  DynamicLibrary: new (path: string) => {
    getFunction(
      name: string,
      signature: { arguments: readonly string[]; return: string },
    ): unknown;
    close(): void;
  };
  getRawPointer(buffer: ArrayBuffer): bigint;
  toArrayBuffer(
    address: bigint,
    byteLength: number,
    copy: boolean,
  ): ArrayBuffer;
}

/** Names of types that are others there. */
const TYPES: Readonly<Record<string, string>> = { usize: "u64" };

/**
 * Finds the interface.
 *
 * @returns {@linkcode Foreign} by `node:ffi`; `null` where there is none.
 */
export function nodeForeign(): Foreign | null {
  const ffi = process.getBuiltinModule("node:ffi") as unknown as
    | NodeFfi
    | undefined;
  if (ffi === undefined) return null;
  const type = (name: string) => TYPES[name] ?? name;
  return {
    openLibrary(fileName, functions) {
      const library = new ffi.DynamicLibrary(fileName);
      const symbols = bindEach(
        functions,
        (name, { parameters, result }) =>
          library.getFunction(name, {
            arguments: parameters.map(type),
            return: type(result),
          }),
      );
      // Its functions end with it, and libc stays for as long as the program.
      return { symbols, close() {} };
    },
    addressOf: (buffer) => ffi.getRawPointer(buffer),
    memoryAt: (address, byteLength) =>
      ffi.toArrayBuffer(address, byteLength, false),
    permissions,
  };
}
