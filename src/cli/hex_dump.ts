/**
 * Bytes as people read them: sixteen to a line, with a heading for every
 * sector, and one `*` for any number of lines like the one before.
 *
 * @module
 */

import { isZero } from "../buffer.ts";
import { SECTOR_BYTES } from "../geometry.ts";

const LINE_BYTES = 16;
const HEX = Array.from({ length: 256 }, (_, byte) => {
  return byte.toString(16).padStart(2, "0");
});
const ZERO_LINE = new Uint8Array(LINE_BYTES);

/**
 * Writes a hex dump, piece by piece. The pieces adjoin; only the first may
 * begin and only the last may end within a line.
 */
export class HexDump {
  readonly #digits: number;
  /** The last line, if it was a whole one. */
  readonly #last = new Uint8Array(LINE_BYTES);
  #comparable = false;
  #starred = false;
  #headed = -1;
  #end = 0;

  /**
   * Constructs a new instance.
   *
   * @param end The last offset that may be written, in bytes: all offsets are
   * written as wide as this one.
   */
  constructor(end: number) {
    this.#digits = Math.max(8, end.toString(16).length);
  }

  /**
   * Writes bytes.
   *
   * @param offset Their place on the disk.
   * @param bytes The bytes.
   * @returns Lines.
   */
  data(offset: number, bytes: Uint8Array): string {
    let text = "";
    for (let at = 0; at < bytes.length;) {
      const within = (offset + at) % SECTOR_BYTES;
      const sector = bytes.subarray(at, at + SECTOR_BYTES - within);
      text += isZero(sector)
        ? this.zeroes(offset + at, sector.length)
        : this.#lines(offset + at, sector);
      at += sector.length;
    }
    return text;
  }

  /**
   * Writes zeroes, however many, at no cost.
   *
   * @param offset Their place on the disk.
   * @param length How many.
   * @returns Lines.
   */
  zeroes(offset: number, length: number): string {
    const end = offset + length;
    let text = "";
    let at = offset;
    // The first lines may differ from what was before; once two whole lines
    // were alike, all further ones are, up to an end within a line.
    for (let lines = 0; at < end && lines < 3; lines++) {
      const next = Math.min(at + LINE_BYTES - at % LINE_BYTES, end);
      text += this.#lines(at, ZERO_LINE.subarray(0, next - at));
      at = next;
    }
    if (at < end) {
      const last = end - end % LINE_BYTES;
      text += this.#lines(last, ZERO_LINE.subarray(0, end - last));
      this.#end = end;
    }
    return text;
  }

  /**
   * Writes the end.
   *
   * @returns A line with the offset after the last byte.
   */
  end(): string {
    return `${this.#offset(this.#end)}\n`;
  }

  #lines(offset: number, bytes: Uint8Array): string {
    let text = "";
    for (let at = 0; at < bytes.length;) {
      const place = offset + at;
      const skip = place % LINE_BYTES;
      const line = bytes.subarray(at, at + LINE_BYTES - skip);
      text += this.#line(place, line);
      at += line.length;
    }
    this.#end = offset + bytes.length;
    return text;
  }

  #line(offset: number, line: Uint8Array): string {
    const whole = line.length === LINE_BYTES;
    if (whole && this.#comparable && isSame(line, this.#last)) {
      if (this.#starred) return "";
      this.#starred = true;
      return "*\n";
    }
    this.#starred = false;
    this.#comparable = whole;
    if (whole) this.#last.set(line);
    const sector = Math.floor(offset / SECTOR_BYTES);
    const heading = sector === this.#headed ? "" : `sector ${sector}\n`;
    this.#headed = sector;
    return heading + this.#format(offset, line);
  }

  #format(offset: number, line: Uint8Array): string {
    const skip = offset % LINE_BYTES;
    let hex = "";
    let text = "";
    for (let column = 0; column < LINE_BYTES; column++) {
      const byte = line[column - skip];
      if (column === LINE_BYTES / 2) hex += " ";
      hex += byte === undefined ? "   " : ` ${HEX[byte]!}`;
      if (byte === undefined) text += column < skip ? " " : "";
      else {text += byte >= 0x20 && byte < 0x7f
          ? String.fromCharCode(byte)
          : ".";}
    }
    return `${this.#offset(offset - skip)} ${hex}  |${text}|\n`;
  }

  #offset(offset: number): string {
    return offset.toString(16).padStart(this.#digits, "0");
  }
}

function isSame(a: Uint8Array, b: Uint8Array): boolean {
  for (let i = 0; i < LINE_BYTES; i++) if (a[i] !== b[i]) return false;
  return true;
}
