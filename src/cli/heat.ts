/**
 * `platter heat`: a picture of what was done to a disk, where and when, from a
 * trace.
 *
 * @module
 */

import { isSameFile, namedFiles } from "../backends/same_file.ts";
import { Lines } from "../crash/lines.ts";
import { parseTraceLine } from "../layers/trace.ts";
import { HeatMap } from "./heat_map.ts";
import { drawHeat } from "./heat_picture.ts";
import { unless } from "../unless.ts";
import { CliError, fileError, interruptible } from "./images.ts";
import { type CliIo, print } from "./io.ts";
import { openUnless } from "./open_unless.ts";
import { QUIET_OPTION, tell } from "./outcome.ts";
import { refuseOwnOutput } from "./own_output.ts";
import { saveText } from "./saved_text.ts";
import { ExitCode, UsageError, type Verb, type VerbArguments } from "./verb.ts";

/** The verb. */
export const heat: Verb = {
  name: "heat",
  summary: "Draw where and when a disk was read and written, from a trace",
  operands: "TRACE",
  operandCount: [1, 1],
  description:
    'TRACE is what "platter serve --trace", "platter mount --trace" or the layer\n' +
    "trace wrote. The picture is an SVG, light or dark as whoever looks at it\n" +
    "prefers: time from left to right, the disk from top to bottom, without the\n" +
    "wide parts of it that were left alone. Memory does not grow with the trace.",
  options: [
    {
      name: "output",
      letter: "o",
      value: "FILE|-",
      summary: "Where to: a new file (default: standard output)",
    },
    { name: "force", letter: "f", summary: "Over an existing file, too" },
    QUIET_OPTION,
    { name: "json", summary: "With --output: say what was done as JSON" },
  ],
  examples: [
    [
      "platter heat trace.jsonl -o heat.svg",
      "Where did the file system write, and when?",
    ],
  ],
  run,
};

async function run(args: VerbArguments, io: CliIo): Promise<number> {
  const path = args.operand(0);
  const output = args.value("output") ?? "-";
  const force = args.flag("force");
  if (output === "-" && io.stdout.isTerminal) {
    throw new UsageError(
      "Cannot draw to a terminal: redirect the picture, or use --output FILE",
    );
  }
  if (output === "-" && args.flag("json")) {
    throw new UsageError("Cannot use --json as it needs --output FILE");
  }
  if (output !== "-" && await isSameFile(path, output)) {
    throw new CliError(`Cannot draw "${path}" onto itself`);
  }
  refuseOwnOutput(io, await namedFiles(path));
  const picture = await interruptible(io, async (signal) => {
    const picture = drawHeat(await gather(path, signal));
    if (output !== "-") await saveText(output, picture, { force, io, signal });
    return picture;
  });
  if (output === "-") {
    await print(io.stdout, picture);
    return ExitCode.Ok;
  }
  await tell(args, io, {
    text: `Drew ${output}`,
    json: {
      trace: path,
      file: output,
      bytes: new TextEncoder().encode(picture).length,
    },
    done: `"${output}" has all of it`,
  });
  return ExitCode.Ok;
}

/** Reads a trace, piece by piece. */
async function gather(path: string, signal: AbortSignal): Promise<HeatMap> {
  const map = new HeatMap();
  let number = 0;
  const lines = new Lines((line) => {
    number++;
    if (line.trim() === "") return;
    // What was written comes last, may be long, and is not drawn.
    map.add(parseTraceLine(line.replace(/,"data":"[^"]*("\})?$/, "}"), number));
  });
  try {
    using file = await openUnless(signal, path);
    const buffer = new Uint8Array(65_536);
    for (;;) {
      const length = await unless(signal, file.read(buffer));
      if (length === null) break;
      lines.add(buffer.slice(0, length));
    }
  } catch (error) {
    if (signal.aborted) throw signal.reason;
    // A trace that is cut off ends with the last whole line.
    if (error instanceof TypeError) {
      throw new CliError(`Cannot draw "${path}": ${error.message}`);
    }
    throw fileError("read", path, error);
  }
  if (map.sectors === 0) {
    throw new CliError(
      `Cannot draw "${path}" as it must be a trace, which begins with a disk`,
    );
  }
  return map;
}
