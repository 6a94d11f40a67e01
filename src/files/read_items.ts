/**
 * Reads the contents of files, one after another, in the order in which they
 * are listed.
 *
 * 7-Zip writes contents to its standard output, one behind the other, and before
 * each a line with its name to its standard error. In which order the two come is
 * known here, and so where a file ends; whose it is, is known from the listing.
 * So no name that a file system has is ever a path of this system's, or of
 * 7-Zip's.
 *
 * @module
 */

import type { FileEntry } from "./file_entry.ts";
import { FileSystemError } from "./file_system_error.ts";
import type { FoundFileSystem } from "./find_file_system.ts";
import { plural } from "../plural.ts";
import { commonArguments, isInTree } from "./list_files.ts";
import {
  type FilesOptions,
  runSevenZip,
  type SevenZipEvent,
} from "./seven_zip.ts";

/** What comes of reading files. */
export type ItemEvent =
  /** A file begins. */
  | { readonly kind: "begin"; readonly entry: FileEntry }
  /** A piece of the one that began last. */
  | { readonly kind: "data"; readonly bytes: Uint8Array }
  /** It is all there. */
  | { readonly kind: "end" }
  /** It is not, and its content is not to be trusted. */
  | { readonly kind: "fault"; readonly reason: string };

/** What 7-Zip says of a file that it could not read: "ERROR: Data Error : name". */
const FAULT = /^ERROR: (?!\/image)/;

/**
 * Reads files.
 *
 * @param found The file system.
 * @param entries What was listed, in that order.
 * @param paths What was asked to be listed; all if none.
 * @param options When to give up.
 * @returns For each file of the listing that is there: its beginning, its
 * content, and its end or a fault.
 * @throws {FileSystemError} If the file system is damaged: also after all files
 * that could be read.
 * @throws {DiskError} If the disk fails.
 */
export async function* readItems(
  found: FoundFileSystem,
  entries: Iterable<FileEntry>,
  paths: readonly string[],
  options: FilesOptions,
): AsyncGenerator<ItemEvent, void> {
  // -so: contents to standard output. -bb1 and -bso2: names to standard error.
  const args = [
    "x",
    "-so",
    "-bb1",
    "-bso2",
    ...commonArguments(found.reader, paths),
  ];
  const items = new Items(entries);
  try {
    for await (const events of runSevenZip(found, args, options)) {
      for (const event of events) yield* items.read(event);
    }
  } catch (error) {
    // That it ends badly does not mean that the last file did.
    yield* items.close();
    throw error;
  }
  yield* items.close();
}

/** The most that a symbolic link says, in bytes: PATH_MAX of Linux's limits.h. */
export const LINK_BYTES = 4096;

/** Where one is in the listing. */
class Items {
  readonly #listed: Iterator<FileEntry>;
  #current: FileEntry | null = null;
  /** Whether what comes is of something that is not listed, such as the root. */
  #isSkipping = false;
  #read = 0;
  #fault: string | null = null;

  constructor(entries: Iterable<FileEntry>) {
    this.#listed = entries[Symbol.iterator]();
  }

  *read(event: SevenZipEvent): Generator<ItemEvent> {
    if (event.kind === "data") {
      if (event.bytes.length === 0) return;
      if (this.#isSkipping) return;
      if (this.#current === null) throw outOfStep();
      this.#read += event.bytes.length;
      // A file must not grow for ever.
      if (this.#read <= mostBytes(this.#current)) yield event;
    } else if (event.text.startsWith("- ")) {
      yield* this.close();
      const entry = this.#find(event.text.slice(2));
      if (entry !== null) yield { kind: "begin", entry };
    } else if (FAULT.test(event.text)) {
      this.#fault = event.text.replace(/^ERROR: /, "").replace(/ : [^]*$/, "");
    } else if (event.text === "Everything is Ok") yield* this.close();
  }

  *close(): Generator<ItemEvent> {
    if (this.#current === null) return;
    const { size, type } = this.#current;
    const isLink = type === "symlink";
    const isWhole = isLink ? this.#read <= LINK_BYTES : this.#read === size;
    if (this.#fault !== null) yield { kind: "fault", reason: this.#fault };
    else if (isWhole) yield { kind: "end" };
    else {
      const reason = `it has ${plural(this.#read, "byte")} and not ${
        isLink ? `at most ${LINK_BYTES}` : `the ${size} that are listed`
      }`;
      yield { kind: "fault", reason };
    }
    this.#current = null;
  }

  /** The next one of that name; what is skipped was not read. */
  #find(name: string): FileEntry | null {
    [this.#read, this.#fault] = [0, null];
    // A hostile root may have a content.
    this.#isSkipping = !isInTree(name.replace(/\/$/, ""));
    if (this.#isSkipping) return null;
    for (;;) {
      const { value, done } = this.#listed.next();
      if (done) throw outOfStep();
      if (name !== value.path && name !== `${value.path}/`) continue;
      this.#current = value;
      return value;
    }
  }
}

function mostBytes({ size, type }: FileEntry): number {
  return type === "symlink" ? LINK_BYTES : size;
}

function outOfStep(): FileSystemError {
  return new FileSystemError(
    "damaged",
    "Cannot read files as the file system is damaged: its files are not those that it lists",
  );
}
