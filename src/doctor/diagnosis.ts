/**
 * What a diagnosis says, as plain data: what `platter doctor --json` prints, and
 * what a bug report quotes.
 *
 * @module
 */

import type { DiskInfo } from "../disk/disk.ts";

/** How much of something there is here. */
export type Verdict =
  /** All that there can be. */
  | "good"
  /** Something, though more is to be had elsewhere: see the reason. */
  | "limited"
  /** Nothing. */
  | "missing"
  /** A trial found something else than `disk.info` says: a fault. */
  | "wrong"
  /** It could not be found out. */
  | "unknown";

/** One thing that was looked at. */
export interface Finding {
  /** How much of it there is. */
  readonly verdict: Verdict;
  /** What there is, in a few words, such as `"yes, by O_DIRECT"`. */
  readonly answer: string;
  /** By whose word: a trial, the kernel, what is known; `null` if by nobody's. */
  readonly basis: string | null;
  /** Why it is not better; `null` if it is good. */
  readonly reason: string | null;
  /** What would mend it, such as a line for a shell; `null` if nothing is known to. */
  readonly remedy: string | null;
}

/** What is looked at. What cannot be, for lack of a scratch file, is not there. */
export type Subject =
  /** Whether a scratch file could be made there. */
  | "scratch"
  /** By FFI, or portable. */
  | "backend"
  /** How the backend talks to the kernel. */
  | "engine"
  /** Whether I/O passes by the operating system's cache. */
  | "direct"
  /** What the host demands of memory, offsets and lengths. */
  | "alignment"
  /** What a completed flush reaches. */
  | "flush"
  /** How a single durable write is made. */
  | "fua"
  /** Whether a second writer is kept out. */
  | "lock"
  /** Whether a range that is made zero reads as zeroes. */
  | "zero"
  /** Whether the space of a range can be given back. */
  | "discard"
  /** TCP, over loop-back. */
  | "tcp"
  /** Unix sockets, in that folder. */
  | "unix";

/** A program of others, or a device, that something here needs. */
export interface Tool {
  /** Its name, such as `"qemu-nbd"`. */
  readonly name: string;
  /** Whether it can be used: `"limited"` if it is there and cannot be. */
  readonly verdict: Verdict;
  /** Where it is; `null` if it was not found. */
  readonly path: string | null;
  /** What it is for. */
  readonly purpose: string;
  /** Why it cannot be used though it is there; `null` if it is not, or can be. */
  readonly reason: string | null;
  /** What would bring it, or the permission to use it; `null` if nothing is known to. */
  readonly remedy: string | null;
}

/** What the runtime lets this program do, by the names of Deno's permissions. */
export interface GrantedPermissions {
  /** Reading files. */
  readonly read: string;
  /** Writing files. */
  readonly write: string;
  /** Calling foreign functions: the direct backend. */
  readonly ffi: string;
  /** Sockets. */
  readonly net: string;
  /** Running programs. */
  readonly run: string;
  /** Environment variables. */
  readonly env: string;
  /** Facts about the system. */
  readonly sys: string;
}

/** What a machine, a runtime, its permissions and a file system give. */
export interface Diagnosis {
  /**
   * Version of this form. New keys may come without a new number; what is there
   * keeps its meaning.
   */
  readonly form: 1;
  /** Version of this package. */
  readonly platter: string;
  /** What runs it. */
  readonly runtime: {
    /** `"Deno"`, `"Node.js"` or `"Bun"`. */
    readonly name: string;
    /** Its version. */
    readonly version: string;
    /** The operating system, as in `Deno.build.os`. */
    readonly os: string;
    /** The architecture, as in `Deno.build.arch`. */
    readonly arch: string;
    /** The kernel's release; `null` without `--allow-sys=osRelease`. */
    readonly kernel: string | null;
    /** Processors. */
    readonly processors: number;
  };
  /**
   * `"granted"`, `"partial"` (for some paths, hosts or names, or all but some),
   * `"prompt"` (asked for when it is needed) or `"denied"`.
   */
  readonly permissions: GrantedPermissions;
  /** What was asked about, as it was given. */
  readonly path: string;
  /**
   * What the findings are of: a scratch file beside it, or, where there can be
   * none, the image or device itself, only looked at; `null` if neither.
   */
  readonly of: "scratch file" | "image" | null;
  /** What `disk.info` says of that; `null` if it could not be opened. */
  readonly disk: DiskInfo | null;
  /** What was found, in the order of importance. */
  readonly findings: { readonly [S in Subject]?: Finding };
  /** Programs and devices; `null` if they may not be looked for. */
  readonly tools: readonly Tool[] | null;
}
