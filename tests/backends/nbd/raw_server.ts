/**
 * An NBD server that says whatever it is told to: for what real ones never do.
 *
 * @module
 */

import { viewOf } from "../../../src/bytes.ts";
import { readU64 } from "../../../src/protocol/nbd/big_endian.ts";
import {
  CHUNK_BYTES,
  CHUNK_DONE,
  ChunkType,
  Command,
  ExportFlag,
  Info,
  Magic,
  Option,
  OPTION_REPLY_BYTES,
  OptionReply,
  REQUEST_BYTES,
  SIMPLE_REPLY_BYTES,
} from "../../../src/protocol/nbd/numbers.ts";
import { type TempDir, tempDir } from "../../helpers.ts";
import { joined, u16, u32, u64, Wire } from "../../nbd/wire.ts";

/** A request that a client sent. */
export interface SeenRequest {
  readonly type: number;
  readonly flags: number;
  readonly cookie: Uint8Array;
  readonly offset: number;
  readonly length: number;
  readonly payload: Uint8Array;
}

/** What an export is said to be. */
export interface RawExport {
  readonly structured?: boolean;
  readonly size?: number;
  readonly flags?: number;
}

/** Flags of an export that can do all that a client may ask for. */
export const ALL_FLAGS: number = ExportFlag.HasFlags | ExportFlag.SendFlush |
  ExportFlag.SendFua | ExportFlag.SendTrim | ExportFlag.SendWriteZeroes;

/** The server's end of one connection. */
export class RawPeer extends Wire {
  /** Sends bytes, all at once. */
  override send(...parts: Uint8Array[]): Promise<void> {
    return super.send(joined(parts));
  }

  /** Everything until the client hangs up. */
  async rest(): Promise<Uint8Array> {
    const parts: Uint8Array[] = [];
    await this.readAll((part) => parts.push(part));
    return joined(parts);
  }

  /** Greets, and takes the client's answer. */
  async greet(flags = 3): Promise<void> {
    await this.send(greeting(flags));
    await this.read(4);
  }

  /** Takes an option; returns its number. */
  async option(): Promise<number> {
    const view = viewOf(await this.read(16));
    await this.read(view.getUint32(12));
    return view.getUint32(8);
  }

  /** Answers an option. */
  reply(
    option: number,
    type: number,
    data: Uint8Array = new Uint8Array(),
  ): Promise<void> {
    return this.send(optionReply(option, type, data));
  }

  /** Shakes hands up to the answer to GO. */
  async untilGo(structured = true): Promise<void> {
    await this.greet();
    await this.option();
    await this.reply(
      Option.StructuredReply,
      structured ? OptionReply.Ack : OptionReply.ErrUnsupported,
    );
    await this.option();
  }

  /** Shakes hands. */
  async attach(options: RawExport = {}): Promise<void> {
    await this.untilGo(options.structured);
    await this.reply(Option.Go, OptionReply.Info, exportInfo(options));
    await this.reply(Option.Go, OptionReply.Ack);
  }

  /** Takes a request. */
  async request(): Promise<SeenRequest> {
    const bytes = await this.read(REQUEST_BYTES);
    const view = viewOf(bytes);
    if (view.getUint32(0) !== Magic.Request) throw new Error("No request");
    const type = view.getUint16(6);
    const length = view.getUint32(24);
    return {
      type,
      flags: view.getUint16(4),
      cookie: bytes.slice(8, 16),
      offset: readU64(view, 16),
      length,
      payload: await this.read(type === Command.Write ? length : 0),
    };
  }

  /** Sends a simple reply. */
  simple({ cookie }: SeenRequest, error = 0): Promise<void> {
    return this.send(simpleReply(cookie, error));
  }

  /** Sends a chunk of a reply. */
  chunk(
    { cookie }: SeenRequest,
    type: number,
    payload: Uint8Array = new Uint8Array(),
    done = true,
  ): Promise<void> {
    return this.send(chunk(cookie, type, payload, done));
  }

  /** Sends data of a read as a chunk: bytes from there on, the same each. */
  data(
    request: SeenRequest,
    from: number,
    length: number,
    done: boolean,
    value = 0xdd,
  ): Promise<void> {
    return this.chunk(
      request,
      ChunkType.OffsetData,
      joined([u64(request.offset + from), new Uint8Array(length).fill(value)]),
      done,
    );
  }
}

/** A server that says what a script says, to each client that comes. */
export class RawServer implements AsyncDisposable {
  readonly #listener: Deno.Listener;
  readonly #dir: TempDir;
  readonly #peers: RawPeer[] = [];
  readonly #serving: Promise<void>;
  readonly uri: string;
  /** What went wrong on this side. */
  readonly faults: unknown[] = [];

  private constructor(dir: TempDir, script: (peer: RawPeer) => Promise<void>) {
    this.#dir = dir;
    const path = dir.join("socket");
    this.uri = `nbd+unix:///?socket=${path}`;
    this.#listener = Deno.listen({ transport: "unix", path });
    this.#serving = this.#serve(script);
  }

  static async start(
    script: (peer: RawPeer) => Promise<void>,
  ): Promise<RawServer> {
    return new RawServer(await tempDir(), script);
  }

  async #serve(script: (peer: RawPeer) => Promise<void>): Promise<void> {
    const talks: Promise<void>[] = [];
    for await (const conn of this.#listener) {
      const peer = new RawPeer(conn);
      this.#peers.push(peer);
      // What a client that leaves does to a script is no fault.
      talks.push(
        script(peer).catch((error) => void this.faults.push(error)),
      );
    }
    await Promise.all(talks);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#listener.close();
    for (const peer of this.#peers) peer.close();
    await this.#serving;
    await this.#dir[Symbol.asyncDispose]();
  }
}

/** What a server says first. */
export function greeting(flags: number): Uint8Array {
  return joined([
    new TextEncoder().encode("NBDMAGICIHAVEOPT"),
    u16(flags),
  ]);
}

/** An answer to an option. */
export function optionReply(
  option: number,
  type: number,
  data: Uint8Array = new Uint8Array(),
  length = data.length,
): Uint8Array {
  const bytes = new Uint8Array(OPTION_REPLY_BYTES + data.length);
  const view = viewOf(bytes);
  view.setUint32(0, Magic.OptionReply[0]);
  view.setUint32(4, Magic.OptionReply[1]);
  view.setUint32(8, option);
  view.setUint32(12, type);
  view.setUint32(16, length);
  bytes.set(data, OPTION_REPLY_BYTES);
  return bytes;
}

/** What an export is. */
export function exportInfo(
  { size = 8 << 20, flags = ALL_FLAGS }: RawExport = {},
): Uint8Array {
  return joined([u16(Info.Export), u64(size), u16(flags)]);
}

/** What requests must be multiples of. */
export function blockInfo(
  minimum: number,
  preferred: number,
  maximum: number,
): Uint8Array {
  return joined([
    u16(Info.BlockSize),
    u32(minimum),
    u32(preferred),
    u32(maximum),
  ]);
}

export function simpleReply(cookie: Uint8Array, error = 0): Uint8Array {
  const bytes = new Uint8Array(SIMPLE_REPLY_BYTES);
  const view = viewOf(bytes);
  view.setUint32(0, Magic.SimpleReply);
  view.setUint32(4, error);
  bytes.set(cookie, 8);
  return bytes;
}

export function chunk(
  cookie: Uint8Array,
  type: number,
  payload: Uint8Array,
  done: boolean,
  length = payload.length,
): Uint8Array {
  const bytes = new Uint8Array(CHUNK_BYTES + payload.length);
  const view = viewOf(bytes);
  view.setUint32(0, Magic.Chunk);
  view.setUint16(4, done ? CHUNK_DONE : 0);
  view.setUint16(6, type);
  bytes.set(cookie, 8);
  view.setUint32(16, length);
  bytes.set(payload, CHUNK_BYTES);
  return bytes;
}

/** The payload of a chunk that reports an error. */
export function errorPayload(error: number, text = ""): Uint8Array {
  const bytes = new TextEncoder().encode(text);
  return joined([u32(error), u16(bytes.length), bytes]);
}
