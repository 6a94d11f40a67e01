/**
 * Layers: backends over backends, to be stacked in any order.
 *
 * | layer | what it is for |
 * | --- | --- |
 * | {@linkcode overlay} | changes that stay in memory, over a base that does not change |
 * | {@linkcode FileOverlay} | the same, with the changes in a file that lasts |
 * | {@linkcode faults} | a disk that goes wrong by rules |
 * | {@linkcode trace} | every request and answer written down; {@linkcode replayTrace} does it again |
 * | {@linkcode latency} | a disk that is slow, or slow at times |
 * | {@linkcode readahead} | reads in sequence answered from memory |
 * | {@linkcode protect} | ranges that must not be changed |
 * | {@linkcode observe} | counters and a heat map, for the disk and for ranges |
 * | {@linkcode verify} | two disks that must agree |
 *
 * @module
 */

export * from "./fault_rule_text.ts";
export {
  type FaultEffect,
  type FaultKind,
  type FaultRule,
} from "./fault_rule.ts";
export { FAULT_WORDS, type FaultWord } from "./fault_words.ts";
export * from "./faults.ts";
export * from "./latency.ts";
export { Layer, type LayerOptions } from "./layer.ts";
export type { NamedRange } from "./named_range.ts";
export * from "./observe.ts";
export type { DiskOperation } from "./operations.ts";
export * from "./overlay.ts";
export {
  FileOverlay,
  type OpenOverlayFile,
  type OverlayFileOptions,
} from "./file_overlay.ts";
export * from "./protect.ts";
export * from "./readahead.ts";
export * from "./replay.ts";
export type { SectorRange } from "../geometry.ts";
export * from "./trace.ts";
export * from "./verify.ts";
