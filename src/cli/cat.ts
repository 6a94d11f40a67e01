/**
 * `platter cat`: the content of files of a file system on a disk.
 *
 * @module
 */

import { printable } from "../printable.ts";
import { IMAGE_OPTIONS, interruptible, NO_LOCK_OPTION } from "./images.ts";
import { type CliIo, print, send } from "./io.ts";
import { openImage } from "./opened_image.ts";
import { PARTITION_OPTION } from "./partition_option.ts";
import { ExitCode, type Verb, type VerbArguments } from "./verb.ts";

/** The verb. */
export const cat: Verb = {
  name: "cat",
  summary: "Write out files of a file system",
  operands: "IMAGE PATH…",
  operandCount: [2, Infinity],
  description:
    "Writes files to standard output, byte by byte as they are, one after\n" +
    "another; on a terminal, what it would obey is shown as its number. Symbolic\n" +
    'links are followed, within the file system. See "platter ls --help" for\n' +
    "what can be read.",
  options: [PARTITION_OPTION, ...IMAGE_OPTIONS, NO_LOCK_OPTION],
  examples: [
    ["platter cat disk.img /etc/os-release", "Which system is it?"],
    ["platter cat disk.img --partition 1 /vmlinuz > vmlinuz", "Save a file"],
  ],
  run,
};

async function run(args: VerbArguments, io: CliIo): Promise<number> {
  const [image = "", ...paths] = args.operands;
  await interruptible(io, async (signal) => {
    const options = { readOnly: true, signal };
    await using opened = await openImage(args, io, image, options);
    const { openFile } = await import("../files/mod.ts");
    for (const path of paths) {
      const file = await openFile(opened.disk, path, { signal });
      if (io.stdout.isTerminal) await show(file, io);
      else for await (const bytes of file) await send(io.stdout, bytes);
    }
  });
  return ExitCode.Ok;
}

/** Shows a file to a person, line by line and nothing but text. */
async function show(
  file: ReadableStream<Uint8Array>,
  io: CliIo,
): Promise<void> {
  const decoder = new TextDecoder();
  const shown = (text: string) =>
    text.split(/([\n\t])/).map((part) =>
      part === "\n" || part === "\t" ? part : printable(part, Infinity)
    ).join("");
  for await (const bytes of file) {
    await print(io.stdout, shown(decoder.decode(bytes, { stream: true })));
  }
  await print(io.stdout, shown(decoder.decode()));
}
