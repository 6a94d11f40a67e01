/**
 * `platter ls`: the files of a file system on a disk.
 *
 * @module
 */

import { partsOf } from "../files/file_path.ts";
import type { FileEntry } from "../files/mod.ts";
import { printable } from "../printable.ts";
import {
  CliError,
  IMAGE_OPTIONS,
  interruptible,
  NO_LOCK_OPTION,
} from "./images.ts";
import { type CliIo, print } from "./io.ts";
import { formatJson } from "./json.ts";
import { openImage } from "./opened_image.ts";
import { PARTITION_OPTION } from "./partition_option.ts";
import { ExitCode, type Verb, type VerbArguments } from "./verb.ts";

/** The verb. */
export const ls: Verb = {
  name: "ls",
  summary: "List the files of a file system",
  operands: "IMAGE [PATH]",
  operandCount: [1, 2],
  description:
    "Lists what is in a directory, the root by default, or one file: mode,\n" +
    "user, group, size, time of the last change (universal time), name. What\n" +
    "the file system does not have is a dash. Reads ext2, ext3, ext4, FAT, NTFS,\n" +
    "HFS+, APFS, SquashFS, ISO 9660, UDF and cpio, by 7-Zip (npm 7z-wasm), and\n" +
    "writes nothing. Of a disk with partitions, --partition says which; it need\n" +
    "not if only one has a file system.",
  options: [
    {
      name: "recursive",
      letter: "R",
      summary: "All that is below, with paths, unsorted",
    },
    { name: "json", summary: "Print JSON" },
    PARTITION_OPTION,
    ...IMAGE_OPTIONS,
    NO_LOCK_OPTION,
  ],
  examples: [
    ["platter ls disk.img", "What is in the root directory?"],
    ["platter ls disk.img --partition 2 -R /etc", "All of a directory"],
    [
      "platter ls disk.img -R --json | jq 'map(.size) | add'",
      "For scripts: how much is it?",
    ],
  ],
  run,
};

/** Lines that are printed at once. */
const MOST_LINES = 256;

async function run(args: VerbArguments, io: CliIo): Promise<number> {
  const [image = "", path = "/"] = args.operands;
  await interruptible(io, async (signal) => {
    const options = { readOnly: true, signal };
    await using opened = await openImage(args, io, image, options);
    const { listFiles } = await import("../files/mod.ts");
    const files = foundAt(
      path,
      listFiles(opened.disk, { paths: [path], signal }),
    );
    const wanted = args.flag("recursive") ? files : childrenOf(path, files);
    await (args.flag("json") ? printJson(wanted, io) : printLines(wanted, io));
  });
  return ExitCode.Ok;
}

/** What is listed at a path, which must be there: a directory lists itself. */
async function* foundAt(
  path: string,
  files: AsyncIterable<FileEntry>,
): AsyncGenerator<FileEntry> {
  let isThere = partsOf(path).length === 0;
  for await (const entry of files) {
    isThere = true;
    yield entry;
  }
  if (isThere) return;
  throw new CliError(
    `Cannot list "${
      printable(path)
    }" as there is no such file or directory in the file system`,
  );
}

/** What is in a directory and not below, by name; or the one file. */
async function* childrenOf(
  path: string,
  files: AsyncIterable<FileEntry>,
): AsyncGenerator<FileEntry> {
  const root = partsOf(path).join("/");
  const depth = partsOf(path).length + 1;
  const found: FileEntry[] = [];
  for await (const entry of files) {
    if (entry.path === root && entry.type !== "directory") found.push(entry);
    else if (partsOf(entry.path).length === depth) found.push(entry);
  }
  found.sort((a, b) => a.path < b.path ? -1 : a.path > b.path ? 1 : 0);
  for (const entry of found) {
    yield { ...entry, path: partsOf(entry.path).at(-1) ?? entry.path };
  }
}

async function printJson(
  files: AsyncIterable<FileEntry>,
  io: CliIo,
): Promise<void> {
  let before = "[";
  let text = "";
  let count = 0;
  for await (const entry of files) {
    text += `${before}\n  ${formatJson(entry, 0)}`;
    before = ",";
    if (++count % MOST_LINES !== 0) continue;
    await print(io.stdout, text);
    text = "";
  }
  await print(io.stdout, text + (before === "[" ? "[]\n" : "\n]\n"));
}

async function printLines(
  files: AsyncIterable<FileEntry>,
  io: CliIo,
): Promise<void> {
  let text = "";
  let count = 0;
  try {
    for await (const entry of files) {
      text += lineOf(entry);
      if (++count % MOST_LINES !== 0) continue;
      await print(io.stdout, text);
      text = "";
    }
  } finally {
    // Also what was found before the file system turned out to be damaged.
    await print(io.stdout, text);
  }
}

const LETTERS = { file: "-", directory: "d", symlink: "l", other: "?" };

function lineOf(entry: FileEntry): string {
  const { path, type, mode, uid, gid, size, modified, target } = entry;
  const letters = LETTERS[type] + (mode === null ? "-" : lettersOf(mode));
  const time = modified === null
    ? "-"
    : modified.toISOString().slice(0, 19).replace("T", " ");
  const columns = [
    letters.padEnd(10),
    String(uid ?? "-").padStart(5),
    String(gid ?? "-").padStart(5),
    String(size).padStart(11),
    time.padEnd(19),
    printable(path, 4096) +
    (target === null ? "" : ` -> ${printable(target, 4096)}`),
  ];
  return `${columns.join(" ")}\n`;
}

/** Permission bits as `ls -l` writes them, those for special execution too. */
function lettersOf(mode: number): string {
  let text = "";
  for (let bit = 8; bit >= 0; bit--) {
    text += (mode >> bit) & 1 ? "xwr"[bit % 3] : "-";
  }
  const special = (at: number, bit: number, letter: string) => {
    if ((mode & bit) === 0) return;
    const shown = text[at] === "x" ? letter : letter.toUpperCase();
    text = text.slice(0, at) + shown + text.slice(at + 1);
  };
  special(2, 0o4000, "s");
  special(5, 0o2000, "s");
  special(8, 0o1000, "t");
  return text;
}
