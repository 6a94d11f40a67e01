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
