/**
 * How verbs say what they did: a sentence, JSON for programs, or nothing.
 *
 * @module
 */

import type { VirtualDisk } from "../disk/disk.ts";
import { announce, type CliIo } from "./io.ts";
import { formatJson } from "./json.ts";
import type { VerbArguments, VerbOption } from "./verb.ts";

/** The option that leaves out the sentence. */
export const QUIET_OPTION: VerbOption = {
  name: "quiet",
  letter: "q",
  summary: "Say nothing of what was done, and show no progress",
};

/** The options that choose. */
export const OUTCOME_OPTIONS: readonly VerbOption[] = [
  QUIET_OPTION,
  { name: "json", summary: "Say what was done as JSON" },
];

/** What was done. */
export interface Outcome {
  /** In a sentence or some, without the end of the last line. */
  readonly text: string;
  /** The same for programs: sizes in bytes, places in sectors, times in ms. */
  readonly json: unknown;
  /** The same in few words, for the error if it cannot be said. */
  readonly done: string;
}

/**
 * What was done to a disk at the end, for {@linkcode Outcome.done}: whoever writes
 * to one flushes it if it can be.
 *
 * @param disk The disk.
 * @returns `"flushed"`, or that it was not.
 */
export function flushedWord({ info }: VirtualDisk): string {
  return info.abilities.flush === "none"
    ? "not flushed, as it cannot be"
    : "flushed";
}

/**
 * Says what was done, as the person wants it. Everything must have been flushed
 * and closed by then.
 *
 * @param args What was typed.
 * @param io What to talk to.
 * @param outcome What was done.
 * @returns When it is said.
 * @throws {OutputError} If it cannot be.
 */
export async function tell(
  args: VerbArguments,
  io: CliIo,
  { text, json, done }: Outcome,
): Promise<void> {
  if (args.flag("json")) {
    await announce(io, `${formatJson(json)}\n`, done);
  } else if (!args.flag("quiet")) await announce(io, `${text}\n`, done);
}
