/**
 * Tables of partitions drawn from a seed, sound and damaged, for whoever judges
 * what `readPartitions()` makes of them.
 *
 * @module
 */

import { MemoryBackend, VirtualDisk } from "@platter/disk";
import { type NewPartition, writePartitions } from "@platter/disk/image";
import type { Random } from "@platter/disk/testing";
import { seal, sealHeader } from "./tables.ts";

/** A disk with a table. */
export interface TableCase {
  /** What was done to it, in words. */
  what: string;
  bytes: Uint8Array<ArrayBuffer>;
}

/** Fields of a header: where, and how many bytes. */
const FIELDS: [at: number, bytes: number][] = [
  ...[[8, 4], [12, 4], [24, 8], [32, 8], [40, 8], [48, 8], [72, 8]],
  ...[[80, 4], [84, 4], [88, 4]],
] as [number, number][];

/** Makes a table by the library itself. */
export async function soundCase(random: Random): Promise<TableCase> {
  const sectors = 1024 + 8 * random.below(128);
  const memory = new MemoryBackend({ sectors });
  await using disk = VirtualDisk.over(memory);
  const kind = random.below(2) === 0 ? "gpt" : "mbr";
  const most = kind === "gpt" ? 12 : 7;
  const count = random.below(most);
  const partitions: NewPartition[] = [];
  // Three primary ones at most, and logical ones after them.
  const primaries = random.below(4);
  for (let i = 0; i < count; i++) {
    partitions.push({
      type: ["linux", "efi", "swap", "lvm"][random.below(4)]!,
      sectors: 1 + random.below(64),
      bootable: random.below(8) === 0,
      ...(kind === "gpt"
        ? {
          name: [..."é😀name"].slice(0, random.below(8)).join(""),
          guid: guidOf(random),
        }
        : i >= primaries
        ? { logical: true }
        : {}),
    });
  }
  await writePartitions(disk, {
    kind,
    partitions,
    alignment: 1 << random.below(4),
    id: kind === "gpt" ? guidOf(random) : "0x1234abcd",
  });
  return { what: `sound ${kind}`, bytes: await disk.read(0, sectors) };
}

function guidOf(random: Random): string {
  const hex = Array.from(
    random.bytes(16),
    (byte) => byte.toString(16).padStart(2, "0"),
  ).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

/** Damages a table in one of many ways, some of them with right checksums. */
export function damage(random: Random, { what, bytes }: TableCase): TableCase {
  const copy = bytes.slice();
  const view = new DataView(copy.buffer);
  const last = copy.length - 512;
  const header = random.below(2) === 0 ? 512 : last;
  const entries = header === 512 ? 1024 : copy.length - 33 * 512;
  const random64 = () =>
    [
      BigInt(random.below(4096)),
      BigInt(copy.length / 512) - 34n + BigInt(random.below(68)),
      BigInt(random.below(2 ** 32)) << BigInt(random.below(33)),
      2n ** 64n - 1n - BigInt(random.below(3)),
    ][random.below(4)]!;
  const said = (how: string, result = copy) => ({
    what: `${what}, ${how}`,
    bytes: result,
  });
  switch (random.below(10)) {
    case 0: {
      const at =
        [0, 512, 1024, last, copy.length - 33 * 512][random.below(5)]! +
        random.below(512);
      copy[at]! ^= 1 << random.below(8);
      return said(`bit flipped at ${at}`);
    }
    case 1:
      copy.fill(0, header, header + 512);
      return said(`header at ${header} zeroed`);
    case 2:
      copy.fill(0, 512, 34 * 512);
      return said("primary zeroed");
    case 3:
      copy.fill(0, 446, 512);
      return said("MBR zeroed");
    case 4: {
      const grown = new Uint8Array(copy.length + 512 * (1 + random.below(64)));
      grown.set(copy);
      return said("grown", grown);
    }
    case 5:
      return said("cut", copy.slice(0, last - 512 * random.below(64)));
    case 6: {
      const [at, width] = FIELDS[random.below(FIELDS.length)]!;
      const value = random64();
      if (width === 8) view.setBigUint64(header + at, value, true);
      else view.setUint32(header + at, Number(value & 0xffff_ffffn), true);
      if (random.below(2) === 0) sealHeader(copy, header);
      else seal(copy, header);
      return said(`field ${at} of the header at ${header} is ${value}`);
    }
    case 7: {
      const i = random.below(12);
      const at = entries + 128 * i + 32 + 8 * random.below(2);
      const value = random64();
      view.setBigUint64(at, value, true);
      seal(copy, header);
      return said(
        `a place of entry ${i} of the header at ${header} is ${value}`,
      );
    }
    case 8: {
      const at = 446 + 16 * random.below(4);
      const field = at + [0, 4, 8, 12][random.below(4)]!;
      copy[field + random.below(2)] = random.below(256);
      return said(`entry of the MBR changed at ${field}`);
    }
    default: {
      // Somewhere in a record of a chain, if there is one.
      const records: number[] = [];
      for (let at = 512; at < copy.length; at += 512) {
        if (copy[at + 510] === 0x55 && copy[at + 511] === 0xaa) {
          records.push(at);
        }
      }
      const record = records[random.below(Math.max(1, records.length))] ?? 0;
      const at = record + 446 + random.below(66);
      copy[at] = random.below(256);
      return said(`record at ${record} changed at ${at}`);
    }
  }
}
