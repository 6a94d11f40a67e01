/**
 * The foreign function interface of the npm package `koffi`, for Node.js before
 * 26. It is the program's own dependency: nothing downloads it that does not
 * name it.
 *
 * @module
 */

import process from "node:process";
import {
  ffiOption,
  isGranted,
  permissions,
} from "../../src/platform/permissions.ts";
import { FfiError } from "../ffi_error.ts";
import { bindEach, type Foreign } from "./interface.ts";

/** What is used of the package. */
interface Koffi {
  readonly version: string;
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

/** The first version with all that is used of it. */
const OLDEST = 3;

/**
 * Finds the package.
 *
 * @returns {@linkcode Foreign} by koffi; `null` where it is not installed.
 * @throws {FfiError} If Node.js does not allow it, or it is there and cannot be
 * used.
 */
export function koffiForeign(): Foreign | null {
  if (!isGranted({ name: "ffi" })) {
    throw new FfiError(
      "permission",
      `Cannot call C functions as ${ffiOption} is not granted: run with ${ffiOption}`,
    );
  }
  const { createRequire } = process.getBuiltinModule("node:module");
  const koffi = load(createRequire(import.meta.url));
  if (koffi === null) return null;
  if (!(parseInt(koffi.version) >= OLDEST)) {
    throw new FfiError(
      "unusable",
      `Cannot call C functions as the package koffi must be ${OLDEST} or later: current value is ${koffi.version}`,
    );
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

/** Loads the package; `null` where there is none, or Node.js is to load none. */
function load(require: NodeJS.Require): Koffi | null {
  let path: string;
  try {
    path = require.resolve("koffi");
  } catch (error) {
    if (codeOf(error) === "MODULE_NOT_FOUND") return null;
    throw unusable(error);
  }
  try {
    return require(path);
  } catch (error) {
    // node --no-addons
    if (codeOf(error) === "ERR_DLOPEN_DISABLED") return null;
    throw unusable(error);
  }
}

function codeOf(error: unknown): unknown {
  return (error as { code?: unknown }).code;
}

function unusable(cause: unknown): FfiError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new FfiError(
    "unusable",
    `Cannot call C functions as the package koffi is there and cannot be loaded: ${reason}`,
    { cause },
  );
}
