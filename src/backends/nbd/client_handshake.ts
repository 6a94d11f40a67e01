/**
 * The client's side of the NBD handshake.
 *
 * @module
 */

import { DiskError } from "../../errors.ts";
import {
  ExportFlag,
  HandshakeFlag,
  Info,
  Magic,
  Option,
  OPTION_BYTES,
  OPTION_REPLY_BYTES,
  OptionReply,
  readU64,
  viewOf,
} from "../../nbd_wire.ts";
import type { ByteStream } from "./byte_stream.ts";

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

/** What the protocol says of requests if the server does not. */
const DEFAULT_MAXIMUM = 32 << 20;

const encoder = new TextEncoder();

/**
 * Agrees with a server on an export.
 *
 * @param stream The connection.
 * @param exportName The export.
 * @param uri What it is called in errors.
 * @returns What the server said of it.
 * @throws {DiskError} If it has no such export, or is no such server.
 */
export async function shakeHands(
  stream: ByteStream,
  exportName: string,
  uri: string,
): Promise<Negotiated> {
  const fail = (kind: DiskError["kind"], reason: string): never => {
    throw new DiskError(kind, `Cannot open "${uri}" as ${reason}`, {
      operation: "open",
      path: uri,
    });
  };
  const read = async (length: number): Promise<DataView> => {
    const bytes = new Uint8Array(length);
    for (let at = 0; at < length;) {
      const count = await stream.read(bytes.subarray(at));
      if (count === null) fail("io", "the server hung up");
      at += count!;
    }
    return viewOf(bytes);
  };
  const write = async (bytes: Uint8Array): Promise<void> => {
    for (let at = 0; at < bytes.length;) {
      at += await stream.write(bytes.subarray(at));
    }
  };
  const ask = (option: number, data: Uint8Array): Promise<void> => {
    const bytes = new Uint8Array(OPTION_BYTES + data.length);
    const view = viewOf(bytes);
    view.setUint32(0, Magic.Option[0]);
    view.setUint32(4, Magic.Option[1]);
    view.setUint32(8, option);
    view.setUint32(12, data.length);
    bytes.set(data, OPTION_BYTES);
    return write(bytes);
  };
  const answer = async (
    option: number,
  ): Promise<{ type: number; data: DataView }> => {
    const head = await read(OPTION_REPLY_BYTES);
    const length = head.getUint32(16);
    if (
      head.getUint32(0) !== Magic.OptionReply[0] ||
      head.getUint32(4) !== Magic.OptionReply[1] ||
      head.getUint32(8) !== option || length > MAX_REPLY_BYTES
    ) fail("io", "the server does not answer as NBD servers do");
    return { type: head.getUint32(12), data: await read(length) };
  };

  const hello = await read(18);
  const handshakeFlags = hello.getUint16(16);
  if (
    hello.getUint32(0) !== Magic.Init[0] ||
    hello.getUint32(4) !== Magic.Init[1] ||
    hello.getUint32(8) !== Magic.Option[0] ||
    hello.getUint32(12) !== Magic.Option[1] ||
    (handshakeFlags & HandshakeFlag.FixedNewstyle) === 0
  ) fail("platform", "there is no NBD server of the fixed newstyle");
  const flags = new Uint8Array(4);
  viewOf(flags).setUint32(
    0,
    handshakeFlags & (HandshakeFlag.FixedNewstyle | HandshakeFlag.NoZeroes),
  );
  await write(flags);

  await ask(Option.StructuredReply, new Uint8Array());
  const structured =
    (await answer(Option.StructuredReply)).type === OptionReply.Ack;

  const name = encoder.encode(exportName);
  const wish = new Uint8Array(8 + name.length);
  const wishView = viewOf(wish);
  wishView.setUint32(0, name.length);
  wish.set(name, 4);
  wishView.setUint16(4 + name.length, 1);
  wishView.setUint16(6 + name.length, Info.BlockSize);
  await ask(Option.Go, wish);
  let size = -1;
  let exportFlags = 0;
  let minimum = 1;
  let preferred = 4096;
  let maximum = DEFAULT_MAXIMUM;
  for (;;) {
    const { type, data } = await answer(Option.Go);
    if (type === OptionReply.Ack) break;
    if (type === OptionReply.Info && data.byteLength >= 2) {
      const info = data.getUint16(0);
      if (info === Info.Export && data.byteLength === 12) {
        size = readU64(data, 2);
        exportFlags = data.getUint16(10);
      } else if (info === Info.BlockSize && data.byteLength === 14) {
        minimum = data.getUint32(2);
        preferred = data.getUint32(6);
        maximum = Math.min(data.getUint32(10), DEFAULT_MAXIMUM);
      }
      continue;
    }
    if (type === OptionReply.ErrUnsupported) {
      // A server from before GO.
      await ask(Option.ExportName, name);
      const zeroes = (handshakeFlags & HandshakeFlag.NoZeroes) === 0;
      const item = await read(zeroes ? 134 : 10);
      size = readU64(item, 0);
      exportFlags = item.getUint16(8);
      break;
    }
    const text = new TextDecoder().decode(data).slice(0, 200);
    if (type === OptionReply.ErrUnknown) {
      fail("not-found", `the server has no export "${exportName}"`);
    }
    fail(
      type === OptionReply.ErrPolicy ? "permission" : "platform",
      `the server refuses: ${
        text || `option reply 0x${(type >>> 0).toString(16)}`
      }`,
    );
  }
  if (size < 0 || (exportFlags & ExportFlag.HasFlags) === 0) {
    fail("io", "the server does not say what the export is");
  }
  return {
    size,
    flags: exportFlags,
    structured,
    minimum,
    preferred,
    maximum,
  };
}
