/**
 * Recoveries of others that a second power cut interrupts: the kernel's replay
 * of an ext4 journal, and e2fsck's.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import type { CrashTestOptions } from "../../src/crash/crash_test_options.ts";
import { runCrashTest } from "../../src/crash/run_crash_test.ts";
import { isRoot, LONG, needs, tempDir } from "../helpers.ts";

const tools = needs("mkfs.ext4", "e2fsck", "debugfs", "nbdfuse", "unshare");

/** Two files, each durable when it is promised. */
const RUN = `cd "$PLATTER_DIR"
for name in one two; do
  echo "This is $name" > "$name" && sync "$name" . && echo "$name" >&"$PLATTER_ACK"
done`;

/** As mounted: the kernel has replayed the journal. */
const MOUNTED = `while read -r name; do
  [ "$(cat "$PLATTER_DIR/$name")" = "This is $name" ] || { echo "a file is lost"; exit 1; }
done < "$PLATTER_ACKED"`;

/**
 * e2fsck replays the journal, and puts in order what is left. It is given a block
 * device, as its users give it: it writes a superblock in pieces, the checksum
 * last (`write_primary_superblock` of libext2fs), which the kernel's cache of a
 * device writes at once, and an image over FUSE does not.
 */
const REPAIRED = `e2fsck -fy "$PLATTER_DEVICE" || [ $? -eq 1 ] || exit 1
e2fsck -fn "$PLATTER_DEVICE" || { echo "e2fsck has left errors"; exit 1; }
while read -r name; do
  [ "$(debugfs -R "cat $name" "$PLATTER_DEVICE")" = "This is $name" ] || { echo "a file is lost"; exit 1; }
done < "$PLATTER_ACKED"`;

Deno.test({
  name: "ext4's journal and e2fsck recover after a power cut in their recovery",
  ignore: tools.ignore || !isRoot() || !LONG,
  async fn() {
    await using dir = await tempDir();
    const record = dir.join("run.rec");
    const options = {
      maxStates: 12,
      crashDuringRecovery: true,
      maxStatesPerRecovery: 4,
    };
    const stages: Partial<CrashTestOptions>[] = [
      {
        ...{ stage: "host", fileSystem: "ext4", size: "16MiB" },
        ...{ run: RUN, record },
      },
      { stage: "host", on: "device", recording: record },
    ];
    for (const [i, check] of [MOUNTED, REPAIRED].entries()) {
      const { explored, groups, unstable } = await runCrashTest({
        ...options,
        ...stages[i],
        check,
      });
      assertEquals([groups, unstable], [[], []]);
      assertEquals(explored.states, 12);
      // Most states have a journal to be replayed.
      assert(explored.recoveryStates >= 12, `${explored.recoveryStates}`);
    }
  },
});
