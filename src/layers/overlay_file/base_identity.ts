/**
 * What tells one base of an overlay from another one, or from itself after it
 * was changed: a digest of samples of its content, and for a file the time at
 * which it was modified last.
 *
 * The samples are the first and the last 64 KiB, where tables and superblocks
 * are, and as much at each of 16 places between. A change to a device, or to
 * what is behind an NBD server, that leaves all of these as they are is not
 * noticed; nor is one to the backing files of a container.
 *
 * @module
 */

import { statSync } from "node:fs";
import { open } from "node:fs/promises";
import { crc32 } from "node:zlib";
import type { Backend } from "../../backend.ts";
import { MAX_BLOCK_SIZE, SECTOR_BYTES } from "../../geometry.ts";
import { Request, RequestType } from "../../request.ts";
import { submitUnless } from "../layer.ts";

/** The largest block: 64 KiB. */
const SAMPLE_SECTORS = MAX_BLOCK_SIZE / SECTOR_BYTES;
const SAMPLES = 18;

/** What tells a base from another one. */
export interface BaseIdentity {
  /** SHA-256 of the samples. */
  readonly digest: Uint8Array;
  /** When it was modified last, in ns since 1970; 0 if not known. */
  readonly modified: bigint;
}

/**
 * Tells what a base is.
 *
 * @param base The base, which is read.
 * @param leaveOut Clears what is not to count in a sample, which begins at a
 * sector; by default, all of it counts.
 * @param signal Gives up.
 * @returns What tells it from another one.
 * @throws If the signal fired, its reason.
 */
export async function identityOf(
  base: Backend,
  leaveOut?: (sector: number, data: Uint8Array) => Promise<void>,
  signal?: AbortSignal,
): Promise<BaseIdentity> {
  const sums: number[] = [];
  for (const [sector, count] of samplesOf(base)) {
    const data = base.allocate(count * SECTOR_BYTES);
    const request = new Request(RequestType.In, sector, count, 0, data);
    const error = await submitUnless(base, request, signal);
    await leaveOut?.(sector, data);
    // What cannot be read has no content to compare.
    sums.push(sector, count, error === null ? crc32(data) : -1);
  }
  const text = new TextEncoder().encode(sums.join(" "));
  return {
    digest: new Uint8Array(await crypto.subtle.digest("SHA-256", text)),
    modified: modifiedAt(base),
  };
}

/**
 * Makes the time of a base's last change durable, as an overlay's file is about
 * to remember it: a flush of data may leave it behind.
 *
 * @param base The base.
 * @returns When it is, or cannot be.
 */
export async function keepModified(base: Backend): Promise<void> {
  const { path, medium } = base.info;
  if (path === null || medium !== "file") return;
  try {
    await using file = await open(path);
    await file.sync();
  } catch {
    // The time is a precaution, and may be refused later at worst.
  }
}

/** Of an overlay over another one, the times of both files are added. */
function modifiedAt({ info }: Backend): bigint {
  const { path, medium, otherFiles = [] } = info;
  const paths = otherFiles.flatMap(({ role, name }) =>
    role === "overlay" ? [name] : []
  );
  if (path !== null && medium === "file") paths.push(path);
  try {
    const times = paths.map((it) => statSync(it, { bigint: true }).mtimeNs);
    return BigInt.asUintN(64, times.reduce((sum, time) => sum + time, 0n));
  } catch {
    return 0n;
  }
}

/** Places to look at, as first sector and count: whole blocks of any size. */
function samplesOf({ geometry: { sectors } }: Backend): [number, number][] {
  const pieces = Math.ceil(sectors / SAMPLE_SECTORS);
  const few = Math.min(pieces, SAMPLES);
  return Array.from({ length: few }, (_, i) => {
    const piece = few === 1 ? 0 : Math.floor((pieces - 1) * i / (few - 1));
    const sector = piece * SAMPLE_SECTORS;
    return [sector, Math.min(SAMPLE_SECTORS, sectors - sector)];
  });
}
