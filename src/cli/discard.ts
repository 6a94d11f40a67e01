/**
 * `platter discard`: tells a disk that a range is not needed any more.
 *
 * @module
 */

import type { CliIo } from "./io.ts";
import { RANGE_OPTIONS, WORK_OPTIONS, workThrough } from "./range_work.ts";
import type { Verb, VerbArguments } from "./verb.ts";

/** The verb. */
export const discard: Verb = {
  name: "discard",
  summary: "Give the space of a range back, whatever it reads then; and flush",
  operands: "IMAGE",
  operandCount: [1, 1],
  description:
    'What was there is lost, but need not read as zeroes: "zero --unmap" does\n' +
    'that. A disk that cannot discard is refused (see "platter info").',
  options: [...RANGE_OPTIONS, ...WORK_OPTIONS],
  examples: [
    [
      "platter discard disk.img --offset 1MiB --length 64KiB",
      'As qemu-io -c "discard 1M 64k"',
    ],
    ["platter discard /dev/sdb --all", "All of a solid-state disk"],
  ],
  run: (args: VerbArguments, io: CliIo) =>
    workThrough(args, io, {
      verb: "discard",
      done: "Discarded",
      doing: "Discarding",
      begin: (disk, signal) => (sector, count) =>
        disk.discard(sector, count, { signal }),
    }),
};
