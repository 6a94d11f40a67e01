/**
 * Files that a verb makes of what it found out: a new one with all of it, or none;
 * and over one that was there, which is cut when all is in it.
 *
 * @module
 */

import { holdFile } from "../backends/direct/mod.ts";
import { listenForFileSizeSignal } from "../backends/file_size_signal.ts";
import { keepNameOf } from "../backends/new_name.ts";
import { identityOf } from "../backends/same_file.ts";
import { systemCode } from "../backends/system_error.ts";
import { DiskError } from "../errors.ts";
import { followLinks, type OpenedFile, openFile } from "../platform/files.ts";
import { formatSize } from "../units.ts";
import { CliError, fileError, Interrupted, lookAt } from "./images.ts";
import { type CliIo, writeAll } from "./io.ts";
import { openUnless } from "./open_unless.ts";
import { inOptionsOf } from "./option_words.ts";
import { refuseOwnOutput } from "./own_output.ts";
import { takeBack } from "./take_back.ts";

/** How a file is saved. */
export interface Saving {
  /** Whether over what is there. */
  readonly force: boolean;
  /** What to talk to. */
  readonly io: CliIo;
  /** Stops it. */
  readonly signal: AbortSignal;
}

/**
 * Saves to a file.
 *
 * @param path Its name.
 * @param saving How.
 * @param pour Gives the content, piece by piece, to what it is called with.
 * @returns When all of it is durable.
 * @throws {CliError} If it cannot be; it says what is left. A file that was made
 * for it is removed.
 */
export async function saveFile(
  path: string,
  { force, io, signal }: Saving,
  pour: (write: (bytes: Uint8Array) => Promise<void>) => Promise<void>,
): Promise<void> {
  const there = await lookAt("write to", path);
  if (there?.isBlockDevice) {
    throw new CliError(
      `Cannot write to "${path}" as it is a block device, which may be in ` +
        `use: "platter copy" and "platter write" look first`,
    );
  }
  // A link may lead to where nothing is yet.
  if (force && there === null) path = await followLinks(path);
  const isNew = there === null || !force && !there.isStream;
  if (there !== null && !isNew) {
    refuseOwnOutput(io, [{ name: path, identity: there }], "written");
  }
  using _hold = there?.isFile && !isNew ? await hold(path, signal) : null;
  const sizeLimit = listenForFileSizeSignal();
  try {
    using file = await openFor(path, isNew, signal);
    await fill(path, file, isNew, signal, pour);
  } finally {
    await sizeLimit.release();
  }
}

/** Keeps others from writing to it meanwhile, and finds out whether one does. */
async function hold(
  path: string,
  signal: AbortSignal,
): Promise<Disposable> {
  try {
    return await holdFile(path, signal);
  } catch (error) {
    if (signal.aborted || !(error instanceof DiskError)) throw error;
    // The option about locks is about the image.
    throw new CliError(inOptionsOf(error.message, []), { cause: error });
  }
}

async function openFor(
  path: string,
  isNew: boolean,
  signal: AbortSignal,
): Promise<OpenedFile> {
  try {
    return isNew
      ? await openFile(path, { write: true, createNew: true })
      : await openUnless(signal, path, { write: true });
  } catch (error) {
    signal.throwIfAborted();
    if (systemCode(error)?.code === "EEXIST") {
      throw new CliError(
        `Cannot write to "${path}" as it exists: use --force to overwrite it`,
        { cause: error },
      );
    }
    throw fileError("write to", path, error);
  }
}

async function fill(
  path: string,
  file: OpenedFile,
  isNew: boolean,
  signal: AbortSignal,
  pour: Parameters<typeof saveFile>[2],
): Promise<void> {
  const identity = identityOf(await file.stat(), path);
  let written = 0;
  let begun = false;
  try {
    // Not by its stream, which does not report every failure.
    await pour(async (bytes) => {
      begun = true;
      await writeAll(file, bytes);
      written += bytes.length;
    });
    if (!identity.isFile) return;
    await file.truncate(written);
    await file.sync();
    if (isNew) keepNameOf(path);
  } catch (error) {
    // A limit on the size of files has sent its signal, which must be waited for.
    systemCode(error);
    const left = isNew
      ? await takeBack(path, identity)
      : written > 0
      ? `"${path}" has ${formatSize(written)} of it`
      : begun
      ? `"${path}" may have some of it`
      : `"${path}" is as it was`;
    if (signal.aborted) throw new Interrupted(`Interrupted: ${left}`);
    const { message } = error instanceof DiskError
      ? error
      : fileError("write to", path, error);
    throw new CliError(`${message}: ${left}`, { cause: error });
  }
}
