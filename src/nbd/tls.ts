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
import type { ByteStream } from "../protocol/nbd/byte_stream.ts";
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
class SecureStream implements ByteStream {
  readonly #socket: TLSSocket;
  readonly #below: ByteStream;
  readonly #agreed = Promise.withResolvers<void>();
  /** What was decrypted and nobody took yet. */
  #rest = new Uint8Array();
  #ended = false;
  #wake: (() => void) | null = null;
  /** Ends the write that is waited for. */
  #writing: ((error: Error) => void) | null = null;

  constructor(socket: TLSSocket, below: ByteStream) {
    this.#socket = socket;
    this.#below = below;
    socket.on("secure", () => this.#agreed.resolve());
    socket.on("readable", () => this.#resume());
    for (const event of ["end", "close"]) {
      socket.on(event, () => this.#end("The connection has ended"));
    }
    socket.on("error", (error: Error) => {
      this.#end(printable(error.message));
      this.close();
    });
  }

  /** When both sides have come to terms. */
  get agreed(): Promise<void> {
    return this.#agreed.promise;
  }

  async read(target: Uint8Array): Promise<number | null> {
    while (this.#rest.length === 0) {
      const found: Uint8Array<ArrayBuffer> | null = this.#socket.read();
      if (found !== null) this.#rest = found;
      else if (this.#ended) return null;
      else await new Promise<void>((resolve) => this.#wake = resolve);
    }
    const count = Math.min(target.length, this.#rest.length);
    target.set(this.#rest.subarray(0, count));
    this.#rest = this.#rest.subarray(count);
    return count;
  }

  write(source: Uint8Array): Promise<number> {
    const piece = source.subarray(0, PIECE_BYTES);
    return new Promise((resolve, reject) => {
      if (this.#ended) return reject(new Deno.errors.BrokenPipe());
      this.#writing = reject;
      this.#socket.write(piece, (error) => {
        this.#writing = null;
        if (error) reject(error);
        else resolve(piece.length);
      });
    });
  }

  close(): void {
    this.#end("The connection was closed");
    this.#socket.destroy();
    close(this.#below);
  }

  #end(reason: string): void {
    this.#ended = true;
    this.#agreed.reject(new ProtocolError(`There is no TLS: ${reason}`));
    this.#writing?.(new Deno.errors.BrokenPipe());
    this.#writing = null;
    this.#resume();
  }

  #resume(): void {
    const wake = this.#wake;
    this.#wake = null;
    wake?.();
  }
}
