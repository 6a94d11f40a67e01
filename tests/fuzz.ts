/**
 * A differential fuzzer: random requests, many at once, to a disk and to one
 * flat piece of memory, in the order in which they were made; every status and
 * every byte must agree.
 *
 * The model is an array and a bit per sector that says whether its content is
 * known: a discard leaves anything, which is read back after each burst and
 * must stay from then on.
 *
 * A run is cut into phases. Each phase draws anew which kinds of request there
 * are at all, how large they and their bursts get, and where on the disk they
 * meet ("swarm testing": Groce et al., ISSTA 2012), as a mix that always has
 * everything seldom has much of anything.
 *
 * One seed makes one sequence of requests, whatever the disk's speed:
 *
 * ```sh
 * deno run -A tests/fuzz.ts --seed 7 --requests 100000 --backend direct
 * ```
 *
 * @module
 */

import { parseArgs } from "@std/cli";
import { Buffer } from "node:buffer";
import { MemoryBackend } from "../src/backends/memory.ts";
import { VirtualDisk } from "../src/disk/disk.ts";
import { DiskError } from "../src/errors.ts";
import { SECTOR_BYTES } from "../src/geometry.ts";
import type { OpenOptions } from "../src/disk/open.ts";
import { Random } from "../src/random.ts";
import {
  ID_BYTES,
  Request,
  RequestFlag,
  RequestType,
  Status,
} from "../src/request.ts";
import {
  isRoot,
  loopDevice,
  mount,
  run,
  type TempDir,
  tempDir,
  tmpfsDir,
} from "./helpers.ts";

/** A disk to be fuzzed, which reads as zeroes. */
export interface FuzzSubject extends AsyncDisposable {
  /** The disk, or a slice of one. */
  disk: VirtualDisk;
  /** Where a slice starts on the whole disk, in sectors. */
  start: number;
  /** The bytes as they are without the disk, once it is closed. */
  content?: () => Promise<Uint8Array>;
}

/** What to do to it. */
export interface FuzzOptions {
  /** The seed. */
  seed: number;
  /** Requests, give or take a burst. */
  requests: number;
  /** Requests of a phase. */
  phase?: number;
}

/** What was done. */
export interface FuzzResult {
  /** Requests. */
  requests: number;
  /** Those that were refused, as they had to be. */
  refused: number;
  /** How many of each kind. */
  kinds: Record<string, number>;
}

/** A kind of request: how it is made, and what it does to the model. */
type Kind =
  | "read"
  | "write"
  | "fua"
  | "flush"
  | "discard"
  | "zeroes"
  | "unmap"
  | "id"
  | "invalid";

const KINDS: readonly Kind[] = [
  "read",
  "write",
  "fua",
  "flush",
  "discard",
  "zeroes",
  "unmap",
  "id",
  "invalid",
];

/** How often each kind comes, where it comes: a flush is a slow thing. */
const WEIGHTS: Record<Kind, number> = {
  read: 60,
  write: 60,
  fua: 1,
  flush: 1,
  discard: 6,
  zeroes: 6,
  unmap: 6,
  id: 2,
  invalid: 4,
};

/** What a phase is like. */
interface Phase {
  /** Each kind as often as it comes. */
  kinds: Kind[];
  /** Requests of a burst, at most. */
  burst: number;
  /** Blocks of a request, at most. */
  blocks: number;
  /** Segments of a request, at most. */
  segments: number;
  /** Blocks that all of it happens on: the fewer, the more overlaps. */
  first: number;
  spread: number;
  /** Times of eight that memory is not aligned. */
  unaligned: number;
}

/** What a request must come to. */
interface Expected {
  request: Request;
  status: Status;
  /** What is read, and which sectors of it are known. */
  bytes: Uint8Array | null;
  known: Uint8Array | null;
  /** Memory beside the request's own, which nobody may touch. */
  guards: Uint8Array[];
  what: string;
}

const GUARD = 0xc7;

/** Runs requests on a disk and on a model. */
export async function fuzz(
  subject: FuzzSubject,
  options: FuzzOptions,
): Promise<FuzzResult> {
  const run = new Fuzz(subject, options);
  try {
    return await run.all();
  } catch (error) {
    throw new Error(
      `Seed ${options.seed}, request ${run.result.requests}: ${
        error instanceof Error ? error.message : error
      }`,
      { cause: error },
    );
  }
}

class Fuzz {
  readonly result: FuzzResult = { requests: 0, refused: 0, kinds: {} };
  readonly #disk: VirtualDisk;
  readonly #subject: FuzzSubject;
  readonly #options: FuzzOptions;
  readonly #random: Random;
  readonly #blockSectors: number;
  readonly #blocks: number;
  readonly #model: Uint8Array;
  /** 1 for each sector whose content is known. */
  readonly #known: Uint8Array;
  #stamp = 0;
  #anyUnknown = false;
  readonly #id: Uint8Array;

  constructor(subject: FuzzSubject, options: FuzzOptions) {
    this.#subject = subject;
    this.#disk = subject.disk;
    this.#options = options;
    this.#random = new Random(options.seed);
    this.#blockSectors = this.#disk.blockSize / SECTOR_BYTES;
    this.#blocks = this.#disk.sectors / this.#blockSectors;
    this.#model = new Uint8Array(this.#disk.sectors * SECTOR_BYTES);
    this.#known = new Uint8Array(this.#disk.sectors).fill(1);
    this.#id = new Uint8Array(ID_BYTES);
    new TextEncoder().encodeInto(this.#disk.info.id, this.#id);
  }

  async all(): Promise<FuzzResult> {
    const phaseRequests = this.#options.phase ?? 4000;
    while (this.result.requests < this.#options.requests) {
      const phase = this.#phase();
      const end = Math.min(
        this.result.requests + phaseRequests,
        this.#options.requests,
      );
      while (this.result.requests < end) await this.#burst(phase);
    }
    await this.#checkAll();
    return this.result;
  }

  #phase(): Phase {
    const random = this.#random;
    const { abilities } = this.#disk.info;
    const kinds: Kind[] = [];
    // Reads stay, as without them nothing is seen until the end.
    const off = random.below(5);
    for (const kind of KINDS) {
      if (kind !== "read" && random.chance(off, 8)) continue;
      // What cannot be done is asked for all the same, but not often.
      const cannot = kind === "discard" && abilities.discard === "none";
      const weight = cannot ? 1 : WEIGHTS[kind];
      for (let i = 0; i < weight; i++) kinds.push(kind);
    }
    const spread = random.chance(1, 2)
      ? this.#blocks
      : Math.min(this.#blocks, random.pick([4, 16, 64, 300]));
    return {
      kinds,
      burst: random.pick([1, 4, 16, 64, 200, 400]),
      blocks: Math.max(
        2,
        Math.floor(random.pick([1, 2, 8, 8, 16, 48]) / this.#blockSectors),
      ),
      segments: random.pick([1, 1, 2, 5]),
      first: random.chance(1, 3)
        ? this.#blocks - spread
        : random.below(this.#blocks - spread + 1),
      spread,
      unaligned: random.pick([0, 2, 4, 8]),
    };
  }

  async #burst(phase: Phase): Promise<void> {
    const random = this.#random;
    const size = random.between(1, phase.burst);
    const all: Expected[] = [];
    const statuses: Promise<Status>[] = [];
    for (let i = 0; i < size; i++) {
      const expected = this.#make(phase);
      all.push(expected);
      statuses.push(this.#disk.submit(expected.request));
      // Some requests go out early, some meet those before them.
      if (random.chance(1, 32)) this.#disk.kick();
      if (random.chance(1, 64)) await Promise.resolve();
    }
    this.result.requests += size;
    const settled = await Promise.all(statuses);
    all.forEach((expected, i) => this.#check(expected, settled[i]!));
    if (this.#anyUnknown) await this.#learn();
  }

  #make(phase: Phase): Expected {
    const random = this.#random;
    const kind = random.pick(phase.kinds);
    this.result.kinds[kind] = (this.result.kinds[kind] ?? 0) + 1;
    const blocks = Math.min(phase.spread, random.between(1, phase.blocks));
    const block = phase.first + random.below(phase.spread - blocks + 1);
    const sector = block * this.#blockSectors;
    const count = blocks * this.#blockSectors;
    const from = sector * SECTOR_BYTES;
    const to = from + count * SECTOR_BYTES;
    const at = this.#subject.start + sector;
    const expected: Expected = {
      request: new Request(RequestType.Flush, 0, 0),
      status: Status.Ok,
      bytes: null,
      known: null,
      guards: [],
      what: `${kind} ${sector}+${count}`,
    };
    const { abilities } = this.#disk.info;
    switch (kind) {
      case "read": {
        const segments = this.#memory(count, phase, expected.guards);
        expected.request = transfer(RequestType.In, at, count, 0, segments);
        expected.bytes = this.#model.slice(from, to);
        expected.known = this.#known.slice(sector, sector + count);
        break;
      }
      case "write":
      case "fua": {
        const segments = this.#memory(count, phase, expected.guards);
        let next = from;
        for (const segment of segments) {
          this.#fill(segment);
          this.#model.set(segment, next);
          next += segment.length;
        }
        this.#known.fill(1, sector, sector + count);
        const flags = kind === "fua" ? RequestFlag.Fua : 0;
        expected.request = transfer(
          RequestType.Out,
          at,
          count,
          flags,
          segments,
        );
        break;
      }
      case "flush":
        break;
      case "id": {
        const memory = new Uint8Array(ID_BYTES + random.below(3)).fill(GUARD);
        expected.request = new Request(RequestType.GetId, 0, 0, 0, memory);
        expected.bytes = this.#id;
        expected.guards.push(memory.subarray(ID_BYTES));
        break;
      }
      case "discard":
        expected.request = new Request(RequestType.Discard, at, count);
        if (abilities.discard === "none") expected.status = Status.Unsupp;
        else {
          this.#known.fill(0, sector, sector + count);
          this.#anyUnknown = true;
        }
        break;
      case "zeroes":
      case "unmap": {
        const flags = (kind === "unmap" ? RequestFlag.Unmap : 0) |
          (random.chance(1, 64) ? RequestFlag.Fua : 0);
        expected.request = new Request(
          RequestType.WriteZeroes,
          at,
          count,
          flags,
        );
        if (abilities.writeZeroes === "none") expected.status = Status.Unsupp;
        else {
          this.#model.fill(0, from, to);
          this.#known.fill(1, sector, sector + count);
        }
        break;
      }
      case "invalid":
        this.#spoil(expected, at, count);
        break;
    }
    return expected;
  }

  /** A request that must be refused, and change nothing. */
  #spoil(expected: Expected, at: number, count: number): void {
    const random = this.#random;
    const end = this.#subject.start + this.#disk.sectors;
    const type = random.pick([
      RequestType.In,
      RequestType.Out,
      RequestType.Discard,
      RequestType.WriteZeroes,
    ]);
    const bytes = count * SECTOR_BYTES;
    const memory = new Uint8Array(bytes).fill(GUARD);
    expected.status = Status.IoErr;
    expected.guards.push(memory);
    const ways: [string, () => Request][] = [
      ["at the end", () => new Request(type, end, count, 0, memory)],
      [
        "over the end",
        () =>
          new Request(type, end - count + this.#blockSectors, count, 0, memory),
      ],
      ["below zero", () => new Request(type, -count, count, 0, memory)],
      ["at a fraction", () => new Request(type, at + 0.5, count, 0, memory)],
      ["far away", () => new Request(type, 2 ** 52, count, 0, memory)],
      ["of none", () => new Request(type, at, 0, 0, memory)],
      [
        "with less memory",
        () =>
          new Request(
            random.pick([RequestType.In, RequestType.Out]),
            at,
            count,
            0,
            memory.subarray(SECTOR_BYTES),
          ),
      ],
      [
        "with torn memory",
        () =>
          transfer(RequestType.Out, at, count, 0, [
            memory.subarray(0, 100),
            memory.subarray(100),
          ]),
      ],
      [
        "with little memory",
        () => new Request(RequestType.GetId, 0, 0, 0, memory.subarray(0, 19)),
      ],
    ];
    if (this.#blockSectors > 1) {
      ways.push(
        ["off a block", () => new Request(type, at + 1, count, 0, memory)],
        ["of less than a block", () => new Request(type, at, 1, 0, memory)],
      );
    }
    const [title, make] = random.pick(ways);
    expected.request = make();
    expected.what = `request ${title}, type ${expected.request.type}`;
    // Which fault of several is found first is the disk's own affair.
    if (type === RequestType.Discard && title !== "of none") {
      const { discard } = this.#disk.info.abilities;
      if (discard === "none") expected.status = Status.IoErr;
    }
  }

  /** Memory for a request, in segments, aligned or not, with guards beside. */
  #memory(count: number, phase: Phase, guards: Uint8Array[]): Uint8Array[] {
    const random = this.#random;
    const segments: Uint8Array[] = [];
    let left = count;
    const parts = random.between(1, phase.segments);
    for (let i = 0; i < parts && left > 0; i++) {
      const sectors = i === parts - 1 ? left : random.between(1, left);
      left -= sectors;
      const bytes = sectors * SECTOR_BYTES;
      if (random.below(8) < phase.unaligned) {
        const skip = random.pick([1, 7, 16, 512, 4095]);
        const memory = new Uint8Array(bytes + skip + 16);
        const own = memory.subarray(skip, skip + bytes);
        const before = memory.subarray(0, skip).fill(GUARD);
        const after = memory.subarray(skip + bytes).fill(GUARD);
        guards.push(before, after);
        segments.push(own);
      } else {
        segments.push(this.#disk.allocate(sectors));
      }
    }
    return segments;
  }

  /** Fills memory with what no other sector ever had. */
  #fill(memory: Uint8Array): void {
    const random = this.#random;
    memory.fill(random.between(1, 255));
    const view = new DataView(memory.buffer, memory.byteOffset);
    for (let at = 0; at < memory.length; at += SECTOR_BYTES) {
      view.setUint32(at, ++this.#stamp);
      view.setUint32(at + SECTOR_BYTES - 4, this.#stamp);
    }
  }

  #check(expected: Expected, status: Status): void {
    const { request, what } = expected;
    const why = request.error === null ? "" : `: ${request.error.message}`;
    if (status !== expected.status || request.status !== status) {
      throw new Error(
        `${what} has status ${status} and not ${expected.status}${why}`,
      );
    }
    if ((status === Status.Ok) !== (request.error === null)) {
      throw new Error(`${what} has status ${status}, but error "${why}"`);
    }
    if (request.error !== null && !(request.error instanceof DiskError)) {
      throw new Error(`${what} has an error of another class`);
    }
    if (status !== Status.Ok) this.result.refused++;
    for (const guard of expected.guards) {
      if (guard.some((byte) => byte !== GUARD)) {
        throw new Error(`${what} wrote beside its memory`);
      }
    }
    if (status !== Status.Ok || expected.bytes === null) return;
    let at = 0;
    for (let i = 0; i < request.segmentCount; i++) {
      const segment = request.segment(i);
      const length = Math.min(segment.length, expected.bytes.length - at);
      compare(
        segment.subarray(0, length),
        expected.bytes.subarray(at, at + length),
        expected.known?.subarray(at / SECTOR_BYTES) ?? null,
        (sector) => `${what}, segment ${i}, sector ${sector}`,
      );
      at += segment.length;
    }
  }

  /** Takes what discarded sectors read as; from here on it must stay. */
  async #learn(): Promise<void> {
    this.#anyUnknown = false;
    const known = this.#known;
    for (let start = known.indexOf(0); start >= 0;) {
      let end = start;
      while (end < known.length && known[end] === 0) end++;
      // Whole blocks, as discards are.
      const bytes = await this.#disk.read(start, end - start);
      this.#model.set(bytes, start * SECTOR_BYTES);
      known.fill(1, start, end);
      start = known.indexOf(0, end);
    }
  }

  /** Compares the whole disk, and then what is left of it when it is closed. */
  async #checkAll(): Promise<void> {
    const name = (sector: number) => `In the end, sector ${sector}`;
    compare(
      await this.#disk.read(0, this.#disk.sectors),
      this.#model,
      null,
      name,
    );
    await this.#disk.flush();
    await this.#disk.close();
    const content = await this.#subject.content?.();
    if (content === undefined) return;
    compare(
      content,
      this.#model,
      null,
      (sector) => `Without the disk, ${sector}`,
    );
  }
}

function transfer(
  type: RequestType,
  sector: number,
  count: number,
  flags: number,
  segments: Uint8Array[],
): Request {
  return new Request(
    type,
    sector,
    count,
    flags,
    segments[0]!,
    segments.slice(1),
  );
}

function bufferOf(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
}

function compare(
  actual: Uint8Array,
  expected: Uint8Array,
  known: Uint8Array | null,
  name: (sector: number) => string,
): void {
  if (actual.length !== expected.length) {
    throw new Error(
      `${name(0)} has ${actual.length} bytes and not ${expected.length}`,
    );
  }
  // Almost always, and by far the fastest way.
  if (bufferOf(actual).equals(bufferOf(expected))) return;
  for (let at = 0; at < actual.length; at++) {
    if (actual[at] === expected[at]) continue;
    const sector = Math.floor(at / SECTOR_BYTES);
    if (known !== null && known[sector] === 0) {
      at = (sector + 1) * SECTOR_BYTES - 1;
      continue;
    }
    const stamp = (bytes: Uint8Array) =>
      new DataView(bytes.buffer, bytes.byteOffset)
        .getUint32(sector * SECTOR_BYTES);
    throw new Error(
      `${name(sector)} differs at byte ${at % SECTOR_BYTES}: ${
        actual[at]
      } (write ${stamp(actual)}) and not ${expected[at]} (write ${
        stamp(expected)
      })`,
    );
  }
}

/** Small, so that requests meet each other. */
const SECTORS = 4096;

async function image(
  options: Partial<OpenOptions>,
  dir: () => Promise<Pick<TempDir, "join"> & AsyncDisposable> = tempDir,
  extraSectors = 0,
): Promise<FuzzSubject> {
  const place = await dir();
  try {
    const path = place.join("disk.img");
    const disk = await VirtualDisk.create(path, {
      sectors: SECTORS + extraSectors,
      ...options,
    });
    return {
      disk,
      start: 0,
      content: () => Deno.readFile(path),
      async [Symbol.asyncDispose]() {
        await disk.close();
        await place[Symbol.asyncDispose]();
      },
    };
  } catch (error) {
    await place[Symbol.asyncDispose]();
    throw error;
  }
}

/** A device with large sectors, so that small writes are read-modify-write. */
async function device(options: Partial<OpenOptions>): Promise<FuzzSubject> {
  await using stack = new AsyncDisposableStack();
  const dir = stack.use(await tempDir());
  const path = await dir.file("device.img", SECTORS * SECTOR_BYTES);
  const loop = stack.use(await loopDevice(path, 4096));
  const disk = stack.use(await VirtualDisk.open(loop.path, options));
  const kept = stack.move();
  return {
    disk,
    start: 0,
    content: () => Deno.readFile(loop.path),
    [Symbol.asyncDispose]: () => kept.disposeAsync(),
  };
}

/** A directory on a file system that wants 4,096 bytes of direct I/O. */
async function coarseDir(): Promise<Pick<TempDir, "join"> & AsyncDisposable> {
  await using stack = new AsyncDisposableStack();
  const dir = stack.use(await tempDir());
  const path = await dir.file("host.img", 32 << 20);
  const loop = stack.use(await loopDevice(path, 4096));
  await run("mkfs.ext4", ["-q", "-F", loop.path]);
  const mounted = stack.use(await mount(loop.path, dir.join("mnt")));
  const kept = stack.move();
  return {
    join: (name) => mounted.join(name),
    [Symbol.asyncDispose]: () => kept.disposeAsync(),
  };
}

/** A slice of a disk in memory, whose surroundings must stay as they are. */
function slice(blockSize: number): FuzzSubject {
  const start = 1024;
  const sectors = SECTORS + 2 * start;
  const whole = VirtualDisk.over(new MemoryBackend({ sectors, blockSize }));
  const outer = whole.slice(start / 2, SECTORS + start);
  const disk = outer.slice(start / 2, SECTORS);
  return {
    disk,
    start,
    async content() {
      const all = await whole.read(0, sectors);
      const inside = all.subarray(
        start * SECTOR_BYTES,
        (start + SECTORS) * SECTOR_BYTES,
      );
      const outside = [
        all.subarray(0, start * SECTOR_BYTES),
        all.subarray((start + SECTORS) * SECTOR_BYTES),
      ];
      if (outside.some((part) => part.some((byte) => byte !== 0))) {
        throw new Error("The slice wrote beside itself");
      }
      return inside;
    },
    [Symbol.asyncDispose]: () => whole.close(),
  };
}

function memory(blockSize: number): Promise<FuzzSubject> {
  const disk = VirtualDisk.memory({ sectors: SECTORS, blockSize });
  return Promise.resolve({
    disk,
    start: 0,
    [Symbol.asyncDispose]: () => disk.close(),
  });
}

/** What can be fuzzed, by name. */
export const SUBJECTS: Record<string, () => Promise<FuzzSubject>> = {
  "memory": () => memory(512),
  "memory, blocks of 4096": () => memory(4096),
  "slice": () => Promise.resolve(slice(512)),
  "direct": () => image({ backend: "direct" }),
  "direct, sync": () => image({ backend: "direct", engine: "sync" }),
  "direct, libaio": () => image({ backend: "direct", engine: "libaio" }),
  "direct, blocks of 4096": () => image({ backend: "direct", blockSize: 4096 }),
  "direct, queue of 8": () => image({ backend: "direct", queueSize: 8 }),
  "direct, buffered": () => image({ backend: "direct", direct: "never" }),
  "direct, tail": () => image({ backend: "direct" }, coarseDir, 3),
  "direct, tmpfs": () => image({ backend: "direct" }, tmpfsDir),
  "direct, device": () => device({ backend: "direct", blockSize: 512 }),
  "portable": () => image({ backend: "portable" }),
  "portable, buffered": () => image({ backend: "portable", direct: "never" }),
  "portable, blocks of 4096": () =>
    image({ backend: "portable", blockSize: 4096 }),
  "portable, tail": () => image({ backend: "portable" }, coarseDir, 3),
  "portable, tmpfs": () => image({ backend: "portable" }, tmpfsDir),
  "portable, device": () => device({ backend: "portable", blockSize: 512 }),
};

/** Subjects that need root. */
export function needsRoot(name: string): boolean {
  return /device|tail/.test(name);
}

if (import.meta.main) {
  const args = parseArgs(Deno.args, {
    string: ["seed", "requests", "backend"],
    default: { requests: "100000" },
  });
  const seed = args.seed === undefined
    ? crypto.getRandomValues(new Uint32Array(1))[0]!
    : Number(args.seed);
  const names = args.backend === undefined
    ? Object.keys(SUBJECTS).filter((name) => isRoot() || !needsRoot(name))
    : [args.backend];
  for (const name of names) {
    const make = SUBJECTS[name];
    if (make === undefined) {
      console.error(
        `There is no backend "${name}": take one of ${
          Object.keys(SUBJECTS).map((known) => `"${known}"`).join(", ")
        }`,
      );
      Deno.exit(2);
    }
    await using subject = await make();
    const start = performance.now();
    console.log(
      `${name}: seed ${seed}, engine ${subject.disk.info.engine.name}`,
    );
    const { requests, refused, kinds } = await fuzz(subject, {
      seed,
      requests: Number(args.requests),
    });
    const seconds = (performance.now() - start) / 1000;
    console.log(
      `  ${requests} requests, ${refused} refused, in ${
        seconds.toFixed(1)
      } s (${Math.round(requests / seconds)} a second) ${
        JSON.stringify(kinds)
      }`,
    );
  }
}
