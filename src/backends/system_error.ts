/**
 * The operating system's word for what Deno or `node:fs` threw. Deno gives an
 * error a `code` for the numbers that it knows by name; for the others (EFBIG,
 * EDQUOT and more) the number stands in the message alone.
 *
 * @module
 */

import os from "node:os";
import { expectFileSizeSignal } from "./file_size_signal.ts";

/** An error number and its name. */
export interface SystemCode {
  /** The name, such as `"EFBIG"`. */
  readonly code: string;
  /** The number, positive; `undefined` if this system has none of that name. */
  readonly errno: number | undefined;
}

let names: Map<number, string> | undefined;

/** The name of a number: the first of several that mean the same. */
function nameOf(errno: number): string | undefined {
  if (names === undefined) {
    names = new Map();
    for (const [name, number] of Object.entries(os.constants.errno)) {
      if (!names.has(number)) names.set(number, name);
    }
  }
  return names.get(errno);
}

/**
 * Finds the system's word in an error.
 *
 * @param error What was thrown.
 * @returns The word; `null` if the system said nothing.
 */
export function systemCode(error: unknown): SystemCode | null {
  const found = find(error);
  if (found?.code === "EFBIG") expectFileSizeSignal();
  return found;
}

function find(error: unknown): SystemCode | null {
  if (!(error instanceof Error)) return null;
  if ("code" in error && typeof error.code === "string") {
    const { code } = error;
    const known = (os.constants.errno as Record<string, number>)[code];
    const errno = known ??
      ("errno" in error ? Math.abs(Number(error.errno)) : undefined);
    return { code, errno };
  }
  // Rust's std::io::Error. The numbers of Windows are others.
  const found = /\(os error (\d+)\)/.exec(error.message);
  if (found === null || Deno.build.os === "windows") return null;
  const errno = Number(found[1]);
  const code = nameOf(errno);
  return code === undefined ? null : { code, errno };
}
