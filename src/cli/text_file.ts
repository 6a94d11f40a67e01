/**
 * Text files that are named on the command line.
 *
 * @module
 */

import { formatSize } from "../units.ts";
import { unless } from "../unless.ts";
import { CliError, fileError } from "./images.ts";
import { openUnless } from "./open_unless.ts";

/** What a file may have where nothing else is said, in bytes. */
const MOST_BYTES = 64 * 1_048_576;

/** What is read at once, in bytes. */
const PIECE_BYTES = 65_536;

/**
 * Reads a text file, or a pipe.
 *
 * @param path Its path.
 * @param options What it may have at most; and what gives up: a pipe opens when
 * somebody writes to it.
 * @returns Its text.
 * @throws {CliError} If it cannot be read, or has more than that.
 */
export async function readText(
  path: string,
  { maxBytes = MOST_BYTES, signal }: {
    readonly maxBytes?: number;
    readonly signal?: AbortSignal;
  } = {},
): Promise<string> {
  try {
    // A pipe has no size, and a device no end.
    using file = await openUnless(signal, path);
    const decoder = new TextDecoder();
    const piece = new Uint8Array(PIECE_BYTES);
    let text = "";
    for (let size = 0;;) {
      const length = await unless(signal, file.read(piece));
      if (length === null) return text + decoder.decode();
      size += length;
      if (size > maxBytes) {
        throw new CliError(
          `Cannot read "${path}" as it must have ${
            formatSize(maxBytes)
          } at most`,
        );
      }
      text += decoder.decode(piece.subarray(0, length), { stream: true });
    }
  } catch (error) {
    if (error instanceof CliError || signal?.aborted) throw error;
    throw fileError("read", path, error);
  }
}
