/**
 * Which files a container names in its header: a backing file that has what it
 * does not have itself, a data file, extents. Whoever made the image chose these
 * names, and a name can be that of any file; so they are read here, and whether
 * they are followed is decided elsewhere. Bytes go in, names come out.
 *
 * Sources: QEMU docs/interop/qcow2.rst, qed_spec.rst and block/{qcow,vmdk}.c;
 * VMware Virtual Disks, Virtual Disk Format 5.0; Microsoft's Virtual Hard Disk
 * Image Format Specification.
 *
 * @module
 */

import { viewOf } from "../../bytes.ts";
import type { ContainerFormat } from "../../content_format.ts";
import { SECTOR_BYTES } from "../../geometry.ts";
import type { OtherFile } from "../../info.ts";
import { plural } from "../../plural.ts";

/**
 * Reads bytes of a file.
 *
 * @param offset Where they begin, in bytes.
 * @param length How many are wanted.
 * @returns As many of them as there are.
 */
export type ReadAt = (offset: number, length: number) => Uint8Array;

/** A file as a header names it: where that leads is for others to say. */
export type NamedFile = Omit<OtherFile, "path">;

/** A header that cannot be what it says. */
export class HeaderError extends Error {}

/** QEMU takes no longer names: qcow2.rst, "Backing file name". */
const MAX_NAME_BYTES = 1023;

/** Bytes of a qcow2's header that are looked at for its extensions. */
const MAX_EXTENSION_BYTES = 65_536;

/** Bytes of a descriptor that QEMU reads: block/vmdk.c, vmdk_read_desc(). */
const MAX_DESCRIPTOR_BYTES = 1_048_575;

/** Extents of one descriptor: files of 2 GiB make 8 TiB of them. */
const MAX_EXTENTS = 4096;

/** Header extensions of a qcow2: qcow2.rst, "Header extensions". */
const QCOW2_BACKING_FORMAT = 0xe279_2aca;
const QCOW2_DATA_FILE = 0x4441_5441;

/** The incompatible feature of a qcow2 whose data is in another file. */
const QCOW2_EXTERNAL_DATA = 1 << 2;

/** Features of a QED: qed_spec.rst. */
const QED_BACKING_FILE = 1 << 0;
const QED_BACKING_IS_RAW = 1 << 2;

/** Where a header has the size of its disk: 64 bits, from the end if negative. */
const VIRTUAL_SIZES: Partial<
  Record<
    ContainerFormat,
    {
      readonly at: number;
      readonly littleEndian?: boolean;
      readonly unit?: number;
      /** What the file begins with, if it has one. */
      readonly magic?: string;
    }
  >
> = {
  qcow2: { at: 24 },
  qcow: { at: 24 },
  qed: { at: 48, littleEndian: true },
  vmdk: { at: 12, littleEndian: true, unit: SECTOR_BYTES, magic: "KDMV" },
  vdi: { at: 368, littleEndian: true },
  vhd: { at: -512 + 48 },
  parallels: { at: 36, littleEndian: true, unit: SECTOR_BYTES },
  dmg: { at: -512 + 492, unit: SECTOR_BYTES },
};

/** A VHD that has only what differs from its parent. */
const VHD_DIFFERENCING = 4;

/**
 * Reads which files a container names.
 *
 * @param format What it is.
 * @param read Reads it.
 * @param sizeBytes Its size.
 * @returns The files, in the order in which it names them.
 * @throws {HeaderError} If the header cannot be what it says.
 */
export function otherFilesOf(
  format: ContainerFormat,
  read: ReadAt,
  sizeBytes: number,
): NamedFile[] {
  switch (format) {
    case "qcow2":
      return ofQcow2(read);
    case "qcow":
      return ofQcow(read);
    case "qed":
      return ofQed(read);
    case "vmdk":
      return ofVmdk(read, sizeBytes);
    case "vhd":
      return ofVhd(read, sizeBytes);
    // VDI and VHDX name their parents by numbers, and QEMU refuses those that
    // have one; the others cannot have any.
    default:
      return [];
  }
}

function ofQcow2(read: ReadAt): NamedFile[] {
  const header = fieldsAt(read, 0, 72);
  const version = header.getUint32(4);
  if (version !== 2 && version !== 3) {
    throw new HeaderError(
      `its version must be 2 or 3: current value is ${version}`,
    );
  }
  const features = version === 3 ? fieldsAt(read, 72, 32) : null;
  const extensions = qcow2Extensions(
    read,
    features?.getUint32(28) ?? 72,
    Number(header.getBigUint64(8)),
  );
  const files: NamedFile[] = [];
  // The features are 64 bits; this one is among the lower 32.
  if (
    features !== null && (features.getUint32(4) & QCOW2_EXTERNAL_DATA) !== 0
  ) {
    const name = extensions.get(QCOW2_DATA_FILE);
    if (name === undefined) {
      throw new HeaderError("it has its data in another file and names none");
    }
    files.push({ role: "data file", name, format: "raw" });
  }
  const name = nameAt(
    read,
    Number(header.getBigUint64(8)),
    header.getUint32(16),
  );
  if (name !== null) {
    files.push({
      role: "backing file",
      name,
      format: extensions.get(QCOW2_BACKING_FORMAT) ?? null,
    });
  }
  return files;
}

/**
 * Reads how large the disk inside a container is, as far as its header says.
 *
 * @param format What it is.
 * @param read Reads it.
 * @param sizeBytes Its size.
 * @returns Bytes; `null` if only QEMU can tell.
 */
export function virtualBytesOf(
  format: ContainerFormat,
  read: ReadAt,
  sizeBytes: number,
): number | null {
  const place = VIRTUAL_SIZES[format];
  if (place === undefined) return null;
  const { at, littleEndian = false, unit = 1, magic } = place;
  const start = at < 0 ? sizeBytes + at : at;
  const head = textOf(read(0, 4));
  if (start < 0 || (magic !== undefined && head !== magic)) return null;
  const bytes = Number(fieldsAt(read, start, 8).getBigUint64(0, littleEndian)) *
    unit;
  return Number.isSafeInteger(bytes) ? bytes : null;
}

/**
 * Whether QEMU reads a container and writes nothing to it that could be read.
 *
 * @param format What it is.
 * @param read Reads it.
 * @returns Whether it is a DMG, or a VMDK whose grains are compressed.
 */
export function isForReading(format: ContainerFormat, read: ReadAt): boolean {
  if (format !== "vmdk") return format === "dmg";
  const header = read(0, 79);
  // compressAlgorithm: VMware Virtual Disks, SparseExtentHeader.
  return header.length === 79 && textOf(header.subarray(0, 4)) === "KDMV" &&
    (header[77] !== 0 || header[78] !== 0);
}

/** The extensions that are texts, by their type. */
function qcow2Extensions(
  read: ReadAt,
  from: number,
  backingAt: number,
): Map<number, string> {
  const end = backingAt === 0
    ? MAX_EXTENSION_BYTES
    : Math.min(backingAt, MAX_EXTENSION_BYTES);
  const bytes = read(0, end);
  const view = viewOf(bytes);
  const found = new Map<number, string>();
  for (let at = from; at + 8 <= bytes.length;) {
    const type = view.getUint32(at);
    const length = view.getUint32(at + 4);
    if (type === 0) return found;
    at += 8;
    if (length > bytes.length - at) break;
    // Whichever counts for QEMU: it is told, and does not look.
    if (
      (type === QCOW2_BACKING_FORMAT || type === QCOW2_DATA_FILE) &&
      !found.has(type)
    ) {
      found.set(type, textOf(bytes.subarray(at, at + length)));
    }
    at += Math.ceil(length / 8) * 8;
  }
  return found;
}

function ofQcow(read: ReadAt): NamedFile[] {
  const header = fieldsAt(read, 0, 20);
  const name = nameAt(
    read,
    Number(header.getBigUint64(8)),
    header.getUint32(16),
  );
  return name === null ? [] : [{ role: "backing file", name, format: null }];
}

function ofQed(read: ReadAt): NamedFile[] {
  const header = fieldsAt(read, 0, 64);
  const features = header.getUint32(16, true);
  if ((features & QED_BACKING_FILE) === 0) return [];
  const name = nameAt(
    read,
    header.getUint32(56, true),
    header.getUint32(60, true),
  );
  if (name === null) throw new HeaderError("its backing file has no name");
  const format = (features & QED_BACKING_IS_RAW) === 0 ? null : "raw";
  return [{ role: "backing file", name, format }];
}

function ofVhd(read: ReadAt, sizeBytes: number): NamedFile[] {
  // At the end; a dynamic one has a copy at its start.
  for (const at of [sizeBytes - 512, sizeBytes - 511, 0]) {
    if (at < 0) continue;
    const footer = read(at, 511);
    if (footer.length < 511 || textOf(footer.subarray(0, 8)) !== "conectix") {
      continue;
    }
    const type = viewOf(footer).getUint32(60);
    if (type !== VHD_DIFFERENCING) return [];
    throw new HeaderError(
      "it has only what differs from a parent, which QEMU does not read",
    );
  }
  throw new HeaderError("it has no footer");
}

function ofVmdk(read: ReadAt, sizeBytes: number): NamedFile[] {
  const magic = textOf(read(0, 4));
  // ESX Server's: a parent in its header, which QEMU does not look at.
  if (magic === "COWD") return [];
  if (magic !== "KDMV") {
    return ofDescriptor(
      textOf(read(0, Math.min(sizeBytes, MAX_DESCRIPTOR_BYTES))),
      true,
    );
  }
  const header = fieldsAt(read, 0, 44);
  const capacity = header.getBigUint64(12, true);
  const at = Number(header.getBigUint64(28, true)) * SECTOR_BYTES;
  const length = Number(header.getBigUint64(36, true)) * SECTOR_BYTES;
  if (at === 0) return [];
  if (!Number.isSafeInteger(at) || at >= sizeBytes) {
    throw new HeaderError("its descriptor must be within the file");
  }
  const text = textOf(read(at, Math.min(length, MAX_DESCRIPTOR_BYTES)));
  // Without sectors of its own it stands for its descriptor: vmdk_open_vmdk4().
  return ofDescriptor(text, capacity === 0n);
}

/** Reads a descriptor; its extents count only where it is the whole image. */
function ofDescriptor(text: string, isWhole: boolean): NamedFile[] {
  const files: NamedFile[] = [];
  const parent = /^[ \t]*parentFileNameHint[ \t]*=[ \t]*"([^"\r\n]*)"/m
    .exec(text);
  const hasParent = /^[ \t]*parentCID[ \t]*=[ \t]*(?!ffffffff)/im.test(text);
  if (parent !== null || hasParent) {
    const name = checkName(parent?.[1] ?? "");
    files.push({ role: "backing file", name, format: "vmdk" });
  }
  if (!isWhole) return files;
  let extents = 0;
  for (
    const [, name] of text.matchAll(
      /^[ \t]*(?:RW|RDONLY|NOACCESS)[ \t]+\d+[ \t]+\w+(?:[ \t]+"([^"\r\n]*)")?/gm,
    )
  ) {
    if (++extents > MAX_EXTENTS) {
      throw new HeaderError(
        `it must have ${plural(MAX_EXTENTS, "extent")} at most`,
      );
    }
    if (name === undefined) continue;
    files.push({ role: "extent", name: checkName(name), format: null });
  }
  if (extents === 0) throw new HeaderError("its descriptor names no extents");
  return files;
}

/** A name at a place in the file; `null` if there is none. */
function nameAt(read: ReadAt, at: number, length: number): string | null {
  if (at === 0) return null;
  if (!Number.isSafeInteger(at) || length > MAX_NAME_BYTES) {
    throw new HeaderError(
      `the name of its backing file must be ${MAX_NAME_BYTES} bytes at most: current value is ${length}`,
    );
  }
  const bytes = read(at, length);
  if (bytes.length < length) {
    throw new HeaderError("it ends before the name of its backing file does");
  }
  return checkName(textOf(bytes));
}

function checkName(name: string): string {
  if (name !== "" && !name.includes("\0")) return name;
  throw new HeaderError("it names a file without saying which");
}

/** Numbers of a header that must be there. */
function fieldsAt(read: ReadAt, at: number, length: number): DataView {
  const bytes = read(at, length);
  if (bytes.length < length) throw new HeaderError("it ends within its header");
  return viewOf(bytes);
}

function textOf(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes);
}
