/**
 * What it costs to record: Platter's NBD server over a disk in memory, and over
 * recorders, with fio's NBD client writing 4 KiB at random, 32 in flight.
 *
 * ```sh
 * deno task bench:recording [--rounds 5] [--seconds 2] [--read 0]
 * ```
 *
 * All contents are new, which is the dearest case: each of them is written to a
 * file. The processor's time for a request is that of the server's process; on a busy
 * machine it says more than the rate. What is to be reached is a rate of 85 % of
 * that in memory.
 *
 * ```sh
 * deno task bench:recording --memory 4096
 * ```
 *
 * What memory it takes to record 1 GiB of new contents in 87,382 writes of
 * 12 KiB over a disk of 64 MiB, in blocks of so many bytes, with a flush after
 * each 100.
 *
 * @module
 */

import { parseArgs } from "@std/cli/parse-args";
import process from "node:process";
import { type Backend, MemoryBackend, VirtualDisk } from "@platter/disk";
import { NbdServer } from "@platter/disk/nbd";
import { CrashRecorder } from "@platter/disk/testing";
import { grouped, MIB } from "./format.ts";
import { median } from "./statistics.ts";

const BYTES = 64 << 20;
const SECTORS = BYTES / 512;

/**
 * Bytes that are written before anything is measured, in some 30,000 requests:
 * until then much of the time goes into compiling what was just loaded.
 */
const WARM_BYTES = 128 << 20;

/** What is served. */
interface Contender {
  readonly name: string;
  open(path: string): Promise<Backend & { recorder?: CrashRecorder }>;
}

function recorder(name: string, blockSize: number, file: boolean): Contender {
  return {
    name,
    async open(path) {
      const recorder = await CrashRecorder.create({
        device: { sectors: SECTORS, blockSize },
        ...(file ? { path } : {}),
      });
      return Object.assign(recorder.open(), { recorder });
    },
  };
}

const CONTENDERS: readonly Contender[] = [
  {
    name: "memory",
    open: () => Promise.resolve(new MemoryBackend({ sectors: SECTORS })),
  },
  recorder("recorder, blocks of 4096", 4096, false),
  recorder("recorder, blocks of 4096, into a file", 4096, true),
  recorder("recorder, blocks of 512", 512, false),
  recorder("recorder, blocks of 512, into a file", 512, true),
];

/** What was measured. */
interface Figures {
  readonly rate: number;
  readonly cpuMicroseconds: number;
}

/** Has fio write until it has enough, and says what it did. */
async function drive(
  path: string,
  enough: readonly string[],
  readPercent: number,
): Promise<{ rate: number; requests: number }> {
  const output = await new Deno.Command("fio", {
    args: [
      "--name=recording",
      "--ioengine=nbd",
      `--uri=nbd+unix:///?socket=${path}`,
      "--rw=randrw",
      `--rwmixread=${readPercent}`,
      "--bs=4096",
      "--iodepth=32",
      `--size=${BYTES}`,
      "--norandommap",
      // Contents that are all new, also to the run before.
      "--refill_buffers",
      "--randrepeat=0",
      ...enough,
      "--output-format=json",
    ],
    stdin: "null",
  }).output();
  const text = new TextDecoder().decode(output.stdout);
  if (!output.success) {
    throw new Error(new TextDecoder().decode(output.stderr) + text);
  }
  const { jobs: [job] } = JSON.parse(text.slice(text.indexOf("{")));
  return {
    rate: job.read.iops + job.write.iops,
    requests: job.read.total_ios + job.write.total_ios,
  };
}

async function measure(
  contender: Contender,
  seconds: number,
  readPercent: number,
): Promise<Figures> {
  const dir = await Deno.makeTempDir();
  const backend = await contender.open(`${dir}/recording`);
  const disk = VirtualDisk.over(backend);
  const path = `${dir}/socket`;
  const server = NbdServer.listen({ path, exports: [{ disk }] });
  try {
    await drive(path, [`--io_size=${WARM_BYTES}`], readPercent);
    const before = process.cpuUsage();
    const { rate, requests } = await drive(
      path,
      ["--time_based", `--runtime=${Math.round(seconds * 1000)}ms`],
      readPercent,
    );
    const { user, system } = process.cpuUsage(before);
    return { rate, cpuMicroseconds: (user + system) / requests };
  } finally {
    await server.close();
    await disk.close();
    await backend.recorder?.[Symbol.asyncDispose]();
    await Deno.remove(dir, { recursive: true });
  }
}

/** Records 1 GiB, and says how much larger the process has become. */
async function measureMemory(blockSize: number): Promise<string> {
  const megabytes = () => {
    (globalThis as { gc?: () => void }).gc?.();
    return Deno.memoryUsage().rss / MIB;
  };
  const start = megabytes();
  await using recorder = await CrashRecorder.create({
    device: { sectors: SECTORS, blockSize },
  });
  const data = new Uint8Array(12 * 1024);
  const words = new Uint32Array(data.buffer);
  const places = Math.floor(BYTES / data.length);
  let most = start;
  {
    await using disk = VirtualDisk.over(recorder.open());
    for (let i = 0; i * data.length < 2 ** 30; i++) {
      for (let k = 0; k < words.length; k++) words[k] = i ^ Math.imul(k, i);
      await disk.write(i % places * data.length / 512, data);
      if (i % 100 === 99) await disk.flush();
      if (i % 10_000 === 0) most = Math.max(most, megabytes());
    }
  }
  await using recording = await recorder.end();
  recording.fingerprint();
  const end = megabytes();
  return `blocks of ${blockSize}: ${
    grouped(Math.max(most, end) - start)
  } MiB at most, ${
    grouped(end - start)
  } MiB in the end, for ${recording.requests.length} requests`;
}

if (import.meta.main) {
  const args = parseArgs(Deno.args, {
    string: ["rounds", "seconds", "read", "memory"],
    default: { rounds: "5", seconds: "2", read: "0" },
  });
  if (args.memory !== undefined) {
    console.log(await measureMemory(Number(args.memory)));
    Deno.exit();
  }
  const [rounds, seconds, read] = [args.rounds, args.seconds, args.read].map(
    Number,
  ) as [number, number, number];
  const figures = CONTENDERS.map((): Figures[] => []);
  for (let round = 0; round < rounds; round++) {
    for (const [i, contender] of CONTENDERS.entries()) {
      figures[i]!.push(await measure(contender, seconds, read));
    }
  }
  const medians = figures.map((all) => ({
    rate: median(all.map(({ rate }) => rate)),
    // Each beside the first one of its own round: the machine is not always the
    // same.
    ratio: median(all.map(({ rate }, i) => rate / figures[0]![i]!.rate)),
    cpu: median(all.map(({ cpuMicroseconds }) => cpuMicroseconds)),
  }));
  for (const [i, { rate, ratio, cpu }] of medians.entries()) {
    console.log(
      `${CONTENDERS[i]!.name.padEnd(38)} ${grouped(rate).padStart(8)}/s, ${
        Math.round(ratio * 100)
      } %, ${cpu.toFixed(1)} µs of processor a request`,
    );
  }
}
