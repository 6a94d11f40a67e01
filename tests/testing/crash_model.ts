/**
 * Which images a power cut may leave, by brute force: a device that is played
 * step by step, in every way that it may go. It knows the device's promises
 * and nothing of how an exploration finds its states.
 *
 * The device has a medium and a line of what was written and may not be there
 * yet. Between any two things that it is asked or answers, it may move any of
 * it to the medium (the first in line only, if it keeps the order). What it
 * promises is done before the answer is given. A power cut shows the medium;
 * what was on its way to it may be torn. All that it may have done is kept as
 * a set, so that what may be found is just what was found.
 *
 * @module
 */

import type { CrashDevice } from "@platter/disk/testing";

/** What is asked of a device. */
export type ModelOperation =
  | "write"
  | "write zeroes"
  | "discard"
  | "secure erase"
  | "flush";

/** Something that was seen at the device. */
export type ModelEvent =
  | {
    readonly kind: "submit";
    /** Which request. */
    readonly id: number;
    readonly operation: ModelOperation;
    /** First block. */
    readonly block: number;
    /** By block: the byte that fills it. */
    readonly values: readonly number[];
    readonly fua: boolean;
  }
  | { readonly kind: "complete"; readonly id: number; readonly failed: boolean }
  | { readonly kind: "acknowledge"; readonly value: number };

type Submitted = Extract<ModelEvent, { kind: "submit" }>;

/** Bytes in words: how often each comes, in order. */
export function encodeRuns(bytes: Uint8Array): string {
  const runs: string[] = [];
  for (let at = 0; at < bytes.length;) {
    const start = at;
    while (at < bytes.length && bytes[at] === bytes[start]) at++;
    runs.push(`${bytes[start]}x${at - start}`);
  }
  return runs.join("+");
}

/** The bytes again. */
function decodeRuns(text: string): number[] {
  return text.split("+").flatMap((run) => {
    const [value, count] = run.split("x").map(Number);
    return new Array<number>(count!).fill(value!);
  });
}

/** What is written wholly or not: a block, or all of an atomic write. */
interface Part {
  readonly request: Submitted;
  /** Its place among all parts. */
  readonly number: number;
  readonly cells: readonly { block: number; content: string }[];
  readonly atomic: boolean;
  /** Whether nobody says that it changes anything, even when it is done. */
  readonly vague: boolean;
  completed: boolean;
  /** Whether the device has said that it is done. */
  settled: boolean;
  /** When the flush was submitted that failed to write it. */
  markedCleanAt: number;
}

/** What is on the medium, block by block, and of which part. */
interface Cell {
  readonly content: string;
  readonly number: number;
  readonly torn: boolean;
}

/** One way that it may have gone. */
interface Way {
  readonly medium: readonly Cell[];
  /** On a device that keeps the order: parts that had their turn. */
  readonly done: number;
  /** Those of them that failed. */
  readonly failed: readonly number[];
}

function keyOf({ medium, done, failed }: Way): string {
  return `${done};${failed.join()};${
    medium.map((cell) => `${cell.number}:${cell.content}`).join()
  }`;
}

/** A device, played. */
export class CrashModel {
  readonly #device: Required<Omit<CrashDevice, "sectors">>;
  readonly #parts: Part[] = [];
  /** Parts that may still come to the medium, or may have. */
  #open: Part[] = [];
  #ways = new Map<string, Way>();
  #acknowledged: number[] = [];
  readonly #tears = new Map<string, string[]>();
  /** What may be found. */
  readonly found = new Set<string>();

  /**
   * Constructs a new instance.
   *
   * @param device What the device promises.
   * @param initial What is on it, by block.
   */
  constructor(device: CrashDevice, initial: readonly string[]) {
    this.#device = {
      blockSize: 512,
      cache: "writeback",
      reorders: true,
      tornBlocks: false,
      atomicWriteBytes: 0,
      honorsFlush: true,
      honorsFua: true,
      discarded: "either",
      failFlushes: [],
      ...device,
    };
    const medium = initial.map((content) => ({
      content,
      number: -1,
      torn: false,
    }));
    const way = { medium, done: 0, failed: [] };
    this.#ways.set(keyOf(way), way);
  }

  /**
   * Plays what was seen, with a power cut at every moment.
   *
   * @param events What was seen, to its end.
   */
  play(events: readonly ModelEvent[]): void {
    const requests = new Map<number, { at: number; request: Submitted }>();
    const fails = new Set(
      events.flatMap((one) =>
        one.kind === "complete" && one.failed ? [one.id] : []
      ),
    );
    this.#cut();
    for (const [at, event] of events.entries()) {
      if (event.kind === "acknowledge") this.#acknowledged.push(event.value);
      else if (event.kind === "submit") {
        requests.set(event.id, { at, request: event });
        if (event.operation === "flush") {
          if (fails.has(event.id)) this.#forsake(at);
        } else this.#take(event);
      } else {
        const { at, request } = requests.get(event.id)!;
        if (!event.failed) this.#keepPromise(request, at, events);
        for (const part of this.#open) {
          if (part.request === request) part.completed = true;
        }
      }
      this.#cut();
    }
  }

  /** Takes a write. */
  #take(request: Submitted): void {
    const { blockSize, atomicWriteBytes, discarded } = this.#device;
    const { operation, block, values } = request;
    if (operation === "discard" && discarded === "old") return;
    const count = values.length;
    const atomic = (operation === "write" || operation === "write zeroes") &&
      count * blockSize <= atomicWriteBytes &&
      Number.isInteger(Math.log2(count)) &&
      block % count === 0;
    const cells = values.map((value, i) => ({
      block: block + i,
      content: `${value}x${blockSize}`,
    }));
    for (const some of atomic ? [cells] : cells.map((cell) => [cell])) {
      const part: Part = {
        request,
        number: this.#parts.length,
        cells: some,
        atomic,
        vague: operation === "discard" && discarded === "either",
        completed: false,
        settled: false,
        markedCleanAt: Infinity,
      };
      this.#parts.push(part);
      this.#open.push(part);
    }
    this.#goOn();
  }

  /** Fails to write what a flush was to write. */
  #forsake(at: number): void {
    for (const part of this.#open) {
      if (part.completed && !part.settled && part.markedCleanAt > at) {
        part.markedCleanAt = at;
      }
    }
    this.#goOn();
  }

  /** Does what an answer promises, before it is given. */
  #keepPromise(
    request: Submitted,
    submittedAt: number,
    events: readonly ModelEvent[],
  ): void {
    const { cache, honorsFlush, honorsFua } = this.#device;
    let covered: Part[] = [];
    if (request.operation === "flush") {
      if (!honorsFlush) return;
      covered = this.#open.filter((part) =>
        part.markedCleanAt > submittedAt &&
        events.slice(0, submittedAt).some((event) =>
          event.kind === "complete" && event.id === part.request.id
        )
      );
    } else if (cache === "writethrough" || request.fua && honorsFua) {
      covered = this.#open.filter((part) => part.request === request);
    }
    if (covered.length === 0) return;
    const promised = new Set(covered);
    if (!this.#device.reorders) {
      // All before it has had its turn by then.
      const last = Math.max(...covered.map(({ number }) => number));
      const numbers = new Set(covered.map(({ number }) => number));
      this.#keepIf(({ done, failed }) =>
        done > last && !failed.some((number) => numbers.has(number))
      );
      covered = this.#open.filter(({ number }) => number <= last);
    } else {
      const ways = [...this.#ways.values()];
      this.#ways.clear();
      for (const way of ways) {
        let medium = way.medium;
        for (const part of covered) {
          if (!part.vague) medium = this.#put(medium, part);
        }
        this.#add({ ...way, medium });
      }
    }
    for (const part of covered) {
      if (promised.has(part) || part.markedCleanAt === Infinity) {
        part.settled = true;
      }
    }
    this.#open = this.#open.filter((part) => !part.settled || part.vague);
  }

  #keepIf(test: (way: Way) => boolean): void {
    for (const [key, way] of this.#ways) {
      if (!test(way)) this.#ways.delete(key);
    }
  }

  #add(way: Way): boolean {
    const key = keyOf(way);
    if (this.#ways.has(key)) return false;
    this.#ways.set(key, way);
    return true;
  }

  /** A part on the medium, but where something later is already. */
  #put(medium: readonly Cell[], { cells, number }: Part): Cell[] {
    const next = [...medium];
    for (const { block, content } of cells) {
      if (next[block]!.number < number) {
        next[block] = { content, number, torn: false };
      }
    }
    return next;
  }

  /** A part of one block, torn over what is there. */
  #tear(medium: readonly Cell[], { cells, number, atomic }: Part): Cell[] {
    const { block, content } = cells[0]!;
    const under = medium[block]!;
    if (
      !this.#device.tornBlocks || atomic || under.torn || under.number >= number
    ) return [];
    const key = `${content} over ${under.content}`;
    let contents = this.#tears.get(key);
    if (contents === undefined) {
      contents = [];
      const [now, old] = [decodeRuns(content), decodeRuns(under.content)];
      const different = now.flatMap((byte, i) => byte === old[i] ? [] : [i]);
      if (different.length > 1) {
        const at = Math.ceil((different[0]! + different.at(-1)!) / 2);
        for (const [a, b] of [[now, old], [old, now]] as const) {
          contents.push(
            encodeRuns(Uint8Array.from([...a.slice(0, at), ...b.slice(at)])),
          );
        }
      }
      this.#tears.set(key, contents);
    }
    return contents.map((content) => ({ content, number, torn: true }));
  }

  /** All that the device may do by itself. */
  #goOn(): void {
    const work = [...this.#ways.values()];
    const add = (way: Way) => {
      if (this.#add(way)) work.push(way);
    };
    for (let way = work.pop(); way !== undefined; way = work.pop()) {
      const { medium } = way;
      if (this.#device.reorders) {
        for (const part of this.#open) {
          add({ ...way, medium: this.#put(medium, part) });
        }
        continue;
      }
      const part = this.#parts[way.done];
      if (part === undefined) continue;
      const done = way.done + 1;
      add({ ...way, medium: this.#put(medium, part), done });
      if (part.vague) add({ ...way, done });
      if (part.markedCleanAt === Infinity) continue;
      // It fails, or fails while it is written.
      const failed = [...way.failed, part.number];
      add({ medium, done, failed });
      for (const cell of this.#tear(medium, part)) {
        add({ medium: medium.with(part.cells[0]!.block, cell), done, failed });
      }
    }
  }

  /** Cuts the power. */
  #cut(): void {
    const end = ` | ${this.#acknowledged.join(" ")}`;
    for (const { medium, done } of this.#ways.values()) {
      const whole = medium.map(({ content }) => content);
      this.found.add(whole.join(" ") + end);
      if (!this.#device.tornBlocks) continue;
      if (!this.#device.reorders) {
        const part = this.#parts[done];
        if (part === undefined) continue;
        for (const { content } of this.#tear(medium, part)) {
          const torn = whole.with(part.cells[0]!.block, content);
          this.found.add(torn.join(" ") + end);
        }
        continue;
      }
      const choices = whole.map((content) => [content]);
      for (const part of this.#open) {
        if (part.settled) continue;
        for (const { content } of this.#tear(medium, part)) {
          choices[part.cells[0]!.block]!.push(content);
        }
      }
      const extend = (image: string[]) => {
        const options = choices[image.length];
        if (options === undefined) this.found.add(image.join(" ") + end);
        else for (const content of options) extend([...image, content]);
      };
      extend([]);
    }
  }
}
