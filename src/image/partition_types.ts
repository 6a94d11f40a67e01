/**
 * What the types of partitions are called: the well-known GUIDs of GPT, the
 * type bytes of MBR, and a few short words for both, for people who make tables.
 * Data only; nothing is read from a disk here.
 *
 * Sources: UEFI Specification 2.10, table 5.7; the Discoverable Partitions
 * Specification (UAPI.2); Microsoft's PARTITION_INFORMATION_GPT; Apple's
 * TN2166; FreeBSD's gpart(8), NetBSD's gpt(8), OpenBSD's fdisk(8); the ChromiumOS
 * disk format; A. E. Brouwer's list of partition identifiers for PCs.
 *
 * @module
 */

import { isGuid } from "./guid.ts";
import { isExtended, PROTECTIVE } from "./mbr.ts";

/** The type of an entry without a partition (UEFI 2.10, table 5.6). */
const UNUSED = "00000000-0000-0000-0000-000000000000";

/** GUIDs in upper case, and what is in such a partition. */
const GPT_NAMES: Readonly<Record<string, string>> = {
  "C12A7328-F81F-11D2-BA4B-00A0C93EC93B": "EFI system",
  "024DEE41-33E7-11D3-9D69-0008C781F39F": "MBR partition scheme",
  "21686148-6449-6E6F-744E-656564454649": "BIOS boot",
  "9E1A2D38-C612-4316-AA26-8B49521E5A8B": "PowerPC PReP boot",
  "D4E6E2CD-4469-46F3-B5CB-1BFF57AFC149": "ONIE configuration",
  "7412F7D5-A156-4B13-81DC-867174929325": "ONIE boot",
  // Microsoft.
  "E3C9E316-0B5C-4DB8-817D-F92DF00215AE": "Microsoft reserved",
  "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7": "Microsoft basic data",
  "5808C8AA-7E8F-42E0-85D2-E1E90434CFB3": "Microsoft LDM metadata",
  "AF9B60A0-1431-4F62-BC68-3311714A69AD": "Microsoft LDM data",
  "DE94BBA4-06D1-4D40-A16A-BFD50179D6AC": "Windows recovery",
  "E75CAF8F-F680-4CEE-AFA3-B001E56EFC2D": "Microsoft Storage Spaces",
  // Linux.
  "0FC63DAF-8483-4772-8E79-3D69D8477DE4": "Linux file system",
  "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F": "Linux swap",
  "A19D880F-05FC-4D3B-A006-743F0F84911E": "Linux RAID",
  "E6D6D379-F507-44C2-A23C-238F2A3DF928": "Linux LVM",
  "CA7D7CCB-63ED-4C53-861C-1742536059CC": "Linux LUKS",
  "7FFEC5C9-2D00-49B7-8941-3EA10A5586B7": "Linux dm-crypt",
  "8DA63339-0007-60C0-C436-083AC8230908": "Linux reserved",
  "BC13C2FF-59E6-4262-A352-B275FD6F7172": "Linux extended boot",
  "933AC7E1-2EB4-4F13-B844-0E14E2AEF915": "Linux /home",
  "773F91EF-66D4-49B5-BD83-D683BF40AD16": "Linux home of a user",
  "3B8F8425-20E0-4F3B-907F-1A25A76F98E8": "Linux /srv",
  "4D21B016-B534-45C2-A9FB-5C16E091FD2D": "Linux /var",
  "7EC6F557-3BC5-4ACA-B293-16EF5DF639D1": "Linux /var/tmp",
  "44479540-F297-41B2-9AF7-D131D5F0458A": "Linux root (x86)",
  "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709": "Linux root (x86-64)",
  "69DAD710-2CE4-4E3C-B16C-21A1D49ABED3": "Linux root (ARM)",
  "B921B045-1DF0-41C3-AF44-4C6F280D3FAE": "Linux root (ARM64)",
  "60D5A7FE-8E7D-435C-B714-3DD8162144E1": "Linux root (RISC-V 32)",
  "72EC70A6-CF74-40E6-BD49-4BDA08E8F224": "Linux root (RISC-V 64)",
  "77055800-792C-4F94-B39A-98C91B762BB6": "Linux root (LoongArch)",
  "C31C45E6-3F39-412E-80FB-4809C4980599": "Linux root (POWER, little-endian)",
  "5EEAD9A9-FE09-4A1E-A1D7-520D00531306": "Linux root (s390x)",
  "75250D76-8CC6-458E-BD66-BD47CC81A812": "Linux /usr (x86)",
  "8484680C-9521-48C6-9C11-B0720656F69E": "Linux /usr (x86-64)",
  "7D0359A3-02B3-4F0A-865C-654403E70625": "Linux /usr (ARM)",
  "B0E01050-EE5F-4390-949A-9101B17104E9": "Linux /usr (ARM64)",
  "BEAEC34B-8442-439B-A40B-984381ED097D": "Linux /usr (RISC-V 64)",
  "2C7357ED-EBD2-46D9-AEC1-23D437EC2BF5": "Linux root verity (x86-64)",
  "DF3300CE-D69F-4C92-978C-9BFB0F38D820": "Linux root verity (ARM64)",
  "77FF5F63-E7B6-4633-ACF4-1565B864C0E6": "Linux /usr verity (x86-64)",
  "6E11A4E7-FBCA-4DED-B9E9-E1A512BB664E": "Linux /usr verity (ARM64)",
  // Apple.
  "48465300-0000-11AA-AA11-00306543ECAC": "Apple HFS+",
  "7C3457EF-0000-11AA-AA11-00306543ECAC": "Apple APFS",
  "55465300-0000-11AA-AA11-00306543ECAC": "Apple UFS",
  "52414944-0000-11AA-AA11-00306543ECAC": "Apple RAID",
  "426F6F74-0000-11AA-AA11-00306543ECAC": "Apple boot",
  "53746F72-6167-11AA-AA11-00306543ECAC": "Apple Core Storage",
  // The BSDs.
  "516E7CB4-6ECF-11D6-8FF8-00022D09712B": "FreeBSD data",
  "83BD6B9D-7F41-11DC-BE0B-001560B84F0F": "FreeBSD boot",
  "516E7CB5-6ECF-11D6-8FF8-00022D09712B": "FreeBSD swap",
  "516E7CB6-6ECF-11D6-8FF8-00022D09712B": "FreeBSD UFS",
  "516E7CBA-6ECF-11D6-8FF8-00022D09712B": "FreeBSD ZFS",
  "49F48D32-B10E-11DC-B99B-0019D1879648": "NetBSD swap",
  "49F48D5A-B10E-11DC-B99B-0019D1879648": "NetBSD FFS",
  "824CC7A0-36A8-11E3-890A-952519AD3F61": "OpenBSD data",
  // Others.
  "6A898CC3-1DD2-11B2-99A6-080020736631": "Solaris /usr or ZFS",
  "6A945A3B-1DD2-11B2-99A6-080020736631": "Solaris reserved 1",
  "FE3A2A5D-4F32-41A7-B725-ACCC3285A309": "ChromeOS kernel",
  "3CB8E202-3B7E-47DD-8A3C-7FF2A13CFCEC": "ChromeOS root",
  "2E0A753D-9E48-43B0-8337-B15192CB1B5E": "ChromeOS reserved",
  "AA31E02A-400F-11DB-9590-000C2911D1B8": "VMware VMFS",
  "9D275380-40AD-11DB-BF97-000C2911D1B8": "VMware diagnostics",
  "4FBD7E29-9D25-41B8-AFD0-062C0CEFF05D": "Ceph OSD",
  "42465331-3BA3-10F1-802A-4861696B7521": "Haiku BFS",
  "C91818F9-8025-47AF-89D2-F030D7000C2C": "Plan 9",
};

/** Type bytes of MBR, and what is in such a partition. */
const MBR_NAMES: Readonly<Record<number, string>> = {
  0x01: "FAT12",
  0x04: "FAT16 below 32 MiB",
  0x05: "extended",
  0x06: "FAT16",
  0x07: "NTFS or exFAT",
  0x0b: "FAT32",
  0x0c: "FAT32 (LBA)",
  0x0e: "FAT16 (LBA)",
  0x0f: "extended (LBA)",
  0x11: "hidden FAT12",
  0x12: "Compaq diagnostics",
  0x14: "hidden FAT16 below 32 MiB",
  0x16: "hidden FAT16",
  0x17: "hidden NTFS",
  0x1b: "hidden FAT32",
  0x1c: "hidden FAT32 (LBA)",
  0x1e: "hidden FAT16 (LBA)",
  0x27: "Windows recovery",
  0x39: "Plan 9",
  0x41: "PowerPC PReP boot",
  0x42: "Microsoft LDM",
  0x4d: "QNX4",
  0x63: "GNU Hurd",
  0x77: "QNX6",
  0x81: "Minix",
  0x82: "Linux swap",
  0x83: "Linux file system",
  0x84: "hibernation",
  0x85: "Linux extended",
  0x8e: "Linux LVM",
  0xa5: "FreeBSD",
  0xa6: "OpenBSD",
  0xa8: "Apple UFS",
  0xa9: "NetBSD",
  0xab: "Apple boot",
  0xaf: "Apple HFS+",
  0xbe: "Solaris boot",
  0xbf: "Solaris",
  0xcd: "ISO 9660 hybrid",
  0xda: "data without a file system",
  0xde: "Dell utilities",
  0xea: "Linux extended boot",
  0xeb: "BeOS BFS",
  0xee: "GPT protective",
  0xef: "EFI system",
  0xfb: "VMware VMFS",
  0xfc: "VMware swap",
  0xfd: "Linux RAID",
};

/** Words for the types that tables are made of most, in either kind of table. */
const TYPE_WORDS: Readonly<
  Record<string, { readonly gpt: string; readonly mbr?: number }>
> = {
  efi: { gpt: "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", mbr: 0xef },
  bios: { gpt: "21686148-6449-6E6F-744E-656564454649" },
  boot: { gpt: "BC13C2FF-59E6-4262-A352-B275FD6F7172", mbr: 0xea },
  linux: { gpt: "0FC63DAF-8483-4772-8E79-3D69D8477DE4", mbr: 0x83 },
  swap: { gpt: "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F", mbr: 0x82 },
  raid: { gpt: "A19D880F-05FC-4D3B-A006-743F0F84911E", mbr: 0xfd },
  lvm: { gpt: "E6D6D379-F507-44C2-A23C-238F2A3DF928", mbr: 0x8e },
  home: { gpt: "933AC7E1-2EB4-4F13-B844-0E14E2AEF915" },
  fat: { gpt: "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7", mbr: 0x0c },
  ntfs: { gpt: "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7", mbr: 0x07 },
  msr: { gpt: "E3C9E316-0B5C-4DB8-817D-F92DF00215AE" },
};

/**
 * What a type of partition is called.
 *
 * @param type A GUID, or the type byte of an MBR such as `"0x83"`.
 * @returns Its name, if it is a well-known one.
 *
 * @example
 * ```ts
 * import { partitionTypeName } from "@platter/disk/image";
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(partitionTypeName("0x83"), "Linux file system");
 * assertEquals(
 *   partitionTypeName("c12a7328-f81f-11d2-ba4b-00a0c93ec93b"),
 *   "EFI system",
 * );
 * ```
 */
export function partitionTypeName(type: string): string | undefined {
  return /^0x[0-9a-f]{1,2}$/i.test(type)
    ? MBR_NAMES[Number(type)]
    : GPT_NAMES[type.toUpperCase()];
}

/**
 * Reads a type of partition as people write it: a GUID, a type byte, or a word
 * such as `"linux"`.
 *
 * @param kind The table that it is for.
 * @param text What was written.
 * @returns The type as a `Partition` has it: a GUID or a byte.
 * @throws {RangeError} If it is none that such a table has.
 */
export function parsePartitionType(kind: "gpt" | "mbr", text: string): string {
  const known = Object.hasOwn(TYPE_WORDS, text) ? TYPE_WORDS[text] : undefined;
  if (kind === "gpt") {
    const guid = known?.gpt ?? text;
    if (isGuid(guid) && guid !== UNUSED) return guid.toUpperCase();
  } else {
    const byte = known?.mbr ?? (/^0x[0-9a-f]{1,2}$/i.test(text) ? +text : 0);
    if (byte > 0 && byte !== PROTECTIVE && !isExtended(byte)) {
      return `0x${byte.toString(16).padStart(2, "0")}`;
    }
  }
  const words = Object.entries(TYPE_WORDS)
    .filter(([, types]) => types[kind] !== undefined).map(([word]) => word);
  throw new RangeError(
    `Cannot use a type of partition as it must be ${
      kind === "gpt"
        ? "a GUID that is not all zeroes"
        : "a type byte of data such as 0x83"
    } or one of ${words.join(", ")}: current value is ${JSON.stringify(text)}`,
  );
}
