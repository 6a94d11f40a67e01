/**
 * DMG images, made by hand: nothing in Debian makes one. A header at the end
 * ("koly"), a property list with a table of chunks ("mish") before it, and chunks
 * that are raw, compressed by zlib, or nothing: as QEMU's block/dmg.c reads them.
 *
 * @module
 */

import { deflateSync } from "node:zlib";

/** The kinds of chunks that are used here. */
const ZEROES = 0;
const RAW = 1;
const ZLIB = 0x80000005;
const END = 0xffffffff;

/** Sectors of a chunk. */
const CHUNK = 64;

/** Makes a DMG of some content, in whole sectors. */
export function dmgOf(content: Uint8Array): Uint8Array {
  const chunks: [number, number, number, number, number][] = [];
  const data: Uint8Array[] = [];
  let length = 0;
  const sectors = content.length / 512;
  for (let sector = 0; sector < sectors; sector += CHUNK) {
    const count = Math.min(CHUNK, sectors - sector);
    const bytes = content.subarray(sector * 512, (sector + count) * 512);
    const type = bytes.every((byte) => byte === 0)
      ? ZEROES
      : sector % (2 * CHUNK) === 0
      ? ZLIB
      : RAW;
    const stored = type === ZEROES
      ? new Uint8Array(0)
      : type === ZLIB
      ? new Uint8Array(deflateSync(bytes))
      : bytes;
    chunks.push([type, sector, count, length, stored.length]);
    data.push(stored);
    length += stored.length;
  }
  chunks.push([END, sectors, 0, length, 0]);
  const table = new DataView(new ArrayBuffer(204 + 40 * chunks.length));
  table.setUint32(0, 0x6d697368);
  table.setUint32(4, 1);
  table.setBigUint64(16, BigInt(sectors));
  table.setUint32(200, chunks.length);
  chunks.forEach(([type, ...numbers], index) => {
    const at = 204 + 40 * index;
    table.setUint32(at, type);
    numbers.forEach((number, place) =>
      table.setBigUint64(at + 8 + 8 * place, BigInt(number))
    );
  });
  const list = new TextEncoder().encode(
    `<?xml version="1.0"?><plist version="1.0"><dict><key>resource-fork</key>` +
      `<dict><key>blkx</key><array><dict><key>Data</key><data>\n${
        new Uint8Array(table.buffer).toBase64()
      }\n</data></dict></array></dict></dict></plist>`,
  );
  const header = new DataView(new ArrayBuffer(512));
  header.setUint32(0, 0x6b6f6c79);
  header.setUint32(4, 4);
  header.setUint32(8, 512);
  header.setBigUint64(32, BigInt(length));
  header.setUint32(56, 1);
  header.setUint32(60, 1);
  header.setBigUint64(216, BigInt(length));
  header.setBigUint64(224, BigInt(list.length));
  header.setUint32(488, 1);
  header.setBigUint64(492, BigInt(sectors));
  const parts = [...data, list, new Uint8Array(header.buffer)];
  const image = new Uint8Array(parts.reduce((sum, it) => sum + it.length, 0));
  let at = 0;
  for (const part of parts) {
    image.set(part, at);
    at += part.length;
  }
  return image;
}
