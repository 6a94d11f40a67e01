/**
 * An image of a real Ceph cluster, a one-node one on loopback, read and written by
 * `rbd:POOL/IMAGE` beside fio's `rbd` engine, which uses the same librbd, and
 * beside the way through `qemu-nbd`; in the same rounds, in both orders.
 *
 * ```sh
 * deno task bench:ceph --rounds 5 --seconds 2
 * ```
 *
 * As root, with Debian's ceph-mon, ceph-osd, ceph-common, librbd1, fio and
 * qemu-block-extra.
 *
 * @module
 */

import { parseArgs } from "@std/cli/parse-args";
import { VirtualDisk } from "../src/disk/disk.ts";
import { readRequest, Status, writeRequest } from "../src/request.ts";
import { CephCluster } from "../tests/backends/rbd/cluster.ts";
import { grouped, MIB } from "./format.ts";
import { describeRatio, median, ratio } from "./statistics.ts";

/** The image, in MiB. */
const SIZE_MIB = 256;

/** How long qemu-nbd may take to listen, in ms. */
const START_MS = 10_000;

/** One comparison. */
interface Case {
  readonly name: string;
  readonly operation: "randread" | "randwrite" | "read" | "write";
  readonly bytes: number;
  readonly depth: number;
  /** What the backend must reach of fio, and of the way through NBD. */
  readonly bar: number;
  readonly nbdBar?: number;
}

const CASES: readonly Case[] = [
  {
    name: "random-read-1",
    operation: "randread",
    bytes: 4096,
    depth: 1,
    bar: 0.9,
  },
  {
    name: "random-read-32",
    operation: "randread",
    bytes: 4096,
    depth: 32,
    bar: 0.9,
    nbdBar: 3,
  },
  {
    name: "random-write-1",
    operation: "randwrite",
    bytes: 4096,
    depth: 1,
    bar: 0.9,
  },
  {
    name: "random-write-32",
    operation: "randwrite",
    bytes: 4096,
    depth: 32,
    bar: 0.9,
  },
  {
    name: "sequential-read",
    operation: "read",
    bytes: MIB,
    depth: 4,
    bar: 0.9,
  },
  {
    name: "sequential-write",
    operation: "write",
    bytes: MIB,
    depth: 4,
    bar: 0.9,
  },
];

/** Requests a second by this library. */
async function byPlatter(
  uri: string,
  { operation, bytes, depth }: Case,
  seconds: number,
): Promise<number> {
  const reads = operation.endsWith("read");
  await using disk = await VirtualDisk.open(uri, {
    readOnly: reads,
    queueSize: 128,
  });
  const places = disk.sectors * 512 / bytes;
  const sectors = bytes / 512;
  let next = 0;
  let count = 0;
  const lane = async (end: number) => {
    const memory = disk.allocate(sectors).fill(count);
    while (performance.now() < end) {
      const at = operation.startsWith("rand")
        ? Math.floor(Math.random() * places)
        : next++ % places;
      const request = reads
        ? readRequest(at * sectors, memory)
        : writeRequest(at * sectors, memory);
      if (await disk.submit(request) !== Status.Ok) throw request.error;
      count++;
    }
  };
  const run = async (ms: number) => {
    count = 0;
    const start = performance.now();
    await Promise.all(Array.from({ length: depth }, () => lane(start + ms)));
    return count / ((performance.now() - start) / 1000);
  };
  await run(300);
  return await run(seconds * 1000);
}

/** Requests a second by fio's engine. */
async function byFio(
  conf: string,
  image: string,
  { operation, bytes, depth }: Case,
  seconds: number,
): Promise<number> {
  const { success, stdout, stderr } = await new Deno.Command("fio", {
    args: [
      "--name=rbd",
      "--ioengine=rbd",
      "--clientname=admin",
      "--pool=rbd",
      `--rbdname=${image}`,
      `--rw=${operation}`,
      `--bs=${bytes}`,
      `--iodepth=${depth}`,
      `--size=${SIZE_MIB}M`,
      "--norandommap",
      "--time_based",
      "--ramp_time=300ms",
      `--runtime=${Math.round(seconds * 1000)}ms`,
      "--output-format=json",
    ],
    env: { CEPH_CONF: conf },
    stdin: "null",
  }).output();
  const text = new TextDecoder().decode(stdout);
  if (!success) {
    throw new Error(`fio: ${new TextDecoder().decode(stderr).trim()}`);
  }
  const { jobs: [job] } = JSON.parse(text.slice(text.indexOf("{\n")));
  return operation.endsWith("read") ? job.read.iops : job.write.iops;
}

/** Does something with a qemu-nbd over the image. */
async function withNbd<T>(
  cluster: CephCluster,
  image: string,
  use: (uri: string) => Promise<T>,
): Promise<T> {
  const socket = cluster.join("nbd.sock");
  const child = new Deno.Command("qemu-nbd", {
    args: [
      `--socket=${socket}`,
      "--format=raw",
      "--persistent",
      `rbd:rbd/${image}:conf=${cluster.conf}`,
    ],
    stdin: "null",
    stdout: "null",
    stderr: "null",
  }).spawn();
  try {
    for (const start = performance.now();;) {
      try {
        await Deno.lstat(socket);
        break;
      } catch {
        if (performance.now() - start > START_MS) {
          throw new Error("qemu-nbd does not start");
        }
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
    }
    return await use(`nbd+unix:///?socket=${socket}`);
  } finally {
    child.kill("SIGTERM");
    await child.status;
    await Deno.remove(socket).catch(() => {});
  }
}

const options = parseArgs(Deno.args, {
  string: ["rounds", "seconds", "only"],
  default: { rounds: "5", seconds: "2" },
});
const rounds = Number(options.rounds);
const seconds = Number(options.seconds);
const only = options.only?.split(",");
const cases = CASES.filter(({ name }) => only?.includes(name) ?? true);
if (!(rounds >= 1 && seconds > 0) || cases.length === 0) {
  console.error(
    `Usage: deno task bench:ceph [--rounds N] [--seconds S] [--only ${
      CASES.map(({ name }) => name).join(",")
    }]`,
  );
  Deno.exit(2);
}
await using cluster = await CephCluster.start();
const image = "bench";
await cluster.rbd("create", "--size", String(SIZE_MIB), image);
// librbd's cache waits for a first flush before it takes a write. fio's engine
// makes one by itself, at its start.
await cluster.rbd(
  "config",
  "image",
  "set",
  image,
  "rbd_cache_writethrough_until_flush",
  "false",
);
{
  // What was never written is answered without looking.
  await using disk = await VirtualDisk.open(cluster.uri(image));
  const content = crypto.getRandomValues(new Uint8Array(65_536));
  const memory = disk.allocate(2048);
  for (let at = 0; at < memory.length; at += content.length) {
    memory.set(content, at);
  }
  for (let at = 0; at < disk.sectors; at += 2048) await disk.write(at, memory);
  await disk.flush();
}
console.log(`Medians of ${rounds} rounds of ${seconds} s, per second\n`);
for (const one of cases) {
  const ways: [name: string, run: () => Promise<number>][] = [
    ["platter", () => byPlatter(cluster.uri(image), one, seconds)],
    ["fio rbd", () => byFio(cluster.conf, image, one, seconds)],
  ];
  if (one.nbdBar !== undefined) {
    ways.push([
      "by qemu-nbd",
      () => withNbd(cluster, image, (uri) => byPlatter(uri, one, seconds)),
    ]);
  }
  const values = new Map(ways.map(([name]) => [name, [] as number[]]));
  for (let round = 0; round < rounds; round++) {
    for (const [name, run] of round % 2 === 0 ? ways : ways.toReversed()) {
      values.get(name)!.push(await run());
    }
  }
  console.log(one.name);
  const ours = values.get("platter")!;
  for (const [name, numbers] of values) {
    const bar = name === "fio rbd" ? one.bar : one.nbdBar;
    const related = name === "platter"
      ? ""
      : `  platter reaches ${
        describeRatio(ratio(ours, numbers))
      } of it (bar ${bar})`;
    console.log(
      `  ${name.padEnd(12)} ${
        grouped(Math.round(median(numbers))).padStart(8)
      }${related}`,
    );
  }
}
