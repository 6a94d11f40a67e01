/**
 * `platter partitions`: the table of partitions of an image, shown, made or
 * repaired.
 *
 * @module
 */

import { isZero } from "../buffer.ts";
import type { VirtualDisk } from "../disk/disk.ts";
import type {
  PartitionProblemKind,
  PartitionTable,
} from "../image/partition_table.ts";
import type { NewPartition } from "../image/plan_partitions.ts";
import { readPartitions } from "../image/read_partitions.ts";
import { repairPartitions } from "../image/repair_partitions.ts";
import { writePartitions } from "../image/write_partitions.ts";
import { plural } from "../plural.ts";
import {
  CliError,
  IMAGE_OPTIONS,
  interruptible,
  parsePlainSectors,
} from "./images.ts";
import { announce, type CliIo, print } from "./io.ts";
import { formatJson } from "./json.ts";
import { openImage } from "./opened_image.ts";
import { partitionLines, tableHeadline } from "./partition_lines.ts";
import {
  ExitCode,
  parseAs,
  parseCount,
  UsageError,
  type Verb,
  type VerbArguments,
} from "./verb.ts";

/** Sectors at the beginning that must be empty for a table to be made. */
const HEAD_SECTORS = 2048;

/** The verb. */
export const partitions: Verb = {
  name: "partitions",
  summary: "List the partitions of a disk; make or repair their table",
  operands: "IMAGE",
  operandCount: [1, 1],
  description:
    "Lists what the table, a GPT or an MBR, has and what is wrong with it. Opens\n" +
    "the image for reading only and without a lock then.\n" +
    "\n" +
    "--make writes a new table, with the partitions that --add names, in order.\n" +
    "A PARTITION is words with commas between: type=WORD, a GUID or a byte such\n" +
    "as 0x83 (words: linux, efi, swap, boot, home, lvm, raid, fat, ntfs, bios,\n" +
    "msr); start=N and size=N in sectors, or with a unit, where there is room if\n" +
    "not given; number=N; bootable; logical, in an MBR; guid=GUID,\n" +
    "attributes=BITS and name=TEXT in a GPT, the name last. What is in the\n" +
    "partitions stays. An image that has something in its first MiB, or a GPT of\n" +
    "which the backup is left, is refused unless --force.\n" +
    "\n" +
    "--repair writes a damaged copy of a GPT from the other, moves the backup to\n" +
    "the end of a disk that has grown, and mends the protective MBR.\n" +
    "\n" +
    "A power cut at any moment leaves the old table or the new one.",
  options: [
    {
      name: "make",
      value: "KIND",
      words: ["gpt", "mbr"],
      summary: "Write a new table: gpt or mbr",
    },
    {
      name: "add",
      value: "PARTITION",
      repeats: true,
      summary: "With --make: a partition; may be given several times",
    },
    {
      name: "align",
      value: "N",
      summary: "With --make: align partitions to this (default: 1MiB)",
    },
    {
      name: "id",
      value: "ID",
      summary: "With --make: a GUID, or 0x1234abcd for an MBR",
    },
    {
      name: "force",
      letter: "f",
      summary: "With --make: even if there is something already",
    },
    { name: "repair", summary: "Repair the copies of a GPT" },
    {
      name: "from",
      value: "COPY",
      words: ["primary", "backup"],
      summary: "With --repair: by this one, primary or backup",
    },
    {
      name: "quiet",
      letter: "q",
      summary: "With --make or --repair: say nothing of what was done",
    },
    {
      name: "json",
      summary: "Print the table as JSON, with what was repaired",
    },
    ...IMAGE_OPTIONS,
  ],
  examples: [
    ["platter partitions disk.img", "What is on this disk?"],
    [
      "platter partitions disk.img --make gpt --add type=linux,name=root",
      "A table for a system",
    ],
    ["platter partitions /dev/sdb --repair", "After the disk has grown"],
  ],
  exitCodes: [
    [ExitCode.Ok, "done; there may be problems, which are listed"],
    [ExitCode.Trouble, "wrong usage, or it failed"],
    [
      ExitCode.Interrupted,
      "interrupted; the old table or the new one is there",
    ],
  ],
  run,
};

async function run(args: VerbArguments, io: CliIo): Promise<number> {
  const path = args.operand(0);
  const kind = args.choice("make", ["gpt", "mbr"]);
  const from = args.choice("from", ["primary", "backup"]);
  const isRepair = args.flag("repair");
  checkTogether(args, kind !== undefined, isRepair);
  const wanted = args.all("add").map((text) =>
    parseAs("--add", text, parseNew)
  );
  const alignment = args.parsed("align", parsePlainSectors);
  const id = args.value("id");
  let done = "";
  let outcome: { repaired?: readonly string[] } = {};
  const table = await interruptible(io, async (signal) => {
    const isReading = kind === undefined && !isRepair;
    await using opened = await openImage(args, io, path, {
      signal,
      ...(isReading ? { readOnly: true, lock: "none" as const } : {}),
    });
    const { disk } = opened;
    if (isRepair) {
      const { table, repaired } = await repairPartitions(disk, {
        from,
        signal,
      });
      outcome = { repaired };
      done = repaired.length === 0
        ? "Nothing was repaired\n"
        : repaired.map((line) => `${line}\n`).join("");
      return table;
    }
    if (kind === undefined) return await readPartitions(disk, { signal });
    if (!args.flag("force")) await checkEmpty(disk, path, signal);
    const table = await writePartitions(disk, {
      kind,
      partitions: wanted,
      alignment,
      id,
      signal,
    });
    done = `Wrote a table to ${path}\n`;
    return table;
  });
  const text = args.flag("json")
    ? `${formatJson({ ...table, ...outcome })}\n`
    : done + describeTable(path, table);
  if (done === "") await print(io.stdout, text);
  else if (!args.flag("quiet") || args.flag("json")) {
    await announce(io, text, `the table of "${path}" is written`);
  }
  return ExitCode.Ok;
}

function checkTogether(
  args: VerbArguments,
  isMake: boolean,
  isRepair: boolean,
): void {
  const refuse = (message: string) => {
    throw new UsageError(`Cannot use ${message}`);
  };
  if (isMake && isRepair) refuse("--make and --repair together");
  const ofMake = ["add", "align", "id", "force"].find((name) =>
    args.flag(name) || args.value(name) !== undefined ||
    args.all(name).length > 0
  );
  if (!isMake && ofMake !== undefined) refuse(`--${ofMake} as it needs --make`);
  if (!isRepair && args.value("from") !== undefined) {
    refuse("--from as it needs --repair");
  }
  if (!isMake && !isRepair && args.flag("quiet")) {
    refuse("--quiet as it needs --make or --repair");
  }
}

/** Refuses a disk that is in use as something. */
async function checkEmpty(
  disk: VirtualDisk,
  path: string,
  signal: AbortSignal,
): Promise<void> {
  if (disk.sectors === 0) return;
  const head = await disk.read(0, Math.min(disk.sectors, HEAD_SECTORS), {
    signal,
  });
  const { kind, partitions } = await readPartitions(disk, { signal });
  // What the backup of a GPT says may be all that is left of it.
  if (isZero(head) && partitions.length === 0) return;
  throw new CliError(
    kind === "none"
      ? `Cannot make a table on "${path}" as there is something in its first MiB: overwrite that with --force`
      : `Cannot make a table on "${path}" as it has one with ${
        plural(partitions.length, "partition")
      }: replace it with --force`,
  );
}

/**
 * Reads a partition as it is typed: words with commas between, the name last.
 *
 * @param text What was typed.
 * @returns The partition.
 * @throws {RangeError} If it cannot be read.
 */
export function parseNew(text: string): NewPartition {
  const [, before, name] = /^(.*?)(?:(?:^|,)name=(.*))?$/s.exec(text)!;
  const partition: Partial<NewPartition> = {};
  if (name !== undefined) partition.name = name;
  for (const word of before!.split(",").filter((it) => it !== "")) {
    const [, key, value] = /^([^=]*)=?(.*)$/s.exec(word)!;
    if (word === "bootable") partition.bootable = true;
    else if (word === "logical") partition.logical = true;
    else if (key === "type") partition.type = value!;
    else if (key === "guid") partition.guid = value;
    else if (key === "attributes") partition.attributes = value;
    else if (key === "number") partition.number = parseCount(value!);
    else if (key === "start") partition.start = parsePlainSectors(value!);
    else if (key === "size") partition.sectors = parsePlainSectors(value!);
    else {
      throw new RangeError(
        `Cannot parse a partition as its words are type=, start=, size=, number=, guid=, attributes=, name=, bootable and logical: current value is "${word}"`,
      );
    }
  }
  const { type } = partition;
  if (type === undefined) {
    throw new RangeError(
      `Cannot parse a partition as it must have a type: current value is "${text}"`,
    );
  }
  return { ...partition, type };
}

function describeTable(path: string, table: PartitionTable): string {
  const id = table.id === undefined ? "" : ` (id ${table.id})`;
  return [
    table.kind === "none"
      ? `${path}: no table of partitions`
      : `${path}: ${tableHeadline(table)}${id}`,
    ...partitionLines(table),
    ...problemLines(table),
  ].map((line) => `${line}\n`).join("");
}

/** What `--repair` mends, if one copy of a GPT can be used. */
const REPAIRABLE: ReadonlySet<PartitionProblemKind> = new Set([
  "primary",
  "backup",
  "copies-differ",
  "backup-place",
  "protective-mbr",
]);

function problemLines({ copy, problems }: PartitionTable): string[] {
  if (problems.length === 0) return [];
  const count = problems.filter(({ kind }) => REPAIRABLE.has(kind)).length;
  // A disk that was cut has no room for a backup.
  const isCut = problems.some(({ kind }) => kind === "outside");
  const what = count === problems.length ? "that" : `${count} of them`;
  return [
    "",
    `${plural(problems.length, "problem")}:`,
    ...problems.map(({ message }) => `  ${message}`),
    ...(count === 0 || typeof copy !== "string" || isCut
      ? []
      : [`--repair mends ${what}`]),
  ];
}
