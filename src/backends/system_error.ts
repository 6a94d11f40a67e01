/**
 * The operating system's word for what Deno or `node:fs` threw. Deno gives an
 * error a `code` for the numbers that it knows by name; for the others (EFBIG,
 * EDQUOT and more) the number stands in the message alone.
 *
 * @module
 */

import { canonicalCode, codeOfErrno, errnoOf } from "../errno.ts";
import { expectFileSizeSignal } from "./file_size_signal.ts";
import { isNotCapable } from "../platform/permissions.ts";
import { os } from "../platform/system.ts";

/** An error number and its name. */
export interface SystemCode {
  /** The name, such as `"EFBIG"`. */
  readonly code: string;
  /** The number, positive; `undefined` if this system has none of that name. */
  readonly errno: number | undefined;
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

/** Why a file cannot be used, in the words of every message. */
const REASONS: Readonly<Record<string, string>> = {
  ENOENT: "there is no such file or directory",
  EACCES: "the operating system does not permit it",
  EPERM: "the operating system does not permit it",
  EISDIR: "it is a directory",
  ENOTDIR: "a part of its path is no directory",
  ENAMETOOLONG: "its name is too long",
  ELOOP: "its links lead in a circle",
};

/**
 * Says why a file cannot be used: what comes after "Cannot open it as".
 *
 * @param error What was thrown.
 * @returns Why; `null` if the error's own message is all there is.
 */
export function systemReason(error: unknown): string | null {
  if (isNotCapable(error)) return null;
  return REASONS[systemCode(error)?.code ?? ""] ?? null;
}

function find(error: unknown): SystemCode | null {
  if (!(error instanceof Error)) return null;
  if ("code" in error && typeof error.code === "string") {
    const code = canonicalCode(error.code);
    const errno = errnoOf(code) ??
      ("errno" in error ? Math.abs(Number(error.errno)) : undefined);
    return { code, errno };
  }
  // Rust's std::io::Error. The numbers of Windows are others.
  const found = /\(os error (\d+)\)/.exec(error.message);
  if (found === null || os === "windows") return null;
  const errno = Number(found[1]);
  return { code: codeOfErrno(errno) ?? `errno ${errno}`, errno };
}
