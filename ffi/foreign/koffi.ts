/**
 * The foreign function interface of the npm package `koffi`, for Node.js before
 * 26. It is the program's own dependency: nothing downloads it that does not
 * name it.
 *
 * @module
 */

import process from "node:process";
import { permissions } from "../../src/platform/permissions.ts";
import { bindEach, type Foreign } from "./interface.ts";

/** What is used of the package. */
interface Koffi {
  load(path: string): {
    func(name: string, result: string, parameters: string[]): KoffiFunction;
  };
  address(buffer: ArrayBuffer): bigint | number;
  view(address: bigint, byteLength: number): ArrayBuffer;
}

interface KoffiFunction {
  (...args: unknown[]): unknown;
  async(...args: unknown[]): void;
}

/** C's names of the types. */
const TYPES: Readonly<Record<string, string>> = {
  i32: "int32_t",
  i64: "int64_t",
  u64: "uint64_t",
  usize: "size_t",
  buffer: "void *",
};

/**
 * Finds the package.
 *
 * @returns {@linkcode Foreign} by koffi; `null` where it is not installed.
 */
export function koffiForeign(): Foreign | null {
  let koffi: Koffi;
  try {
    const { createRequire } = process.getBuiltinModule("node:module");
    koffi = createRequire(import.meta.url)("koffi");
  } catch {
    return null;
  }
  return {
    openLibrary(fileName, functions) {
      const library = koffi.load(fileName);
      const symbols = bindEach(functions, (name, signature) => {
        const { parameters, result, nonblocking } = signature;
        const call = library.func(
          name,
          TYPES[result]!,
          parameters.map((type) => TYPES[type]!),
        );
        if (nonblocking) {
          return (...args: unknown[]) =>
            new Promise((resolve, reject) =>
              call.async(
                ...args,
                (error: unknown, value: unknown) =>
                  error ? reject(error) : resolve(value),
              )
            );
        }
        if (result === "i32") return call;
        // What a number can hold comes as a number.
        return (...args: unknown[]) => BigInt(call(...args) as number | bigint);
      }, true);
      return { symbols, close() {} };
    },
    addressOf: (buffer) => BigInt(koffi.address(buffer)),
    memoryAt: (address, byteLength) => koffi.view(address, byteLength),
    permissions,
  };
}
