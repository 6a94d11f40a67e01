/**
 * Others judge tables, and what `readPartitions()` reads of them: `sfdisk -J`,
 * `sgdisk`, and npm's gpt and mbr.
 *
 * @module
 */

import { VirtualDisk } from "@platter/disk";
import {
  type Partition,
  type PartitionTable,
  readPartitions,
  repairPartitions,
  writePartitions,
} from "@platter/disk/image";
import { Random } from "@platter/disk/testing";
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { Buffer } from "node:buffer";
import GPT from "npm:gpt@3.0.0";
import MBR from "npm:mbr@1.1.3";
import { LONG, loopDevice, needs, run, tempDir } from "../helpers.ts";
import { damage, soundCase, type TableCase } from "./table_cases.ts";
import { diskOf } from "./tables.ts";

const SEED = 20_261;

/** Tables in each half: sound ones, and damaged ones. */
const COUNT = LONG ? 1000 : 30;

/** What sfdisk prints as JSON, as far as it matters. */
interface Sfdisk {
  partitiontable?: {
    label: string;
    partitions?: {
      node: string;
      start: number;
      size: number;
      type: string;
      uuid?: string;
      name?: string;
      bootable?: boolean;
    }[];
  };
}

/** The tables, made once for all tests here. */
const CASES = Promise.resolve().then(async () => {
  const random = new Random(SEED);
  const sound: TableCase[] = [];
  for (let i = 0; i < COUNT; i++) sound.push(await soundCase(random));
  return { sound, damaged: sound.map((each) => damage(random, each)) };
});

/** Runs one program over all disks, in one shell. */
async function judge(cases: TableCase[], command: string): Promise<string[]> {
  await using dir = await tempDir();
  for (const [i, { bytes }] of cases.entries()) {
    await Deno.writeFile(dir.join(`disk${i}.img`), bytes);
  }
  const text = await run("sh", [
    "-c",
    `cd "$0" && i=0 && while [ $i -lt ${cases.length} ]; do ` +
    `f=disk$i.img; ${command} 2>/dev/null || true; echo; echo "@@@"; ` +
    `i=$((i + 1)); done`,
    dir.path,
  ]);
  return text.split("@@@\n").slice(0, -1).map((it) => it.trim());
}

/** A partition as both sides can say it. */
function ours(kind: string, it: Partition): unknown[] {
  return kind === "gpt"
    ? [it.number, it.start, it.sectors, it.type, it.guid, it.name]
    : [it.number, it.start, it.sectors, Number(it.type), it.bootable];
}

function theirs(
  text: string,
  { problems }: PartitionTable,
): { kind: string; partitions: unknown[][] } {
  // What it says of empty records comes first.
  if (!text.includes("{")) return { kind: "none", partitions: [] };
  const { partitiontable: table } = JSON.parse(
    text.slice(text.indexOf("{")),
  ) as Sfdisk;
  if (table === undefined) return { kind: "none", partitions: [] };
  const isGpt = table.label === "gpt";
  const refused = problems.filter(({ kind }) => kind === "entry")
    .flatMap(({ partitions }) => partitions);
  return {
    kind: isGpt ? "gpt" : table.label === "dos" ? "mbr" : "none",
    partitions: (table.partitions ?? []).flatMap((it): unknown[][] => {
      const number = Number(/img(\d+)$/.exec(it.node)![1]);
      if (isGpt) {
        // It lists entries that end before they start, and such of no type.
        return refused.includes(number) || it.type.startsWith("00000000-")
          ? []
          : [[number, it.start, it.size, it.type, it.uuid, it.name ?? ""]];
      }
      // And entries that Linux ignores.
      const type = Number.parseInt(it.type, 16);
      return type === 0 || it.size === 0
        ? []
        : [[number, it.start, it.size, type, it.bootable === true]];
    }),
  };
}

async function tableOf({ bytes }: TableCase): Promise<PartitionTable> {
  await using disk = await diskOf(bytes);
  return await readPartitions(disk);
}

Deno.test({
  name: "readPartitions() reads sound tables as sfdisk does",
  ...needs("sfdisk"),
  async fn() {
    const cases = (await CASES).sound;
    const texts = await judge(cases, 'sfdisk -J "$f"');
    for (const [i, each] of cases.entries()) {
      const table = await tableOf(each);
      const kinds = new Set(table.problems.map(({ kind }) => kind));
      kinds.delete("alignment");
      assertEquals([...kinds], [], `seed ${SEED}, table ${i}`);
      const { kind, partitions } = theirs(texts[i]!, table);
      assertEquals(
        [table.kind, table.partitions.map((it) => ours(table.kind, it))],
        [kind, partitions],
        `seed ${SEED}, table ${i}`,
      );
    }
  },
});

/**
 * Where sfdisk is known to see it differently, and why; nothing if it is not.
 * Whatever is left must be equal.
 */
function reasonOf(
  table: PartitionTable,
  kind: string,
  { bytes }: TableCase,
): string | undefined {
  const has = (word: string) =>
    table.problems.some(({ message }) => message.includes(word));
  if (table.kind === "gpt" && kind !== "gpt" && has("no protective MBR")) {
    return "it looks for no GPT without a protective MBR";
  }
  if (table.kind === "gpt" && has("may have been cut")) {
    return "it takes no copy whose usable blocks are not all on the disk";
  }
  if (has("bytes each")) {
    return "it reads entries of any length as if they had 128 bytes";
  }
  const indicators = [446, 462, 478, 494].map((at) => bytes[at]! & 0x7f);
  if (table.kind !== "mbr" && indicators.some((it) => it !== 0)) {
    return "it takes any boot indicator, and Linux does not";
  }
  return undefined;
}

Deno.test({
  name: "readPartitions() reads damaged tables as sfdisk does, or better",
  ...needs("sfdisk"),
  async fn() {
    const cases = (await CASES).damaged;
    const texts = await judge(cases, 'sfdisk -J "$f"');
    let equal = 0;
    for (const [i, each] of cases.entries()) {
      const table = await tableOf(each);
      const { kind, partitions } = theirs(texts[i]!, table);
      const left = [
        table.kind,
        table.partitions.map((it) => ours(table.kind, it)),
      ];
      if (reasonOf(table, kind, each) !== undefined) continue;
      assertEquals(
        left,
        [kind, partitions],
        `seed ${SEED}, table ${i}, ${each.what}`,
      );
      equal++;
    }
    assert(equal > cases.length * 3 / 4, `${equal} of ${cases.length}`);
  },
});

Deno.test({
  name:
    "sgdisk finds nothing wrong with a GPT of writePartitions(), and lists it",
  ...needs("sgdisk"),
  async fn() {
    const cases = (await CASES).sound.filter(({ what }) =>
      what.includes("gpt")
    );
    const texts = await judge(cases, 'sgdisk -v "$f" && sgdisk -p "$f"');
    for (const [i, each] of cases.entries()) {
      const text = texts[i]!;
      assertStringIncludes(text, "No problems found", each.what);
      const listed = [...text.matchAll(/^ +(\d+) +(\d+) +(\d+) +\d/gm)]
        .map(([, ...numbers]) => numbers.map(Number));
      const { partitions } = await tableOf(each);
      assertEquals(
        partitions.map((
          it,
        ) => [it.number, it.start, it.start + it.sectors - 1]),
        listed,
      );
    }
  },
});

Deno.test({
  name: "sfdisk and sgdisk take a table of few entries that was repaired",
  ...needs("sfdisk", "sgdisk"),
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", 16 << 20);
    await run("sgdisk", ["-S", "4", "-a", "1", "-n", "1:6:0", path]);
    const sound = await Deno.readFile(path);
    for (const sector of [1, 32_767]) {
      {
        await using disk = await VirtualDisk.open(path);
        await disk.writeZeroes(sector, 1);
        const { repaired } = await repairPartitions(disk);
        assertEquals(repaired.length, 1);
      }
      assertEquals(await Deno.readFile(path), sound);
      assertStringIncludes(
        await run("sgdisk", ["-v", path]),
        "No problems found",
      );
      assertStringIncludes(
        await run("sfdisk", ["--verify", path]),
        "No errors detected",
      );
    }
  },
});

Deno.test({
  name:
    "sfdisk and sgdisk take tables of a device of 4,096-byte sectors as they are written, and repaired",
  ...needs("root", "losetup", "sfdisk", "sgdisk"),
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", 64 << 20);
    await using device = await loopDevice(path, 4096);
    for (const kind of ["mbr", "gpt"] as const) {
      {
        await using disk = await VirtualDisk.open(device.path);
        const { partitions } = await writePartitions(disk, {
          kind,
          partitions: [{ type: "linux", size: "8MiB" }, { type: "linux" }],
        });
        if (kind === "gpt") {
          // The primary header, in the second block.
          await disk.writeZeroes(8, 8);
          const { repaired } = await repairPartitions(disk);
          assertEquals(repaired.length, 1);
        }
        assertEquals(
          partitions.map(({ start, sectors }) => [start / 8, sectors / 8]),
          [[256, 2048], [2304, kind === "gpt" ? 13_824 : 14_080]],
        );
      }
      const { partitiontable }: Sfdisk = JSON.parse(
        await run("sfdisk", ["-J", device.path]),
      );
      assertEquals(
        partitiontable?.partitions?.map(({ start, size }) => [start, size]),
        [[256, 2048], [2304, kind === "gpt" ? 13_824 : 14_080]],
      );
    }
    assertStringIncludes(
      await run("sgdisk", ["-v", device.path]),
      "No problems found",
    );
  },
});

Deno.test({
  name: "readPartitions() reads what sfdisk makes",
  ...needs("sfdisk"),
  async fn() {
    const random = new Random(SEED);
    const scripts: string[] = [];
    for (let i = 0; i < (LONG ? 100 : 10); i++) {
      const isGpt = i % 2 === 0;
      const lines = [`label: ${isGpt ? "gpt" : "dos"}`];
      for (let j = 1 + random.below(4); j > 0; j--) {
        lines.push(`size=${1 + random.below(4)}MiB`);
      }
      if (!isGpt) {
        lines[Math.min(lines.length, 4)] = "type=5";
        for (let j = random.below(3); j > 0; j--) lines.push("size=3MiB");
      }
      scripts.push(lines.join("\n"));
    }
    const empty = { what: "sfdisk", bytes: new Uint8Array(32 * 2 ** 20) };
    await using dir = await tempDir();
    const list: string[] = [];
    for (const [i, script] of scripts.entries()) {
      await Deno.writeTextFile(dir.join(`${i}.txt`), `${script}\n`);
      await dir.file(`img${i}`, empty.bytes.length);
      list.push(
        `sfdisk -q --no-tell-kernel img${i} < ${i}.txt 2>/dev/null; ` +
          `mv img${i} disk.img; sfdisk -J disk.img; echo @@@; mv disk.img img${i}`,
      );
    }
    const text = await run("sh", [
      "-c",
      `cd "$0"\n${list.join("\n")}`,
      dir.path,
    ]);
    const texts = text.split("@@@\n");
    for (const i of scripts.keys()) {
      await using disk = await VirtualDisk.open(dir.join(`img${i}`), {
        backend: "portable",
        readOnly: true,
        direct: "never",
      });
      const table = await readPartitions(disk);
      const { kind, partitions } = theirs(texts[i]!.trim(), table);
      assert(partitions.length > 0);
      assertEquals(
        [table.kind, table.partitions.map((it) => ours(table.kind, it))],
        [kind, partitions],
        scripts[i],
      );
      assertEquals(table.problems, [], scripts[i]);
    }
  },
});

Deno.test("readPartitions() reads tables as npm's gpt and mbr do", async () => {
  for (const each of (await CASES).sound) {
    const table = await tableOf(each);
    const { bytes } = each;
    if (table.kind === "gpt") {
      const gpt = new GPT({ blockSize: 512 });
      gpt.parse(Buffer.from(bytes.buffer), 512);
      assert(gpt.verify());
      assertEquals(
        table.partitions.map((it) => [it.type, it.guid, it.name, it.start]),
        gpt.partitions.map((it: Record<string, unknown>) => [
          it.type,
          it.guid,
          it.name,
          Number(it.firstLBA),
        ]),
      );
      continue;
    }
    const mbr = new MBR(Buffer.from(bytes.buffer, 0, 512));
    const listed = mbr.partitions as Record<string, number>[];
    assertEquals(
      table.partitions.filter(({ role }) => role !== "logical")
        .map((it) => [Number(it.type), it.start, it.sectors]),
      listed.filter(({ type }) => type !== 0)
        .map((it) => [it.type, it.firstLBA, it.sectors]),
    );
  }
});

Deno.test("readPartitions() takes a primary copy for sound as npm's gpt does", async () => {
  let damaged = 0;
  for (const each of (await CASES).damaged) {
    // It writes entries anew before it sums them up: only headers compare.
    const at = Number(/flipped at (\d+)/.exec(each.what)?.[1] ?? NaN);
    const isHeader = at >= 512 && at < 1024 || /zeroed|grown/.test(each.what);
    const { copy } = await tableOf(each);
    if (copy === undefined || !isHeader) continue;
    const gpt = new GPT({ blockSize: 512 });
    let isSound: boolean;
    try {
      gpt.parse(Buffer.from(each.bytes.buffer), 512);
      isSound = gpt.verify();
    } catch {
      isSound = false;
    }
    if (!isSound) damaged++;
    assertEquals(copy === "primary", isSound, each.what);
  }
  assert(damaged > 0);
});
