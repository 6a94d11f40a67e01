/**
 * What the tests of the NBD server share: a server on a socket of its own, and
 * a client that says whatever it is told to.
 *
 * @module
 */

import type { VirtualDisk } from "../../src/disk/disk.ts";
import { NbdServer, type NbdServerOptions } from "../../src/nbd/mod.ts";
import { viewOf } from "../../src/bytes.ts";
import { writeU64 } from "../../src/protocol/nbd/big_endian.ts";
import {
  Magic,
  Option,
  OPTION_BYTES,
  REQUEST_BYTES,
} from "../../src/protocol/nbd/numbers.ts";
import { run, type TempDir, tempDir } from "../helpers.ts";
import { joined, u32, Wire } from "./wire.ts";

/** A server on a Unix socket in a folder of its own. */
export interface Served extends AsyncDisposable {
  readonly server: NbdServer;
  readonly dir: TempDir;
  readonly socket: string;
  readonly uri: string;
  /** What clients did wrong. */
  readonly faults: Error[];
}

/** Serves a disk; the disk is closed with the server. */
export async function serveDisk(
  disk: VirtualDisk,
  options: Partial<NbdServerOptions> = {},
): Promise<Served> {
  const dir = await tempDir();
  const socket = dir.join("nbd.sock");
  const faults: Error[] = [];
  const server = NbdServer.listen({
    path: socket,
    exports: [{ disk }],
    onError: (error) => faults.push(error),
    ...options,
  });
  return {
    server,
    dir,
    socket,
    uri: server.uri(),
    faults,
    async [Symbol.asyncDispose]() {
      await server.close(500);
      await disk.close();
      await dir[Symbol.asyncDispose]();
    },
  };
}

/**
 * Mounts a server's disk as a file, by nbdfuse, which serves any byte of it.
 *
 * @returns The path of the file; it goes away with the stack.
 */
export async function mountNbdfuse(
  served: Served,
  stack: AsyncDisposableStack,
): Promise<string> {
  const point = served.dir.join("fuse");
  await Deno.mkdir(point);
  const child = new Deno.Command("nbdfuse", {
    args: [`${point}/disk`, served.uri],
    stdin: "null",
    stdout: "null",
    stderr: "inherit",
  }).spawn();
  stack.defer(async () => {
    // The device lets go of the file a little later than it says.
    for (let i = 0; i < 600; i++) {
      const left = await run("fusermount3", ["-u", point]).then(
        () => false,
        () => true,
      );
      if (!left) break;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    const timer = setTimeout(() => child.kill("SIGKILL"), 10_000);
    await child.status;
    clearTimeout(timer);
  });
  for (let i = 0;; i++) {
    const there = await Deno.stat(`${point}/disk`).then(
      () => true,
      () => false,
    );
    if (there) break;
    if (i === 3000) throw new Error("Cannot wait any longer for nbdfuse");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return `${point}/disk`;
}

/**
 * Does something again that a server had no patience with, as this process had
 * no turn meanwhile.
 *
 * @param act What is done. If it fails, nothing of it may be left.
 * @returns What it gives.
 */
export async function patiently<T>(act: () => Promise<T>): Promise<T> {
  for (let attempts = 1;; attempts++) {
    try {
      return await act();
    } catch (error) {
      const isGone = error instanceof Deno.errors.UnexpectedEof ||
        error instanceof Deno.errors.ConnectionReset ||
        error instanceof Deno.errors.BrokenPipe;
      if (!isGone || attempts === 20) throw error;
    }
  }
}

/** A reply: an error number, and data. */
export interface Reply {
  error: number;
  data: Uint8Array;
}

/** A client that says whatever it is told to. */
export class RawClient extends Wire implements Disposable {
  /** Connects, and nothing more. */
  static async dial(path: string): Promise<RawClient> {
    return new RawClient(await Deno.connect({ transport: "unix", path }));
  }

  /** Connects, and takes the greeting. */
  static async connect(path: string, flags = 3): Promise<RawClient> {
    const client = await RawClient.dial(path);
    try {
      await client.read(18);
      await client.send(u32(flags));
    } catch (error) {
      client[Symbol.dispose]();
      throw error;
    }
    return client;
  }

  /** Connects, and agrees on an export with simple replies only. */
  static async attach(path: string, name = ""): Promise<RawClient> {
    const client = await RawClient.connect(path);
    try {
      await client.send(
        optionMessage(Option.ExportName, new TextEncoder().encode(name)),
      );
      await client.read(10);
    } catch (error) {
      client[Symbol.dispose]();
      throw error;
    }
    return client;
  }

  /** Sends bytes, as far as the server takes them, while others go on. */
  sendAll(...parts: Uint8Array[]): void {
    this.send(...parts).catch(() => {});
  }

  /** Reads until the server hangs up; returns how many bytes that were. */
  async drain(): Promise<number> {
    let sum = 0;
    await this.readAll(({ length }) => sum += length);
    return sum;
  }

  /** Reads one answer to an option. */
  async answer(): Promise<{ option: number; type: number; data: Uint8Array }> {
    const view = viewOf(await this.read(20));
    return {
      option: view.getUint32(8),
      type: view.getUint32(12),
      data: await this.read(view.getUint32(16)),
    };
  }

  /** Sends a request and reads its simple reply. */
  async ask(
    type: number,
    offset: number,
    length: number,
    payload: Uint8Array = new Uint8Array(),
    flags = 0,
  ): Promise<Reply> {
    await this.send(requestMessage(type, offset, length, flags), payload);
    const view = viewOf(await this.read(16));
    if (view.getUint32(0) !== Magic.SimpleReply) throw new Error("No reply");
    const error = view.getUint32(4);
    return {
      error,
      data: await this.read(type === 0 && error === 0 ? length : 0),
    };
  }

  /** Hangs up. */
  [Symbol.dispose](): void {
    this.close();
  }
}

/** An option. */
export function optionMessage(
  option: number,
  data: Uint8Array = new Uint8Array(),
  length = data.length,
): Uint8Array {
  const bytes = new Uint8Array(OPTION_BYTES + data.length);
  const view = viewOf(bytes);
  view.setUint32(0, Magic.Option[0]);
  view.setUint32(4, Magic.Option[1]);
  view.setUint32(8, option);
  view.setUint32(12, length);
  bytes.set(data, OPTION_BYTES);
  return bytes;
}

/** The data of GO and INFO. */
export function goData(name: string, ...infos: number[]): Uint8Array {
  const text = new TextEncoder().encode(name);
  const bytes = new Uint8Array(6 + text.length + 2 * infos.length);
  const view = viewOf(bytes);
  view.setUint32(0, text.length);
  bytes.set(text, 4);
  view.setUint16(4 + text.length, infos.length);
  infos.forEach((info, i) => view.setUint16(6 + text.length + 2 * i, info));
  return bytes;
}

/** The data of SET_META_CONTEXT and LIST_META_CONTEXT. */
export function metaData(name: string, ...queries: string[]): Uint8Array {
  const encoder = new TextEncoder();
  const parts: Uint8Array[] = [];
  for (const [i, text] of [name, ...queries].entries()) {
    const bytes = encoder.encode(text);
    parts.push(u32(bytes.length), bytes);
    if (i === 0) parts.push(u32(queries.length));
  }
  return joined(parts);
}

/** A request without its payload. */
export function requestMessage(
  type: number,
  offset: number,
  length: number,
  flags = 0,
  cookie = 7,
): Uint8Array {
  const bytes = new Uint8Array(REQUEST_BYTES);
  const view = viewOf(bytes);
  view.setUint32(0, Magic.Request);
  view.setUint16(4, flags);
  view.setUint16(6, type);
  view.setUint32(12, cookie);
  writeU64(view, 16, offset);
  view.setUint32(24, length);
  return bytes;
}
