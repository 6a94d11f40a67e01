/**
 * What `runtimes.ts` runs in each runtime: for each line of its standard input it
 * measures once and prints a line of JSON.
 *
 * @module
 */

import fs from "node:fs";
import process from "node:process";
import { createInterface } from "node:readline";
import { openLibc } from "../ffi/libc.ts";
import { openLibcFunctions } from "../ffi/library.ts";
import { VirtualDisk } from "../src/disk/disk.ts";

/** What was measured. */
export interface RuntimeSlice {
  /** The engine of the direct backend. */
  readonly engine: string;
  /** Reads a second by Platter. */
  readonly platter: number;
  /** Reads a second by `node:fs`. */
  readonly nodeFs: number;
  /** Processor time of a read by Platter, in µs. */
  readonly platterUs: number;
  /** Processor time of a read by `node:fs`, in µs, its threads included. */
  readonly nodeFsUs: number;
  /** A call of libc through `Libc`, in ns. */
  readonly callNs: number;
  /** The same call, of the function as the runtime gave it, in ns. */
  readonly bareNs: number;
}

const DEPTH = 32;
const BLOCK = 4096;
const CALLS = 20_000;

const [path, ms] = process.argv.slice(2) as [string, string];
const disk = await VirtualDisk.open(path, {
  backend: "direct",
  readOnly: true,
  lock: "none",
});
const blocks = Math.floor(disk.sectors * 512 / BLOCK);
const fd = fs.openSync(path, fs.constants.O_RDONLY | fs.constants.O_DIRECT);
const libc = openLibc();
const bare = openLibcFunctions(libc.abi);
let seed = 1;

function place(): number {
  seed = (Math.imul(seed, 1_103_515_245) + 12_345) & 0x7fff_ffff;
  return seed % blocks;
}

/** Reads a second, with so many in flight, and the processor time of one. */
async function rate(
  read: (block: number, buffer: Uint8Array) => Promise<unknown>,
): Promise<{ rate: number; us: number }> {
  const spent = process.cpuUsage();
  const began = performance.now();
  const end = began + Number(ms);
  let count = 0;
  await Promise.all(buffers.map(async (buffer) => {
    while (performance.now() < end) {
      await read(place(), buffer);
      count++;
    }
  }));
  const { user, system } = process.cpuUsage(spent);
  return {
    rate: count * 1000 / (performance.now() - began),
    us: (user + system) / count,
  };
}

const buffers = Array.from({ length: DEPTH }, () => disk.allocate(BLOCK / 512));

const byNodeFs = (block: number, buffer: Uint8Array) =>
  new Promise<void>((resolve, reject) =>
    fs.read(
      fd,
      buffer,
      0,
      BLOCK,
      block * BLOCK,
      (error) => error ? reject(error) : resolve(),
    )
  );

/** What a call of lseek(2) costs, in ns. */
function time(call: () => void): number {
  const began = performance.now();
  for (let i = 0; i < CALLS; i++) call();
  return (performance.now() - began) * 1e6 / CALLS;
}

for await (const _ of createInterface({ input: process.stdin })) {
  const own = await rate((block, buffer) => disk.readInto(block * 8, buffer));
  const other = await rate(byNodeFs);
  const slice: RuntimeSlice = {
    engine: disk.info.engine!.name,
    platter: own.rate,
    nodeFs: other.rate,
    platterUs: own.us,
    nodeFsUs: other.us,
    callNs: time(() => libc.lseek(fd, 0, 0)),
    bareNs: time(() => bare.lseek(fd, 0n, 0)),
  };
  fs.writeSync(1, JSON.stringify(slice) + "\n");
}
await disk.close();
process.exit(0);
