/**
 * Reaches an NBD server and shakes hands with it, within a time and until a
 * signal fires. A client that does not stay says so first, as the protocol wants it.
 *
 * @module
 */

import fs from "node:fs";
import { DiskError } from "../../errors.ts";
import type { ByteStream } from "../../platform/byte_stream.ts";
import {
  beginTls,
  connectionFault,
  connectTo,
} from "../../platform/sockets.ts";
import type { NbdAddress, NbdTarget } from "../../protocol/nbd/uri.ts";
import { printable } from "../../printable.ts";
import { unless } from "../../unless.ts";
import { asDiskError } from "../image_options.ts";
import { ClientHandshake, type Negotiated } from "./client_handshake.ts";

/** What bounds an attempt. */
export interface ConnectOptions {
  /** How long it may take, in ms. */
  readonly timeoutMs: number;
  /** Gives it up. */
  readonly signal?: AbortSignal;
}

/** How long leave-taking may take, in ms. */
const FAREWELL_MS = 500;

/**
 * Connects to a server and agrees with it on an export.
 *
 * @param target The server and the export.
 * @param uri What it is called in errors.
 * @param options What bounds it.
 * @param use Makes something of the connection, which is then its own.
 * @returns What was made.
 * @throws {DiskError} If it cannot be reached or does not agree in time, or as
 * `use` throws.
 */
export async function connectNbd<T>(
  target: NbdTarget,
  uri: string,
  options: ConnectOptions,
  use: (stream: ByteStream, negotiated: Negotiated) => T,
): Promise<T> {
  const { signal, timeoutMs } = options;
  signal?.throwIfAborted();
  const gate = new AbortController();
  const onAbort = () => gate.abort(signal!.reason);
  signal?.addEventListener("abort", onAbort, { once: true });
  const timer = setTimeout(() => {
    gate.abort(
      new DiskError(
        "io",
        `Cannot open "${uri}" as the server has not answered for ${timeoutMs} ms`,
        { operation: "open", path: uri, code: "ETIMEDOUT" },
      ),
    );
  }, timeoutMs);
  const connecting = connectTo(target.address, gate.signal);
  let stream: ByteStream | null = null;
  let handshake: ClientHandshake | null = null;
  try {
    stream = await unless(gate.signal, connecting);
    handshake = new ClientHandshake(stream, uri);
    const plain = stream;
    const upgrade = async () => {
      try {
        const tls = await startTls(plain, target);
        stream = tls.stream;
        // It came too late to be closed elsewhere.
        if (gate.signal.aborted) stream.close();
        await tls.agreed;
        return stream;
      } catch (error) {
        throw tlsError(error, uri);
      }
    };
    const negotiated = await unless(
      gate.signal,
      shakeHands(handshake, target, upgrade),
    );
    return use(stream, negotiated);
  } catch (error) {
    if (stream !== null) await hangUp(stream, handshake!.farewell);
    else connecting.then((late) => late.close(), () => {});
    if (gate.signal.aborted) throw gate.signal.reason;
    throw connectError(error, target.address, uri);
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", onAbort);
  }
}

async function shakeHands(
  handshake: ClientHandshake,
  target: NbdTarget,
  upgrade: () => Promise<ByteStream>,
): Promise<Negotiated> {
  await handshake.greet();
  if (target.tls !== undefined) await handshake.startTls(upgrade);
  return await handshake.negotiate(target.exportName);
}

/**
 * Puts TLS over a connection. Deno's takes connections over a network only, and
 * has no certificate of the client's and no pre-shared keys; `node:tls` would
 * read and write by buffers of its own there.
 */
function startTls(plain: ByteStream, { address, tls }: NbdTarget) {
  const directory = tls!.certificates;
  return beginTls(plain, {
    hostname: address.transport === "tcp" ? address.hostname : "localhost",
    ca: directory === undefined
      ? undefined
      : fs.readFileSync(`${directory}/ca-cert.pem`, "utf8"),
  });
}

function tlsError(error: unknown, uri: string): DiskError {
  const text = connectionFault(error);
  const advice = /CaUsedAsEndEntity/.test(text)
    ? "it shows an authority's certificate, as `openssl req -x509` makes them, and needs one of its own, signed by that"
    : "?tls-certificates=DIR names a directory with the ca-cert.pem of who vouches for it";
  return new DiskError(
    "permission",
    `Cannot open "${uri}" as there is no TLS with the server: ${
      printable(text)
    } (${advice})`,
    { operation: "open", path: uri, cause: error },
  );
}

/** Says what there is to say, and does not wait for an answer. */
async function hangUp(
  stream: ByteStream,
  farewell: Uint8Array | null,
): Promise<void> {
  if (farewell !== null) {
    let timer: ReturnType<typeof setTimeout> | undefined;
    await Promise.race([
      stream.write(farewell).catch(() => {}),
      new Promise((resolve) => timer = setTimeout(resolve, FAREWELL_MS)),
    ]);
    clearTimeout(timer);
  }
  try {
    stream.close();
  } catch {
    // It is closed already.
  }
}

function connectError(
  error: unknown,
  address: NbdAddress,
  uri: string,
): DiskError {
  const place = { operation: "open", path: uri, cause: error };
  const { code } = error as { code?: unknown };
  if (code === "ENOENT" && address.transport === "unix") {
    return new DiskError(
      "not-found",
      `Cannot open "${uri}" as there is no such socket`,
      { ...place, code: "ENOENT" },
    );
  }
  if (code === "ECONNREFUSED" && address.transport === "unix") {
    return new DiskError(
      "io",
      `Cannot open "${uri}" as nobody listens at its socket: the server has ended and left it behind, or it is no socket`,
      { ...place, code: "ECONNREFUSED" },
    );
  }
  return asDiskError(error, uri);
}
