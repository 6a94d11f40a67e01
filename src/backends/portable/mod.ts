/**
 * Opens an image by `node:fs` alone.
 *
 * @module
 */

export { openPortable } from "./backend.ts";
