/**
 * Does SQLite keep its promises through a power cut? Runs a ledger on a disk
 * that records what reaches it, cuts the power at every point and in every way
 * that a volatile write cache allows, and looks at what SQLite makes of each
 * image.
 *
 * ```sh
 * deno run -A examples/sqlite/explore.ts                    # it does
 * deno run -A examples/sqlite/explore.ts --synchronous OFF  # it does not
 * ```
 *
 * Exits with 0 if no state fails, with 1 if one does, with 2 if it was called
 * wrongly.
 *
 * @module
 */

import {
  CrashFailure,
  type CrashOptions,
  type CrashReport,
  exploreCrashes,
  Random,
} from "@platter/disk/testing";
import { VirtualDisk } from "@platter/disk";
import { parseArgs } from "@std/cli/parse-args";
import { Engine, formatForSqlite } from "./engine.ts";
import { Ledger, LEDGER_SECTORS } from "./ledger.ts";

/** States that are looked at unless another number is given. */
const DEFAULT_STATES = 10_000;

const USAGE = `Usage: explore.ts [OPTIONS]

  --synchronous MODE  OFF, NORMAL, FULL or EXTRA (default: FULL)
  --journal MODE      TRUNCATE, PERSIST, DELETE or WAL (default: TRUNCATE)
  --states N          images to look at, at most (default: ${DEFAULT_STATES})
  --seed N            what random states are drawn from (default: 0)
  --torn              sectors may be torn inside
  --recovery          the power may fail again while SQLite recovers
  --fail-flush N      the Nth flush fails, and loses what it was to write
  --only TOKEN        one state again, by the token that a failure printed
  --save-image PATH   keeps the image of a failure`;

const SYNCHRONOUS = ["OFF", "NORMAL", "FULL", "EXTRA"];
const JOURNALS = ["TRUNCATE", "PERSIST", "DELETE", "WAL"];

/** What to try. */
export interface CrashTestOptions {
  /** `PRAGMA synchronous`; `"FULL"` if not given. */
  synchronous?: string;
  /** `PRAGMA journal_mode`; `"TRUNCATE"` if not given. */
  journal?: string;
  /** Whether sectors may be torn inside. */
  torn?: boolean;
  /** Which flush fails, counted from 1, and ends the workload; none if not given. */
  failFlush?: number;
  /** How the states are explored, beyond that. */
  explore?: Partial<CrashOptions<number>>;
}

/**
 * Explores what power cuts do to the ledger.
 *
 * @param engine SQLite.
 * @param options What to try.
 * @returns What was explored; nothing failed.
 * @throws {CrashFailure} If SQLite loses or damages anything.
 */
export async function exploreLedger(
  engine: Engine,
  options: CrashTestOptions = {},
): Promise<CrashReport> {
  const { synchronous = "FULL", journal = "TRUNCATE", torn = false } = options;
  const { failFlush } = options;
  const ledger = await Ledger.prepare(engine, {
    synchronous,
    journal,
    random: () => {
      const random = new Random(0);
      return (bytes) => random.fill(bytes);
    },
  });
  return await exploreCrashes<number>({
    device: {
      sectors: LEDGER_SECTORS,
      tornBlocks: torn,
      failFlushes: failFlush === undefined ? [] : [failFlush],
    },
    async workload(disk, acknowledge) {
      try {
        await ledger.workload(disk, acknowledge);
      } catch (error) {
        // SQLite was told, and promised nothing: this is how it has to end.
        if (failFlush === undefined || disk.failure === null) throw error;
      }
    },
    recover: (disk, acknowledged) => ledger.recover(disk, acknowledged),
    ...options.explore,
  });
}

/** Which sectors are whose, for the reader of a story. */
async function legend(): Promise<string> {
  await using disk = VirtualDisk.memory({ sectors: LEDGER_SECTORS });
  const { files } = await formatForSqlite(disk);
  const regions = files.map(({ state: { name, sector, sectors } }) =>
    `"${name}" from ${sector} to ${sector + sectors - 1}`
  );
  return `Sectors: the volume's header at 0 and 8, ${regions.join(", ")}`;
}

/** The number that an option has; `NaN` if it has something else. */
function integer(text: string): number {
  return /^\d{1,15}$/.test(text) ? Number(text) : NaN;
}

async function main(args: string[]): Promise<number> {
  const given = parseArgs(args, {
    string: [
      "synchronous",
      "journal",
      "states",
      "seed",
      "fail-flush",
      "only",
      "save-image",
    ],
    boolean: ["torn", "recovery", "help"],
    default: { synchronous: "FULL", journal: "TRUNCATE", seed: "0" },
    unknown: (name) => {
      console.error(`Unknown option: ${name}\n\n${USAGE}`);
      Deno.exit(2);
    },
  });
  const synchronous = given.synchronous.toUpperCase();
  const journal = given.journal.toUpperCase();
  const maxStates = integer(given.states ?? `${DEFAULT_STATES}`);
  const seed = integer(given.seed);
  const failFlush = integer(given["fail-flush"] ?? "0");
  if (
    given.help || !SYNCHRONOUS.includes(synchronous) ||
    !JOURNALS.includes(journal) || Number.isNaN(maxStates + seed + failFlush) ||
    maxStates === 0
  ) {
    console.error(USAGE);
    return given.help ? 0 : 2;
  }
  const engine = await Engine.load();
  console.log(
    `SQLite ${engine.version}, synchronous=${synchronous}, ` +
      `journal_mode=${journal}`,
  );
  try {
    const report = await exploreLedger(engine, {
      synchronous,
      journal,
      torn: given.torn,
      ...(failFlush === 0 ? {} : { failFlush }),
      explore: {
        seed,
        maxStates,
        crashDuringRecovery: given.recovery,
        ...(given.only === undefined ? {} : { only: given.only }),
        ...(given["save-image"] === undefined
          ? {}
          : { saveImage: given["save-image"] }),
      },
    });
    const { states, recoveryStates, durationMs } = report;
    const rate = (states + recoveryStates) / durationMs * 1000;
    console.log(report.summary);
    console.log(
      `Nothing lost, nothing damaged; ${Math.round(rate)} states a second`,
    );
    return 0;
  } catch (error) {
    if (!(error instanceof CrashFailure)) throw error;
    console.log(`${error.message}\n${await legend()}`);
    return 1;
  }
}

if (import.meta.main) Deno.exitCode = await main(Deno.args);
