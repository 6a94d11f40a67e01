/**
 * Puts a text in the place of a file that others may read at any moment: the new
 * file is written beside the old one and takes its name, so that a reader, or a
 * power cut, finds one or the other, and never a half.
 *
 * @module
 */

import { realpath, rename, unlink } from "node:fs/promises";
import { type FileFacts, followLinks, openFile } from "../platform/files.ts";
import { keepNameOf, refuseAmongDevices } from "./new_name.ts";

/** How a file is replaced. */
export interface Replacement {
  /** Whether the new one must be durable when that is done. */
  readonly durable?: boolean;
  /**
   * Called once the new one is whole, before it takes the name. It throws if the
   * old one must stay.
   *
   * @param made What the system says of the new one.
   */
  readonly check?: (made: FileFacts) => Promise<void>;
}

/**
 * Replaces a file, or makes it.
 *
 * @param path Its path; through a symbolic link, the file that it leads to.
 * @param text Its content.
 * @param how How it is replaced.
 * @returns When it has the name.
 * @throws If it cannot be; the old one is as it was then, and nothing is left
 * beside it.
 */
export async function replaceFile(
  path: string,
  text: string,
  { durable = false, check }: Replacement = {},
): Promise<void> {
  const place = await realpath(path).catch(() => followLinks(path));
  refuseAmongDevices(place);
  const beside = `${place}.${crypto.randomUUID().slice(0, 8)}.tmp`;
  const bytes = new TextEncoder().encode(text);
  {
    using file = await openFile(beside, { write: true, createNew: true });
    try {
      for (let at = 0; at < bytes.length;) {
        at += await file.write(bytes.subarray(at));
      }
      if (durable) await file.sync();
      await check?.(await file.stat());
      await rename(beside, place);
    } catch (error) {
      await unlink(beside).catch(() => {});
      throw error;
    }
  }
  if (durable) keepNameOf(place);
}
