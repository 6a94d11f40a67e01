/**
 * Whether an error is about a place on a medium, or about the way to it.
 *
 * @module
 */

import { DiskError } from "./errors.ts";

/**
 * Error numbers that say that a medium cannot be read here: those of the block
 * layer's BLK_STS_IOERR, MEDIUM, PROTECTION, TARGET and TIMEOUT
 * (Linux, `blk_errors` in block/blk-core.c). Anything else, such as a
 * device that is gone or a server that hung up, says nothing about a sector.
 */
const MEDIUM_CODES: ReadonlySet<string> = new Set([
  "EIO",
  "ENODATA",
  "EILSEQ",
  "EREMOTEIO",
  "ETIMEDOUT",
]);

/**
 * Tells whether an error says that a medium cannot be read at a place.
 *
 * @param error What a read failed with.
 * @returns Whether it does.
 */
export function isOfMedium(error: unknown): boolean {
  return error instanceof DiskError && error.kind === "io" &&
    error.code !== undefined && MEDIUM_CODES.has(error.code);
}
