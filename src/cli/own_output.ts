/**
 * Standard output that is what a verb reads or writes: a shell opens any file for
 * it, also to append, or to write over what is there.
 *
 * @module
 */

import { sharedOf, type SourceFile } from "../backends/same_file.ts";
import { CliError } from "./images.ts";
import type { CliIo } from "./io.ts";

/**
 * Refuses to go on where standard output goes to what is read or written: what is
 * printed would be in it.
 *
 * @param io What to talk to.
 * @param files What is read or written.
 * @param use Which of both, for the error.
 * @throws {CliError} If it does.
 */
export function refuseOwnOutput(
  { stdoutFile }: CliIo,
  files: readonly SourceFile[],
  use: "read" | "written" = "read",
): void {
  // A terminal or a pipe keeps nothing.
  if (stdoutFile === null || stdoutFile.isStream) return;
  const file = sharedOf(stdoutFile, files);
  if (file === null) return;
  throw new CliError(
    `Cannot write to standard output as it goes to "${file.name}", which is ` +
      use,
  );
}
