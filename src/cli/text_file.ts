/**
 * Text files that are named on the command line.
 *
 * @module
 */

import { formatSize } from "../units.ts";
import { CliError, fileError } from "./images.ts";

/**
 * Reads a text file.
 *
 * @param path Its path.
 * @param maxBytes What it may have at most; without it, it may be a pipe.
 * @returns Its text.
 * @throws {CliError} If it cannot be read, or is larger than that.
 */
export async function readText(
  path: string,
  maxBytes?: number,
): Promise<string> {
  try {
    if (maxBytes !== undefined) await checkSize(path, maxBytes);
    return await Deno.readTextFile(path);
  } catch (error) {
    if (error instanceof CliError) throw error;
    throw fileError("read", path, error);
  }
}

async function checkSize(path: string, maxBytes: number): Promise<void> {
  const { isFile, size } = await Deno.stat(path);
  if (isFile && size <= maxBytes) return;
  throw new CliError(
    `Cannot read "${path}" as it must be a file of ${formatSize(maxBytes)} ` +
      `at most${isFile ? `: current value is ${formatSize(size)}` : ""}`,
  );
}
