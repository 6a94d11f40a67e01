/**
 * Which platforms and places names on a command line mean.
 *
 * @module
 */

import type { Platform } from "./platform.ts";

/** A platform, and the places of it that are wanted. */
export interface Choice {
  /** The platform. */
  readonly platform: Platform;
  /** Names of places, in the platform's order. */
  readonly places: readonly string[];
}

/**
 * Chooses.
 *
 * @param all Every platform.
 * @param names Names of platforms, or of places as in `6.1:ext4`; none are all.
 * @returns The choice, or what is wrong with a name.
 */
export function choose(
  all: readonly Platform[],
  names: readonly string[],
): Choice[] | string {
  const wanted = new Set(names);
  const known = new Set<string>();
  const chosen: Choice[] = [];
  for (const platform of all) {
    const { name } = platform;
    known.add(name);
    const places = platform.places.filter((place) => {
      known.add(`${name}:${place}`);
      return names.length === 0 || wanted.has(name) ||
        wanted.has(`${name}:${place}`);
    });
    if (places.length > 0) chosen.push({ platform, places });
  }
  for (const name of names) {
    if (known.has(name)) continue;
    return `Cannot run ${name} as it must be one of ${
      all.map((platform) => platform.name).join(", ")
    }, or a place of one, such as ${all[0]!.name}:${all[0]!.places[0]}`;
  }
  return chosen;
}
