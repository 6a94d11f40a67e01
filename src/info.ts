/**
 * What a disk is and why, as plain data (it survives `JSON.stringify`): the
 * place to look when direct I/O did not happen, or to learn what a flush gives.
 *
 * @module
 */

/** Where the bytes of a completed flush are, as far as the system says. */
export type FlushReach =
  /** On the medium, or in a cache that the device declares safe. */
  | "media"
  /** In the device, maybe in a cache that a power cut empties. */
  | "device cache"
  /** In the operating system's memory: a power cut loses them. */
  | "page cache"
  /** In this process' memory. */
  | "memory"
  /** Not known from here (network and user-space file systems). */
  | "unknown";

/** Whether the operating system's cache is passed by, and how that is known. */
export interface DirectInfo {
  /** Whether I/O is direct. */
  readonly active: boolean;
  /**
   * How it was obtained (`"O_DIRECT"`, `"F_NOCACHE"`, `"FILE_FLAG_NO_BUFFERING"`);
   * `null` if it was not.
   */
  readonly method: string | null;
  /** Why it is not active, or what limits it; `null` if nothing does. */
  readonly reason: string | null;
  /** What the host demands of memory addresses, in bytes. */
  readonly memoryAlignment: number;
  /** What the host demands of offsets and lengths of writes, in bytes. */
  readonly offsetAlignment: number;
  /** What the host demands of offsets and lengths of reads, in bytes. */
  readonly readOffsetAlignment: number;
  /**
   * Who said so: `"statx"`, `"ioctl"`, `"trial reads"`, `"volume"`, `"assumed"`,
   * `"none"`.
   */
  readonly alignmentSource: string;
}

/** What completes when a flush does. */
export interface DurabilityInfo {
  /** What a completed flush reaches. */
  readonly flush: FlushReach;
  /** The call that flushes (`"fdatasync"`, `"F_FULLFSYNC"`, …). */
  readonly method: string;
  /** The device's cache: `"write back"`, `"write through"`, `"unknown"`. */
  readonly deviceCache: string;
  /** How a FUA write is made durable (`"RWF_DSYNC"`, `"write + fdatasync"`). */
  readonly fua: string;
  /** What weakens or limits this; `null` if nothing is known to. */
  readonly reason: string | null;
}

/**
 * How the backend talks to the kernel. An engine that breaks in use is followed
 * by `"sync"`, and the reason says so.
 */
export interface EngineInfo {
  /** `"sync"`, `"libaio"`, `"io_uring"`, `"iocp"`, `"node:fs"`, `"memory"`, …. */
  readonly name: string;
  /** Why this one, and why not a better one; `null` if there is none. */
  readonly reason: string | null;
}

/** How the image is kept from a second writer. */
export interface LockInfo {
  /**
   * `"OFD"`, `"flock"`, `"none"`; on Windows `"share mode"`, `"LockFileEx"`,
   * `"FSCTL_LOCK_VOLUME"`.
   */
  readonly method: string;
  /** Why it is weaker than it should be; `null` if it is not. */
  readonly reason: string | null;
}

/** A file beside the image that its disk takes sectors from. */
export interface OtherFile {
  /** What it is to the image. */
  readonly role: "backing file" | "data file" | "extent" | "overlay";
  /**
   * Its name, as the image has it: whoever made the image chose it. Of an overlay
   * the path that it was opened by.
   */
  readonly name: string;
  /** Where that leads: a name is seen from the folder of the image that has it. */
  readonly path: string;
  /** Its format, as the image has it; `null` if it does not say. */
  readonly format: string | null;
}

/** What a backend is and why. */
export interface BackendInfo {
  /** `"direct"`, `"portable"`, `"memory"`, or a layer's name. */
  readonly backend: string;
  /** The image's path; `null` if there is none. */
  readonly path: string | null;
  /** `"file"`, `"block device"`, `"character device"`, `"memory"`. */
  readonly medium: string;
  /** The file system's or driver's name; `null` if not known. */
  readonly fileSystem: string | null;
  /** How it talks to the kernel. */
  readonly engine: EngineInfo;
  /** Whether I/O is direct. */
  readonly direct: DirectInfo;
  /** What a flush gives. */
  readonly durability: DurabilityInfo;
  /** How the image is locked. */
  readonly lock: LockInfo;
  /**
   * What the image was opened as, such as `"raw"` or `"qcow2"`. Not there where
   * there is no image.
   */
  readonly format?: string;
  /**
   * The files that a container takes sectors from, or names them as its own; and
   * those of overlays. Not there where an image was opened as raw.
   */
  readonly otherFiles?: readonly OtherFile[];
  /**
   * The format that the content has the signature of, such as `"qcow2"`, though
   * it is taken as raw; `null` if it has none that is known. Not there where
   * nobody looked.
   */
  readonly contentFormat?: string | null;
  /**
   * What should be known before the disk is used: sentences without a final
   * period. Not there where nobody looked.
   */
  readonly warnings?: readonly string[];
  /** What the disk says of itself to GET_ID: up to 20 ASCII characters. */
  readonly id: string;
}
