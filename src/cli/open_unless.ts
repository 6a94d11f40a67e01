/**
 * Files that may let wait: a pipe with a name opens when somebody opens its other
 * end, and is read when somebody writes. A wait ends when a signal fires.
 *
 * @module
 */

import {
  type FileOpening,
  type OpenedFile,
  openFile,
} from "../platform/files.ts";
import { unless } from "../unless.ts";

/**
 * Opens a file. What is opened too late is closed again, and must not have been
 * made for it.
 *
 * @param signal Gives up, if there is one.
 * @param path Its path.
 * @param opening How; for reading by default.
 * @returns The file.
 * @throws {Error} With the system's `code`, or the signal's reason.
 */
export async function openUnless(
  signal: AbortSignal | undefined,
  path: string,
  opening: FileOpening = { read: true },
): Promise<OpenedFile> {
  const opened = openFile(path, opening);
  try {
    return await unless(signal, opened);
  } catch (error) {
    opened.then((file) => file.close(), () => {});
    throw error;
  }
}
