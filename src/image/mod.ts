/**
 * What is on a disk: its partitions, by GPT or MBR.
 *
 * @module
 */

export {
  type ByteReadResult,
  ByteView,
  type ByteWriteResult,
} from "./byte_view.ts";
export type {
  Partition,
  PartitionProblem,
  PartitionProblemKind,
  PartitionTable,
  PartitionTableKind,
} from "./partition_table.ts";
export { partitionTypeName } from "./partition_types.ts";
