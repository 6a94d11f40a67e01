/**
 * `platter commit`: the changes of an overlay's file, written to its base.
 *
 * @module
 */

import { filesOf, namedFiles } from "../backends/same_file.ts";
import { openBackend } from "../disk/open.ts";
import { basePathOf, overlay } from "../disk/overlay.ts";
import { SECTOR_BYTES } from "../geometry.ts";
import { printable } from "../printable.ts";
import { formatCount, formatSize } from "../units.ts";
import { IMAGE_OPTIONS, interruptible, openOptions, warn } from "./images.ts";
import type { CliIo } from "./io.ts";
import { ACCEPT_BASE_OPTION } from "./layered_disk.ts";
import { OUTCOME_OPTIONS, tell } from "./outcome.ts";
import { refuseOwnOutput } from "./own_output.ts";
import { ExitCode, UsageError, type Verb, type VerbArguments } from "./verb.ts";

/** The verb. */
export const commit: Verb = {
  name: "commit",
  summary: "Write the changes of an overlay's file to its image",
  operands: "OVERLAY [BASE]",
  operandCount: [1, 2],
  description:
    'OVERLAY is a file of "serve --overlay=FILE". Without BASE, its changes go to\n' +
    "the image that it was begun over, by the path that it had then. The image is\n" +
    "flushed before the overlay is emptied. What is interrupted is repeated by the\n" +
    "same command: until then the overlay has all changes, and the image alone is\n" +
    "neither old nor new.",
  options: [
    ACCEPT_BASE_OPTION,
    ...OUTCOME_OPTIONS,
    ...IMAGE_OPTIONS.filter(({ name }) => name !== "block-size"),
  ],
  examples: [
    ["platter serve disk.img --overlay=try.overlay", "Try something"],
    ["platter commit try.overlay", "It went well: keep it"],
  ],
  exitCodes: [
    [ExitCode.Ok, "done, or there was nothing to do"],
    [ExitCode.Trouble, "wrong usage, or it failed"],
    [ExitCode.Interrupted, "interrupted: do it again"],
  ],
  run,
};

async function run(args: VerbArguments, io: CliIo): Promise<number> {
  const file = args.operand(0);
  const basePath = args.operands[1] ?? await basePathOf(file);
  if (basePath === null) {
    await tell(args, io, {
      text: `${file} has no changes`,
      json: { overlay: file, base: null, sectors: 0 },
      done: "nothing was to be done",
    });
    return ExitCode.Ok;
  }
  if (basePath === "") {
    throw new UsageError(
      `Cannot commit "${file}" as its BASE must be named: it had no path`,
    );
  }
  const base = printable(basePath);
  const options = openOptions(args);
  const { direct, backend } = options;
  await using parts = new AsyncDisposableStack();
  const below = await openBackend(basePath, options);
  parts.defer(() => below.close());
  const written = [...await filesOf(below.info), ...await namedFiles(file)];
  refuseOwnOutput(io, written, "written");
  void warn(io, base, below.info);
  const changes = await overlay(below, {
    direct,
    backend,
    file,
    create: false,
    ownsBase: false,
    acceptBase: args.flag("accept-base"),
  });
  parts.defer(() => changes.close());
  let sectors = 0;
  for (let at = 0; at < below.geometry.sectors; at += COUNT_SECTORS) {
    const count = Math.min(COUNT_SECTORS, below.geometry.sectors - at);
    for (const run of await changes.changes(at, count)) sectors += run.count;
  }
  await interruptible(io, (signal) => changes.commit(below, signal));
  await parts.disposeAsync();
  const size = formatSize(sectors * SECTOR_BYTES);
  await tell(args, io, {
    text: `Committed ${file} to ${base}: ${size}, ${
      formatCount(sectors, "sector")
    }`,
    json: { overlay: file, base: basePath, sectors },
    done: `"${file}" was committed`,
  });
  return ExitCode.Ok;
}

/** Changes are counted so many sectors at a time: 1 GiB. */
const COUNT_SECTORS = 2 ** 21;
