/**
 * Recoveries for workers, by the length of the disk: one module, as each one
 * more is type-checked with all that it imports.
 *
 * @module
 */

import type { VirtualDisk } from "@platter/disk";

/** Disks of which each gets another recovery, in sectors. */
export const NEWEST = 16;
export const WRITING = 8;
export const ENDLESS = 24;
export const RESETTING = 32;
export const SLOW = 40;

export default async function recover(
  disk: VirtualDisk,
  acknowledged: readonly unknown[],
): Promise<void> {
  if (disk.sectors === NEWEST) await checkNewest(disk, acknowledged);
  else if (disk.sectors === WRITING) await move(disk);
  else if (disk.sectors === RESETTING) await reset(disk);
  else if (disk.sectors === SLOW) spin();
  else {
    // Never lets anything else of its thread run.
    await disk.read(0, 1);
    for (;;);
  }
}

/** The first sector is to be as new as what was acknowledged last. */
async function checkNewest(
  disk: VirtualDisk,
  acknowledged: readonly unknown[],
): Promise<void> {
  const [newest] = await disk.read(0, 1);
  const [data] = await disk.read(8, 1);
  const promised = acknowledged.at(-1) as number ?? 0;
  if (newest! < promised) throw new Error(`It is ${newest}, not ${promised}`);
  if (data! < newest!) throw new Error(`The data of ${newest} is ${data}`);
}

/** Copies a sector to another one and clears it, without a flush between. */
async function move(disk: VirtualDisk): Promise<void> {
  const [from] = await disk.read(0, 1);
  const [to] = await disk.read(1, 1);
  if (from === 0 && to === 0) {
    const [begun] = await disk.read(2, 1);
    if (begun === 1) throw new Error("Both are gone");
    return;
  }
  await disk.write(1, new Uint8Array(512).fill(from! | to!));
  await disk.write(2, new Uint8Array(512).fill(1));
  await disk.write(0, new Uint8Array(512));
}

/** Writes the same whatever it finds: what is left of it is left of others, too. */
async function reset(disk: VirtualDisk): Promise<void> {
  await disk.read(0, 9);
  for (let i = 10; i < 14; i++) {
    await disk.write(i, new Uint8Array(512).fill(i));
  }
  await disk.write(0, new Uint8Array(512));
  await disk.write(8, new Uint8Array(512));
}

/** Takes longer than from one report of progress to the next. */
function spin(): void {
  const end = performance.now() + 60;
  while (performance.now() < end);
}
