/**
 * A vhost-user-blk server over a disk: where it listens, its front ends one
 * after the other, and an end in good order.
 *
 * @module
 */

import { lstatSync, unlinkSync } from "node:fs";
import { errnoName } from "../../ffi/abi.ts";
import { FfiError } from "../../ffi/ffi_error.ts";
import { closeOffThread } from "../../ffi/foreign_descriptor.ts";
import { type Libc, openLibc } from "../../ffi/libc.ts";
import {
  acceptUnix,
  listenUnix,
  MAX_SOCKET_PATH_BYTES,
} from "../../ffi/unix_socket.ts";
import { VirtualDisk } from "../disk/disk.ts";
import { errnoText } from "../errno.ts";
import { DiskError, kindOfCode } from "../errors.ts";
import { keepOnThread } from "../one_thread.ts";
import { permissions } from "../platform/permissions.ts";
import { tell } from "../throw_later.ts";
import { refuseGrace } from "../timer_ms.ts";
import { BouncePool } from "./bounce_pool.ts";
import { noCounts, type VhostCounters } from "./counters.ts";
import { FrontEnd } from "./front_end.ts";
import { VhostProtocolError } from "./messages.ts";
import { PollWatcher } from "./poll_watcher.ts";
import { RingWatcher } from "./ring_watcher.ts";
import { MAX_QUEUES } from "./virtqueue.ts";
import type { Watched, Watcher } from "./watcher.ts";

/** How a server is set up. */
export interface VhostServerOptions {
  /** The disk to serve. */
  disk: VirtualDisk;
  /** Where to listen: the path of a Unix socket, which must not exist yet. */
  path: string;
  /**
   * Whether writes are refused, although the disk may take them.
   *
   * @default {false}
   */
  readOnly?: boolean | undefined;
  /**
   * Request queues that a driver may use, up to 64. QEMU wants as many as its
   * `num-queues`, which is the number of processors unless it is given.
   *
   * @default {16}
   */
  queues?: number | undefined;
  /**
   * Whether to stop with the first front end: once one has gone that had begun to
   * use the disk.
   *
   * @default {false}
   */
  once?: boolean | undefined;
  /**
   * Hears of what a driver or a front end did wrong, when a ring is stopped or
   * the front end is sent away for it.
   */
  onError?: ((error: Error) => void) | undefined;
}

/**
 * A server that shows a disk to virtual machines as their virtio disk, over
 * vhost-user: QEMU, Cloud Hypervisor, User Mode Linux. It closes no disk. Linux
 * only, and with `--allow-ffi`.
 *
 * One front end is served at a time; the next one waits until it has gone. What
 * a guest or a front end does wrong stops the ring, or the connection, and
 * nothing else.
 *
 * @example A disk in memory, for QEMU
 * ```ts
 * import { VirtualDisk } from "@platter/disk";
 * import { VhostServer } from "@platter/disk/vhost";
 *
 * const path = `${await Deno.makeTempDir()}/disk.sock`;
 * await using disk = VirtualDisk.memory({ size: "64MiB" });
 * await using server = VhostServer.listen({ path, disk });
 * console.log(server.path);
 * ```
 */
export class VhostServer implements AsyncDisposable {
  readonly #libc: Libc;
  readonly #options: VhostServerOptions;
  readonly #watcher: Watcher;
  readonly #listener: number;
  readonly #watched: Watched;
  readonly #identity: string;
  readonly #bounces = new BouncePool();
  readonly #counters: VhostCounters = noCounts();
  readonly #finished = Promise.withResolvers<void>();
  readonly #forget: () => void;
  #frontEnd: FrontEnd | null = null;
  #closing: Promise<void> | null = null;
  #retry: ReturnType<typeof setTimeout> | undefined;

  private constructor(options: VhostServerOptions) {
    keepOnThread(this, "a VhostServer");
    const { path, queues = 16 } = options;
    if (!Number.isInteger(queues) || queues < 1 || queues > MAX_QUEUES) {
      throw new RangeError(
        `Cannot serve as queues must be an integer from 1 to ${MAX_QUEUES}: current value is ${queues}`,
      );
    }
    checkSocketPath(path);
    VirtualDisk.refuseClosed("serve", options.disk);
    this.#options = options;
    this.#libc = loadLibc(path);
    askForPath(path);
    const listener = listenUnix(this.#libc, path);
    if (listener < 0) throw osError(this.#libc, path, -listener);
    this.#listener = listener;
    this.#identity = identify(path);
    // After what is most likely refused: it takes a while to be closed.
    const watcher = RingWatcher.open(this.#libc) ??
      PollWatcher.open(this.#libc);
    if (watcher === null) {
      void closeOffThread(this.#libc, [listener]);
      this.#removeName();
      throw noWatcher(path);
    }
    this.#watcher = watcher;
    this.#watched = watcher.socket(listener, () => this.#accept());
    this.#forget = options.disk.onResized(() => this.announceConfig());
    this.#listen();
  }

  /**
   * Begins to serve.
   *
   * @param options What to serve, and where.
   * @returns The server.
   * @throws {RangeError} If an option is out of its range, or the path too long.
   * @throws {DiskError} With kind `closed` if the disk is, `exists` if there is
   * something of that name, `permission` if Deno or the system says no,
   * `platform` where there is no vhost-user.
   */
  static listen(options: VhostServerOptions): VhostServer {
    return new VhostServer(options);
  }

  /** The path of the socket that it listens at. */
  get path(): string {
    return this.#options.path;
  }

  /** Whether guests cannot write. */
  get readOnly(): boolean {
    const { readOnly = false, disk } = this.#options;
    return readOnly || disk.readOnly;
  }

  /** What was counted so far, of all front ends together. */
  get counters(): Readonly<VhostCounters> {
    return this.#counters;
  }

  /** Whether there is a front end now. */
  get attached(): boolean {
    return this.#frontEnd !== null;
  }

  /** When it has stopped, whoever stopped it. */
  get finished(): Promise<void> {
    return this.#finished.promise;
  }

  /**
   * Tells the front end that the disk has changed in what it says of itself, so
   * that it asks again. QEMU hands on a new capacity to its guest, and nothing
   * else. When the disk is resized this is done by itself.
   */
  announceConfig(): void {
    this.#frontEnd?.announceConfig();
  }

  /**
   * Stops listening and sends the front end away; what its guest asked for is
   * done, but no longer answered: a guest should be shut down first. It flushes
   * nothing and closes no disk. The socket's name is removed, if it still is this
   * server's. Idempotent.
   *
   * @param graceMs The longest to wait for the disk, in ms; requests that it has
   * not answered by then are left to it.
   * @returns When it is done.
   * @throws {RangeError} If no timer can wait for so long: then it goes on.
   */
  close(graceMs: number = 5000): Promise<void> {
    if (this.#closing === null) {
      const refused = refuseGrace(graceMs);
      if (refused !== null) return Promise.reject(refused);
      this.#closing = this.#close(graceMs);
      this.#closing.catch(() => {}).then(this.#finished.resolve);
    }
    return this.#closing;
  }

  /** Stops, for `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #close(graceMs: number): Promise<void> {
    clearTimeout(this.#retry);
    this.#forget();
    this.#watched.close();
    // With it go connections that nobody has accepted, and what they have sent.
    const closed = closeOffThread(this.#libc, [this.#listener]);
    this.#removeName();
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, graceMs);
    });
    void this.#frontEnd?.end();
    await Promise.race([Promise.all([closed, this.#frontEnd?.ended]), late]);
    clearTimeout(timer);
    await this.#watcher.close();
  }

  /** Removes the socket's name, if it still is this server's. */
  #removeName(): void {
    try {
      if (identify(this.path) === this.#identity) unlinkSync(this.path);
    } catch {
      // The name stays, as a folder may have been closed to us meanwhile.
    }
  }

  #listen(): void {
    this.#watched.arm();
    this.#watcher.flush();
  }

  #listenLater(): void {
    this.#retry = setTimeout(() => this.#listen(), RETRY_MS);
  }

  #accept(): void {
    const fd = acceptUnix(this.#libc, this.#listener);
    const { EAGAIN, EINTR } = this.#libc.abi.errno;
    if (fd === -EAGAIN || fd === -EINTR) return this.#listen();
    // Whoever came is gone again, or descriptors are short for the moment.
    if (fd < 0) return this.#listenLater();
    this.#counters.frontEnds++;
    const { disk, readOnly = false, queues = 16, onError } = this.#options;
    let frontEnd: FrontEnd;
    try {
      frontEnd = new FrontEnd(fd, {
        libc: this.#libc,
        watcher: this.#watcher,
        disk,
        readOnly,
        queues,
        bounces: this.#bounces,
        counters: this.#counters,
        onError: (error) => tell(onError, error),
      });
    } catch (error) {
      // There is no room to watch one more descriptor.
      void closeOffThread(this.#libc, [fd]);
      tell(onError, error as Error);
      return this.#listenLater();
    }
    this.#frontEnd = frontEnd;
    const handshake = setTimeout(() => {
      if (frontEnd.attached) return;
      void frontEnd.end(
        new VhostProtocolError(
          `Cannot wait for a front end that has not begun after ${HANDSHAKE_MS} ms`,
        ),
      );
    }, HANDSHAKE_MS);
    frontEnd.ended.then(() => {
      clearTimeout(handshake);
      this.#frontEnd = null;
      if (this.#closing !== null) return;
      if (this.#options.once && frontEnd.attached) void this.close();
      else this.#listen();
    });
  }
}

/**
 * How long a front end may take until it begins, in ms: others wait for it to go.
 */
const HANDSHAKE_MS = 10_000;

/** How long to wait when a connection could not be accepted, in ms. */
const RETRY_MS = 100;

/**
 * Checks whether a socket can have a path.
 *
 * @param path The path.
 * @returns The path.
 * @throws {RangeError} If it cannot.
 */
export function checkSocketPath(path: string): string {
  const bytes = new TextEncoder().encode(path);
  if (
    bytes.length > 0 && bytes.length <= MAX_SOCKET_PATH_BYTES &&
    !bytes.includes(0)
  ) return path;
  throw new RangeError(
    `Cannot listen at a path as it must have from 1 to ${MAX_SOCKET_PATH_BYTES} bytes, none of them 0: current value has ${bytes.length}`,
  );
}

function loadLibc(path: string): Libc {
  try {
    return openLibc();
  } catch (cause) {
    if (!(cause instanceof FfiError)) throw cause;
    throw new DiskError(
      cause.kind === "permission" ? "permission" : "platform",
      `Cannot serve at "${path}": ${cause.message}`,
      { operation: "serve", path, cause },
    );
  }
}

/** Asks for what `Deno.listen` would: FFI is no way around it. */
function askForPath(path: string): void {
  for (const name of ["read", "write"] as const) {
    const { state } = permissions.requestSync({ name, path });
    if (state === "granted") continue;
    throw new DiskError(
      "permission",
      `Cannot serve at "${path}" as --allow-${name} is not granted for it`,
      { operation: "serve", path },
    );
  }
}

/** Which file it is that has a name now; empty if there is none. */
function identify(path: string): string {
  try {
    const { dev, ino } = lstatSync(path);
    return `${dev} ${ino}`;
  } catch {
    return "";
  }
}

function noWatcher(path: string): DiskError {
  return new DiskError(
    "platform",
    `Cannot serve at "${path}" as this is not Linux, it has neither io_uring nor AIO, or there are no descriptors left`,
    { operation: "serve", path },
  );
}

function osError(libc: Libc, path: string, errno: number): DiskError {
  // Not Linux: there is no such call.
  if (errno === libc.abi.errno.ENOSYS) return noWatcher(path);
  const code = errnoName(libc.abi, errno);
  const inUse = code === "EADDRINUSE";
  const reason = inUse
    ? "there is something of that name"
    : `the system says ${code}: ${
      errnoText(code) ?? "an error without a text"
    }`;
  return new DiskError(
    inUse ? "exists" : kindOfCode(code),
    `Cannot serve at "${path}" as ${reason}`,
    { operation: "serve", path, errno, code },
  );
}
