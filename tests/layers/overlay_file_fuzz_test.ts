/**
 * Files of overlays as nobody wrote them: mutated, with and without checksums
 * that are right. Each is refused with a typed error, or each sector of the disk
 * is that of the base or that of the file.
 *
 * @module
 */

import { assert, assertEquals, assertInstanceOf } from "@std/assert";
import { crc32 } from "node:zlib";
import type { Backend } from "../../src/backend.ts";
import { MemoryBackend } from "../../src/backends/memory.ts";
import { overlay } from "../../src/disk/overlay.ts";
import { DiskError } from "../../src/errors.ts";
import type { FileOverlay } from "../../src/layers/file_overlay.ts";
import { overlay as inMemory } from "../../src/layers/overlay.ts";
import {
  decodeHeader,
  decodePage,
  encodeHeader,
  encodePage,
  HEADER_BYTES,
  layoutOf,
  MAP_SECTOR,
  OverlayFormatError,
  OverlayState,
  PAGE_BIT_BYTES,
  PAGE_BITS,
  PAGE_BYTES,
} from "../../src/layers/overlay_file/format.ts";
import { Random } from "../../src/random.ts";
import {
  flushRequest,
  readRequest,
  writeRequest,
  writeZeroesRequest,
} from "../../src/request.ts";
import { carryOut, readSectors, submitAll } from "../contract.ts";
import { altered } from "../fake_backend.ts";
import { LONG } from "../helpers.ts";

const MUTATIONS = LONG ? 100_000 : 2000;
const SECTORS = 40;
const { dataSector, fileSectors } = layoutOf(SECTORS);

/** Numbers that break things. */
const EXTREMES = [0n, 1n, 2n, 3n, 4n, 255n, 1n << 31n, (1n << 32n) - 1n]
  .concat([(1n << 52n) - 1n, 1n << 52n, 1n << 53n, (1n << 64n) - 1n]);

/** Where numbers are in a header, and how many bytes of each. */
const FIELDS: [at: number, bytes: 4 | 8][] = [
  [8, 4],
  [16, 8],
  [24, 8],
  [32, 8],
  [40, 4],
  [44, 4],
  [48, 8],
  [88, 4],
];

/** Makes the checksums of a header right. */
function sealHeader(bytes: Uint8Array): void {
  bytes.fill(0, 12, 16);
  new DataView(bytes.buffer, bytes.byteOffset).setUint32(
    12,
    crc32(bytes),
    true,
  );
}

/** Makes the checksums of the only page right. */
function sealPage(bytes: Uint8Array): void {
  for (let part = 0; part < 8; part++) {
    const own = bytes.subarray(part * 512, (part + 1) * 512);
    const summed = new Uint8Array(516);
    summed.set(own.subarray(4));
    new DataView(summed.buffer).setBigUint64(508, BigInt(part), true);
    new DataView(own.buffer, own.byteOffset).setUint32(0, crc32(summed), true);
  }
}

function mutate(random: Random, bytes: Uint8Array, fields: boolean): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  for (let i = random.between(1, 3); i > 0; i--) {
    const what = random.below(5);
    const at = random.below(bytes.length);
    if (what === 0) bytes[at]! ^= 1 << random.below(8);
    else if (what === 1) {
      const end = Math.min(bytes.length, at + random.between(1, 600));
      bytes.fill([0, 255, random.below(256)][random.below(3)]!, at, end);
    } else if (what === 2) {
      bytes.copyWithin(random.below(bytes.length), at, at + 512);
    } else if (fields) {
      const [place, size] = FIELDS[random.below(FIELDS.length)]!;
      const value = EXTREMES[random.below(EXTREMES.length)]!;
      if (size === 8) view.setBigUint64(place, value, true);
      else view.setUint32(place, Number(value & 0xffff_ffffn), true);
    } else {
      const value = EXTREMES[random.below(EXTREMES.length)]!;
      view.setBigUint64(512 * random.below(8) + 8, value, true);
    }
  }
}

Deno.test("overlay() takes no mutated file for what it is not", async () => {
  const seed = 26;
  const random = new Random(seed);
  const base = new MemoryBackend({ sectors: SECTORS });
  const baseData = random.bytes(SECTORS * 512);
  await carryOut(base, writeRequest(0, baseData));
  const store = new MemoryBackend({ sectors: fileSectors });
  const made = await overlay(base, { file: store, ownsBase: false });
  await carryOut(
    made,
    writeRequest(3, random.bytes(5 * 512)),
    writeZeroesRequest(20, 3),
    flushRequest(),
  );
  const data = await readSectors(store, dataSector, SECTORS);
  const original = await readSectors(store, 0, MAP_SECTOR + 8);
  const counts = { refused: 0, opened: 0, unreadable: 0, changed: 0 };
  for (let i = 0; i < MUTATIONS; i++) {
    const bytes = original.slice();
    const copies = [bytes.subarray(0, HEADER_BYTES)];
    copies.push(bytes.subarray(HEADER_BYTES, 2 * HEADER_BYTES));
    const page = bytes.subarray(2 * HEADER_BYTES);
    const seals = random.chance(2, 3);
    if (random.chance(1, 2)) {
      mutate(random, page, false);
      if (seals) sealPage(page);
    } else {
      mutate(random, copies[0]!, true);
      if (seals) sealHeader(copies[0]!);
      if (random.chance(2, 3)) copies[1]!.set(copies[0]!);
    }
    const file = inMemory(store, { ownsBase: false });
    file.put(0, bytes);
    const sectors = random.chance(1, 20)
      ? random.below(fileSectors)
      : fileSectors;
    const shown: Backend = altered(file, {
      geometry: { ...file.geometry, sectors },
      ...(random.chance(1, 2) ? {} : {
        extents: (sector: number, count: number) => file.extents(sector, count),
      }),
    });
    let changes: FileOverlay;
    try {
      changes = await overlay(base, { file: shown, ownsBase: false });
    } catch (error) {
      assertInstanceOf(error, DiskError, `seed ${seed}, ${i}: ${error}`);
      assert(["geometry", "io"].includes(error.kind), error.message);
      counts.refused++;
      continue;
    }
    counts.opened++;
    const seen = new Uint8Array(SECTORS * 512);
    const [error] = await submitAll(changes, [readRequest(0, seen)]);
    if (error !== null) {
      assertEquals(error?.kind, "io");
      counts.unreadable++;
    } else {
      for (let at = 0; at < seen.length; at += 512) {
        const from = (whole: Uint8Array) =>
          seen.subarray(at, at + 512).every((byte, j) =>
            byte === whole[at + j]
          );
        assert(from(baseData) || from(data), `seed ${seed}, ${i}: ${at / 512}`);
      }
      counts.changed += (await changes.changes()).length;
    }
    const at = random.below(SECTORS);
    const mark = new Uint8Array(512).fill(i);
    await submitAll(changes, [writeRequest(at, mark)]);
    const [flushed] = await submitAll(changes, [flushRequest()]);
    if (random.chance(1, 4)) {
      await changes.discard().catch((error) => {
        assertInstanceOf(error, DiskError);
      });
    }
    await changes.close().catch((error) => assertInstanceOf(error, DiskError));
    if (error === null) assertEquals(flushed, null);
  }
  // Every way was gone.
  for (const [name, count] of Object.entries(counts)) {
    assert(count > MUTATIONS / 100, `${name}: ${count}`);
  }
  await made.close();
});

Deno.test("encodeHeader() and decodeHeader() keep what a header says", () => {
  const header = {
    sequence: 7,
    epoch: 2 ** 40,
    sectors: 2 ** 34,
    blockSize: 4096,
    state: OverlayState.Committing,
    modified: 1_700_000_000_123_456_789n,
    digest: new Uint8Array(32).fill(5),
    basePath: "/srv/Bücher/disk.img",
  };
  assertEquals(decodeHeader(encodeHeader(header)), header);
  // A path that has no room is left out, and so is none.
  const long = { ...header, basePath: "/a".repeat(2001) };
  assertEquals(decodeHeader(encodeHeader(long)).basePath, "");
});

Deno.test("encodePage() and decodePage() keep bits, and those of another epoch are none", () => {
  const bits = new Random(1).bytes(PAGE_BIT_BYTES);
  const bytes = new Uint8Array(PAGE_BYTES);
  encodePage(3, 9, bits, bytes);
  assertEquals(decodePage(3, 9, bytes, PAGE_BITS), bits);
  assertEquals(
    decodePage(3, 10, bytes, PAGE_BITS),
    new Uint8Array(PAGE_BIT_BYTES),
  );
  const fails = (index: number, epoch: number, end = PAGE_BITS) => {
    try {
      decodePage(index, epoch, bytes, end);
    } catch (error) {
      assertInstanceOf(error, OverlayFormatError);
      return error.message;
    }
    return "";
  };
  // Another page's, an epoch that is yet to come, and beyond the disk's end.
  assert(fails(4, 9).includes("checksum"));
  assert(fails(3, 8).includes("epoch 8 or before"));
  assert(fails(3, 9, 8).includes("end where the disk does"));
  bytes[700]! ^= 1;
  assert(fails(3, 9).includes("checksum of sector 25"));
});

Deno.test("layoutOf() has room for each sector of the map and of the data", () => {
  for (const sectors of [1, PAGE_BITS, PAGE_BITS + 1, 2 ** 34]) {
    const { pages, dataSector, fileSectors } = layoutOf(sectors);
    assert(pages * PAGE_BITS >= sectors && (pages - 1) * PAGE_BITS < sectors);
    assert(dataSector >= MAP_SECTOR + pages * 8);
    assertEquals(dataSector % 2048, 0);
    const end = dataSector + sectors;
    assert(fileSectors >= end + 8 && fileSectors < end + 16);
    assertEquals(fileSectors % 8, 0);
  }
});
