/**
 * What is tried on a scratch disk: whether what `disk.info` says holds. The
 * disk is used as anybody would use it; nothing here knows how it is reached.
 *
 * @module
 */

import fs from "node:fs";
import { createServer, type Server } from "node:net";
import { completedFlushes, splitDevice } from "../backends/sysfs.ts";
import { VirtualDisk } from "../disk/disk.ts";
import { DiskError } from "../errors.ts";

/** Sectors of the scratch disk: 2 MiB. */
export const SCRATCH_SECTORS = 4096;

/** Sectors that are written before anything is tried: half of it. */
const WRITTEN_SECTORS = 2048;

/** Where zeroes and discards are tried: whole records of any file system here. */
const RANGE = { sector: 512, count: 512 };

/** Flushes whose arrival is counted. */
const FLUSHES = 4;

/** How long a socket may take, in ms. */
const SOCKET_MS = 10_000;

/** What came of the flushes that were made. */
export interface FlushCount {
  /** Flushes that were made. */
  readonly made: number;
  /** Flushes that the device counted meanwhile; `null` if it cannot be asked. */
  readonly counted: number | null;
}

/**
 * Makes a scratch disk that has data on it: holes tell nothing of a host.
 *
 * @param path Its path.
 * @param signal Gives it up.
 * @returns When it is there, and flushed.
 * @throws {DiskError} If it cannot be made or written.
 */
export async function makeScratchDisk(
  path: string,
  signal: AbortSignal | undefined,
): Promise<void> {
  await using disk = await VirtualDisk.create(path, {
    sectors: SCRATCH_SECTORS,
    signal,
  });
  await disk.write(0, disk.allocate(WRITTEN_SECTORS).fill(0xa5));
  await disk.flush();
}

/**
 * Why an engine, or the direct backend with any, is not to be had for an image.
 *
 * @param path The image.
 * @param engine The engine.
 * @returns The reason; `null` if it is to be had.
 */
export async function whyNot(
  path: string,
  engine: "auto" | "io_uring" | "libaio",
): Promise<string | null> {
  try {
    const disk = await VirtualDisk.open(path, {
      backend: "direct",
      engine,
      readOnly: true,
      lock: "none",
      format: "raw",
    });
    await disk.close();
    return null;
  } catch (error) {
    if (!(error instanceof DiskError)) throw error;
    // The beginning says which image and which engine, and both are known.
    return error.message.replace(/^Cannot open .*?(" as |backend: )/, "");
  }
}

/**
 * Whether a second writer is kept out.
 *
 * @param path An image that is open for writing.
 * @returns Whether it is.
 */
export async function locksOut(path: string): Promise<boolean> {
  try {
    const disk = await VirtualDisk.open(path, { format: "raw" });
    await disk.close();
    return false;
  } catch (error) {
    if (error instanceof DiskError && error.kind === "locked") return true;
    throw error;
  }
}

/**
 * Makes flushes, each after a write, and asks the device how many it saw. Those
 * of other programs are counted as well.
 *
 * @param disk The scratch disk.
 * @param path Its path.
 * @param fua Whether each write is to be durable by itself, instead.
 * @returns Both numbers.
 */
export async function countFlushes(
  disk: VirtualDisk,
  path: string,
  fua = false,
): Promise<FlushCount> {
  const { major, minor } = splitDevice(fs.statSync(path, { bigint: true }).dev);
  const before = completedFlushes(major, minor);
  const data = disk.allocate(WRITTEN_SECTORS / 64).fill(0xa5);
  for (let i = 0; i < FLUSHES; i++) {
    await disk.write(0, data, { fua });
    if (!fua) await disk.flush();
  }
  const after = completedFlushes(major, minor);
  return {
    made: FLUSHES,
    counted: before === undefined || after === undefined
      ? null
      : after - before,
  };
}

/**
 * Whether a range that had data reads as zeroes once it was made zero, by the
 * disk itself and through the operating system's cache.
 *
 * @param disk The scratch disk.
 * @param path Its path.
 * @returns Whether it does.
 */
export async function zeroesRead(
  disk: VirtualDisk,
  path: string,
): Promise<boolean> {
  const { sector, count } = RANGE;
  for (const unmap of [false, true]) {
    await disk.write(sector, disk.allocate(count).fill(0xa5));
    await disk.flush();
    await disk.writeZeroes(sector, count, { unmap });
    const seen = [await disk.read(sector, count), await reread(path)];
    if (seen.some((bytes) => bytes.some((byte) => byte !== 0))) return false;
  }
  return true;
}

/**
 * Whether a range that was discarded reads the same twice, and through the
 * operating system's cache: zeroes or what it had, but one of them.
 *
 * @param disk The scratch disk.
 * @param path Its path.
 * @returns What it reads as: `"zeroes"`, `"data"` or, if it changes, `null`.
 */
export async function discardReads(
  disk: VirtualDisk,
  path: string,
): Promise<"zeroes" | "data" | null> {
  const { sector, count } = RANGE;
  await disk.write(sector, disk.allocate(count).fill(0xa5));
  await disk.flush();
  await disk.discard(sector, count);
  const seen = [
    await disk.read(sector, count),
    await reread(path),
    await disk.read(sector, count),
  ];
  if (seen.every((bytes) => bytes.every((byte) => byte === 0))) return "zeroes";
  return seen.every((bytes) => bytes.every((byte) => byte === 0xa5))
    ? "data"
    : null;
}

/** Reads the range by a descriptor of its own, through the cache. */
async function reread(path: string): Promise<Uint8Array> {
  await using disk = await VirtualDisk.open(path, {
    direct: "never",
    readOnly: true,
    lock: "none",
    format: "raw",
  });
  return await disk.read(RANGE.sector, RANGE.count);
}

/**
 * Listens at a socket for a moment.
 *
 * @param at The path of a Unix socket; a port of loop-back without it.
 * @returns Why that cannot be; `null` if it can.
 */
export async function whyNoSocket(at?: string): Promise<string | null> {
  let server: Server | undefined;
  let timer: ReturnType<typeof setTimeout> | undefined;
  try {
    return await new Promise((resolve, reject) => {
      timer = setTimeout(() => resolve("it takes too long"), SOCKET_MS);
      server = createServer();
      server.on("error", reject);
      const ready = () => resolve(null);
      if (at === undefined) server.listen(0, "127.0.0.1", ready);
      else server.listen(at, ready);
    });
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  } finally {
    clearTimeout(timer);
    // Nobody is connected, so that this is over at once.
    await new Promise((resolve) => server?.close(resolve) ?? resolve(null));
  }
}
