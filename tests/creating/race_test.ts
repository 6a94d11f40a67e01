/**
 * Many make images under the same names at once, in Workers and in processes,
 * with both backends: nobody's image is removed, emptied or written to by
 * somebody else.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { LONG, run, tempDir } from "../helpers.ts";
import { type Outcome, type Program, sectorsOf, type Win } from "./racer.ts";

/** Two racers share a thread, two have a Worker each, one has a process. */
const PROGRAMS = [
  { here: [1, 2], inWorkers: [] },
  { here: [], inWorkers: [3, 4] },
  { here: [5], inWorkers: [] },
];

const ROUNDS = LONG ? 2000 : 80;

/** How far apart two clocks may be, in ms. */
const CLOCKS_MS = 20;

async function runProgram(program: Program): Promise<Outcome[]> {
  const racer = new URL("./racer.ts", import.meta.url).pathname;
  const args = ["run", "-A", "--no-check", racer, JSON.stringify(program)];
  return JSON.parse(await run(Deno.execPath(), args));
}

/** What is wrong with what an image has at last. */
async function faultOf(path: string, wins: readonly Win[]): Promise<string[]> {
  const content = await Deno.readFile(path).catch(() => null);
  if (wins.length === 0) {
    return content === null || content.length === 0
      ? []
      : [`${path}: nobody made it, and it has ${content.length} bytes`];
  }
  if (content === null) return [`${path}: it was made, and is not there`];
  const last = Math.max(...wins.map(({ at }) => at));
  const owners = wins.filter(({ at }) => at >= last - CLOCKS_MS);
  const owner = owners.find(({ racer }) =>
    content.length === sectorsOf(racer) * 512 &&
    content.every((byte) => byte === racer)
  );
  return owner === undefined
    ? [`${path}: it is not as racer ${owners[0]!.racer} left it`]
    : [];
}

for (const removes of [false, true]) {
  Deno.test({
    name: `VirtualDisk.create() harms nobody else's image in a race${
      removes ? " with removals" : ""
    }`,
    ignore: Deno.build.os === "windows",
    async fn() {
      await using dir = await tempDir();
      await Deno.mkdir(dir.join("images"));
      await Deno.symlink("images", dir.join("alias"));
      const race = {
        directory: dir.join("images"),
        alias: dir.join("alias"),
        rounds: removes ? ROUNDS / 2 : ROUNDS,
        start: Date.now() + 1500,
        pace: 5,
        removes,
      };
      const outcomes = (await Promise.all(
        PROGRAMS.map((program) => runProgram({ ...program, race })),
      )).flat();
      const faults = outcomes.flatMap(({ faults }) => faults);
      const wins = outcomes.flatMap(({ wins }) => wins);
      for (let round = 0; !removes && round < race.rounds; round++) {
        const path = `${race.directory}/${round}.img`;
        faults.push(
          ...await faultOf(path, wins.filter((win) => win.round === round)),
        );
      }
      assertEquals(faults, []);
      // Else it was no race.
      assert(outcomes.some(({ refused }) => (refused.exists ?? 0) > 0));
      console.log(
        `${
          outcomes.reduce((sum, { creates }) => sum + creates, 0)
        } creates, ${wins.length} won, refused: ${
          JSON.stringify(outcomes.map(({ refused }) => refused))
        }`,
      );
    },
  });
}
