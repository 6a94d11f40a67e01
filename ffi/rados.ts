/**
 * A connection to a Ceph cluster and its pools, by librados.
 *
 * Source: `/usr/include/rados/librados.h` of Ceph 16. Results are ≥ 0 or −errno,
 * in the numbers of Linux.
 *
 * @module
 */

import { CallMemory } from "./call_memory.ts";
import type { CephLibrary, ReadyCall } from "./ceph_library.ts";
import type { Libc } from "./libc.ts";
import { memoryAt } from "./memory.ts";

/** Longest value of an option that is read, in bytes. */
const VALUE_BYTES = 2048;

/** Longest answer of a monitor that is read, in bytes. */
const MOST_ANSWER_BYTES = 1 << 20;

/** rbd_types.h: CEPH_NOSNAP, the image as it is now. */
const NO_SNAPSHOT = 0xffff_ffff_ffff_fffen;

/** Room for what `get_size` answers: u8 order, u64 size. */
const ANSWER_BYTES = 64;

/** What a monitor answered. */
export interface MonitorAnswer {
  /** 0, or −errno. */
  readonly result: number;
  /** What it said. */
  readonly output: string;
}

/** A connection to a cluster. */
export class RadosCluster {
  readonly #libc: Libc;
  readonly #ceph: CephLibrary;
  readonly #handle: bigint;
  /** Ready from the start: it ends also once FFI is not allowed any more. */
  readonly #shutdown: ReadyCall;

  private constructor(
    libc: Libc,
    ceph: CephLibrary,
    handle: bigint,
    shutdown: ReadyCall,
  ) {
    this.#libc = libc;
    this.#ceph = ceph;
    this.#handle = handle;
    this.#shutdown = shutdown;
  }

  /**
   * Makes a handle that is not connected yet.
   *
   * @param libc The C library.
   * @param ceph The libraries.
   * @param cluster The cluster's name, usually `"ceph"`.
   * @param user Who asks, such as `"client.admin"`.
   * @returns The handle, or −errno.
   * @throws {RangeError} If the system has no memory left.
   * @throws {Deno.errors.NotCapable} If FFI is not allowed.
   */
  static make(
    libc: Libc,
    ceph: CephLibrary,
    cluster: string,
    user: string,
  ): RadosCluster | number {
    // First, as it may throw: a handle that is made gets an owner.
    const shutdown = ceph.ready("rados_shutdown");
    let made: RadosCluster | null = null;
    try {
      const memory = new CallMemory(libc);
      try {
        const out = memory.take(8);
        const result = ceph.calls.rados_create2(
          out,
          memory.text(cluster),
          memory.text(user),
          0n,
        );
        if (result < 0) return result;
        made = new RadosCluster(libc, ceph, memory.pointer(out), shutdown);
        return made;
      } finally {
        memory.release();
      }
    } finally {
      if (made === null) shutdown.close();
    }
  }

  /**
   * Reads a configuration file.
   *
   * @param path Its path; `null` looks where Ceph does: `$CEPH_CONF`,
   * `/etc/ceph/$cluster.conf`, `~/.ceph/$cluster.conf`, `$cluster.conf`.
   * @returns 0, or −errno.
   */
  readConfiguration(path: string | null): number {
    return this.#with((memory) =>
      this.#ceph.calls.rados_conf_read_file(
        this.#handle,
        path === null ? 0n : memory.text(path),
      )
    );
  }

  /**
   * Sets an option. Those of time-outs count for what is asked from then on.
   *
   * @param option Its name.
   * @param value Its value.
   * @returns 0, or −errno.
   */
  set(option: string, value: string): number {
    return this.#with((memory) =>
      this.#ceph.calls.rados_conf_set(
        this.#handle,
        memory.text(option),
        memory.text(value),
      )
    );
  }

  /**
   * Reads an option.
   *
   * @param option Its name.
   * @returns Its value; `null` if there is none, or it is too long.
   */
  get(option: string): string | null {
    return this.#with((memory) => {
      const value = memory.take(VALUE_BYTES);
      const result = this.#ceph.calls.rados_conf_get(
        this.#handle,
        memory.text(option),
        value,
        BigInt(VALUE_BYTES),
      );
      return result < 0 ? null : memory.string(value);
    });
  }

  /**
   * Connects. It takes as long as the options client_mount_timeout and
   * rados_mon_op_timeout say at most.
   *
   * @returns 0, or −errno.
   */
  connect(): Promise<number> {
    return this.#ceph.wait("rados_connect", this.#handle);
  }

  /**
   * Opens a pool.
   *
   * @param name Its name.
   * @param namespace The namespace in it; the default one is empty.
   * @returns Its handle, or −errno.
   */
  async openPool(name: string, namespace: string): Promise<bigint | number> {
    const memory = new CallMemory(this.#libc);
    try {
      const out = memory.take(8);
      const space = memory.text(namespace);
      const result = await this.#ceph.wait(
        "rados_ioctx_create",
        this.#handle,
        memory.text(name),
        out,
      );
      if (result < 0) return result;
      const pool = memory.pointer(out);
      if (namespace !== "") {
        this.#ceph.calls.rados_ioctx_set_namespace(pool, space);
      }
      return pool;
    } finally {
      memory.release();
    }
  }

  /**
   * Gives a pool's handle back.
   *
   * @param pool The handle.
   */
  closePool(pool: bigint): void {
    this.#ceph.calls.rados_ioctx_destroy(pool);
  }

  /**
   * Reads an object.
   *
   * @param pool The pool's handle.
   * @param name The object's name.
   * @param byteLength Bytes that are read at most.
   * @returns Its content, or −errno.
   */
  async read(
    pool: bigint,
    name: string,
    byteLength: number,
  ): Promise<Uint8Array | number> {
    const memory = new CallMemory(this.#libc, byteLength + 4096);
    try {
      const object = memory.text(name);
      const content = memory.take(byteLength);
      const result = await this.#ceph.wait(
        "rados_read",
        pool,
        object,
        content,
        BigInt(byteLength),
        0n,
      );
      return result < 0 ? result : memory.bytes(content, result);
    } finally {
      memory.release();
    }
  }

  /**
   * Makes ready to look whether an image or a snapshot is there, now and then.
   *
   * @param pool The pool's handle, which stays open until it is released.
   * @param header The name of the image's header.
   * @param snapshot The number of the snapshot; `null` for the image.
   * @returns What looks.
   * @throws {RangeError} If the system has no memory left.
   * @throws {Deno.errors.NotCapable} If FFI is not allowed.
   */
  lookFor(pool: bigint, header: string, snapshot: number | null): ImageLook {
    return new ImageLook(this.#libc, this.#ceph, pool, header, snapshot);
  }

  /**
   * Asks a monitor.
   *
   * @param command What is asked, for JSON.
   * @returns Its answer.
   */
  async ask(command: Record<string, string>): Promise<MonitorAnswer> {
    const memory = new CallMemory(this.#libc);
    try {
      const text = memory.text(JSON.stringify(command));
      const commands = memory.take(8);
      memory.set(commands, text);
      const output = memory.take(8);
      const length = memory.take(8);
      const status = memory.take(8);
      const statusLength = memory.take(8);
      const result = await this.#ceph.wait(
        "rados_mon_command",
        this.#handle,
        commands,
        1n,
        0n,
        0n,
        output,
        length,
        status,
        statusLength,
      );
      return { result, output: this.#taken(memory, output, length, status) };
    } finally {
      memory.release();
    }
  }

  /** Reads what librados has put into memory of its own, and frees that. */
  #taken(
    memory: CallMemory,
    output: bigint,
    length: bigint,
    status: bigint,
  ): string {
    const from = memory.pointer(output);
    const size = Math.min(memory.number(length), MOST_ANSWER_BYTES);
    const text = from === 0n || size === 0
      ? ""
      : new TextDecoder().decode(memoryAt(Number(from), size).slice(0));
    for (const address of [from, memory.pointer(status)]) {
      if (address !== 0n) this.#ceph.calls.rados_buffer_free(address);
    }
    return text;
  }

  /**
   * Disconnects. Pools and images must be closed by then.
   *
   * @returns When it is done.
   */
  async shutdown(): Promise<void> {
    await this.#shutdown.call(this.#handle);
    this.#shutdown.close();
  }

  #with<T>(call: (memory: CallMemory) => T): T {
    const memory = new CallMemory(this.#libc, 8192);
    try {
      return call(memory);
    } finally {
      memory.release();
    }
  }
}

/**
 * Looks whether an image or a snapshot is there; nothing waits for it, and FFI may
 * go. The header is asked for its size (cls/rbd/cls_rbd.cc, `get_size`), which it
 * has as long as they are, whatever features others switch off meanwhile.
 */
export class ImageLook {
  readonly #ceph: CephLibrary;
  readonly #pool: bigint;
  readonly #memory: CallMemory;
  readonly #header: bigint;
  readonly #class: bigint;
  readonly #method: bigint;
  readonly #snapshot: bigint;
  readonly #answer: bigint;
  #completion = 0n;

  /**
   * Constructs a new instance.
   *
   * @param libc The C library.
   * @param ceph The libraries.
   * @param pool The pool's handle.
   * @param header The name of the image's header.
   * @param snapshot The number of the snapshot; `null` for the image.
   * @throws {RangeError} If the system has no memory left.
   * @throws {Deno.errors.NotCapable} If FFI is not allowed.
   */
  constructor(
    libc: Libc,
    ceph: CephLibrary,
    pool: bigint,
    header: string,
    snapshot: number | null,
  ) {
    this.#ceph = ceph;
    this.#pool = pool;
    const memory = this.#memory = new CallMemory(libc);
    this.#header = memory.text(header);
    this.#class = memory.text("rbd");
    this.#method = memory.text("get_size");
    this.#snapshot = memory.take(8);
    memory.set(
      this.#snapshot,
      snapshot === null ? NO_SNAPSHOT : BigInt(snapshot),
    );
    this.#answer = memory.take(ANSWER_BYTES);
  }

  /**
   * Begins to look; not before the last look is over.
   *
   * @returns 0, or −errno, after which nothing has begun.
   */
  begin(): number {
    const { calls } = this.#ceph;
    calls.rados_aio_create_completion2(0n, 0n, this.#answer);
    this.#completion = this.#memory.pointer(this.#answer);
    const result = calls.rados_aio_exec(
      this.#pool,
      this.#header,
      this.#completion,
      this.#class,
      this.#method,
      this.#snapshot,
      8n,
      this.#answer,
      BigInt(ANSWER_BYTES),
    );
    if (result < 0) this.#end();
    return result;
  }

  /**
   * Asks what the look has found.
   *
   * @returns 0 or more if it is there, or if nothing has begun; −errno (ENOENT: it
   * is not there); `null` as long as that is not known.
   */
  poll(): number | null {
    const { calls } = this.#ceph;
    if (this.#completion === 0n) return 0;
    if (calls.rados_aio_is_complete(this.#completion) === 0) return null;
    const result = calls.rados_aio_get_return_value(this.#completion);
    this.#end();
    return result;
  }

  /** Gives a look up that is not over: it is over soon, whatever the cluster does. */
  cancel(): void {
    if (this.#completion === 0n) return;
    this.#ceph.calls.rados_aio_cancel(this.#pool, this.#completion);
  }

  /** Gives its memory back, once the last look is over. */
  release(): void {
    this.#memory.release();
  }

  #end(): void {
    this.#ceph.calls.rados_aio_release(this.#completion);
    this.#completion = 0n;
  }
}
