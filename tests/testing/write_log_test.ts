/**
 * Logs of dm-log-writes: what QEMU wrote is read as what was done, and what is
 * written says, to a reader of its own, what the recording says.
 *
 * @module
 */

import { DiskError, RequestType, type VirtualDisk } from "@platter/disk";
import {
  type CrashDevice,
  CrashRecording,
  exploreRecording,
  Random,
  readWriteLog,
  recordWorkload,
  writeWriteLog,
} from "@platter/disk/testing";
import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertRejects,
} from "@std/assert";
import { ZeroSource } from "../../src/testing/block_source.ts";
import { ContentStore } from "../../src/testing/content_store.ts";
import { completeCrashDevice } from "../../src/testing/crash_device.ts";
import { RecordingLog } from "../../src/testing/recording_log.ts";
import { TemporaryContents } from "../../src/testing/temporary_contents.ts";
import { LONG, needs, run, type TempDir, tempDir } from "../helpers.ts";

/** An entry of a log, as a reader finds it that knows nothing but the format. */
interface Entry {
  sector: number;
  count: number;
  flags: number;
  mark: string;
  data: Uint8Array;
}

/** Reads a log by `struct log_write_super` and `struct log_write_entry`. */
function entriesOf(log: Uint8Array): { size: number; entries: Entry[] } {
  const view = new DataView(log.buffer, log.byteOffset);
  assertEquals(view.getBigUint64(0, true), 0x6a736677736872n);
  assertEquals(view.getBigUint64(8, true), 1n);
  const size = view.getUint32(24, true);
  const entries: Entry[] = [];
  let at = size;
  for (let left = Number(view.getBigUint64(16, true)); left > 0; left--) {
    const [sector, count, flags, length] = [0, 8, 16, 24].map((offset) =>
      Number(view.getBigUint64(at + offset, true))
    ) as [number, number, number, number];
    const mark = new TextDecoder().decode(
      log.subarray(at + 32, at + 32 + length),
    );
    at += size;
    const bytes = (flags & 4) === 0 ? count * size : 0;
    entries.push({
      sector,
      count,
      flags,
      mark,
      data: log.subarray(at, at + bytes),
    });
    at += bytes;
  }
  assertEquals(at, log.length);
  return { size, entries };
}

/** The image that a log leaves, discards as zeroes. */
function replay(log: Uint8Array, sectors: number): Uint8Array {
  const image = new Uint8Array(sectors * 512);
  const { size, entries } = entriesOf(log);
  for (const { sector, count, flags, data } of entries) {
    if ((flags & 4) !== 0) {
      image.fill(0, sector * size, (sector + count) * size);
    } else image.set(data, sector * size);
  }
  return image;
}

/** The image that a recording leaves if everything reaches the medium. */
function imageOf({ device, requests, initial }: CrashRecording): Uint8Array {
  const image = new Uint8Array(device.sectors * 512);
  for (const [block] of initial.entries()) {
    image.set(initial.bytes(block)!, block * device.blockSize);
  }
  for (const { versions } of requests) {
    for (const { block, bytes } of versions) {
      image.set(bytes, block * device.blockSize);
    }
  }
  return image;
}

/** Requests and acknowledgements in a line each. */
function linesOf({ events, acknowledged }: CrashRecording): string[] {
  let values = 0;
  return events.flatMap((event) => {
    if (event.kind === "acknowledge") return [`ack ${acknowledged[values++]}`];
    if (event.kind === "complete") return [];
    const { type, sector, count, fua, versions } = event.request;
    const name = { 1: "write", 4: "flush", 11: "discard", 13: "zero" }[
      type as number
    ];
    const byte = versions[0]?.bytes[0] ?? "";
    return [`${name} ${sector} ${count} ${byte}${fua ? " fua" : ""}`];
  });
}

async function fixture(dir: TempDir, size: number): Promise<string> {
  const url = new URL(
    `fixtures/blklogwrites_${size}.log.gz`,
    import.meta.url,
  );
  const stream = new Blob([await Deno.readFile(url)]).stream()
    .pipeThrough(new DecompressionStream("gzip"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  return await dir.file(`log ${size}`, bytes);
}

/**
 * What the commands of `fixtures/README.md` do. FUA is a flush behind the write
 * there, and a flush of qemu-io's is two.
 */
const DONE = [
  "write 0 16 1",
  "write 32 8 2",
  "flush 0 0 ",
  "flush 0 0 ",
  "write 128 16 0",
  "discard 8 8 0",
  "write 64 8 3",
  "flush 0 0 ",
  "write 0 8 5",
  "flush 0 0 ",
  "flush 0 0 ",
];

for (const size of [512, 4096]) {
  Deno.test(`readWriteLog() reads what QEMU logged in sectors of ${size} bytes`, async () => {
    await using dir = await tempDir();
    const path = await fixture(dir, size);
    await using recording = await readWriteLog(path, {
      device: { sectors: 2048 },
      path: dir.join("recording"),
    });
    assertEquals(recording.device.blockSize, size);
    assertEquals(linesOf(recording), DONE);
    assertEquals(imageOf(recording), replay(await Deno.readFile(path), 2048));
    await using opened = await CrashRecording.open(dir.join("recording"));
    assertEquals(opened.fingerprint(), recording.fingerprint());
    await using shortest = await readWriteLog(path);
    assertEquals(shortest.device.sectors, 144);
    const report = await exploreRecording(recording, {
      recover: async (disk) => void await disk.read(0, 8),
    });
    assert(report.states > 4);
  });

  Deno.test({
    name: `readWriteLog() reads what QEMU logs in sectors of ${size} bytes`,
    ...needs("qemu-io"),
    async fn() {
      await using dir = await tempDir();
      const random = new Random(size);
      const commands = Array.from({ length: 60 }, () => {
        const at = 4 * random.below(200);
        const kind = random.below(5);
        return kind === 0
          ? "flush"
          : kind === 1
          ? `write -z ${at}k ${4 * (1 + random.below(8))}k`
          : kind === 2
          ? `write -f -P ${random.below(256)} ${at}k 4k`
          : `write -P ${random.below(256)} ${at}k ${
            4 * (1 + random.below(8))
          }k`;
      });
      const image = await dir.file("disk.img", 1 << 20);
      const log = await dir.file("log", 0);
      await run("qemu-io", [
        "--image-opts",
        ...[...commands, "flush"].flatMap((command) => ["-c", command]),
        `driver=blklogwrites,log-sector-size=${size},file.driver=file,file.filename=${image},log.driver=file,log.filename=${log}`,
      ]);
      await using recording = await readWriteLog(log, {
        device: { sectors: 2048 },
      });
      assertEquals(imageOf(recording), await Deno.readFile(image));
      const kinds = linesOf(recording).map((line) => line.split(" ")[0]);
      const writes = commands.filter((command) => command.startsWith("write"));
      assertEquals(
        kinds.filter((kind) => kind === "write").length,
        writes.length,
      );
      // QEMU's log driver has no FUA: the block layer flushes after it.
      const flushes = kinds.filter((kind) => kind === "flush").length;
      assert(
        flushes >=
          commands.filter((command) => /^flush|-f/.test(command)).length,
      );
    },
  });
}

Deno.test({
  name: "writeWriteLog() writes what QEMU takes to append to",
  ...needs("qemu-io"),
  async fn() {
    await using dir = await tempDir();
    const log = dir.join("log");
    await using recording = await recordWorkload({
      device: { sectors: 2048 },
      async workload(disk, acknowledge) {
        await disk.write(0, new Uint8Array(4096).fill(1));
        await disk.flush();
        acknowledge("one");
        await disk.discard(8, 8);
      },
    });
    await writeWriteLog(recording, log);
    const image = await dir.file("disk.img", 1 << 20);
    await run("qemu-io", [
      "--image-opts",
      "-c",
      "write -P 9 64k 4k",
      "-c",
      "flush",
      `driver=blklogwrites,log-append=on,file.driver=file,file.filename=${image},log.driver=file,log.filename=${log}`,
    ]);
    await using appended = await readWriteLog(log, {
      device: { sectors: 2048 },
    });
    assertEquals(linesOf(appended).slice(0, 6), [
      "write 0 8 1",
      "flush 0 0 ",
      "ack one",
      "discard 8 8 0",
      "write 128 8 9",
      "flush 0 0 ",
    ]);
  },
});

for (
  const [blockSize, sectorSize] of [
    [512, 512],
    [4096, 4096],
    [4096, 512],
  ] as const
) {
  Deno.test(`a recording in blocks of ${blockSize} bytes goes into a log in sectors of ${sectorSize} and comes back`, async () => {
    await using dir = await tempDir();
    await using recording = await recordWorkload<unknown>({
      device: { sectors: 1024, blockSize: blockSize },
      async prepare(disk) {
        await disk.write(8, new Random(1).bytes(8192));
      },
      async workload(disk, acknowledge) {
        const random = new Random(blockSize);
        for (let i = 0; i < 80; i++) {
          const at = 8 * random.below(120);
          const kind = random.below(8);
          if (kind === 0) await disk.flush();
          else if (kind === 1) acknowledge(i % 2 ? `mark ${i}` : { mark: i });
          else if (kind === 2) await disk.discard(at, 16);
          else if (kind === 3) await disk.writeZeroes(at, 16);
          else {
            const data = random.bytes(4096 * (1 + random.below(3)));
            await disk.write(at, data, { fua: kind === 4 });
          }
        }
      },
    });
    const [first, second] = [dir.join("first"), dir.join("second")];
    await writeWriteLog(recording, first, { sectorSize });
    const bytes = await Deno.readFile(first);
    assertEquals(replay(bytes, 1024), imageOf(recording));
    const { entries, size } = entriesOf(bytes);
    assertEquals(size, sectorSize);
    const flags = (flag: number) =>
      entries.filter((entry) => (entry.flags & flag) !== 0);
    const count = (test: (line: string) => boolean) =>
      linesOf(recording).filter(test).length;
    assertEquals(
      flags(1).length,
      1 + count((line) => line.startsWith("flush")),
    );
    assertEquals(flags(2).length, count((line) => line.endsWith("fua")));
    assertEquals(flags(4).length, count((line) => line.startsWith("discard")));
    assertEquals(
      flags(8).map(({ mark }) => mark),
      [
        "platter-start",
        ...recording.acknowledged.map((value) =>
          typeof value === "string" ? value : JSON.stringify(value)
        ),
      ],
    );

    await using again = await readWriteLog(first, {
      device: { sectors: 1024, blockSize },
    });
    assertEquals(imageOf(again), imageOf(recording));
    assertEquals(again.requests.length, recording.requests.length);
    await writeWriteLog(again, second, { sectorSize });
    assertEquals(await Deno.readFile(second), bytes);
    const recover = async (disk: VirtualDisk) => void await disk.read(0, 8);
    const options = { recover, maxStates: 2000 };
    assertEquals(
      (await exploreRecording(again, options)).states,
      (await exploreRecording(recording, options)).states,
    );
  });
}

/** Requests other than writes, by the letter at the end of their names. */
const TYPES = {
  d: RequestType.Discard,
  z: RequestType.WriteZeroes,
  e: RequestType.SecureErase,
} as const;

/**
 * What happened, in words: `s1` submits the write of sector 1, `s0+4=9!` a durable
 * one of four sectors from 0, of nines; `cF` completes the flush F. To discard
 * ends in `d`, to write zeroes in `z`, to erase in `e`.
 */
function recordingOf(text: string, promises: CrashDevice = {}): CrashRecording {
  const device = completeCrashDevice({ sectors: 64, ...promises });
  const file = new TemporaryContents(512);
  const contents = new ContentStore(512, file, Infinity);
  const log = new RecordingLog(device, contents);
  const requests = new Map<string, ReturnType<RecordingLog["submit"]>>();
  for (const word of text.split(" ")) {
    const [action, name] = [word[0], word.slice(1)];
    if (action === "s") {
      const flush = /[A-Z]/.test(name);
      const [sector = 0, count = 1, byte = sector] = flush
        ? [0, 0]
        : name.match(/\d+/g)!.map(Number);
      const other = name.match(/[dze]$/)?.[0] as keyof typeof TYPES | undefined;
      for (let i = 0; other === undefined && i < count; i++) {
        log.numbers.push(contents.add(new Uint8Array(512).fill(byte)));
      }
      const request = {
        type: flush
          ? RequestType.Flush
          : other === undefined
          ? RequestType.Out
          : TYPES[other],
        sector,
        count,
        // An odd write from 9 on is durable by itself.
        fua: name === "9" || name.includes("!"),
        writes: !flush,
      };
      requests.set(name, log.submit(request, null));
    } else if (action === "c") log.complete(requests.get(name)!);
    else log.acknowledge(name);
  }
  log.completeInitial(false);
  return new CrashRecording({
    device,
    log,
    contents,
    source: new ZeroSource(512),
    base: null,
    ended: true,
  });
}

for (
  const [title, happened, logged, promises] of [
    [
      "what completed after a flush was submitted behind it",
      "s1 s2 s3 c3 c2 sF c1 cF",
      "2 3 F 1",
    ],
    [
      "a durable write where it completed",
      "s1 c1 s9 c9 s2 c2 sF cF",
      "1 9 2 F",
    ],
    ["a durable write as any other if it is in flight", "s9 s1 c1", "9- 1"],
    [
      "a mark behind what was submitted before it",
      "s1 c1 s2 ma c2 sF cF mb",
      "1 2 a F b",
    ],
    [
      "a mark before a flush in flight, and before what that does not cover",
      "s1 c1 sF s2 c2 ma cF",
      "1 a F 2",
    ],
    [
      "what a later flush covers before an earlier one that lags",
      "s1 c1 sF s2 c2 sG cG s3 c3 cF",
      "1 2 G F 3",
    ],
    [
      "what is in flight at the end behind the last flush",
      "s1 s2 sF c2 cF s3",
      "F 1 2 3",
    ],
    [
      "what a flush in flight does not cover behind it, durable writes or not",
      "s1 c1 sF s2 c2 s9 c9 cF",
      "1 9 F 2",
    ],
    [
      "what the later of two flushes covers behind the earlier one",
      "s1 c1 sF s2 c2 sG ma cF cG",
      "1 a F 2 G",
    ],
    [
      "what is older than a durable write before it, where the order is kept",
      "s1 c1 sF s2 c2 s3 s9 c9 cF s4",
      "1 2 3 9 F 4",
      { reorders: false },
    ],
    [
      "what is older than what a flush covers before that, where the order is kept",
      "s1 s2 c2 sF s3 c3 cF",
      "1 2 F 3",
      { reorders: false },
    ],
    [
      "what is newer behind a durable write in flight, where the order is kept",
      "s9 s1 c1 ma c9",
      "a 9 1",
      { reorders: false },
    ],
  ] as [string, string, string, CrashDevice?][]
) {
  Deno.test(`writeWriteLog() puts ${title}`, async () => {
    await using dir = await tempDir();
    await using recording = recordingOf(happened, promises);
    await writeWriteLog(recording, dir.join("log"));
    const { entries } = entriesOf(await Deno.readFile(dir.join("log")));
    let flush = 0;
    const order = happened.split(" ").filter((word) => /^c[A-Z]/.test(word));
    assertEquals(
      entries.map(({ flags, mark, sector, data }) => {
        if (flags === 8) return mark;
        if (flags === 1) return order[flush++]![1];
        assertEquals(data, new Uint8Array(512).fill(sector));
        const durable = flags === 2;
        return `${sector}${sector === 9 && !durable ? "-" : ""}`;
      }).join(" "),
      logged,
    );
  });
}

/** A log made of entries, by the format alone. */
function logOf(
  entries: readonly Partial<Entry>[],
  count = entries.length,
): Uint8Array {
  const sectors: Uint8Array[] = [];
  const first = new Uint8Array(512);
  const view = new DataView(first.buffer);
  view.setBigUint64(0, 0x6a736677736872n, true);
  view.setBigUint64(8, 1n, true);
  view.setBigUint64(16, BigInt(count), true);
  view.setUint32(24, 512, true);
  sectors.push(first);
  for (
    const { sector = 0, count = 0, flags = 0, mark = "", data } of entries
  ) {
    const head = new Uint8Array(512);
    const text = new TextEncoder().encode(mark);
    for (const [i, n] of [sector, count, flags, text.length].entries()) {
      new DataView(head.buffer).setBigUint64(8 * i, BigInt(n), true);
    }
    head.set(text, 32);
    sectors.push(head);
    if (data !== undefined) sectors.push(data);
  }
  return Uint8Array.from(sectors.flatMap((bytes) => [...bytes]));
}

/** Each write in a log, as `sector+count=byte`, FUA as `!`; `F` is a flush. */
async function writesIn(
  recording: CrashRecording,
  dir: TempDir,
): Promise<string> {
  const log = dir.join("log");
  await writeWriteLog(recording, log);
  const { entries } = entriesOf(await Deno.readFile(log));
  return entries.map(({ flags, mark, sector, count, data }) => {
    if (flags === 8) return mark;
    if (flags === 1) return "F";
    const what = (flags & 4) !== 0 ? "d" : `=${data[0]}`;
    return `${sector}+${count}${what}${(flags & 2) !== 0 ? "!" : ""}`;
  }).join(" ");
}

Deno.test("writeWriteLog() puts what a durable write replaces before it", async () => {
  await using dir = await tempDir();
  await using recording = await recordWorkload<string>({
    device: { sectors: 8 },
    async workload(disk, acknowledge) {
      await disk.write(0, new Uint8Array(512).fill(1));
      await disk.write(0, new Uint8Array(512).fill(2), { fua: true });
      acknowledge("two");
      await disk.write(1, new Uint8Array(512).fill(9));
      await disk.flush();
    },
  });
  assertEquals(await writesIn(recording, dir), "0+1=1 0+1=2! two 1+1=9 F");
  await using again = await readWriteLog(dir.join("log"), {
    device: { sectors: 8 },
  });
  await exploreRecording<string>(again, {
    async recover(disk, acknowledged) {
      const [byte] = await disk.read(0, 1);
      if (acknowledged.includes("two")) assertEquals(byte, 2);
    },
  });
});

/** What a power cut may leave of a recording, each with what was acknowledged. */
async function statesOf(recording: CrashRecording): Promise<string[]> {
  const states = new Set<string>();
  const { exhaustive } = await exploreRecording(recording, {
    ...{ progress: false, allowNoProof: true, maxStates: 1e6 },
    async recover(disk, acknowledged) {
      const bytes = await disk.read(0, 4);
      // A block is of one byte, or torn in the middle.
      const values = [0, 1, 2, 3].map((sector) =>
        `${bytes[512 * sector]}/${bytes[512 * sector + 511]}`
      );
      states.add(`${acknowledged.length} ${values}`);
    },
  });
  assert(exhaustive);
  return [...states].sort();
}

/** A device of four sectors. */
function drawDevice(random: Random): CrashDevice {
  return {
    sectors: 4,
    cache: random.chance(1, 5) ? "writethrough" : "writeback",
    reorders: random.chance(1, 2),
    tornBlocks: random.chance(1, 3),
    atomicWriteBytes: [0, 0, 512, 1024][random.below(4)]!,
    honorsFlush: !random.chance(1, 8),
    honorsFua: !random.chance(1, 5),
    discarded: (["zero", "old", "either"] as const)[random.below(3)]!,
  };
}

/** How a workload makes its requests. */
interface Manner {
  /** Requests in flight, at most. */
  inFlight: number;
  /** Whether one that makes something durable is in flight by itself. */
  alone: boolean;
  /** Whether something is acknowledged meanwhile. */
  acknowledges: boolean;
}

/** A workload for a device, as `recordingOf()` takes it. */
function drawWords(
  random: Random,
  device: CrashDevice,
  { inFlight, alone, acknowledges }: Manner,
): string {
  const words = ["s0+4=99", "c0+4=99", "sA", "cA"];
  const open: string[] = [];
  const complete = (most: number) => {
    while (open.length > most) {
      words.push(`c${open.splice(random.below(open.length), 1)}`);
    }
  };
  // States of torn blocks are many.
  const most = device.tornBlocks ? 4 : 6;
  for (let i = 1; i <= most; i++) {
    const flush = random.chance(1, 5);
    const durable = !flush && random.chance(1, 3) ? "!" : "";
    const sector = random.below(4);
    const count = 1 + random.below(Math.min(3, 4 - sector));
    let type = random.chance(1, 2) ? "" : "ddzee"[random.below(5)]!;
    // What a log cannot say of erasing: see docs/recordings.md.
    const { atomicWriteBytes, tornBlocks, cache } = device;
    const vague = tornBlocks || durable !== "" || cache === "writethrough";
    if (atomicWriteBytes! > 0 && vague) type = type.replace("e", "z");
    const name = flush ? `F${i}` : `${sector}+${count}=${i}${durable}${type}`;
    const by = alone &&
      (flush || durable !== "" || cache === "writethrough");
    complete(by ? 0 : inFlight - 1);
    words.push(`s${name}`);
    open.push(name);
    if (by || inFlight === 1) complete(0);
    else if (random.chance(1, 3)) complete(random.below(inFlight));
    if (acknowledges && random.chance(1, 4)) words.push(`m${i}`);
  }
  if (random.chance(1, 2)) complete(0);
  return words.join(" ");
}

for (
  const [title, manner, same] of [
    [
      "just what its recording does, one request after the other",
      { inFlight: 1, alone: true, acknowledges: true },
      () => true,
    ],
    [
      "just what its recording does, where nothing durable is made beside others",
      { inFlight: 4, alone: true, acknowledges: true },
      () => true,
    ],
    [
      "just what its recording does, on a device that keeps the order",
      { inFlight: 4, alone: false, acknowledges: false },
      ({ reorders }) => reorders === false,
    ],
    [
      "nothing else than its recording, whatever is in flight",
      { inFlight: 4, alone: false, acknowledges: true },
      () => false,
    ],
  ] as [string, Manner, (device: CrashDevice) => boolean][]
) {
  Deno.test(`a log leaves after a power cut ${title}`, async () => {
    await using dir = await tempDir();
    for (let seed = 1; seed <= (LONG ? 2000 : 100); seed++) {
      const random = new Random(seed);
      const device = drawDevice(random);
      const words = drawWords(random, device, manner);
      await using recording = recordingOf(words, device);
      const log = dir.join(`log ${seed}`);
      await writeWriteLog(recording, log);
      await using again = await readWriteLog(log, { device });
      const expected = await statesOf(recording);
      const states = await statesOf(again);
      const message = `seed ${seed}: ${JSON.stringify(device)} ${words}`;
      if (same(device)) assertEquals(states, expected, message);
      const extra = states.filter((state) => !expected.includes(state));
      assertEquals(extra, [], message);
    }
  });
}

Deno.test("a log keeps that a discard or a write of zeroes is durable by itself", async () => {
  await using dir = await tempDir();
  const device = { sectors: 8192, discarded: "zero" } as const;
  const words = "s0+4=1 c0+4=1 s1+2=0!d c1+2=0!d s8+4096=0!z c8+4096=0!z";
  await using recording = recordingOf(words, device);
  assertEquals(
    await writesIn(recording, dir),
    "0+4=1 1+2d! 8+4096=0!",
  );
  await using again = await readWriteLog(dir.join("log"), { device });
  assertEquals(linesOf(again), [
    "write 0 4 1",
    "discard 1 2 0 fua",
    "zero 8 4096 0 fua",
  ]);
});

Deno.test("writeWriteLog() puts what a durable discard replaces before it", async () => {
  await using dir = await tempDir();
  await using recording = recordingOf("sF s0+2=1 c0+2=1 s0+1=2!d c0+1=2!d cF", {
    discarded: "zero",
  });
  assertEquals(await writesIn(recording, dir), "0+1=1 0+1d! F 1+1=1");
});

Deno.test("writeWriteLog() writes block by block what is no atomic write and would be read as one", async () => {
  await using dir = await tempDir();
  await using recording = recordingOf(
    "s0+2=1 c0+2=1 s0+2=0e c0+2=0e s0+4=3z c0+4=3z sF s4+6=2 c4+6=2 s4+2=9! c4+2=9! cF",
    { atomicWriteBytes: 1024 },
  );
  assertEquals(
    await writesIn(recording, dir),
    "0+2=1 0+1=0 1+1=0 0+4=0 4+1=2 5+1=2 4+2=9! F 6+4=2",
  );
});

Deno.test("writeWriteLog() does not split an atomic write", async () => {
  await using dir = await tempDir();
  await using recording = recordingOf(
    "sF s0+2=1 c0+2=1 s0+1=2! c0+1=2! cF",
    { atomicWriteBytes: 1024 },
  );
  assertEquals(await writesIn(recording, dir), "0+2=1 0+1=2! F");
});

Deno.test("writeWriteLog() puts only what a durable write replaces before a flush that does not cover it", async () => {
  await using dir = await tempDir();
  await using recording = recordingOf(
    "s7 c7 sF s0+4=1 c0+4=1 s1+2=2! c1+2=2! s2+1=3 c2+1=3 cF",
  );
  assertEquals(
    await writesIn(recording, dir),
    "7+1=7 1+2=1 1+2=2! F 0+1=1 3+1=1 2+1=3",
  );
});

Deno.test("writeWriteLog() puts what is in flight and replaced before the durable write", async () => {
  await using dir = await tempDir();
  await using recording = recordingOf("s0+2=1 s0+1=2! c0+1=2! c0+2=1");
  assertEquals(await writesIn(recording, dir), "0+2=1 0+1=2!");
});

Deno.test("writeWriteLog() writes at once what is durable without a flush", async () => {
  await using dir = await tempDir();
  await using recording = recordingOf("s1 c1 sF s2 c2 ma cF", {
    cache: "writethrough",
  });
  assertEquals(await writesIn(recording, dir), "1+1=1 2+1=2 a F");
});

Deno.test("a log keeps texts that are acknowledged and look like its own marks", async () => {
  const texts = ["platter-start", "dm-log-writes-end"];
  for (const prepared of [false, true]) {
    await using dir = await tempDir();
    await using recording = await recordWorkload<string>({
      device: { sectors: 8 },
      async prepare(disk) {
        if (prepared) await disk.write(0, new Uint8Array(512).fill(1));
      },
      async workload(disk, acknowledge) {
        await disk.write(1, new Uint8Array(512).fill(2));
        for (const text of texts) acknowledge(text);
      },
    });
    await writeWriteLog(recording, dir.join("log"));
    await using again = await readWriteLog(dir.join("log"));
    assertEquals(again.acknowledged, texts);
    assertEquals(again.requests.length, 1);
  }
});

Deno.test("readWriteLog() reads what only the kernel writes", async () => {
  await using dir = await tempDir();
  const data = new Uint8Array(512).fill(7);
  const path = await dir.file(
    "log",
    logOf([
      { sector: 1, count: 1, flags: 16, data },
      { sector: 2, count: 1, flags: 1 | 2 | 16, data },
      { flags: 8, mark: "ünï" },
      { flags: 8, mark: "dm-log-writes-end" },
      { flags: 8, mark: "dm-log-writes-end" },
    ]),
  );
  await using recording = await readWriteLog(path);
  assertEquals(linesOf(recording), [
    "write 1 1 7",
    "flush 0 0 ",
    "write 2 1 7 fua",
    "ack ünï",
    "ack dm-log-writes-end",
  ]);
});

Deno.test("readWriteLog() keeps many zeroes as a request for zeroes", async () => {
  await using dir = await tempDir();
  const count = 2 ** 15;
  const path = await dir.file("log", logOf([{ sector: 0, count }]));
  await Deno.truncate(path, 1024 + count * 512);
  await using recording = await readWriteLog(path, {
    device: { blockSize: 4096 },
  });
  assertEquals(linesOf(recording), [`zero 0 ${count} 0`]);
});

for (
  const [title, log, kind, message] of [
    ["is empty", new Uint8Array(0), "unsupported", "empty"],
    ["is none", new Uint8Array(512).fill(1), "unsupported", "none of"],
    ["has no superblock", new Uint8Array(512), "unsupported", "no superblock"],
    ["ends before its entries do", logOf([{}], 2 ** 40), "io", "ends within"],
    ["ends in its data", logOf([{ count: 9 }]), "io", "ends within"],
    [
      "has flags that there are not",
      logOf([{ flags: 32 }]),
      "io",
      "flags 0x20",
    ],
    [
      "writes behind the device",
      logOf([{ sector: 64, count: 1, data: new Uint8Array(512) }]),
      "io",
      "64 sectors",
    ],
    [
      "writes nowhere",
      logOf([{ sector: 2 ** 60, count: 1, flags: 4 }]),
      "io",
      "no device",
    ],
  ] as const
) {
  Deno.test(`readWriteLog() refuses a log that ${title}`, async () => {
    await using dir = await tempDir();
    const path = await dir.file("log", log);
    const error = await assertRejects(
      () => readWriteLog(path, { device: { sectors: 64 } }),
      DiskError,
      message,
    );
    assertEquals(error.kind, kind);
  });
}

Deno.test("readWriteLog() survives any byte of a log changed", async () => {
  await using dir = await tempDir();
  const log = await Deno.readFile(await fixture(dir, 512));
  const random = new Random(2);
  let refused = 0;
  for (let round = 0; round < (LONG ? 5000 : 150); round++) {
    const changed = log.slice();
    for (let change = random.below(3); change >= 0; change--) {
      // Heads of entries are where it matters.
      const at = 512 * random.below(log.length / 512) + random.below(32);
      changed[at] = random.below(256);
    }
    const path = await dir.file("changed", changed);
    try {
      await (await readWriteLog(path, { device: { sectors: 2048 } })).close();
    } catch (error) {
      assertInstanceOf(error, DiskError, `${error}`);
      refused++;
    }
  }
  assert(refused > 10);
});

Deno.test("writeWriteLog() says what a log cannot say", async () => {
  await using dir = await tempDir();
  const record = (failFlushes: number[], value: string) =>
    recordWorkload<string>({
      device: { sectors: 64, failFlushes },
      async workload(disk, acknowledge) {
        await disk.write(0, new Uint8Array(512));
        await disk.flush().catch(() => {});
        acknowledge(value);
      },
    });
  await using failed = await record([1], "");
  const error = await assertRejects(
    () => writeWriteLog(failed, dir.join("log")),
    DiskError,
    "a flush failed",
  );
  assertEquals(error.kind, "unsupported");
  await using long = await record([], "x".repeat(481));
  await assertRejects(
    () => writeWriteLog(long, dir.join("log")),
    RangeError,
    "480 bytes at most: current value is 481",
  );
  await assertRejects(
    () => writeWriteLog(long, dir.join("log"), { sectorSize: 1024 }),
    RangeError,
    "current value is 1024",
  );
  assertEquals(await Array.fromAsync(Deno.readDir(dir.path)), []);
});

Deno.test("readWriteLog() refuses a device that is to fail flushes", async () => {
  for (const entries of [[], [{ flags: 1 }], [{ flags: 1 }, { flags: 1 }]]) {
    await using dir = await tempDir();
    const path = await dir.file("log", logOf(entries));
    await assertRejects(
      () => readWriteLog(path, { device: { failFlushes: [1, 2] } }),
      RangeError,
      "device.failFlushes must be empty, since a log has no failed flushes: current value is 1,2",
    );
  }
});

Deno.test("readWriteLog() stops when its signal fires", async () => {
  await using dir = await tempDir();
  const path = await fixture(dir, 512);
  await assertRejects(
    () => readWriteLog(path, { signal: AbortSignal.abort() }),
    DOMException,
  );
});
