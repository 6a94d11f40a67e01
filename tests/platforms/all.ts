/**
 * Every platform that can be run from here.
 *
 * @module
 */

import { CONTAINERS } from "./containers.ts";
import { GUESTS } from "./guests.ts";
import { NANOS } from "./nanos.ts";
import type { Platform } from "./platform.ts";
import type { SuiteName } from "./suites.ts";
import { USER_MODE } from "./user_mode.ts";

/** In the order in which they are run. */
export const ALL: readonly Platform[] = [
  ...USER_MODE,
  ...CONTAINERS,
  ...GUESTS,
  ...NANOS,
];

/** What CI runs. */
export const SHORT: readonly string[] = [
  "arm64-user",
  "docker",
  "docker-20",
  "6.1:ext4",
];

/** The suites that CI runs there: an emulated processor needs minutes for more. */
export const SHORT_SUITES: readonly SuiteName[] = ["facts", "alignment"];
