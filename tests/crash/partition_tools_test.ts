/**
 * Crash tests of partition tools: how many of all states leave no table is known
 * from what they write and flush, with root and without.
 *
 * @module
 */

import { assert, assertEquals, assertRejects } from "@std/assert";
import { CrashTestFailure } from "@platter/disk/testing";
import { crashTest } from "../../src/crash/run_crash_test.ts";
import { needs, run, tempDir } from "../helpers.ts";
import { gptTest } from "./gpt.ts";

const partitions = needs("sgdisk", "sfdisk", "nbdfuse", "fusermount3");

Deno.test(
  "sgdisk leaves no partition table in some states",
  partitions,
  async () => {
    const { report } = await assertRejects(
      () => crashTest(gptTest("sgdisk")),
      CrashTestFailure,
      "no GPT",
    );
    // It writes five pieces and flushes once, at the end.
    assert(report.explored.exhaustive);
    assertEquals(report.explored.failed, 4);
    assertEquals(report.groups[0]!.kind, "no GPT");
  },
);

Deno.test(
  "sfdisk leaves a partition table in every state",
  partitions,
  async () => {
    const report = await crashTest(gptTest("sfdisk"));
    assert(report.explored.exhaustive);
    assert(report.explored.flushes >= 5);
  },
);

Deno.test("checks get a block device like the workload's", {
  ignore: needs("root", "sfdisk", "nbdfuse", "fusermount3", "losetup").ignore,
}, async () => {
  await crashTest({
    ...{ stage: "host", on: "device", size: "8MiB", maxStates: 8 },
    device: { blockSize: 4096 },
    // Who takes blocks for smaller ones finds no table.
    prepare: 'echo "label: gpt" | sfdisk -q "$PLATTER_DEVICE"',
    run:
      'echo size=1MiB | sfdisk -q "$PLATTER_DEVICE" && echo "ACK partitioned"',
    check: 'sfdisk --dump "$PLATTER_DEVICE" | grep -q "^label: gpt"',
  });
});

Deno.test("sgdisk is tested without root", {
  ignore: partitions.ignore || needs("root", "setpriv", "unshare").ignore,
}, async () => {
  await using dir = await tempDir();
  await Deno.mkdir(dir.join("home"));
  await Deno.chmod(dir.path, 0o755);
  await Deno.chmod(dir.join("home"), 0o777);
  // The device as udev makes it on most systems, for this process alone.
  const script = `mknod -m 666 "$1/fuse" c 10 229
    mount --bind "$1/fuse" /dev/fuse && shift
    exec setpriv --reuid 65534 --regid 65534 --clear-groups "$@"`;
  const text = await run("unshare", [
    ...["--mount", "sh", "-c", script, "sh", dir.path],
    ...["env", `HOME=${dir.join("home")}`, `DENO_DIR=${dir.join("home")}`],
    ...[Deno.execPath(), "run", "-A", "--no-config", "--no-check", "--quiet"],
    ...[new URL("gpt_child.ts", import.meta.url).pathname, "sgdisk"],
  ]);
  const { user, report } = JSON.parse(text);
  assertEquals(user, 65_534);
  assertEquals(report.explored.failed, 4);
});
