/**
 * The image that a verb works on, opened as the command line says: what should be
 * known of it is said on standard error, and of its partitions the one that was
 * asked for is found.
 *
 * @module
 */

import { filesOf } from "../backends/same_file.ts";
import { VirtualDisk } from "../disk/disk.ts";
import type { OpenOptions } from "../disk/open.ts";
import { openOptions, warn } from "./images.ts";
import type { CliIo } from "./io.ts";
import { refuseOwnOutput } from "./own_output.ts";
import { PARTITION_OPTION, partitionOf } from "./partition_option.ts";
import type { VerbArguments } from "./verb.ts";

/** An image that is open; closed when it is disposed of. */
export interface OpenedImage extends AsyncDisposable {
  /** The whole image. */
  readonly image: VirtualDisk;
  /** What the verb works on: the image, or one partition of it. */
  readonly disk: VirtualDisk;
}

/**
 * Opens an image for a verb.
 *
 * @param args What was typed.
 * @param io What to talk to.
 * @param path What the person calls it.
 * @param options How to open it beside what was typed, over which it goes.
 * @param partition The option that says which partition; `null` for the whole
 * image.
 * @returns The image.
 * @throws {UsageError} If an option cannot be read.
 * @throws {DiskError} If it cannot be opened, or has no such partition.
 * @throws {CliError} If standard output goes to it.
 */
export async function openImage(
  args: VerbArguments,
  io: CliIo,
  path: string,
  options: OpenOptions,
  partition: string | null = PARTITION_OPTION.name,
): Promise<OpenedImage> {
  await using opened = new AsyncDisposableStack();
  const image = opened.use(
    await VirtualDisk.open(path, { ...openOptions(args), ...options }),
  );
  refuseOwnOutput(io, await filesOf(image.info));
  await warn(io, path, image.info);
  const disk = partition === null
    ? image
    : await partitionOf(image, args, options.signal, partition);
  const held = opened.move();
  return { image, disk, [Symbol.asyncDispose]: () => held.disposeAsync() };
}
