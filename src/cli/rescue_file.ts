/**
 * A rescue's map file on the disk, which is replaced as a whole.
 *
 * @module
 */

import { replaceFile } from "../backends/replace_file.ts";
import { RescueMap } from "../image/mod.ts";
import { CliError, fileError } from "./images.ts";
import { readText } from "./text_file.ts";

/** Bytes of a map file at most. */
const MAX_BYTES = 2 ** 27;

/**
 * Reads a map file.
 *
 * @param path Its name.
 * @param signal Gives up.
 * @returns The map; `null` if there is no such file.
 * @throws {CliError} If it is none, or cannot be read.
 */
export async function readRescueFile(
  path: string,
  signal: AbortSignal,
): Promise<RescueMap | null> {
  let text: string;
  try {
    text = await readText(path, { maxBytes: MAX_BYTES, signal });
  } catch (error) {
    const { cause } = error as CliError;
    if ((cause as { code?: unknown } | null)?.code === "ENOENT") return null;
    throw error;
  }
  try {
    return RescueMap.parse(text);
  } catch (error) {
    throw new CliError(
      `${(error as Error).message}: "${path}" was left as it is`,
      { cause: error },
    );
  }
}

/**
 * Replaces a map file, or makes it.
 *
 * @param path Its name.
 * @param map The map.
 * @returns When it is durable.
 * @throws {CliError} If it cannot be; the old one is as it was then.
 */
export async function writeRescueFile(
  path: string,
  map: RescueMap,
): Promise<void> {
  try {
    await replaceFile(path, map.format(), { durable: true });
  } catch (error) {
    throw fileError("write", path, error);
  }
}
