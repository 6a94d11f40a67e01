/**
 * Explores a recording's file with a check of its own, and prints the token of
 * what fails.
 *
 * @module
 */

import {
  CrashFailure,
  CrashRecording,
  exploreRecording,
} from "../../src/testing/mod.ts";

await using recording = await CrashRecording.open(Deno.args[0]!);
try {
  await exploreRecording<number>(recording, {
    async recover(disk, acknowledged) {
      const last = acknowledged.at(-1);
      if (last === undefined) return;
      const [byte] = await disk.read(last, 1);
      if (byte !== last) throw new Error(`there, ${last} is gone`);
    },
  });
} catch (error) {
  if (!(error instanceof CrashFailure)) throw error;
  console.log(error.token);
}
