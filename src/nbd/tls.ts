/**
 * TLS for a connection that has begun in the clear, as NBD's `STARTTLS` has it.
 *
 * Deno can turn a client's connection into an encrypted one (`Deno.startTls`),
 * but not a server's. `node:tls` can, over any stream: it is given one that
 * moves the connection's bytes, and what it says is wrapped as a stream again.
 * It is loaded once somebody wants it.
 *
 * @module
 */

import type { Duplex } from "node:stream";
import type { TLSSocket } from "node:tls";
import type { ByteStream } from "../platform/byte_stream.ts";
import { DuplexBytes } from "../platform/duplex_bytes.ts";
import { printable } from "../printable.ts";
import { ProtocolError } from "./handshake.ts";

/** What a server proves who it is with, and asks of its clients. */
export interface NbdTlsOptions {
  /** Its certificate and those up to the one that clients know, as PEM. */
  readonly cert: string;
  /** The private key to the certificate, as PEM. */
  readonly key: string;
  /**
   * Whom clients must have their certificates from, as PEM. Without it, they
   * need none, and whoever reaches the server may use it.
   */
  readonly clientCa?: string | undefined;
}

/** Bytes that are read in the clear, and encrypted, at once. */
const PIECE_BYTES = 65_536;

/**
 * Goes on with TLS, as its server.
 *
 * @param stream The connection, of which nobody reads or writes any more.
 * @param options What to prove and what to ask.
 * @returns The connection, encrypted; to close it closes the other.
 * @throws {ProtocolError} If client and server do not come to terms.
 */
export async function secure(
  stream: ByteStream,
  options: NbdTlsOptions,
): Promise<ByteStream> {
  const { TLSSocket, createSecureContext } = await import("node:tls");
  const { Duplex } = await import("node:stream");
  const { cert, key, clientCa } = options;
  const asked = clientCa === undefined
    ? {}
    : { ca: clientCa, requestCert: true, rejectUnauthorized: true };
  const socket = new TLSSocket(
    // It takes any stream; the types say less.
    new Duplex(moving(stream)) as ConstructorParameters<typeof TLSSocket>[0],
    {
      isServer: true,
      secureContext: createSecureContext({
        cert,
        key,
        ...(clientCa === undefined ? {} : { ca: clientCa }),
      }),
      cert,
      key,
      ...asked,
    } as ConstructorParameters<typeof TLSSocket>[1],
  );
  const secured = new SecureStream(socket, stream);
  await secured.agreed;
  return secured;
}

/** What moves a connection's bytes for `node:tls`. */
function moving(stream: ByteStream): ConstructorParameters<typeof Duplex>[0] {
  return {
    read(this: Duplex) {
      const bytes = new Uint8Array(PIECE_BYTES);
      stream.read(bytes).then(
        (count) => this.push(count === null ? null : bytes.subarray(0, count)),
        () => this.destroy(),
      );
    },
    write(chunk: Uint8Array, _encoding, done) {
      writeAll(stream, chunk).then(() => done(), done);
    },
    destroy(error, done) {
      close(stream);
      done(error);
    },
  };
}

async function writeAll(stream: ByteStream, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.length;) {
    at += await stream.write(bytes.subarray(at));
  }
}

function close(stream: ByteStream): void {
  try {
    stream.close();
  } catch {
    // It was closed before.
  }
}

/** An encrypted connection. */
class SecureStream extends DuplexBytes {
  readonly #below: ByteStream;
  /** When both sides have come to terms. */
  readonly agreed: Promise<void>;

  constructor(socket: TLSSocket, below: ByteStream) {
    const agreed = Promise.withResolvers<void>();
    super(socket, (error) => {
      const reason = error === null
        ? "The connection has ended"
        : printable(error.message);
      agreed.reject(new ProtocolError(`There is no TLS: ${reason}`));
      if (error !== null) this.close();
    });
    socket.on("secure", agreed.resolve);
    this.agreed = agreed.promise;
    this.#below = below;
  }

  override close(): void {
    super.close();
    close(this.#below);
  }
}
