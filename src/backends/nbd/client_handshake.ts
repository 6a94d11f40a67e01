/**
 * The client's side of the NBD handshake. What a server says is checked against
 * the protocol's own rules: a disk of a shape that cannot be is no disk.
 *
 * Source: NetworkBlockDevice/nbd, doc/proto.md, sections "Newstyle
 * negotiation", "Transmission flags" and "Block size constraints".
 *
 * @module
 */

import { DiskError, type DiskErrorKind } from "../../errors.ts";
import { isPowerOfTwo, MAX_BLOCK_SIZE } from "../../geometry.ts";
import { viewOf } from "../../bytes.ts";
import { readU64 } from "../../protocol/nbd/big_endian.ts";
import {
  Command,
  ExportFlag,
  HandshakeFlag,
  Info,
  Magic,
  Option,
  OPTION_BYTES,
  OPTION_REPLY_BYTES,
  OptionReply,
  REQUEST_BYTES,
} from "../../protocol/nbd/numbers.ts";
import { printable } from "../../printable.ts";
import type { ByteStream } from "../../platform/byte_stream.ts";

/** What a server said of an export. */
export interface Negotiated {
  /** Bytes that it has. */
  readonly size: number;
  /** Bits of {@linkcode ExportFlag}. */
  readonly flags: number;
  /** Whether reads are answered in chunks. */
  readonly structured: boolean;
  /** Bytes that requests must be multiples of. */
  readonly minimum: number;
  /** Bytes that requests go best with. */
  readonly preferred: number;
  /** Bytes that one request may move. */
  readonly maximum: number;
}

/** Bytes of an answer to an option; nothing that is of use here is longer. */
const MAX_REPLY_BYTES = 65_536;

/** Answers to one option; there are four kinds of information. */
const MAX_REPLIES = 64;

/** What the protocol says of requests if the server does not. */
const DEFAULT_MAXIMUM = 32 << 20;

/** "As much as you like", where a maximum is expected. */
const NO_MAXIMUM = 0xffff_ffff;

/** The least that a preferred size may be. */
const MIN_PREFERRED = 512;

const encoder = new TextEncoder();

/** What refusals are called, what they are, and what to do. */
const REFUSALS: Readonly<
  Record<number, readonly [name: string, kind: DiskErrorKind, text: string]>
> = {
  [OptionReply.ErrUnsupported]: [
    "UNSUP",
    "platform",
    "the server does not know the option",
  ],
  [OptionReply.ErrPolicy]: [
    "POLICY",
    "permission",
    "the server does not permit it",
  ],
  [OptionReply.ErrInvalid]: [
    "INVALID",
    "io",
    "the server takes the option for malformed",
  ],
  [OptionReply.ErrPlatform]: [
    "PLATFORM",
    "platform",
    "the server's platform cannot do that",
  ],
  [OptionReply.ErrTlsRequired]: [
    "TLS_REQD",
    "permission",
    "the server wants TLS, which nbds://HOST/NAME asks for",
  ],
  [OptionReply.ErrUnknown]: [
    "UNKNOWN",
    "not-found",
    "the server has no export of that name",
  ],
  [OptionReply.ErrShutdown]: [
    "SHUTDOWN",
    "io",
    "the server is shutting down",
  ],
  [OptionReply.ErrBlockSizeRequired]: [
    "BLOCK_SIZE_REQD",
    "platform",
    "the server wants clients that obey block sizes, which this one has said",
  ],
  [OptionReply.ErrTooBig]: ["TOO_BIG", "io", "the option is too big for it"],
  [OptionReply.ErrExtendedHeadersRequired]: [
    "EXT_HEADER_REQD",
    "platform",
    "the server wants extended headers, which this client does not have",
  ],
};

/**
 * A handshake with a server: {@linkcode greet}, {@linkcode startTls} if it is to
 * be private, {@linkcode negotiate}.
 */
export class ClientHandshake {
  #stream: ByteStream;
  readonly #uri: string;
  #noZeroes = false;
  /** Whether TLS has begun, and nothing has come by it yet. */
  #unanswered = false;
  /**
   * What to say to leave as the protocol wants it; `null` while nothing can be
   * said.
   */
  farewell: Uint8Array | null = null;

  /**
   * Constructs a new instance.
   *
   * @param stream The connection.
   * @param uri What it is called in errors.
   */
  constructor(stream: ByteStream, uri: string) {
    this.#stream = stream;
    this.#uri = uri;
  }

  /**
   * Takes the server's greeting and returns it.
   *
   * @throws {DiskError} If it is no server of the fixed newstyle.
   */
  async greet(): Promise<void> {
    const hello = await this.#read(18);
    const flags = hello.getUint16(16);
    if (
      hello.getUint32(0) !== Magic.Init[0] ||
      hello.getUint32(4) !== Magic.Init[1] ||
      hello.getUint32(8) !== Magic.Option[0] ||
      hello.getUint32(12) !== Magic.Option[1] ||
      (flags & HandshakeFlag.FixedNewstyle) === 0
    ) this.#fail("platform", "there is no NBD server of the fixed newstyle");
    this.#noZeroes = (flags & HandshakeFlag.NoZeroes) !== 0;
    const answer = new Uint8Array(4);
    viewOf(answer).setUint32(
      0,
      flags & (HandshakeFlag.FixedNewstyle | HandshakeFlag.NoZeroes),
    );
    await this.#write(answer);
    this.farewell = optionMessage(Option.Abort);
  }

  /**
   * Goes on in private.
   *
   * @param upgrade Makes the connection private.
   * @throws {DiskError} If the server has no TLS.
   */
  async startTls(upgrade: () => Promise<ByteStream>): Promise<void> {
    await this.#ask(Option.StartTls, new Uint8Array());
    const { type, data } = await this.#answer(Option.StartTls);
    if (type !== OptionReply.Ack) this.#refused(type, data);
    this.farewell = null;
    this.#stream = await upgrade();
    this.#unanswered = true;
    this.farewell = optionMessage(Option.Abort);
  }

  /**
   * Agrees with the server on an export.
   *
   * @param exportName The export.
   * @returns What the server said of it.
   * @throws {DiskError} If it has no such export, or says what cannot be.
   */
  async negotiate(exportName: string): Promise<Negotiated> {
    const structured = await this.#askStructured();
    const name = encoder.encode(exportName);
    const wish = new Uint8Array(8 + name.length);
    const view = viewOf(wish);
    view.setUint32(0, name.length);
    wish.set(name, 4);
    view.setUint16(4 + name.length, 1);
    view.setUint16(6 + name.length, Info.BlockSize);
    await this.#ask(Option.Go, wish);
    let exported: { size: number; flags: number } | null = null;
    let sizes = { minimum: 1, preferred: 4096, maximum: DEFAULT_MAXIMUM };
    for (let replies = 1;; replies++) {
      const { type, data } = await this.#answer(Option.Go);
      if (type === OptionReply.Ack) break;
      if (type === OptionReply.ErrUnsupported) {
        // A server from before GO.
        exported = await this.#askByName(exportName);
        break;
      }
      if (type !== OptionReply.Info) this.#refused(type, data, exportName);
      if (replies > MAX_REPLIES) {
        this.#fail("io", "the server does not stop answering an option");
      }
      if (data.byteLength < 2) {
        this.#fail("io", "the server's information has no type");
      }
      const info = data.getUint16(0);
      if (info === Info.Export) {
        this.#expect(data, 12);
        const before = exported;
        exported = { size: readU64(data, 2), flags: data.getUint16(10) };
        if (
          before !== null &&
          (before.size !== exported.size || before.flags !== exported.flags)
        ) this.#fail("io", "the server says two things of the export");
      } else if (info === Info.BlockSize) {
        this.#expect(data, 14);
        sizes = this.#blockSizes(data);
      }
    }
    // From here on requests are understood.
    this.farewell = disconnectMessage();
    if (exported === null) {
      return this.#fail("io", "the server does not say what the export is");
    }
    this.#checkFlags(exported.flags, structured);
    return { ...exported, structured, ...sizes };
  }

  async #askStructured(): Promise<boolean> {
    await this.#ask(Option.StructuredReply, new Uint8Array());
    const { type, data } = await this.#answer(Option.StructuredReply);
    if (type === OptionReply.Ack) return true;
    // A server that cannot do it can do without; the rest goes for any option.
    if (
      type !== OptionReply.ErrUnsupported && type !== OptionReply.ErrPolicy &&
      type !== OptionReply.ErrInvalid && type !== OptionReply.ErrPlatform
    ) this.#refused(type, data);
    return false;
  }

  /** NBD_OPT_EXPORT_NAME, to which a server without the export hangs up. */
  async #askByName(
    exportName: string,
  ): Promise<{ size: number; flags: number }> {
    await this.#ask(Option.ExportName, encoder.encode(exportName));
    this.farewell = null;
    const item = await this.#read(
      this.#noZeroes ? 10 : 134,
      `the server hung up: it may have no export "${printable(exportName)}"`,
    );
    return { size: readU64(item, 0), flags: item.getUint16(8) };
  }

  #expect(data: DataView, length: number): void {
    if (data.byteLength !== length) {
      this.#fail(
        "io",
        `the server's information must be ${length} bytes: current value is ${data.byteLength}`,
      );
    }
  }

  /** Refuses block sizes that no request could keep to. */
  #blockSizes(
    data: DataView,
  ): { minimum: number; preferred: number; maximum: number } {
    const minimum = data.getUint32(2);
    const preferred = data.getUint32(6);
    const maximum = data.getUint32(10);
    const sane = isPowerOfTwo(minimum) && minimum <= MAX_BLOCK_SIZE &&
      isPowerOfTwo(preferred) &&
      preferred >= Math.max(minimum, MIN_PREFERRED) && maximum >= preferred &&
      (maximum === NO_MAXIMUM || maximum % minimum === 0);
    if (!sane) {
      this.#fail(
        "geometry",
        `the server's block sizes make no sense: minimum ${minimum}, preferred ${preferred}, maximum ${maximum} bytes`,
      );
    }
    return { minimum, preferred, maximum: Math.min(maximum, DEFAULT_MAXIMUM) };
  }

  #checkFlags(flags: number, structured: boolean): void {
    const has = (flag: number) => (flags & flag) !== 0;
    const fault = !has(ExportFlag.HasFlags)
      ? "without saying that there are flags"
      : has(ExportFlag.SendDf) && !structured
      ? "replies in one chunk, but none in chunks"
      : has(ExportFlag.SendFastZero) && !has(ExportFlag.SendWriteZeroes)
      ? "zeroes that are fast, but no zeroes"
      : null;
    if (fault !== null) {
      this.#fail(
        "io",
        `the server's flags contradict each other: ${fault} (0x${
          flags.toString(16)
        })`,
      );
    }
  }

  #refused(type: number, data: DataView, exportName?: string): never {
    const said = printable(new TextDecoder().decode(data));
    const text = said === "" ? "" : `: ${said}`;
    const [name, kind, meaning] = REFUSALS[type] ?? [];
    if (name === undefined) {
      const hex = (type >>> 0).toString(16);
      return this.#fail(
        "io",
        (type & 0x8000_0000) === 0
          ? `the server gives an answer that nobody asked for (0x${hex})`
          : `the server refuses for a reason without a name (0x${hex})${text}`,
      );
    }
    const reason = type === OptionReply.ErrUnknown && exportName !== undefined
      ? `the server has no export "${printable(exportName)}"`
      : meaning!;
    return this.#fail(kind!, `${reason} (NBD_REP_ERR_${name})${text}`);
  }

  #fail(kind: DiskErrorKind, reason: string, cause?: unknown): never {
    throw new DiskError(kind, `Cannot open "${this.#uri}" as ${reason}`, {
      operation: "open",
      path: this.#uri,
      cause,
    });
  }

  /**
   * Throws what it means that a connection has ended or failed. By TLS 1.3, a
   * server says that it wants a certificate of the client's only when the client
   * takes TLS for agreed on, if at all.
   */
  #hungUp(reason: string, cause?: unknown): never {
    this.farewell = null;
    if (this.#unanswered) {
      this.#fail(
        "permission",
        "the server ended the connection as soon as TLS was agreed on: it may " +
          "want a client certificate, which this client cannot show",
        cause,
      );
    }
    if (cause !== undefined) throw cause;
    this.#fail("io", reason);
  }

  async #read(
    length: number,
    reason = "the server hung up",
  ): Promise<DataView> {
    const bytes = new Uint8Array(length);
    for (let at = 0; at < length;) {
      let count: number | null;
      try {
        count = await this.#stream.read(bytes.subarray(at));
      } catch (error) {
        this.#hungUp(reason, error);
      }
      if (count === null) this.#hungUp(reason);
      at += count;
    }
    this.#unanswered = false;
    return viewOf(bytes);
  }

  /** Without a farewell meanwhile, which would come in the midst of a message. */
  async #write(bytes: Uint8Array): Promise<void> {
    const { farewell } = this;
    this.farewell = null;
    try {
      for (let at = 0; at < bytes.length;) {
        at += await this.#stream.write(bytes.subarray(at));
      }
    } catch (error) {
      this.#hungUp("the server hung up", error);
    }
    this.farewell = farewell;
  }

  #ask(option: number, data: Uint8Array): Promise<void> {
    return this.#write(optionMessage(option, data));
  }

  async #answer(option: number): Promise<{ type: number; data: DataView }> {
    const head = await this.#read(OPTION_REPLY_BYTES);
    const type = head.getUint32(12);
    const length = head.getUint32(16);
    if (
      head.getUint32(0) !== Magic.OptionReply[0] ||
      head.getUint32(4) !== Magic.OptionReply[1] ||
      head.getUint32(8) !== option || length > MAX_REPLY_BYTES ||
      (type === OptionReply.Ack && length !== 0)
    ) {
      this.farewell = null;
      this.#fail("io", "the server does not answer as NBD servers do");
    }
    return { type, data: await this.#read(length) };
  }
}

function optionMessage(
  option: number,
  data: Uint8Array = new Uint8Array(),
): Uint8Array {
  const bytes = new Uint8Array(OPTION_BYTES + data.length);
  const view = viewOf(bytes);
  view.setUint32(0, Magic.Option[0]);
  view.setUint32(4, Magic.Option[1]);
  view.setUint32(8, option);
  view.setUint32(12, data.length);
  bytes.set(data, OPTION_BYTES);
  return bytes;
}

function disconnectMessage(): Uint8Array {
  const bytes = new Uint8Array(REQUEST_BYTES);
  const view = viewOf(bytes);
  view.setUint32(0, Magic.Request);
  view.setUint16(6, Command.Disconnect);
  return bytes;
}
