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

import type { KeyObject, X509Certificate } from "node:crypto";
import process from "node:process";
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

/** Where a certificate begins in PEM. */
const CERTIFICATE = "-----BEGIN CERTIFICATE-----";

/** A private key in PEM; other things may stand beside it. */
const KEY =
  /-----BEGIN ([A-Z ]*)PRIVATE KEY-----[^]+?-----END \1PRIVATE KEY-----/;

/**
 * Finds out whether a server can prove who it is, before any client comes:
 * `node:tls` says nothing until then, and fails all of them.
 *
 * @param options What to prove and what to ask.
 * @returns The same.
 * @throws {TypeError} If there is no certificate, one that cannot be read, or a
 * key of another one.
 */
export function checkTls(options: NbdTlsOptions): NbdTlsOptions {
  const { cert, key, clientCa } = options;
  const [own] = certificatesIn(cert, "certificate");
  let privateKey: KeyObject;
  const [text] = KEY.exec(key) ?? refuse("there must be a private key in PEM");
  try {
    privateKey = crypto().createPrivateKey(text);
  } catch (cause) {
    return refuse("the private key must be one, without a passphrase", cause);
  }
  if (!own!.checkPrivateKey(privateKey)) {
    refuse("the private key must be the one of the (first) certificate");
  }
  if (clientCa !== undefined) {
    certificatesIn(clientCa, "client CA's certificate");
  }
  return options;
}

/** The certificates in a text, at least one. */
function certificatesIn(pem: string, what: string): X509Certificate[] {
  const [, ...texts] = pem.split(CERTIFICATE);
  if (texts.length === 0) refuse(`there must be a ${what} in PEM`);
  return texts.map((text, i) => {
    try {
      return new (crypto().X509Certificate)(CERTIFICATE + text);
    } catch (cause) {
      const which = texts.length === 1 ? "" : `, which number ${i + 1} is not`;
      return refuse(`the ${what} must be whole and valid${which}`, cause);
    }
  });
}

/** Loaded once somebody wants it, and without waiting. */
function crypto(): typeof import("node:crypto") {
  return process.getBuiltinModule("node:crypto");
}

function refuse(reason: string, cause?: unknown): never {
  throw new TypeError(`Cannot serve with TLS as ${reason}`, { cause });
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
