/**
 * The header of an overlay's file, of which there are two copies, one written and
 * flushed after the other: a power cut leaves one of them whole at least, and the
 * one that was written last counts.
 *
 * @module
 */

import { statSync } from "node:fs";
import type { Backend } from "../../backend.ts";
import { isZero } from "../../buffer.ts";
import { DiskError } from "../../errors.ts";
import { SECTOR_BYTES } from "../../geometry.ts";
import { plural } from "../../plural.ts";
import { Request, RequestType } from "../../request.ts";
import { submitAll, submitUnless } from "../layer.ts";
import {
  decodeHeader,
  encodeHeader,
  HEADER_BYTES,
  HEADER_SECTORS,
  layoutOf,
  OverlayFormatError,
  type OverlayHeader,
  OverlayState,
} from "./format.ts";

/** The header of an overlay's file, and how it is written. */
export class HeaderFile {
  readonly #file: Backend;
  #header: OverlayHeader;
  /** Which copy is written first: the older one. */
  #firstCopy: number;
  /** Whether there is none in the file yet. */
  readonly isNew: boolean;
  /** Whether the copies differ: the power was cut between the two. */
  readonly differ: boolean;

  private constructor(
    file: Backend,
    header: OverlayHeader,
    copies: readonly HeaderCopy[],
  ) {
    const [first, second] = copies.map((copy) =>
      copy instanceof Object ? copy.sequence : -1
    );
    this.#file = file;
    this.#header = header;
    this.#firstCopy = second! < first! ? 1 : 0;
    this.isNew = header.sequence === 0;
    this.differ = first !== second;
  }

  /**
   * Reads a header, and checks whether it goes with a base.
   *
   * @param file The file.
   * @param base The base.
   * @param isMade Whether the file was made just now.
   * @param signal Gives up.
   * @returns The header; a new one for a file that is one hole.
   * @throws {DiskError} If the file is none of an overlay, or not of this base. If
   * the signal fired, its reason.
   */
  static async open(
    file: Backend,
    base: Backend,
    isMade: boolean,
    signal?: AbortSignal,
  ): Promise<HeaderFile> {
    const { sectors, blockSize } = base.geometry;
    const { fileSectors } = layoutOf(sectors);
    const path = file.info.path;
    if (file.geometry.blockSize !== SECTOR_BYTES) {
      throw notOverlay(
        path,
        `it must have blocks of ${SECTOR_BYTES} bytes: current value is ${file.geometry.blockSize}`,
      );
    }
    const copies = await readHeaders(file, signal);
    const header = newestOf(copies);
    const isBlank = header === undefined &&
      (isMade || copies.every((copy) => copy === "blank") && isHole(file));
    if (header === undefined && !isBlank) throw whyNone(path, copies);
    if (
      header !== undefined &&
      (header.sectors !== sectors || header.blockSize % blockSize !== 0)
    ) {
      throw notOverlay(
        path,
        `it goes with a base of ${
          plural(header.sectors, "sector")
        } in blocks of ${header.blockSize} bytes: current values are ${sectors} and ${blockSize}`,
      );
    }
    if (file.geometry.sectors < fileSectors) {
      throw notOverlay(
        path,
        `it must have ${
          plural(fileSectors, "sector")
        } at least: current value is ${file.geometry.sectors}`,
      );
    }
    return new HeaderFile(
      file,
      header ?? {
        sequence: 0,
        epoch: 1,
        sectors,
        blockSize,
        state: OverlayState.Empty,
        modified: 0n,
        digest: new Uint8Array(32),
        basePath: "",
      },
      copies,
    );
  }

  /** What it says. */
  get header(): OverlayHeader {
    return this.#header;
  }

  /**
   * Writes both copies, durably.
   *
   * @param changes What it says from now on.
   * @param flush Flushes the file.
   * @returns When it is durable.
   * @throws {DiskError} If it fails: either may be there then.
   */
  async write(
    changes: Partial<OverlayHeader>,
    flush: () => Promise<void>,
  ): Promise<void> {
    const sequence = this.#header.sequence + 1;
    const next = { ...this.#header, ...changes, sequence };
    const bytes = this.#file.allocate(HEADER_BYTES);
    bytes.set(encodeHeader(next));
    for (const copy of [this.#firstCopy, 1 - this.#firstCopy]) {
      const sector = HEADER_SECTORS[copy]!;
      const count = HEADER_BYTES / SECTOR_BYTES;
      const error = await submitAll(this.#file, [
        new Request(RequestType.Out, sector, count, 0, bytes),
      ]);
      if (error !== null) throw error;
      await flush();
    }
    this.#header = next;
    this.#firstCopy = 0;
  }
}

/**
 * What an overlay's file says of itself.
 *
 * @param file The file's backend, which stays open.
 * @returns What its header says.
 * @throws {DiskError} If it has none.
 */
export async function readOverlayHeader(file: Backend): Promise<OverlayHeader> {
  const copies = await readHeaders(file);
  const header = newestOf(copies);
  if (header === undefined) throw whyNone(file.info.path, copies);
  return header;
}

function newestOf(copies: readonly HeaderCopy[]): OverlayHeader | undefined {
  return copies.filter((copy) => copy instanceof Object)
    .toSorted((a, b) => b.sequence - a.sequence)[0];
}

/** What one copy of a header is: what it says, nothing at all, or why it is none. */
type HeaderCopy = OverlayHeader | "blank" | string;

async function readHeaders(
  file: Backend,
  signal?: AbortSignal,
): Promise<HeaderCopy[]> {
  const count = HEADER_BYTES / SECTOR_BYTES;
  const copies: HeaderCopy[] = [];
  for (const sector of HEADER_SECTORS) {
    if (file.geometry.sectors < sector + count) {
      copies.push("it is too short");
      continue;
    }
    const bytes = file.allocate(HEADER_BYTES);
    const request = new Request(RequestType.In, sector, count, 0, bytes);
    const error = await submitUnless(file, request, signal);
    if (error !== null) copies.push(error.message);
    else if (isZero(bytes)) copies.push("blank");
    else {
      try {
        copies.push(decodeHeader(bytes));
      } catch (cause) {
        if (!(cause instanceof OverlayFormatError)) throw cause;
        copies.push(cause.message);
      }
    }
  }
  return copies;
}

/** Whether a file is known to have nothing at all. */
function isHole(file: Backend): boolean {
  const { sectors } = file.geometry;
  const { path, medium } = file.info;
  if (file.extents === undefined && path !== null && medium === "file") {
    const stat = statSync(path, { throwIfNoEntry: false });
    return stat?.blocks === 0;
  }
  for (let at = 0; at < sectors;) {
    const found = file.extents?.(at, sectors - at) ?? [];
    if (found.length === 0 || found.some(({ hole }) => !hole)) return false;
    at = found.at(-1)!.sector + found.at(-1)!.count;
  }
  return true;
}

function whyNone(
  path: string | null,
  copies: readonly HeaderCopy[],
): DiskError {
  const reason = copies.find((copy) =>
    typeof copy === "string" && copy !== "blank"
  );
  return notOverlay(
    path,
    typeof reason === "string"
      ? reason
      : "it must begin as one does, and is something else",
  );
}

/**
 * The error of a file that cannot be that of an overlay.
 *
 * @param path Its path.
 * @param reason The second half of "Cannot … as …".
 * @param operation What was tried.
 * @returns The error.
 */
export function notOverlay(
  path: string | null,
  reason: string,
  operation = "open",
): DiskError {
  return new DiskError(
    "geometry",
    `Cannot ${operation} ${
      path === null ? "a backend" : `"${path}"`
    } as the file of an overlay as ${reason}`,
    { operation, path: path ?? undefined },
  );
}
