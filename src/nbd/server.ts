/**
 * An NBD server over any disk: sockets, exports, and an end in good order.
 *
 * @module
 */

import type { ByteStream } from "../backends/nbd/byte_stream.ts";
import { formatNbdUri, type NbdAddress } from "../nbd_uri.ts";
import { MAX_STRING_BYTES } from "../nbd_wire.ts";
import {
  Connection,
  type ConnectionOptions,
  type NbdCounters,
} from "./connection.ts";
import { type NbdExport, ServedDisk } from "./served_disk.ts";
import { keepOnThread } from "../one_thread.ts";

/** How a server is set up. */
export interface NbdServerOptions {
  /** The disks to serve, each under a name of its own. */
  exports: readonly NbdExport[];
  /**
   * Requests that a client may have under way at once.
   *
   * @default {128}
   */
  maxRequests?: number | undefined;
  /**
   * Bytes that one request may move.
   *
   * @default {33554432}
   */
  maxPayload?: number | undefined;
  /**
   * Bytes that a client may have under way at once, in requests and in replies
   * that it does not take. One request goes through, however large.
   *
   * @default {33554432}
   */
  maxBytes?: number | undefined;
  /**
   * Clients at once; further ones are turned away.
   *
   * @default {1024}
   */
  maxConnections?: number | undefined;
  /**
   * The longest that a handshake may take, in ms.
   *
   * @default {10000}
   */
  handshakeMs?: number | undefined;
  /**
   * Hears of what a client did wrong, when its connection is ended for it, and
   * of what went wrong with the server's own socket.
   */
  onError?: ((error: Error) => void) | undefined;
}

/** Where a server listens. */
export type NbdListenOptions =
  /** On a Unix socket, which must not exist yet. */
  | {
    /** Its path. */
    path: string;
  }
  /** On a network. */
  | {
    /**
     * The address to listen at.
     *
     * @default {"127.0.0.1"}
     */
    hostname?: string | undefined;
    /** The port; 0 for any that is free. */
    port: number;
  };

/**
 * A server that shows disks to NBD clients: qemu, libnbd's tools, fio, the
 * Linux kernel. It closes no disk.
 *
 * A flush, from whichever client, covers every write that was answered before
 * it, on any connection: exports say `CAN_MULTI_CONN`.
 *
 * Requests that do not start and end on blocks of the disk are refused with
 * `EINVAL` if the client was told the block size. From a client that did not
 * ask, they are carried out all the same: blocks at the ends are read, changed
 * and written, alone. What the program itself writes meanwhile to the same
 * blocks, past the server, may be lost by that.
 *
 * @example A disk in memory, for `qemu-img` and all the others
 * ```ts
 * import { VirtualDisk } from "@platter/disk";
 * import { NbdServer } from "@platter/disk/nbd";
 * import { assertEquals } from "@std/assert";
 *
 * await using disk = VirtualDisk.memory({ sectors: 2048 });
 * await using server = NbdServer.listen({ port: 0, exports: [{ disk }] });
 *
 * // qemu-img info, nbdcopy, … take the same URI.
 * await using remote = await VirtualDisk.open(server.uri());
 * await remote.write(8, new Uint8Array(512).fill(7));
 * assertEquals((await disk.read(8, 1))[0], 7);
 * ```
 */
export class NbdServer implements AsyncDisposable {
  readonly #listener: Deno.Listener | null;
  readonly #address: NbdAddress | null;
  readonly #options: ConnectionOptions;
  readonly #maxConnections: number;
  readonly #onError: ((error: Error) => void) | undefined;
  readonly #connections = new Map<Connection, Promise<void>>();
  readonly #accepting: Promise<void>;
  #closing: Promise<void> | null = null;
  /** What was counted so far, of all clients together. */
  readonly counters: Readonly<NbdCounters>;

  private constructor(
    options: NbdServerOptions,
    listen: NbdListenOptions | null,
  ) {
    keepOnThread(this, "an NbdServer");
    const exports = new Map<string, ServedDisk>();
    for (const one of options.exports) {
      const served = new ServedDisk(one);
      const bytes = new TextEncoder().encode(served.name);
      if (bytes.length > MAX_STRING_BYTES || bytes.includes(0)) {
        throw new RangeError(
          `Cannot serve an export as its name must be ${MAX_STRING_BYTES} bytes at most, none of them 0`,
        );
      }
      if (exports.has(served.name)) {
        throw new TypeError(
          `Cannot serve two exports as both are named "${served.name}"`,
        );
      }
      exports.set(served.name, served);
    }
    const counters: NbdCounters = {
      connections: 0,
      requests: 0,
      errors: 0,
      bytesRead: 0,
      bytesWritten: 0,
      dropped: 0,
    };
    this.counters = counters;
    const maxPayload = count("maxPayload", options.maxPayload ?? 32 << 20);
    // What the protocol wants of it: whole blocks, and at least one that is
    // preferred. More than this the kernel of Linux never asks for.
    let least = 65_536;
    for (const one of exports.values()) {
      least = Math.max(least, one.preferredSize);
    }
    if (
      maxPayload % 65_536 !== 0 || maxPayload < least || maxPayload > 32 << 20
    ) {
      throw new RangeError(
        `Cannot serve as maxPayload must be a multiple of 65536 from ${least} to ${
          32 << 20
        }: current value is ${maxPayload}`,
      );
    }
    this.#options = {
      exports,
      maxPayload,
      counters,
      maxRequests: count("maxRequests", options.maxRequests ?? 128),
      maxBytes: count("maxBytes", options.maxBytes ?? 32 << 20),
      handshakeMs: count("handshakeMs", options.handshakeMs ?? 10_000),
    };
    this.#maxConnections = count(
      "maxConnections",
      options.maxConnections ?? 1024,
    );
    this.#onError = options.onError;
    if (listen === null) {
      this.#listener = null;
      this.#address = null;
      this.#accepting = Promise.resolve();
      return;
    }
    if ("path" in listen) {
      this.#listener = Deno.listen({ transport: "unix", path: listen.path });
      this.#address = { transport: "unix", path: listen.path };
    } else {
      const { hostname = "127.0.0.1", port } = listen;
      const listener = Deno.listen({ hostname, port });
      this.#listener = listener;
      this.#address = { transport: "tcp", hostname, port: listener.addr.port };
    }
    this.#accepting = this.#accept(this.#listener);
  }

  /**
   * Begins to serve.
   *
   * @param options What to serve, where, and within which bounds.
   * @returns The server.
   * @throws {RangeError | TypeError} If an option is none that there can be.
   * @throws {Error} As `Deno.listen` does.
   */
  static listen(options: NbdServerOptions & NbdListenOptions): NbdServer {
    return new NbdServer(options, options);
  }

  /**
   * Makes a server that listens nowhere: its clients come by
   * {@linkcode NbdServer.attach}.
   *
   * @param options What to serve, and within which bounds.
   * @returns The server.
   * @throws {RangeError | TypeError} If an option is none that there can be.
   */
  static detached(options: NbdServerOptions): NbdServer {
    return new NbdServer(options, null);
  }

  /** Where it listens; `null` if it does not. */
  get address(): NbdAddress | null {
    return this.#address;
  }

  /** Clients at the moment. */
  get connectionCount(): number {
    return this.#connections.size;
  }

  /**
   * What clients are given to find an export.
   *
   * @param exportName Its name; the first export's if not given.
   * @returns An NBD URI.
   * @throws {TypeError} If it listens nowhere.
   */
  uri(exportName?: string): string {
    if (this.#address === null) {
      throw new TypeError("Cannot name a server that does not listen");
    }
    const [first = ""] = this.#options.exports.keys();
    return formatNbdUri({
      address: this.#address,
      exportName: exportName ?? first,
    });
  }

  /**
   * Serves one more client, over a connection that is there already.
   *
   * @param stream The connection; the server closes it.
   * @returns When the client is gone.
   */
  attach(stream: ByteStream): Promise<void> {
    if (
      this.#closing !== null || this.#connections.size >= this.#maxConnections
    ) {
      stream.close();
      return Promise.resolve();
    }
    const connection = new Connection(stream, this.#options);
    const done = connection.run().catch((error) => {
      connection.abandon();
      this.#onError?.(asError(error));
    }).finally(() => {
      this.#connections.delete(connection);
      if (connection.fault !== null) this.#onError?.(connection.fault);
    });
    this.#connections.set(connection, done);
    return done;
  }

  /**
   * Stops listening and sends the clients away: what they asked for is done and
   * answered first. It flushes nothing and closes no disk. Idempotent.
   *
   * @param graceMs The longest to wait for clients that do not take their
   * answers, in ms.
   * @returns When the last one is gone.
   */
  close(graceMs: number = 5000): Promise<void> {
    return this.#closing ??= this.#close(graceMs);
  }

  /** Stops, for `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #close(graceMs: number): Promise<void> {
    this.#listener?.close();
    await this.#accepting;
    for (const connection of this.#connections.keys()) connection.stop();
    const timer = setTimeout(() => {
      for (const connection of this.#connections.keys()) connection.abandon();
    }, graceMs);
    await Promise.all(this.#connections.values());
    clearTimeout(timer);
  }

  async #accept(listener: Deno.Listener): Promise<void> {
    while (this.#closing === null) {
      let conn: Deno.Conn;
      try {
        conn = await listener.accept();
      } catch (error) {
        if (this.#closing !== null) return;
        this.#onError?.(asError(error));
        // Out of descriptors, most likely: others will be closed.
        await new Promise((resolve) => setTimeout(resolve, 100));
        continue;
      }
      if ("setNoDelay" in conn) (conn as Deno.TcpConn).setNoDelay();
      this.attach(conn);
    }
  }
}

function asError(error: unknown): Error {
  return error instanceof Error ? error : new Error(String(error));
}

function count(name: string, value: number): number {
  if (Number.isSafeInteger(value) && value > 0) return value;
  throw new RangeError(
    `Cannot serve as ${name} must be a safe integer above 0: current value is ${value}`,
  );
}
