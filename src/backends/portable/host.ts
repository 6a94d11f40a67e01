/**
 * What can be learnt of the host without FFI, and without a permission prompt:
 * block devices, and what they and files demand of direct I/O.
 *
 * @module
 */

import fs from "node:fs";
import { isZero } from "../../buffer.ts";
import { roundDown } from "../alignment_plan.ts";
import {
  MAX_ALIGNMENT,
  type QueueAttributes,
  queueAttributes,
  splitDevice,
} from "../sysfs.ts";
import { Arena } from "./aligned_memory.ts";
import { arch, os } from "../../platform/system.ts";

/** What to assume of a host that does not say: right for nearly every disk. */
const ASSUMED_ALIGNMENT = 4096;

/**
 * `O_DIRECT` by operating system and architecture: Linux
 * `arch/*\/include/uapi/asm/fcntl.h`; FreeBSD and NetBSD `sys/fcntl.h`.
 * `node:fs` has it on Linux alone.
 */
const O_DIRECT: Readonly<Record<string, number>> = {
  "linux x86_64": 0x4000,
  "linux aarch64": 0x1_0000,
  "freebsd x86_64": 0x1_0000,
  "freebsd aarch64": 0x1_0000,
  "netbsd x86_64": 0x8_0000,
  "netbsd aarch64": 0x8_0000,
};

/**
 * The flag that opens a file for direct I/O.
 *
 * @returns The flag, or `null` if this platform has none that is known.
 */
export function directFlag(): number | null {
  const known = O_DIRECT[`${os} ${arch}`];
  if (known !== undefined) return known;
  return os === "linux" ? fs.constants.O_DIRECT ?? null : null;
}

/**
 * What Linux says of a block device or of the one below a file.
 *
 * @param device The device's number as `stat` gives it.
 * @returns What it says; nothing where it cannot be asked: Deno gives `/sys` to
 * programs with `--allow-all` alone, without a prompt.
 */
export function deviceAttributes(device: bigint): Partial<QueueAttributes> {
  if (os !== "linux") return {};
  const { major, minor } = splitDevice(device);
  return queueAttributes(major, minor);
}

/** What trial reads found out. */
export interface Alignment {
  /** What offsets and lengths must be multiples of, in bytes. */
  readonly bytes: number;
  /** `"trial reads"` if the host refused what is smaller, else `"assumed"`. */
  readonly source: "trial reads" | "assumed";
  /** Whether the host read a single byte: then it buffers, or does not care. */
  readonly takesAnything: boolean;
}

/**
 * Finds out what a host demands of direct I/O by reading ever more, as QEMU
 * does. What reads as zeroes may be a hole, and a hole of a file can be read
 * with any alignment: so only data counts.
 *
 * @param descriptor A file open for direct I/O.
 * @param size Its size in bytes.
 * @param isDevice Whether it is a device, which has no holes.
 * @returns What was found.
 */
export function tryAlignment(
  descriptor: number,
  size: number,
  isDevice: boolean,
): Alignment {
  const memory = new Arena().allocate(MAX_ALIGNMENT);
  const read = (length: number, position: number): number | null => {
    try {
      return fs.readSync(descriptor, memory, 0, length, position);
    } catch {
      return null;
    }
  };
  const places = [0, size / 2, size - 1].map((place) =>
    roundDown(Math.max(0, Math.floor(place)), MAX_ALIGNMENT)
  );
  for (const place of new Set(places)) {
    memory.fill(0);
    // Whole 64 KiB satisfy any host, and a file's end cuts them short.
    const there = read(MAX_ALIGNMENT, place);
    if (there === null || there < 512) continue;
    if (!isDevice && isZero(memory.subarray(0, 512))) continue;
    if (read(1, place) === 1) {
      return {
        bytes: ASSUMED_ALIGNMENT,
        source: "assumed",
        takesAnything: true,
      };
    }
    for (let bytes = 512; bytes <= MAX_ALIGNMENT; bytes *= 2) {
      if (read(bytes, place) !== null) {
        return { bytes, source: "trial reads", takesAnything: false };
      }
    }
  }
  // No data to be sure with. Not even a hole may be larger than it seems.
  let bytes = ASSUMED_ALIGNMENT;
  while (bytes < MAX_ALIGNMENT && size > 0 && read(bytes, 0) === null) {
    bytes *= 2;
  }
  return { bytes, source: "assumed", takesAnything: false };
}
