/**
 * A disk under stress: 128 lanes of reads, writes, durable writes, flushes,
 * discards, zeroes and withdrawn requests on one image, for as long as told,
 * every sector verified each time that it is read; memory and descriptors are
 * watched meanwhile.
 *
 * ```sh
 * deno run -A tests/stress.ts --minutes 10 --engine io_uring --seed 7
 * ```
 *
 * The model is one number for each sector: which write it must show. It is kept
 * in the order in which requests are made, which is the order in which the disk
 * promises that they take effect. Requests whose outcome is open (withdrawn
 * ones, discards) have their sectors to themselves until it is known.
 *
 * A seed makes every lane want the same; which lane comes first is up to the
 * disk.
 *
 * @module
 */

import { parseArgs } from "@std/cli";
import { VirtualDisk } from "../src/disk/disk.ts";
import { SECTOR_BYTES } from "../src/geometry.ts";
import type { OpenOptions } from "../src/disk/open.ts";
import { Random } from "../src/random.ts";
import { pause, tempDir } from "./helpers.ts";

/** What to do. */
export interface StressOptions {
  /** The seed. */
  seed: number;
  /** How long, in ms. */
  durationMs: number;
  /** How the disk is opened. */
  open: Partial<OpenOptions>;
  /** Lanes, each with one request at a time. */
  lanes?: number;
  /** The image or device, whose content is lost; a scratch file if not given. */
  path?: string;
  /** The image's size in sectors. */
  sectors?: number;
  /** How much more memory may be in use at the end, in bytes. */
  growthBytes?: number;
}

/** What was done. */
export interface StressResult {
  /** The engine that did it. */
  engine: string;
  /** Requests, by kind. */
  kinds: Record<Kind, number>;
  /** All of them. */
  requests: number;
  /** Requests that were withdrawn in time. */
  withdrawn: number;
  /** Sectors that were read and found right. */
  verified: number;
  /** The longest time between two ticks of a timer of 5 ms, in ms. */
  longestStallMs: number;
  /** Memory in use, in bytes, every half a second. */
  memory: number[];
  /** How much more of it was in use in the end than in the beginning. */
  growthBytes: number;
  /** How long it took, in ms. */
  tookMs: number;
}

const WEIGHTS = {
  read: 100,
  write: 70,
  fua: 1,
  flush: 1,
  zeroes: 5,
  unmap: 5,
  discard: 6,
  "withdrawn read": 8,
  "withdrawn write": 6,
  "withdrawn zeroes": 1,
  "withdrawn flush": 1,
};

/** A kind of request. */
export type Kind = keyof typeof WEIGHTS;

const KINDS = Object.entries(WEIGHTS).flatMap(([kind, weight]) =>
  Array<Kind>(weight).fill(kind as Kind)
);

const DEFAULT_LANES = 128;
/** 64 MiB. */
const DEFAULT_SECTORS = 131_072;
/** The longest request, in sectors. */
const MAX_SECTORS = 64;
const SECTOR_WORDS = SECTOR_BYTES / 4;
const SAMPLE_MS = 500;
/** What V8 may do with its heap while nothing leaks. */
const DEFAULT_GROWTH_BYTES = 64 * 1_048_576;

/** Stresses a disk. Throws at the first thing that is wrong. */
export async function stress(options: StressOptions): Promise<StressResult> {
  const run = new Stress(options);
  let before: string[] = [];
  try {
    await using place = options.path === undefined ? await tempDir() : null;
    const path = options.path ?? place!.join("disk.img");
    if (place !== null) {
      await place.file(
        "disk.img",
        (options.sectors ?? DEFAULT_SECTORS) * SECTOR_BYTES,
      );
    }
    const open = () =>
      VirtualDisk.open(path, {
        backend: "direct",
        queueSize: 128,
        ...options.open,
      });
    // What the runtime opens on first use stays open, and is not ours.
    await (await open()).close();
    before = openFiles();
    const disk = await open();
    try {
      await run.all(disk);
    } finally {
      await disk.close();
    }
    await run.checkFile(path);
  } catch (error) {
    throw new Error(
      `Seed ${options.seed}, request ${run.result.requests}: ${
        error instanceof Error ? error.message : error
      }`,
      { cause: error },
    );
  }
  let left = leftOf(before);
  // A ring goes away a little after it is closed.
  for (let tries = 0; tries < 500 && left.length > 0; tries++) {
    await pause(10);
    left = leftOf(before);
  }
  if (left.length > 0) {
    throw new Error(`These descriptors are left open: ${left.join(", ")}`);
  }
  return run.result;
}

/** What is open now and was not before. */
function leftOf(before: readonly string[]): string[] {
  const left = openFiles();
  for (const name of before) {
    const at = left.indexOf(name);
    if (at >= 0) left.splice(at, 1);
  }
  return left;
}

/**
 * What is open, by name. A disk has no sockets; the runtime opens some when it
 * looks for a newer version of itself.
 */
function openFiles(): string[] {
  return Array.from(Deno.readDirSync("/proc/self/fd"), ({ name }) => {
    try {
      return Deno.readLinkSync(`/proc/self/fd/${name}`);
    } catch {
      // The directory itself, closed since.
      return "";
    }
  }).filter((name) => name !== "" && !name.startsWith("socket:"));
}

/** One lane: its own memory, its own wishes. */
interface Lane {
  random: Random;
  /** Memory that the kernel takes as it is. */
  lent: Uint8Array;
  /** Memory that must be copied. */
  odd: Uint8Array;
  /** What a read must show, by sector. */
  expected: Uint32Array;
}

class Stress {
  readonly result: StressResult = {
    engine: "",
    kinds: Object.fromEntries(
      Object.keys(WEIGHTS).map((kind) => [kind, 0]),
    ) as Record<Kind, number>,
    requests: 0,
    withdrawn: 0,
    verified: 0,
    longestStallMs: 0,
    memory: [],
    growthBytes: 0,
    tookMs: 0,
  };
  readonly #options: StressOptions;
  #disk!: VirtualDisk;
  /** Which write each sector shows; 0 for zeroes. */
  #model = new Uint32Array(0);
  /** 1 for sectors that a request has to itself. */
  #taken = new Uint8Array(0);
  #stamp = 0;
  #failed = false;
  readonly #scratch = new Uint8Array(SECTOR_BYTES);
  readonly #words = new Uint32Array(this.#scratch.buffer);

  constructor(options: StressOptions) {
    this.#options = options;
  }

  async all(disk: VirtualDisk): Promise<void> {
    this.#disk = disk;
    this.result.engine = disk.info.engine.name;
    this.#model = new Uint32Array(disk.sectors);
    this.#taken = new Uint8Array(disk.sectors);
    if (this.#options.path !== undefined) {
      await disk.writeZeroes(0, disk.sectors);
    }
    const start = performance.now();
    const end = start + this.#options.durationMs;
    const stop = this.#watch();
    try {
      const lanes = Array.from(
        { length: this.#options.lanes ?? DEFAULT_LANES },
        (_, i) => this.#lane(i, end),
      );
      const settled = await Promise.allSettled(lanes);
      const bad = settled.find((one) => one.status === "rejected");
      if (bad !== undefined) throw bad.reason;
    } finally {
      stop();
    }
    this.result.tookMs = performance.now() - start;
    this.#checkMemory();
    await disk.flush();
    const piece = disk.allocate(2048);
    for (let at = 0; at < disk.sectors; at += 2048) {
      const part = piece.subarray(
        0,
        Math.min(2048, disk.sectors - at) * SECTOR_BYTES,
      );
      await disk.readInto(at, part);
      this.#verify(part, at, this.#model.subarray(at), "in the end");
    }
  }

  /** Compares what is left without the disk. */
  async checkFile(path: string): Promise<void> {
    using file = await Deno.open(path);
    const piece = new Uint8Array(1_048_576);
    for (let at = 0; at < this.#model.length;) {
      const read = await file.read(piece);
      if (read === null) throw new Error("The image is too short");
      this.#verify(
        piece.subarray(0, read),
        at,
        this.#model.subarray(at),
        "without the disk",
      );
      at += read / SECTOR_BYTES;
    }
  }

  async #lane(index: number, end: number): Promise<void> {
    const bytes = MAX_SECTORS * SECTOR_BYTES;
    const lane: Lane = {
      random: new Random(this.#options.seed + index),
      lent: this.#disk.allocate(MAX_SECTORS),
      odd: new Uint8Array(bytes + 4).subarray(1, bytes + 1),
      expected: new Uint32Array(MAX_SECTORS),
    };
    try {
      while (performance.now() < end && !this.#failed) await this.#step(lane);
    } catch (error) {
      this.#failed = true;
      throw error;
    }
  }

  async #step(lane: Lane): Promise<void> {
    const { random } = lane;
    const kind = random.pick(KINDS);
    const count = random.chance(1, 2) ? 8 : random.between(1, MAX_SECTORS);
    // On whole pages, anywhere, or in a small part where many meet.
    const space = this.#model.length - MAX_SECTORS;
    const sector = random.chance(1, 2)
      ? random.below(space >> 3) << 3
      : random.below(random.chance(1, 4) ? 1024 : space);
    const memory = (random.chance(3, 4) ? lane.lent : lane.odd)
      .subarray(0, count * SECTOR_BYTES);
    if (this.#isTaken(sector, count)) {
      // Nothing is learnt from waiting; another place is as good.
      await Promise.resolve();
      return;
    }
    this.result.requests++;
    this.result.kinds[kind]++;
    const disk = this.#disk;
    switch (kind) {
      case "read":
        return await this.#read(lane, sector, memory);
      case "write":
      case "fua":
        this.#write(sector, memory);
        return await disk.write(sector, memory, { fua: kind === "fua" });
      case "flush":
        return await disk.flush();
      case "zeroes":
      case "unmap":
        this.#model.fill(0, sector, sector + count);
        return await disk.writeZeroes(sector, count, {
          unmap: kind === "unmap",
        });
      default:
        return await this.#open(lane, kind, sector, memory);
    }
  }

  async #read(lane: Lane, sector: number, memory: Uint8Array): Promise<void> {
    const count = memory.length / SECTOR_BYTES;
    const { expected } = lane;
    expected.set(this.#model.subarray(sector, sector + count));
    memory.fill(0xee);
    await this.#disk.readInto(sector, memory);
    this.#verify(memory, sector, expected, "read");
    this.result.verified += count;
  }

  /** Fills memory for a write, and puts it into the model. */
  #write(sector: number, memory: Uint8Array): void {
    const count = memory.length / SECTOR_BYTES;
    for (let i = 0; i < count; i++) {
      this.#stamp = (this.#stamp + 1) >>> 0 || 1;
      this.#model[sector + i] = this.#stamp;
      this.#words.fill(this.#stamp);
      this.#words[1] = sector + i;
      memory.set(this.#scratch, i * SECTOR_BYTES);
    }
  }

  /** A request that may or may not happen, or leave anything. */
  async #open(
    lane: Lane,
    kind: Kind,
    sector: number,
    memory: Uint8Array,
  ): Promise<void> {
    const { random } = lane;
    const count = memory.length / SECTOR_BYTES;
    const end = sector + count;
    if (kind === "withdrawn flush") {
      const abort = withdrawal(random);
      await this.#settled(this.#disk.flush({ signal: abort.signal }));
      abort.clear();
      return;
    }
    if (kind === "withdrawn read") {
      const abort = withdrawal(random);
      const { expected } = lane;
      expected.set(this.#model.subarray(sector, end));
      memory.fill(0xee);
      const { signal } = abort;
      const done = await this.#settled(
        this.#disk.readInto(sector, memory, { signal }),
      );
      abort.clear();
      if (done) {
        this.#verify(memory, sector, expected, "read that was withdrawn late");
        return;
      }
      // The memory is ours again, and stays as we leave it.
      memory.fill(0x33);
      await new Promise((resolve) => setTimeout(resolve, random.below(3)));
      if (memory.some((byte) => byte !== 0x33)) {
        throw new Error(
          `A read of ${count} sectors at sector ${sector} that was withdrawn wrote into its memory later`,
        );
      }
      return;
    }
    this.#taken.fill(1, sector, end);
    try {
      const old = this.#model.slice(sector, end);
      let happened = false;
      if (kind === "discard") {
        await this.#disk.discard(sector, count);
        this.#model.fill(0, sector, end);
      } else {
        const abort = withdrawal(random);
        const { signal } = abort;
        if (kind === "withdrawn write") {
          this.#write(sector, memory);
          happened = await this.#settled(
            this.#disk.write(sector, memory, {
              signal,
              fua: random.chance(1, 16),
            }),
          );
        } else {
          this.#model.fill(0, sector, end);
          happened = await this.#settled(
            this.#disk.writeZeroes(sector, count, { signal }),
          );
        }
        abort.clear();
      }
      if (happened) return;
      await this.#learn(sector, memory, old, kind);
    } finally {
      this.#taken.fill(0, sector, end);
    }
  }

  /** Looks what became of a request: each sector is as before, or as after. */
  async #learn(
    sector: number,
    memory: Uint8Array,
    old: Uint32Array,
    kind: Kind,
  ): Promise<void> {
    memory.fill(0xee);
    await this.#disk.readInto(sector, memory);
    for (let i = 0; i < old.length; i++) {
      const at = i * SECTOR_BYTES;
      this.#scratch.set(memory.subarray(at, at + SECTOR_BYTES));
      const stamp = this.#words[0]!;
      if (stamp !== old[i] && stamp !== this.#model[sector + i]) {
        throw new Error(
          `Sector ${sector + i} shows write ${stamp} after a ${kind}, not ${
            old[i]
          } or ${this.#model[sector + i]}`,
        );
      }
      this.#model[sector + i] = stamp;
      this.#check(stamp, sector + i, kind);
    }
  }

  /** Whether a request was carried out; what was withdrawn was not, maybe. */
  async #settled(promise: Promise<unknown>): Promise<boolean> {
    try {
      await promise;
      return true;
    } catch (reason) {
      if (reason !== WITHDRAWN) throw reason;
      this.result.withdrawn++;
      return false;
    }
  }

  #isTaken(sector: number, count: number): boolean {
    for (let i = sector; i < sector + count; i++) {
      if (this.#taken[i] === 1) return true;
    }
    return false;
  }

  #verify(
    memory: Uint8Array,
    sector: number,
    stamps: Uint32Array,
    what: string,
  ): void {
    for (let i = 0; i < memory.length / SECTOR_BYTES; i++) {
      const at = i * SECTOR_BYTES;
      this.#scratch.set(memory.subarray(at, at + SECTOR_BYTES));
      this.#check(stamps[i]!, sector + i, what);
    }
  }

  /** Looks at the one sector in the scratch memory. */
  #check(stamp: number, sector: number, what: string): void {
    const words = this.#words;
    for (let i = 0; i < SECTOR_WORDS; i++) {
      const wanted = i === 1 && stamp !== 0 ? sector : stamp;
      if (words[i] === wanted) continue;
      throw new Error(
        `Sector ${sector}, ${what}: word ${i} is ${
          words[i]
        } and not ${wanted}: it shows write ${words[0]} of sector ${
          words[1]
        }, and not write ${stamp}`,
      );
    }
  }

  /** Watches memory and the event loop. */
  #watch(): () => void {
    const { result } = this;
    let last = performance.now();
    let next = last;
    const timer = setInterval(() => {
      const now = performance.now();
      result.longestStallMs = Math.max(result.longestStallMs, now - last);
      last = now;
      if (now < next) return;
      next = now + SAMPLE_MS;
      result.memory.push(Deno.memoryUsage().rss);
    }, 5);
    return () => clearInterval(timer);
  }

  /** Compares what is in use in the last quarter with the second one. */
  #checkMemory(): void {
    const { memory } = this.result;
    const quarter = Math.floor(memory.length / 4);
    if (quarter < 2) return;
    const early = median(memory.slice(quarter, 2 * quarter));
    const late = median(memory.slice(-quarter));
    this.result.growthBytes = late - early;
    const most = this.#options.growthBytes ?? DEFAULT_GROWTH_BYTES;
    if (late - early > most) {
      throw new Error(
        `Memory is not flat: from ${mib(early)} to ${mib(late)} MiB`,
      );
    }
  }
}

/** Why a request is withdrawn: one object, to be told from anything else. */
const WITHDRAWN = new Error("Withdrawn");

/** Withdraws at once, in this turn, in the next ones, or never in time. */
function withdrawal(
  random: Random,
): { signal: AbortSignal; clear: () => void } {
  const abort = new AbortController();
  const fire = () => abort.abort(WITHDRAWN);
  let timer: ReturnType<typeof setTimeout> | undefined;
  const when = random.below(4);
  if (when === 0) queueMicrotask(fire);
  else if (when === 1) {
    queueMicrotask(() =>
      queueMicrotask(() => queueMicrotask(() => queueMicrotask(fire)))
    );
  } else timer = setTimeout(fire, when === 2 ? 0 : random.below(4));
  return { signal: abort.signal, clear: () => clearTimeout(timer) };
}

function median(values: number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1]!;
}

function mib(bytes: number): string {
  return (bytes / 1_048_576).toFixed(0);
}

if (import.meta.main) {
  const unknown: string[] = [];
  const args = parseArgs(Deno.args, {
    string: ["minutes", "engine", "seed", "path", "lanes"],
    boolean: ["help"],
    default: { minutes: "10", engine: "auto" },
    unknown: (name) => {
      unknown.push(name);
      return false;
    },
  });
  const seed = args.seed === undefined
    ? crypto.getRandomValues(new Uint32Array(1))[0]!
    : Number(args.seed);
  const minutes = Number(args.minutes);
  const engines = ["auto", "io_uring", "libaio", "sync"] as const;
  const engine = engines.find((one) => one === args.engine);
  const lanes = Number(args.lanes ?? 128);
  const usage =
    "Usage: deno run -A tests/stress.ts [--minutes 10] [--seed 7] " +
    `[--engine ${
      engines.join("|")
    }] [--lanes 128] [--path image, which is lost]`;
  if (args.help) {
    console.log(usage);
    Deno.exit(0);
  }
  if (
    unknown.length > 0 || !(minutes > 0) || !Number.isInteger(seed) ||
    engine === undefined || !Number.isInteger(lanes) || lanes < 1
  ) {
    if (unknown.length > 0) console.error(`There is no option ${unknown[0]}`);
    console.error(usage);
    Deno.exit(2);
  }
  console.log(`Seed ${seed}, engine ${engine}, ${minutes} minutes`);
  const result = await stress({
    seed,
    durationMs: minutes * 60_000,
    open: { engine },
    lanes,
    ...(args.path === undefined ? {} : { path: args.path }),
  });
  const seconds = result.tookMs / 1000;
  console.log(
    [
      `Engine ${result.engine}: ${result.requests} requests in ${
        seconds.toFixed(0)
      } s, ${Math.round(result.requests / seconds)} a second`,
      `  ${result.verified} sectors read and found right, all of them in the end`,
      `  ${result.withdrawn} requests withdrawn in time`,
      `  ${
        Object.entries(result.kinds).map(([kind, n]) => `${kind} ${n}`)
          .join(", ")
      }`,
      `  memory: ${mib(Math.min(...result.memory))} to ${
        mib(Math.max(...result.memory))
      } MiB, grown by ${mib(result.growthBytes)}; no descriptor is left`,
      `  longest stall of the event loop: ${
        result.longestStallMs.toFixed(1)
      } ms`,
    ].join("\n"),
  );
}
