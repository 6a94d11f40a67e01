/**
 * An NBD server over any disk: sockets, exports, and an end in good order.
 *
 * @module
 */

import { systemCode } from "../backends/system_error.ts";
import type { ByteStream } from "../platform/byte_stream.ts";
import { listenAt, type Listener } from "../platform/sockets.ts";
import {
  formatNbdUri,
  MAX_SOCKET_PATH_BYTES,
  type NbdAddress,
} from "../protocol/nbd/uri.ts";
import { MAX_STRING_BYTES } from "../protocol/nbd/numbers.ts";
import { Connection, type ConnectionOptions } from "./connection.ts";
import type { NbdCounters } from "./counters.ts";
import { MemoryBudget } from "./memory_budget.ts";
import { type NbdExport, ServedDisk } from "./served_disk.ts";
import { keepOnThread } from "../one_thread.ts";
import { tell } from "../throw_later.ts";
import { isTimerMs, refuseGrace } from "../timer_ms.ts";
import { checkTls, type NbdTlsOptions } from "./tls.ts";
import { Turns } from "./turns.ts";

/** How a server is set up. */
export interface NbdServerOptions {
  /** The disks to serve, each under a name of its own. */
  exports: readonly NbdExport[];
  /**
   * Requests that a client may have in flight at once.
   *
   * @default {128}
   */
  maxRequests?: number | undefined;
  /**
   * Bytes that one request may move.
   *
   * @default {33554432, or as much less as `maxMemory` allows}
   */
  maxPayload?: number | undefined;
  /**
   * Bytes that a client may have in flight at once, in requests and in replies
   * that it does not take. One request goes through, however large.
   *
   * @default {33554432}
   */
  maxBytes?: number | undefined;
  /**
   * Bytes that all clients together may hold of the server's memory, in requests
   * and in replies that they do not take; beside it, each takes some 200 KiB at
   * most. Half of it is divided among as many clients as there may be, so that
   * each can always do a little; the other half is lent to who needs more, fairly.
   * While others wait for it, a client that holds some and does not move is sent
   * away. At least four times `maxPayload`, and for disks with large blocks as
   * much as a request for parts of them takes.
   *
   * @default {268435456}
   */
  maxMemory?: number | undefined;
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
   * The longest that a client may hold memory that others wait for and not have
   * moved a sixteenth of it, in ms.
   *
   * @default {10000}
   */
  stallMs?: number | undefined;
  /**
   * Whether to stop with the last client: once a client leaves that had come to
   * use an export, and no other is there.
   *
   * @default {false}
   */
  once?: boolean | undefined;
  /**
   * What TLS needs: with it, clients must go on with TLS before they learn
   * anything (`nbds://`). Certificates only; pre-shared keys are not in
   * `node:tls` of Deno.
   */
  tls?: NbdTlsOptions | undefined;
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

/** Too few descriptors or too little memory, here and now. */
const SHORTAGES = new Set(["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM"]);

/** How long to wait for others to be closed then, in ms. */
const SHORTAGE_MS = 100;

/** Connections that may fail in a row before others have their turn. */
const MAX_FAILURES = 64;

/**
 * A server that shows disks to NBD clients: qemu, libnbd's tools, fio, the
 * Linux kernel. It closes no disk.
 *
 * A flush, from whichever client, covers every write that was answered before
 * it, on any connection: exports say `CAN_MULTI_CONN`.
 *
 * Requests need not start and end on blocks of the disk: the blocks at their
 * ends are read, changed and written, while no other client changes them, of
 * whichever server and export of the disk or of a slice. What the program itself
 * writes meanwhile to the same blocks, past the server, may be lost by that.
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
  readonly #listener: Listener | null;
  readonly #address: NbdAddress | null;
  readonly #options: ConnectionOptions;
  readonly #maxConnections: number;
  readonly #onError: ((error: Error) => void) | undefined;
  readonly #connections = new Map<Connection, Promise<void>>();
  readonly #accepting: Promise<void>;
  readonly #once: boolean;
  readonly #finished = Promise.withResolvers<void>();
  #closing: Promise<void> | null = null;
  #endPause: () => void = () => {};
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
      unaligned: 0,
      dropped: 0,
      evicted: 0,
      resets: 0,
      peakMemory: 0,
    };
    this.counters = counters;
    const maxMemory = count("maxMemory", options.maxMemory ?? 256 << 20);
    // Half of it is lent, and must do for the largest request of all.
    const needed = (payload: number) =>
      2 * Math.max(
        2 * payload,
        ...[...exports.values()].map((one) => one.mostMemory(payload)),
      );
    let affordable = Math.min(32 << 20, maxMemory / 4 - maxMemory / 4 % 65_536);
    while (affordable > 65_536 && needed(affordable) > maxMemory) {
      affordable -= 65_536;
    }
    const maxPayload = count(
      "maxPayload",
      options.maxPayload ?? Math.max(65_536, affordable),
    );
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
    if (maxMemory < needed(maxPayload)) {
      throw new RangeError(
        `Cannot serve as maxMemory must be ${
          needed(maxPayload)
        } at least, for requests of ${maxPayload} bytes: current value is ${maxMemory}`,
      );
    }
    const maxConnections = count(
      "maxConnections",
      options.maxConnections ?? 1024,
    );
    const stallMs = milliseconds("stallMs", options.stallMs ?? 10_000);
    this.#options = {
      exports,
      maxPayload,
      counters,
      budget: new MemoryBudget(maxMemory, maxConnections, stallMs, counters),
      turns: new Turns(),
      tls: options.tls === undefined ? null : checkTls(options.tls),
      requiresTls: options.tls !== undefined,
      maxRequests: count("maxRequests", options.maxRequests ?? 128),
      maxBytes: count("maxBytes", options.maxBytes ?? 32 << 20),
      handshakeMs: milliseconds("handshakeMs", options.handshakeMs ?? 10_000),
    };
    this.#maxConnections = maxConnections;
    this.#once = options.once ?? false;
    this.#onError = options.onError;
    if (listen === null) {
      this.#listener = null;
      this.#address = null;
      this.#accepting = Promise.resolve();
      return;
    }
    if ("path" in listen) {
      const bytes = new TextEncoder().encode(listen.path).length;
      if (bytes > MAX_SOCKET_PATH_BYTES) {
        throw new RangeError(
          `Cannot listen at a path as it must have at most ${MAX_SOCKET_PATH_BYTES} bytes, in a folder with a shorter name: current value is "${listen.path}" with ${bytes}`,
        );
      }
      this.#address = { transport: "unix", path: listen.path };
      this.#listener = listenAt(this.#address);
    } else {
      const { hostname = "127.0.0.1", port } = listen;
      this.#listener = listenAt({ transport: "tcp", hostname, port });
      this.#address = {
        transport: "tcp",
        hostname,
        port: this.#listener.port,
      };
    }
    this.#accepting = this.#accept(this.#listener);
  }

  /**
   * Begins to serve.
   *
   * @param options What to serve, where, and within which bounds.
   * @returns The server.
   * @throws {RangeError | TypeError} If an option is none that there can be.
   * @throws {DiskError} With kind `closed` if a disk is.
   * @throws {Error} If it cannot listen there, with the system's `code` where the
   * runtime tells it at once: Deno does, and nothing tells of a port on Node.js.
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
   * @throws {DiskError} With kind `closed` if a disk is.
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

  /** When it has stopped, whoever stopped it. */
  get finished(): Promise<void> {
    return this.#finished.promise;
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
    const uri = formatNbdUri({
      address: this.#address,
      exportName: exportName ?? first,
    });
    return this.#options.requiresTls ? uri.replace(/^nbd/, "nbds") : uri;
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
      tell(this.#onError, asError(error));
    }).finally(() => {
      this.#connections.delete(connection);
      if (connection.fault !== null) tell(this.#onError, connection.fault);
      if (this.#once && connection.attached && this.#connections.size === 0) {
        this.close();
      }
    });
    this.#connections.set(connection, done);
    return done;
  }

  /**
   * Stops listening and sends the clients away: what they asked for is done and
   * answered first, what they ask for from now on is refused with `ESHUTDOWN`.
   * It flushes nothing and closes no disk. Idempotent.
   *
   * @param graceMs The longest to wait for clients that do not take their
   * answers or do not leave, in ms. Requests that the disk has not answered after
   * as long again are left to it.
   * @returns When the last one is gone.
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
    this.#listener?.close();
    this.#endPause();
    await this.#accepting;
    for (const connection of this.#connections.keys()) connection.stop();
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(() => {
        for (const connection of this.#connections.keys()) connection.abandon();
        timer = setTimeout(resolve, graceMs);
      }, graceMs);
    });
    await Promise.race([Promise.all(this.#connections.values()), late]);
    clearTimeout(timer);
  }

  async #accept(listener: Listener): Promise<void> {
    let failures = 0;
    let short = false;
    while (this.#closing === null) {
      let stream: ByteStream;
      try {
        stream = await listener.accept();
      } catch (error) {
        if (this.#closing !== null) return;
        if (isShortage(error)) {
          // Said once, until it is over: this may go on for long.
          if (!short) tell(this.#onError, asError(error));
          short = true;
          await this.#pause(SHORTAGE_MS);
        } else {
          // That client is gone again, which is no reason to let others wait.
          this.#options.counters.resets++;
          if (++failures % MAX_FAILURES === 0) await this.#pause(0);
        }
        continue;
      }
      short = false;
      this.attach(stream);
    }
  }

  /** Waits, but not for longer than the server is there. */
  #pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#endPause = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}

/**
 * Whether an error means that there is too little of something here. All others
 * of accept(2) are about the one connection, as its "Error handling" says.
 */
function isShortage(error: unknown): boolean {
  return SHORTAGES.has(systemCode(error)?.code ?? "");
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

function milliseconds(name: string, value: number): number {
  if (isTimerMs(count(name, value))) return value;
  throw new RangeError(
    `Cannot serve as ${name} must be below 2^31: current value is ${value}`,
  );
}
