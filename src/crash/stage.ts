/**
 * Stages: how a command of somebody else's reaches a disk of ours. A stage
 * attaches a disk, runs commands that use it, and takes it away again; it knows
 * nothing of recordings, states or verdicts.
 *
 * Two kinds of disks come along. While the workload is recorded, it is a backend
 * that logs what reaches it: a stage serves it and hands over a path, a device,
 * a mounted folder or a URI. When a state is checked, it is what the power cut
 * left: a private file of the host where the stage can use one (cheaper, as
 * nothing is served), else a backend again. What a check writes there is thrown
 * away by whoever made it.
 *
 * @module
 */

import type { Backend } from "../backend.ts";

/** The stages by name. */
export type StageName = "raw" | "host" | "uml" | "qemu";

/**
 * As what a command gets the disk: a folder where its file system is mounted, a
 * file, a block device, or the URI of an NBD server.
 */
export type AttachAs = "mount" | "image" | "device" | "nbd";

/** A disk that is to be attached. */
export type AttachedDisk =
  | {
    /** What serves it. It may be closed when it is detached. */
    readonly backend: Backend;
  }
  | {
    /** The path of a raw image that nobody else uses meanwhile. */
    readonly file: string;
    /**
     * Logical block size of the device that it becomes, in bytes: that of the
     * disk which the workload had.
     *
     * @default {512}
     */
    readonly blockSize?: number | undefined;
  };

/** What is asked of a stage for all disks that it is given. */
export interface StageOptions {
  /** As what commands get the disk. */
  readonly on: AttachAs;
  /** The type that `mount` and `mkfs` know, or `null`: nothing is mounted. */
  readonly fileSystem: string | null;
  /** Options of the mount, such as `"data=journal"`. */
  readonly mountOptions?: string | undefined;
}

/** How to attach one disk. */
export interface AttachOptions extends StageOptions {
  /**
   * An existing folder for this attachment alone: sockets, mount points, files
   * of acknowledgements. It is removed by the caller after the disk is detached.
   */
  readonly directory: string;
  /** Which of the checks that run side by side this is for, from 0. */
  readonly job: number;
  /** Gives up attaching. */
  readonly signal?: AbortSignal | undefined;
}

/**
 * A stage: see the head of this file.
 *
 * `attach` throws if the stage itself fails: no free loop device, a guest that
 * does not boot. That is no verdict on the disk.
 */
export interface Stage {
  /** What it is called. */
  readonly name: StageName;
  /** As what it can attach a disk; the first without a file system. */
  readonly ways: readonly AttachAs[];

  /**
   * Finds out whether this can work here.
   *
   * @param options What will be asked of it.
   * @returns If nothing is missing.
   * @throws {Error} If something is: names all of it, with the Debian package
   * of each program and the right that is lacking.
   */
  require(options: StageOptions): Promise<void>;

  /**
   * In which form it wants a state that is to be checked. A backend is always
   * taken: it is what a workload is recorded on.
   *
   * @param on As what it will be attached.
   * @returns `"file"` if a file of the host is cheaper.
   */
  wants(on: AttachAs): "file" | "backend";

  /**
   * Attaches a disk. Nothing is left of it if this fails or is given up.
   *
   * @param disk The disk.
   * @param options How, and where there is room for what that takes.
   * @returns The disk, for commands.
   */
  attach(disk: AttachedDisk, options: AttachOptions): Promise<Attached>;

  /**
   * Ends what it keeps between two disks, such as a guest. Whoever made the stage
   * calls this when no disk is attached any more.
   */
  end?(): Promise<void>;
}

/**
 * A disk that is attached. To dispose of it unmounts and detaches it, kills what
 * its commands left running, and waits until the kernels that had it say that it
 * is gone: by then, all that they wrote has reached the backend or the file.
 */
export interface Attached extends AsyncDisposable {
  /**
   * Where commands find the disk, as they see it: one of `PLATTER_DIR`,
   * `PLATTER_IMAGE`, `PLATTER_DEVICE` and `PLATTER_NBD`, and what is below it
   * where that can be used as well.
   */
  readonly environment: Readonly<Record<string, string>>;

  /**
   * Runs a command by `sh -c` and waits until it ends. What it leaves running
   * is killed. A file system that cannot be mounted is an outcome: the code and
   * the output are those of `mount`.
   *
   * @param command The command line.
   * @param options What it gets, and how long it may take.
   * @returns How it ended.
   * @throws {Error} If the stage fails.
   * @throws The reason of the signal, if that is aborted; nothing runs then.
   */
  run(command: string, options: RunOptions): Promise<RunOutcome>;
}

/** How to run a command. */
export interface RunOptions {
  /** Variables for it, beside where the disk is. */
  readonly environment?: Readonly<Record<string, string>> | undefined;
  /**
   * What had been promised when the power failed: lines for a file whose path
   * is in `PLATTER_ACKED`. Without it there is no such variable.
   */
  readonly acknowledged?: readonly string[] | undefined;
  /**
   * Told each acknowledgement, in order, before the command ends: lines that it
   * writes to the descriptor numbered in `PLATTER_ACK`, or that match
   * {@linkcode ackPattern}. It may come late, never early: whatever the disk had
   * completed when the line was written, it completed before this is called.
   */
  readonly onAcknowledge?: ((line: string) => void) | undefined;
  /**
   * Which lines of standard output are acknowledgements. The first group is
   * what is acknowledged; the whole line if there is none.
   *
   * @default {/^ACK(?: (.*))?$/}
   */
  readonly ackPattern?: RegExp | undefined;
  /**
   * Whether it gets namespaces of its own for processes, System V objects and
   * mounts, where that is allowed: a process number in a file that it finds on
   * the disk is then nobody's.
   */
  readonly isolated: boolean;
  /** Milliseconds after which it is killed with all its children. */
  readonly timeoutMs?: number | undefined;
  /** Kills it. */
  readonly signal?: AbortSignal | undefined;
}

/** How a command ended. */
export interface RunOutcome {
  /** What it exited with; 128 and the signal's number if one killed it. */
  readonly code: number;
  /**
   * What it printed to both streams, as it came. Of a long output the beginning
   * and the end.
   */
  readonly output: string;
  /** Whether it was killed as its time was over. */
  readonly timedOut: boolean;
}
