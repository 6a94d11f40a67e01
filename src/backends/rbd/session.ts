/**
 * A connection to a cluster with one image open: how it comes about, each step
 * with a bound, and how it ends.
 *
 * Calls of librados that wait are made on another thread, and end by librados'
 * own time-outs; images are opened and closed by librbd's own threads, which are
 * looked at now and then. A step that is not over in time is not taken back: it
 * ends when it ends, and what it gives is closed then.
 *
 * @module
 */

import { clearTimeout, setTimeout } from "node:timers";
import { FfiError } from "../../../ffi/ffi_error.ts";
import { type CephLibrary, openCeph } from "../../../ffi/ceph_library.ts";
import { type Libc, openLibc } from "../../../ffi/libc.ts";
import { RadosCluster } from "../../../ffi/rados.ts";
import {
  createRbd,
  RbdImage,
  type RbdTask,
  removeRbd,
} from "../../../ffi/rbd.ts";
import { DiskError, type DiskErrorKind, kindOfCode } from "../../errors.ts";
import { permissions } from "../../platform/permissions.ts";
import { runtime } from "../../platform/system.ts";
import type { RbdTarget } from "../../protocol/rbd/uri.ts";
import { codeOf, librarySays, openError } from "./errors.ts";
import type { RbdOptions } from "./options.ts";

/** How often something that librbd does is looked at, in ms: ever less often. */
const FIRST_LOOK_MS = 1;
const LAST_LOOK_MS = 50;

/** What there is to know of an image that was not made as it should. */
const MAYBE_LEFT =
  "; it may be there in part, or come to be: `rbd rm` removes it";

/** include/uapi/asm-generic/errno.h. */
const ETIMEDOUT = 110;

/** What was opened. */
export interface SessionParts extends Libraries {
  readonly cluster: RadosCluster;
  readonly pool: bigint;
  readonly image: RbdImage;
  /** The image's name, if it was made by this session. */
  readonly made: string | null;
}

/** An open image, its pool and its cluster. */
export class Session {
  readonly #parts: SessionParts;
  /** Whether others can see that the image is open, and it hears of changes. */
  readonly isSeen: boolean;

  /**
   * Constructs a new instance.
   *
   * @param parts What was opened; it closes all of it.
   * @param isSeen Whether it has a watch.
   */
  constructor(parts: SessionParts, isSeen: boolean) {
    this.#parts = parts;
    this.isSeen = isSeen;
  }

  /** The C library. */
  get libc(): Libc {
    return this.#parts.libc;
  }

  /** The connection. */
  get cluster(): RadosCluster {
    return this.#parts.cluster;
  }

  /** The pool's handle. */
  get pool(): bigint {
    return this.#parts.pool;
  }

  /** The image. */
  get image(): RbdImage {
    return this.#parts.image;
  }

  /**
   * Bounds what librbd asks from now on; requests that are in flight already are
   * not touched.
   *
   * @param timeoutMs The bound, in ms; `null` for none.
   */
  bound(timeoutMs: number | null): void {
    this.#parts.cluster.set("rados_osd_op_timeout", seconds(timeoutMs ?? 0));
  }

  /** Gives it up: an image that was made for it is removed again. */
  async abandon(): Promise<void> {
    await this.#close(this.#parts.made);
  }

  /**
   * Closes all of it. What the image still has in flight is waited for: memory of
   * it must stay until this is over, which may be never.
   *
   * @returns What closing the image gave: 0, or −errno.
   */
  close(): Promise<number> {
    return this.#close(null);
  }

  async #close(removes: string | null): Promise<number> {
    const { libc, ceph, cluster, image, pool } = this.#parts;
    try {
      const result = await over(image.close(), true);
      if (removes !== null) await removeRbd(libc, ceph, pool, removes);
      return result;
    } finally {
      cluster.closePool(pool);
      await cluster.shutdown();
    }
  }
}

/** Time-outs of librados count whole seconds; 0 is none. */
function seconds(ms: number): string {
  return String(Math.ceil(ms / 1000));
}

/**
 * Waits until something is over that librbd does.
 *
 * @param task What it is.
 * @param isLastWish Whether the program may end before.
 * @returns What came of it, or −errno.
 */
export async function over<T>(
  task: RbdTask<T>,
  isLastWish = false,
): Promise<T | number> {
  for (let ms = FIRST_LOOK_MS;; ms = Math.min(ms * 2, LAST_LOOK_MS)) {
    const result = task.poll();
    if (result !== null) return result;
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      // A program that is done does not wait for a cluster that is not there.
      if (isLastWish && ms === LAST_LOOK_MS) timer.unref();
    });
  }
}

/** What an opening says and hears on its way. */
export interface Steps {
  /** Throws once nobody waits for it any more. */
  goOn(): void;
  /** It is over, right after `goOn`: now what was opened is to be handed over. */
  arrived(): void;
}

/**
 * Waits for an opening, but not for ever: until a signal fires, or its time is
 * over. What comes of it afterwards is for the opening to undo.
 *
 * @param start Begins it, and calls `arrived` last.
 * @param uri What is opened.
 * @param options What bounds it.
 * @returns What it gave.
 * @throws {DiskError} If it does not end in time, or as it throws.
 */
export async function bounded<T>(
  start: (steps: Steps) => Promise<T>,
  uri: string,
  { openTimeoutMs, signal, create }: RbdOptions,
): Promise<T> {
  signal?.throwIfAborted();
  let isLate = false;
  const given = Promise.withResolvers<never>();
  const giveUp = (reason: unknown) => {
    isLate = true;
    given.reject(reason);
  };
  const timer = setTimeout(() => {
    const reason = `the cluster has not answered for ${openTimeoutMs} ms`;
    giveUp(
      create === undefined
        ? openError(uri, reason, -ETIMEDOUT)
        : madeError(uri, reason + MAYBE_LEFT, -ETIMEDOUT),
    );
  }, openTimeoutMs);
  const onAbort = () => giveUp(signal!.reason);
  signal?.addEventListener("abort", onAbort, { once: true });
  const unbind = () => {
    clearTimeout(timer);
    signal?.removeEventListener("abort", onAbort);
  };
  const goOn = () => {
    if (isLate) throw new Error("Nobody waits for it any more");
  };
  const opening = start({ goOn, arrived: unbind });
  // It may have no waiter.
  opening.catch(() => {});
  try {
    return await Promise.race([opening, given.promise]);
  } finally {
    unbind();
  }
}

/**
 * Opens an image, or makes it first.
 *
 * @param target Which.
 * @param uri What it is called.
 * @param options How.
 * @param load Opens the libraries.
 * @returns It, and what it is part of.
 * @throws {DiskError} If it cannot be opened.
 */
export async function openSession(
  target: RbdTarget,
  uri: string,
  options: RbdOptions,
  load: (uri: string) => Libraries,
): Promise<Session> {
  askPermissions(target, uri);
  const { libc, ceph } = load(uri);
  const { cluster: name, id } = target;
  const cluster = RadosCluster.make(libc, ceph, name, `client.${id}`);
  if (typeof cluster === "number") {
    throw openError(uri, librarySays(cluster), cluster);
  }
  let pool: bigint | null = null;
  try {
    configure(cluster, target, uri, options);
    const connected = await cluster.connect();
    if (connected < 0) {
      throw connectError(connected, cluster, target, uri, options);
    }
    const opened = await cluster.openPool(target.pool, target.namespace);
    if (typeof opened === "number") {
      const reason = codeOf(opened) === "ENOENT"
        ? `the cluster has no pool "${target.pool}"`
        : librarySays(opened);
      throw openError(uri, reason, opened);
    }
    pool = opened;
    return await openImage({ libc, ceph, cluster, pool }, target, uri, options);
  } catch (error) {
    if (pool !== null) cluster.closePool(pool);
    await cluster.shutdown();
    throw error;
  }
}

/**
 * FFI is no way around Deno's sandbox: a cluster is reached by network, and its
 * configuration is a file.
 */
function askPermissions(target: RbdTarget, uri: string): void {
  const wanted: Deno.PermissionDescriptor[] = [
    { name: "net" },
    target.conf === null
      ? { name: "read" }
      : { name: "read", path: target.conf },
  ];
  for (const descriptor of wanted) {
    if (permissions.requestSync(descriptor).state === "granted") continue;
    throw new DiskError(
      "permission",
      `Cannot open "${uri}" as Deno does not allow it: run with --allow-ffi, --allow-net and --allow-read`,
      { operation: "open", path: uri },
    );
  }
}

/** What a cluster is reached by. */
export interface Libraries {
  /** The C library. */
  readonly libc: Libc;
  /** Those of Ceph. */
  readonly ceph: CephLibrary;
}

/**
 * Opens the libraries, of which this process has each once.
 *
 * @param uri What is opened with them.
 * @returns The libraries.
 * @throws {DiskError} If they are not there, or not allowed.
 */
export function loadLibraries(uri: string): Libraries {
  try {
    const libc = openLibc();
    if (libc.abi.os !== "linux") {
      throw new FfiError("platform", "Cannot reach Ceph as this is not Linux");
    }
    if (runtime !== "deno") {
      throw new FfiError(
        "platform",
        "Cannot reach Ceph as this runtime calls no C functions on another thread: use Deno",
      );
    }
    return { libc, ceph: openCeph(libc) };
  } catch (cause) {
    if (!(cause instanceof FfiError)) throw cause;
    throw new DiskError(
      cause.kind === "permission" ? "permission" : "platform",
      `Cannot open "${uri}": ${cause.message}`,
      { operation: "open", path: uri, cause },
    );
  }
}

function configure(
  cluster: RadosCluster,
  { conf, cluster: name }: RbdTarget,
  uri: string,
  { openTimeoutMs }: RbdOptions,
): void {
  const read = cluster.readConfiguration(conf);
  if (read < 0) {
    const where = conf === null
      ? `no configuration of a cluster "${name}" was found: name one with ?conf=PATH`
      : codeOf(read) === "ENOENT"
      ? `there is no configuration file "${conf}"`
      : `its configuration "${conf}" cannot be read (${codeOf(read)})`;
    throw openError(uri, where, read);
  }
  // What goes wrong is said by errors.
  for (const option of ["log_to_stderr", "err_to_stderr"]) {
    cluster.set(option, "false");
  }
  for (
    const option of [
      "client_mount_timeout",
      "rados_mon_op_timeout",
      "rados_osd_op_timeout",
    ]
  ) cluster.set(option, seconds(openTimeoutMs));
}

function connectError(
  result: number,
  cluster: RadosCluster,
  { id }: RbdTarget,
  uri: string,
  { openTimeoutMs }: RbdOptions,
): DiskError {
  const hosts = cluster.get("mon_host");
  const monitors = hosts ? ` (${hosts})` : "";
  switch (codeOf(result)) {
    case "ETIMEDOUT":
      return openError(
        uri,
        `no monitor${monitors} has answered for ${openTimeoutMs} ms`,
        result,
      );
    case "ENOENT":
      return hosts
        ? openError(
          uri,
          `there is no key for client.${id}: its keyring is looked for in ${
            cluster.get("keyring") ?? "/etc/ceph"
          }`,
          result,
          "permission",
        )
        : openError(uri, "its configuration names no monitors", result);
    case "EACCES":
    case "EPERM":
      return openError(
        uri,
        `the monitors${monitors} do not take the key of client.${id}, which is looked for in ${
          cluster.get("keyring") ?? "/etc/ceph"
        }`,
        result,
        "permission",
      );
    default:
      return openError(uri, librarySays(result), result);
  }
}

async function openImage(
  parts: Omit<SessionParts, "image" | "made">,
  target: RbdTarget,
  uri: string,
  { create }: RbdOptions,
): Promise<Session> {
  const { libc, ceph, pool } = parts;
  const { image: name, snapshot } = target;
  if (create !== undefined) {
    const made = await createRbd(libc, ceph, pool, name, create.sizeBytes);
    if (made < 0) throw createError(made, target, uri);
  }
  const attempt = (unseen: boolean) =>
    over(RbdImage.open(libc, ceph, { pool, name, snapshot, unseen }));
  try {
    let isSeen = true;
    let image = await attempt(false);
    if (
      typeof image === "number" && ["EPERM", "EACCES"].includes(codeOf(image))
    ) {
      // A watch takes the right to write.
      isSeen = false;
      image = await attempt(true);
    }
    if (typeof image === "number") throw imageError(image, target, uri);
    const made = create === undefined ? null : name;
    return new Session({ ...parts, image, made }, isSeen);
  } catch (error) {
    if (create !== undefined) await removeRbd(libc, ceph, pool, name);
    throw error;
  }
}

/**
 * The error of making an image. Where the cluster did not refuse it there may be a
 * part of it, which is not removed here: it could be that of somebody else who has
 * made one of that name at the same time.
 */
function createError(
  result: number,
  { pool, namespace }: RbdTarget,
  uri: string,
): DiskError {
  const place = namespace === ""
    ? `pool "${pool}"`
    : `namespace "${namespace}" of the pool "${pool}"`;
  switch (codeOf(result)) {
    case "EEXIST":
      return madeError(uri, "it exists", result, "exists");
    case "ENOENT":
      return madeError(uri, `there is no ${place}`, result);
    case "EACCES":
    case "EPERM": {
      const reason = `the key of this user may make none in the ${place}`;
      return madeError(uri, reason, result);
    }
    case "ENAMETOOLONG":
      return madeError(uri, "its name is too long for the cluster", result);
    default:
      return madeError(uri, librarySays(result) + MAYBE_LEFT, result);
  }
}

function madeError(
  uri: string,
  reason: string,
  result: number,
  kind?: DiskErrorKind,
): DiskError {
  const code = codeOf(result);
  return new DiskError(
    kind ?? kindOfCode(code),
    `Cannot create "${uri}" as ${reason}`,
    { operation: "create", path: uri, code, errno: -result },
  );
}

function imageError(
  result: number,
  { pool, namespace, image, snapshot }: RbdTarget,
  uri: string,
): DiskError {
  const place = namespace === ""
    ? `the pool "${pool}"`
    : `the namespace "${namespace}" of the pool "${pool}"`;
  switch (codeOf(result)) {
    case "ENOENT":
      return openError(
        uri,
        snapshot === null
          ? `there is no image "${image}" in ${place}`
          : `there is no image "${image}" in ${place}, or it has no snapshot "${snapshot}"`,
        result,
      );
    case "EACCES":
    case "EPERM":
      return openError(
        uri,
        `the key of this user does not let it have images of ${place}`,
        result,
      );
    default:
      return openError(uri, librarySays(result), result);
  }
}
