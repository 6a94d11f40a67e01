import {
  assert,
  assertEquals,
  assertGreaterOrEqual,
  assertRejects,
  assertThrows,
} from "@std/assert";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { faults } from "../../src/layers/faults.ts";
import { latency } from "../../src/layers/latency.ts";
import { replayTrace, traceToFioIolog } from "../../src/layers/replay.ts";
import {
  parseTraceLine,
  trace,
  type TraceComplete,
  type TraceSubmit,
} from "../../src/layers/trace.ts";
import { Random } from "../../src/random.ts";
import {
  flushRequest,
  readRequest,
  Status,
  writeFuaRequest,
  writeRequest,
  writeZeroesRequest,
} from "../../src/request.ts";
import { assertContent, carryOut, readDisk, submitAll } from "../contract.ts";
import { isQuick, needs, run, tempDir } from "../helpers.ts";
import { memory, SECTORS } from "./stacks.ts";

const sector = (value: number, count = 1) =>
  new Uint8Array(count * 512).fill(value);

Deno.test("trace() writes down requests, batches, answers and times", async () => {
  const lines: string[] = [];
  const traced = trace(
    faults(latency(memory(), { fixedMs: 3 }), ["read sector=9 error=EIO"]),
    (line) => lines.push(line),
  );
  await submitAll(traced, [writeFuaRequest(8, sector(1, 2)), flushRequest()]);
  await submitAll(traced, [readRequest(9, sector(0))]);
  await submitAll(traced, [writeZeroesRequest(0, 4, 2)]);
  const [disk, ...events] = lines.map((line, i) => parseTraceLine(line, i + 1));
  assertEquals(disk, {
    event: "disk",
    version: 1,
    sectors: SECTORS,
    blockSize: 512,
    backend: "faults over latency over memory",
    path: null,
  });
  const submits = events.filter((each) => each.event === "submit");
  assertEquals(submits.map(({ us: _, ...rest }) => rest), [
    {
      event: "submit",
      id: 1,
      batch: 1,
      operation: "write",
      sector: 8,
      count: 2,
      fua: true,
    },
    {
      event: "submit",
      id: 2,
      batch: 1,
      operation: "flush",
      sector: 0,
      count: 0,
    },
    {
      event: "submit",
      id: 3,
      batch: 2,
      operation: "read",
      sector: 9,
      count: 1,
    },
    {
      event: "submit",
      id: 4,
      batch: 3,
      operation: "write zeroes",
      sector: 0,
      count: 4,
      unmap: true,
    },
  ]);
  const completes = events.filter((each): each is TraceComplete =>
    each.event === "complete"
  );
  assertEquals(completes.map(({ id }) => id).sort(), [1, 2, 3, 4]);
  for (const { id, us, error } of completes) {
    const from = submits.find((each) => each.id === id)!.us;
    assertGreaterOrEqual(us, id === 3 ? from : from + 2900);
    assertEquals(error?.code, id === 3 ? "EIO" : undefined);
    assertEquals(error?.kind, id === 3 ? "io" : undefined);
  }
  await traced.close();
});

Deno.test("trace() can be switched off and on", async () => {
  const lines: string[] = [];
  const traced = trace(memory(), (line) => lines.push(line));
  await carryOut(traced, writeRequest(0, sector(1)));
  traced.enabled = false;
  await carryOut(traced, writeRequest(1, sector(1)));
  traced.enabled = true;
  await carryOut(traced, writeRequest(2, sector(1)));
  assertEquals(
    lines.map((line) => JSON.parse(line).sector).filter((each) =>
      each !== undefined
    ),
    [0, 2],
  );
});

Deno.test("trace() ends where its sink throws, and the disk goes on", async () => {
  let left = 2;
  const traced = trace(memory(), () => {
    if (left-- === 0) throw new Error("full");
  });
  await carryOut(traced, writeRequest(0, sector(1)), flushRequest());
  assertEquals((traced.failure as Error).message, "full");
  await carryOut(traced, readRequest(0, sector(1)));
  assertEquals(left, -1);
});

/** A workload of everything, many requests at once, through a disk. */
async function workload(disk: VirtualDisk, seed: number): Promise<void> {
  const random = new Random(seed);
  const under: Promise<unknown>[] = [];
  for (let i = 0; i < 400; i++) {
    const at = random.below(SECTORS - 16);
    const count = random.between(1, 16);
    const what = random.below(10);
    under.push(
      what < 4
        ? disk.write(at, random.bytes(count * 512), {
          fua: random.chance(1, 8),
        })
        : what < 7
        ? disk.read(at, count)
        : what < 8
        ? disk.writeZeroes(at, count, { unmap: random.chance(1, 2) })
        : what < 9
        ? disk.flush()
        : disk.id(),
    );
    if (under.length >= random.between(1, 20)) {
      await Promise.all(under.splice(0));
    }
  }
  await Promise.all(under);
}

Deno.test("replayTrace() of a trace with data makes the same image, and the same trace", async () => {
  const lines: string[] = [];
  const first = memory();
  const disk = VirtualDisk.over(
    trace(first, (line) => lines.push(line), { data: true }),
  );
  await workload(disk, 3);
  const again: string[] = [];
  const second = memory();
  const target = VirtualDisk.over(
    trace(second, (line) => again.push(line), { data: true }),
  );
  const { requests, failed, differences } = await replayTrace(lines, target);
  assertContent(await readDisk(second), await readDisk(first), "image");
  assertEquals([failed, differences], [0, []]);
  const what = (all: string[]) =>
    all.map((line, i) => parseTraceLine(line, i)).filter((
      each,
    ): each is TraceSubmit => each.event === "submit")
      .map(({ us: _, id: __, batch: ___, ...rest }) => rest);
  assertEquals(what(again).length, requests);
  assertEquals(what(again), what(lines));
  await disk.close();
  await target.close();
});

Deno.test("replayTrace() takes a stream of lines, without data too", async () => {
  const lines: string[] = [];
  const disk = VirtualDisk.over(trace(memory(), (line) => lines.push(line)));
  await disk.write(5, sector(1));
  await disk.write(9, sector(1));
  async function* stream() {
    for (const line of lines) {
      await Promise.resolve();
      yield `${line}\r\n`;
      yield "";
    }
  }
  await using target = VirtualDisk.memory({ sectors: SECTORS });
  assertEquals((await replayTrace(stream(), target)).requests, 2);
  assertEquals(
    (await target.read(9, 1)).subarray(0, 5),
    Uint8Array.of(2, 0, 0, 0, 2),
  );
  await disk.close();
});

Deno.test("replayTrace() says what ended otherwise", async () => {
  const lines: string[] = [];
  const disk = VirtualDisk.over(
    trace(faults(memory(), ["read nth=1 error=EIO"]), (l) => lines.push(l)),
  );
  await assertRejects(() => disk.read(3, 1));
  await disk.read(4, 1);
  const { requests, failed, differences } = await replayTrace(
    lines,
    VirtualDisk.over(faults(memory(), ["read sector=4 error=EIO"])),
  );
  assertEquals([requests, failed], [2, 1]);
  assertEquals(
    differences.map(({ submit, failed, status }) => [
      submit.sector,
      failed,
      status,
    ]),
    [[3, true, Status.Ok], [4, false, Status.IoErr]],
  );
  assert(differences[1]!.message?.startsWith("Cannot read 1 sector"));
});

const line = (id: number, us: number, at = id) =>
  JSON.stringify({
    event: "submit",
    us,
    id,
    batch: id,
    operation: "read",
    sector: at,
    count: 1,
  });

Deno.test("replayTrace() keeps the times of a trace, at a speed", async () => {
  await using disk = VirtualDisk.memory({ sectors: SECTORS });
  const lines = [line(1, 500_000), line(2, 540_000), line(3, 580_000)];
  const time = async (speed: number) => {
    const start = performance.now();
    await replayTrace(lines, disk, { speed });
    return performance.now() - start;
  };
  const once = async () => assertGreaterOrEqual(await time(1), 79);
  assert(await isQuick(400, once));
  assertGreaterOrEqual(await time(4), 19);
  assert(await isQuick(60, () => time(Infinity)));
  await assertRejects(() => time(0), RangeError, "speed must be above 0");
});

Deno.test("replayTrace() throws on what is no trace, and stops when it is told", async () => {
  await using disk = VirtualDisk.memory({ sectors: 8 });
  for (
    const bad of [
      "{}",
      "x",
      "null",
      `{"event":"submit","us":-1,"id":1,"sector":0,"count":1,"operation":"read"}`,
      `{"event":"disk","version":2,"sectors":1,"blockSize":512}`,
    ]
  ) {
    await assertRejects(
      () => replayTrace([line(1, 0), bad], disk),
      TypeError,
      "Cannot read line 2 of a trace",
    );
  }
  await assertRejects(
    () => replayTrace([line(1, 0).replace("read", "wipe")], disk),
    TypeError,
    `Cannot replay line 1 of a trace as there is no operation "wipe"`,
  );
  for (
    const wrong of [
      { data: "!!" },
      { data: 5 },
      { data: "AAAA" },
      { count: 2 ** 24 },
      { count: 2 ** 50 },
      { count: 2 ** 50, operation: "read" },
    ]
  ) {
    const bad = JSON.stringify({
      ...{ event: "submit", us: 0, id: 1, operation: "write" },
      ...{ sector: 0, count: 1, ...wrong },
    });
    await assertRejects(
      () => replayTrace([line(1, 0), bad], disk),
      TypeError,
      "Cannot replay line 2 of a trace as",
    );
  }
  const signal = AbortSignal.abort(new Error("enough"));
  await assertRejects(
    () => replayTrace([line(1, 0)], disk, { signal }),
    Error,
    "enough",
  );
});

for (const us of [20e6, 9e12]) {
  Deno.test(`replayTrace() stops in a gap that ends after ${us} µs, and waits without work until then`, async () => {
    await using disk = VirtualDisk.memory({ sectors: 8 });
    const controller = new AbortController();
    const timer = setTimeout(() => controller.abort(new Error("enough")), 50);
    const { setTimeout: real } = globalThis;
    let timers = 0;
    globalThis.setTimeout = ((...all: Parameters<typeof real>) => {
      timers++;
      return real(...all);
    }) as typeof real;
    try {
      await assertRejects(
        () =>
          replayTrace([line(1, 0), line(2, us)], disk, {
            ...{ speed: 1, signal: controller.signal },
          }),
        Error,
        "enough",
      );
    } finally {
      globalThis.setTimeout = real;
      clearTimeout(timer);
    }
    // None, if the abort came before the gap.
    assert(timers <= 1, `${timers} timers`);
  });
}

Deno.test("replayTrace() takes an id twice: of two requests, and of joined traces", async () => {
  const first =
    `{"event":"disk","version":1,"sectors":8,"blockSize":512,"backend":"memory","path":null}`;
  const complete = `{"event":"complete","us":1,"id":1}`;
  const replay = async (lines: string[]) => {
    const below = faults(memory(), ["read nth=2 error=EIO"]);
    await using disk = VirtualDisk.over(below);
    const { requests, failed, differences } = await replayTrace(lines, disk, {
      speed: 1,
    });
    return [requests, failed, differences.map(({ submit }) => submit.sector)];
  };
  assertEquals(
    await replay([line(1, 0), line(1, 0, 5), complete, complete]),
    [2, 1, [5]],
  );
  assertEquals(
    await replay([first, line(1, 0), first, line(1, 9e9, 5), complete]),
    [2, 1, [5]],
  );
});

Deno.test("traceToFioIolog() writes both versions", () => {
  const submit = (operation: string, more: object) =>
    JSON.stringify({
      event: "submit",
      us: 7,
      id: 1,
      batch: 1,
      operation,
      sector: 0,
      count: 0,
      ...more,
    });
  const lines = [
    `{"event":"disk","version":1,"sectors":64,"blockSize":512,"backend":"direct","path":"/dev/null"}`,
    submit("write", { sector: 2, count: 3, fua: true }),
    submit("get id", {}),
    submit("flush", { us: 9 }),
    submit("discard", { sector: 0, count: 2 ** 22 }),
    submit("write zeroes", { sector: 1, count: 1 }),
  ];
  assertEquals(
    traceToFioIolog(lines),
    `fio version 3 iolog
0 /dev/null add
0 /dev/null open
7 /dev/null write 1024 1536
7 /dev/null datasync 0 0
9 /dev/null datasync 0 0
7 /dev/null trim 0 1073741824
7 /dev/null trim 1073741824 1073741824
7 /dev/null write 512 512
7 /dev/null close
`,
  );
  assertEquals(
    traceToFioIolog(lines.slice(0, 2), { version: 2, path: "a.img" }),
    `fio version 2 iolog
a.img add
a.img open
a.img write 1024 1536
a.img datasync 0 0
a.img close
`,
  );
  assertThrows(
    () => traceToFioIolog(lines, { path: "my disk" }),
    TypeError,
    "path must be 1 to 255 characters without white space",
  );
});

for (const version of [2, 3] as const) {
  Deno.test({
    name: `fio carries out what traceToFioIolog() writes, version ${version}`,
    ...needs("fio"),
    async fn() {
      await using dir = await tempDir();
      const image = await dir.file("disk.img", SECTORS * 512);
      const lines: string[] = [];
      const disk = VirtualDisk.over(trace(memory(), (l) => lines.push(l)));
      await workload(disk, 4);
      await disk.close();
      const log = dir.join("iolog");
      await Deno.writeTextFile(
        log,
        traceToFioIolog(lines, { path: image, version }),
      );
      const report = JSON.parse(
        await run("fio", [
          "--name=replay",
          `--read_iolog=${log}`,
          "--replay_no_stall=1",
          "--ioengine=psync",
          "--output-format=json",
        ]),
      );
      const [job] = report.jobs;
      const submits = lines.map((each) => JSON.parse(each))
        .filter(({ event }) => event === "submit");
      const count = (...names: string[]) =>
        submits.filter(({ operation }) => names.includes(operation)).length;
      const bytes = (...names: string[]) =>
        submits.filter(({ operation }) => names.includes(operation))
          .reduce((sum, each) => sum + each.count * 512, 0);
      assertEquals(job.error, 0);
      assertEquals(job.read.total_ios, count("read"));
      assertEquals(job.read.io_bytes, bytes("read"));
      assertEquals(job.write.total_ios, count("write", "write zeroes"));
      assertEquals(job.write.io_bytes, bytes("write", "write zeroes"));
      const fua = submits.filter((each) => each.fua).length;
      assertEquals(job.sync.lat_ns.N, count("flush") + fua);
    },
  });
}
