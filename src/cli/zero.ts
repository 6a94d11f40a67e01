/**
 * `platter zero`: a range of a disk that reads as zeroes.
 *
 * @module
 */

import { Zeroes } from "../disk/sparse.ts";
import type { CliIo } from "./io.ts";
import { RANGE_OPTIONS, WORK_OPTIONS, workThrough } from "./range_work.ts";
import type { Verb, VerbArguments } from "./verb.ts";

/** The verb. */
export const zero: Verb = {
  name: "zero",
  summary: "Make a range read as zeroes, and flush",
  operands: "IMAGE",
  operandCount: [1, 1],
  description:
    "Does it by the disk's own means, without moving data, where it has them;\n" +
    "else it writes zeroes. The space stays reserved unless --unmap.",
  options: [
    ...RANGE_OPTIONS,
    {
      name: "unmap",
      letter: "u",
      summary: "The disk may give the space back (a hole)",
    },
    ...WORK_OPTIONS,
  ],
  examples: [
    [
      "platter zero disk.img --offset 1MiB --length 64KiB",
      'As qemu-io -c "write -z 1M 64k"',
    ],
    [
      "platter zero /dev/sdb --count 2048 --sector 0",
      "Away with a table; of a GPT, the copy at the end stays",
    ],
    ["platter zero disk.img --all --unmap", "Back to one large hole"],
  ],
  run: (args: VerbArguments, io: CliIo) =>
    workThrough(args, io, {
      verb: "zero",
      done: "Zeroed",
      doing: "Zeroing",
      begin(disk, signal) {
        const zeroes = new Zeroes(disk, signal, args.flag("unmap"));
        return (sector, count) => zeroes.write(sector, count);
      },
    }),
};
