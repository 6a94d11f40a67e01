/**
 * The foreign function interface of the runtime that this runs in.
 *
 * @module
 */

import { denoForeign } from "./deno.ts";
import type { Foreign } from "./interface.ts";

/** The interface of this runtime. */
export const foreign: Foreign = denoForeign;
