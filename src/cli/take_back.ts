/**
 * Removes what a verb has made and could not finish, and nothing else.
 *
 * @module
 */

import { type FileIdentity, identify } from "../backends/same_file.ts";
import { remove } from "../platform/files.ts";

/**
 * Removes a file that was made here, unless its name leads to another one by
 * now.
 *
 * @param path Its name.
 * @param made What it was when it was made; `null` if that is not known.
 * @returns What became of it, in words.
 */
export async function takeBack(
  path: string,
  made: FileIdentity | null,
): Promise<string> {
  const there = await identify(path);
  if (there === null) return `"${path}" is gone`;
  if (there.key !== made?.key) {
    return `"${path}" is another file by now and was left as it is`;
  }
  return await remove(path).then(
    () => `"${path}" was removed again`,
    () => `"${path}" is incomplete and could not be removed`,
  );
}
