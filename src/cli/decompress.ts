/**
 * Streams of compressed bytes, decompressed. gzip is node:zlib's. xz and zstd are
 * done by the programs of these names, one process each, which check what they
 * read and keep to a bound of memory: node:zlib has no xz, and its zstd (Deno 2.9)
 * takes a file that was cut short for a whole one and stops at the first frame.
 *
 * Data flows from the source into the decompressor and out to who asks; at most a
 * few chunks are on the way. However it ends, the process is gone.
 *
 * @module
 */

import { createGunzip } from "node:zlib";
import { isZero } from "../buffer.ts";
import { isNotCapable } from "../platform/permissions.ts";
import { type Child, startChild } from "../platform/child_process.ts";
import type { Compression } from "../content_format.ts";
import { CliError } from "./images.ts";

/** Bytes of one chunk that comes out. */
const CHUNK_BYTES = 2 ** 18;

/** Bytes of complaints that are kept. */
const MAX_COMPLAINT_BYTES = 4096;

/** No bytes. */
const NOTHING = new Uint8Array();

/** The programs: how they write to their output, and their Debian packages. */
const PROGRAMS: Readonly<
  Record<"xz" | "zstd", { args: readonly string[]; package: string }>
> = {
  xz: {
    args: ["--decompress", "--stdout", "--memlimit-decompress=1GiB"],
    package: "xz-utils",
  },
  // Its own limit is a window of 128 MiB.
  zstd: { args: ["--decompress", "--stdout", "--quiet"], package: "zstd" },
};

/**
 * Decompresses a stream.
 *
 * @param source The compressed bytes.
 * @param format Their format.
 * @param name What to call them in errors.
 * @returns The bytes.
 * @throws {CliError} If they are damaged or end early, or there is no program
 * for it.
 */
export function decompress(
  source: AsyncIterable<Uint8Array>,
  format: Compression,
  name: string,
): AsyncGenerator<Uint8Array, void> {
  return format === "gzip"
    ? gunzip(source, name)
    : byProgram(source, format, name);
}

async function* gunzip(
  source: AsyncIterable<Uint8Array>,
  name: string,
): AsyncGenerator<Uint8Array, void> {
  const unzip = createGunzip({ chunkSize: CHUNK_BYTES });
  const ended = new Promise<void>((resolve) => unzip.once("end", resolve));
  let fed = 0;
  let isOver = false;
  const feeding = feed(source, {
    async write(bytes) {
      let rest = bytes;
      if (!isOver) {
        fed += bytes.length;
        // Where it has ended, node:zlib may not say that it took the rest.
        await Promise.race([
          ended,
          new Promise<void>((resolve, reject) =>
            unzip.write(bytes, (error) => error ? reject(error) : resolve())
          ),
        ]);
        // It ends where a member is followed by a zero, and takes no more.
        const left = fed - unzip.bytesWritten;
        isOver = left > 0;
        rest = isOver ? bytes.subarray(-left) : NOTHING;
      }
      if (!isZero(rest)) throw new Error("more follows after zeroes");
    },
    end: () => void unzip.end(),
    fail: (error) => void unzip.destroy(error),
  });
  try {
    for await (const chunk of unzip) yield chunk;
    // What it left is to be padding.
    await feeding.done;
    if (feeding.failure !== undefined) throw feeding.failure;
  } catch (error) {
    throw feeding.failure ?? damaged(name, "gzip", (error as Error).message);
  } finally {
    feeding.stop();
    unzip.destroy();
  }
}

async function* byProgram(
  source: AsyncIterable<Uint8Array>,
  format: "xz" | "zstd",
  name: string,
): AsyncGenerator<Uint8Array, void> {
  const { args, package: debian } = PROGRAMS[format];
  let child: Child;
  try {
    child = await startChild(format, {
      args,
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    });
  } catch (error) {
    const { code } = error as { code?: unknown };
    if (code !== "ENOENT" && !isNotCapable(error)) throw error;
    throw new CliError(
      `Cannot read ${name} as it is ${format} and the program "${format}" ` +
        `cannot be run: ${
          isNotCapable(error)
            ? `allow it by --allow-run=${format}`
            : `install it (Debian: ${debian})`
        }, or decompress it ` +
        `elsewhere and pipe it in: ${format} -dc FILE | platter copy - TARGET`,
      { cause: error },
    );
  }
  const input = child.stdin.getWriter();
  const complaint = textOf(child.stderr);
  const feeding = feed(source, {
    write: (bytes) => input.write(bytes),
    end: () => input.close(),
    fail: () => input.abort(),
  });
  let ended = false;
  try {
    for await (const chunk of child.stdout) yield chunk;
    ended = true;
  } finally {
    if (!ended) {
      try {
        child.kill("SIGKILL");
      } catch {
        // It has ended already.
      }
    }
    feeding.stop();
    await input.abort().catch(() => {});
    await child.status;
    await complaint;
  }
  if (feeding.failure !== undefined) throw feeding.failure;
  const { success, code } = await child.status;
  if (!success) {
    const said = (await complaint).trim().split("\n")[0]!
      .replace(/^\S*(xz|zstd): /, "").replace(
        /^(\(stdin\)|\/\*stdin\*\\): /,
        "",
      )
      .replace(/^(.*) : /, "").trim();
    throw damaged(name, format, said || `it exits with ${code}`);
  }
}

/** What takes the compressed bytes. */
interface Feed {
  write(bytes: Uint8Array): Promise<void>;
  end(): Promise<void> | void;
  fail(error: Error): Promise<void> | void;
}

/** A source on its way into a decompressor. */
interface Feeding {
  /** What the source failed with. */
  readonly failure: Error | undefined;
  /** When the source has ended; rejects with what is not taken of it. */
  readonly done: Promise<void>;
  /**
   * Feeds no more. A read of the source may be left that never ends: whoever
   * opened the source breaks it off.
   */
  stop(): void;
}

/** Moves a source into a decompressor until either ends. */
function feed(source: AsyncIterable<Uint8Array>, into: Feed): Feeding {
  const iterator = source[Symbol.asyncIterator]();
  let failure: Error | undefined;
  let stopped = false;
  async function run(): Promise<void> {
    while (!stopped) {
      let next: IteratorResult<Uint8Array>;
      try {
        next = await iterator.next();
      } catch (error) {
        failure = error as Error;
        return await into.fail(failure);
      }
      if (stopped) return;
      if (next.done) return await into.end();
      await into.write(next.value);
    }
  }
  const done = run();
  // What the decompressor refuses it says itself.
  done.catch(() => {});
  return {
    done,
    get failure() {
      return failure;
    },
    stop() {
      stopped = true;
    },
  };
}

/** The start of what a process complains of; the rest is read and dropped. */
async function textOf(stream: ReadableStream<Uint8Array>): Promise<string> {
  let text = "";
  const decoder = new TextDecoder();
  for await (const chunk of stream) {
    if (text.length < MAX_COMPLAINT_BYTES) {
      text += decoder.decode(chunk, { stream: true });
    }
  }
  return text.slice(0, MAX_COMPLAINT_BYTES);
}

function damaged(name: string, format: Compression, reason: string): CliError {
  return new CliError(
    `Cannot read ${name} as its ${format} data is damaged or ends early: ` +
      reason,
  );
}
