/**
 * An image under the layers that a command line names: an overlay, faults,
 * protected ranges, figures and a trace, with the options that ask for them. For
 * verbs that show a disk to somebody else.
 *
 * @module
 */

import { statSync } from "node:fs";
import type { Backend } from "../backend.ts";
import { filesOf, identify } from "../backends/same_file.ts";
import { VirtualDisk } from "../disk/disk.ts";
import { openBackend } from "../disk/open.ts";
import { overlay } from "../disk/overlay.ts";
import { isNbdUri } from "../protocol/nbd/uri.ts";
import { isRbdUri } from "../protocol/rbd/uri.ts";
import { DiskError } from "../errors.ts";
import { readPartitions } from "../image/read_partitions.ts";
import type { FaultRule } from "../layers/fault_rule.ts";
import { parseFaultRule } from "../layers/fault_rule_text.ts";
import { FAULT_WORDS } from "../layers/fault_words.ts";
import { type Faults, faults } from "../layers/faults.ts";
import { type NamedRange, nameOfRange } from "../layers/named_range.ts";
import { type Observe, observe } from "../layers/observe.ts";
import { type Protect, protect, type Violation } from "../layers/protect.ts";
import { trace } from "../layers/trace.ts";
import { plural } from "../plural.ts";
import {
  parseRange,
  placeRanges,
  RANGE_HELP,
  rangesOf,
  type TypedRange,
} from "./disk_range.ts";
import { openOptions, warn } from "./images.ts";
import { type CliIo, printError } from "./io.ts";
import { refuseOwnOutput } from "./own_output.ts";
import { PARTITION_OPTION, partitionOf } from "./partition_option.ts";
import { StatsFile } from "./stats_file.ts";
import { readText } from "./text_file.ts";
import { TraceFile } from "./trace_file.ts";
import {
  listOf,
  parseAs,
  UsageError,
  type VerbArguments,
  type VerbOption,
} from "./verb.ts";

/** How often the file with rules is looked at, in ms. */
const RULES_MS = 250;

/** The option that takes a base which an overlay's file does not know again. */
export const ACCEPT_BASE_OPTION: VerbOption = {
  name: "accept-base",
  summary: "Even if the image was modified since it was begun",
};

/** The options that say which layers there are. */
export const LAYER_OPTIONS: readonly VerbOption[] = [
  {
    ...PARTITION_OPTION,
    summary: "Only this partition; layers see the whole disk",
  },
  { name: "read-only", summary: "Refuse writes" },
  {
    name: "overlay",
    value: "FILE",
    optional: true,
    summary: "Keep writes in memory or FILE; the image stays",
  },
  ACCEPT_BASE_OPTION,
  {
    name: "fault",
    value: "RULE",
    repeats: true,
    summary: "Let something go wrong; may be given several times",
  },
  {
    name: "fault-file",
    value: "FILE",
    summary: "Rules that may change at run time",
  },
  {
    name: "protect",
    value: "RANGE",
    repeats: true,
    summary: "Refuse changes there; may be given several times",
  },
  {
    name: "protect-note",
    summary: "Carry it out all the same, and only say so",
  },
  {
    name: "stats",
    value: "FILE",
    summary: "Keep figures of requests, by partition, as JSON",
  },
  {
    name: "trace",
    value: "FILE",
    summary: "Write down every request, as lines of JSON",
  },
];

/** What the help of a verb says of these options. */
export const LAYER_HELP: string =
  "An overlay in a FILE lasts: with it the next time, the disk has what was\n" +
  'written, and "platter commit FILE" writes it to the image. The FILE is made\n' +
  "if nothing is there.\n" +
  "\n" +
  "A fault RULE is words: operations, conditions and one effect, such as\n" +
  '"write nth=3 error=EIO", "read sector=100..200 delay=20ms" or\n' +
  '"flush lost". A FILE of rules has one on each line; it is looked at again\n' +
  "whenever it changes, so that faults come and go while the disk is in use.\n" +
  'Its words: "platter help faults".\n' +
  "\n" +
  `${RANGE_HELP}\n` +
  "What touches a protected range fails as a whole, which is said.\n" +
  "Figures are written every second while something happens, and at the end;\n" +
  "the file is a whole one at any moment. Partitions are those at the beginning.\n" +
  "If a trace cannot be written any more, it ends there, which is said once;\n" +
  "the disk goes on.";

/** What `platter help faults` says. */
export const FAULT_HELP: string = "The words of a fault rule, in any order:\n" +
  listOf(FAULT_WORDS.flatMap(({ forms }) => forms));

/** Which layers were asked for. */
interface Layers {
  readonly readOnly: boolean;
  readonly isOverlay: boolean;
  /** The overlay's file; in memory without one. */
  readonly overlayPath: string | undefined;
  readonly acceptBase: boolean;
  readonly rules: readonly FaultRule[];
  /** How many of the rules are in no file. */
  readonly fixed: number;
  readonly rulesPath: string | undefined;
  readonly tracePath: string | undefined;
  readonly protected: readonly TypedRange[];
  readonly isNoted: boolean;
  readonly statsPath: string | undefined;
}

/**
 * Reads the options that say which layers there are.
 *
 * @param args What was typed.
 * @returns The same for {@linkcode LayeredDisk.open}.
 * @throws {UsageError} If a rule cannot be read.
 * @throws {CliError} If a file cannot be.
 */
export async function readLayers(args: VerbArguments): Promise<Layers> {
  const rules = args.all("fault").map((text) =>
    parseAs("--fault", text, parseFaultRule)
  );
  const fixed = rules.length;
  const rulesPath = args.value("fault-file");
  const overlayPath = args.value("overlay");
  if (args.flag("accept-base") && overlayPath === undefined) {
    throw new UsageError(
      "Cannot use --accept-base as there must be an --overlay=FILE to go with it",
    );
  }
  if (rulesPath !== undefined) rules.push(...await readRules(rulesPath));
  const ranges = args.all("protect").map((text) =>
    parseAs("--protect", text, parseRange)
  );
  const isNoted = args.flag("protect-note");
  if (isNoted && ranges.length === 0) {
    throw new UsageError(
      "Cannot use --protect-note as there must be a --protect to go with it",
    );
  }
  return {
    readOnly: args.flag("read-only"),
    isOverlay: args.flag("overlay") || overlayPath !== undefined,
    overlayPath,
    acceptBase: args.flag("accept-base"),
    rules,
    fixed,
    rulesPath,
    tracePath: args.value("trace"),
    protected: ranges,
    isNoted,
    statsPath: args.value("stats"),
  };
}

/** A disk over an image and layers; closing it closes all of them. */
export class LayeredDisk implements AsyncDisposable {
  readonly #parts: AsyncDisposableStack;
  readonly #trace: TraceFile | undefined;
  readonly #stats: StatsFile | undefined;
  /** The disk. */
  readonly disk: VirtualDisk;

  private constructor(
    parts: AsyncDisposableStack,
    disk: VirtualDisk,
    trace: TraceFile | undefined,
    stats: StatsFile | undefined,
  ) {
    this.#parts = parts;
    this.disk = disk;
    this.#trace = trace;
    this.#stats = stats;
  }

  /**
   * Opens an image under its layers.
   *
   * @param path The image.
   * @param layers The layers.
   * @param args What was typed, for how the image is opened.
   * @param io What to talk to.
   * @returns The disk.
   * @throws {DiskError | CliError} If the image or the trace cannot be opened.
   */
  static async open(
    path: string,
    layers: Layers,
    args: VerbArguments,
    io: CliIo,
  ): Promise<LayeredDisk> {
    const { readOnly, isOverlay, rules, fixed, rulesPath, tracePath } = layers;
    const { overlayPath, acceptBase } = layers;
    const { statsPath } = layers;
    await using parts = new AsyncDisposableStack();
    const base = await openBackend(path, {
      // What an overlay lies over must not change.
      // An image of a Ceph cluster has one lock alone, which overlays cannot share:
      // a snapshot is what does not change there.
      ...(isOverlay && !isNbdUri(path) && !isRbdUri(path)
        ? { lock: "exclusive" }
        : {}),
      ...openOptions(args),
      readOnly: isOverlay || readOnly,
    });
    void warn(io, path, base.info);
    // The topmost layer closes the rest.
    let top: Backend = base;
    let sink: TraceFile | undefined;
    let figures: StatsFile | undefined;
    // Closed after the disk, so that its last requests are in them.
    parts.defer(() => figures?.close());
    parts.defer(() => sink?.close());
    parts.defer(() => top.close());
    refuseOwnOutput(io, await filesOf(base.info));
    const { stdoutFile } = io;
    const others = {
      "the image": await identify(path),
      "what standard output goes to": stdoutFile?.isStream ? null : stdoutFile,
      "the file of rules": rulesPath === undefined
        ? null
        : await identify(rulesPath),
      "the overlay": overlayPath === undefined
        ? null
        : await identify(overlayPath),
    };
    if (overlayPath !== undefined) {
      const { direct, backend } = openOptions(args);
      top = await overlay(top, {
        file: overlayPath,
        readOnly,
        acceptBase,
        direct,
        backend,
      });
    } else if (isOverlay) top = overlay(top, { readOnly });
    // Looked for before there are faults, and not part of the trace. The disk is
    // not closed, as what it is over stays.
    const { start, sectors } = await partitionOf(VirtualDisk.over(top), args);
    // A table is the one that is served: an overlay may have another than its base.
    const { guarded, counted } = await findRanges(top, layers);
    if (tracePath !== undefined) {
      // Says that it ended early itself, and at once.
      sink = await TraceFile.open(
        tracePath,
        others,
        (error) =>
          void printError(
            io,
            `platter: ${error.message}: the trace ends there\n`,
          ),
      );
    }
    if (rules.length > 0 || rulesPath !== undefined) {
      const faulty = faults(top, rules);
      top = faulty;
      if (rulesPath !== undefined) {
        parts.defer(followRules(faulty, rulesPath, fixed, io));
      }
    }
    let guard: Protect | undefined;
    if (guarded.length > 0) {
      guard = protect(top, guarded, {
        action: layers.isNoted ? "note" : "refuse",
        onViolation: (violation) =>
          tellViolation(io, guard!, violation, layers),
      });
      top = guard;
    }
    if (statsPath !== undefined) {
      const observed = observe(top, { ranges: counted });
      top = observed;
      const trace = tracePath === undefined ? null : await identify(tracePath);
      figures = await StatsFile.open(
        statsPath,
        { ...others, "the trace": trace },
        () => figuresOf(path, observed, guard),
        (error) => void printError(io, `platter: ${error.message}\n`),
      );
    }
    if (sink !== undefined) {
      const lines = sink;
      top = trace(top, (line) => lines.write(line));
    }
    const disk = VirtualDisk.over(top);
    parts.use(disk);
    const part = sectors === disk.sectors ? disk : disk.slice(start, sectors);
    return new LayeredDisk(parts.move(), part, sink, figures);
  }

  /**
   * Whether every request is in the trace and in the figures, if there are any;
   * known once it is closed.
   */
  get notesAreWhole(): boolean {
    return !this.#trace?.failure && !this.#stats?.failure;
  }

  /**
   * Flushes, if there is anything to flush.
   *
   * @returns When it is done.
   */
  async flush(): Promise<void> {
    const { disk } = this;
    if (!disk.readOnly && disk.info.abilities.flush !== "none") {
      await disk.flush();
    }
  }

  /** Closes the disk, its layers and the image. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#parts.disposeAsync();
  }
}

/** Finds what is protected and what is counted by itself. */
async function findRanges(
  backend: Backend,
  layers: Layers,
): Promise<{ guarded: NamedRange[]; counted: NamedRange[] }> {
  // A view for this alone, with which the backend is not closed.
  await using disk = VirtualDisk.over(
    overlay(backend, { ownsBase: false, readOnly: true }),
  );
  const guarded = await placeRanges(layers.protected, disk);
  if (layers.statsPath === undefined) return { guarded, counted: [] };
  try {
    const { partitions } = await readPartitions(disk);
    return { guarded, counted: rangesOf(partitions, disk.sectors) };
  } catch (error) {
    // A disk with bad sectors is served as well, and counted as a whole.
    if (!(error instanceof DiskError)) throw error;
    return { guarded, counted: [] };
  }
}

/** Violations that are told one by one; from then on the tens of them are. */
const TOLD = 10;

function tellViolation(
  io: CliIo,
  guard: Protect,
  { operation, sector, count, range }: Violation,
  { isNoted }: Layers,
): void {
  const times = guard.violationCount;
  if (times > TOLD && !/^10+$/.test(String(times))) return;
  const name = nameOfRange(range);
  const so = times > TOLD ? ` (the ${times}th such request)` : "";
  void printError(
    io,
    `platter: ${operation} ${plural(count, "sector")} at sector ${sector}: ${
      isNoted ? "carried out" : "refused"
    }, as it touches ${name}, protected${so}\n`,
  );
}

/** What stands in the file of figures. */
function figuresOf(
  path: string,
  observed: Observe,
  guard: Protect | undefined,
): object {
  return {
    path,
    ...observed.stats(),
    ...(guard === undefined ? {} : {
      protected: {
        ranges: guard.ranges,
        requests: guard.violationCount,
        first: guard.violations.slice(0, TOLD),
      },
    }),
  };
}

async function readRules(path: string): Promise<FaultRule[]> {
  const text = await readText(path);
  return text.split("\n").map((line) => line.replace(/#.*/, "").trim())
    .filter((line) => line !== "")
    .map((line) => parseAs(`"${path}"`, line, parseFaultRule));
}

/** Looks at a file of rules again and again; returns what ends that. */
function followRules(
  faulty: Faults,
  path: string,
  fixed: number,
  io: CliIo,
): () => Promise<void> {
  let known = stamp(path);
  let busy = Promise.resolve();
  const look = async () => {
    const now = stamp(path);
    if (now === known) return;
    known = now;
    let text: string;
    try {
      const rules = await readRules(path);
      for (const rule of faulty.rules.slice(fixed)) faulty.remove(rule);
      for (const rule of rules) faulty.add(rule);
      text = `${plural(rules.length, "rule")} from "${path}"`;
    } catch (error) {
      // The rules stay as they were.
      text = error instanceof Error ? error.message : String(error);
    }
    await printError(io, `platter: ${text}\n`);
  };
  const timer = setInterval(() => busy = busy.then(look), RULES_MS);
  return async () => {
    clearInterval(timer);
    await busy;
  };
}

/** What changes when a file does. */
function stamp(path: string): string {
  try {
    const { mtimeMs, size, ino } = statSync(path);
    return `${mtimeMs} ${size} ${ino}`;
  } catch {
    return "";
  }
}
