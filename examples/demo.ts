/**
 * A tour of the library: what a disk is here, writes and reads through its
 * queue with everything verified, the same without FFI, and how fast it is
 * beside what Deno has.
 *
 * ```sh
 * deno task demo                           # on a scratch image, removed again
 * deno task demo disk.img                  # reads that image, writes nothing
 * deno task demo disk.img --destructive    # OVERWRITES what is on that image
 * ```
 *
 * Exits with 0 if everything that was verified is right, with 1 if something
 * is not, with 2 if it was called wrongly.
 *
 * @module
 */

import {
  type DiskCounters,
  DiskError,
  SECTOR_BYTES,
  VirtualDisk,
} from "@platter/disk";
import { Buffer } from "node:buffer";
import fs from "node:fs";

const MIB = 2 ** 20;
const BLOCK = 4096;

/** Bytes of the scratch image, and of what is written on any image. */
const REGION = 32 * MIB;

/** Milliseconds of each measurement, and of the warm-up before it. */
const MEASURE_MS = 150;
const WARM_UP_MS = 30;

const USAGE = `Usage: deno task demo [IMAGE] [--destructive] [--no-throughput]

Without an IMAGE, a scratch image is made in the current folder and removed
again. A given IMAGE is only read, unless --destructive is given: then the
first ${REGION / MIB} MiB of it are OVERWRITTEN.`;

const FLAGS = ["--destructive", "--no-throughput"];

let checks = 0;
const failures: string[] = [];

/** Counts something verified; what is wrong is shown now and summed up later. */
function verify(what: string, right: boolean): string {
  checks++;
  if (right) return "verified";
  failures.push(what);
  return "WRONG";
}

function title(text: string): void {
  console.log(`\n${text}\n${"─".repeat(text.length)}`);
}

/** A name and a text, in lines of at most 80 columns. */
function line(name: string, text: string, indent = 17): void {
  let current = `  ${name}`.padEnd(indent);
  for (const word of text.split(" ")) {
    if (current.length + word.length > 79 && current.length > indent) {
      console.log(current.trimEnd());
      current = " ".repeat(indent);
    }
    current += `${word} `;
  }
  console.log(current.trimEnd());
}

/** What a table needs to be understood. */
function note(text: string): void {
  console.log();
  line("", text.replaceAll(/\s+/g, " "), 2);
}

function number(value: number): string {
  return Math.round(value).toLocaleString("en");
}

function size(bytes: number): string {
  if (bytes % MIB === 0) return `${number(bytes / MIB)} MiB`;
  if (bytes % 1024 === 0) return `${number(bytes / 1024)} KiB`;
  return `${number(bytes)} bytes`;
}

function because(reason: string | null): string {
  return reason === null ? "" : `: ${reason}`;
}

// ---------------------------------------------------------------- the disk

function showDisk(disk: VirtualDisk): void {
  const { info } = disk;
  const { direct, durability, abilities } = info;
  line("image", info.path ?? "none");
  const { sectors, blockSize, physicalBlockSize } = info;
  line(
    "geometry",
    `${size(sectors * SECTOR_BYTES)}: ${number(sectors)} sectors of ` +
      `${SECTOR_BYTES} bytes, in blocks of ${blockSize} (${physicalBlockSize} physical)`,
  );
  line("on", `${info.medium}, ${info.fileSystem ?? "file system not known"}`);
  line(
    "direct I/O",
    (direct.active ? `yes, by ${direct.method}` : "no") +
      because(direct.reason),
  );
  line(
    "the host wants",
    direct.memoryAlignment === 1 && direct.offsetAlignment === 1
      ? "nothing in particular"
      : `memory at multiples of ${direct.memoryAlignment}, offsets and ` +
        `lengths in multiples of ${direct.offsetAlignment} (${
          direct.alignmentSource === "assumed"
            ? "assumed, as it does not say"
            : `by ${direct.alignmentSource}`
        })`,
  );
  line(
    "a flush",
    `${durability.method}, which reaches ${
      durability.flush === "unknown"
        ? "nobody knows what"
        : `the ${durability.flush}`
    }${because(durability.reason)}`,
  );
  line("device cache", durability.deviceCache);
  line("a FUA write", `${durability.fua} (${abilities.fua})`);
  line(
    "the rest",
    `write zeroes ${abilities.writeZeroes}, discard ${abilities.discard}, ` +
      `secure erase ${abilities.secureErase}`,
  );
  line("backend", `${info.backend}, engine ${info.engine.name}`);
  line("queue", `${info.queueSize} requests, ${info.writeCache}`);
  line("lock", info.lock.method);
}

/** Everything that this disk, here and now, is less than it could be. */
async function showMissing(disk: VirtualDisk): Promise<void> {
  const { info } = disk;
  const missing: [name: string, why: string][] = [];
  const ffi = Deno.permissions.querySync({ name: "ffi" }).state === "granted";
  if (!ffi) {
    missing.push([
      "FFI",
      "not allowed (--allow-ffi): no direct backend, no QEMU locks",
    ]);
  } else if (info.backend !== "direct") {
    missing.push(["direct backend", await whyNotDirect(info.path!)]);
  }
  if (!info.direct.active) {
    missing.push(["direct I/O", info.direct.reason ?? "not to be had"]);
  }
  const parts = [
    ["engine", info.engine.reason],
    ["flush", info.durability.reason],
    ["lock", info.lock.reason],
  ] as const;
  for (const [name, reason] of parts) {
    if (reason !== null) missing.push([name, reason]);
  }
  for (const name of ["discard", "writeZeroes", "secureErase"] as const) {
    if (info.abilities[name] !== "native") {
      const words = name.replace(/[A-Z]/, (it) => ` ${it.toLowerCase()}`);
      missing.push([words, `${info.abilities[name]} on this disk`]);
    }
  }
  if (missing.length === 0) line("nothing", "everything is to be had here");
  for (const [name, why] of missing) line(name, why);
}

async function whyNotDirect(path: string): Promise<string> {
  try {
    const options = { backend: "direct", readOnly: true } as const;
    const disk = await VirtualDisk.open(path, { ...options, lock: "none" });
    await disk.close();
    return "not chosen";
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

// --------------------------------------------------------- verified writes

/** A generator of numbers that are the same each time: xorshift32. */
function makeRandom(seed: number): () => number {
  let state = seed;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state >>> 0;
  };
}

/** Writes that are submitted in one turn of the event loop, with a flush. */
interface Batch {
  readonly name: string;
  /** Bytes of each write. */
  readonly size: number;
  /** Where each write goes, in bytes. */
  readonly offsets: readonly number[];
  /** Whether their memory is the disk's own, aligned. */
  readonly aligned: boolean;
}

function makeBatches(region: number, blockSize: number): Batch[] {
  const random = makeRandom(2026);
  const unit = Math.max(BLOCK, blockSize);
  const scattered = (count: number, size: number) =>
    Array.from(
      { length: count },
      () => random() % (region / size) * size,
    );
  const row = (count: number, size: number) =>
    Array.from({ length: Math.min(count, region / size) }, (_, i) => i * size);
  return [
    { name: "fill", size: MIB, offsets: row(region / MIB, MIB), aligned: true },
    { name: "neighbours", size: unit, offsets: row(128, unit), aligned: true },
    {
      name: "scattered",
      size: unit,
      offsets: scattered(128, unit),
      aligned: true,
    },
    {
      name: "plain memory",
      size: unit,
      offsets: scattered(128, unit),
      aligned: false,
    },
    {
      name: "one block",
      size: blockSize,
      offsets: scattered(128, blockSize),
      aligned: false,
    },
    {
      name: "one place",
      size: unit,
      offsets: Array(64).fill(8 * unit),
      aligned: true,
    },
  ];
}

/**
 * Writes a batch, not awaiting any write before the last is submitted, and a
 * flush. What the disk must hold afterwards goes to `model`.
 */
async function writeBatch(
  disk: VirtualDisk,
  batch: Batch,
  seed: number,
  model: Uint8Array,
): Promise<void> {
  const { offsets } = batch;
  const random = makeRandom(seed);
  const bytes = offsets.length * batch.size;
  const memory = batch.aligned
    ? disk.allocate(bytes / SECTOR_BYTES)
    : new Uint8Array(bytes);
  const words = new Uint32Array(memory.buffer, memory.byteOffset, bytes / 4);
  for (let i = 0; i < words.length; i++) words[i] = random();
  const pieces = offsets.map((offset, i) => {
    const data = memory.subarray(i * batch.size, (i + 1) * batch.size);
    // In the order of submission: where they overlap, the last one wins.
    model.set(data, offset);
    return disk.write(offset / SECTOR_BYTES, data);
  });
  await Promise.all([...pieces, disk.flush()]);
}

function difference(before: DiskCounters, after: DiskCounters): DiskCounters {
  const result = { ...after };
  for (const key of Object.keys(result) as (keyof DiskCounters)[]) {
    result[key] -= before[key];
  }
  return result;
}

function summary(counters: DiskCounters): string {
  const { requests, batches, merged, systemCalls, bounced } = counters;
  return `${requests} requests in ${batches} batches, ${merged} merged, ` +
    `${systemCalls} system calls, ${bounced} bounced`;
}

async function readRegion(
  disk: VirtualDisk,
  region: number,
): Promise<Uint8Array> {
  const memory = disk.allocate(region / SECTOR_BYTES);
  const reads = [];
  for (let at = 0; at < region; at += MIB) {
    reads.push(
      disk.readInto(at / SECTOR_BYTES, memory.subarray(at, at + MIB)),
    );
  }
  await Promise.all(reads);
  return memory;
}

function equal(a: Uint8Array, b: Uint8Array): boolean {
  // Far quicker than a loop over the bytes.
  return Buffer.compare(a, b) === 0;
}

const COLUMNS = [
  ["requests", "requests"],
  ["batches", "batches"],
  ["merged", "merged"],
  ["systemCalls", "calls"],
  ["bounced", "bounced"],
  ["readModifyWrites", "r-m-w"],
] as const;

async function writeVerified(
  disk: VirtualDisk,
  region: number,
): Promise<Uint8Array> {
  const model = new Uint8Array(region);
  console.log(
    `  ${"".padEnd(29)}${COLUMNS.map(([, head]) => head).join("  ")}`,
  );
  let seed = 1;
  for (const batch of makeBatches(region, disk.blockSize)) {
    const before = disk.counters;
    await writeBatch(disk, batch, seed++, model);
    const counted = difference(before, disk.counters);
    const { name, offsets } = batch;
    const what = `${name}, ${offsets.length} × ${size(batch.size)}`;
    console.log(
      `  ${what.padEnd(29)}${
        COLUMNS.map(([key, head]) => number(counted[key]).padStart(head.length))
          .join("  ")
      }`,
    );
    const same = equal(await readRegion(disk, region), model);
    if (verify(`reading back "${name}"`, same) !== "verified") {
      console.log("  WRONG: what was read is not what was written");
    }
  }
  return model;
}

/** Reads a file by `node:fs`, which knows nothing of Platter. */
function readFile(path: string, offset: number, length: number): Uint8Array {
  const memory = new Uint8Array(length);
  const fd = fs.openSync(path, "r");
  try {
    for (let done = 0; done < length;) {
      const count = fs.readSync(fd, memory, done, length - done, offset + done);
      if (count === 0) break;
      done += count;
    }
  } finally {
    fs.closeSync(fd);
  }
  return memory;
}

async function sha256(bytes: Uint8Array): Promise<string> {
  const hash = await crypto.subtle.digest("SHA-256", bytes as BufferSource);
  return new Uint8Array(hash).toHex();
}

/** The same writes without FFI: both images must be alike to the last byte. */
async function writeWithoutFfi(
  path: string,
  other: string,
  model: Uint8Array,
  blockSize: number,
): Promise<void> {
  const region = model.length;
  {
    await using disk = await VirtualDisk.create(other, {
      sectors: region / SECTOR_BYTES,
      blockSize,
      backend: "portable",
    });
    const { direct, engine } = disk.info;
    line("backend", `portable, engine ${engine.name}`);
    line(
      "direct I/O",
      (direct.active ? `yes, by ${direct.method}` : "no") +
        because(direct.reason),
    );
    const again = new Uint8Array(region);
    let seed = 1;
    for (const batch of makeBatches(region, blockSize)) {
      await writeBatch(disk, batch, seed++, again);
    }
    line("counted", summary(disk.counters));
  }
  const [first, second] = [
    readFile(path, 0, region),
    readFile(other, 0, region),
  ];
  const [one, two] = [await sha256(first), await sha256(second)];
  line(
    "node:fs reads",
    `the first image: ${
      verify("first image by node:fs", equal(first, model))
    }; the second: ${verify("second image by node:fs", equal(second, model))}`,
  );
  line("SHA-256", `${one.slice(0, 24)}…  first image`);
  line("", `${two.slice(0, 24)}…  second image`);
  const same = one === two && equal(first, second);
  verify("both images byte-identical", same);
  line("so they are", same ? "byte-identical" : "DIFFERENT");
}

// ---------------------------------------------------------- verified reads

/** For an image that is somebody's: reads alone, against `node:fs`. */
async function readVerified(disk: VirtualDisk, path: string): Promise<void> {
  const bytes = disk.sectors * SECTOR_BYTES;
  const random = makeRandom(2026);
  const before = disk.counters;
  const unit = Math.min(bytes, Math.max(BLOCK, disk.blockSize));
  const offsets = Array.from(
    { length: 512 },
    () => Math.floor(random() / 2 ** 32 * Math.floor(bytes / unit)) * unit,
  );
  const pieces = await Promise.all(
    offsets.map((at) => disk.read(at / SECTOR_BYTES, unit / SECTOR_BYTES)),
  );
  const counted = difference(before, disk.counters);
  const right = pieces.every((piece, i) =>
    equal(piece, readFile(path, offsets[i]!, unit))
  );
  line(
    "random",
    `reads of ${unit} bytes: ${summary(counted)}: ${
      verify("random reads", right)
    } against node:fs`,
  );
  const length = Math.min(bytes, REGION);
  let at = 0;
  let same = true;
  const count = length / SECTOR_BYTES;
  for await (const chunk of disk.readable({ count })) {
    same &&= equal(chunk, readFile(path, at, chunk.length));
    at += chunk.length;
  }
  line(
    "sequential",
    `the first ${size(length)} as a stream: ${
      verify("sequential reads", same && at === length)
    } against node:fs`,
  );
}

// -------------------------------------------------------------- throughput

/** One way to move bytes, opened for measuring. */
interface Way {
  readonly name: string;
  /** How it reaches the disk. */
  readonly path: "direct" | "direct?" | "buffered";
  read(slot: number, offset: number, length: number): Promise<void>;
  write(slot: number, offset: number, length: number): Promise<void>;
  flush(): Promise<void>;
  close(): Promise<void>;
}

const SLOTS = 32;

async function platterWay(
  path: string,
  readOnly: boolean,
  backend: "direct" | "portable",
  direct: "prefer" | "never",
): Promise<Way> {
  const disk = await VirtualDisk.open(path, { backend, direct, readOnly });
  const { active, method, reason } = disk.info.direct;
  const slots = Array.from(
    { length: SLOTS },
    () => disk.allocate(MIB / SECTOR_BYTES),
  );
  return {
    name: `Platter, ${backend}`,
    path: method === null
      ? "buffered"
      : active && reason === null
      ? "direct"
      : "direct?",
    read: (slot, offset, length) =>
      disk.readInto(
        offset / SECTOR_BYTES,
        slots[slot]!.subarray(0, length),
      ),
    write: (slot, offset, length) =>
      disk.write(offset / SECTOR_BYTES, slots[slot]!.subarray(0, length)),
    flush: () => disk.flush(),
    close: () => disk.close(),
  };
}

/** `Deno.FsFile` has no positions, so each request in flight needs a file. */
async function fsFileWay(path: string, readOnly: boolean): Promise<Way> {
  const memory = Array.from({ length: SLOTS }, () => new Uint8Array(MIB));
  const files = await Promise.all(
    memory.map(() => Deno.open(path, { read: true, write: !readOnly })),
  );
  return {
    name: "Deno.FsFile",
    path: "buffered",
    async read(slot, offset, length) {
      const file = files[slot]!;
      await file.seek(offset, Deno.SeekMode.Start);
      for (let done = 0; done < length;) {
        const buffer = memory[slot]!.subarray(done, length);
        done += await file.read(buffer) ?? length;
      }
    },
    async write(slot, offset, length) {
      const file = files[slot]!;
      await file.seek(offset, Deno.SeekMode.Start);
      for (let done = 0; done < length;) {
        done += await file.write(memory[slot]!.subarray(done, length));
      }
    },
    flush: () => files[0]!.syncData(),
    close() {
      for (const file of files) file.close();
      return Promise.resolve();
    },
  };
}

async function nodeWay(path: string, readOnly: boolean): Promise<Way> {
  const memory = Array.from({ length: SLOTS }, () => new Uint8Array(MIB));
  const file = await fs.promises.open(path, readOnly ? "r" : "r+");
  return {
    name: "node:fs",
    path: "buffered",
    async read(slot, offset, length) {
      await file.read(memory[slot]!, 0, length, offset);
    },
    async write(slot, offset, length) {
      await file.write(memory[slot]!, 0, length, offset);
    },
    flush: () => file.datasync(),
    close: () => file.close(),
  };
}

/** Carries out `count` requests, `depth` of them in flight all the time. */
async function inFlight(
  depth: number,
  count: number,
  request: (slot: number) => Promise<void>,
): Promise<void> {
  let left = count;
  const loop = async (slot: number) => {
    while (left-- > 0) await request(slot);
  };
  await Promise.all(Array.from({ length: depth }, (_, slot) => loop(slot)));
}

/** How often a second something can be done, after a warm-up. */
async function measure(round: () => Promise<void>): Promise<number> {
  const run = async (ms: number) => {
    const start = performance.now();
    let rounds = 0;
    let elapsed = 0;
    while (elapsed < ms) {
      await round();
      rounds++;
      elapsed = performance.now() - start;
    }
    return rounds / elapsed * 1000;
  };
  await run(WARM_UP_MS);
  return await run(MEASURE_MS);
}

async function measureWay(
  way: Way,
  bytes: number,
  blockSize: number,
  readOnly: boolean,
): Promise<string> {
  const random = makeRandom(7);
  const unit = Math.min(bytes, Math.max(BLOCK, blockSize));
  const places = Math.floor(bytes / unit);
  const readAnywhere = (slot: number) =>
    way.read(slot, Math.floor(random() / 2 ** 32 * places) * unit, unit);
  // In order over the first part of the image, again and again.
  const chunk = Math.min(MIB, bytes);
  const chunks = Math.min(REGION / MIB, Math.floor(bytes / chunk));
  const mebibytes = chunks * chunk / MIB;
  const inOrder = (request: Way["read"]) => {
    let next = 0;
    return inFlight(
      4,
      chunks,
      (slot) => request(slot, next++ * chunk, chunk),
    );
  };
  // What is buffered is to come from memory: have it there.
  if (way.path === "buffered") {
    for (let at = 0; at + chunk <= bytes; at += chunk) {
      await way.read(0, at, chunk);
    }
  }
  const cells = [
    256 * await measure(() => inFlight(1, 256, readAnywhere)),
    1024 * await measure(() => inFlight(SLOTS, 1024, readAnywhere)),
    mebibytes * await measure(() => inOrder(way.read)),
  ];
  if (!readOnly) {
    cells.push(
      mebibytes * await measure(async () => {
        await inOrder(way.write);
        await way.flush();
      }),
    );
  }
  return `  ${way.name.padEnd(19)}${way.path.padEnd(8)}${
    cells.map((value) => number(value).padStart(11)).join("")
  }`;
}

async function showThroughput(
  path: string,
  bytes: number,
  blockSize: number,
  readOnly: boolean,
  withFfi: boolean,
): Promise<void> {
  console.log(
    `  ${"".padEnd(27)}${" 4 KiB at random, /s".padStart(22)}${
      " 1 MiB in order, MiB/s".padStart(22)
    }
  ${"".padEnd(27)}${
      ["depth 1", "depth 32", "read", ...(readOnly ? [] : ["write"])]
        .map((text) => text.padStart(11)).join("")
    }`,
  );
  const ways: (() => Promise<Way>)[] = [
    () => platterWay(path, readOnly, "portable", "prefer"),
    () => platterWay(path, readOnly, "portable", "never"),
    () => fsFileWay(path, readOnly),
    () => nodeWay(path, readOnly),
  ];
  if (withFfi) {
    ways.unshift(
      () => platterWay(path, readOnly, "direct", "prefer"),
      () => platterWay(path, readOnly, "direct", "never"),
    );
  }
  const shown = new Set<string>();
  for (const open of ways) {
    const way = await open();
    try {
      // Where nothing is direct, "prefer" and "never" are the same.
      const key = `${way.name} ${way.path}`;
      if (shown.has(key)) continue;
      shown.add(key);
      console.log(await measureWay(way, bytes, blockSize, readOnly));
    } finally {
      await way.close();
    }
  }
  note(
    `Direct goes to the device each time ("direct?": asked for, and taken, but
    this file system may buffer). Buffered reads of what was read before come
    from this machine's memory and never see the disk: not a faster way to the
    same place, but another place. In order: 4 requests at once${
      readOnly
        ? ""
        : `, and after each ${
          size(Math.min(bytes, REGION))
        } written a flush, which is timed too`
    }. Deno.FsFile has no positions, so it has a file open for each request in
    flight.`,
  );
}

// -------------------------------------------------------------------- tour

interface Tour {
  readonly path: string;
  /** Whether the image is somebody's, so that nothing is written. */
  readonly readOnly: boolean;
  /** A folder for the second image; made only if there is something to write. */
  readonly scratch: string | null;
  /** Whether to measure. */
  readonly throughput: boolean;
}

async function tour(
  { path, readOnly, scratch, throughput }: Tour,
): Promise<void> {
  const disk = await VirtualDisk.open(path, { readOnly });
  const { blockSize } = disk;
  const bytes = disk.sectors * SECTOR_BYTES;
  const withFfi = disk.info.backend === "direct";
  let model: Uint8Array | null = null;
  try {
    if (bytes === 0) throw new RangeError(`"${path}" is empty`);
    title("The disk");
    showDisk(disk);
    title("What is not to be had here, and why");
    await showMissing(disk);
    if (readOnly) {
      title("Reads through the queue, verified");
      await readVerified(disk, path);
    } else {
      const region = Math.min(REGION, bytes - bytes % MIB);
      if (region === 0) {
        throw new RangeError(`"${path}" is too small: less than 1 MiB`);
      }
      title("Writes through the queue, each row one turn and one flush");
      model = await writeVerified(disk, region);
      note(
        `Merged: neighbours that went to the kernel as one vectored request.
        Calls: into the kernel. Bounced: copied, as their memory was not on a
        page. r-m-w: blocks of the host had to be read first. After each row,
        all ${size(region)} were read and compared.`,
      );
    }
  } finally {
    await disk.close();
  }
  if (model !== null && scratch !== null) {
    title("The same writes without FFI, on a second image");
    if (!withFfi) line("note", "the first image was written without FFI, too");
    const other = `${scratch}/portable.img`;
    await writeWithoutFfi(path, other, model, blockSize);
  }
  if (!throughput) return;
  title("Throughput, all in this run");
  const measured = model?.length ?? Math.min(bytes, 256 * MIB);
  await showThroughput(path, measured, blockSize, readOnly, withFfi);
}

/** A folder beside the caller, as the system's own may be in memory. */
async function makeScratch(): Promise<string> {
  try {
    return await Deno.makeTempDir({ dir: ".", prefix: "platter_demo_" });
  } catch {
    return await Deno.makeTempDir({ prefix: "platter_demo_" });
  }
}

async function main(args: readonly string[]): Promise<number> {
  const flags = args.filter((arg) => arg.startsWith("-"));
  const paths = args.filter((arg) => !arg.startsWith("-"));
  if (flags.includes("--help") || flags.includes("-h")) {
    console.log(USAGE);
    return 0;
  }
  const destructive = flags.includes("--destructive");
  if (
    paths.length > 1 || flags.some((flag) => !FLAGS.includes(flag)) ||
    destructive && paths.length === 0
  ) {
    console.error(USAGE);
    return 2;
  }
  const given = paths[0];
  const readOnly = given !== undefined && !destructive;
  const throughput = !flags.includes("--no-throughput");
  const scratch = readOnly ? null : await makeScratch();
  const remove = () => {
    if (scratch !== null) Deno.removeSync(scratch, { recursive: true });
  };
  const interrupted = () => {
    remove();
    Deno.exit(130);
  };
  Deno.addSignalListener("SIGINT", interrupted);
  try {
    if (given !== undefined) {
      console.log(
        readOnly
          ? `Reading "${given}", writing nothing`
          : `OVERWRITING "${given}"`,
      );
      await tour({ path: given, readOnly, scratch, throughput });
    } else {
      const path = `${scratch}/disk.img`;
      const sectors = REGION / SECTOR_BYTES;
      const disk = await VirtualDisk.create(path, { sectors });
      await disk.close();
      await tour({ path, readOnly, scratch, throughput });
    }
  } catch (error) {
    if (!(error instanceof DiskError || error instanceof RangeError)) {
      throw error;
    }
    console.error(`\n${error.message}`);
    return 1;
  } finally {
    Deno.removeSignalListener("SIGINT", interrupted);
    remove();
  }
  console.log(
    failures.length === 0
      ? `\nAll ${checks} checks are right`
      : `\n${failures.length} of ${checks} checks FAILED: ${
        failures.join("; ")
      }`,
  );
  return failures.length === 0 ? 0 : 1;
}

Deno.exitCode = await main(Deno.args);
