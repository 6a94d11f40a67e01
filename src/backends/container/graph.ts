/**
 * What QEMU is told to open: each node of a container's chain with its driver
 * and its file, so that QEMU neither looks for a format nor follows a name of
 * its own accord. What a header names is followed only where that was allowed,
 * and opened here first, as Deno's permissions are asked for these paths, too.
 *
 * Source: QEMU's qapi/block-core.json (BlockdevOptions).
 *
 * @module
 */

import fs from "node:fs";
import { dirname, isAbsolute, join } from "node:path";
import {
  CONTAINER_FORMATS,
  type ContainerFormat,
  containerOf,
  contentFormatOf,
  FORMAT_BYTES,
  type ImageFormat,
} from "../../content_format.ts";
import { DiskError } from "../../errors.ts";
import type { OtherFile } from "../../info.ts";
import { plural } from "../../plural.ts";
import { printable } from "../../printable.ts";
import { asDiskError } from "../image_options.ts";
import { readFullySync } from "../read_fully_sync.ts";
import {
  HeaderError,
  isForReading,
  type NamedFile,
  otherFilesOf,
  type ReadAt,
  virtualBytesOf,
} from "./header.ts";
import { endOf } from "../../platform/device_size.ts";

/** A node as QEMU's `json:` file names have it. */
export interface QemuNode {
  [name: string]: string | boolean | null | QemuNode;
}

/** How a container is opened. */
export interface GraphOptions {
  /** What it is called. */
  readonly path: string;
  /** What it is. */
  readonly format: ContainerFormat;
  /** Whether writes are refused. */
  readonly readOnly: boolean;
  /** Whether files that it names are opened, too. */
  readonly follow: boolean;
  /** Whether QEMU takes locks and heeds them. */
  readonly locks: boolean;
}

/** A container and what it names. */
export interface Graph {
  /** What QEMU is told. */
  readonly node: QemuNode;
  /** The files that the whole chain names. */
  readonly files: readonly OtherFile[];
}

/** Images that a chain may have. */
const MAX_CHAIN = 64;

/** What QEMU calls what is called otherwise here. */
const DRIVERS: Partial<Record<ImageFormat, string>> = { vhd: "vpc" };

/**
 * Says what QEMU is to open.
 *
 * @param fd The container's descriptor.
 * @param options How it is opened.
 * @returns The graph.
 * @throws {DiskError} With kind `format` if the container is not what it should
 * be, or names files and that was not allowed; or as opening those fails.
 */
export function graphOf(fd: number, options: GraphOptions): Graph {
  const files: OtherFile[] = [];
  const node = new Chain(options, files).node(fd, options.path, options.format);
  return { node, files };
}

/** What a container says of itself, for those who only want to know. */
export interface ContainerFacts {
  /** What it is by its content. */
  readonly format: ContainerFormat;
  /** Bytes of the disk inside; `null` if only QEMU can tell. */
  readonly virtualBytes: number | null;
  /** The files that it names; not those that they name. */
  readonly otherFiles: readonly NamedFile[];
}

/**
 * Looks into a container's header, and follows nothing.
 *
 * @param path The image's path.
 * @returns What it says; `null` if it is none that can be read.
 */
export function lookInside(path: string): ContainerFacts | null {
  let fd: number;
  try {
    fd = openOther(path, true, path);
  } catch {
    return null;
  }
  try {
    const sizeBytes = sizeOf(fd, path);
    const read = readerOf(fd);
    const format = containerOf(contentOf(read, sizeBytes));
    if (format === null) return null;
    return {
      format,
      virtualBytes: virtualBytesOf(format, read, sizeBytes),
      otherFiles: otherFilesOf(format, read, sizeBytes),
    };
  } catch {
    // Why it cannot be read is said when it is opened.
    return null;
  } finally {
    fs.closeSync(fd);
  }
}

/** The images of one chain, from the one that is opened downwards. */
class Chain {
  readonly #options: GraphOptions;
  readonly #files: OtherFile[];
  readonly #seen = new Set<string>();

  constructor(options: GraphOptions, files: OtherFile[]) {
    this.#options = options;
    this.#files = files;
  }

  node(fd: number, path: string, format: ImageFormat): QemuNode {
    const isTop = this.#seen.size === 0;
    const { dev, ino } = fs.fstatSync(fd, { bigint: true });
    if (this.#seen.size >= MAX_CHAIN || this.#seen.has(`${dev}:${ino}`)) {
      throw this.#error(
        path,
        `its chain of backing files must end after ${
          plural(MAX_CHAIN, "image")
        }, and have each of them once`,
      );
    }
    this.#seen.add(`${dev}:${ino}`);
    const readOnly = !isTop || this.#options.readOnly;
    const node: QemuNode = {
      driver: DRIVERS[format] ?? format,
      "read-only": readOnly,
      ...(this.#options.locks || !readOnly ? {} : { "force-share": true }),
      file: this.#file(fd, path, readOnly),
    };
    if (format === "raw") return node;
    node.backing = null;
    for (const file of this.#named(fd, path, format, readOnly)) {
      const { role } = file;
      const place = this.#follow(path, file);
      this.#files.push({ ...file, path: place });
      const other = openOther(
        place,
        readOnly || role === "backing file",
        this.#options.path,
      );
      try {
        if (role === "backing file") {
          node.backing = this.node(other, place, formatOf(file));
        } else if (role === "data file") {
          node["data-file"] = this.#file(other, place, readOnly);
        }
        // QEMU opens extents itself, by the names in the descriptor.
      } finally {
        fs.closeSync(other);
      }
    }
    return node;
  }

  #file(fd: number, path: string, readOnly: boolean): QemuNode {
    const isFile = fs.fstatSync(fd).isFile();
    return {
      driver: isFile ? "file" : "host_device",
      filename: path,
      ...(this.#options.locks || readOnly ? {} : { locking: "off" }),
    };
  }

  /** What a header names. */
  #named(
    fd: number,
    path: string,
    format: ContainerFormat,
    readOnly: boolean,
  ): NamedFile[] {
    const sizeBytes = sizeOf(fd, path);
    const read = readerOf(fd);
    try {
      const found = contentOf(read, sizeBytes);
      if (containerOf(found) !== format) {
        throw new HeaderError(
          found === null
            ? "its content has no signature of that format"
            : `its content looks like ${found}`,
        );
      }
      if (!readOnly && isForReading(format, read)) {
        throw new DiskError(
          "read-only",
          `Cannot open "${path}" for writing as QEMU only reads ${format} that is compressed: open with readOnly: true to read it`,
          { operation: "open", path },
        );
      }
      return otherFilesOf(format, read, sizeBytes);
    } catch (error) {
      if (!(error instanceof HeaderError)) throw asDiskError(error, path);
      throw this.#error(path, error.message);
    }
  }

  /** Where a name leads, if it may be followed. */
  #follow(path: string, file: NamedFile): string {
    const { role, name, format } = file;
    const said = `${role === "extent" ? "an extent" : `a ${role}`}, "${
      printable(name)
    }"`;
    if (!this.#options.follow) {
      throw this.#error(
        path,
        `it names ${said}, and whoever made the image could name any file of yours: allow it with backingFiles: "allow"`,
      );
    }
    // QEMU takes what comes before a colon for a protocol: path_has_protocol().
    if (/^[^/]*:/.test(name)) {
      throw this.#error(path, `it names ${said}, which is no file`);
    }
    if (role === "backing file" && format === null) {
      throw this.#error(
        path,
        `it names ${said}, without its format, and to guess that would be to trust its content: "qemu-img rebase -u -F FORMAT -b FILE" writes it down`,
      );
    }
    if (role === "backing file" && formatNamed(format) === null) {
      throw this.#error(
        path,
        `it names ${said}, of a format that is not known here, "${
          printable(format!)
        }"`,
      );
    }
    return isAbsolute(name) ? name : join(dirname(path), name);
  }

  #error(path: string, reason: string): DiskError {
    const top = this.#options.path;
    return new DiskError(
      "format",
      path === top
        ? `Cannot open "${top}" as ${this.#options.format} as ${reason}`
        : `Cannot open "${top}" as ${this.#options.format} as of its backing file "${
          printable(path)
        }": ${reason}`,
      { operation: "open", path: top },
    );
  }
}

function readerOf(fd: number): ReadAt {
  return (at, length) => {
    const bytes = new Uint8Array(length);
    return bytes.subarray(0, readFullySync(fd, bytes, at));
  };
}

/** What an image looks like. */
function contentOf(read: ReadAt, sizeBytes: number): string | null {
  return contentFormatOf(
    read(0, FORMAT_BYTES),
    read(Math.max(0, sizeBytes - FORMAT_BYTES), FORMAT_BYTES),
  );
}

function formatOf({ format }: NamedFile): ImageFormat {
  return formatNamed(format)!;
}

/** The format that QEMU gives a name to. */
function formatNamed(name: string | null): ImageFormat | null {
  if (name === "raw") return name;
  return CONTAINER_FORMATS.find((format) =>
    (DRIVERS[format] ?? format) === name
  ) ?? null;
}

/** Opens a file that a header names. */
function openOther(place: string, readOnly: boolean, path: string): number {
  const { O_RDONLY, O_RDWR, O_NONBLOCK } = fs.constants;
  let fd: number;
  try {
    // A pipe would be waited for.
    fd = fs.openSync(
      place,
      (readOnly ? O_RDONLY : O_RDWR) | (O_NONBLOCK ?? 0),
    );
  } catch (error) {
    const reason = asDiskError(error, printable(place));
    throw new DiskError(
      reason.kind,
      `Cannot open "${path}" as a file that it names cannot be: ${reason.message}`,
      { operation: "open", path, cause: reason },
    );
  }
  const stat = fs.fstatSync(fd);
  if (stat.isFile() || stat.isBlockDevice()) return fd;
  fs.closeSync(fd);
  throw new DiskError(
    "format",
    `Cannot open "${path}" as it names "${
      printable(place)
    }", which is neither a file nor a block device`,
    { operation: "open", path },
  );
}

/** A file's size; that of a device by where its end is. */
function sizeOf(fd: number, path: string): number {
  const stat = fs.fstatSync(fd);
  if (stat.isFile()) return stat.size;
  return endOf(path);
}
