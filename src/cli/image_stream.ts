/**
 * Images that come as a stream: standard input, and files that are compressed.
 * Bytes are taken and passed over in order; nothing is kept.
 *
 * @module
 */

import { type OpenedFile, openFile, statFile } from "../platform/files.ts";
import {
  type Compression,
  compressionOf,
  contentFormatOf,
  FORMAT_BYTES,
} from "../content_format.ts";
import { formatSize } from "../units.ts";
import { decompress } from "./decompress.ts";
import { CliError, fileError } from "./images.ts";
import type { CliIo } from "./io.ts";

/** Bytes of one read of a file. */
const READ_BYTES = 2 ** 18;

/** Bytes in order, from wherever. */
export interface ByteSource {
  /** What to call it in errors. */
  readonly name: string;
  /**
   * Takes the next bytes.
   *
   * @param bytes How many; the rest by default.
   * @returns Them, in pieces, each of which is good until the next is asked for.
   * @throws {CliError} If there are fewer.
   */
  take(bytes?: number): AsyncGenerator<Uint8Array, void>;
  /**
   * Leaves bytes out.
   *
   * @param bytes How many.
   * @returns When they are gone.
   * @throws {CliError} If there are fewer.
   */
  pass(bytes: number): Promise<void>;
  /**
   * Makes sure that the image is over, where that can be told.
   *
   * @returns When it is known.
   * @throws {CliError} If there is more of it.
   */
  end(): Promise<void>;
}

/** An image that comes as a stream. */
export class ImageStream implements ByteSource, AsyncDisposable {
  /** What to call it in errors. */
  readonly name: string;
  /** How it was compressed; `null` if it was not. */
  readonly compression: Compression | null;
  /** Bytes of the file that it comes from, if it is one. */
  readonly fileBytes: number | undefined;
  readonly #bytes: AsyncGenerator<Uint8Array, void>;
  readonly #raw: RawBytes;
  /** What is left of the last piece. */
  #rest: Uint8Array = new Uint8Array();
  #taken = 0;

  private constructor(
    raw: RawBytes,
    name: string,
    compression: Compression | null,
    fileBytes: number | undefined,
  ) {
    this.name = name;
    this.compression = compression;
    this.fileBytes = fileBytes;
    this.#raw = raw;
    this.#bytes = compression === null
      ? raw.all()
      : decompress(raw.all(), compression, name);
  }

  /**
   * Opens what the name of an image means, if that is a stream.
   *
   * @param path The name, or `-` for standard input.
   * @param io What to talk to.
   * @param isRaw Whether it is taken as it is, whatever it looks like.
   * @param signal Breaks off a read that may never end.
   * @returns The stream; `null` if the image is a disk.
   * @throws {CliError} If it cannot be read, or is a disk in a container, or what
   * is compressed in it is none.
   */
  static async open(
    path: string,
    io: CliIo,
    isRaw: boolean,
    signal: AbortSignal,
  ): Promise<ImageStream | null> {
    if (path !== "-") return isRaw ? null : await fromFile(path, signal);
    const raw = new RawBytes(io.stdin(), "standard input", signal);
    try {
      const format = await raw.format();
      const compression = isRaw ? null : compressionOf(format);
      if (!isRaw && compression === null && format !== null) {
        throw new CliError(
          `Cannot copy standard input as it must be a raw or compressed ` +
            `image: current value looks like ${format}`,
        );
      }
      return await ready(
        new ImageStream(raw, raw.name, compression, undefined),
      );
    } catch (error) {
      await raw.close();
      throw error;
    }

    async function fromFile(
      path: string,
      signal: AbortSignal,
    ): Promise<ImageStream | null> {
      let file: OpenedFile;
      let size: number;
      try {
        const stat = await statFile(path);
        if (!stat.isFile) return null;
        size = stat.size;
        file = await openFile(path);
      } catch {
        // Who opens it as a disk says it better.
        return null;
      }
      const name = `"${path}"`;
      const raw = new RawBytes(streamOf(file, path), name, signal);
      const compression = compressionOf(await raw.format());
      if (compression === null) {
        await raw.close();
        return null;
      }
      return await ready(new ImageStream(raw, name, compression, size));
    }

    async function ready(stream: ImageStream): Promise<ImageStream> {
      try {
        if (stream.compression !== null) await stream.#checkInside();
        return stream;
      } catch (error) {
        await stream[Symbol.asyncDispose]();
        throw error;
      }
    }
  }

  /** Bytes taken and passed over so far. */
  get taken(): number {
    return this.#taken;
  }

  /** Bytes of the file read so far, compressed as they are. */
  get fileBytesRead(): number {
    return this.#raw.read;
  }

  /** As in {@linkcode ByteSource}. */
  async *take(bytes: number = Infinity): AsyncGenerator<Uint8Array, void> {
    for (let left = bytes; left > 0;) {
      if (this.#rest.length === 0) {
        const next = await this.#bytes.next();
        if (next.done) {
          if (left === Infinity) return;
          throw new CliError(
            `Cannot read all of ${this.name} as it ends early: ` +
              `${formatSize(left)} are missing after ${
                formatSize(this.#taken)
              }`,
          );
        }
        this.#rest = next.value;
      }
      const piece = this.#rest.subarray(0, Math.min(left, this.#rest.length));
      this.#rest = this.#rest.subarray(piece.length);
      this.#taken += piece.length;
      left -= piece.length;
      yield piece;
    }
  }

  /** As in {@linkcode ByteSource}. */
  async pass(bytes: number): Promise<void> {
    for await (const _ of this.take(bytes)) {
      // Only its end matters.
    }
  }

  /** As in {@linkcode ByteSource}. */
  async end(): Promise<void> {
    for await (const _ of this.take()) {
      throw new CliError(
        `Cannot take ${this.name} for that image as it goes on after its end`,
      );
    }
  }

  /**
   * Refuses what was compressed if its bytes are not those of a disk. An encrypted
   * volume's are, which begins as LUKS.
   */
  async #checkInside(): Promise<void> {
    while (this.#rest.length < FORMAT_BYTES) {
      const next = await this.#bytes.next();
      if (next.done) break;
      const both = new Uint8Array(this.#rest.length + next.value.length);
      both.set(this.#rest);
      both.set(next.value, this.#rest.length);
      this.#rest = both;
    }
    const head = this.#rest.subarray(0, FORMAT_BYTES);
    const format = contentFormatOf(head, new Uint8Array());
    if (format === null || format === "LUKS") return;
    throw new CliError(
      `Cannot copy ${this.name} as what is in its ${this.compression} data must ` +
        `be a raw image: current value looks like ${format} (decompress it ` +
        `first, or pipe its bytes into "platter copy - TARGET --format raw")`,
    );
  }

  /** Ends it, and what decompresses it. */
  async [Symbol.asyncDispose](): Promise<void> {
    // A generator that waits for bytes ends only after they came, or cannot.
    await this.#raw.close();
    await this.#bytes.return();
  }
}

/** The bytes of a stream as they are, the first of which can be looked at. */
class RawBytes {
  readonly name: string;
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>;
  readonly #signal: AbortSignal;
  readonly #cancel: () => void;
  readonly #ahead: Uint8Array[] = [];
  /** Bytes that were handed on. */
  read = 0;

  constructor(
    stream: ReadableStream<Uint8Array>,
    name: string,
    signal: AbortSignal,
  ) {
    this.name = name;
    this.#reader = stream.getReader();
    this.#signal = signal;
    // A read of an idle terminal or pipe has to be broken off.
    this.#cancel = () => void this.#reader.cancel().catch(() => {});
    signal.addEventListener("abort", this.#cancel);
  }

  /** What they look like by the first of them, without taking these. */
  async format(): Promise<string | null> {
    let length = 0;
    while (length < FORMAT_BYTES) {
      const next = await this.#next();
      if (next === undefined) break;
      this.#ahead.push(next);
      length += next.length;
    }
    const head = new Uint8Array(Math.min(length, FORMAT_BYTES));
    let at = 0;
    for (const piece of this.#ahead) {
      const part = piece.subarray(0, head.length - at);
      head.set(part, at);
      at += part.length;
    }
    return contentFormatOf(head, new Uint8Array());
  }

  async *all(): AsyncGenerator<Uint8Array, void> {
    for (;;) {
      const piece = this.#ahead.shift() ?? await this.#next();
      if (piece === undefined) return;
      this.read += piece.length;
      yield piece;
    }
  }

  async close(): Promise<void> {
    this.#signal.removeEventListener("abort", this.#cancel);
    await this.#reader.cancel().catch(() => {});
  }

  async #next(): Promise<Uint8Array | undefined> {
    let result: ReadableStreamReadResult<Uint8Array>;
    try {
      result = await this.#reader.read();
    } catch (error) {
      this.#signal.throwIfAborted();
      // A file's own stream says it already.
      if (error instanceof CliError) throw error;
      throw new CliError(
        `Cannot read ${this.name} as ${(error as Error).message}`,
        { cause: error },
      );
    }
    this.#signal.throwIfAborted();
    return result.value;
  }
}

/** A regular file as a stream, in larger pieces than its own has. */
function streamOf(
  file: OpenedFile,
  path: string,
): ReadableStream<Uint8Array> {
  let reading: Promise<number | null> = Promise.resolve(null);
  let isOpen = true;
  const close = () => {
    if (isOpen) file.close();
    isOpen = false;
  };
  return new ReadableStream({
    async pull(controller) {
      const buffer = new Uint8Array(READ_BYTES);
      let length: number | null;
      try {
        reading = file.read(buffer);
        length = await reading;
      } catch (error) {
        close();
        throw fileError("read", path, error);
      }
      if (length !== null) {
        return controller.enqueue(buffer.subarray(0, length));
      }
      close();
      controller.close();
    },
    async cancel() {
      // A read is not to outlive its file; it ends soon, as this is no pipe.
      await Promise.allSettled([reading]);
      close();
    },
  }, { highWaterMark: 0 });
}
