/**
 * Every platform that can be run from here.
 *
 * @module
 */

import { GUESTS } from "./guests.ts";
import type { Platform } from "./platform.ts";

/** In the order in which they are run. */
export const ALL: readonly Platform[] = [...GUESTS];

/** What CI runs. */
export const SHORT: readonly string[] = ["6.1:ext4"];
