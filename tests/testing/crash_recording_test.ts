/**
 * Recordings as files: what was recorded comes back, in another process too,
 * as far as it was written; and nothing else does.
 *
 * @module
 */

import {
  type Backend,
  DiskError,
  MemoryBackend,
  VirtualDisk,
} from "@platter/disk";
import {
  CrashFailure,
  CrashRecorder,
  CrashRecording,
  exploreRecording,
  Random,
  recordWorkload,
} from "@platter/disk/testing";
import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { Buffer } from "node:buffer";
import fs from "node:fs";
import { crc32 } from "node:zlib";
import { LONG, needs, run, tempDir } from "../helpers.ts";

const DEVICE = { sectors: 64 };

/** A workload with requests of every kind. */
async function workload(
  disk: VirtualDisk,
  acknowledge: (value: unknown) => void,
): Promise<void> {
  await disk.write(0, new Uint8Array(1024).fill(1));
  acknowledge({ text: "ünïcode", list: [1, null] });
  await disk.write(8, new Uint8Array(512).fill(1), { fua: true });
  await disk.flush();
  acknowledge(undefined);
  await disk.writeZeroes(0, 4);
  await disk.discard(8, 8);
  await Promise.all([
    disk.write(20, new Uint8Array(2048).fill(2)),
    disk.write(30, new Uint8Array(512)),
  ]);
}

/** Everything that a recording says, as plain data. */
function contentOf(recording: CrashRecording): unknown {
  const { device, requests, events, acknowledged, initial } = recording;
  return {
    device,
    acknowledged,
    events: events.map((event) =>
      event.kind === "acknowledge" ? event : [event.kind, event.request.number]
    ),
    requests: requests.map((request) => ({
      ...request,
      origin: request.origin,
      versions: request.versions.map(({ block, bytes, high, low }) =>
        [block, Buffer.from(bytes).toString("hex"), high, low] as const
      ),
    })),
    initial: Array.from(
      initial.entries(),
      ([block]) => [block, Buffer.from(initial.bytes(block)!).toString("hex")],
    ).toSorted(),
    fingerprint: recording.fingerprint(),
  };
}

/** A base with something on it, not on all of it. */
function makeBase(): Backend {
  const backend = new MemoryBackend({ sectors: 1024 });
  return backend;
}

async function fill(base: Backend): Promise<void> {
  const disk = VirtualDisk.over(base);
  await disk.write(0, new Random(3).bytes(16 * 512));
  await disk.write(700, new Random(4).bytes(512));
  await disk.flush();
}

Deno.test("CrashRecording.open() gives what was recorded, from a recorder's file and from a saved one", async () => {
  await using dir = await tempDir();
  const options = {
    device: {
      ...DEVICE,
      tornBlocks: true,
      atomicWriteBytes: 1024,
      discarded: "zero" as const,
      failFlushes: [2],
    },
    async prepare(disk: VirtualDisk) {
      await disk.write(1, new Uint8Array(512).fill(9));
      await disk.write(40, new Uint8Array(512).fill(8));
    },
    async workload(
      disk: VirtualDisk,
      acknowledge: (value: unknown) => void,
    ) {
      await workload(disk, acknowledge);
      await disk.flush().catch(() => {});
    },
  };
  await using recorded = await recordWorkload({
    ...options,
    path: dir.join("recorded"),
  });
  await using inMemory = await recordWorkload(options);
  assertEquals(
    { ...contentOf(inMemory) as object, requests: null },
    { ...contentOf(recorded) as object, requests: null },
  );
  await recorded.save(dir.join("saved"));
  await inMemory.save(dir.join("saved too"));
  for (const name of ["recorded", "saved", "saved too"]) {
    await using opened = await CrashRecording.open(dir.join(name));
    assertEquals(opened.ended, true);
    assertEquals(
      contentOf(opened),
      contentOf(name === "saved too" ? inMemory : recorded),
    );
    assert(opened.requests.some(({ failed }) => failed));
    assert(opened.requests.some(({ markedCleanAt }) => markedCleanAt >= 0));
    assertStringIncludes(opened.requests[0]!.origin, "crash_recording_test.ts");
  }
});

Deno.test("recordWorkload() leaves no file of a workload that fails", async () => {
  await using dir = await tempDir();
  const path = dir.join("recorded");
  const given = new AbortController();
  const write = (disk: VirtualDisk) => disk.write(1, new Uint8Array(512));
  for (
    const failing of [
      { workload: (disk: VirtualDisk) => write(disk).then(() => fail()) },
      { prepare: fail, workload() {} },
      {
        signal: given.signal,
        async workload(disk: VirtualDisk) {
          await write(disk);
          given.abort(new Error("enough"));
        },
      },
    ]
  ) {
    await assertRejects(
      () => recordWorkload({ device: DEVICE, path, ...failing }),
      Error,
      "enough",
    );
    assertEquals(await Array.fromAsync(Deno.readDir(dir.path)), []);
  }
  // Nor does it take away what is another's.
  await Deno.writeTextFile(path, "precious");
  await assertRejects(
    () => recordWorkload({ device: DEVICE, path, workload: fail }),
    DiskError,
    "not overwritten",
  );
  assertEquals(await Deno.readTextFile(path), "precious");
});

function fail(): never {
  throw new Error("enough");
}

Deno.test("a recording is explored in another process by another check, and its token here", async () => {
  await using dir = await tempDir();
  const path = dir.join("recording");
  await using recorder = await CrashRecorder.create({ device: DEVICE, path });
  {
    await using disk = VirtualDisk.over(recorder.open());
    for (let i = 1; i <= 4; i++) {
      await disk.write(i, new Uint8Array(512).fill(i));
      recorder.acknowledge(i);
    }
  }
  await (await recorder.end()).close();
  const output = await new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "--allow-read",
      new URL("explore_recording_child.ts", import.meta.url).href,
      path,
    ],
    stdout: "piped",
    stderr: "inherit",
  }).output();
  assert(output.success);
  const token = new TextDecoder().decode(output.stdout).trim();
  await using recording = await CrashRecording.open(path);
  assert(token.startsWith(`crash1:${recording.fingerprint()}:`), token);
  const failure = await assertRejects(
    () =>
      exploreRecording<number>(recording, {
        only: token,
        async recover(disk, acknowledged) {
          for (const i of acknowledged) {
            const [byte] = await disk.read(i, 1);
            if (byte !== i) throw new Error(`here, ${i} is gone`);
          }
        },
      }),
    CrashFailure,
  );
  assertStringIncludes(failure.message, "is gone");
});

Deno.test("CrashRecording.open() gives what a killed recorder had written", async () => {
  await using dir = await tempDir();
  const path = dir.join("recording");
  const child = new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "--allow-read",
      "--allow-write",
      new URL("record_child.ts", import.meta.url).href,
      path,
    ],
    stdout: "piped",
    stderr: "inherit",
  }).spawn();
  const lines: number[] = [];
  let text = "";
  let killed = false;
  for await (const bytes of child.stdout) {
    text += new TextDecoder().decode(bytes);
    lines.push(...text.split("\n").slice(0, -1).map(Number));
    text = text.slice(text.lastIndexOf("\n") + 1);
    if (killed || lines.length <= 300) continue;
    killed = true;
    child.kill("SIGKILL");
  }
  await child.status;
  await using recording = await CrashRecording.open(path);
  assertEquals(recording.ended, false);
  // The child prints a number a turn after it acknowledged it.
  const count = recording.acknowledged.length;
  assert(count >= lines.length, `${count} of ${lines.length}`);
  assertEquals(
    recording.acknowledged,
    Array.from({ length: count }, (_, i) => i + 1),
  );
  const writes = recording.requests.filter(({ blocks }) => blocks > 0);
  assert(writes.length >= count);
  for (const [i, { versions }] of writes.entries()) {
    assertEquals(new Set(versions[0]!.bytes), new Set([(i + 1) % 256]));
  }
});

/** The bytes of a small recording's file. */
async function smallFile(path: string): Promise<Uint8Array> {
  const recording = await recordWorkload({ device: DEVICE, path, workload });
  await recording.close();
  return await Deno.readFile(path);
}

Deno.test("CrashRecording.open() gives the beginning of a file that was cut anywhere", async () => {
  await using dir = await tempDir();
  const bytes = await smallFile(dir.join("whole"));
  await using whole = await CrashRecording.open(dir.join("whole"));
  const cut = dir.join("cut");
  let shorter = 0;
  const step = LONG ? 1 : 11;
  for (let length = 0; length < bytes.length; length += step) {
    await Deno.writeFile(cut, bytes.subarray(0, length));
    try {
      await using recording = await CrashRecording.open(cut);
      assertEquals(recording.ended, false);
      const count = recording.events.length;
      assertEquals(
        recording.events.map(({ kind }) => kind),
        whole.events.slice(0, count).map(({ kind }) => kind),
      );
      for (const [i, { versions }] of recording.requests.entries()) {
        assertEquals(
          versions.map(({ bytes }) => bytes),
          whole.requests[i]!.versions.map(({ bytes }) => bytes),
        );
      }
      if (count > 0 && count < whole.events.length) shorter++;
    } catch (error) {
      assertInstanceOf(error, DiskError);
    }
  }
  assert(shorter > 0);
});

Deno.test("CrashRecording.open() takes nothing that was prepared for the workload, wherever a file was cut", async () => {
  await using dir = await tempDir();
  const write = (disk: VirtualDisk, value: number) =>
    disk.write(value, new Uint8Array(512).fill(value));
  // Both a recorder's file and a saved one may be cut before their start.
  await using recorded = await recordWorkload({
    device: { sectors: 8 },
    path: dir.join("recorded"),
    async prepare(disk) {
      for (let value = 1; value < 4; value++) await write(disk, value);
    },
    workload: (disk) => write(disk, 5),
  });
  await recorded.save(dir.join("saved"));
  const cut = dir.join("cut");
  for (const name of ["recorded", "saved"]) {
    const bytes = await Deno.readFile(dir.join(name));
    let [refused, opened] = [0, 0];
    for (let length = 0; length <= bytes.length; length += LONG ? 1 : 7) {
      await Deno.writeFile(cut, bytes.subarray(0, length));
      try {
        await using recording = await CrashRecording.open(cut);
        assert(recording.requests.every(({ sector }) => sector === 5));
        opened++;
      } catch (error) {
        assertInstanceOf(error, DiskError);
        if (error.message.includes("nothing of its workload")) {
          assertEquals(error.kind, "unsupported");
          refused++;
        }
      }
    }
    assert(refused > 0 && (opened > 0 || name === "saved"), name);
  }
});

Deno.test("CrashRecording.open() says that a file is not there", async () => {
  await using dir = await tempDir();
  const path = dir.join("none.rec");
  const error = await assertRejects(
    () => CrashRecording.open(path),
    DiskError,
    `Cannot open the recording "${path}" as there is no such file or directory`,
  );
  assertEquals(error.kind, "not-found");
});

Deno.test("CrashRecording.open() refuses a file with any byte changed", async () => {
  await using dir = await tempDir();
  const bytes = await smallFile(dir.join("whole"));
  const path = dir.join("changed");
  for (let i = 0; i < bytes.length; i += i < 64 || LONG ? 1 : 13) {
    bytes[i]! ^= 1 << i % 8;
    await Deno.writeFile(path, bytes);
    const error = await assertRejects(
      () => CrashRecording.open(path),
      DiskError,
    );
    assert(error.kind === "io" || error.kind === "unsupported", error.message);
    bytes[i]! ^= 1 << i % 8;
  }
});

/** The payloads of a file, by the document and not by the code. */
function payloadsOf(bytes: Uint8Array): Uint8Array[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const payloads: Uint8Array[] = [];
  for (let at = 12; at < bytes.length;) {
    const length = view.getUint32(at, true);
    payloads.push(bytes.subarray(at + 12, at + 12 + length));
    at += 12 + length;
  }
  return payloads;
}

function fileOf(payloads: readonly Uint8Array[]): Uint8Array {
  const parts: Uint8Array[] = [
    new Uint8Array([0x89, 80, 76, 84, 82, 69, 67, 10, 1, 0, 0, 0]),
  ];
  for (const payload of payloads) {
    const head = new Uint8Array(12);
    const view = new DataView(head.buffer);
    view.setUint32(0, payload.length, true);
    view.setUint32(4, crc32(payload), true);
    view.setUint32(8, crc32(head.subarray(0, 8)), true);
    parts.push(head, payload);
  }
  return Uint8Array.from(parts.flatMap((part) => [...part]));
}

Deno.test("CrashRecording.open() opens a file that does not say that it starts, as older ones do", async () => {
  await using dir = await tempDir();
  const [header, ...others] = payloadsOf(await smallFile(dir.join("whole")));
  const text = new TextDecoder().decode(header!.subarray(5));
  const older = new TextEncoder().encode(text.replace(',"starts":true', ""));
  assertEquals(older.length, text.length - 14);
  const payload = new Uint8Array([1, older.length, 0, 0, 0, ...older]);
  new DataView(payload.buffer).setUint32(1, older.length, true);
  for (const [i, rest] of [others, []].entries()) {
    const path = dir.join(`older${i}`);
    await Deno.writeFile(path, fileOf([payload, ...rest]));
    await using recording = await CrashRecording.open(path);
    assertEquals(recording.events.length > 0, rest.length > 0);
  }
});

Deno.test("CrashRecording.open() survives records that are wrong under right checksums", async () => {
  await using dir = await tempDir();
  const payloads = payloadsOf(await smallFile(dir.join("whole")));
  assertEquals(fileOf(payloads), await Deno.readFile(dir.join("whole")));
  const path = dir.join("hostile");
  const random = new Random(11);
  const outcomes = { opened: 0, refused: 0 };
  for (let round = 0; round < (LONG ? 20_000 : 400); round++) {
    const mutated = payloads.map((payload) => payload.slice());
    for (let change = random.below(3); change >= 0; change--) {
      const payload = mutated[random.below(mutated.length)]!;
      // Numbers near an edge find more than others do.
      const edges = [0, 1, 0x7f, 0x80, 0xff, random.below(256)];
      payload[random.below(payload.length)] = edges[random.below(6)]!;
    }
    await Deno.writeFile(path, fileOf(mutated));
    try {
      await using recording = await CrashRecording.open(path);
      recording.fingerprint();
      const { sectors } = recording.device;
      for (const { versions } of recording.requests) {
        for (const { block, bytes } of versions) {
          assert(block * bytes.length < sectors * 512);
        }
      }
      outcomes.opened++;
    } catch (error) {
      assertInstanceOf(error, DiskError, `${error}, round ${round}`);
      outcomes.refused++;
    }
  }
  assert(
    outcomes.opened > 20 && outcomes.refused > 20,
    Deno.inspect(outcomes),
  );
});

for (const what of ["erase", "write"]) {
  Deno.test(`CrashRecording.open() refuses a few bytes that ${what} a disk without an end`, async () => {
    await refusesEndless(what === "write");
  });
}

async function refusesEndless(write: boolean): Promise<void> {
  await using dir = await tempDir();
  const [header, ...rest] = payloadsOf(await smallFile(dir.join("whole")));
  const text = new TextDecoder().decode(header!.subarray(5));
  const json = new TextEncoder().encode(
    text.replace(`"sectors":64`, `"sectors":${2 ** 40}`),
  );
  const huge = new Uint8Array(5 + json.length);
  huge[0] = 1;
  new DataView(huge.buffer).setUint32(1, json.length, true);
  huge.set(json, 5);
  // A discard, or a write of one run of zeroes: types 11 and 1 of virtio-blk.
  const request = new Uint8Array(write ? 35 : 23);
  const view = new DataView(request.buffer);
  request.set([8, write ? 1 : 11]);
  view.setBigUint64(11, write ? 2n ** 28n : 2n ** 40n, true);
  if (write) {
    view.setUint32(23, 1, true);
    view.setUint32(27, 2 ** 28, true);
  }
  const path = await dir.file("huge", fileOf([huge, request, ...rest]));
  const { rss } = Deno.memoryUsage();
  const error = await assertRejects(() => CrashRecording.open(path), DiskError);
  assertStringIncludes(error.message, "134217728 blocks at most");
  // Four bytes for each of the blocks are a GiB.
  assert(Deno.memoryUsage().rss - rss < 256 << 20);
}

Deno.test("CrashRecording.open() says what is no recording, and what is of another version", async () => {
  await using dir = await tempDir();
  const none = await dir.file("none", new TextEncoder().encode("no recording"));
  const error = await assertRejects(() => CrashRecording.open(none), DiskError);
  assertEquals(error.kind, "unsupported");
  const bytes = await smallFile(dir.join("whole"));
  bytes[8] = 2;
  const newer = await dir.file("newer", bytes);
  const other = await assertRejects(
    () => CrashRecording.open(newer),
    DiskError,
    "version must be 1: current value is 2",
  );
  assertEquals(other.kind, "unsupported");
  const missing = await assertRejects(
    () => CrashRecording.open(dir.join("missing")),
    DiskError,
  );
  assertEquals(missing.kind, "not-found");
});

Deno.test("a recording over a base is opened with that base, or with a copy inside", async () => {
  await using dir = await tempDir();
  const base = makeBase();
  await fill(base);
  const path = dir.join("recording");
  await using recorded = await recordWorkload({
    device: {},
    base,
    path,
    async workload(disk) {
      const before = await disk.read(2, 1);
      await disk.write(3, before);
      await disk.flush();
      await disk.write(4, new Uint8Array(512).fill(1));
    },
  });
  const missing = await assertRejects(
    () => CrashRecording.open(path),
    DiskError,
    "a base, which must be given",
  );
  assertEquals(missing.kind, "argument");

  const recover = async (disk: VirtualDisk) => {
    // Overwritten, read, neither of them, and zeroes.
    const [four] = await disk.read(4, 1);
    const old = new Random(3).bytes(16 * 512);
    assert(four === 1 || four === old[4 * 512]);
    assertEquals(await disk.read(2, 1), old.subarray(1024, 1536));
    assertEquals(await disk.read(700, 1), new Random(4).bytes(512));
    assertEquals(await disk.read(900, 1), new Uint8Array(512));
  };
  const report = await exploreRecording(recorded, { recover });
  {
    await using opened = await CrashRecording.open(path, { base });
    assertEquals(opened.fingerprint(), recorded.fingerprint());
    const again = await exploreRecording(opened, { recover });
    assertEquals(again.states, report.states);
    await opened.save(dir.join("with base"), { withBase: true });
  }
  {
    await using opened = await CrashRecording.open(dir.join("with base"));
    assertEquals(contentOf(opened), contentOf(recorded));
    const again = await exploreRecording(opened, { recover });
    assertEquals(again.states, report.states);
  }

  // A change to what was not looked at does no harm; one to what was does.
  const disk = VirtualDisk.over(base);
  await disk.write(900, new Uint8Array(512).fill(1));
  await disk.flush();
  await (await CrashRecording.open(path, { base })).close();
  await disk.write(15, new Uint8Array(512).fill(1));
  await disk.flush();
  const changed = await assertRejects(
    () => CrashRecording.open(path, { base }),
    DiskError,
    "sectors from 0 on are others",
  );
  assertEquals(changed.kind, "argument");
  const other = new MemoryBackend({ sectors: 2048 });
  await assertRejects(
    () => CrashRecording.open(path, { base: other }),
    DiskError,
    "not the shape",
  );
  await smallFile(dir.join("over zeroes"));
  await assertRejects(
    () => CrashRecording.open(dir.join("over zeroes"), { base }),
    DiskError,
    "over zeroes",
  );
});

Deno.test("a recording's file has each content once, and zeroes not at all", async () => {
  await using dir = await tempDir();
  const path = dir.join("recording");
  const recording = await recordWorkload({
    device: { sectors: 65_536 },
    path,
    async workload(disk) {
      const content = new Random(1).bytes(65_536);
      for (let i = 0; i < 100; i++) await disk.write(i * 128, content);
      await disk.write(20_000, new Uint8Array(4 << 20));
      await disk.writeZeroes(30_000, 20_000);
      await disk.discard(0, 65_536);
    },
  });
  await recording.close();
  const { size } = await Deno.stat(path);
  assert(size > 65_536 && size < 80_000, `${size}`);
});

Deno.test("CrashRecorder keeps apart what the start and the end divide", async () => {
  await using recorder = await CrashRecorder.create({ device: DEVICE });
  const [one, two] = [recorder.open(), recorder.open()];
  await using disk = VirtualDisk.over(one);
  await using other = VirtualDisk.over(two);
  await disk.write(0, new Uint8Array(512).fill(1));
  assertEquals((await other.read(0, 1))[0], 1);
  recorder.acknowledge("forgotten");
  recorder.start();
  await other.write(0, new Uint8Array(512).fill(2));
  recorder.acknowledge("kept");
  const recording = await recorder.end();
  assertEquals(recording.requests.length, 1);
  assertEquals(recording.acknowledged, ["kept"]);
  assertEquals(recording.initial.bytes(0)![0], 1);
  assertThrows(() => recorder.acknowledge("late"), Error, "has ended");
  assertThrows(() => recorder.start(), Error, "has ended");
  const late = await assertRejects(
    () => disk.write(0, new Uint8Array(512)),
    DiskError,
  );
  assertEquals(late.kind, "closed");
  assertEquals(await recorder.end(), recording);
});

Deno.test("CrashRecorder never tries again to end what could not be made durable", async () => {
  await using dir = await tempDir();
  const path = dir.join("recording");
  await using recorder = await CrashRecorder.create({ device: DEVICE, path });
  await using disk = VirtualDisk.over(recorder.open());
  await disk.write(0, new Uint8Array(512).fill(1));
  const { fsyncSync } = fs;
  let calls = 0;
  fs.fsyncSync = () => {
    if (++calls === 1) throw new Error("EIO: i/o error, fsync");
  };
  try {
    const first = await assertRejects(() => recorder.end(), DiskError, "EIO");
    const size = (await Deno.stat(path)).size;
    const second = await assertRejects(() => recorder.end());
    assertEquals(second, first);
    assertEquals(recorder.failure, first);
    assertEquals(calls, 1);
    assertEquals((await Deno.stat(path)).size, size);
  } finally {
    fs.fsyncSync = fsyncSync;
  }
  await using opened = await CrashRecording.open(path);
  assertEquals(opened.requests.length, 1);
});

Deno.test("save() gives up when its signal fires, and leaves no file", async () => {
  await using dir = await tempDir();
  const base = new MemoryBackend({ sectors: 1024 });
  const device = {};
  await using recording = await recordWorkload({ device, base, workload });
  for (const early of [true, false]) {
    const controller = new AbortController();
    const { signal } = controller;
    const path = dir.join("recording");
    if (early) controller.abort(new Error("given up"));
    const saved = recording.save(path, { withBase: true, signal });
    controller.abort(new Error("given up"));
    await assertRejects(() => saved, Error, "given up");
    await assertRejects(() => Deno.stat(path), Deno.errors.NotFound);
  }
});

Deno.test("CrashRecorder refuses to acknowledge into a file what cannot be JSON", async () => {
  await using dir = await tempDir();
  const path = dir.join("recording");
  await using recorder = await CrashRecorder.create({ device: DEVICE, path });
  assertThrows(() => recorder.acknowledge(1n), TypeError, "JSON");
  assertThrows(() => recorder.acknowledge(() => {}), TypeError, "JSON");
  recorder.acknowledge("right");
  await using recording = await recorder.end();
  assertEquals(recording.acknowledged, ["right"]);
});

Deno.test({
  name: "CrashRecorder fails with the system's word if its file cannot grow",
  ...needs("prlimit"),
  async fn() {
    await using dir = await tempDir();
    const path = dir.join("recording");
    // The signal is ignored.
    const output = await new Deno.Command("sh", {
      args: [
        "-c",
        `trap "" XFSZ; exec "$0" run -A --no-check --no-code-cache "$1" "$2"`,
        Deno.execPath(),
        new URL("record_limited_child.ts", import.meta.url).pathname,
        path,
      ],
      stdout: "piped",
      stderr: "inherit",
    }).output();
    assertEquals(
      new TextDecoder().decode(output.stdout).trim(),
      "no-space no-space",
    );
    // What was written is the beginning.
    await using recording = await CrashRecording.open(path);
    assertEquals(recording.ended, false);
    assert(recording.requests.length > 10);
  },
});

Deno.test("CrashRecorder and save() overwrite nothing", async () => {
  await using dir = await tempDir();
  const path = await dir.file("there", new Uint8Array(3).fill(7));
  const error = await assertRejects(
    () => CrashRecorder.create({ device: DEVICE, path }),
    DiskError,
  );
  assertEquals(error.kind, "exists");
  await using recording = await recordWorkload({ device: DEVICE, workload });
  assertEquals(
    (await assertRejects(() => recording.save(path), DiskError)).kind,
    "exists",
  );
  assertEquals(await Deno.readFile(path), new Uint8Array(3).fill(7));
});

Deno.test(
  "CrashRecording.open() refuses a pipe instead of waiting for its writer",
  {
    ignore: Deno.build.os === "windows",
  },
  async () => {
    await using dir = await tempDir();
    const path = dir.join("pipe");
    await run("mkfifo", [path]);
    const error = await assertRejects(
      () => CrashRecording.open(path),
      DiskError,
    );
    assertEquals(error.kind, "unsupported");
  },
);
