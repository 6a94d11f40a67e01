/**
 * Runs files of tests in the runtime that this runs in, one test after the
 * other, and prints a line of JSON for each: `{ file, name, outcome, why }`.
 *
 * @module
 */

import { writeSync } from "node:fs";
import process from "node:process";
import { pathToFileURL } from "node:url";
import { atEnd, NeedsDeno, registered } from "./deno_api.ts";

/** How long one test may take. */
const DEADLINE_MS = 120_000;

function say(file: string, name: string, outcome: string, why = ""): void {
  writeSync(1, JSON.stringify({ file, name, outcome, why }) + "\n");
}

function outcomeOf(error: unknown): [outcome: string, why: string] {
  for (let at = error; at instanceof Error; at = at.cause) {
    if (at instanceof NeedsDeno) return ["needs-deno", at.message];
  }
  return ["failed", error instanceof Error ? error.stack! : String(error)];
}

const context = {
  step: (name: string, fn: () => unknown) => {
    try {
      return fn();
    } catch (error) {
      throw new Error(`In step ${name}`, { cause: error });
    }
  },
};

async function within(work: unknown): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise((_, reject) => {
    timer = setTimeout(
      () => reject(new Error(`Not over after ${DEADLINE_MS} ms`)),
      DEADLINE_MS,
    );
  });
  try {
    await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

for (const file of process.argv.slice(2)) {
  try {
    await import(pathToFileURL(file).href);
  } catch (error) {
    say(file, "(the file)", ...outcomeOf(error));
  }
  for (const { name, fn, ignore } of registered.splice(0)) {
    if (ignore) {
      say(file, name, "skipped");
      continue;
    }
    try {
      await within(fn(context));
      say(file, name, "ok");
    } catch (error) {
      say(file, name, ...outcomeOf(error));
    }
  }
  for (const end of atEnd.splice(0)) {
    try {
      await end();
    } catch (error) {
      say(file, "(after all)", ...outcomeOf(error));
    }
  }
}
// What a test has left behind is no reason to stay.
process.exit(0);
