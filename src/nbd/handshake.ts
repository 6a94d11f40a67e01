/**
 * The beginning of a connection: the fixed newstyle handshake, in which client
 * and server agree on an export and on how to talk about it.
 *
 * A server that has TLS asks for it before anything else; a client that comes
 * without learns nothing, not even which exports there are.
 *
 * @module
 */

import type { StreamWriter } from "../protocol/nbd/writer.ts";
import { viewOf } from "../bytes.ts";
import { writeU64 } from "../protocol/nbd/big_endian.ts";
import {
  BASE_ALLOCATION,
  ExportFlag,
  HandshakeFlag,
  Info,
  Magic,
  MAX_STRING_BYTES,
  Option,
  OPTION_BYTES,
  OPTION_REPLY_BYTES,
  OptionReply,
} from "../protocol/nbd/numbers.ts";
import { printable } from "../printable.ts";
import type { ServedDisk } from "./served_disk.ts";

/** Bytes of an option's data that are looked at; longer ones are refused. */
export const MAX_OPTION_BYTES = 16_384;

/** Bytes of an option's data that are worth reading to refuse it. */
const MAX_SKIPPED_BYTES = 1 << 20;

/** Options of a client that are answered; it takes a handful to agree. */
const MAX_OPTIONS = 4096;

/** The number that stands for `base:allocation` once it is chosen. */
export const ALLOCATION_CONTEXT = 1;

/** Something that a client did and that ends its connection. */
export class ProtocolError extends Error {
  /** Always `"ProtocolError"`. */
  override readonly name = "ProtocolError";
}

/** What was agreed on. */
export interface Agreement {
  /** The export. */
  readonly served: ServedDisk;
  /** Whether replies may come in chunks. */
  readonly structured: boolean;
  /** Whether `base:allocation` was chosen. */
  readonly allocation: boolean;
}

/** What the server offers. */
export interface HandshakeOptions {
  /** The exports by name. */
  readonly exports: ReadonlyMap<string, ServedDisk>;
  /** Bytes that one request may move. */
  readonly maxPayload: number;
  /** Whether clients must go on with TLS. */
  readonly requiresTls: boolean;
}

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true });
const lossyDecoder = new TextDecoder();

const NO_BYTES = new Uint8Array();

/** The server's side of a handshake: bytes in, answers out. */
export class Handshake {
  #writer: StreamWriter;
  readonly #options: HandshakeOptions;
  #secure = false;
  #greeted = false;
  #noZeroes = false;
  #structured = false;
  /** The export for which `base:allocation` was chosen. */
  #allocationFor: string | null = null;
  /** Bytes of an option that was refused, still to come. */
  #skip = 0;
  /** What was agreed on, once it was. */
  agreement: Agreement | null = null;
  /** Whether the client gave up. */
  aborted = false;
  /** Whether the server is about to go: options are refused. */
  stopping = false;
  /** Whether the client is to go on with TLS now. */
  securing = false;
  /** Options so far. */
  #asked = 0;

  /**
   * Constructs a new instance, and greets.
   *
   * @param writer Where answers go.
   * @param options What the server offers.
   */
  constructor(writer: StreamWriter, options: HandshakeOptions) {
    this.#writer = writer;
    this.#options = options;
    const hello = new Uint8Array(18);
    const view = viewOf(hello);
    writeMagic(view, 0, Magic.Init);
    writeMagic(view, 8, Magic.Option);
    view.setUint16(
      16,
      HandshakeFlag.FixedNewstyle | HandshakeFlag.NoZeroes,
    );
    writer.push(hello);
  }

  /**
   * Goes on with TLS. What was agreed on before could have been anybody's.
   *
   * @param writer Where answers go from now on.
   */
  secured(writer: StreamWriter): void {
    this.#writer = writer;
    this.#secure = true;
    this.securing = false;
    this.#structured = false;
    this.#allocationFor = null;
  }

  /**
   * Takes one message.
   *
   * @param bytes What has come.
   * @returns Bytes that it took; 0 if more must come first.
   * @throws {ProtocolError} If there is no going on.
   */
  take(bytes: Uint8Array): number {
    if (this.#skip > 0) {
      const skipped = Math.min(this.#skip, bytes.length);
      this.#skip -= skipped;
      return skipped;
    }
    const view = viewOf(bytes);
    if (!this.#greeted) {
      if (bytes.length < 4) return 0;
      this.#greet(view.getUint32(0));
      return 4;
    }
    if (bytes.length < 8) return 0;
    if (
      view.getUint32(0) !== Magic.Option[0] ||
      view.getUint32(4) !== Magic.Option[1]
    ) {
      throw new ProtocolError("An option does not begin with its magic number");
    }
    if (bytes.length < OPTION_BYTES) return 0;
    const option = view.getUint32(8);
    const length = view.getUint32(12);
    if (++this.#asked > MAX_OPTIONS) {
      throw new ProtocolError(`A client asks for ${this.#asked} options`);
    }
    if (length > MAX_OPTION_BYTES) {
      if (length > MAX_SKIPPED_BYTES || option === Option.ExportName) {
        throw new ProtocolError(`An option has ${length} bytes of data`);
      }
      this.#skip = length;
      this.#reply(option, OptionReply.ErrTooBig);
      return OPTION_BYTES;
    }
    const end = OPTION_BYTES + length;
    if (bytes.length < end) {
      this.#asked--;
      return 0;
    }
    this.#negotiate(option, bytes.subarray(OPTION_BYTES, end));
    return end;
  }

  #greet(flags: number): void {
    const known = HandshakeFlag.FixedNewstyle | HandshakeFlag.NoZeroes;
    if ((flags & ~known) !== 0) {
      throw new ProtocolError(
        `The client asks for unknown flags 0x${(flags >>> 0).toString(16)}`,
      );
    }
    this.#noZeroes = (flags & HandshakeFlag.NoZeroes) !== 0;
    this.#greeted = true;
  }

  #negotiate(option: number, data: Uint8Array): void {
    if (this.stopping && option !== Option.Abort) {
      // The old way to take an export cannot be told no.
      if (option === Option.ExportName) this.aborted = true;
      else this.#reply(option, OptionReply.ErrShutdown);
      return;
    }
    if (
      this.#options.requiresTls && !this.#secure &&
      option !== Option.StartTls && option !== Option.Abort
    ) {
      if (option === Option.ExportName) {
        throw new ProtocolError("A client takes an export without TLS");
      }
      return this.#reply(option, OptionReply.ErrTlsRequired);
    }
    switch (option) {
      case Option.StartTls:
        return this.#startTls(data);
      case Option.ExportName:
        return this.#exportName(data);
      case Option.Abort:
        this.aborted = true;
        return this.#reply(option, OptionReply.Ack);
      case Option.List:
        return this.#list(data);
      case Option.Info:
      case Option.Go:
        return this.#go(option, data);
      case Option.StructuredReply:
        if (data.length > 0) return this.#reply(option, OptionReply.ErrInvalid);
        this.#structured = true;
        return this.#reply(option, OptionReply.Ack);
      case Option.ListMetaContext:
      case Option.SetMetaContext:
        return this.#metaContext(option, data);
      default:
        return this.#reply(option, OptionReply.ErrUnsupported);
    }
  }

  #startTls(data: Uint8Array): void {
    if (!this.#options.requiresTls) {
      return this.#reply(Option.StartTls, OptionReply.ErrUnsupported);
    }
    if (this.#secure || data.length > 0) {
      return this.#reply(Option.StartTls, OptionReply.ErrInvalid);
    }
    this.securing = true;
    this.#reply(Option.StartTls, OptionReply.Ack);
  }

  #exportName(data: Uint8Array): void {
    const name = textOf(data);
    const served = name === null ? undefined : this.#options.exports.get(name);
    if (served === undefined) {
      throw new ProtocolError(
        `There is no export "${printable(name ?? lossyDecoder.decode(data))}"`,
      );
    }
    const bytes = new Uint8Array(this.#noZeroes ? 10 : 134);
    const view = viewOf(bytes);
    writeU64(view, 0, served.size);
    view.setUint16(8, this.#flagsOf(served));
    this.#writer.push(bytes);
    this.#agree(served);
  }

  #list(data: Uint8Array): void {
    if (data.length > 0) {
      return this.#reply(Option.List, OptionReply.ErrInvalid);
    }
    for (const { name, description } of this.#options.exports.values()) {
      const text = encoder.encode(name);
      const more = encoder.encode(description);
      const item = new Uint8Array(4 + text.length + more.length);
      viewOf(item).setUint32(0, text.length);
      item.set(text, 4);
      item.set(more, 4 + text.length);
      this.#reply(Option.List, OptionReply.Server, item);
    }
    this.#reply(Option.List, OptionReply.Ack);
  }

  #go(option: number, data: Uint8Array): void {
    const view = viewOf(data);
    const nameBytes = data.length < 6 ? Infinity : view.getUint32(0);
    const count = nameBytes > data.length - 6
      ? -1
      : view.getUint16(4 + nameBytes);
    if (data.length !== 6 + nameBytes + 2 * count) {
      return this.#reply(option, OptionReply.ErrInvalid);
    }
    const name = textOf(data.subarray(4, 4 + nameBytes));
    if (name === null) return this.#reply(option, OptionReply.ErrInvalid);
    const served = this.#options.exports.get(name);
    if (served === undefined) {
      return this.#reply(
        option,
        OptionReply.ErrUnknown,
        encoder.encode(`There is no export "${printable(name)}"`),
      );
    }
    const wanted = new Set<number>();
    for (let i = 0; i < count; i++) {
      wanted.add(view.getUint16(6 + nameBytes + 2 * i));
    }
    const item = new Uint8Array(12);
    const itemView = viewOf(item);
    itemView.setUint16(0, Info.Export);
    writeU64(itemView, 2, served.size);
    itemView.setUint16(10, this.#flagsOf(served));
    this.#reply(option, OptionReply.Info, item);
    if (wanted.has(Info.Name)) this.#text(option, Info.Name, name);
    if (wanted.has(Info.Description) && served.description !== "") {
      this.#text(option, Info.Description, served.description);
    }
    if (wanted.has(Info.BlockSize)) {
      const sizes = new Uint8Array(14);
      const sizesView = viewOf(sizes);
      sizesView.setUint16(0, Info.BlockSize);
      // What is no whole block is read, changed and written here, where nobody
      // else is in between.
      sizesView.setUint32(2, 1);
      sizesView.setUint32(6, served.preferredSize);
      sizesView.setUint32(10, this.#options.maxPayload);
      this.#reply(option, OptionReply.Info, sizes);
    }
    this.#reply(option, OptionReply.Ack);
    if (option === Option.Go) {
      this.#agree(served);
    }
  }

  #metaContext(option: number, data: Uint8Array): void {
    const set = option === Option.SetMetaContext;
    if (set) this.#allocationFor = null;
    const request = metaContextOf(data);
    if (request === null || (set && !this.#structured)) {
      return this.#reply(option, OptionReply.ErrInvalid);
    }
    const { name, queries } = request;
    if (!this.#options.exports.has(name)) {
      return this.#reply(option, OptionReply.ErrUnknown);
    }
    const found = set
      ? queries.includes(BASE_ALLOCATION)
      : queries.length === 0 || queries.includes(BASE_ALLOCATION) ||
        queries.includes("base:");
    if (found) {
      const text = encoder.encode(BASE_ALLOCATION);
      const item = new Uint8Array(4 + text.length);
      viewOf(item).setUint32(0, set ? ALLOCATION_CONTEXT : 0);
      item.set(text, 4);
      this.#reply(option, OptionReply.MetaContext, item);
      if (set) this.#allocationFor = name;
    }
    this.#reply(option, OptionReply.Ack);
  }

  #agree(served: ServedDisk): void {
    this.agreement = {
      served,
      structured: this.#structured,
      allocation: this.#allocationFor === served.name,
    };
  }

  #flagsOf(served: ServedDisk): number {
    return served.flags | (this.#structured ? ExportFlag.SendDf : 0);
  }

  #text(option: number, info: number, text: string): void {
    const encoded = encoder.encode(text);
    const item = new Uint8Array(2 + encoded.length);
    viewOf(item).setUint16(0, info);
    item.set(encoded, 2);
    this.#reply(option, OptionReply.Info, item);
  }

  #reply(option: number, type: number, data: Uint8Array = NO_BYTES): void {
    const bytes = new Uint8Array(OPTION_REPLY_BYTES + data.length);
    const view = viewOf(bytes);
    writeMagic(view, 0, Magic.OptionReply);
    view.setUint32(8, option);
    view.setUint32(12, type);
    view.setUint32(16, data.length);
    bytes.set(data, OPTION_REPLY_BYTES);
    this.#writer.push(bytes);
  }
}

function writeMagic(
  view: DataView,
  at: number,
  [high, low]: readonly [number, number],
): void {
  view.setUint32(at, high);
  view.setUint32(at + 4, low);
}

/** A string of the protocol; `null` if it is none. */
function textOf(bytes: Uint8Array): string | null {
  if (bytes.length > MAX_STRING_BYTES || bytes.includes(0)) return null;
  try {
    return decoder.decode(bytes);
  } catch {
    return null;
  }
}

/** Reads a question about metadata; `null` if it is malformed. */
function metaContextOf(
  data: Uint8Array,
): { name: string; queries: string[] } | null {
  const view = viewOf(data);
  let at = 0;
  const number = (): number | null => {
    if (data.length - at < 4) return null;
    at += 4;
    return view.getUint32(at - 4);
  };
  const string = (): string | null => {
    const length = number();
    if (length === null || length > data.length - at) return null;
    at += length;
    return textOf(data.subarray(at - length, at));
  };
  const name = string();
  const count = name === null ? null : number();
  if (name === null || count === null) return null;
  const queries: string[] = [];
  for (let i = 0; i < count; i++) {
    const query = string();
    if (query === null) return null;
    queries.push(query);
  }
  return at === data.length ? { name, queries } : null;
}
