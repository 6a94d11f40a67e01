/**
 * A write-ahead log of twenty lines, what a power cut does to it, and the log
 * again with the one line that it lacked. `docs/crash_testing.md` tells how to
 * read what this prints.
 *
 * deno run examples/crash_wal.ts
 *
 * @module
 */

import type { VirtualDisk } from "@platter/disk";
import { CrashFailure, exploreCrashes } from "@platter/disk/testing";

/** A log of texts, two sectors for each: a length, a checksum, the text. */
class Log {
  readonly #disk: VirtualDisk;
  readonly #checked: boolean;
  #end = 0;

  constructor(disk: VirtualDisk, checked: boolean) {
    this.#disk = disk;
    this.#checked = checked;
  }

  async append(text: string): Promise<void> {
    const record = new Uint8Array(1024);
    const view = viewOf(record);
    view.setUint32(0, text.length);
    new TextEncoder().encodeInto(text, record.subarray(8));
    view.setUint32(4, checksum(record.subarray(8)));
    await this.#disk.write(this.#end, record);
    await this.#disk.flush();
    this.#end += 2;
  }

  async texts(): Promise<string[]> {
    const texts: string[] = [];
    for (this.#end = 0; this.#end < this.#disk.sectors; this.#end += 2) {
      const record = await this.#disk.read(this.#end, 2);
      const view = viewOf(record);
      const length = view.getUint32(0);
      if (length === 0) break;
      // The line that makes the difference.
      if (this.#checked && view.getUint32(4) !== checksum(record.subarray(8))) {
        break;
      }
      texts.push(new TextDecoder().decode(record.subarray(8, 8 + length)));
    }
    return texts;
  }
}

/** A view of just these bytes: their buffer may begin before them. */
function viewOf({ buffer, byteOffset, byteLength }: Uint8Array): DataView {
  return new DataView(buffer, byteOffset, byteLength);
}

/** FNV-1a. */
function checksum(bytes: Uint8Array): number {
  let hash = 0x811c9dc5;
  for (const byte of bytes) hash = Math.imul(hash ^ byte, 0x01000193);
  return hash >>> 0;
}

const LETTERS = ["a", "b", "c"].map((letter) => letter.repeat(900));

/** Explores the log with or without looking at its checksums. */
function explore(checked: boolean) {
  return exploreCrashes<string>({
    device: { sectors: 64 },
    async workload(disk, acknowledge) {
      const log = new Log(disk, checked);
      for (const text of LETTERS) {
        await log.append(text);
        acknowledge(text);
      }
    },
    async recover(disk, acknowledged) {
      const texts = await new Log(disk, checked).texts();
      for (const [i, text] of texts.entries()) {
        if (text !== LETTERS[i]) throw new Error(`Text ${i} is damaged`);
      }
      if (texts.length < acknowledged.length) {
        throw new Error(`Text ${texts.length} is gone`);
      }
    },
  });
}

try {
  await explore(false);
} catch (error) {
  if (!(error instanceof CrashFailure)) throw error;
  console.log(`Without a look at the checksum:\n\n${error.message}\n`);
}
const { summary } = await explore(true);
console.log(`With a look at the checksum:\n\nNothing fails in ${summary}`);
