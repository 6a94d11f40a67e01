/**
 * What the thread that has a disk and the worker that runs 7-Zip say to each
 * other. 7-Zip is a program that blocks, and a disk is one that does not: so the
 * worker sleeps in shared memory while the disk is read, and while nobody takes
 * its output.
 *
 * ```text
 * main    task ───────────────────────────────────────────────▶ worker
 * worker  read { offset, length } ── Reading: 1 ──▶ main
 * main    bytes into shared memory ── Reading: 0 ─▶ worker wakes
 * worker  output { runs, bytes } ── Unread + 1 ───▶ main
 * main    when it is taken ───────── Unread − 1 ──▶ worker wakes
 * worker  done | failed ──────────────────────────▶ main
 * main    Stop: 1, to both words ─────────────────▶ worker wakes and ends
 * ```
 *
 * @module
 */

/** The words of the shared memory, as 32-bit numbers. */
export const Word = {
  /** 1 while the worker waits for a piece of the disk. */
  Reading: 0,
  /** Messages of output that are not taken yet. */
  Unread: 1,
  /** 1 as soon as nothing is wanted of the worker any more. */
  Stop: 2,
} as const;

/** Bytes of those words; what is read of the disk follows. */
export const WORDS_BYTES = 64;

/** The most that is read of the disk at once, in bytes. */
export const READ_BYTES = 1 << 20;

/** What the worker reads and keeps, in bytes: a multiple of every block size. */
export const PIECE_BYTES = 1 << 16;

/** Bytes of one message of output, at most. */
export const OUTPUT_BYTES = 1 << 18;

/** Messages of output that may be there and not taken. */
export const MOST_UNREAD = 8;

/** What the worker is to do, once. */
export interface SevenZipTask {
  /** 7-Zip itself. */
  readonly program: WebAssembly.Module;
  /** 7-Zip's command line. The disk is `/image`. */
  readonly args: readonly string[];
  /** The disk's size in bytes. */
  readonly size: number;
  /** The words, and what is read. */
  readonly shared: SharedArrayBuffer;
}

/** What the worker says. */
export type SevenZipMessage =
  | { readonly kind: "read"; readonly offset: number; readonly length: number }
  | SevenZipOutput
  | { readonly kind: "done"; readonly code: number }
  | {
    readonly kind: "failed";
    readonly reason: string;
    /** Whether 7-Zip had all the memory that it may have. */
    readonly full: boolean;
  };

/** What 7-Zip wrote to its standard output and to its standard error, in order. */
export interface SevenZipOutput {
  /** Always `"output"`. */
  readonly kind: "output";
  /** Lengths in bytes, of standard error and of standard output in turn. */
  readonly runs: readonly number[];
  /** All of it. */
  readonly bytes: Uint8Array;
}
