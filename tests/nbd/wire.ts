/**
 * One end of a connection that says whatever it is told to, and how NBD puts
 * numbers.
 *
 * @module
 */

import { viewOf } from "../../src/bytes.ts";
import { writeU64 } from "../../src/protocol/nbd/big_endian.ts";

/** A socket, message by message. */
export class Wire {
  readonly #conn: Deno.Conn;

  constructor(conn: Deno.Conn) {
    this.#conn = conn;
  }

  /** Sends bytes. */
  async send(...parts: Uint8Array[]): Promise<void> {
    for (const part of parts) {
      for (let at = 0; at < part.length;) {
        at += await this.#conn.write(part.subarray(at));
      }
    }
  }

  /** Reads so many bytes. */
  async read(length: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(length);
    for (let at = 0; at < length;) {
      const count = await this.#conn.read(bytes.subarray(at));
      if (count === null) throw new Deno.errors.UnexpectedEof("Hung up");
      at += count;
    }
    return bytes;
  }

  /** Reads until the other side hangs up; hands on what came. */
  async readAll(take: (bytes: Uint8Array) => void): Promise<void> {
    for (;;) {
      const bytes = new Uint8Array(65_536);
      const count = await this.#conn.read(bytes).catch(() => null);
      if (count === null) return;
      take(bytes.subarray(0, count));
    }
  }

  /** Says that nothing more will come. */
  closeWrite(): Promise<void> {
    return this.#conn.closeWrite();
  }

  /** Hangs up. */
  close(): void {
    try {
      this.#conn.close();
    } catch {
      // It is closed already.
    }
  }
}

/** A 16-bit number. */
export function u16(value: number): Uint8Array {
  const bytes = new Uint8Array(2);
  viewOf(bytes).setUint16(0, value);
  return bytes;
}

/** A 32-bit number. */
export function u32(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  viewOf(bytes).setUint32(0, value);
  return bytes;
}

/** A 64-bit number. */
export function u64(value: number): Uint8Array {
  const bytes = new Uint8Array(8);
  writeU64(viewOf(bytes), 0, value);
  return bytes;
}

/** Joins bytes. */
export function joined(parts: readonly Uint8Array[]): Uint8Array {
  const all = new Uint8Array(parts.reduce((sum, it) => sum + it.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}
