/**
 * Which format an image seems to have that is no raw disk: opened raw, its
 * sectors are those of the file, not those of the disk inside.
 *
 * @module
 */

/** Bytes of an image's start, and of its end, that tell its format. */
export const FORMAT_BYTES = 512;

interface Signature {
  readonly format: string;
  readonly text: string;
  /** Offset in bytes; from the end if it is negative. */
  readonly at?: number;
}

/**
 * QEMU `block/*.c` (`*_probe`); the VHD, VHDX and VMDK specifications; LUKS
 * on-disk formats 1.2.3 and 2.0; UDIF's trailer; RFC 1952, RFC 8878 and the .xz
 * format.
 */
const SIGNATURES: readonly Signature[] = [
  { format: "qcow2", text: "QFI\xfb" },
  { format: "QED", text: "QED\0" },
  { format: "VMDK", text: "KDMV" },
  { format: "VMDK", text: "COWD" },
  { format: "VMDK", text: "# Disk DescriptorFile" },
  { format: "VDI", text: "\x7f\x10\xda\xbe", at: 64 },
  { format: "VHDX", text: "vhdxfile" },
  { format: "VHD", text: "conectix" },
  { format: "VHD", text: "conectix", at: -512 },
  { format: "Parallels", text: "WithoutFreeSpace" },
  { format: "Parallels", text: "WithouFreSpacExt" },
  { format: "DMG", text: "koly", at: -512 },
  { format: "LUKS", text: "LUKS\xba\xbe" },
  { format: "gzip", text: "\x1f\x8b\x08" },
  { format: "xz", text: "\xfd7zXZ\0" },
  { format: "zstd", text: "\x28\xb5\x2f\xfd" },
];

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
  return found?.format ?? null;
}

/**
 * What a person should know who opens such an image raw.
 *
 * @param format What {@linkcode contentFormatOf} found.
 * @returns A sentence without a final period.
 */
export function describeFormat(format: string): string {
  return `Its content looks like ${format} and is taken as raw: sectors are those of the ${format} data, not those of a disk inside, and writing to them may destroy it`;
}
