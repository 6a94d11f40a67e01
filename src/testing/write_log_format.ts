/**
 * The format of the log of Linux's dm-log-writes target, which QEMU's
 * `blklogwrites` driver writes as well. It is read as a recording
 * (`write_log_reader.ts`), and written from one (`write_log_writer.ts`).
 *
 * The layout (Linux `drivers/md/dm-log-writes.c`, QEMU `block/blklogwrites.c`;
 * everything is little-endian, and a sector is one of the log's own, of a size
 * that its superblock says):
 *
 * | where | what |
 * | --- | --- |
 * | sector 0 | u64 magic, u64 version 1, u64 entries, u32 sector size |
 * | then, for each entry | one sector: u64 sector, u64 sectors, u64 flags, u64 length of the text of a mark, which follows |
 * | | its data, unless it is a discard |
 *
 * A log has writes in an order in which they may have reached the medium, not
 * in that in which they were submitted: what completed before a flush was
 * submitted is before the flush, what is durable by itself (FUA) is where it
 * completed, and all else is behind the next flush. So what is before a flush
 * is durable with it, and that is all that a recording needs. A flush with data
 * is a flush, and then a write. A durable discard has both flags: the target
 * writes such a pair, and players look at that of the discard.
 *
 * @module
 */

/** `WRITE_LOG_MAGIC`. */
export const MAGIC = 0x6a736677736872n;
/** `WRITE_LOG_VERSION`. */
export const VERSION = 1n;
/** Bytes of `struct log_write_super`. */
export const SUPER_BYTES = 28;
/** Bytes of `struct log_write_entry`. */
export const ENTRY_BYTES = 32;

/** `LOG_FLUSH_FLAG`. */
export const FLUSH = 1;
/** `LOG_FUA_FLAG`. */
export const FUA = 2;
/** `LOG_DISCARD_FLAG`. */
export const DISCARD = 4;
/** `LOG_MARK_FLAG`. */
export const MARK = 8;
/** `LOG_METADATA_FLAG`. */
const METADATA = 16;
/** All flags that there are. */
export const ALL_FLAGS = FLUSH | FUA | DISCARD | MARK | METADATA;

/**
 * The mark that the target itself writes when it is removed, as the last one. An
 * earlier one is a text that was acknowledged.
 */
export const END_MARK = "dm-log-writes-end";

/**
 * The mark of `recorder.start()`: what is before the first one was there before.
 * A later one is a text that was acknowledged.
 */
export const START_MARK = "platter-start";

/** Bytes of data that are looked at and copied at once. */
export const PIECE_BYTES = 1 << 20;
