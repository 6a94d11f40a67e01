/**
 * Benchmarks: Platter against fio and against what Deno and Node have.
 *
 * @module
 */

import { parseArgs } from "@std/cli/parse-args";
import type { EngineName } from "../mod.ts";
import { parseSize } from "../src/units.ts";
import { against, casesOf } from "./cases.ts";
import { chart, seriesOf } from "./chart.ts";
import { bold, dim, setColors } from "./color.ts";
import { type Case, type CaseResult, runCase } from "./harness.ts";
import { describeMachine } from "./machine.ts";
import { asData, caseTable, header, summary } from "./report.ts";
import { Revision, RevisionError } from "./revision.ts";
import { Scratch } from "./scratch.ts";

const HELP = `Measures Platter against fio, node:fs and Deno.FsFile.

Usage: deno task bench [options]

  --only PATTERN    Cases whose names match, several with commas; * stands for
                    anything: --only "random-*,stream-read"
  --list            Names the cases and stops
  --rounds N        Rounds of each case (default 5)
  --seconds S       Seconds of each measurement (default 1.5)
  --compare REV     This tree beside another revision of it, and nobody else
  --full            Takes the time that the long cases deserve
  --engine NAMES    Engines of the direct backend, with commas; the first is
                    compared to the peers, the others to it
  --dir DIR         Where the images go, on the disk to be measured (default:
                    tmp in the current directory); gone afterwards
  --size SIZE       Size of the images (default 1GiB)
  --json FILE       Writes everything as JSON; "-" is standard output
  --svg FILE        Draws a chart, which takes two cases more
  --help            Shows this
`;

const ENGINES: readonly string[] = [
  "auto",
  "io_uring",
  "libaio",
  "sync",
] satisfies EngineName[];

/** SIGINT or SIGTERM. */
class Interrupted extends Error {}

const CLEAR_LINE = "\r\x1b[2K";

async function main(args: string[]): Promise<number> {
  const unknown: string[] = [];
  // A lone "-" is not taken for a value otherwise.
  const joined = args.flatMap((arg, i) =>
    arg === "--json" && args[i + 1] === "-"
      ? ["--json=-"]
      : arg === "-" && args[i - 1] === "--json"
      ? []
      : [arg]
  );
  const options = parseArgs(joined, {
    string: [
      "only",
      "rounds",
      "seconds",
      "engine",
      "dir",
      "size",
      "json",
      "svg",
      "compare",
    ],
    boolean: ["list", "full", "help"],
    unknown: (name) => {
      unknown.push(name);
      return false;
    },
  });
  if (options.help) {
    console.log(HELP);
    return 0;
  }
  const rounds = Number(options.rounds ?? 5);
  const seconds = Number(options.seconds ?? 1.5);
  const engines = options.engine?.split(",") ?? [];
  const wrong = unknown.length > 0
    ? `There is no option ${unknown[0]}`
    : !Number.isSafeInteger(rounds) || rounds < 1
    ? "--rounds must be an integer from 1"
    : !(seconds > 0)
    ? "--seconds must be above 0"
    : options.compare !== undefined && options.svg !== undefined
    ? "--svg draws Platter beside its peers, which --compare leaves out"
    : !engines.every((engine) => ENGINES.includes(engine))
    ? `--engine takes ${ENGINES.join(", ")}`
    : null;
  if (wrong !== null) {
    console.error(`${wrong}\n\n${HELP}`);
    return 2;
  }
  const all = casesOf({
    engines: engines as EngineName[],
    full: options.full,
  });
  if (options.list) {
    for (const { name, title } of all) {
      console.log(`${bold(name.padEnd(18))} ${dim(title)}`);
    }
    return 0;
  }
  const selected = select(all, options.only, options.svg !== undefined);
  if (selected.length === 0) {
    console.error(`No case is called ${options.only}: see --list`);
    return 2;
  }

  const toStandardError = options.json === "-";
  const output = toStandardError ? Deno.stderr : Deno.stdout;
  setColors(output.isTerminal());
  const say = toStandardError ? console.error : console.log;

  const interrupted = new AbortController();
  const interrupt = () => interrupted.abort(new Interrupted());
  const signals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
  for (const name of signals) Deno.addSignalListener(name, interrupt);
  const { signal } = interrupted;
  try {
    await using old = options.compare === undefined
      ? null
      : await Revision.unpack(options.compare);
    const cases = old === null
      ? selected
      : against(selected, `at ${old.name}`, old.root);
    await using scratch = await Scratch.make({
      ...(options.dir === undefined ? {} : { parent: options.dir }),
      bytes: parseSize(options.size ?? "1GiB"),
      signal,
      progress,
    });
    const machine = await describeMachine(scratch.directory);
    const { bytes: imageBytes } = await scratch.place("image");
    clearProgress();
    const settings = { rounds, seconds, imageBytes };
    say(header(machine, settings));
    const results: CaseResult[] = [];
    for (const one of cases) {
      const result = await runCase(one, {
        rounds,
        seconds,
        signal,
        progress,
        place: (target) => scratch.place(target),
      });
      results.push(result);
      clearProgress();
      say(caseTable(result));
    }
    say(summary(results));
    if (options.json !== undefined) {
      const text = JSON.stringify(asData(machine, settings, results), null, 2);
      if (toStandardError) console.log(text);
      else await Deno.writeTextFile(options.json, text + "\n");
    }
    if (options.svg !== undefined) {
      const caption = `${machine.cpu}, ${machine.cores} cores; ` +
        `${machine.fileSystem}, O_DIRECT; ${machine.system}; ` +
        `${machine.date.slice(0, 10)}`;
      await Deno.writeTextFile(
        options.svg,
        chart(seriesOf(results), caption),
      );
    }
    return results.some(({ verdict }) => verdict === "failed") ? 1 : 0;
  } catch (error) {
    if (error instanceof RevisionError) {
      console.error(`Cannot compare: ${error.message}`);
      return 2;
    }
    if (!(error instanceof Interrupted)) throw error;
    clearProgress();
    console.error("Interrupted; the scratch images are gone");
    return 130;
  } finally {
    clearProgress();
    for (const name of signals) Deno.removeSignalListener(name, interrupt);
  }
}

/** The cases to run. */
function select(
  cases: readonly Case[],
  only: string | undefined,
  forChart: boolean,
): Case[] {
  if (only === undefined) {
    return cases.filter(({ chartOnly }) => forChart || !chartOnly);
  }
  const patterns = only.split(",").map((pattern) =>
    new RegExp(
      `^${pattern.split("*").map((part) => RegExp.escape(part)).join(".*")}$`,
    )
  );
  return cases.filter(({ name }) =>
    patterns.some((pattern) => pattern.test(name))
  );
}

/** A progress line on the terminal. */
function progress(text: string): void {
  if (!Deno.stderr.isTerminal()) return;
  const { columns } = Deno.consoleSize();
  const line = `${CLEAR_LINE}${dim(text.slice(0, columns - 1))}`;
  Deno.stderr.writeSync(new TextEncoder().encode(line));
}

function clearProgress(): void {
  if (!Deno.stderr.isTerminal()) return;
  Deno.stderr.writeSync(new TextEncoder().encode(CLEAR_LINE));
}

// Down here, as everything above must exist by then.
Deno.exitCode = await main(Deno.args);
