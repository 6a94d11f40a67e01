/**
 * What the verbs have in common: the options that open an image, places on it,
 * files beside it, and stopping half-way.
 *
 * @module
 */

import type { Extent } from "../backend.ts";
import { refuseAmongDevices } from "../backends/new_name.ts";
import { type FileIdentity, identityOf } from "../backends/same_file.ts";
import { systemCode, systemReason } from "../backends/system_error.ts";
import { CONTAINER_FORMATS } from "../content_format.ts";
import type { VirtualDisk } from "../disk/disk.ts";
import { SECTOR_BYTES } from "../geometry.ts";
import type { BackendInfo } from "../info.ts";
import type { OpenOptions } from "../disk/open.ts";
import { DiskError } from "../errors.ts";
import { followLinks, statFile } from "../platform/files.ts";
import { isNotCapable } from "../platform/permissions.ts";
import { parseSectors, parseSize } from "../units.ts";
import { type CliIo, printError } from "./io.ts";
import { UsageError, type VerbArguments, type VerbOption } from "./verb.ts";

/** The options that say how an image is opened. */
export const IMAGE_OPTIONS: readonly VerbOption[] = [
  {
    name: "direct",
    value: "WHEN",
    words: ["never", "prefer", "require"],
    summary: "Direct I/O: never, prefer (default) or require",
  },
  {
    name: "backend",
    value: "NAME",
    words: ["auto", "direct", "portable"],
    summary: "direct (by FFI), portable or auto (default)",
  },
  {
    name: "block-size",
    value: "SIZE",
    summary: "Logical block size (default: the device's, or 512)",
  },
  {
    name: "format",
    value: "NAME",
    summary: "Image format: raw, qcow2, vmdk, … (default: auto)",
  },
  {
    name: "backing-files",
    summary: "Open the files that a container names, too",
  },
];

/** What may be said of an image's format. */
const FORMATS = ["auto", "raw", ...CONTAINER_FORMATS] as const;

/** The option that reads an image which another program holds. */
export const NO_LOCK_OPTION: VerbOption = {
  name: "no-lock",
  summary: "Take no lock on the image, and heed none",
};

/** Something that is not a disk's error, in words for the person. */
export class CliError extends Error {
  /** Always `"CliError"`. */
  override readonly name = "CliError";
}

/** A command that was stopped by Ctrl-C. */
export class Interrupted extends Error {
  /** Always `"Interrupted"`. */
  override readonly name = "Interrupted";
}

/**
 * Reads the options that say how an image is opened.
 *
 * @param args What was typed.
 * @returns The same for the library.
 * @throws {UsageError} If one cannot be read.
 */
export function openOptions(args: VerbArguments): OpenOptions {
  const direct = args.choice("direct", ["never", "prefer", "require"]);
  const backend = args.choice("backend", ["auto", "direct", "portable"]);
  const blockSize = args.parsed("block-size", parseSize);
  return {
    ...(direct === undefined ? {} : { direct }),
    ...(backend === undefined ? {} : { backend }),
    ...(blockSize === undefined ? {} : { blockSize }),
    ...formatOption(args, "format"),
    ...(args.flag("backing-files") ? { backingFiles: "allow" } : {}),
    ...(args.flag("no-lock") ? { lock: "none" } : {}),
  };
}

/**
 * Reads an option that says what an image is.
 *
 * @param args What was typed.
 * @param name The option.
 * @returns The same for the library; nothing if it was not given.
 * @throws {UsageError} If there is no such format.
 */
export function formatOption(
  args: VerbArguments,
  name: string,
): Pick<OpenOptions, "format"> {
  const format = args.choice(name, FORMATS);
  return format === undefined ? {} : { format };
}

/**
 * Says on standard error what should be known before a disk is used.
 *
 * @param io What to talk to.
 * @param path What the person calls the disk.
 * @param info What the disk says of itself.
 * @returns When it is written, or cannot be.
 */
export async function warn(
  io: CliIo,
  path: string,
  { warnings = [] }: BackendInfo,
): Promise<void> {
  for (const warning of warnings) {
    await printError(io, `platter: "${path}": ${warning}\n`);
  }
}

/**
 * Reads a place or an extent that may be given in sectors or in bytes.
 *
 * @param args What was typed.
 * @param inSectors The option that counts sectors.
 * @param inBytes The option that counts bytes.
 * @returns Bytes, if either was given.
 * @throws {UsageError} If both were given, or one cannot be read.
 */
export function bytesOf(
  args: VerbArguments,
  inSectors: string,
  inBytes: string,
): number | undefined {
  const sectors = args.parsed(inSectors, parsePlainSectors);
  const bytes = args.parsed(inBytes, parseSize);
  if (sectors !== undefined && bytes !== undefined) {
    throw new UsageError(
      `Cannot use --${inSectors} and --${inBytes} together as they say the ` +
        `same thing`,
    );
  }
  return sectors === undefined ? bytes : sectors * SECTOR_BYTES;
}

/**
 * Where data and holes are, some at a time, so that neither memory nor the wait
 * for the first of them grows with the disk.
 *
 * @param disk The disk.
 * @param sector First sector, on a block.
 * @param count Sectors, whole blocks.
 * @returns Data and holes in turn.
 */
export async function* extentsOf(
  disk: VirtualDisk,
  sector: number,
  count: number,
): AsyncGenerator<Extent, void> {
  const end = sector + count;
  let last: Extent | undefined;
  for (let at = sector; at < end;) {
    for (const next of await disk.firstExtents(at, end - at)) {
      at = next.sector + next.count;
      if (last === undefined) {
        last = next;
      } else if (last.hole === next.hole) {
        last = { ...last, count: last.count + next.count };
      } else {
        yield last;
        last = next;
      }
    }
  }
  if (last !== undefined) yield last;
}

/**
 * Says in one sentence why a file could not be used.
 *
 * @param operation What was to be done with it.
 * @param path The file.
 * @param error What the runtime threw.
 * @returns The error to throw.
 */
export function fileError(
  operation: string,
  path: string,
  error: unknown,
): CliError {
  if (error instanceof DiskError) {
    return new CliError(error.message, { cause: error });
  }
  if (isNotCapable(error)) {
    return new CliError(`Cannot ${operation} "${path}": ${error.message}`, {
      cause: error,
    });
  }
  const reason = systemCode(error)?.code === "EEXIST"
    ? "it exists"
    : systemReason(error) ??
      (error instanceof Error ? error.message : String(error));
  return new CliError(`Cannot ${operation} "${path}" as ${reason}`, {
    cause: error,
  });
}

/**
 * Finds out what is where a file is to be written. What may not be looked at is
 * not written to either, and no file is made among devices.
 *
 * @param operation What is to be done with it.
 * @param path Its name.
 * @returns What it is; `null` if nothing is there.
 * @throws {CliError} If that cannot be found out, or nothing may be there.
 */
export async function lookAt(
  operation: string,
  path: string,
): Promise<FileIdentity | null> {
  try {
    return identityOf(await statFile(path), path);
  } catch (error) {
    if (systemCode(error)?.code !== "ENOENT") {
      throw fileError(operation, path, error);
    }
  }
  try {
    refuseAmongDevices(await followLinks(path));
    return null;
  } catch (error) {
    throw fileError(operation, path, error);
  }
}

/**
 * Runs something that Ctrl-C stops in good order.
 *
 * @param io What to talk to.
 * @param run Does it; when its signal fires it should throw.
 * @returns What it returned.
 * @throws {Interrupted} If it threw because it was stopped, unless it found
 * better words.
 */
export async function interruptible<T>(
  io: CliIo,
  run: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const controller = new AbortController();
  const forget = io.onInterrupt(() => {
    controller.abort(new Interrupted("Interrupted"));
  });
  try {
    return await run(controller.signal);
  } finally {
    forget();
  }
}

/**
 * Reads sectors: a number without a unit counts them already.
 *
 * @param text What was typed.
 * @returns Sectors.
 * @throws {TypeError} If it is no size.
 * @throws {RangeError} If it is not whole sectors.
 */
export function parsePlainSectors(text: string): number {
  return parseSectors(
    /^(\d+(\.\d+)?|0x[\da-f]+)$/i.test(text) ? `${text}s` : text,
  );
}
