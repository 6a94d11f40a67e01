/**
 * The foreign function interface of the runtime that this runs in.
 *
 * @module
 */

import process from "node:process";
import { runtime } from "../../src/platform/system.ts";
import { FfiError } from "../ffi_error.ts";
import { bunForeign } from "./bun.ts";
import { denoForeign } from "./deno.ts";
import type { Foreign } from "./interface.ts";
import { koffiForeign } from "./koffi.ts";
import { nodeForeign } from "./node.ts";

let found: Foreign | null = null;

/**
 * The interface of this runtime, which is looked for once it is used.
 *
 * @returns The interface.
 * @throws {FfiError} If there is none.
 */
export function foreign(): Foreign {
  return found ??= find();
}

function find(): Foreign {
  if (runtime === "deno") return denoForeign;
  if (runtime === "bun") return bunForeign();
  const node = nodeForeign() ?? koffiForeign();
  if (node !== null) return node;
  throw new FfiError(
    "library",
    `Cannot call C functions as Node.js ${process.version} has no node:ffi: ` +
      "install the package koffi, or use the portable backend",
  );
}
