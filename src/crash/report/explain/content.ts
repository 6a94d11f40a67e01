/**
 * What kinds of content there are on a volume, and who knows them.
 *
 * @module
 */

import type { Volume } from "./volume.ts";

/** Somebody who knows what is where on a volume. */
export interface Content {
  /** What the volume is, such as `"ext4"`. */
  readonly name: string;
  /** The sectors that mean the same together: those of a block. */
  readonly blockSectors: number;
  /**
   * Tells what blocks are.
   *
   * @param blocks Numbers of blocks on the volume, in order.
   * @returns For each, what it is, from the outside in; empty if that is not
   * known.
   * @throws {MissingTool} If a program is missing that could tell.
   */
  explain(blocks: readonly number[]): Promise<readonly string[][]>;
}

/**
 * Looks whether a volume has a content that it knows.
 *
 * @param volume The volume.
 * @returns Who knows it; `null` if it is something else.
 */
export type Recognize = (volume: Volume) => Promise<Content | null>;

/**
 * Text at a place.
 *
 * @param bytes The bytes.
 * @param offset Where.
 * @param length How many bytes.
 * @returns Each byte as a character.
 */
export function textAt(
  bytes: Uint8Array,
  offset: number,
  length: number,
): string {
  return String.fromCharCode(...bytes.subarray(offset, offset + length));
}
