/**
 * What differs from the usual: ext4 or a disk on a new Linux, with FFI.
 *
 * @module
 */

/** What a disk is somewhere; see `info` of a disk. */
export interface Facts {
  /** What it lies on. */
  readonly medium: string;
  /** The file system; `null` if there is none. */
  readonly fileSystem: string | null;
  /** Who carries out. */
  readonly engine: string;
  /** Whether I/O is direct. */
  readonly active: boolean;
  /** Why it is not, or what else there is to know. */
  readonly reason: string | null;
  /** Of memory and of offsets, in bytes. */
  readonly alignment: readonly [number, number];
  /** Who says so. */
  readonly alignmentSource: string;
  /** What a flush reaches. */
  readonly flush: string;
  /** How the image is locked. */
  readonly lock: string;
  /** How ranges are given up. */
  readonly discard: string;
  /** How ranges are zeroed. */
  readonly writeZeroes: string;
  /** What it did that it must not. */
  readonly wrong: readonly string[];
}

/**
 * Says in a few words what differs.
 *
 * @param direct What the direct backend says.
 * @param portable What the portable one says; only what contradicts is told.
 * @returns A phrase each.
 */
export function differences(direct: Facts, portable: Facts): string[] {
  const found: string[] = [];
  const [memory, offset] = direct.alignment;
  if (direct.engine !== "io_uring") found.push(`engine ${direct.engine}`);
  if (!direct.active) found.push("not direct");
  else if (memory !== 512 || offset !== 512) {
    found.push(`aligned to ${memory}/${offset}`);
  }
  if (direct.active && direct.alignmentSource !== "statx") {
    found.push(`alignment by ${direct.alignmentSource}`);
  }
  if (direct.flush !== "media") found.push(`flush ${direct.flush}`);
  if (direct.lock !== "OFD") found.push(`lock ${direct.lock}`);
  if (direct.discard === "none") found.push("no discard");
  if (direct.writeZeroes === "emulated") found.push("zeroes are written");
  if (portable.active !== direct.active) {
    found.push(`portable ${portable.active ? "" : "not "}direct`);
  }
  if (portable.lock === "none" && direct.lock !== "none") {
    found.push("portable lock none");
  }
  if (portable.flush !== direct.flush) {
    found.push(`portable flush ${portable.flush}`);
  }
  return found;
}
