/**
 * The stages with guests: each does what both must do, no process outlives ours,
 * and SQLite at stage uml, without root.
 *
 * They take a minute or more, so that they run when they are asked for:
 * `deno task guests`.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { runCrashTest } from "../../../src/crash/run_crash_test.ts";
import { qemuStage } from "../../../src/crash/stages/qemu.ts";
import { umlStage } from "../../../src/crash/stages/uml.ts";
import type { Stage } from "../../../src/crash/stage.ts";
import { needs } from "../../helpers.ts";
import { canTry, GUEST_USER, processesOf, tryStage } from "./guest_stages.ts";

// Both guests are for this processor.
const WANTED = Deno.env.get("PLATTER_GUESTS") === "1" &&
  Deno.build.os === "linux" && Deno.build.arch === "x86_64";

const UML_IGNORED = !WANTED || needs("linux.uml", "mkfs.ext4").ignore;

Deno.test({
  name: "stage uml, nobody's, attaches one disk after the other",
  ignore: UML_IGNORED,
  async fn(t) {
    const stage = umlStage({ user: GUEST_USER });
    if (await canTry(stage)) await tryStage(t, stage);
  },
});

Deno.test({
  name: "stage qemu, nobody's, attaches one disk after the other",
  ignore: !WANTED ||
    needs("apt-get", "busybox", "dpkg-deb", "mkfs.ext4", "qemu-system-x86_64")
      .ignore,
  async fn(t) {
    const stage = qemuStage({ user: GUEST_USER });
    if (await canTry(stage)) await tryStage(t, stage);
  },
});

/** A program that has a guest, says where, and waits. */
const HOLDER = `
const { umlStage } = await import(Deno.args[0]);
const { MemoryBackend } = await import(Deno.args[1]);
const stage = umlStage(JSON.parse(Deno.args[2]));
const attached = await stage.attach(
  { backend: new MemoryBackend({ sectors: 2048 }) },
  { on: "device", fileSystem: null, directory: "/nowhere", job: 0 },
);
const { output } = await attached.run("cat /proc/cmdline", { isolated: true });
console.log(output);
await attached.run("while :; do :; done & while :; do :; done", { isolated: true });
`;

Deno.test({
  name: "a guest ends with a process that is killed",
  ignore: UML_IGNORED,
  async fn() {
    const user = { user: GUEST_USER };
    if (!await canTry(umlStage(user))) return;
    const resolve = (path: string) => new URL(path, import.meta.url).href;
    const child = new Deno.Command(Deno.execPath(), {
      args: [
        ...[
          "run",
          "--no-lock",
          "-A",
          `data:text/javascript,${encodeURIComponent(HOLDER)}`,
        ],
        resolve("../../../src/crash/stages/uml.ts"),
        resolve("../../../src/backends/memory.ts"),
        JSON.stringify(user),
      ],
      stdin: "null",
      stdout: "piped",
    }).spawn();
    let directory = "";
    try {
      let said = "";
      for await (
        const text of child.stdout.pipeThrough(new TextDecoderStream())
      ) {
        said += text;
        directory = /init=(\S+)\/init\s/.exec(said)?.[1] ?? "";
        if (directory !== "") break;
      }
      assert(directory !== "", said);
      assert((await processesOf(directory)).length > 2);
    } finally {
      child.kill("SIGKILL");
      await child.status;
    }
    while ((await processesOf(directory)).length > 0) {
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    // It was killed, and could not do that itself.
    await Deno.remove(directory, { recursive: true });
  },
});

/** How often SQLite commits. */
const COMMITS = 4;

/** States that are checked. */
const STATES = 10;

/** A test of SQLite in its rollback-journal mode. */
async function trySqlite(
  stage: Stage,
  synchronous: "EXTRA" | "OFF",
  maxStates: number,
) {
  const sql = (text: string) =>
    `sqlite3 $PLATTER_DIR/db "PRAGMA journal_mode=DELETE; PRAGMA synchronous=${synchronous}; ${text}" >/dev/null`;
  return await runCrashTest({
    stage,
    size: "16MiB",
    fileSystem: "ext4",
    jobs: 1,
    maxStates,
    prepare: sql("CREATE TABLE t(i INTEGER PRIMARY KEY, text TEXT)"),
    run: `for i in $(seq ${COMMITS}); do ${
      sql("INSERT INTO t VALUES($i, hex(randomblob(2000)))")
    } && echo $i >&$PLATTER_ACK || exit 1; done`,
    check: `
      cd $PLATTER_DIR && sqlite3 db 'PRAGMA integrity_check; SELECT i FROM t' >/tmp/found || exit 1
      [ "$(head -n 1 /tmp/found)" = ok ] || { echo damaged; exit 1; }
      for i in $(cat $PLATTER_ACKED); do
        grep -qx $i /tmp/found || { echo lost; exit 1; }
      done`,
  });
}

Deno.test({
  name: "SQLite at stage uml, nobody's, survives with EXTRA and not with OFF",
  ignore: UML_IGNORED || needs("sqlite3").ignore,
  async fn() {
    const stage = umlStage({ user: GUEST_USER });
    if (!await canTry(stage)) return;
    try {
      const safe = await trySqlite(stage, "EXTRA", STATES);
      // So few states are not one of each kind.
      const { states, failed, unstable, unjudged } = safe.explored;
      assertEquals([states, failed, unstable, unjudged], [STATES, 0, 0, 0]);
      const unsafe = await trySqlite(stage, "OFF", 3);
      assertEquals(unsafe.verdict, "failed");
      assert(unsafe.explored.failed > 0);
    } finally {
      await stage.end?.();
    }
  },
});
