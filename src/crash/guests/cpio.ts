/**
 * Archives that the kernel unpacks as its first file system.
 *
 * Format: "newc", Linux Documentation/driver-api/early-userspace/buffer-format.rst.
 *
 * @module
 */

/** Something in an archive. */
export interface Entry {
  /** Its path, without a slash before it. */
  readonly path: string;
  /** Its type and permissions, as in `st_mode`. */
  readonly mode: number;
  /** Its content; none of a directory. */
  readonly content?: Uint8Array;
}

/** Types in `st_mode`. */
export const Mode = { Directory: 0o040755, Program: 0o100755 } as const;

/** Makes an archive. */
export function cpio(entries: readonly Entry[]): Uint8Array<ArrayBuffer> {
  const parts: Uint8Array[] = [];
  const put = ({ path, mode, content }: Entry, inode: number) => {
    const size = content?.length ?? 0;
    const numbers = [inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0];
    const fields = [...numbers, path.length + 1, 0]
      .map((number) => number.toString(16).padStart(8, "0"));
    parts.push(padded(
      new TextEncoder().encode(`070701${fields.join("")}${path}\0`),
    ));
    if (content !== undefined) parts.push(padded(content));
  };
  entries.forEach((entry, i) => put(entry, i + 1));
  put({ path: "TRAILER!!!", mode: 0 }, 0);
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  const archive = new Uint8Array(length);
  let at = 0;
  for (const part of parts) {
    archive.set(part, at);
    at += part.length;
  }
  return archive;
}

/** Headers and contents end on four bytes. */
function padded(bytes: Uint8Array): Uint8Array {
  const whole = new Uint8Array(Math.ceil(bytes.length / 4) * 4);
  whole.set(bytes);
  return whole;
}
