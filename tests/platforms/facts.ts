/**
 * Says what a disk is in some places, on either backend, and whether it reads back
 * what was written there: after durable writes, zeroes and discards. A place is a
 * folder, in which an image is made, or a device, whose content it destroys.
 *
 * ```sh
 * deno run -A tests/platforms/facts.ts FOLDER|DEVICE…
 * ```
 *
 * @module
 */

import { Buffer } from "node:buffer";
import { VirtualDisk } from "@platter/disk";
import type { Facts } from "./differences.ts";

const SECTORS = 2048;

/** What of a backend. */
async function factsOf(
  path: string,
  backend: "direct" | "portable",
): Promise<Facts> {
  await using disk = await VirtualDisk.open(path, { backend });
  const count = Math.min(SECTORS, disk.info.sectors);
  const expected = new Uint8Array(count * 512).fill(3);
  const wrong: string[] = [];
  const check = async (after: string, start: number, end: number) => {
    const found = (await disk.read(0, count)).subarray(start * 512, end * 512);
    const wanted = expected.subarray(start * 512, end * 512);
    // By memcmp: an emulated processor is slow at loops.
    if (Buffer.compare(found, wanted) === 0) return;
    const at = found.findIndex((byte, i) => byte !== wanted[i]);
    wrong.push(`${after}, byte ${start * 512 + at} reads as ${found[at]}`);
  };
  const fill = (byte: number, start: number, length: number) =>
    expected.fill(byte, start * 512, (start + length) * 512);
  await disk.write(0, expected.slice());
  await disk.write(8, new Uint8Array(4096).fill(5), { fua: true });
  fill(5, 8, 8);
  await check("after a durable write", 0, count);
  for (const [start, length] of [[16, 8], [1024, 512]] as const) {
    await disk.writeZeroes(start, length);
    fill(0, start, length);
    await check("after zeroes", 0, count);
    if (disk.info.abilities.writeZeroes !== "none") {
      await disk.write(start, new Uint8Array(length * 512).fill(9));
      await disk.writeZeroes(start, length, { unmap: true });
      await check("after zeroes that unmap", 0, count);
    }
  }
  if (disk.info.abilities.discard !== "none") {
    await disk.discard(512, 256);
    await check("beside a discard", 0, 512);
    await check("beside a discard", 768, count);
  }
  await disk.flush();
  const second = await VirtualDisk.open(path, { backend }).then(
    async (other) => {
      await other.close();
      return "opened";
    },
    (error) => error.kind ?? String(error),
  );
  const { info } = disk;
  // What is said of the lock must be so, and the table says where there is none.
  const wanted = info.lock.method === "none" ? "opened" : "locked";
  if (second !== wanted) wrong.push(`a second writer: ${second}`);
  return {
    medium: info.medium,
    fileSystem: info.fileSystem,
    engine: info.engine.name,
    active: info.direct.active,
    reason: info.direct.reason,
    alignment: [info.direct.memoryAlignment, info.direct.offsetAlignment],
    alignmentSource: info.direct.alignmentSource,
    flush: info.durability.flush,
    lock: info.lock.method,
    discard: info.abilities.discard,
    writeZeroes: info.abilities.writeZeroes,
    wrong,
  };
}

for (const place of Deno.args) {
  const { isDirectory } = await Deno.stat(place);
  const found: Record<string, Facts | string> = {};
  for (const backend of ["direct", "portable"] as const) {
    const path = isDirectory ? `${place}/facts-${backend}.img` : place;
    if (isDirectory) {
      await Deno.writeFile(path, new Uint8Array(SECTORS * 512).fill(3));
    }
    try {
      found[backend] = await factsOf(path, backend);
    } catch (error) {
      // What cannot be opened must not hide the places after it.
      found[backend] = String(error);
    } finally {
      if (isDirectory) await Deno.remove(path);
    }
  }
  console.log(`FACTS ${place} ${JSON.stringify(found)}`);
}
