/**
 * The benchmarks' own logic, without a clock: medians, ratios, rounds, verdicts,
 * what fio says, and the chart.
 *
 * @module
 */

import { assert, assertEquals, assertRejects } from "@std/assert";
import { against, casesOf } from "../bench/cases.ts";
import { chart, seriesOf, spread, ticks } from "../bench/chart.ts";
import type { Contender } from "../bench/contenders.ts";
import { duration, grouped } from "../bench/format.ts";
import { type Case, runCase } from "../bench/harness.ts";
import { Histogram, placesOf } from "../bench/loop.mjs";
import { fioArguments, parseFio } from "../bench/peers/fio.ts";
import { asData, caseTable, summary } from "../bench/report.ts";
import { mayBeNoise, median, ratio, summarize } from "../bench/statistics.ts";
import { type Measurement, Unavailable, type Work } from "../bench/work.ts";
import { Random } from "../src/random.ts";

const WORK: Work = {
  path: "/images/a:b.img",
  bytes: 1_048_576,
  direct: true,
  operation: "read",
  order: "random",
  blockBytes: 4096,
  depth: 32,
  seconds: 1.5,
  warmUpSeconds: 0.3,
  seed: 1,
};

/** A contender that reaches the given numbers, one in each round. */
function fake(
  name: string,
  rates: (number | Error)[],
  log: string[] = [],
): Contender {
  let round = 0;
  return {
    name,
    measure() {
      log.push(name);
      const rate = rates[round++]!;
      if (rate instanceof Error) return Promise.reject(rate);
      return Promise.resolve({
        operations: rate,
        bytes: rate * 4096,
        seconds: 1,
        cpuSeconds: 0.5,
        latency: { p50: 100, p99: 1000, p999: 10_000 },
      });
    },
  };
}

function caseOf(
  ours: Contender,
  peers: Contender[],
  changes: Partial<Case> = {},
): Case {
  return {
    name: "random-read-32",
    title: "Reads",
    target: "memory",
    work: WORK,
    metric: {
      name: "IOPS",
      better: "more",
      of: (measured: Measurement) => measured.operations,
      format: (value) => `${grouped(value)} IOPS`,
    },
    ours,
    peers,
    bar: { peer: "fio", value: 0.9 },
    ...changes,
  };
}

function options(rounds: number) {
  return {
    rounds,
    seconds: 1,
    signal: new AbortController().signal,
    place: () => Promise.resolve({ path: "", bytes: 4096 }),
  };
}

Deno.test("median() takes the middle, or the mean of both middles", () => {
  assertEquals(median([3, 1, 2]), 2);
  assertEquals(median([4, 1, 3, 2]), 2.5);
  assert(Number.isNaN(median([])));
});

Deno.test("summarize() says how far the farthest is from the middle", () => {
  assertEquals(summarize([90, 100, 150]), {
    median: 100,
    min: 90,
    max: 150,
    spread: 0.5,
  });
});

Deno.test("ratio() compares round by round", () => {
  // Both are slow in the second round; the ratio does not see it.
  assertEquals(ratio([100, 10, 100], [50, 5, 50]).spread, 0);
  assertEquals(ratio([100, 10, 100], [50, 5, 50]).median, 2);
});

Deno.test("ratio() tells no interval of fewer than five rounds", () => {
  assertEquals(ratio([1, 2, 3, 4], [1, 1, 1, 1]).interval, null);
  assert(mayBeNoise(ratio([2, 2, 2, 2], [1, 1, 1, 1])));
});

Deno.test("ratio() has its interval around the median, the same each time", () => {
  const random = new Random(1);
  const ones = new Array<number>(40).fill(1);
  const noise = ones.map(() => 0.9 + random.below(200) / 1000);
  const { median, interval } = ratio(noise, ones);
  assert(interval![0] < median && median < interval![1]);
  assert(interval![0] > 0.93 && interval![1] < 1.07, `${interval}`);
  assertEquals(ratio(noise, ones).interval, interval);
});

Deno.test("ratio() covers the true median in about 95 of 100 samples", () => {
  const random = new Random(2);
  const ones = new Array<number>(15).fill(1);
  let covered = 0;
  for (let i = 0; i < 60; i++) {
    // Three dice: their median is 1 after scaling.
    const sample = ones.map(() =>
      [0, 0, 0].reduce((sum) => sum + random.below(1001), 0) / 1500
    );
    const [low, high] = ratio(sample, ones).interval!;
    if (low <= 1 && high >= 1) covered++;
  }
  assert(covered >= 53, `${covered}`);
});

Deno.test("mayBeNoise() holds where 1 lies in the interval", () => {
  const of = (...values: number[]) => ratio(values, values.map(() => 1));
  assert(mayBeNoise(of(0.9, 1.1, 0.95, 1.05, 1.02, 0.97)));
  assert(!mayBeNoise(of(0.9, 0.91, 0.92, 0.9, 0.93, 0.91)));
});

Deno.test("against() has the other tree as the only peer, and no bars", () => {
  const cases = casesOf({ engines: ["io_uring", "sync"], full: false });
  for (const one of against(cases, "at abc", "file:///old/")) {
    assertEquals(one.peers.map(({ name }) => name), ["Platter, at abc"]);
    assertEquals(one.bar, undefined);
  }
});

Deno.test("Histogram.percentile() is right to 2%", () => {
  const histogram = new Histogram();
  for (let i = 1; i <= 100_000; i++) histogram.record(i * 37);
  for (const percent of [1, 50, 99, 99.9]) {
    const exact = percent * 1000 * 37;
    assert(Math.abs(histogram.percentile(percent) / exact - 1) < 0.02);
  }
  histogram.record(1e12);
  assert(histogram.percentile(100) > 1e9);
});

Deno.test("placesOf() stays on the image, and comes back to its start", () => {
  const random = placesOf({ ...WORK, bytes: 4096 * 7 + 1 });
  const seen = new Set(Array.from({ length: 500 }, random));
  assertEquals([...seen].sort(), [0, 1, 2, 3, 4, 5, 6]);
  const next = placesOf({ ...WORK, order: "sequential", bytes: 4096 * 2 });
  assertEquals([next(), next(), next()], [0, 1, 0]);
});

Deno.test("runCase() takes turns in both orders, and judges the bar", async () => {
  const log: string[] = [];
  const result = await runCase(
    caseOf(fake("Platter", [90, 95, 80], log), [
      fake("fio", [100, 100, 100], log),
      fake("node", [10, 10, 10], log),
    ]),
    options(3),
  );
  assertEquals(
    log,
    ["Platter", "fio", "node", "node", "fio", "Platter"]
      .concat("Platter", "fio", "node"),
  );
  assertEquals(result.verdict, "pass");
  assertEquals(result.peers.map(({ ratio }) => ratio!.median), [0.9, 9]);
});

Deno.test("runCase() misses a bar that is not reached", async () => {
  const slow = caseOf(fake("Platter", [89]), [fake("fio", [100])]);
  assertEquals((await runCase(slow, options(1))).verdict, "miss");
  const costly = caseOf(fake("Platter", [89]), [], {
    metric: { ...slow.metric, better: "less" },
    bar: { value: 88 },
  });
  assertEquals((await runCase(costly, options(1))).verdict, "miss");
});

Deno.test("runCase() skips a peer that is missing, and says why", async () => {
  const result = await runCase(
    caseOf(fake("Platter", [1, 1]), [
      fake("fio", [new Unavailable("fio is not installed")]),
      fake("node", [1, new Error("Killed")]),
    ]),
    options(2),
  );
  assertEquals(result.verdict, "skipped");
  assertEquals(result.peers, []);
  assertEquals(result.skipped, [
    { name: "fio", reason: "fio is not installed" },
    { name: "node", reason: "Killed" },
  ]);
  assert(caseTable(result).includes("fio is not installed"));
  assert(summary([result]).includes("1 skipped"));
});

Deno.test("runCase() fails if Platter does, and asks nobody else", async () => {
  const log: string[] = [];
  const result = await runCase(
    caseOf(fake("Platter", [new Error("Broken")], log), [fake("fio", [], log)]),
    options(3),
  );
  assertEquals(result.verdict, "failed");
  assertEquals(log, ["Platter"]);
});

Deno.test("runCase() ends as soon as it is interrupted", async () => {
  const controller = new AbortController();
  const ours: Contender = {
    name: "Platter",
    measure() {
      controller.abort(new Error("Interrupted"));
      return Promise.reject(new Error("Killed"));
    },
  };
  await assertRejects(
    () =>
      runCase(caseOf(ours, []), { ...options(1), signal: controller.signal }),
    Error,
    "Interrupted",
  );
});

Deno.test("fioArguments() asks for the same work", () => {
  const args = fioArguments("io_uring", WORK);
  for (
    const arg of [
      "--filename=/images/a\\:b.img",
      "--ioengine=io_uring",
      "--rw=randread",
      "--bs=4096",
      "--iodepth=32",
      "--direct=1",
      "--runtime=1500ms",
    ]
  ) assert(args.includes(arg), arg);
  assert(
    fioArguments("psync", { ...WORK, operation: "write + flush" })
      .includes("--fdatasync=1"),
  );
});

Deno.test("parseFio() reads fio's JSON behind its warnings", () => {
  const none = { runtime: 0, iops: 0, bw_bytes: 0, lat_ns: {} };
  const report = {
    jobs: [{
      error: 0,
      job_runtime: 2000,
      usr_cpu: 10,
      sys_cpu: 40,
      read: {
        runtime: 2000,
        iops: 500.5,
        bw_bytes: 2_050_048,
        lat_ns: {
          percentile: {
            "50.000000": 1000,
            "99.000000": 2000,
            "99.900000": 3000,
          },
        },
      },
      write: none,
    }],
  };
  assertEquals(parseFio(`note: careful\n${JSON.stringify(report)}`, "read"), {
    operations: 1001,
    bytes: 4_100_096,
    seconds: 2,
    cpuSeconds: 1,
    latency: { p50: 1, p99: 2, p999: 3 },
  });
});

Deno.test("grouped() and duration() keep three digits", () => {
  assertEquals(
    [13_120.6, 97.32, 9.876, 0.1234, 0, NaN].map(grouped),
    ["13,121", "97.3", "9.88", "0.123", "0", "—"],
  );
  assertEquals(
    [71.42, 2410, 3_000_000].map(duration),
    ["71.4 µs", "2.41 ms", "3.00 s"],
  );
});

Deno.test("ticks() are round and reach the greatest", () => {
  assertEquals(ticks(66_000), [0, 20_000, 40_000, 60_000, 80_000]);
  assertEquals(ticks(5), [0, 1, 2, 3, 4, 5]);
});

Deno.test("spread() moves labels apart and keeps their order", () => {
  assertEquals(spread([50, 10, 52, 51], 10, 0, 60), [40, 10, 60, 50]);
});

Deno.test("chart() draws every series, escaped, as well-formed SVG", async () => {
  const results = [];
  for (const depth of [1, 32]) {
    const one = caseOf(fake("Platter", [100 * depth]), [
      fake("a <peer> & co", [90 * depth]),
      fake("Deno.FsFile, cached", [9999]),
    ], { name: `random-read-${depth}`, work: { ...WORK, depth } });
    results.push(await runCase(one, options(1)));
  }
  const series = seriesOf(results);
  assertEquals(series.map(({ name }) => name), ["Platter", "a <peer> & co"]);
  const svg = chart(series, "here");
  assert(svg.includes("a &lt;peer&gt; &amp; co"));
  assert(svg.includes("prefers-color-scheme: dark"));
  assert(!/NaN|undefined|Infinity/.test(svg));
  // Every tag that is opened is closed.
  const open: string[] = [];
  for (const [, close, name, own] of svg.matchAll(/<(\/?)(\w+)[^>]*?(\/?)>/g)) {
    if (close) assertEquals(open.pop(), name);
    else if (!own) open.push(name!);
  }
  assertEquals(open, []);
  JSON.stringify(asData(
    {
      date: "",
      cpu: "",
      cores: 1,
      memoryBytes: 0,
      system: "",
      fileSystem: "",
      device: "",
      logicalBlockSize: null,
      versions: {},
    },
    { rounds: 1, seconds: 1, imageBytes: 1 },
    results,
  ));
});

Deno.test("casesOf() names every case once, and bars after its own peers", () => {
  const cases = casesOf({ engines: ["io_uring", "sync"], full: false });
  assertEquals(new Set(cases.map(({ name }) => name)).size, cases.length);
  for (const { name, bar, peers } of cases) {
    if (bar?.peer === undefined) continue;
    assert(peers.some((peer) => peer.name === bar.peer), name);
  }
});
