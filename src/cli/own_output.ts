/**
 * Standard output that is what is read: a shell opens any file for it, also to
 * append, or to write over what is there.
 *
 * @module
 */

import { sharedOf, type SourceFile } from "../backends/same_file.ts";
import { CliError } from "./images.ts";
import type { CliIo } from "./io.ts";

/**
 * Refuses to go on where standard output goes to what is read.
 *
 * @param io What to talk to.
 * @param sources What is read.
 * @throws {CliError} If it does.
 */
export function refuseOwnOutput(
  { stdoutFile }: CliIo,
  sources: readonly SourceFile[],
): void {
  // A terminal or a pipe keeps nothing.
  if (stdoutFile === null || stdoutFile.isStream) return;
  const source = sharedOf(stdoutFile, sources);
  if (source === null) return;
  throw new CliError(
    `Cannot write to standard output as it goes to "${source.name}", which is ` +
      `read`,
  );
}
