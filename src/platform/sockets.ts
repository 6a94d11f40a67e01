/**
 * Connections over Unix sockets and networks, and what listens for them. Deno's
 * own sockets move bytes from and to the caller's memory (see `./byte_stream.ts`);
 * elsewhere those of `node:net` are made to look like them.
 *
 * @module
 */

import fs from "node:fs";
import type { Server, Socket } from "node:net";
import { dirname } from "node:path";
import process from "node:process";
import type { ByteStream } from "./byte_stream.ts";
import { DuplexBytes } from "./duplex_bytes.ts";
import { isGranted } from "./permissions.ts";
import { os, runtime } from "./system.ts";

/** What listens for connections. */
export interface Listener {
  /** Its port; 0 if it listens at a path. */
  readonly port: number;
  /**
   * Waits for a connection.
   *
   * @returns The next one.
   * @throws {Error} If it is closed, or the connection is gone again.
   */
  accept(): Promise<ByteStream>;
  /** Stops. */
  close(): void;
}

/** Where to connect to, and to listen. */
export type Address =
  | { readonly transport: "unix"; readonly path: string }
  | {
    readonly transport: "tcp";
    readonly hostname: string;
    readonly port: number;
  };

/** Whom a client of TLS believes. */
export interface TlsClientOptions {
  /** What the server's certificate must be for. */
  readonly hostname: string;
  /** Whom it must be from, as PEM; the usual authorities if not given. */
  readonly ca: string | undefined;
}

/**
 * Room for what is sent over a Unix socket. Sequential reads of 256 KiB over NBD,
 * 8 in flight, take 0.7 of the processor time that they take with the usual room.
 */
const ROOM_BYTES = 1 << 20;

/** Connections of a listener that have it: the kernel's memory is bounded. */
const MOST_WIDE = 16;

/** `node:net`, which nobody loads who has no use for it. */
const net = () => process.getBuiltinModule("node:net");

// The sockets of connections that were made here, for TLS to be put over.
const sockets = new WeakMap<ByteStream, Socket>();

function connectionOf(socket: Socket): ByteStream {
  const connection = new DuplexBytes(socket);
  sockets.set(connection, socket);
  return connection;
}

/**
 * Connects to a server. Over a network, small pieces are sent at once, and a
 * peer that is gone is found out about.
 *
 * @param address The server.
 * @param signal Gives a connection over a network up.
 * @returns The connection.
 * @throws {Error} With the system's `code`.
 */
export async function connectTo(
  address: Address,
  signal: AbortSignal,
): Promise<ByteStream> {
  if (runtime === "deno") {
    if (address.transport === "unix") {
      return await Deno.connect({ transport: "unix", path: address.path });
    }
    const { hostname, port } = address;
    const conn = await Deno.connect({ hostname, port, signal });
    conn.setNoDelay();
    conn.setKeepAlive();
    return conn;
  }
  const socket = net().connect(
    address.transport === "unix" ? { path: address.path } : {
      host: address.hostname,
      port: address.port,
      noDelay: true,
      keepAlive: true,
    },
  );
  const onAbort = () => socket.destroy(signal.reason);
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    await new Promise<void>((resolve, reject) => {
      socket.once("connect", resolve);
      socket.once("error", reject);
      socket.once("close", () => reject(signal.reason));
    });
    return connectionOf(socket);
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}

/**
 * Puts TLS over a connection, as its client.
 *
 * @param connection A connection over a network, of which nobody reads or writes
 * any more.
 * @param options Whom to believe.
 * @returns The connection, encrypted, and when both have come to terms; to close
 * it closes the other.
 * @throws {Error} If it cannot be begun.
 */
export async function beginTls(
  connection: ByteStream,
  { hostname, ca }: TlsClientOptions,
): Promise<{ stream: ByteStream; agreed: Promise<unknown> }> {
  if (runtime === "deno") {
    const stream = await Deno.startTls(connection as Deno.TcpConn, {
      hostname,
      ...(ca === undefined ? {} : { caCerts: [ca] }),
    });
    return { stream, agreed: stream.handshake() };
  }
  const tls = process.getBuiltinModule("node:tls");
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const secured = tls.connect({
    socket: sockets.get(connection)!,
    servername: net().isIP(hostname) ? "" : hostname,
    host: hostname,
    ...(ca === undefined ? {} : { ca }),
  }, resolve);
  const stream = new DuplexBytes(
    secured,
    (error) => reject(error ?? new Error("The connection has ended")),
  );
  return { stream, agreed: promise };
}

/**
 * What a connection failed for.
 *
 * @param error What was thrown.
 * @returns Its message; of Deno's TLS without the address of a manual, which is
 * for those who write programs with that.
 */
export function connectionFault(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  return text.replace(/: https:\/\/docs\.rs\/\S+$/, "");
}

/**
 * Listens for connections, from now on.
 *
 * @param address Where: a path that must not exist yet, or an address and a port
 * (0 for any that is free).
 * @returns What listens.
 * @throws {Error} With the system's `code` as far as the runtime tells it: not on
 * Node.js and Bun where a port cannot be had.
 */
export function listenAt(address: Address): Listener {
  return runtime === "deno" ? listenByDeno(address) : listenByNode(address);
}

function listenByDeno(address: Address): Listener {
  if (address.transport === "unix") {
    const { path } = address;
    const listener = Deno.listen({ transport: "unix", path });
    const made = identityOf(path);
    const bound = (listener.addr as Deno.UnixAddr).path;
    const widen = loadWiden();
    return {
      port: 0,
      async accept() {
        const conn = await listener.accept();
        try {
          (await widen)?.(bound);
        } catch {
          // FFI was given up meanwhile.
        }
        return conn;
      },
      close: () => keepOthers(path, made, () => listener.close()),
    };
  }
  const { hostname, port } = address;
  const listener = Deno.listen({ hostname, port });
  return {
    port: listener.addr.port,
    async accept() {
      const conn = await listener.accept();
      try {
        conn.setNoDelay();
      } catch {
        // It is gone, and so a read will say.
      }
      return conn;
    },
    close: () => listener.close(),
  };
}

/**
 * What gives Unix sockets more room, where there is FFI; `null` where there is none.
 * With the usual 208 KiB a reply of 256 KiB goes out in two parts, and the second
 * one waits until the other side has taken most of the first.
 */
async function loadWiden(): Promise<((path: string) => void) | null> {
  if (os !== "linux" || !isGranted({ name: "ffi" })) return null;
  try {
    const { openLibc } = await import("../../ffi/libc.ts");
    const { widenAccepted } = await import("../../ffi/unix_socket.ts");
    const libc = openLibc();
    return (path) => void widenAccepted(libc, path, ROOM_BYTES, MOST_WIDE);
  } catch {
    // No C library for it.
    return null;
  }
}

/** What stands at a path; `null` if nothing does. */
function identityOf(path: string): string | null {
  const stat = fs.lstatSync(path, { bigint: true, throwIfNoEntry: false });
  return stat === undefined ? null : `${stat.dev} ${stat.ino}`;
}

/**
 * Stops listening at a path. The runtimes remove what stands there then, whoever's
 * it is by now: what is not ours is put aside for that moment.
 */
function keepOthers(
  path: string,
  made: string | null,
  close: () => void,
): void {
  const found = identityOf(path);
  if (found === null || found === made) return close();
  const aside = `${path}.${crypto.randomUUID()}`;
  fs.renameSync(path, aside);
  try {
    close();
  } finally {
    // Not over what somebody else has put there meanwhile.
    fs.linkSync(aside, path);
    fs.unlinkSync(aside);
  }
}

function listenByNode(address: Address): Listener {
  const { createServer } = net();
  const arrived: Socket[] = [];
  let waiting: PromiseWithResolvers<ByteStream> | null = null;
  const server = createServer({ allowHalfOpen: true, noDelay: true });
  server.on("connection", (socket) => {
    if (waiting === null) {
      arrived.push(socket);
      // Until somebody wants it, its errors are nobody's.
      socket.on("error", () => {});
      return;
    }
    waiting.resolve(connectionOf(socket));
    waiting = null;
  });
  const fail = (error: Error) => {
    waiting?.reject(error);
    waiting = null;
  };
  server.on("error", fail);
  listen(server, address);
  if (!server.listening) throw notListening(address);
  const bound = server.address();
  const path = address.transport === "unix" ? address.path : null;
  const made = path === null ? null : identityOf(path);
  return {
    port: bound !== null && typeof bound === "object" ? bound.port : 0,
    accept() {
      if (!server.listening) {
        return Promise.reject(new Error("Cannot accept as nobody listens"));
      }
      const socket = arrived.shift();
      if (socket !== undefined) return Promise.resolve(connectionOf(socket));
      waiting = Promise.withResolvers();
      return waiting.promise;
    },
    close() {
      if (path === null) server.close();
      else keepOthers(path, made, () => server.close());
      for (const socket of arrived.splice(0)) socket.destroy();
      fail(new Error("Cannot accept as the listener is closed"));
    },
  };
}

/** Has a server listen at once, so that its port is known. */
function listen(server: Server, address: Address): void {
  if (address.transport === "unix") {
    server.listen({ path: address.path });
    return;
  }
  const { port } = address;
  const host = address.hostname === "localhost"
    ? "127.0.0.1"
    : address.hostname;
  const family = net().isIP(host);
  if (family === 0) {
    throw new TypeError(
      `Cannot listen at "${host}" as it must be an address, or localhost`,
    );
  }
  if (runtime === "bun") {
    server.listen({ host, port });
    return;
  }
  // listen() with a host waits for a look-up, even of an address. What it calls
  // then is `_listen2` (lib/net.js, "legacy alias"), and that is done at once.
  (server as unknown as {
    _listen2(
      host: string,
      port: number,
      family: number,
      backlog: number,
      fd: number | undefined,
      flags: number,
    ): void;
  })._listen2(host, port, family, 511, undefined, 0);
}

/** The error of a listener; which the runtime would tell too late. */
function notListening(address: Address): Error {
  if (address.transport === "tcp") {
    return new Error(
      `Cannot listen at ${address.hostname}:${address.port} as the port is taken or not allowed`,
    );
  }
  const { path } = address;
  try {
    if (fs.lstatSync(path, { throwIfNoEntry: false }) !== undefined) {
      return Object.assign(
        new Error(
          `Cannot listen at "${path}" as there is something of that name`,
        ),
        { code: "EADDRINUSE" },
      );
    }
    fs.accessSync(dirname(path), fs.constants.W_OK);
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    const reason = code === "ENOENT"
      ? "its folder must be there"
      : `its folder must let files be made: ${message}`;
    return Object.assign(
      new Error(`Cannot listen at "${path}" as ${reason}`, { cause }),
      { code },
    );
  }
  return new Error(
    `Cannot listen at "${path}" as no socket can be made there`,
  );
}
