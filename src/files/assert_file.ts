/**
 * An assertion about a file of a file system on a disk.
 *
 * @module
 */

import type { VirtualDisk } from "../disk/disk.ts";
import { printable } from "../printable.ts";
import { plural } from "../plural.ts";
import { FileSystemError } from "./file_system_error.ts";
import { readFile, type ReadFileOptions } from "./open_file.ts";

/** What a file should have: a text, bytes, or what a function says yes to. */
export type ExpectedContent =
  | string
  | Uint8Array
  | RegExp
  | ((
    content: Uint8Array<ArrayBuffer>,
  ) => boolean | void | Promise<boolean | void>);

/** A file that is not there or not as it should be. */
export class FileAssertionError extends Error {
  /** The name that test runners know. */
  override readonly name = "AssertionError";
}

/** Characters and bytes of a file that are shown. */
const SHOWN = 200;

/**
 * Asserts that a file is on a disk, and what is in it.
 *
 * @param disk The disk, or a partition of it.
 * @param path The file's path from the root of the file system.
 * @param expected What should be in it: all of a text (UTF-8), all of some bytes,
 * a pattern that matches its text, or a function that is given its bytes and
 * returns `false` or throws if they are wrong. Anything is right if not given.
 * @param options How much to read, and when to give up.
 * @returns When it was read and is right.
 * @throws {FileAssertionError} If it is not there or not right.
 * @throws {FileSystemError} If the file system cannot be read.
 * @throws {DiskError} If the disk fails.
 *
 * @example
 * ```ts ignore
 * import { VirtualDisk } from "@platter/disk";
 * import { assertFile } from "@platter/disk/files";
 * import { openPartition } from "@platter/disk/image";
 *
 * await using disk = await VirtualDisk.open("disk.img", { readOnly: true });
 * await using root = await openPartition(disk, 2);
 * await assertFile(root, "/etc/hostname", "kiosk\n");
 * await assertFile(root, "/etc/fstab", /^\/dev\/vda2\s+\/\s/m);
 * await assertFile(root, "/boot/vmlinuz", (bytes) => bytes.length > 1 << 20);
 * ```
 */
export async function assertFile(
  disk: VirtualDisk,
  path: string,
  expected?: ExpectedContent,
  options: ReadFileOptions = {},
): Promise<void> {
  let content: Uint8Array<ArrayBuffer>;
  try {
    content = await readFile(disk, path, options);
  } catch (error) {
    if (
      !(error instanceof FileSystemError) ||
      error.kind !== "not-found" && error.kind !== "not-a-file"
    ) throw error;
    throw new FileAssertionError(error.message, { cause: error });
  }
  const name = JSON.stringify(printable(path));
  if (expected === undefined) return;
  if (typeof expected === "function") {
    if (await expected(content) !== false) return;
    throw new FileAssertionError(
      `The file ${name} is not as it should be: it has ${
        plural(content.length, "byte")
      }${shown(content)}`,
    );
  }
  if (expected instanceof RegExp) {
    // A pattern with a memory of where it was would match every other time.
    const pattern = new RegExp(expected, expected.flags.replace(/[gy]/g, ""));
    if (pattern.test(new TextDecoder().decode(content))) return;
    throw new FileAssertionError(
      `The file ${name} should match ${expected}: it has ${
        plural(content.length, "byte")
      }${shown(content)}`,
    );
  }
  const wanted = typeof expected === "string"
    ? new TextEncoder().encode(expected)
    : expected;
  const at = firstDifference(content, wanted);
  if (at < 0) return;
  const lengths = content.length === wanted.length
    ? ""
    : ` and has ${
      plural(content.length, "byte")
    }, and should have ${wanted.length}`;
  throw new FileAssertionError(
    `The file ${name} differs from byte ${at} on${lengths} (- is there, + should be):\n` +
      `  - ${around(content, at)}\n  + ${around(wanted, at)}`,
  );
}

/** Where two contents part; -1 if they do not. */
function firstDifference(a: Uint8Array, b: Uint8Array): number {
  const length = Math.min(a.length, b.length);
  for (let i = 0; i < length; i++) if (a[i] !== b[i]) return i;
  return a.length === b.length ? -1 : length;
}

/** The line of a text that a byte is in, or some bytes. */
function around(content: Uint8Array, at: number): string {
  if (at >= content.length) return "(the end of the file)";
  const start = Math.max(content.lastIndexOf(10, at - 1) + 1, at - 60);
  const newline = content.indexOf(10, at);
  const end = Math.min(newline < 0 ? content.length : newline + 1, at + 60);
  return textOf(content.subarray(at === 0 ? 0 : start, end)) ??
    content.subarray(at, at + 16).toHex().replace(/..(?=.)/g, "$& ");
}

function shown(content: Uint8Array): string {
  const text = textOf(content.subarray(0, SHOWN));
  return content.length === 0 || text === null
    ? ""
    : `, which begin with ${text}`;
}

/** Bytes as a text in quotes; `null` if they are none. */
function textOf(bytes: Uint8Array): string | null {
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    // deno-lint-ignore no-control-regex
    return /[\0-\x08\x0e-\x1f\x7f]/.test(text) ? null : JSON.stringify(text);
  } catch {
    return null;
  }
}
