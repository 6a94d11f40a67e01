/**
 * Crash tests of programs that nobody here wrote: what is known of them must be
 * found. Each fails and survives as documented by who wrote it, or as can be
 * read in what it writes.
 *
 * @module
 */

import { assert, assertEquals, assertRejects } from "@std/assert";
import { CrashTestFailure, type CrashTestOptions } from "@platter/disk/testing";
import { crashTest } from "../../src/crash/run_crash_test.ts";
import { LONG, needs, run, tempDir } from "../helpers.ts";
import { gptTest } from "./gpt.ts";

/** States of each test: enough to find what fails; in the long form, to survive. */
const STATES = LONG ? 500 : 24;

const partitions = needs("sgdisk", "sfdisk", "nbdfuse", "fusermount3");
const onHost = needs("root", "sqlite3", "mkfs.ext4", "nbdfuse", "losetup");
const onLong = { ignore: !LONG || onHost.ignore };

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

/** Twenty rows, each one promised when it is committed. */
function ledger(pragmas: string): CrashTestOptions {
  return {
    stage: "host",
    fileSystem: "ext4",
    size: "32MiB",
    prepare:
      'sqlite3 "$PLATTER_DIR/db" "create table t (i integer primary key, x text)"',
    run: `cd "$PLATTER_DIR"; (echo "${pragmas}"; for i in $(seq 20); do
        echo "insert into t values ($i, hex(randomblob(300))); select 'ACK $i';"
      done) | sqlite3 db`,
    check: `cd "$PLATTER_DIR"; said=$(sqlite3 db "pragma integrity_check" 2>&1)
      [ "$said" = ok ] || { echo "damaged"; exit 1; }
      last=$(tail -n 1 "$PLATTER_ACKED")
      [ "$(sqlite3 db "select count(*) from t")" -ge "\${last:-0}" ] ||
        { echo "rows are lost"; exit 1; }`,
    maxStates: STATES,
    maxShrinkStates: LONG ? 200 : 5,
    jobs: 2,
  };
}

Deno.test(
  "sqlite3 with synchronous=OFF loses and damages, on ext4",
  onHost,
  async () => {
    const { report } = await assertRejects(
      () => crashTest(ledger("pragma synchronous=OFF;")),
      CrashTestFailure,
    );
    assert(report.explored.failed > report.explored.states / 2);
  },
);

Deno.test(
  "sqlite3 with DELETE and EXTRA survives, on ext4",
  onLong,
  async () => {
    const report = await crashTest(
      ledger("pragma journal_mode=DELETE; pragma synchronous=EXTRA;"),
    );
    assertEquals(report.verdict, "safe");
  },
);

const renames = (sync: string): CrashTestOptions => ({
  stage: "host",
  fileSystem: "ext4",
  size: "32MiB",
  // ext4 sees this pattern, and flushes by itself, unless it is told not to.
  mountOptions: "noauto_da_alloc",
  prepare: 'cd "$PLATTER_DIR"; seq 2000 > file; sync',
  run: `cd "$PLATTER_DIR"; for i in 1 2 3 4 5; do
      seq 2000 > new; ${sync}; mv new file; echo ACK $i; sync .
    done`,
  check: `cd "$PLATTER_DIR"; [ "$(tail -n 1 file)" = 2000 ] ||
    { echo "the file is not whole"; exit 1; }`,
  maxStates: STATES,
  maxShrinkStates: LONG ? 200 : 5,
  jobs: 2,
});

Deno.test(
  "a rename without fsync leaves files that are not whole, on ext4",
  onHost,
  async () => {
    await assertRejects(
      () => crashTest(renames(":")),
      CrashTestFailure,
      "the file is not whole",
    );
  },
);

Deno.test(
  "a rename after fsync leaves whole files, on ext4",
  onLong,
  async () => {
    const report = await crashTest(renames("sync new"));
    assertEquals(report.verdict, "safe");
  },
);
