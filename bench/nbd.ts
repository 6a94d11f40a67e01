/**
 * NBD servers side by side: Platter, nbdkit's file plugin and qemu-nbd, on the
 * same image, with the same clients, in the same rounds.
 *
 * ```sh
 * deno run -A bench/nbd.ts --rounds 5 --seconds 2
 * ```
 *
 * Before each measurement the image leaves the page cache. What is written is
 * not the same thing for all of them: nbdkit's `cache=none` writes through the
 * page cache and drops the pages later, so that one write costs it no trip to
 * the disk; Platter and qemu-nbd write past the cache. "platter, page cache" is
 * Platter with `--direct never`, which does what nbdkit does; so of those that
 * write, it is compared with nbdkit, and Platter as such with qemu-nbd. Platter
 * is to reach at least as much as the better of those that it is compared with.
 *
 * @module
 */

import { parseArgs } from "@std/cli/parse-args";
import { join } from "node:path";
import { parseSize } from "../src/units.ts";
import { grouped } from "./format.ts";
import { describeMachine } from "./machine.ts";
import { Revision, RevisionError } from "./revision.ts";
import { Scratch } from "./scratch.ts";
import { describeRatio, ratio, summarize } from "./statistics.ts";
import { Unavailable } from "./work.ts";

const MIB = 1_048_576;

/** How long a server may take to listen, in ms. */
const START_MS = 10_000;

/** A server to compare. */
interface Contender {
  readonly name: string;
  /** Whether its writes are over when they are in the page cache. */
  readonly cached: boolean;
  /** The command line that serves an image on a socket. */
  command(image: string, socket: string): [string, ...string[]];
}

/** One comparison. */
interface Case {
  readonly name: string;
  readonly unit: string;
  /**
   * Whether it writes. Then Platter is compared with those that wait for the
   * disk as it does, or as little.
   */
  readonly writes: boolean;
  measure(uri: string, seconds: number): Promise<number>;
}

const HELP =
  `Measures Platter's NBD server beside nbdkit's file plugin and qemu-nbd.

Usage: deno task bench:nbd [options]

  --only NAMES      Cases, with commas
  --compare REV     This tree beside another revision of it, and nobody else
  --rounds N        Rounds of each case (default 5)
  --seconds S       Seconds of each measurement (default 2)
  --dir DIR         Where the image goes, on the disk to be measured (default:
                    tmp in the current directory); gone afterwards
  --size SIZE       Size of the image (default 1GiB)
  --json FILE       Writes everything as JSON
  --help            Shows this
`;

const HERE = new URL("..", import.meta.url).pathname;

/** Platter, of the tree in a directory. */
function platter(
  name: string,
  options: readonly string[] = [],
  tree = HERE,
): Contender {
  return {
    name,
    cached: options.includes("never"),
    command: (image, socket) => [
      Deno.execPath(),
      "run",
      "-A",
      "--no-check",
      "--quiet",
      ...["--config", join(tree, "deno.json")],
      join(tree, "src/cli/main.ts"),
      "serve",
      image,
      "--socket",
      socket,
      ...options,
    ],
  };
}

function qemu(aio: string): Contender {
  return {
    name: `qemu-nbd (${aio})`,
    cached: false,
    command: (image, socket) => [
      "qemu-nbd",
      "--socket",
      socket,
      "--format=raw",
      "--cache=none",
      `--aio=${aio}`,
      "--persistent",
      "--shared=16",
      image,
    ],
  };
}

const NBDKIT: Contender = {
  name: "nbdkit file (cache=none)",
  cached: true,
  command: (image, socket) => [
    "nbdkit",
    "--foreground",
    "--unix",
    socket,
    "file",
    image,
    "cache=none",
  ],
};

const CASES: readonly Case[] = [
  fioCase("random-read-1", "randread", 4096, 1),
  fioCase("random-read-32", "randread", 4096, 32),
  fioCase("random-write-1", "randwrite", 4096, 1),
  fioCase("random-write-32", "randwrite", 4096, 32),
  fioCase("sequential-read-8", "read", 262_144, 8),
  fioCase("sequential-write-8", "write", 262_144, 8),
  {
    name: "copy",
    unit: "MiB/s",
    writes: false,
    async measure(uri) {
      const { bytes } = await sizeOf(uri);
      const start = performance.now();
      await run("nbdcopy", ["--no-extents", uri, "null:"]);
      return bytes / MIB / ((performance.now() - start) / 1000);
    },
  },
];

function fioCase(
  name: string,
  operation: string,
  blockBytes: number,
  depth: number,
): Case {
  const small = blockBytes === 4096;
  return {
    name,
    unit: small ? "/s" : "MiB/s",
    writes: operation.endsWith("write"),
    async measure(uri, seconds) {
      const { bytes } = await sizeOf(uri);
      const output = await run("fio", [
        "--name=nbd",
        "--ioengine=nbd",
        `--uri=${uri}`,
        `--rw=${operation}`,
        `--bs=${blockBytes}`,
        `--iodepth=${depth}`,
        `--size=${bytes}`,
        "--norandommap",
        "--time_based",
        "--ramp_time=300ms",
        `--runtime=${Math.round(seconds * 1000)}ms`,
        "--output-format=json",
      ]);
      // The engine says hello in front of it.
      const { jobs: [job] } = JSON.parse(output.slice(output.indexOf("{")));
      const { iops } = operation.endsWith("read") ? job.read : job.write;
      return small ? iops : iops * blockBytes / MIB;
    },
  };
}

async function sizeOf(uri: string): Promise<{ bytes: number }> {
  return { bytes: Number(await run("nbdinfo", ["--size", uri])) };
}

async function run(command: string, args: string[]): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(command, {
    args,
    stdin: "null",
  }).output();
  const decoder = new TextDecoder();
  if (!success) throw new Error(`${command}: ${decoder.decode(stderr).trim()}`);
  return decoder.decode(stdout);
}

/** Serves an image for as long as something is done with it. */
async function withServer<T>(
  contender: Contender,
  image: string,
  socket: string,
  use: (uri: string) => Promise<T>,
): Promise<T> {
  const [command, ...args] = contender.command(image, socket);
  let child: Deno.ChildProcess;
  try {
    child = new Deno.Command(command, {
      args,
      stdin: "null",
      stdout: "null",
      stderr: "null",
    }).spawn();
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    throw new Unavailable(`${command} is not installed`);
  }
  let ended = false;
  const status = child.status.finally(() => ended = true);
  try {
    for (const start = performance.now();;) {
      try {
        await Deno.lstat(socket);
        break;
      } catch {
        if (ended || performance.now() - start > START_MS) {
          throw new Unavailable(`${contender.name} does not start`);
        }
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
    }
    return await use(`nbd+unix:///?socket=${socket}`);
  } finally {
    if (!ended) child.kill("SIGTERM");
    await status;
    await Deno.remove(socket).catch(() => {});
  }
}

/** Makes the image leave the page cache. */
async function evict(image: string): Promise<void> {
  await run("dd", [
    `of=${image}`,
    "oflag=nocache",
    "conv=notrunc,fdatasync",
    "count=0",
    "status=none",
  ]);
}

/** The fastest way that this qemu-nbd has. */
async function bestQemu(image: string, socket: string): Promise<Contender> {
  for (const aio of ["io_uring", "native"]) {
    try {
      await withServer(qemu(aio), image, socket, sizeOf);
      return qemu(aio);
    } catch {
      // Not built in, or not permitted.
    }
  }
  return qemu("threads");
}

async function main(): Promise<number> {
  const unknown: string[] = [];
  const options = parseArgs(Deno.args, {
    string: ["rounds", "seconds", "only", "dir", "size", "json", "compare"],
    boolean: ["help"],
    default: { rounds: "5", seconds: "2", size: "1GiB" },
    unknown: (name) => {
      unknown.push(name);
      return false;
    },
  });
  if (options.help) {
    console.log(HELP);
    return 0;
  }
  const rounds = Number(options.rounds);
  const seconds = Number(options.seconds);
  const only = options.only?.split(",");
  const missing = only?.find((name) => CASES.every((one) => one.name !== name));
  const wrong = unknown.length > 0
    ? `There is no option ${unknown[0]}`
    : missing !== undefined
    ? `There is no case "${missing}": take some of ${
      CASES.map(({ name }) => name).join(", ")
    }`
    : !Number.isSafeInteger(rounds) || rounds < 1
    ? "--rounds must be an integer from 1"
    : !(seconds > 0)
    ? "--seconds must be above 0"
    : null;
  if (wrong !== null) {
    console.error(`${wrong}\n\n${HELP}`);
    return 2;
  }
  const interrupt = new AbortController();
  Deno.addSignalListener("SIGINT", () => interrupt.abort());
  await using old = options.compare === undefined
    ? null
    : await Revision.unpack(options.compare);
  await using scratch = await Scratch.make({
    bytes: parseSize(options.size),
    signal: interrupt.signal,
    ...(options.dir === undefined ? {} : { parent: options.dir }),
  });
  const { path: image } = await scratch.place("image");
  const socket = join(scratch.directory, "nbd.sock");
  const machine = await describeMachine(scratch.directory);
  const both = (name: string, tree?: string) => [
    platter(name, [], tree),
    platter(`${name}, page cache`, ["--direct", "never"], tree),
  ];
  const ours = both("platter");
  const peers = old === null
    ? [NBDKIT, await bestQemu(image, socket)]
    : both(`platter at ${old.name}`, old.directory);
  const contenders = [...ours, ...peers];
  const cases = CASES.filter(({ name }) => only?.includes(name) ?? true);
  console.log(
    `${machine.cpu}, ${machine.cores} cores, ${machine.system}, ${machine.fileSystem} on ${machine.device}; ${rounds} rounds of ${seconds} s\n`,
  );
  const results = [];
  for (const one of cases) {
    const values = new Map<string, number[]>(
      contenders.map(({ name }) => [name, []]),
    );
    for (let round = 0; round < rounds; round++) {
      // Both orders, as each leaves something behind for the next.
      for (
        const contender of round % 2 ? contenders.toReversed() : contenders
      ) {
        interrupt.signal.throwIfAborted();
        await evict(image);
        const value = await withServer(
          contender,
          image,
          socket,
          (uri) => one.measure(uri, seconds),
        );
        values.get(contender.name)!.push(value);
      }
    }
    console.log(`${one.name} (${one.unit})`);
    for (const contender of contenders) {
      const list = values.get(contender.name)!;
      const { median, spread } = summarize(list);
      const rivals = peers.includes(contender)
        ? []
        : peers.filter(({ cached }) =>
          cached === contender.cached || old === null && !one.writes
        );
      const against = rivals.map(({ name }) =>
        [name, values.get(name)!] as const
      );
      if (rivals.length > 1) {
        // The better one of each round.
        const best = list.map((_, i) =>
          Math.max(...against.map(([, theirs]) => theirs[i]!))
        );
        against.unshift(["the better peer", best]);
      }
      console.log(
        `  ${contender.name.padEnd(26)} ${grouped(median).padStart(9)}  ±${
          Math.round(spread * 100)
        }%  ${
          against.map(([name, theirs]) =>
            `${describeRatio(ratio(list, theirs))} of ${name}`
          ).join(", ")
        }`,
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
  return 0;
}

if (import.meta.main) {
  try {
    Deno.exit(await main());
  } catch (error) {
    if (!(error instanceof RevisionError)) throw error;
    console.error(`Cannot compare: ${error.message}`);
    Deno.exit(2);
  }
}
