/**
 * What is on a disk: its partitions, by GPT or MBR ({@linkcode readPartitions} is
 * where to start), and its bytes, as file-system libraries of npm want them
 * ({@linkcode ByteView}).
 *
 * Maps beside images are read and written, too: which blocks have data
 * ({@linkcode parseBmap}, {@linkcode makeBmap}), and which sectors of a failing disk
 * were read ({@linkcode RescueMap}, {@linkcode rescueDisk}).
 *
 * @module
 */

export {
  type ByteReadResult,
  ByteView,
  type ByteWriteResult,
} from "./byte_view.ts";
export { openPartition } from "./open_partition.ts";
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
export type { NewPartition } from "./plan_partitions.ts";
export { readPartitions } from "./read_partitions.ts";
export {
  type RepairedPartitions,
  repairPartitions,
  type RepairPartitionsOptions,
} from "./repair_partitions.ts";
export {
  writePartitions,
  type WritePartitionsOptions,
} from "./write_partitions.ts";
