/**
 * What disks in memory say of themselves: the memory backend, recorders and the
 * states of crash explorations.
 *
 * @module
 */

import type { BackendInfo } from "../info.ts";

/**
 * What a disk in memory says of itself.
 *
 * @param backend What it is.
 * @param id Its identity.
 * @param ends Why nothing of it is durable.
 * @param alone Why nobody else can write to it.
 * @returns The information, which is the caller's own.
 */
export function memoryInfo(
  backend: string,
  id: string,
  ends: string,
  alone: string,
): BackendInfo {
  return {
    backend,
    path: null,
    medium: "memory",
    fileSystem: null,
    engine: { name: "memory", reason: null },
    direct: {
      active: false,
      method: null,
      reason: "the disk is in memory",
      memoryAlignment: 1,
      offsetAlignment: 1,
      readOffsetAlignment: 1,
      alignmentSource: "none",
    },
    durability: {
      flush: "memory",
      method: "none",
      deviceCache: "unknown",
      fua: "none",
      reason: ends,
    },
    lock: { method: "none", reason: alone },
    id,
  };
}
