/**
 * A rescue's map file on the disk. It is replaced as a whole: written beside
 * itself, synced, then renamed over the old one, so that a power cut leaves one
 * or the other.
 *
 * @module
 */

import { keepNameOf } from "../backends/new_name.ts";
import { RescueMap } from "../image/mod.ts";
import { CliError, fileError } from "./images.ts";
import { writeAll } from "./io.ts";

/** Bytes of a map file at most. */
const MAX_BYTES = 2 ** 27;

/**
 * Reads a map file.
 *
 * @param path Its name.
 * @returns The map; `null` if there is no such file.
 * @throws {CliError} If it is none, or cannot be read.
 */
export async function readRescueFile(path: string): Promise<RescueMap | null> {
  let text: string;
  try {
    const { isFile, size } = await Deno.stat(path);
    if (!isFile || size > MAX_BYTES) {
      throw new CliError(
        `Cannot use "${path}" as it must be a map file of ${MAX_BYTES} bytes ` +
          `at most`,
      );
    }
    text = await Deno.readTextFile(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    if (error instanceof CliError) throw error;
    throw fileError("read", path, error);
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
  // Through a link, the file that it leads to.
  const place = await Deno.realPath(path).catch(() => path);
  const beside = `${place}.${crypto.randomUUID().slice(0, 8)}.new`;
  const bytes = new TextEncoder().encode(map.format());
  try {
    using file = await Deno.open(beside, { write: true, createNew: true });
    try {
      await writeAll(file, bytes);
      await file.sync();
      await Deno.rename(beside, place);
    } catch (error) {
      await Deno.remove(beside).catch(() => {});
      throw error;
    }
    keepNameOf(place);
  } catch (error) {
    throw fileError("write", path, error);
  }
}
