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

/**
 * Waits for something, or for a signal.
 *
 * @param signal Gives up, if there is one.
 * @param promise What is waited for.
 * @returns What it gives.
 * @throws What it rejects with, or the signal's reason.
 */
export async function unless<T>(
  signal: AbortSignal | undefined,
  promise: Promise<T>,
): Promise<T> {
  const stopped = Promise.withResolvers<never>();
  const stop = () => stopped.reject(signal?.reason);
  signal?.addEventListener("abort", stop);
  try {
    signal?.throwIfAborted();
    return await Promise.race([promise, stopped.promise]);
  } finally {
    signal?.removeEventListener("abort", stop);
  }
}
