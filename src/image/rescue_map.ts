/**
 * Map files of GNU ddrescue: what of a failing disk has been read, what is bad,
 * and what is still to be tried, as text that ddrescue and ddrescuelog read and
 * write. Text in and out, and a map in memory to change; nothing is opened.
 *
 * What is read may come from anywhere. The rules are those of "Mapfile
 * structure" in the manual of ddrescue 1.27: blocks follow one another from the
 * first position, without gaps and overlaps.
 *
 * @module
 */

import { printable } from "../printable.ts";
import { describeValue, DiskError } from "../errors.ts";

/** What is known of a range, in ddrescue's own letters. */
export const RescueStatus = {
  /** Not tried yet. */
  Untried: "?",
  /** A large read of it failed: its edges are not known. */
  Untrimmed: "*",
  /** Between the edges of a bad range; not tried block by block. */
  Unscraped: "/",
  /** Cannot be read. */
  Bad: "-",
  /** Read, and written to the target. */
  Finished: "+",
} as const;

/** One of {@linkcode RescueStatus}. */
export type RescueStatus = typeof RescueStatus[keyof typeof RescueStatus];

/** What ddrescue was at when it wrote a map. */
export type RescuePhase = "?" | "*" | "/" | "-" | "F" | "G" | "+";

/** A range of bytes, and what is known of it. */
export interface RescueBlock {
  /** Its first byte. */
  readonly position: number;
  /** Bytes. */
  readonly size: number;
  /** What is known of it. */
  readonly status: RescueStatus;
}

/** Characters of a map file at most. */
const MAX_CHARACTERS = 2 ** 27;

const LINE =
  /^(0x[0-9a-f]{1,14}|\d{1,16})\s+(0x[0-9a-f]{1,14}|\d{1,16})\s+([?*/+-])$/i;
const STATE = /^(0x[0-9a-f]{1,14}|\d{1,16})\s+([?*/FG+-])(?:\s+\d{1,9})?$/i;

/**
 * What is known of every byte of a range that begins at 0.
 *
 * @example
 * ```ts
 * import { RescueMap, RescueStatus } from "@platter/disk/image";
 * import { assertEquals } from "@std/assert";
 *
 * const map = new RescueMap(1024);
 * map.set(0, 512, RescueStatus.Finished);
 * assertEquals(map.bytes(RescueStatus.Untried), 512);
 * assertEquals(RescueMap.parse(map.format()).blocks(), map.blocks());
 * ```
 */
export class RescueMap {
  /** Bytes that it is about. */
  readonly size: number;
  /** Where the work was. */
  position = 0;
  /** What was being done. */
  phase: RescuePhase = "?";
  /** Sorted, without gaps; neighbours differ in status. */
  #blocks: RescueBlock[];

  /**
   * Constructs a new instance, in which nothing has been tried.
   *
   * @param size Bytes that it is about.
   * @throws {DiskError} Kind `"argument"` if that is no number of bytes.
   */
  constructor(size: number) {
    if (!Number.isSafeInteger(size) || size < 0) {
      throw refused(
        `its size must be a safe integer ≥ 0: current value is ${size}`,
      );
    }
    this.size = size;
    this.#blocks = size === 0
      ? []
      : [{ position: 0, size, status: RescueStatus.Untried }];
  }

  /**
   * Reads a map file.
   *
   * @param text Its content.
   * @returns The map.
   * @throws {DiskError} Kind `"argument"` if it is none.
   */
  static parse(text: string): RescueMap {
    if (typeof text !== "string") {
      throw refused(`it must be text: current value is ${describeValue(text)}`);
    }
    if (text.length > MAX_CHARACTERS) {
      throw refused(`it must have ${MAX_CHARACTERS} characters at most`);
    }
    let state: RegExpExecArray | undefined;
    const blocks: RescueBlock[] = [];
    let end = 0;
    let number = 0;
    for (const raw of linesOf(text)) {
      number++;
      const line = raw.replace(/#.*/s, "").trim();
      if (line === "") continue;
      const what = state === undefined ? STATE.exec(line) : LINE.exec(line);
      if (what === null) {
        throw refused(
          `line ${number} must be ${
            state === undefined
              ? '"POSITION STATUS [PASS]"'
              : '"POSITION SIZE STATUS"'
          }: current value is "${printable(line, 60)}"`,
        );
      }
      if (state === undefined) {
        state = what;
        continue;
      }
      const position = Number(what[1]);
      const size = Number(what[2]);
      if (position !== end) {
        throw refused(
          `line ${number} must go on at ${end}, without gap or overlap: ` +
            `current value is ${position}`,
        );
      }
      end += size;
      if (size === 0 || !Number.isSafeInteger(end)) {
        throw refused(
          `line ${number} must have a size from 1 to less than 2^53: current ` +
            `value is ${size}`,
        );
      }
      const status = what[3] as RescueStatus;
      const last = blocks.at(-1);
      if (last?.status === status) {
        blocks[blocks.length - 1] = { ...last, size: last.size + size };
      } else blocks.push({ position, size, status });
    }
    if (state === undefined || blocks.length === 0) {
      throw refused("it must have a line of status and a block at least");
    }
    const map = new RescueMap(end);
    map.#blocks = blocks;
    map.position = Number(state[1]);
    map.phase = state[2]!.toUpperCase() as RescuePhase;
    return map;
  }

  /**
   * The map as it is now.
   *
   * @returns A copy, which does not change with the map.
   */
  clone(): RescueMap {
    const copy = new RescueMap(this.size);
    // Blocks are replaced, never changed.
    copy.#blocks = [...this.#blocks];
    copy.position = this.position;
    copy.phase = this.phase;
    return copy;
  }

  /**
   * The blocks, in order.
   *
   * @param status Only those; all by default.
   * @returns A copy, which does not change with the map.
   */
  blocks(status?: RescueStatus): RescueBlock[] {
    return this.#blocks.filter((block) =>
      status === undefined || block.status === status
    );
  }

  /**
   * How much there is of a status.
   *
   * @param status The status.
   * @returns Bytes.
   */
  bytes(status: RescueStatus): number {
    let sum = 0;
    for (const block of this.#blocks) {
      if (block.status === status) sum += block.size;
    }
    return sum;
  }

  /**
   * Notes what is known of a range.
   *
   * @param position Its first byte.
   * @param size Bytes.
   * @param status What is known.
   * @throws {RangeError} If it is not within the map.
   */
  set(position: number, size: number, status: RescueStatus): void {
    const end = position + size;
    if (
      !Number.isSafeInteger(position) || !Number.isSafeInteger(size) ||
      position < 0 || size < 1 || end > this.size
    ) {
      throw new RangeError(
        `Cannot note a range as it must be within ${this.size} bytes: current ` +
          `value is ${position} to ${end}`,
      );
    }
    const blocks = this.#blocks;
    let from = this.#indexOf(position);
    let to = this.#indexOf(end - 1);
    let start = blocks[from]!;
    let last = blocks[to]!;
    // Neighbours of the same status become one with it.
    if (start.position === position && from > 0) {
      if (blocks[from - 1]!.status === status) start = blocks[--from]!;
    }
    if (last.position + last.size === end && to < blocks.length - 1) {
      if (blocks[to + 1]!.status === status) last = blocks[++to]!;
    }
    const low = start.status === status ? start.position : position;
    const high = last.status === status ? last.position + last.size : end;
    const parts: RescueBlock[] = [];
    if (start.position < low) {
      parts.push({ ...start, size: low - start.position });
    }
    parts.push({ position: low, size: high - low, status });
    const rest = last.position + last.size - high;
    if (rest > 0) parts.push({ ...last, position: high, size: rest });
    blocks.splice(from, to - from + 1, ...parts);
  }

  /**
   * Writes a map file.
   *
   * @returns Its content.
   */
  format(): string {
    const lines = [
      "# Mapfile. Created by Platter, in the format of GNU ddrescue 1.27",
      "# current_pos  current_status  current_pass",
      `${hex(this.position)}     ${this.phase}               1`,
      "#      pos        size  status",
    ];
    for (const { position, size, status } of this.#blocks) {
      lines.push(`${hex(position)}  ${hex(size)}  ${status}`);
    }
    return `${lines.join("\n")}\n`;
  }

  /** Which block has a byte. */
  #indexOf(position: number): number {
    let low = 0;
    let high = this.#blocks.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.#blocks[middle]!.position <= position) low = middle;
      else high = middle - 1;
    }
    return low;
  }
}

/** The lines of a text, one at a time: not all of them in memory once more. */
function* linesOf(text: string): Generator<string, void> {
  for (let at = 0; at < text.length;) {
    const end = text.indexOf("\n", at);
    yield text.slice(at, end < 0 ? text.length : end);
    at = end < 0 ? text.length : end + 1;
  }
}

/** As ddrescue prints it. */
function hex(value: number): string {
  return `0x${value.toString(16).toUpperCase().padStart(8, "0")}`;
}

function refused(reason: string): DiskError {
  return new DiskError("argument", `Cannot read a rescue map as ${reason}`);
}
