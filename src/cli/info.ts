/**
 * `platter info`: what a disk is, how it is reached, and what it promises.
 *
 * @module
 */

import type { ContainerFacts } from "../backends/container/mod.ts";
import { filesOf } from "../backends/same_file.ts";
import { type DiskInfo, VirtualDisk } from "../disk/disk.ts";
import { DiskError } from "../errors.ts";
import { SECTOR_BYTES } from "../geometry.ts";
import type { OtherFile } from "../info.ts";
import type { PartitionTable } from "../image/partition_table.ts";
import { readPartitions } from "../image/read_partitions.ts";
import { printable } from "../printable.ts";
import { formatCount, formatSize } from "../units.ts";
import { IMAGE_OPTIONS, openOptions, warn } from "./images.ts";
import { type CliIo, print } from "./io.ts";
import { formatJson } from "./json.ts";
import { inOptionsOf } from "./option_words.ts";
import { refuseOwnOutput } from "./own_output.ts";
import { partitionLines, tableHeadline } from "./partition_lines.ts";
import { PARTITION_OPTION, partitionOf } from "./partition_option.ts";
import {
  ExitCode,
  listOf,
  parseCount,
  type Verb,
  type VerbArguments,
  type VerbOption,
} from "./verb.ts";

/** The verb. */
export const info: Verb = {
  name: "info",
  summary: "Show what a disk is, how it is reached, and what it promises",
  operands: "IMAGE",
  operandCount: [1, 1],
  description:
    "Opens the image for reading only and without a lock, so it also works\n" +
    "while another program writes it. If direct I/O was not to be had, it\n" +
    "says why; and it says what a flush on this disk is worth. Partitions are\n" +
    "listed, with what is wrong with their table. Of a container that is not\n" +
    "opened it shows what its header says, and why it is not.",
  options: [
    { name: "json", summary: "Print JSON" },
    PARTITION_OPTION,
    ...IMAGE_OPTIONS,
  ],
  examples: [
    ["platter info disk.img", "What is this disk?"],
    [
      "platter info disk.img --json | jq .durability.flush",
      "For scripts: what does a flush reach?",
    ],
    ["platter info disk.img --direct require", "Is direct I/O possible here?"],
  ],
  run,
};

type Row = [name: string, text: string, reason?: string | null];

async function run(args: VerbArguments, io: CliIo): Promise<number> {
  const path = args.operand(0);
  await using image = await VirtualDisk.open(path, {
    ...openOptions(args),
    readOnly: true,
    lock: "none",
  }).catch(async (error) => {
    const { lookInside } = await import("../backends/container/mod.ts");
    const facts = error instanceof DiskError ? lookInside(path) : null;
    if (facts !== null) {
      const text = args.flag("json")
        ? `${formatJson({ path, ...facts })}\n`
        : describeFacts(path, facts);
      await print(io.stdout, text);
    }
    // It says why the rest is not to be had.
    throw error;
  });
  refuseOwnOutput(io, await filesOf(image.info));
  await warn(io, path, image.info);
  const disk = await partitionOf(image, args);
  const table = await readPartitions(disk);
  const partition = args.parsed(PARTITION_OPTION.name, parseCount);
  const { start } = disk;
  const title = partition === undefined
    ? path
    : `${path}, partition ${partition}, from sector ${formatCount(start)}`;
  const part = partition === undefined ? {} : { partition, start };
  const text = args.flag("json")
    ? `${formatJson({ ...disk.info, ...part, partitionTable: table })}\n`
    : describe(title, disk.info, info.options) + describeTable(table);
  await print(io.stdout, text);
  return ExitCode.Ok;
}

/**
 * Describes a disk in words.
 *
 * @param title What the person calls it.
 * @param info The facts.
 * @param options The options that the person has, for the reasons.
 * @returns Some lines.
 */
export function describe(
  title: string,
  info: DiskInfo,
  options: readonly VerbOption[] = [],
): string {
  const { direct, durability, abilities, engine } = info;
  const bytes = info.sectors * SECTOR_BYTES;
  const rows: Row[] = [
    [
      "size",
      `${formatSize(bytes)} (${formatCount(bytes)} bytes, ` +
      `${formatCount(info.sectors, "sector")})`,
    ],
    ...formatRows(info),
    [
      "blocks",
      `${formatCount(info.blockSize)} bytes logical, ` +
      `${formatCount(info.physicalBlockSize)} physical`,
    ],
    ...ioSizes(info),
    [
      "medium",
      info.fileSystem === null
        ? info.medium
        : `${info.medium} on ${info.fileSystem}`,
    ],
    ["identity", info.id === "" ? "none" : info.id],
    ["backend", info.backend],
    ["engine", engine.name, engine.reason],
    [
      "direct I/O",
      direct.active ? `yes, by ${direct.method ?? "the backend"}` : "no",
      direct.reason,
    ],
    [
      "alignment",
      `memory ${direct.memoryAlignment}, reads ` +
      `${direct.readOffsetAlignment}, writes ${direct.offsetAlignment} bytes ` +
      `(source: ${direct.alignmentSource})`,
    ],
    [
      "flush reaches",
      `${durability.flush}, by ${durability.method} ` +
      `(device cache: ${durability.deviceCache})`,
      durability.reason,
    ],
    ["FUA write", `${abilities.fua}, by ${durability.fua}`],
    ["lock", info.lock.method, info.lock.reason],
    ["write zeroes", abilities.writeZeroes],
    ["discard", abilities.discard],
    ["secure erase", abilities.secureErase],
  ];
  return `${title}\n${
    listOf(rows.flatMap(([name, text, reason]) => [
      [name, text] as const,
      ...linesOf(inOptionsOf(reason ?? "", options)).map((line) =>
        ["", line] as const
      ),
    ]))
  }`;
}

/** What can be told of a container that is not opened. */
function describeFacts(path: string, facts: ContainerFacts): string {
  const { format, virtualBytes, otherFiles } = facts;
  return `${path}\n${
    listOf([
      ["format", `${format}, by its content`],
      [
        "size",
        virtualBytes === null
          ? "not in its header"
          : `${formatSize(virtualBytes)} (${formatCount(virtualBytes)} bytes)`,
      ],
      ...otherFiles.map(fileRow),
    ])
  }`;
}

function fileRow(
  { role, name, format }: Omit<OtherFile, "path">,
): [string, string] {
  return [role, `${printable(name)}${format === null ? "" : ` (${format})`}`];
}

/** What the image was opened as, and what else it takes sectors from. */
function formatRows(info: DiskInfo): Row[] {
  const { format, contentFormat = null, otherFiles = [] } = info;
  if (format === undefined) return [];
  const content = contentFormat === null
    ? ""
    : `, though its content looks like ${contentFormat}`;
  return [
    ["format", `${format}${content}`],
    ...otherFiles.map(fileRow),
  ];
}

/** What a disk holds: one row, the partitions, and what is wrong. */
function describeTable(table: PartitionTable): string {
  const lines = [
    ...partitionLines(table),
    ...table.problems.flatMap(({ message }) => linesOf(message)),
  ];
  return listOf([
    // As wide as the rows above.
    ["partitions   ", tableHeadline(table)],
    ...lines.map((line) => ["", line] as const),
  ]);
}

function ioSizes(info: DiskInfo): Row[] {
  const sizes = [
    ["smallest", info.minimumIoSize] as const,
    ["best", info.optimalIoSize] as const,
  ].filter(([, bytes]) => bytes > 0);
  if (sizes.length === 0) return [];
  const text = sizes.map(([word, bytes]) => `${formatCount(bytes)} ${word}`);
  return [["I/O sizes", `${text.join(", ")}, in bytes`]];
}

/** Breaks a reason into lines that fit beside the names of the rows. */
function linesOf(reason: string): string[] {
  return reason.match(/\S.{0,60}(?=\s|$)|\S+/g) ?? [];
}
