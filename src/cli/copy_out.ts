/**
 * Copies to standard output: nothing but the image's bytes goes there.
 *
 * @module
 */

import type { ByteSource } from "./image_stream.ts";
import { type CliIo, send } from "./io.ts";

/**
 * Writes an image to standard output.
 *
 * @param source Where from.
 * @param bytes How many; to its end by default.
 * @param io What to talk to.
 * @param signal Stops it.
 * @param onProgress Called with the bytes that are out.
 * @returns When all is written.
 * @throws {OutputError} If nobody reads it, or it is full.
 * @throws {CliError} If the source cannot be read, or ends early.
 * @throws {DiskError} Whatever a read of a disk failed with.
 */
export async function copyOut(
  source: ByteSource,
  bytes: number | undefined,
  io: CliIo,
  signal: AbortSignal,
  onProgress: (bytes: number) => void,
): Promise<void> {
  let done = 0;
  for await (const piece of source.take(bytes)) {
    signal.throwIfAborted();
    await send(io.stdout, piece);
    done += piece.length;
    onProgress(done);
  }
}
