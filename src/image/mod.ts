/**
 * What is on a disk: its partitions, by GPT or MBR.
 *
 * @module
 */

export type {
  Partition,
  PartitionProblem,
  PartitionProblemKind,
  PartitionTable,
  PartitionTableKind,
} from "./partition_table.ts";
export { partitionTypeName } from "./partition_types.ts";
export {
  type Bmap,
  type BmapChecksumType,
  type BmapRange,
  formatBmap,
  parseBmap,
} from "./bmap.ts";
export { makeBmap, type MakeBmapOptions } from "./make_bmap.ts";
export { rescueDisk, type RescueOptions } from "./rescue.ts";
export {
  type RescueBlock,
  RescueMap,
  type RescuePhase,
  RescueStatus,
} from "./rescue_map.ts";
