/**
 * The recovery of `crash_states.ts`, as a module that workers can have.
 *
 * @module
 */

import type { VirtualDisk } from "@platter/disk";

/**
 * Reads 16 sectors, one after the other.
 *
 * @param disk The disk of a state.
 */
export default async function readEach(disk: VirtualDisk): Promise<void> {
  for (let i = 0; i < 16; i++) await disk.read(8 * (i * 901 + 13), 1);
}
