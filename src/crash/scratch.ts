/**
 * A folder for the files of one test: images, sockets, mount points. It goes away
 * with the test, and on Linux also if this process is killed.
 *
 * @module
 */

import { statfs } from "node:fs/promises";
import { tmpdir } from "node:os";
import { asDiskError } from "../backends/image_options.ts";
import { systemCode } from "../backends/system_error.ts";
import { DiskError, kindOfCode } from "../errors.ts";
import { Supervisor } from "../mount/supervisor.ts";
import { CrashTestError } from "./crash_test_error.ts";

/** A folder that goes away with its content. */
export interface Scratch extends AsyncDisposable {
  /** Its path: others may go through it, if they know where to. */
  readonly path: string;
  /** The path of a folder in it that is nobody else's: for images. */
  readonly images: string;
}

/**
 * Makes a folder: where it is said, or in memory if there is plenty of it, or
 * where temporary files are.
 *
 * @param directory Where to make it, if that is said.
 * @param bytes How much will be kept there at most.
 * @returns The folder.
 * @throws {CrashTestError} If there is no room for it.
 * @throws {DiskError} If it cannot be made there.
 */
export async function makeScratch(
  directory: string | undefined,
  bytes: number,
): Promise<Scratch> {
  const dir = directory ?? (await hasRoom(bytes) ? MEMORY : undefined);
  const made = await Deno.makeTempDir({
    prefix: "platter-crash-",
    ...(dir === undefined ? {} : { dir }),
  }).catch((error) => {
    throw notMade(error, dir);
  });
  const path = await Deno.realPath(made);
  const images = `${path}/images`;
  await using parts = new AsyncDisposableStack();
  if (Deno.build.os === "linux") {
    const keeper = new Supervisor(REMOVE, [path]);
    parts.defer(async () => void await keeper.end(END_MS));
  }
  parts.defer(() => Deno.remove(path, { recursive: true }));
  await Deno.mkdir(images, { mode: 0o700 }).catch((error) => {
    throw notMade(error, dir);
  });
  // A program may run as somebody else, as database servers do, and must reach
  // what is mounted for it.
  if (Deno.build.os !== "windows") await Deno.chmod(path, 0o711);
  const all = parts.move();
  return { path, images, [Symbol.asyncDispose]: () => all.disposeAsync() };
}

/** Why there is no folder. */
function notMade(error: unknown, dir: string | undefined): Error {
  if (!saysFull(error)) {
    return asDiskError(error, dir ?? tmpdir(), "make a folder in");
  }
  const where = dir === undefined
    ? "the folder of temporary files"
    : `"${dir}"`;
  return noRoom(where, String(error));
}

/**
 * Removes the folder once this process is no more, if it was killed: images may
 * be in memory. What is mounted or attached in it goes first, by others.
 */
const REMOVE = `
read -r _
tries=0
until rm -rf --one-file-system "$1" 2> /dev/null; do
  tries=$((tries + 1))
  if [ "$tries" -gt 300 ]; then break; fi
  sleep 0.1
done
`;

/** The longest that it may take if the folder is gone already, in ms. */
const END_MS = 10_000;

/** Where Linux has a file system in memory: shm_overview(7). */
const MEMORY = "/dev/shm";

/**
 * Says that a test cannot go on.
 *
 * @param where What has no room left.
 * @param said What told of it.
 * @returns The error.
 */
export function noRoom(where: string, said: string): CrashTestError {
  return new CrashTestError(
    `Cannot test as there is no room left in ${where}`,
    said,
  );
}

/**
 * Whether an error says that there is no room.
 *
 * @param error The error.
 * @returns Whether.
 */
export function saysFull(error: unknown): boolean {
  const kind = error instanceof DiskError
    ? error.kind
    : kindOfCode(systemCode(error)?.code ?? "");
  return kind === "no-space";
}

/**
 * Whether a folder has no room any more, which commands take for an error of
 * their disk.
 *
 * @param path The folder.
 * @returns Whether there is less than 64 KiB, or no file can be made.
 */
export async function isFull(path: string): Promise<boolean> {
  const { bavail, bfree, bsize, files, ffree } = await statfs(path);
  // Where files are not counted, there are 0 of them.
  if (files > 0 && ffree === 0) return true;
  // Some of it is for root alone.
  const blocks = Deno.uid() === 0 ? bfree : bavail;
  return blocks * bsize < 65_536;
}

/**
 * Removes what may be gone: commands are free to remove what they are given.
 *
 * @param path A file, or a folder with its content.
 * @returns When it is not there.
 */
export async function removeIfThere(path: string): Promise<void> {
  try {
    await Deno.remove(path, { recursive: true });
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

/**
 * The same at once: of small things that no other process serves.
 *
 * @param path A file, or a folder with its content.
 */
export function removeNowIfThere(path: string): void {
  try {
    Deno.removeSync(path, { recursive: true });
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

/** Whether so much takes less than half of the memory that is left there. */
async function hasRoom(bytes: number): Promise<boolean> {
  if (Deno.build.os !== "linux") return false;
  try {
    const { bavail, bsize } = await statfs(MEMORY);
    return bytes < Math.min(bavail * bsize, Deno.systemMemoryInfo().available) /
        2;
  } catch {
    return false;
  }
}
