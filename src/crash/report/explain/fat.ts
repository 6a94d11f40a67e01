/**
 * What is where on FAT12, FAT16 and FAT32: boot sector, tables, root directory,
 * clusters. Which file a cluster belongs to is not told.
 *
 * Source: Microsoft, FAT32 File System Specification, version 1.03.
 *
 * @module
 */

import { viewOf } from "../../../bytes.ts";
import { isPowerOfTwo, SECTOR_BYTES } from "../../../geometry.ts";
import { type Content, textAt } from "./content.ts";
import type { Volume } from "./volume.ts";

/**
 * Looks for a FAT file system.
 *
 * @param volume The volume.
 * @returns Who knows it; `null` if there is none.
 */
export async function recognizeFat(volume: Volume): Promise<Content | null> {
  const bytes = await volume.read(0, SECTOR_BYTES);
  const named = textAt(bytes, 54, 3) === "FAT" ||
    textAt(bytes, 82, 3) === "FAT";
  const view = viewOf(bytes);
  const sectorBytes = view.getUint16(11, true);
  const perCluster = bytes[13]!;
  const tables = bytes[16]!;
  if (
    !named || view.getUint16(510, true) !== 0xaa55 || perCluster === 0 ||
    tables === 0 || !isPowerOfTwo(sectorBytes) || sectorBytes < SECTOR_BYTES
  ) return null;
  const reserved = view.getUint16(14, true);
  const rootEntries = view.getUint16(17, true);
  const tableSectors = view.getUint16(22, true) || view.getUint32(36, true);
  const root = reserved + tables * tableSectors;
  // An entry has 32 bytes; FAT32 has its root directory in clusters.
  const data = root + Math.ceil(rootEntries * 32 / sectorBytes);
  const name = rootEntries === 0 ? "FAT32" : "FAT";
  return {
    name,
    blockSectors: sectorBytes / SECTOR_BYTES,
    explain(sectors) {
      return Promise.resolve(sectors.map((sector) => {
        if (sector === 0) return ["boot sector"];
        if (sector < reserved) {
          return [name === "FAT32" && sector === 1 ? "FSInfo" : "reserved"];
        }
        if (sector < root) {
          const table = Math.floor((sector - reserved) / tableSectors);
          return [`file allocation table ${table + 1}`];
        }
        if (sector < data) return ["root directory"];
        return [`cluster ${Math.floor((sector - data) / perCluster) + 2}`];
      }));
    },
  };
}
