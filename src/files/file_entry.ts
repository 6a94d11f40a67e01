/**
 * Files as a file system lists them, and how they are read out of what 7-Zip
 * prints. No I/O.
 *
 * @module
 */

import { printable } from "../printable.ts";
import { FileSystemError } from "./file_system_error.ts";

/** What a name in a file system stands for. */
export type FileType = "file" | "directory" | "symlink" | "other";

/** One file, directory or other thing that a file system has. */
export interface FileEntry {
  /**
   * Its path from the root of the file system, without a slash at its ends.
   * What is no Unicode in it is U+FFFD, and an end of line is `_`.
   */
  readonly path: string;
  /** What it is; `"other"` is a device, a pipe or a socket. */
  readonly type: FileType;
  /** Bytes of its content; 0 for what has none. */
  readonly size: number;
  /** Permission bits as of `chmod(2)`, where the file system has them. */
  readonly mode: number | null;
  /** The number of the user that it belongs to, where there is one. */
  readonly uid: number | null;
  /** The number of the group that it belongs to, where there is one. */
  readonly gid: number | null;
  /**
   * When its content last changed. FAT says no time zone: taken as universal
   * time.
   */
  readonly modified: Date | null;
  /** Its number in the file system, where it has one. */
  readonly inode: number | null;
  /** Names that it has, where that is known. */
  readonly links: number | null;
  /**
   * Where a symbolic link leads, as it says itself; `null` for what is none, and
   * where it is not listed (SquashFS), but can be read.
   */
  readonly target: string | null;
}

/** Characters of one listed file, at most: hostile names may be long. */
const MOST_RECORD = 1 << 20;

/** Reads what `7z l -slt -ba` prints, as it comes. */
export class ListingReader {
  readonly #decoder = new TextDecoder();
  #rest = "";

  /**
   * Reads on.
   *
   * @param bytes What was printed.
   * @returns The files that are known now.
   * @throws {FileSystemError} If it is no listing.
   */
  read(bytes: Uint8Array): FileEntry[] {
    const text = this.#rest + this.#decoder.decode(bytes, { stream: true });
    const records = text.split("\n\n");
    this.#rest = records.pop()!;
    if (this.#rest.length > MOST_RECORD) throw notAListing(this.#rest);
    return records.filter((record) => record.trim() !== "").map(readEntry);
  }

  /**
   * Reads what is left.
   *
   * @returns The last file, if there is one.
   * @throws {FileSystemError} If it is no listing.
   */
  end(): FileEntry[] {
    const rest = this.#rest.trim();
    this.#rest = "";
    return rest === "" ? [] : [readEntry(rest)];
  }
}

/** `Path = a`, `Size = 5` and so on, one a line: no value has an end of line. */
function readEntry(record: string): FileEntry {
  let [path, letters, target, folder]: (string | undefined)[] = [];
  let [size, uid, gid, modified, inode, links]: (string | undefined)[] = [];
  for (let at = 0; at < record.length;) {
    let end = record.indexOf("\n", at);
    if (end < 0) end = record.length;
    const middle = record.indexOf(" = ", at);
    if (middle > 0 && middle < end) {
      const value = record.slice(middle + 3, end);
      switch (record.slice(at, middle)) {
        case "Path":
          path = value;
          break;
        case "Folder":
          folder = value;
          break;
        case "Size":
          size = value;
          break;
        case "Mode":
          letters = value;
          break;
        case "Modified":
          modified = value;
          break;
        case "iNode":
          inode = value;
          break;
        case "Links":
          links = value;
          break;
        case "Symbolic Link":
          target = value;
          break;
        case "User ID":
          uid = value;
          break;
        case "Group ID":
          gid = value;
      }
    }
    at = end + 1;
  }
  if (path === undefined) throw notAListing(record);
  const type = letters
    ? typeOf(letters[0]!)
    : target
    ? "symlink"
    : folder === "+"
    ? "directory"
    : "file";
  return {
    path,
    type,
    size: type === "directory" ? 0 : numberOf(size) ?? 0,
    mode: modeOf(letters),
    uid: numberOf(uid),
    gid: numberOf(gid),
    modified: dateOf(modified),
    inode: numberOf(inode),
    links: numberOf(links),
    target: type === "symlink" && target ? target : null,
  };
}

function notAListing(text: string): FileSystemError {
  return new FileSystemError(
    "damaged",
    `Cannot list files as 7-Zip's listing has lines that are none: "${
      printable(text, 80)
    }"`,
  );
}

function typeOf(letter: string): FileType {
  if (letter === "d") return "directory";
  if (letter === "l") return "symlink";
  return letter === "-" ? "file" : "other";
}

/** The letters of `ls -l` as the bits of `chmod(2)`. */
function modeOf(letters: string | undefined): number | null {
  if (letters === undefined) return null;
  if (!/^.[-r][-w].[-r][-w].[-r][-w].$/.test(letters)) return null;
  let mode = 0;
  for (let index = 1; index <= 9; index++) {
    const letter = letters[index]!;
    const bit = 1 << (9 - index);
    if (letter !== "-" && letter !== "S" && letter !== "T") mode |= bit;
    if (/[sStT]/.test(letter)) mode |= 0o1000 << ((9 - index) / 3);
  }
  return mode;
}

function numberOf(text: string | undefined): number | null {
  if (!text) return null;
  const number = Number(text);
  return Number.isSafeInteger(number) && number >= 0 ? number : null;
}

/** Characters of a time to the second. */
const SECOND = "2001-02-03 04:05:06".length;

/** `2001-02-03 04:05:06.789000000`, in universal time; to a ms. */
function dateOf(text: string | undefined): Date | null {
  if (text === undefined || text.length < SECOND) return null;
  const part = (from: number, to: number) => Number(text.slice(from, to));
  const ms = Date.UTC(
    ...[part(0, 4), part(5, 7) - 1, part(8, 10)] as const,
    ...[part(11, 13), part(14, 16), part(17, 19)] as const,
    Number(text.slice(SECOND + 1, SECOND + 4).padEnd(3, "0")),
  );
  return Number.isNaN(ms) ? null : new Date(ms);
}
