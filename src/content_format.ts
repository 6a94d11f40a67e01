/**
 * Which format an image seems to have that is no raw disk, by the signature in
 * its content and by its name: opened raw, its sectors are those of the file, not
 * those of the disk inside. No I/O: bytes and names go in, words come out.
 *
 * @module
 */

import { hasText } from "./bytes.ts";

/** Bytes of an image's start, and of its end, that tell its format. */
export const FORMAT_BYTES = 512;

/**
 * A format with a disk inside it, of another size and in another order than the
 * file: QEMU's, VMware's, VirtualBox', Microsoft's, Parallels' and Apple's.
 */
export type ContainerFormat =
  | "qcow2"
  | "qcow"
  | "qed"
  | "vmdk"
  | "vdi"
  | "vhd"
  | "vhdx"
  | "parallels"
  | "dmg";

/** A format that an image can be opened as. */
export type ImageFormat = "raw" | ContainerFormat;

/** The formats with a disk inside them. */
export const CONTAINER_FORMATS: readonly ContainerFormat[] = [
  "qcow2",
  "qcow",
  "qed",
  "vmdk",
  "vdi",
  "vhd",
  "vhdx",
  "parallels",
  "dmg",
];

/** What the file of an overlay is called: src/layers/overlay_file/format.ts. */
export const OVERLAY_FILE = "an overlay's file";

interface Signature {
  readonly format: string;
  readonly text: string;
  /** Offset in bytes; from the end if it is negative. */
  readonly at?: number;
}

/**
 * QEMU `block/*.c` (`*_probe`); the VHD, VHDX and VMDK specifications; LUKS
 * on-disk formats 1.2.3 and 2.0; UDIF's trailer; RFC 1952, RFC 8878 and the .xz
 * format. A VHD's footer was a byte shorter before Virtual PC 2004.
 */
const SIGNATURES: readonly Signature[] = [
  { format: "qcow", text: "QFI\xfb\0\0\0\x01" },
  { format: "qcow2", text: "QFI\xfb" },
  { format: "QED", text: "QED\0" },
  { format: "VMDK", text: "KDMV" },
  { format: "VMDK", text: "COWD" },
  { format: "VMDK", text: "# Disk DescriptorFile" },
  { format: "VDI", text: "\x7f\x10\xda\xbe", at: 64 },
  { format: "VHDX", text: "vhdxfile" },
  { format: "VHD", text: "conectix" },
  { format: "VHD", text: "conectix", at: -512 },
  { format: "VHD", text: "conectix", at: -511 },
  { format: "Parallels", text: "WithoutFreeSpace" },
  { format: "Parallels", text: "WithouFreSpacExt" },
  { format: "DMG", text: "koly", at: -512 },
  { format: "LUKS", text: "LUKS\xba\xbe" },
  { format: "gzip", text: "\x1f\x8b\x08" },
  { format: "xz", text: "\xfd7zXZ\0" },
  { format: "zstd", text: "\x28\xb5\x2f\xfd" },
  { format: OVERLAY_FILE, text: "PLTOVLAY" },
];

/** A VMDK's descriptor without its first comment, as QEMU takes it as well. */
const VMDK_TEXT = /^(?:[ \t]*\r?\n|#[^\n]*\n)*version=[123]\r?\n/;

/** A format of one stream: what is written into it makes it unreadable. */
export type Compression = "gzip" | "xz" | "zstd";

const COMPRESSED: readonly Compression[] = ["gzip", "xz", "zstd"];

/** Names that say what is inside, and which formats go by that name. */
const NAMES: Readonly<Record<string, readonly ContainerFormat[]>> = {
  qcow2: ["qcow2"],
  qcow: ["qcow", "qcow2"],
  qed: ["qed"],
  vmdk: ["vmdk"],
  vdi: ["vdi"],
  vhd: ["vhd"],
  vpc: ["vhd"],
  vhdx: ["vhdx"],
  hds: ["parallels"],
  dmg: ["dmg"],
};

/** The raw sectors that a VMDK's descriptor names: VMware's Virtual Disk 5.0. */
const RAW_EXTENT = /-(flat|f\d{3,}|rdm|rdmp)\.vmdk$/i;

/**
 * Looks at an image's ends.
 *
 * @param head Its first {@linkcode FORMAT_BYTES} bytes, or all that it has.
 * @param tail Its last ones.
 * @returns For example `"qcow2"`; `null` if it is raw as far as can be told.
 */
export function contentFormatOf(
  head: Uint8Array,
  tail: Uint8Array,
): string | null {
  const found = SIGNATURES.find(({ text, at = 0 }) => {
    const place = at < 0 ? tail : head;
    const start = at < 0 ? tail.length + at : at;
    return start >= 0 && start + text.length <= place.length &&
      Array.from(text).every((character, i) =>
        place[start + i] === character.charCodeAt(0)
      );
  });
  if (found !== undefined) return found.format;
  if (isSkippable(head)) return "zstd";
  return VMDK_TEXT.test(new TextDecoder("latin1").decode(head)) ? "VMDK" : null;
}

/**
 * The format with a disk inside it that content has the signature of.
 *
 * @param found What {@linkcode contentFormatOf} found.
 * @returns The format; `null` if there is no such disk inside.
 */
export function containerOf(found: string | null): ContainerFormat | null {
  const name = found?.toLowerCase();
  return CONTAINER_FORMATS.find((format) => format === name) ?? null;
}

/**
 * A frame of zstd that is skipped, with which parallel compressors begin: RFC
 * 8878, section 3.1.2.
 */
function isSkippable(head: Uint8Array): boolean {
  return head.length >= 4 && (head[0]! & 0xf0) === 0x50 &&
    hasText(head, 1, "\x2a\x4d\x18");
}

/**
 * How content is compressed.
 *
 * @param found What {@linkcode contentFormatOf} found.
 * @returns The format; `null` if it is not.
 */
export function compressionOf(found: string | null): Compression | null {
  return COMPRESSED.find((format) => format === found) ?? null;
}

/**
 * The formats that a name says an image to have. Whoever writes to the disk
 * inside cannot change it, other than the content.
 *
 * @param path The image's path.
 * @returns The formats; none if the name says nothing.
 */
export function formatsOfName(path: string): readonly ContainerFormat[] {
  if (RAW_EXTENT.test(path)) return [];
  const extension = /\.([^./\\]+)$/.exec(path)?.[1] ?? "";
  return Object.entries(NAMES)
    .find(([name]) => name === extension.toLowerCase())?.[1] ?? [];
}

/**
 * What a person should know who opens such an image raw.
 *
 * @param format What {@linkcode contentFormatOf} found.
 * @returns A sentence without a final period.
 */
export function describeFormat(format: string): string {
  if (format === "LUKS") {
    return "Its content looks like LUKS and is taken as raw: sectors are those of the encrypted volume, which cryptsetup opens, and writing to its header may make all of it unreadable";
  }
  if (format === OVERLAY_FILE) {
    return "Its content looks like an overlay's file and is taken as raw: sectors are those of the file, not those of the disk, and writing to them destroys its changes";
  }
  return `Its content looks like ${format} and is taken as raw: sectors are those of the ${format} data, not those of a disk inside, and writing to them may destroy it`;
}
