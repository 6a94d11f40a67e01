/**
 * Files that a verb makes of what it found out: a new one with all of it, or none.
 *
 * @module
 */

import { keepNameOf } from "../backends/new_name.ts";
import { identify, identityOf } from "../backends/same_file.ts";
import { DiskError } from "../errors.ts";
import { type OpenedFile, openFile } from "../platform/files.ts";
import { CliError, fileError } from "./images.ts";
import { writeAll } from "./io.ts";
import { takeBack } from "./take_back.ts";

/**
 * Saves a text.
 *
 * @param path Where.
 * @param text The text.
 * @param force Whether over what is there, which is cut last.
 * @returns When all of it is durable.
 * @throws {CliError} If it cannot be; it says what is left. A file that was made
 * for it is removed.
 */
export async function saveText(
  path: string,
  text: string,
  force: boolean,
): Promise<void> {
  const there = force ? await identify(path) : null;
  if (there?.isBlockDevice) {
    throw new CliError(`Cannot write to "${path}" as it is a block device`);
  }
  let file: OpenedFile;
  try {
    file = await openFile(
      path,
      there === null ? { write: true, createNew: true } : { write: true },
    );
  } catch (error) {
    throw fileError("write to", path, error);
  }
  using _open = file;
  const identity = identityOf(await file.stat(), path);
  try {
    const bytes = new TextEncoder().encode(text);
    await writeAll(file, bytes);
    if (identity.isFile) {
      await file.truncate(bytes.length);
      await file.sync();
      if (there === null) keepNameOf(path);
    }
  } catch (error) {
    const left = there === null
      ? await takeBack(path, identity)
      : `"${path}" is incomplete`;
    const { message } = error instanceof DiskError
      ? error
      : fileError("write to", path, error);
    throw new CliError(`${message}: ${left}`, { cause: error });
  }
}
