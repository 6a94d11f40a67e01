import { assert, assertEquals, assertRejects } from "@std/assert";
import { DiskError, VirtualDisk } from "@platter/disk";
import { openBackend } from "../../src/disk/open.ts";
import { crashTest, runCrashTest } from "../../src/crash/run_crash_test.ts";
import {
  CrashTestError,
  CrashTestFailure,
} from "../../src/crash/crash_test_error.ts";
import type { CrashTestOptions } from "../../src/crash/crash_test_options.ts";
import type { RunOptions, RunOutcome, Stage } from "../../src/crash/stage.ts";
import { dirname } from "node:path";
import { needs, tempDir } from "../helpers.ts";

/** What a command of {@linkcode playing} does. */
type Act = (
  disk: VirtualDisk,
  options: RunOptions,
) => Promise<Partial<RunOutcome> | void>;

/** A stage that runs functions of this process as commands. */
function playing(acts: Record<string, Act>): Stage & { attached: number } {
  const stage: Stage & { attached: number } = {
    name: "raw",
    ways: ["nbd"],
    attached: 0,
    wants: () => "backend",
    require: () => Promise.resolve(),
    attach(disk) {
      if (!("backend" in disk)) throw new Error("no file was asked for");
      const open = VirtualDisk.over(disk.backend);
      stage.attached++;
      return Promise.resolve({
        environment: {},
        async run(command, options) {
          const outcome = await acts[command]!(open, options);
          return { code: 0, output: "", timedOut: false, ...outcome };
        },
        async [Symbol.asyncDispose]() {
          stage.attached--;
          await open.close();
        },
      });
    },
  };
  return stage;
}

const sector = (value: number) => new Uint8Array(512).fill(value);

/** Two versions in one sector each; each is promised once it is flushed. */
const RIGHT: Record<string, Act> = {
  async prepare(disk) {
    await disk.write(8, sector(9));
  },
  async run(disk, { onAcknowledge }) {
    for (const version of [1, 2]) {
      await disk.write(version, sector(version));
      await disk.flush();
      onAcknowledge!(String(version));
    }
  },
  async check(disk, { acknowledged }) {
    if ((await disk.read(8, 1))[0] !== 9) return { code: 2, output: "what?" };
    for (const version of acknowledged!.map(Number)) {
      const [found] = await disk.read(version, 1);
      if (found !== version) {
        return { code: 1, output: `looks\nversion ${version} is lost\n` };
      }
    }
    // Thrown away.
    await disk.write(8, sector(0));
    return {};
  },
};

const base = {
  size: "64KiB",
  ...{ prepare: "prepare", run: "run", check: "check" },
  ...{ maxStates: 500, jobs: 2 },
} as const;

Deno.test("crashTest() finds that what keeps its promises is safe", async () => {
  const stage = playing(RIGHT);
  const steps: string[] = [];
  const report = await crashTest({
    ...base,
    stage,
    onStep: (step) => steps.push(step),
  });
  assertEquals(report.verdict, "safe");
  assertEquals(report.explored.acknowledged, 2);
  assert(report.explored.states >= 3);
  assertEquals(stage.attached, 0);
  assertEquals(steps, [
    "preparing",
    "recording",
    "checking the unharmed images",
    "checking states",
  ]);
});

Deno.test("crashTest() tells what is lost without a flush", async () => {
  const stage = playing({
    ...RIGHT,
    async run(disk, { onAcknowledge }) {
      await disk.flush();
      for (const version of [1, 2]) {
        await disk.write(version, sector(version));
        onAcknowledge!(String(version));
      }
    },
  });
  const found: string[] = [];
  const error = await assertRejects(
    () =>
      crashTest({
        ...base,
        stage,
        onFailure: ({ message }) => found.push(message),
      }),
    CrashTestFailure,
    "is lost",
  );
  const { report } = error;
  assertEquals(report.verdict, "failed");
  assert(report.groups.length >= 1);
  const [group] = report.groups;
  assert(/^version \d is lost$/.test(group!.message));
  assert(group!.output.startsWith("looks\n"));
  assertEquals(report.commands.map(({ role, text }) => [role, text]), [
    ["prepare", "prepare"],
    ["run", "run"],
    ["check", "check"],
  ]);
  assert(found.includes(group!.message));
  assertEquals(stage.attached, 0);
});

const REFUSED: [title: string, acts: Record<string, Act>, words: string][] = [
  [
    "prepare fails",
    { prepare: () => Promise.resolve({ code: 3, output: "no room" }) },
    "Cannot test as the command prepare exited with 3:\nno room",
  ],
  [
    "run fails",
    { run: () => Promise.resolve({ code: 1 }) },
    "Cannot test as the command run exited with 1:\nIt printed nothing",
  ],
  [
    "run does not end",
    { run: () => Promise.resolve({ code: 137, timedOut: true }) },
    "Cannot test as the command run did not end within 600 s",
  ],
  [
    "run writes nothing",
    { run: (disk) => disk.flush() },
    "run wrote nothing to its disk",
  ],
  [
    "run flushes nothing",
    {
      async run(disk, { onAcknowledge }) {
        await disk.write(1, sector(1));
        onAcknowledge!("1");
      },
    },
    "run flushed nothing",
  ],
  [
    "run promises nothing",
    {
      async run(disk) {
        await disk.write(1, sector(1));
        await disk.flush();
      },
    },
    "run acknowledged nothing",
  ],
  [
    "the check fails before run",
    { check: () => Promise.resolve({ code: 1, output: "syntax error" }) },
    "the check is broken: it fails on the disk before run, of which nothing was promised yet (it must exit with 0 while PLATTER_ACKED is empty), and no power has failed yet:\nsyntax error",
  ],
  [
    "the check fails after run",
    {
      check: (_, { acknowledged }) =>
        Promise.resolve({ code: acknowledged!.length }),
    },
    "the check is broken: it fails on the disk after run, on which all is there",
  ],
  [
    "the check cannot judge",
    { check: () => Promise.resolve({ code: 125 }) },
    "the check is broken: it cannot judge the disk before run",
  ],
];

for (const [title, acts, words] of REFUSED) {
  Deno.test(`crashTest() says nothing of the program if ${title}`, async () => {
    await using dir = await tempDir();
    const stage = playing({ ...RIGHT, ...acts });
    await assertRejects(
      () => crashTest({ ...base, stage, record: `${dir.path}/run.rec` }),
      CrashTestError,
      words,
    );
    assertEquals(stage.attached, 0);
    // It is worth keeping if nothing but the check is wrong.
    const left: string[] = [];
    for await (const { name } of Deno.readDir(dir.path)) left.push(name);
    assertEquals(left, "check" in acts ? ["run.rec"] : []);
  });
}

Deno.test({
  name: "crashTest() removes no file that took the place of its recording",
  ignore: Deno.build.os === "windows",
  async fn() {
    await using dir = await tempDir();
    const record = `${dir.path}/run.rec`;
    const stage = playing({
      ...RIGHT,
      async run() {
        await Deno.rename(record, `${record}.old`);
        await Deno.writeTextFile(record, "mine");
        return { code: 1 };
      },
    });
    await assertRejects(() => crashTest({ ...base, stage, record }));
    assertEquals(await Deno.readTextFile(record), "mine");
  },
});

Deno.test("crashTest() goes on without promises if allowNoProof says so", async () => {
  const stage = playing({
    ...RIGHT,
    async run(disk) {
      await disk.write(1, sector(1));
    },
  });
  const report = await crashTest({ ...base, stage, allowNoProof: true });
  assertEquals(report.verdict, "safe");
});

Deno.test({
  name:
    "crashTest() lets other users through to what is mounted, and to no image",
  ignore: Deno.build.os === "windows",
  async fn() {
    const seen = new Set<string>();
    const stage = playing(RIGHT);
    const { attach } = stage;
    stage.wants = () => "file";
    stage.attach = async (disk, options) => {
      if ("backend" in disk) return await attach(disk, options);
      const { directory } = options;
      const images = dirname(dirname(disk.file));
      // Bits for others: a folder that is listed, gone through, and closed.
      for (const path of [directory, dirname(directory), images]) {
        seen.add(`${(await Deno.stat(path)).mode! & 7}`);
      }
      const backend = await openBackend(disk.file);
      return await attach({ backend }, options);
    };
    await crashTest({ ...base, stage });
    assertEquals([...seen], ["5", "1", "0"]);
  },
});

Deno.test("crashTest() says that a check that does not end has failed", async () => {
  const stage = playing({
    ...RIGHT,
    check: (_, { environment }) =>
      Promise.resolve(
        ["start", "end"].includes(environment!.PLATTER_STATE!)
          ? {}
          : { code: 137, timedOut: true },
      ),
  });
  const error = await assertRejects(
    () => crashTest({ ...base, stage, checkTimeoutMs: 5000 }),
    CrashTestFailure,
  );
  assertEquals(
    error.report.groups[0]!.message,
    "The check did not end within 5 s",
  );
});

Deno.test("crashTest() counts what a check cannot judge", async () => {
  let calls = 0;
  const stage = playing({
    ...RIGHT,
    check: () =>
      Promise.resolve(++calls === 3 ? { code: 125, output: "busy" } : {}),
  });
  const report = await crashTest({ ...base, stage, jobs: 1 });
  assertEquals(report.explored.unjudged, 1);
  assertEquals(report.verdict, "safe");
});

Deno.test("crashTest() does not call safe what the check can judge in no state", async () => {
  const stage = playing({
    ...RIGHT,
    check: (_, { environment }) =>
      Promise.resolve({
        code: environment!.PLATTER_STATE!.startsWith("crash") ? 125 : 0,
      }),
  });
  const { report } = await assertRejects(
    () => crashTest({ ...base, stage }),
    CrashTestFailure,
  );
  assertEquals(report.verdict, "unjudged");
});

Deno.test("crashTest() does not call safe what it saw too little of", async () => {
  const { report } = await assertRejects(
    () => crashTest({ ...base, stage: playing(RIGHT), maxStates: 1 }),
    CrashTestFailure,
  );
  assertEquals(report.verdict, "unfinished");
});

Deno.test("crashTest() gives no verdict on what fails at times", async () => {
  let calls = 0;
  const stage = playing({
    ...RIGHT,
    check: () =>
      Promise.resolve(++calls === 3 ? { code: 1, output: "by chance" } : {}),
  });
  const { report } = await assertRejects(
    () => crashTest({ ...base, stage, jobs: 1 }),
    CrashTestFailure,
  );
  assertEquals(report.verdict, "unstable");
  assertEquals([report.explored.failed, report.explored.unstable], [0, 1]);
  assertEquals(report.unstable[0]!.verdicts[0], "failed: by chance");
});

Deno.test("crashTest() keeps a recording, and checks it again", async () => {
  await using dir = await tempDir();
  const record = dir.join("run.rec");
  const bad: Record<string, Act> = {
    ...RIGHT,
    async run(disk, { onAcknowledge }) {
      await disk.write(1, sector(1));
      onAcknowledge!("1");
      await disk.flush();
    },
  };
  const first = await assertRejects(
    () => crashTest({ ...base, stage: playing(bad), record }),
    CrashTestFailure,
  );
  const { token } = first.report.groups[0]!;
  const never = () => Promise.reject(new Error("nothing is to be run"));
  const again: CrashTestOptions = {
    stage: playing({ ...bad, run: never, prepare: never }),
    ...{ recording: record, check: "check" },
    replay: (token) => `again ${token}`,
  };
  const second = await assertRejects(
    () => crashTest({ ...again, only: token }),
    CrashTestFailure,
  );
  assertEquals(second.report.explored.states, 1);
  assertEquals(second.report.groups[0]!.token, token);
  assertEquals(second.report.groups[0]!.replay, `again ${token}`);
  // The check has learnt to live with it.
  const third = await crashTest({
    ...again,
    stage: playing({ check: () => Promise.resolve() }),
  });
  assertEquals(third.verdict, "safe");
});

Deno.test("crashTest() refuses a token or a number that is none before it runs anything", async () => {
  const never = () => Promise.reject(new Error("nothing is to be run"));
  const stage = playing({ prepare: never, run: never, check: never });
  await assertRejects(
    () => crashTest({ ...base, stage, only: "crash1:4f719ff97d" }),
    SyntaxError,
    "Cannot read a crash token",
  );
  for (
    const [name, value] of [
      ["maxStates", 0],
      ["checkTimeoutMs", 0],
      ["checkTimeoutMs", 2 ** 31],
      ["runTimeoutMs", -1],
    ] as const
  ) {
    await assertRejects(
      () => crashTest({ ...base, stage, [name]: value }),
      RangeError,
      ` as ${name} must be a safe integer from 1`,
    );
  }
  assertEquals(stage.attached, 0);
});

Deno.test("crashTest() only reads the image that it is given", async () => {
  await using dir = await tempDir();
  const image = await dir.file("disk.img", 65_536);
  const before = await Deno.readFile(image);
  const { size: _, ...rest } = base;
  const report = await crashTest({ ...rest, image, stage: playing(RIGHT) });
  assertEquals(report.verdict, "safe");
  assertEquals(await Deno.readFile(image), before);
});

Deno.test("crashTest() gives up with the reason of its signal", async () => {
  for (const at of ["run", "check"] as const) {
    const controller = new AbortController();
    let left = 3;
    const stage = playing({
      ...RIGHT,
      async [at](disk, options) {
        if (at === "run" || --left === 0) controller.abort(new Error("enough"));
        return await RIGHT[at]!(disk, options);
      },
    });
    await assertRejects(
      () => crashTest({ ...base, stage, signal: controller.signal }),
      Error,
      "enough",
    );
    assertEquals(stage.attached, 0);
  }
});

Deno.test("crashTest() gives up with the reason of its signal while a disk is attached", async () => {
  const controller = new AbortController();
  const stage = playing(RIGHT);
  stage.attach = () => {
    controller.abort(new Error("enough"));
    return Promise.reject(
      new DiskError("aborted", "Cannot mount a disk as it was aborted"),
    );
  };
  await assertRejects(
    () => crashTest({ ...base, stage, signal: controller.signal }),
    Error,
    "enough",
  );
});

const WRONG: [
  title: string,
  options: Partial<CrashTestOptions>,
  words: string,
][] = [
  ["neither run nor recording", { run: undefined }, "one of run and recording"],
  ["run and recording", { recording: "x" }, "one of run and recording"],
  [
    "a way that the stage has not",
    { on: "mount" },
    'on must be "nbd" at stage',
  ],
  ["no jobs", { jobs: 0 }, "jobs must be a safe integer above 0"],
  ["no size and no image", { size: undefined }, "one of sectors and size"],
  [
    "a stage that there is not",
    { stage: "moon" as "raw" },
    "the stage must be one of raw, host",
  ],
];

for (const [title, options, words] of WRONG) {
  Deno.test(`crashTest() refuses ${title}`, async () => {
    const error = await assertRejects(() =>
      crashTest({ ...base, stage: playing(RIGHT), ...options })
    );
    assert(error instanceof TypeError || error instanceof RangeError);
    assert(error.message.includes(words), error.message);
  });
}

/** A log that its check moves to its place, and clears; see {@linkcode RIGHT}. */
function logging(flushes: boolean): Record<string, Act> {
  return {
    ...RIGHT,
    async run(disk, { onAcknowledge }) {
      await disk.write(1, sector(7));
      await disk.flush();
      onAcknowledge!("7");
    },
    async check(disk, { acknowledged }) {
      const [logged] = await disk.read(1, 1);
      if (logged === 7) {
        await disk.write(2, sector(7));
        if (flushes) await disk.flush();
        await disk.write(1, sector(0));
        await disk.flush();
      }
      const [found] = await disk.read(2, 1);
      return acknowledged!.length > 0 && found !== 7
        ? { code: 1, output: "7 is lost" }
        : {};
    },
  };
}

Deno.test("crashTest() interrupts checks if crashDuringRecovery says so, and tells of both crashes", async () => {
  await using dir = await tempDir();
  const record = dir.join("run.rec");
  const bad = logging(false);
  const once = await crashTest({ ...base, stage: playing(bad), record });
  assertEquals([once.verdict, once.explored.recoveryStates], ["safe", 0]);
  const stage = playing(bad);
  const again = { stage, recording: record, check: "check" } as const;
  const { report, message } = await assertRejects(
    () => crashTest({ ...again, crashDuringRecovery: true }),
    CrashTestFailure,
  );
  const { explored, groups } = report;
  assertEquals(report.verdict, "failed");
  assertEquals([explored.failed, groups.length], [0, 1]);
  assert(explored.recoveryFailed > 0);
  assertEquals(groups[0]!.count, explored.recoveryFailed);
  assert(explored.recoveryStates > explored.recoveryFailed);
  assertEquals([groups[0]!.crashes, groups[0]!.message], [2, "7 is lost"]);
  assertEquals(groups[0]!.lost!.ranges.map(({ sector }) => sector), [2]);
  assert(message.includes("it was interrupted as well"), message);
  assert(
    message.includes("that another one during recovery may leave"),
    message,
  );
  const replayed = await assertRejects(
    () => crashTest({ ...again, only: groups[0]!.token }),
    CrashTestFailure,
  );
  assertEquals(replayed.report.groups[0]!.token, groups[0]!.token);
  assertEquals(stage.attached, 0);
});

Deno.test("crashTest() finds that a recovery that may be interrupted is safe", async () => {
  const stage = playing(logging(true));
  // A state of which the check is recorded is never given as a file.
  let files = 0;
  const { attach } = stage;
  stage.wants = () => "file";
  stage.attach = async (disk, options) => {
    if ("backend" in disk) return await attach(disk, options);
    files++;
    return await attach({ backend: await openBackend(disk.file) }, options);
  };
  const report = await crashTest({
    ...{ ...base, stage, crashDuringRecovery: 1, maxStatesPerRecovery: 100 },
  });
  assertEquals([report.verdict, report.explored.exhaustive], ["safe", true]);
  // Both unharmed images, and all that checks left.
  assertEquals(files, 2 + report.explored.recoveryStates);
  assertEquals(stage.attached, 0);
});

Deno.test("crashTest() refuses a check that cannot check again what it wrote, if it may be interrupted", async () => {
  const stage = playing({
    ...RIGHT,
    async check(disk) {
      const [count] = await disk.read(9, 1);
      await disk.write(9, sector(1));
      return { code: count!, output: "I was here" };
    },
  });
  await crashTest({ ...base, stage });
  await assertRejects(
    () => crashTest({ ...base, stage, crashDuringRecovery: true }),
    CrashTestError,
    "it fails on what it has itself made of the disk before run",
  );
  assertEquals(stage.attached, 0);
});

Deno.test("crashTest() gives up while it checks what an interrupted check left", async () => {
  const controller = new AbortController();
  const acts = logging(true);
  const stage = playing({
    ...acts,
    async check(disk, options) {
      const { PLATTER_STATE: token } = options.environment!;
      if (token!.split(":").length > 3) controller.abort(new Error("enough"));
      return await acts.check!(disk, options);
    },
  });
  await assertRejects(
    () =>
      crashTest({
        ...{ ...base, stage, signal: controller.signal },
        crashDuringRecovery: true,
      }),
    Error,
    "enough",
  );
  assertEquals(stage.attached, 0);
});

Deno.test({
  name: "crashTest() names the folder that has no room for a disk",
  ...needs("root", "mount", "nbdfuse", "fusermount3"),
  async fn() {
    await using dir = await tempDir();
    const image = await dir.file("disk.img", new Uint8Array(1 << 20).fill(1));
    const directory = dir.join("small");
    await Deno.mkdir(directory);
    const system = async (program: string, ...args: string[]) => {
      const { success } = await new Deno.Command(program, { args }).output();
      assert(success, program);
    };
    // Room for nothing; for what all states come from and for no state.
    for (const size of ["512k", "1536k"]) {
      await system(
        ...["mount", "-t", "tmpfs", "-o", `size=${size}`, "none", directory],
      );
      try {
        const error = await assertRejects(
          () =>
            crashTest({
              ...{ image, directory, jobs: 1, check: "true" },
              run:
                "printf x | dd of=$PLATTER_IMAGE conv=notrunc,fsync; echo ACK",
            }),
          CrashTestError,
          `Cannot test as there is no room left in "${directory}"`,
        );
        assert(!error.message.includes("check is broken"));
        assertEquals(await Array.fromAsync(Deno.readDir(directory)), []);
      } finally {
        await system("umount", directory);
      }
    }
  },
});

Deno.test({
  name: "crashTest() lets a check remove the folder of its image",
  ...needs("nbdfuse", "fusermount3"),
  async fn() {
    const report = await runCrashTest({
      ...{ size: "64KiB", jobs: 1, maxStates: 4 },
      run: "printf x | dd of=$PLATTER_IMAGE conv=notrunc,fsync; echo ACK",
      check: 'rm -r "$(dirname "$PLATTER_IMAGE")"',
    });
    assertEquals(report.verdict, "safe");
  },
});
