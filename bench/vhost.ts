/**
 * Virtual disks side by side in one guest: Platter over vhost-user, QEMU's storage
 * daemon over vhost-user, and Platter's NBD server behind QEMU's own virtio-blk;
 * each over an image of its own on the same disk, with the same fio in the same
 * rounds.
 *
 * ```sh
 * deno run -A bench/vhost.ts --rounds 5 --seconds 2
 * ```
 *
 * The guest is emulated, as in the tests, so that the numbers are small, and the
 * ratios are what they are for.
 *
 * @module
 */

import { parseArgs } from "@std/cli/parse-args";
import { join } from "node:path";
import { startQemu } from "../tests/vhost/guests/qemu_guest.ts";
import { rootImage } from "../tests/vhost/guests/root_image.ts";
import type { Guest } from "../src/crash/guests/guest.ts";
import { grouped } from "./format.ts";
import { describeMachine } from "./machine.ts";
import { Scratch } from "./scratch.ts";
import { ratio, summarize } from "./statistics.ts";

/** Bytes of each image. */
const IMAGE_BYTES = 256 << 20;

/** How long a server may take to listen, in ms. */
const START_MS = 20_000;

const CLI = new URL("../src/cli/main.ts", import.meta.url).pathname;

/** A disk of the guest, and who serves it. */
interface Contender {
  readonly name: string;
  /** Its device in the guest. */
  readonly device: string;
  /** The command line that serves an image on a socket. */
  command(image: string, socket: string): [string, ...string[]];
}

function platter(option: string) {
  return (image: string, socket: string): [string, ...string[]] => [
    Deno.execPath(),
    ...["run", "-A", "--no-check", "--quiet", CLI],
    ...["serve", image, option, socket],
  ];
}

function storageDaemon(image: string, socket: string): [string, ...string[]] {
  return [
    "qemu-storage-daemon",
    "--blockdev",
    `file,node-name=file,filename=${image},cache.direct=on,aio=native`,
    "--export",
    `vhost-user-blk,id=export,node-name=file,addr.type=unix,addr.path=${socket},writable=on,num-queues=2`,
  ];
}

const CONTENDERS: readonly Contender[] = [
  { name: "platter", device: "vdb", command: platter("--vhost") },
  { name: "qemu-storage-daemon", device: "vdc", command: storageDaemon },
  { name: "platter, NBD", device: "vdd", command: platter("--socket") },
];

/** One comparison: arguments for fio, and what Platter must reach of the others. */
interface Case {
  readonly name: string;
  readonly fio: string;
  readonly bars: readonly [storageDaemon: number, nbd: number | null];
}

const ASYNC = "--ioengine=libaio --direct=1 --bs=4k";

const CASES: readonly Case[] = [
  {
    name: "random-read-1",
    fio: `${ASYNC} --rw=randread --iodepth=1`,
    bars: [1, 1.2],
  },
  {
    name: "random-read-32",
    fio: `${ASYNC} --rw=randread --iodepth=32`,
    bars: [1, 1.2],
  },
  {
    name: "random-write-1",
    fio: `${ASYNC} --rw=randwrite --iodepth=1`,
    bars: [1, 1.2],
  },
  {
    name: "random-write-32",
    fio: `${ASYNC} --rw=randwrite --iodepth=32`,
    bars: [1, 1.2],
  },
  {
    name: "write-flush",
    fio:
      "--ioengine=psync --direct=1 --bs=4k --rw=randwrite --iodepth=1 --fdatasync=1",
    bars: [0.9, null],
  },
];

const HELP = `Measures Platter's vhost-user device in an emulated guest.

Usage: deno task bench:vhost [options]

  --only NAMES      Cases, with commas
  --rounds N        Rounds of each case (default 5)
  --seconds S       Seconds of each measurement (default 2)
  --warm-up S       Seconds in which each disk is read one by one first (default
                    0): V8 compiles well what has run thousands of times
  --dir DIR         Where the images go, on the disk to be measured (default:
                    tmp in the current directory); gone afterwards
  --json FILE       Writes everything as JSON
  --help            Shows this
`;

/** Requests a second, by fio in the guest. */
async function measure(
  guest: Guest,
  device: string,
  { fio }: Case,
  seconds: number,
): Promise<number> {
  const output = await guest.run(
    [
      `fio --minimal --name=bench --filename=/dev/${device} ${fio}`,
      `--size=${IMAGE_BYTES} --norandommap --time_based`,
      `--ramp_time=500ms --runtime=${Math.round(seconds * 1000)}ms`,
    ].join(" "),
  );
  // The terse format, version 3, of HOWTO.rst: IOPS of reads and of writes.
  const fields = output.trim().split("\n").at(-1)!.split(";");
  return Number(fields[7]) + Number(fields[48]);
}

/**
 * Has the guest flush a disk. QEMU's storage daemon (7.2) offers a flush and says
 * that there is no write cache: `writeback` of its configuration space is 0. Linux
 * then never asks it for a flush, nor does it make any by itself, so that a write
 * that is not durable would be measured beside one that is.
 *
 * @throws {Error} If the disk stays without a write cache.
 */
async function turnCacheOn(guest: Guest, device: string): Promise<void> {
  const file = `/sys/block/${device}/cache_type`;
  const output = await guest.run(`echo "write back" > ${file}; cat ${file}`);
  if (output.trim() !== "write back") {
    throw new Error(`The guest does not flush ${device}: ${output.trim()}`);
  }
}

/** Starts a server, which ends with the stack. */
async function serve(
  [command, ...args]: [string, ...string[]],
  socket: string,
  stack: AsyncDisposableStack,
): Promise<void> {
  const child = new Deno.Command(command, {
    args,
    stdin: "null",
    stdout: "null",
    // Platter says there how to attach.
    stderr: "null",
  }).spawn();
  let ended = false;
  const status = child.status.finally(() => ended = true);
  stack.defer(async () => {
    if (!ended) child.kill("SIGTERM");
    await status;
  });
  for (const start = performance.now();;) {
    try {
      await Deno.lstat(socket);
      return;
    } catch {
      if (ended || performance.now() - start > START_MS) {
        throw new Error(`${command} does not start`);
      }
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
}

/** An image that has content everywhere, as holes are no disk. */
async function makeImage(path: string): Promise<void> {
  using file = await Deno.create(path);
  const chunk = new Uint8Array(1 << 20).fill(0x5a);
  for (let at = 0; at < IMAGE_BYTES; at += chunk.length) {
    await file.write(chunk);
  }
  await file.sync();
}

async function main(): Promise<number> {
  const options = parseArgs(Deno.args, {
    string: ["rounds", "seconds", "warm-up", "only", "dir", "json"],
    boolean: ["help"],
    default: { rounds: "5", seconds: "2", "warm-up": "0" },
  });
  if (options.help) {
    console.log(HELP);
    return 0;
  }
  const rounds = Number(options.rounds);
  const seconds = Number(options.seconds);
  const warmUp = Number(options["warm-up"]);
  const only = options.only?.split(",");
  const missing = only?.find((name) => CASES.every((one) => one.name !== name));
  const wrong = missing !== undefined
    ? `There is no case "${missing}": take some of ${
      CASES.map(({ name }) => name).join(", ")
    }`
    : !Number.isSafeInteger(rounds) || rounds < 1
    ? "--rounds must be an integer from 1"
    : !(seconds > 0)
    ? "--seconds must be above 0"
    : !(warmUp >= 0)
    ? "--warm-up must be 0 or above"
    : null;
  if (wrong !== null) {
    console.error(`${wrong}\n\n${HELP}`);
    return 2;
  }
  const interrupt = new AbortController();
  Deno.addSignalListener("SIGINT", () => interrupt.abort());
  await using scratch = await Scratch.make({
    bytes: (CONTENDERS.length + 1) * IMAGE_BYTES,
    signal: interrupt.signal,
    ...(options.dir === undefined ? {} : { parent: options.dir }),
  });
  const { directory } = scratch;
  await using stack = new AsyncDisposableStack();
  const root = await rootImage(directory);
  const rootSocket = join(directory, "root.sock");
  await serve(platter("--vhost")(root, rootSocket), rootSocket, stack);
  const sockets: string[] = [];
  for (const [i, { command }] of CONTENDERS.entries()) {
    const image = join(directory, `disk${i}.img`);
    await makeImage(image);
    const socket = join(directory, `disk${i}.sock`);
    await serve(command(image, socket), socket, stack);
    sockets.push(socket);
  }
  const nbd = sockets.pop()!;
  const guest = stack.use(
    await startQemu({
      directory,
      sockets: [rootSocket, ...sockets],
      args: [
        "-blockdev",
        `nbd,node-name=nbd,server.type=unix,server.path=${nbd},cache.direct=on`,
        "-device",
        "virtio-blk-pci,drive=nbd,num-queues=2",
      ],
    }),
  );
  for (const { device } of CONTENDERS) {
    await turnCacheOn(guest, device);
    if (warmUp > 0) await measure(guest, device, CASES[0]!, warmUp);
  }
  const machine = await describeMachine(directory);
  console.log(
    `${machine.cpu}, ${machine.cores} cores, ${machine.system}, ${machine.fileSystem} on ${machine.device}; ${rounds} rounds of ${seconds} s after ${warmUp} s, in a guest that is emulated\n`,
  );
  const results = [];
  for (const one of CASES.filter(({ name }) => only?.includes(name) ?? true)) {
    const values = new Map<string, number[]>(
      CONTENDERS.map(({ name }) => [name, []]),
    );
    for (let round = 0; round < rounds; round++) {
      // Both orders, as each leaves something behind for the next.
      const order = round % 2 ? CONTENDERS.toReversed() : CONTENDERS;
      for (const { name, device } of order) {
        interrupt.signal.throwIfAborted();
        values.get(name)!.push(await measure(guest, device, one, seconds));
      }
    }
    const [own, ...others] = CONTENDERS.map(({ name }) => values.get(name)!);
    const against = others.map((theirs, i) => {
      const bar = one.bars[i];
      return `${ratio(own!, theirs).median.toFixed(2)} of ${
        CONTENDERS[i + 1]!.name
      }${bar === null || bar === undefined ? "" : ` (bar ${bar.toFixed(1)})`}`;
    });
    console.log(`${one.name} (/s)`);
    for (const [name, list] of values) {
      const { median, spread } = summarize(list);
      console.log(
        `  ${name.padEnd(22)} ${grouped(median).padStart(8)}  ±${
          Math.round(spread * 100)
        }%  ${list === own ? against.join(", ") : ""}`,
      );
    }
    results.push({ name: one.name, values: Object.fromEntries(values) });
  }
  if (options.json !== undefined) {
    await Deno.writeTextFile(
      options.json,
      JSON.stringify({ machine, results }, null, 2),
    );
  }
  await guest.stop();
  return 0;
}

if (import.meta.main) Deno.exit(await main());
