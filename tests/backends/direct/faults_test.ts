/**
 * The direct backend where the kernel fails: strace answers some of its system
 * calls in the kernel's place, and its log says which ones were made.
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertFalse,
  assertGreaterOrEqual,
  assertMatch,
} from "@std/assert";
import { VirtualDisk } from "../../../src/disk/disk.ts";
import { needs, run, tempDir } from "../../helpers.ts";

/** What a script says of an error. */
interface Told {
  kind: string;
  message: string;
  operation?: string;
  path?: string;
  sector?: number;
  count?: number;
  errno?: number;
  code?: string;
  cause?: string;
}

interface Traced<T> {
  /** What the script returned. */
  result: T;
  /** System calls on the image, such as `"pwrite64"`, in their order. */
  calls: string[];
  /** Their lines in the log. */
  lines: string[];
}

const HEAD = `
import {
  DiskError, VirtualDisk, writeZeroesRequest
} from ${JSON.stringify(import.meta.resolve("../../../mod.ts"))};
const path = Deno.args[0];
const tell = (error) => error instanceof DiskError
  ? {
    ...error, message: error.message, path: error.path, cause: error.cause?.code
  }
  : { kind: "thrown", message: String(error) };
const attempt = (promise) => Promise.resolve(promise).then(() => null, tell);
const open = (options) =>
  VirtualDisk.open(path, { backend: "direct", engine: "sync", ...options });
const sectors = (disk, count, value) => disk.allocate(count).fill(value);
void writeZeroesRequest;
`;

/** System calls that move data, make it durable or give it up. */
const TRACED = [
  "openat",
  "pread64",
  "pwrite64",
  "preadv",
  "pwritev",
  "pwritev2",
  "fdatasync",
  "fsync",
  "fallocate",
];

/**
 * Runs a script on an image of 1 MiB, every byte of which is 7.
 *
 * @param body What it does; it returns what is plain data.
 * @param injections Such as `"pwrite64:error=EIO:when=2"`, where only calls on
 * the image count.
 */
async function traced<T>(
  body: string,
  injections: string[],
  anywhere: string[] = [],
): Promise<Traced<T>> {
  await using dir = await tempDir();
  const path = await dir.file("disk.img", new Uint8Array(1_048_576).fill(7));
  const script = dir.join("script.ts");
  await Deno.writeTextFile(
    script,
    `${HEAD}\nconst result = await (async () => {${body}})();\n` +
      `console.log(JSON.stringify(result));\n`,
  );
  const log = dir.join("log");
  const onImage = anywhere.length === 0 ? ["-P", path] : [];
  const names = anywhere.length === 0 ? TRACED : anywhere;
  const output = await run("strace", [
    ...["-f", "-qq", "-o", log, ...onImage, "-e", `trace=${names.join(",")}`],
    ...injections.flatMap((injection) => ["-e", `inject=${injection}`]),
    ...[Deno.execPath(), "run", "--no-check", "-A", script, path],
  ]);
  const lines = (await Deno.readTextFile(log)).split("\n")
    .map((line) => line.replace(/^\d+\s+/, ""))
    .filter((line) => /^\w+\(/.test(line));
  // The probe reads when the image is opened; what counts comes after.
  const calls = lines.map((line) => /^\w+/.exec(line)![0]);
  return { result: JSON.parse(output) as T, calls, lines };
}

/** Calls that are not part of opening the image. */
function after(calls: string[]): string[] {
  return calls.slice(calls.lastIndexOf("openat") + 1);
}

function count(calls: string[], name: string): number {
  return calls.filter((call) => call === name).length;
}

function test(
  title: string,
  fn: () => Promise<void>,
  options = needs("strace"),
): void {
  Deno.test({ name: `DirectBackend ${title}`, ...options, fn });
}

/** For tests of RWF_DSYNC: whether it is known to hold where images are made. */
async function durableWrites(): Promise<{ ignore: boolean }> {
  const { ignore } = needs("strace");
  if (ignore) return { ignore };
  await using dir = await tempDir();
  const path = await dir.file("disk.img", 1_048_576);
  await using disk = await VirtualDisk.open(path, { backend: "direct" });
  if (disk.info.abilities.fua === "native") return { ignore: false };
  console.warn("Some tests are skipped as RWF_DSYNC is not used here");
  return { ignore: true };
}

const NATIVE = await durableWrites();

// Interrupted

for (const error of ["EINTR", "EAGAIN"]) {
  test(`repeats what ${error} interrupted, unseen`, async () => {
    const { result, calls } = await traced<unknown[]>(
      `
      await using disk = await open();
      const all = [];
      all.push(await attempt(disk.write(8, sectors(disk, 8, 1))));
      all.push(await attempt(Promise.all([
        disk.write(16, sectors(disk, 8, 2)),
        disk.write(24, sectors(disk, 8, 3)),
      ])));
      all.push(await attempt(disk.write(32, sectors(disk, 8, 4))));
      all.push(await attempt(disk.writeZeroes(40, 8)));
      all.push(await attempt(disk.discard(48, 8)));
      const buffer = sectors(disk, 8, 0);
      all.push(await attempt(disk.readInto(32, buffer)));
      all.push(buffer[0], buffer[4095]);
      const back = [sectors(disk, 8, 0), sectors(disk, 8, 0)];
      all.push(await attempt(Promise.all([
        disk.readInto(16, back[0]), disk.readInto(24, back[1]),
      ])));
      all.push(back[0][0], back[1][4095]);
      all.push((await disk.read(40, 1))[0], (await disk.read(8, 1))[0]);
      all.push(disk.counters.errors);
      return all;
      `,
      [
        `pwrite64:error=${error}:when=1..3`,
        `pwritev:error=${error}:when=1..3`,
        `fallocate:error=${error}:when=1..3`,
        `preadv:error=${error}:when=1..3`,
      ],
    );
    assertEquals(result, [
      ...[null, null, null, null, null],
      ...[null, 4, 4, null, 2, 3, 0, 1, 0],
    ]);
    assertEquals(count(calls, "pwrite64"), 5);
    assertEquals(count(calls, "pwritev"), 4);
    assertEquals(count(calls, "preadv"), 4);
    assertEquals(count(calls, "fallocate"), 5);
  }, NATIVE);

  test(`repeats a read that ${error} interrupted, unseen`, async () => {
    // Reads while the image is opened are counted too: all of these come after.
    const { result, calls } = await traced<unknown[]>(
      `
      await using disk = await open();
      const buffer = sectors(disk, 8, 0);
      const all = [];
      for (let i = 0; i < 30; i++) all.push(await attempt(disk.readInto(i, buffer)));
      return [all.every((one) => one === null), buffer[0], disk.counters.errors];
      `,
      [`pread64:error=${error}:when=20+2`],
    );
    assertEquals(result, [true, 7, 0]);
    assertGreaterOrEqual(count(after(calls), "pread64"), 35);
  });
}

// Short

test("goes on with a write that was cut short, where it was cut", async () => {
  // The calls that strace answers write nothing: their sectors stay 7.
  const { result, lines, calls } = await traced<unknown>(
    `
    await using disk = await open();
    const error = await attempt(disk.write(8, sectors(disk, 8, 1)));
    const now = await disk.read(8, 9);
    return [error, ...[0, 511, 512, 4095, 4096].map((at) => now[at])];
    `,
    ["pwrite64:retval=512:when=1"],
  );
  assertEquals(result, [null, 7, 7, 1, 1, 7]);
  assertEquals(count(calls, "pwrite64"), 2);
  const [first, second] = lines.filter((line) => line.startsWith("pwrite64"));
  assertMatch(first!, /, 4096, 4096\)/);
  assertMatch(second!, /, 3584, 4608\)/);
});

test("goes on with a write that was cut inside a sector", async () => {
  const { result } = await traced<unknown>(
    `
    await using disk = await open();
    const error = await attempt(disk.write(8, sectors(disk, 8, 1)));
    const now = await disk.read(7, 10);
    return [error, ...[511, 512, 611, 612, 4607, 4608].map((at) => now[at])];
    `,
    ["pwrite64:retval=100:when=1"],
  );
  assertEquals(result, [null, 7, 7, 7, 1, 1, 7]);
});

test("goes on with a merged write that was cut short", async () => {
  const { result, calls } = await traced<unknown>(
    `
    await using disk = await open();
    const errors = await Promise.all([0, 1, 2].map((i) =>
      attempt(disk.write(8 + i * 8, sectors(disk, 8, i + 1)))));
    const now = await disk.read(8, 25);
    return [errors, [0, 4096, 8191, 8192, 12287, 12288].map((at) => now[at])];
    `,
    ["pwritev:retval=4096:when=1"],
  );
  assertEquals(result, [[null, null, null], [7, 2, 2, 3, 3, 7]]);
  assertEquals(count(calls, "pwritev"), 1);
});

test("goes on with a merged read that was cut short", async () => {
  const { result } = await traced<unknown>(
    `
    await using disk = await open();
    const buffers = [0, 1, 2].map(() => sectors(disk, 8, 0));
    const errors = await Promise.all(buffers.map((buffer, i) =>
      attempt(disk.readInto(8 + i * 8, buffer))));
    return [errors, buffers.map((buffer) => [buffer[0], buffer[4095]])];
    `,
    ["preadv:retval=4608:when=1"],
  );
  assertEquals(result, [[null, null, null], [[0, 0], [0, 7], [7, 7]]]);
});

test("makes a durable write durable that was cut short", async () => {
  const { result, calls } = await traced<unknown>(
    `
    await using disk = await open();
    const error = await attempt(
      disk.write(8, sectors(disk, 8, 1), { fua: true }));
    return [error, disk.failure];
    `,
    ["pwritev2:retval=1024:when=1"],
  );
  assertEquals(result, [null, null]);
  assertEquals(after(calls), ["pwritev2", "pwrite64", "fdatasync"]);
}, NATIVE);

test("reports a transfer that never moves anything", async () => {
  const { result, calls } = await traced<Told[]>(
    `
    await using disk = await open();
    return [await attempt(disk.write(8, sectors(disk, 8, 1)))];
    `,
    ["pwrite64:retval=0"],
  );
  assertEquals(result[0]!.kind, "io");
  assertEquals(result[0]!.sector, 8);
  assertEquals(count(calls, "pwrite64"), 1);
});

// Failed

test("reports EIO of a write with its place, once", async () => {
  const { result, calls } = await traced<[Told[], number[], unknown[]]>(
    `
    await using disk = await open();
    const errors = [];
    for (let i = 0; i < 4; i++) {
      errors.push(await attempt(disk.write(i * 16, sectors(disk, 8, i + 1))));
    }
    const { errors: failed, requests } = disk.counters;
    const now = await Promise.all([0, 16, 32, 48].map((at) => disk.read(at, 1)));
    return [errors, [failed, requests], [disk.failure, ...now.map((one) => one[0])]];
    `,
    ["pwrite64:error=EIO:when=2"],
  );
  const [errors, counters, rest] = result;
  assertEquals(errors.map((error) => error === null), [
    true,
    false,
    true,
    true,
  ]);
  const error = errors[1]!;
  assertEquals(error.kind, "io");
  assertEquals(error.operation, "write");
  assertEquals(error.errno, 5);
  assertEquals(error.code, "EIO");
  assertEquals(error.sector, 16);
  assertEquals(error.count, 8);
  assertMatch(error.path!, /disk\.img$/);
  assertMatch(
    error.message,
    /write 8 sectors at sector 16 of ".*" as the system says EIO: Input\/output error$/,
  );
  assertEquals(counters, [1, 4]);
  assertEquals(rest, [null, 1, 7, 3, 4]);
  assertEquals(count(calls, "pwrite64"), 4);
});

test("reports EIO of a read with its place, each part its own", async () => {
  // The reads of opening count too: by the fortieth it is long open.
  const { result, calls } = await traced<Told[]>(
    `
    await using disk = await open();
    for (let i = 0; i < 40; i++) {
      await attempt(disk.readInto(i, sectors(disk, 8, 0)));
    }
    return await Promise.all([64, 72, 128].map((sector) =>
      attempt(disk.readInto(sector, sectors(disk, 8, 0)))));
    `,
    ["preadv:error=EIO", "pread64:error=EIO:when=40+"],
  );
  assertEquals(
    result.map(({ kind, operation, code, sector, count }) =>
      [kind, operation, code, sector, count].join(" ")
    ),
    [64, 72, 128].map((sector) => `io read EIO ${sector} 8`),
  );
  assertEquals(count(calls, "preadv"), 1);
});

test("reports EIO of a merged write by the request that really fails", async () => {
  const { result, calls } = await traced<[(Told | null)[], number[], unknown]>(
    `
    await using disk = await open();
    const errors = await Promise.all([0, 1, 2, 3].map((i) =>
      attempt(disk.write(8 + i * 8, sectors(disk, 8, i + 1)))));
    const now = await disk.read(8, 32);
    return [errors, [0, 1, 2, 3].map((i) => now[i * 4096]), disk.failure];
    `,
    ["pwritev:error=EIO:when=1", "pwrite64:error=EIO:when=3"],
  );
  const [errors, now, failure] = result;
  assertEquals(errors.map((error) => error?.sector ?? null), [
    ...[null, null, 24, null],
  ]);
  assertEquals(errors[2]!.count, 8);
  assertEquals(errors[2]!.code, "EIO");
  assertEquals(now, [1, 2, 7, 4]);
  assertEquals(failure, null);
  assertEquals(count(calls, "pwritev"), 1);
  assertEquals(count(calls, "pwrite64"), 4);
});

test("reports nothing if the parts of a failed merged read work alone", async () => {
  const { result, calls } = await traced<unknown>(
    `
    await using disk = await open();
    const buffers = [0, 1].map(() => sectors(disk, 8, 0));
    const errors = await Promise.all(buffers.map((buffer, i) =>
      attempt(disk.readInto(8 + i * 8, buffer))));
    return [errors, buffers.map((buffer) => buffer[0]), disk.counters.errors];
    `,
    ["preadv:error=EIO"],
  );
  assertEquals(result, [[null, null], [7, 7], 0]);
  assertEquals(count(calls, "preadv"), 1);
});

for (
  const [code, kind] of [
    ["ENOSPC", "no-space"],
    ["EDQUOT", "no-space"],
    ["EFBIG", "no-space"],
    ["EPERM", "permission"],
    ["EROFS", "read-only"],
    ["ENXIO", "io"],
  ]
) {
  test(`calls ${code} of a write ${kind}`, async () => {
    const { result } = await traced<Told>(
      `
      await using disk = await open();
      return await attempt(disk.write(8, sectors(disk, 8, 1)));
      `,
      [`pwrite64:error=${code}`],
    );
    assertEquals(result.kind, kind);
    assertEquals(result.code, code);
  });
}

// Flush

for (const code of ["EIO", "ENOSPC", "EROFS", "EINTR"]) {
  test(`calls fdatasync once if it fails with ${code}, and never again`, async () => {
    const { result, calls } = await traced<Told[]>(
      `
      const disk = await open();
      const all = [];
      await disk.write(8, sectors(disk, 8, 1));
      all.push(await attempt(disk.flush()));
      all.push(await attempt(disk.flush()));
      all.push(await attempt(disk.write(8, sectors(disk, 8, 2))));
      all.push(await attempt(disk.writeZeroes(8, 8)));
      all.push(await attempt(disk.discard(8, 8)));
      all.push({ kind: "read", message: "", sector: (await disk.read(8, 1))[0] });
      all.push(tell(disk.failure));
      await disk.close();
      return all;
      `,
      ["fdatasync:error=" + code],
    );
    assertEquals(result[0]!.operation, "flush");
    assertEquals(result[0]!.code, code);
    for (const error of result.slice(1, 5)) {
      assertEquals(error.kind, "latched");
      assertEquals(error.cause, code);
    }
    assertEquals(result[5]!.sector, 1);
    assertEquals(result[6]!.code, code);
    assertEquals(count(calls, "fdatasync") + count(calls, "fsync"), 1);
    assertEquals(count(calls, "fallocate"), 0);
  });
}

test("does not flush when it is closed", async () => {
  const { calls } = await traced(
    `
    const disk = await open();
    await disk.write(8, sectors(disk, 8, 1));
    await disk.close();
    return null;
    `,
    [],
  );
  assertEquals(count(calls, "fdatasync") + count(calls, "fsync"), 0);
});

// FUA

test("writes and flushes where the kernel knows no RWF_DSYNC", async () => {
  const { result, calls } = await traced<unknown>(
    `
    await using disk = await open();
    const errors = [];
    for (let i = 0; i < 3; i++) {
      errors.push(await attempt(
        disk.write(8, sectors(disk, 8, i), { fua: true })));
    }
    const { fua } = disk.info.durability;
    return [errors, (await disk.read(8, 1))[0], disk.failure, fua];
    `,
    ["pwritev2:error=EOPNOTSUPP"],
  );
  assertEquals(result, [[null, null, null], 2, null, "write + fdatasync"]);
  assertEquals(
    after(calls).filter((call) => call !== "pread64"),
    [
      "pwritev2",
      ...["pwrite64", "fdatasync"],
      ...["pwrite64", "fdatasync"],
      ...["pwrite64", "fdatasync"],
    ],
  );
}, NATIVE);

for (const code of ["EIO", "EINTR", "EAGAIN"]) {
  test(`latches a durable write that fails with ${code}`, async () => {
    const { result, calls } = await traced<(Told | null)[]>(
      `
      await using disk = await open();
      return [
        await attempt(disk.write(8, sectors(disk, 8, 1), { fua: true })),
        await attempt(disk.flush()),
        await attempt(disk.write(8, sectors(disk, 8, 1), { fua: true })),
      ];
      `,
      // A second one would succeed.
      [`pwritev2:error=${code}:when=1`],
    );
    assertEquals(result.map((error) => error?.kind), [
      "io",
      "latched",
      "latched",
    ]);
    assertEquals([result[0]!.sector, result[0]!.code], [8, code]);
    assertEquals(count(calls, "pwritev2"), 1);
    assertEquals(count(calls, "fdatasync"), 0);
  }, NATIVE);
}

test("has durable writes share a flush, and its failure", async () => {
  // Of two flushes at once only one would hear that a write-back failed.
  const { result, calls } = await traced<(Told | null)[]>(
    `
    await using disk = await open({ direct: "never" });
    return await Promise.all([
      attempt(disk.writeZeroes(8, 8, { fua: true })),
      attempt(disk.writeZeroes(24, 8, { fua: true })),
      attempt(disk.write(40, sectors(disk, 8, 1), { fua: true })),
    ]);
    `,
    ["fdatasync:error=EIO:when=1"],
  );
  for (const error of result) {
    assert(["io", "latched"].includes(error?.kind ?? "none"), error?.message);
  }
  assertEquals(count(calls, "fdatasync"), 1);
});

test("makes many durable writes durable with few flushes", async () => {
  const { result, calls } = await traced<unknown>(
    `
    await using disk = await open({ direct: "never" });
    return await Promise.all(Array.from({ length: 64 }, (_, i) =>
      attempt(disk.write(i * 16, sectors(disk, 8, 1), { fua: true }))));
    `,
    [],
  );
  assertEquals(result, Array.from({ length: 64 }, () => null));
  const flushes = count(calls, "fdatasync");
  assert(flushes >= 1 && flushes <= 8, `${flushes} flushes`);
});

test("latches a durable write whose flush fails", async () => {
  const { result, calls } = await traced<(Told | null)[]>(
    `
    await using disk = await open();
    return [
      await attempt(disk.writeZeroes(8, 8, { fua: true })),
      await attempt(disk.writeZeroes(8, 8, { fua: true })),
    ];
    `,
    ["fdatasync:error=EIO"],
  );
  assertEquals(result.map((error) => error?.kind), ["io", "latched"]);
  assertEquals(count(calls, "fdatasync"), 1);
});

// What the file system cannot do

test("writes zeroes where the file system cannot make them", async () => {
  const { result, calls } = await traced<[unknown, Told]>(
    `
    await using disk = await open();
    const errors = [
      await attempt(disk.writeZeroes(8, 8, { unmap: true })),
      await attempt(disk.writeZeroes(24, 16)),
      await attempt(disk.writeZeroes(48, 1, { fua: true })),
    ];
    const now = await disk.read(0, 64);
    const zeroes = [];
    for (let i = 0; i < 64; i++) if (now[i * 512] === 0) zeroes.push(i);
    return [[...errors, zeroes.length], await attempt(disk.discard(8, 8))];
    `,
    ["fallocate:error=EOPNOTSUPP"],
  );
  assertEquals(result[0], [null, null, null, 25]);
  assertEquals(result[1].kind, "unsupported");
  // One try with each mode, and the discard's.
  assertEquals(count(calls, "fallocate"), 3);
});

test("reports EIO of a write of zeroes, and does not write them", async () => {
  const { result, calls } = await traced<Told>(
    `
    await using disk = await open();
    return await attempt(disk.writeZeroes(8, 8));
    `,
    ["fallocate:error=EIO"],
  );
  assertEquals(result.kind, "io");
  assertEquals(result.operation, "write zeroes");
  assertEquals(result.sector, 8);
  assertEquals(count(calls, "pwrite64"), 0);
});

// Opening

test("goes on without O_DIRECT where it is refused, and says why", async () => {
  const { result, lines } = await traced<
    [{ active: boolean; method: null; reason: string }, number]
  >(
    `
    await using disk = await open({ direct: "prefer" });
    await disk.write(1, sectors(disk, 1, 1));
    await disk.flush();
    return [disk.info.direct, (await disk.read(1, 1))[0]];
    `,
    ["openat:error=EINVAL:when=1"],
  );
  const [direct, byte] = result;
  assertEquals(direct.active, false);
  assertEquals(direct.method, null);
  assertMatch(direct.reason, /refuses O_DIRECT/);
  assertEquals(byte, 1);
  assertMatch(lines[0]!, /O_DIRECT.*INJECTED/);
  assertFalse(lines[1]!.includes("O_DIRECT"));
});

test("does not go on without O_DIRECT if it is required", async () => {
  const { result } = await traced<Told>(
    `return await attempt(open({ direct: "require" }));`,
    ["openat:error=EINVAL:when=1"],
  );
  assertEquals(result.kind, "platform");
  assertMatch(result.message, /direct I\/O.*refuses O_DIRECT/);
});

for (
  const [code, kind] of [
    ["EACCES", "permission"],
    ["ENOENT", "not-found"],
    ["EROFS", "read-only"],
    ["EIO", "io"],
    ["EMFILE", "io"],
  ]
) {
  test(`calls ${code} of an open ${kind}`, async () => {
    const { result } = await traced<Told>(
      `return await attempt(open({ backend: "auto" }));`,
      [`openat:error=${code}`],
    );
    assertEquals(result.kind, kind, result.message);
    assertEquals(result.operation, "open");
    assertMatch(result.message, /disk\.img/);
  });
}

// Engines that are not to be had

test("takes libaio where io_uring is forbidden, and says why", async () => {
  const { result } = await traced<{ name: string; reason: string }>(
    `
    await using disk = await open({ engine: "auto" });
    await disk.write(8, sectors(disk, 8, 1));
    await disk.flush();
    if ((await disk.read(8, 1))[0] !== 1) throw new Error("Lost");
    return disk.info.direct.active ? disk.info.engine : null;
    `,
    ["io_uring_setup:error=EPERM"],
    ["io_uring_setup"],
  );
  if (result === null) return;
  assert(["libaio", "sync"].includes(result.name));
  assertMatch(result.reason, /io_uring|µs|cache/);
});

test("takes blocking calls where both are forbidden, and says why", async () => {
  const { result } = await traced<{ name: string; reason: string }>(
    `
    await using disk = await open({ engine: "auto" });
    await disk.write(8, sectors(disk, 8, 1));
    if ((await disk.read(8, 1))[0] !== 1) throw new Error("Lost");
    return disk.info.engine;
    `,
    ["io_uring_setup:error=ENOSYS", "io_setup:error=EAGAIN"],
    ["io_uring_setup", "io_setup"],
  );
  assertEquals(result.name, "sync");
  assert(result.reason.length > 0);
});

for (const engine of ["io_uring", "libaio"]) {
  test(`refuses engine ${engine} if it is asked for and forbidden`, async () => {
    const { result } = await traced<Told>(
      `return await attempt(open({ engine: ${JSON.stringify(engine)} }));`,
      ["io_uring_setup:error=EPERM", "io_setup:error=EPERM"],
      ["io_uring_setup", "io_setup"],
    );
    assertEquals(result.kind, "platform");
    assertMatch(result.message, new RegExp(engine));
  });
}

for (
  const [engine, call] of [
    ["io_uring", "io_uring_enter"],
    ["libaio", "io_submit"],
    ["libaio", "io_getevents"],
    ["libaio", "io_pgetevents"],
  ]
) {
  for (const error of ["EINTR", "EAGAIN"]) {
    test(`goes on after ${error} of ${call}`, async () => {
      const { result } = await traced<Told | string | null>(
        `
        let disk;
        try {
          disk = await open({ engine: ${JSON.stringify(engine)} });
        } catch (error) {
          return tell(error);
        }
        for (let i = 0; i < 20; i++) {
          const all = [];
          for (let k = 0; k < 16; k++) {
            all.push(disk.write(k * 16, sectors(disk, 8, i + k)));
            all.push(disk.readInto(k * 16, sectors(disk, 8, 0)));
          }
          const errors = await Promise.all(all.map(attempt));
          for (const error of errors) if (error !== null) return error;
        }
        for (let k = 0; k < 16; k++) {
          if ((await disk.read(k * 16, 1))[0] !== 19 + k) return "Lost";
        }
        await disk.close();
        return null;
        `,
        [`${call}:error=${error}:when=3+3`],
        [call!],
      );
      // Where there is no such engine at all, there is nothing to see.
      if (result !== null && typeof result !== "string") {
        assertEquals(result.kind, "platform", result.message);
      } else assertEquals(result, null);
    });
  }
}
