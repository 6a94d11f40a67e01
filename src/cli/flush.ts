/**
 * `platter flush`: makes durable what others wrote.
 *
 * @module
 */

import { IMAGE_OPTIONS, interruptible } from "./images.ts";
import type { CliIo } from "./io.ts";
import { openImage } from "./opened_image.ts";
import { OUTCOME_OPTIONS, tell } from "./outcome.ts";
import { ExitCode, type Verb, type VerbArguments } from "./verb.ts";

/** The verb. */
export const flush: Verb = {
  name: "flush",
  summary: "Make durable whatever was written to a disk",
  operands: "IMAGE",
  operandCount: [1, 1],
  description:
    "Other verbs flush what they write. This is for what another program left\n" +
    "in the operating system's memory or in a device's cache, and it says what\n" +
    "a flush reaches here.",
  options: [...OUTCOME_OPTIONS, ...IMAGE_OPTIONS],
  examples: [
    ["platter flush disk.img", 'As qemu-io -c "flush"'],
    ["platter flush disk.img --json | jq .reaches", "What is it worth here?"],
  ],
  run,
};

async function run(args: VerbArguments, io: CliIo): Promise<number> {
  const path = args.operand(0);
  const durability = await interruptible(io, async (signal) => {
    await using opened = await openImage(args, io, path, { signal });
    const { disk } = opened;
    await disk.flush({ signal });
    return disk.info.durability;
  });
  await tell(args, io, {
    text: `Flushed ${path}: reaches ${durability.flush}, by ` +
      durability.method,
    json: {
      image: path,
      reaches: durability.flush,
      method: durability.method,
    },
    done: `"${path}" is flushed`,
  });
  return ExitCode.Ok;
}
