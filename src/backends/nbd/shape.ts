/**
 * What a disk is, by what its server says of it.
 *
 * @module
 */

import type { Abilities } from "../../backend.ts";
import { DiskError } from "../../errors.ts";
import {
  type Geometry,
  isPowerOfTwo,
  makeGeometry,
  MAX_BLOCK_SIZE,
  SECTOR_BYTES,
} from "../../geometry.ts";
import type { BackendInfo } from "../../info.ts";
import { ExportFlag } from "../../protocol/nbd/numbers.ts";
import type { Negotiated } from "./client_handshake.ts";
import type { NbdOptions } from "./options.ts";

/**
 * Tells what shape a disk has of which a server said this.
 *
 * @param negotiated What the server said.
 * @param uri What it is called.
 * @param options How it is opened.
 * @returns Its shape.
 * @throws {DiskError} If the export cannot be a disk.
 */
export function geometryOf(
  negotiated: Negotiated,
  uri: string,
  options: NbdOptions,
): Geometry {
  const { size, minimum, preferred, maximum } = negotiated;
  const least = Math.max(minimum, SECTOR_BYTES);
  const blockSize = options.blockSize ?? least;
  const fail = (reason: string): never => {
    throw new DiskError("geometry", `Cannot open "${uri}" as ${reason}`, {
      operation: "open",
      path: uri,
    });
  };
  if (!isPowerOfTwo(least) || least > MAX_BLOCK_SIZE) {
    return fail(`the server wants blocks of ${minimum} bytes`);
  }
  if (blockSize < least) {
    return fail(
      `its blocks must be ${least} bytes at least: current value is ${blockSize}`,
    );
  }
  if (blockSize > maximum) {
    return fail(
      `the server takes ${maximum} bytes at once, and no blocks of ${blockSize}`,
    );
  }
  if (!Number.isSafeInteger(size)) {
    return fail(
      `it must be smaller than 8 PiB: current value is ${size} bytes`,
    );
  }
  if (size % blockSize !== 0) {
    return fail(
      `it must be whole blocks of ${blockSize} bytes: current value is ${size} bytes`,
    );
  }
  return makeGeometry(size / SECTOR_BYTES, blockSize, {
    physicalBlockSize: isPowerOfTwo(preferred) && preferred <= MAX_BLOCK_SIZE
      ? Math.max(preferred, blockSize)
      : blockSize,
  });
}

/**
 * Tells what an export can do.
 *
 * @param negotiated What the server said.
 * @param options How it is opened.
 * @returns What it can do.
 */
export function abilitiesOf(
  negotiated: Negotiated,
  options: NbdOptions,
): Abilities {
  const has = (flag: number) => (negotiated.flags & flag) !== 0;
  const flush = has(ExportFlag.SendFlush);
  const readOnly = options.readOnly || has(ExportFlag.ReadOnly);
  return {
    readOnly,
    flush: flush ? "native" : "none",
    fua: has(ExportFlag.SendFua) ? "native" : flush ? "emulated" : "none",
    discard: has(ExportFlag.SendTrim) ? "native" : "none",
    writeZeroes: has(ExportFlag.SendWriteZeroes) ? "native" : "emulated",
    secureErase: "none",
  };
}

/**
 * Tells what a disk behind a server is and why.
 *
 * @param abilities What it can do.
 * @param uri What it is called.
 * @param id What it says of itself.
 * @returns What is known.
 */
export function describe(
  abilities: Abilities,
  uri: string,
  id: string,
): BackendInfo {
  return {
    backend: "nbd",
    path: uri,
    medium: "network",
    fileSystem: null,
    engine: { name: "nbd", reason: null },
    direct: {
      active: false,
      method: null,
      reason: "the server has the disk, and its own ways",
      memoryAlignment: 1,
      offsetAlignment: 1,
      readOffsetAlignment: 1,
      alignmentSource: "none",
    },
    durability: {
      flush: "unknown",
      method: abilities.flush === "none" ? "none" : "NBD_CMD_FLUSH",
      deviceCache: "unknown",
      fua: abilities.fua === "native"
        ? "NBD_CMD_FLAG_FUA"
        : abilities.fua === "none"
        ? "none"
        : "write + NBD_CMD_FLUSH",
      reason: abilities.flush === "none"
        ? "the server takes no flush"
        : "what a flush reaches is for the server to say",
    },
    lock: {
      method: "none",
      reason: "NBD has no locks: the server decides who may write",
    },
    id,
  };
}
