/**
 * `platter mount`: a disk as a file, for programs that open files.
 *
 * @module
 */

import { SECTOR_BYTES } from "../geometry.ts";
import { asFile } from "../mount/as_file.ts";
import type { MountedFile, MountEnd } from "../mount/mounted_file.ts";
import { formatSize } from "../units.ts";
import { IMAGE_OPTIONS, Interrupted, NO_LOCK_OPTION } from "./images.ts";
import { type CliIo, print, printError } from "./io.ts";
import {
  LAYER_HELP,
  LAYER_OPTIONS,
  LayeredDisk,
  readLayers,
} from "./layered_disk.ts";
import { QUIET_OPTION } from "./outcome.ts";
import { ExitCode, type Verb, type VerbArguments } from "./verb.ts";

/** The verb. */
export const mount: Verb = {
  name: "mount",
  summary: "Show a disk as a file, to programs that open files (Linux)",
  operands: "IMAGE PATH",
  operandCount: [2, 2],
  description:
    "Makes PATH, which must not exist yet, and shows the disk as that file until\n" +
    "Ctrl-C (or a hangup, or a polite kill, or until somebody unmounts it). Then\n" +
    "it unmounts, removes PATH and flushes. If a program has the file open still,\n" +
    "it is waited for, for two seconds; then the name goes, and the program gets\n" +
    "errors. A sync of the file is a flush of the disk. It takes nbdfuse (Debian's\n" +
    "package libnbd-bin) or qemu-storage-daemon (qemu-system-common), and\n" +
    "fusermount3 (fuse3).\n" +
    "\n" +
    LAYER_HELP,
  options: [
    {
      name: "allow-other",
      summary: "Let all users use the file, and not only you",
    },
    {
      name: "tool",
      value: "NAME",
      words: ["nbdfuse", "qemu-storage-daemon"],
      summary: "nbdfuse or qemu-storage-daemon (default: any)",
    },
    { ...QUIET_OPTION, summary: "Say where the file is, and nothing else" },
    ...LAYER_OPTIONS,
    ...IMAGE_OPTIONS,
    NO_LOCK_OPTION,
  ],
  examples: [
    ["platter mount disk.img ./disk", "Any program, and Platter below it"],
    [
      'platter mount disk.img ./disk --overlay --fault "flush nth=3 error=EIO"',
      "What does my program do when the third fsync fails?",
    ],
    [
      "platter mount nbd://server/export ./disk --read-only",
      "A disk that is elsewhere, as a file",
    ],
  ],
  exitCodes: [
    [ExitCode.Ok, "unmounted, everything flushed"],
    [
      ExitCode.Trouble,
      "wrong usage, it or the tool failed, or trace or figures are not whole",
    ],
    [ExitCode.BrokenPipe, "the same, but nobody reads what it prints"],
  ],
  run,
};

async function run(args: VerbArguments, io: CliIo): Promise<number> {
  const [image, path] = [args.operand(0), args.operand(1)];
  const tool = args.choice("tool", ["nbdfuse", "qemu-storage-daemon"]);
  const layers = await readLayers(args);
  // Printing must not hold up the end, nor decide over it.
  let unheard: unknown;
  let end: MountEnd;
  let layered: LayeredDisk;
  {
    await using cleanUp = new AsyncDisposableStack();
    const interrupt = new AbortController();
    const stopped = Promise.withResolvers<void>();
    cleanUp.defer(io.onInterrupt(() => {
      interrupt.abort();
      stopped.resolve();
    }));
    layered = await LayeredDisk.open(image, layers, args, io);
    cleanUp.use(layered);
    const file = cleanUp.use(
      await asFile(layered.disk, {
        path,
        tool,
        allowOther: args.flag("allow-other"),
        signal: interrupt.signal,
      }).catch((error) => {
        if (!interrupt.signal.aborted) throw error;
        throw new Interrupted("Interrupted");
      }),
    );
    print(io.stdout, `${file.path}\n`).catch((error) => unheard = error);
    const quiet = args.flag("quiet");
    if (!quiet) void printError(io, headline(image, file, layered));
    await Promise.race([stopped.promise, file.closed]);
    if (!quiet) void printError(io, "Stopping\n");
    end = await file.close();
    await layered.flush();
  }
  if (end.busy) {
    void printError(
      io,
      `platter: "${path}" was in use: who has it open gets errors from now on\n`,
    );
  }
  if (end.error !== null) throw end.error;
  if (unheard !== undefined) throw unheard;
  return layered.notesAreWhole ? ExitCode.Ok : ExitCode.Trouble;
}

function headline(
  image: string,
  { path, tool }: MountedFile,
  { disk }: LayeredDisk,
): string {
  const size = formatSize(disk.sectors * SECTOR_BYTES);
  const notes = disk.readOnly ? ", read-only" : "";
  return `"${image}", ${size}${notes}, is the file "${path}" (by ${tool}). ` +
    `Ctrl-C stops.\n`;
}
