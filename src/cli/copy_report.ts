/**
 * What a copy did, in a sentence and as JSON.
 *
 * @module
 */

import type { VirtualDisk } from "../disk/disk.ts";
import { SECTOR_BYTES } from "../geometry.ts";
import { formatSize } from "../units.ts";
import { duration, rate } from "./format.ts";
import { inOptionsOf } from "./option_words.ts";
import { flushedWord, type Outcome } from "./outcome.ts";
import type { VerbOption } from "./verb.ts";

/**
 * What a copy did, in sectors. What is neither written, zeroed nor skipped was not
 * in the block map, and is as it was.
 */
export interface CopySums {
  /** Sectors that it was about. */
  readonly sectors: number;
  /** Written as data. */
  readonly written: number;
  /** Made zeroes. */
  readonly zeroed: number;
  /** Had nothing to be done. */
  readonly skipped: number;
  /** Whether the target was read again and compared. */
  readonly verified: boolean;
}

/**
 * Sums up a copy that is complete and flushed.
 *
 * @param sums What was done.
 * @param ms Milliseconds that it took.
 * @param from Where from.
 * @param to Where to.
 * @param target The target, while it is open.
 * @param options The verb's options, for the reasons.
 * @returns For example `"Copied 64 MiB in 0.04 s: …"`.
 */
export function copyOutcome(
  sums: CopySums,
  ms: number,
  from: string,
  to: string,
  target: VirtualDisk,
  options: readonly VerbOption[],
): Outcome {
  const [all, written, zeroed, skipped] = [
    sums.sectors,
    sums.written,
    sums.zeroed,
    sums.skipped,
  ].map((sectors) => sectors * SECTOR_BYTES) as [
    number,
    number,
    number,
    number,
  ];
  const { verified } = sums;
  const { direct } = target.info;
  const unmapped = Math.max(0, all - written - zeroed - skipped);
  // The time of a verified copy says nothing about the rate of the copy.
  const speed = verified ? "" : ` (${rate(written, ms)})`;
  const parts = [`${formatSize(written)} of data${speed}`];
  if (skipped > 0) parts.push(`${formatSize(skipped)} of holes`);
  if (zeroed > 0) parts.push(`${formatSize(zeroed)} made zeroes`);
  if (unmapped > 0) parts.push(`${formatSize(unmapped)} not mapped`);
  // What a cache has says nothing about the medium.
  const cached = verified && !direct.active
    ? `\nIt was read back through a cache, not from the medium: ${
      inOptionsOf(direct.reason ?? "there is no direct I/O", options)
    }`
    : "";
  return {
    text: `${verified ? "Copied and verified" : "Copied"} ${formatSize(all)} ` +
      `in ${duration(ms)}: ${parts.join(", ")}${cached}`,
    json: {
      source: from,
      target: to,
      bytes: all,
      written,
      zeroed,
      skipped,
      unmapped,
      verified: verified ? (direct.active ? "medium" : "cache") : null,
      ms: Math.round(ms),
    },
    done: `"${to}" is complete and ${flushedWord(target)}`,
  };
}
