/**
 * What is compared, and what it must reach.
 *
 * @module
 */

import type { EngineName } from "../mod.ts";
import {
  barePromise,
  type Contender,
  denoFile,
  fio,
  nodeFs,
  platter,
} from "./contenders.ts";
import type { Case, Metric } from "./harness.ts";
import { duration, grouped, MIB } from "./format.ts";
import { median } from "./statistics.ts";
import type { Measurement } from "./work.ts";

const KIB = 1024;

const IOPS: Metric = {
  name: "IOPS",
  better: "more",
  of: ({ operations, seconds }) => operations / seconds,
  format: (value) => `${grouped(value)} IOPS`,
};

const BANDWIDTH: Metric = {
  name: "MiB/s",
  better: "more",
  of: ({ bytes, seconds }) => bytes / seconds / MIB,
  format: (value) => `${grouped(value)} MiB/s`,
};

const CPU: Metric = {
  name: "CPU µs per request",
  better: "less",
  of: ({ cpuSeconds, operations }) => cpuSeconds / operations * 1e6,
  format: (value) => `${duration(value)} CPU`,
};

const COST: Metric = {
  name: "µs per turn",
  better: "less",
  of: ({ seconds, operations }) => seconds / operations * 1e6,
  format: (value) => duration(value),
};

const NANOSECONDS: Metric = {
  name: "ns per request",
  better: "less",
  of: ({ seconds, operations }) => seconds / operations * 1e9,
  format: (value) => `${grouped(value)} ns`,
};

const PEAK_MEMORY: Metric = {
  name: "MiB resident at most",
  better: "less",
  of: ({ memory }) => memory!.peak / MIB,
  format: (value) => `${grouped(value)} MiB`,
};

/** What the cases depend on. */
export interface CaseOptions {
  /**
   * Engines to measure; the first one is compared to the peers, the others to
   * it. None: the one that Platter takes by itself.
   */
  readonly engines: readonly EngineName[];
  /** Whether to take the time that the long cases deserve. */
  readonly full: boolean;
}

/**
 * The same cases with another tree of Platter as the only peer.
 *
 * @param cases The cases.
 * @param name What the other tree is called.
 * @param root Where it is, as a URL that ends with a slash.
 * @returns The cases, without bars.
 */
export function against(
  cases: readonly Case[],
  name: string,
  root: string,
): Case[] {
  return cases.map(({ bar: _bar, notes: _notes, ...one }) => ({
    ...one,
    peers: [one.ours.inTree!(root, name)],
  }));
}

/**
 * All cases.
 *
 * @param options What they depend on.
 * @returns The cases, in the order in which they run.
 */
export function casesOf({ engines, full }: CaseOptions): Case[] {
  const [first, ...rest] = engines;
  const engine = first === undefined ? {} : { engine: first };
  const ours = platter(engine);
  const others = rest.map((engine) => platter({ engine }));
  const uring = fio("io_uring");
  const libaio = fio("libaio");
  const psync = fio("psync");

  const howMany = (depth: number) =>
    depth === 1 ? "awaited one by one" : `${depth} in flight`;
  const smallReads = (depth: number): Case["work"] => ({
    operation: "read",
    order: "random",
    blockBytes: 4 * KIB,
    depth,
  });

  const randomRead = (
    depth: number,
    bar: Case["bar"],
    more: readonly Contender[],
    chartOnly = false,
  ): Case => ({
    name: `random-read-${depth}`,
    title: `4 KiB random reads, ${howMany(depth)}`,
    target: "image",
    work: smallReads(depth),
    metric: IOPS,
    ours,
    peers: [...others, uring, libaio, nodeFs("Deno"), nodeFs("Node"), ...more],
    ...(bar === undefined ? {} : { bar }),
    chartOnly,
  });

  const ramDisk = (depth: number, peer: Contender, value: number): Case => ({
    name: `ram-disk-read-${depth}`,
    title: `4 KiB random reads of a 4Kn disk in RAM, ${howMany(depth)}`,
    target: "ram disk",
    work: smallReads(depth),
    metric: IOPS,
    ours,
    peers: [...others, peer, nodeFs("Deno"), nodeFs("Node")],
    bar: { peer: peer.name, value },
  });

  const sequential = (operation: "read" | "write"): Case => ({
    name: `sequential-${operation}`,
    title: `1 MiB sequential ${operation}s, 4 in flight`,
    target: "image",
    work: { operation, order: "sequential", blockBytes: MIB, depth: 4 },
    metric: BANDWIDTH,
    ours,
    peers: [...others, uring, libaio],
    bar: { peer: uring.name, value: 0.98 },
  });

  const turn = (name: string, title: string, adjacentMemory: boolean): Case => {
    const one = platter(
      { ...engine, face: "turns", turn: 1 },
      "one 64-sector write",
    );
    return {
      name,
      title,
      target: "image",
      work: {
        operation: "write",
        order: "random",
        blockBytes: 32 * KIB,
        depth: 1,
      },
      metric: COST,
      ours: platter(
        { ...engine, face: "turns", turn: 64, adjacentMemory },
        "64 one-sector writes",
      ),
      peers: [one],
      bar: { peer: one.name, value: 1.5 },
    };
  };

  const memory = (depth: number): Case => ({
    name: `queue-${depth}`,
    title: depth === 1
      ? "Cost of the queue: 4 KiB reads of a memory disk, one by one"
      : `Cost of the queue: 4 KiB reads of a memory disk, ${depth} in flight`,
    target: "memory",
    work: {
      ...smallReads(depth),
      direct: false,
    },
    metric: NANOSECONDS,
    ours: platter({ backend: "memory" }, "memory disk"),
    peers: [barePromise()],
    bar: { value: 1_000 },
    notes: (ours) => {
      const bytes = median(ours.map(({ heapBytes }) => heapBytes!));
      const rate = 1e9 / median(ours.map(NANOSECONDS.of));
      return [
        `${grouped(rate)} requests/s; ${
          grouped(bytes)
        } bytes of heap per request`,
      ];
    },
  });

  const onSmallImage = platter(
    { ...engine, watchMemory: true },
    "small image",
    "image",
  );

  return [
    randomRead(1, { peer: psync.name, value: 1.2 }, [psync, denoFile()]),
    randomRead(4, undefined, [], true),
    randomRead(16, undefined, [], true),
    randomRead(32, { peer: uring.name, value: 0.98 }, [
      nodeFs("Deno", 32),
      denoFile(),
    ]),
    randomRead(128, { peer: uring.name, value: 0.98 }, []),
    {
      ...randomRead(32, { peer: uring.name, value: 1.2 }, [nodeFs("Deno", 32)]),
      name: "cpu-32",
      title: "Processor time of a 4 KiB random read, 32 in flight",
      metric: CPU,
    },
    ramDisk(1, psync, 0.85),
    ramDisk(32, uring, 0.95),
    {
      ...randomRead(32, { peer: nodeFs("Deno").name, value: 6 }, []),
      name: "node-fs-deno-32",
      title: "4 KiB random reads beside one descriptor of node:fs in Deno",
      peers: [nodeFs("Deno")],
    },
    {
      ...randomRead(32, { peer: nodeFs("Node").name, value: 1.5 }, []),
      name: "node-fs-node-32",
      title: "4 KiB random reads beside one descriptor of node:fs in Node",
      peers: [nodeFs("Node")],
    },
    {
      name: "random-write-32",
      title: "4 KiB random writes, 32 in flight",
      target: "image",
      work: {
        operation: "write",
        order: "random",
        blockBytes: 4 * KIB,
        depth: 32,
      },
      metric: IOPS,
      ours,
      peers: [...others, uring, libaio, nodeFs("Deno"), nodeFs("Node")],
      bar: { peer: uring.name, value: 0.98 },
    },
    {
      name: "write-flush-1",
      title: "4 KiB random writes, each flushed, one by one",
      target: "image",
      work: {
        operation: "write + flush",
        order: "random",
        blockBytes: 4 * KIB,
        depth: 1,
      },
      metric: IOPS,
      ours,
      peers: [...others, psync],
      bar: { peer: psync.name, value: 0.95 },
    },
    sequential("read"),
    sequential("write"),
    {
      ...sequential("read"),
      name: "stream-read",
      title: "disk.readable(), chunks of 1 MiB, 4 ahead",
      ours: platter({ ...engine, face: "stream" }, "stream"),
      peers: [uring],
      bar: { peer: uring.name, value: 0.9 },
    },
    turn(
      "merge-vector",
      "64 adjacent one-sector writes in one turn, from 64 buffers",
      false,
    ),
    turn(
      "merge-buffer",
      "64 adjacent one-sector writes in one turn, from one buffer",
      true,
    ),
    {
      ...randomRead(32, { peer: nodeFs("Deno").name, value: 5 }, []),
      name: "portable-32",
      title: "4 KiB random reads without FFI, 32 in flight",
      ours: platter({ backend: "portable" }, "portable"),
      peers: [nodeFs("Deno")],
    },
    {
      name: "large-image",
      title: "1 TiB sparse image, 4 KiB random reads and writes, 32 in flight",
      target: "large image",
      work: {
        operation: "mixed",
        order: "random",
        blockBytes: 4 * KIB,
        depth: 32,
        seconds: full ? 60 : 3,
      },
      metric: PEAK_MEMORY,
      ours: platter({ ...engine, watchMemory: true }, "1 TiB image"),
      peers: [onSmallImage],
      bar: { peer: onSmallImage.name, value: 1.1 },
      ...(full ? { rounds: 1 } : {}),
      notes: memoryNotes,
    },
    memory(1),
    memory(32),
  ];
}

function memoryNotes(
  ours: readonly Measurement[],
  peers: ReadonlyMap<string, readonly Measurement[]>,
): string[] {
  const line = (name: string, measured: readonly Measurement[]) => {
    const of = (pick: (memory: Measurement["memory"] & object) => number) =>
      median(measured.map(({ memory }) => pick(memory!)));
    const mib = (pick: (memory: Measurement["memory"] & object) => number) =>
      grouped(of(pick) / MIB);
    return `${name}: opens in ${
      duration(of(({ openMs }) => openMs) * 1000)
    }; ` +
      `resident MiB at start ${mib(({ start }) => start)}, ` +
      `open ${mib(({ open }) => open)}, ` +
      `¼ of the run ${mib(({ early }) => early)}, ` +
      `most ${mib(({ peak }) => peak)}, ` +
      `closed ${mib(({ end }) => end)}`;
  };
  return [
    line("1 TiB", ours),
    ...[...peers].filter(([name]) => name.endsWith("small image"))
      .map(([, measured]) => line("small", measured)),
  ];
}
