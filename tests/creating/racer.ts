/**
 * Some of those that make images under the same names at the same time, on one
 * thread or in Workers. They tell what they won, and whether anybody did harm to
 * that while they had it.
 *
 * @module
 */

import { VirtualDisk } from "../../src/disk/disk.ts";
import { DiskError } from "../../src/errors.ts";
import { Random } from "../../src/random.ts";

/** What a racer is to do. */
export interface Race {
  /** Where the images are. */
  readonly directory: string;
  /** The same directory by another name. */
  readonly alias: string;
  /** Images. */
  readonly rounds: number;
  /** Which racer this is, from 1. */
  readonly racer: number;
  /** When to begin, as `Date.now()` says it. */
  readonly start: number;
  /** Time for each image, in ms. */
  readonly pace: number;
  /** Whether images are removed as well. */
  readonly removes: boolean;
}

/** An image that a racer made. */
export interface Win {
  /** Which image. */
  readonly round: number;
  /** Who made it. */
  readonly racer: number;
  /** When it was his, as `Date.now()` says it. */
  readonly at: number;
}

/** What came of it. */
export interface Outcome {
  /** Images that it made. */
  readonly wins: Win[];
  /** Calls of `create()`. */
  readonly creates: number;
  /** How many were refused, by the kind of error. */
  readonly refused: Record<string, number>;
  /** What must not happen. */
  readonly faults: string[];
}

/** Sectors that a racer's images have, so that they can be told apart. */
export function sectorsOf(racer: number): number {
  return 8 * racer;
}

/** More than any file system can hold, so that the image fails half-way. */
const TOO_MANY = 2 ** 43;

/** Runs a race to its end. */
export async function runRace(race: Race): Promise<Outcome> {
  const { directory, alias, racer, rounds } = race;
  const random = new Random(racer);
  const wins: Win[] = [];
  const faults: string[] = [];
  const refused: Record<string, number> = {};
  let creates = 0;
  const sectors = sectorsOf(racer);
  for (let round = 0; round < rounds; round++) {
    const wait = race.start + round * race.pace - Date.now();
    if (wait > 0) await new Promise((resolve) => setTimeout(resolve, wait));
    const place = random.chance(1, 4) ? alias : directory;
    const path = `${place}/${round}.img`;
    if (race.removes && random.chance(1, 4)) {
      await Deno.remove(path).catch(() => {});
    }
    const fails = random.chance(1, 5);
    creates++;
    try {
      await using disk = await VirtualDisk.create(path, {
        sectors: fails ? TOO_MANY : sectors,
        overwrite: random.chance(1, 2),
        preallocate: random.chance(1, 8),
        backend: random.pick(["direct", "portable"]),
        engine: "auto",
      });
      const at = Date.now();
      if (fails) faults.push(`${path}: ${TOO_MANY} sectors were made`);
      if (disk.sectors !== sectors) faults.push(`${path}: ${disk.sectors}`);
      const stamp = new Uint8Array(sectors * 512).fill(racer);
      if ((await disk.read(0, sectors)).some((byte) => byte !== 0)) {
        faults.push(`${path}: racer ${racer} got what is not empty`);
      }
      await disk.write(0, stamp);
      if (random.chance(1, 4)) {
        await new Promise((resolve) => setTimeout(resolve, random.below(4)));
      }
      if ((await disk.read(0, sectors)).some((byte) => byte !== racer)) {
        faults.push(`${path}: racer ${racer} reads what it did not write`);
      }
      const size = await Deno.stat(path).then(({ size }) => size, () => -1);
      if (!race.removes && size !== stamp.length) {
        faults.push(`${path}: racer ${racer}'s has ${size} bytes while open`);
      }
      wins.push({ round, racer, at });
    } catch (error) {
      const kind = error instanceof DiskError ? error.kind : "unknown";
      refused[kind] = (refused[kind] ?? 0) + 1;
      const allowed = ["exists", "locked"];
      if (fails) allowed.push("no-space");
      // Removed by somebody who asks nobody, while it is being opened.
      if (race.removes) allowed.push("not-found");
      if (!allowed.includes(kind)) faults.push(`${path}: ${error}`);
    }
  }
  return { wins, creates, refused, faults };
}

function runInWorker(race: Race): Promise<Outcome> {
  const worker = new Worker(import.meta.url, { type: "module" });
  return new Promise<Outcome>((resolve, reject) => {
    worker.onmessage = ({ data }) => {
      if (data === "ready") worker.postMessage(race);
      else resolve(data);
    };
    worker.onerror = reject;
  }).finally(() => worker.terminate());
}

/** What a program with racers is called with. */
export interface Program {
  /** The race, but for the racers. */
  readonly race: Omit<Race, "racer">;
  /** Those that share its thread. */
  readonly here: number[];
  /** Those that have a Worker each. */
  readonly inWorkers: number[];
}

if ("WorkerGlobalScope" in globalThis) {
  const worker = self as unknown as {
    onmessage: (event: MessageEvent<Race>) => void;
    postMessage(message: unknown): void;
  };
  worker.onmessage = async ({ data }) => {
    worker.postMessage(await runRace(data));
  };
  worker.postMessage("ready");
} else if (import.meta.main) {
  const { race, here, inWorkers } = JSON.parse(Deno.args[0]!) as Program;
  const outcomes = await Promise.all([
    ...here.map((racer) => runRace({ ...race, racer })),
    ...inWorkers.map((racer) => runInWorker({ ...race, racer })),
  ]);
  console.log(JSON.stringify(outcomes));
}
