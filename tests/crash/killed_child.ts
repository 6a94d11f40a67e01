/**
 * A crash test at the stage host whose run or check does not end, in the folder
 * that is named: for a process that is killed. Says when it has come so far.
 *
 * @module
 */

import { runCrashTest } from "../../src/crash/run_crash_test.ts";

const [directory, where] = Deno.args;
const stay = 'echo here > "$0/reached"; (setsid sleep 600 &); sleep 600';
const hang = stay.replace("$0", directory!);

await runCrashTest({
  ...{ directory, stage: "host", fileSystem: "ext4", size: "16MiB", jobs: 2 },
  run: `cd "$PLATTER_DIR"; echo text > file; sync; echo ACK done
    ${where === "run" ? hang : ""}`,
  check: `cd "$PLATTER_DIR"
    case $PLATTER_STATE in start|end) ;; *) ${hang};; esac`,
});
