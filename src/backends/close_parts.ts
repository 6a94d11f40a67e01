/**
 * Closing what an open image is made of. A close that fails (of a file on a
 * network, say) keeps nothing of the rest open: a lock that stayed would shut
 * everybody out until the program ends.
 *
 * @module
 */

import { settleAll } from "../settle_all.ts";
import { asDiskError } from "./image_options.ts";

/**
 * Closes parts in their order, all of them.
 *
 * @param path The image's path.
 * @param parts What closes each.
 * @returns When all of them are closed.
 * @throws {DiskError} What the first that failed says.
 */
export async function closeParts(
  path: string,
  parts: readonly (() => void | Promise<void>)[],
): Promise<void> {
  try {
    await settleAll(parts.map(async (close) => await close()));
  } catch (error) {
    throw asDiskError(error, path, "close");
  }
}
