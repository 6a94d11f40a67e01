/**
 * What a table of partitions is, once it has been read: plain data, the same
 * for GPT and MBR.
 *
 * @module
 */

/** What kind of table a disk has. */
export type PartitionTableKind = "gpt" | "mbr" | "none";

/** One partition of a table. Places and lengths are in sectors of 512 bytes. */
export interface Partition {
  /**
   * Its number, as Linux counts: the place of its entry, from 1 on; logical
   * partitions of an MBR from 5 on.
   */
  readonly number: number;
  /** First sector. */
  readonly start: number;
  /** Sectors. */
  readonly sectors: number;
  /** GPT: its type's GUID in upper case. MBR: its type byte, as `"0x83"`. */
  readonly type: string;
  /** What the type is called, if it is a well-known one. */
  readonly typeName: string | undefined;
  /** The name that it was given; `""` if none was, and always in an MBR. */
  readonly name: string;
  /** Its own GUID, in upper case; `undefined` in an MBR. */
  readonly guid: string | undefined;
  /**
   * GPT: the 64 attribute bits, as a number in hexadecimal digits that `BigInt`
   * reads (UEFI 2.10, table 5.8: bit 0 required, bit 1 no block I/O protocol,
   * bit 2 legacy boot; bits 48 to 63 as the type defines). MBR: the boot
   * indicator, `"0x80"` or `"0x0"`.
   */
  readonly attributes: string;
  /** Whether legacy firmware boots from it: GPT's bit 2, or MBR's active one. */
  readonly bootable: boolean;
  /**
   * Where its entry stands: `"logical"` and `"extended"` only in an MBR. An
   * extended partition holds logical ones and no data of its own.
   */
  readonly role: "primary" | "extended" | "logical";
}

/**
 * What is wrong with a table.
 *
 * | kind | meaning |
 * | --- | --- |
 * | `primary` | the primary copy of a GPT is damaged or cannot be read |
 * | `backup` | the backup copy is damaged, missing or cannot be read |
 * | `copies-differ` | both copies are sound and do not say the same |
 * | `backup-place` | the backup is not at the end of the disk, which may have grown |
 * | `protective-mbr` | the protective MBR is missing or wrong |
 * | `hybrid-mbr` | the protective MBR lists partitions of its own as well, or some that the GPT does not list |
 * | `stale-gpt` | a GPT is left over that the MBR does not point to |
 * | `sector-size` | the table was made for sectors of another size |
 * | `header` | a field of a header is not as the specification wants it |
 * | `entry` | an entry cannot be a partition, and is not listed |
 * | `outside` | a partition is not all on the disk, or not where partitions may be |
 * | `overlap` | two partitions, or a partition and the table, share sectors |
 * | `alignment` | a partition does not start on a physical block |
 * | `duplicate` | two partitions have one GUID |
 * | `chain` | the chain of logical partitions is broken, loops or is too long |
 */
export type PartitionProblemKind =
  | "primary"
  | "backup"
  | "copies-differ"
  | "backup-place"
  | "protective-mbr"
  | "hybrid-mbr"
  | "stale-gpt"
  | "sector-size"
  | "header"
  | "entry"
  | "outside"
  | "overlap"
  | "alignment"
  | "duplicate"
  | "chain";

/** One thing that is wrong with a table. */
export interface PartitionProblem {
  /** What it is: switch on this. */
  readonly kind: PartitionProblemKind;
  /** A sentence without a final period. */
  readonly message: string;
  /** The numbers of the partitions that it is about; none if it is the table. */
  readonly partitions: readonly number[];
}

/** The table of a disk. */
export interface PartitionTable {
  /** What kind it is; `"none"` if there is none. */
  readonly kind: PartitionTableKind;
  /** Bytes of a sector, as the table counts them. */
  readonly sectorSize: number;
  /** GPT: the disk's GUID. MBR: its signature, as `"0x1234abcd"`. */
  readonly id: string | undefined;
  /**
   * Which copy of a GPT this is; `null` if neither can be used, and there are no
   * partitions then. `undefined` if it is no GPT.
   */
  readonly copy: "primary" | "backup" | null | undefined;
  /** Where partitions may be, in sectors of 512 bytes. */
  readonly usable: { readonly start: number; readonly sectors: number };
  /** Its partitions, by number. */
  readonly partitions: readonly Partition[];
  /** What is wrong with it; nothing if it is sound. */
  readonly problems: readonly PartitionProblem[];
}
