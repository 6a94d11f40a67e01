/**
 * Paths in a file system on a disk, as people write them.
 *
 * @module
 */

/**
 * The names in a path.
 *
 * @param path The path from the root, with slashes anywhere.
 * @returns The names, without what means nothing; none for the root.
 */
export function partsOf(path: string): string[] {
  return path.split("/").filter((part) => part !== "" && part !== ".");
}
