/**
 * ext4 of the running kernel on the crash explorer, in short, and what is left
 * of it afterwards: nothing.
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { CrashFailure } from "@platter/disk/testing";
import {
  exploreExt4,
  missingForExt4,
  type Traffic,
} from "../examples/ext4/explore.ts";
import { CHECK_TOOLS } from "../examples/ext4/check.ts";
import { MOUNT_TOOLS } from "../examples/ext4/mounted.ts";
import { checkTree, makeSteps } from "../examples/ext4/workload.ts";
import { needs, pause, tmpfsDir } from "./helpers.ts";

const EXT4 = { ...needs("root", ...MOUNT_TOOLS, ...CHECK_TOOLS) };
if (!EXT4.ignore && missingForExt4().length > 0) {
  console.warn(`Some tests are skipped as there is no ${missingForExt4()}`);
  EXT4.ignore = true;
}

/** Whatever stays attached to something in a folder: some of it goes late. */
async function attachedTo(dir: string): Promise<string[]> {
  let left = await attachedNow(dir);
  for (let tries = 0; tries < 200 && left.length > 0; tries++) {
    await pause(50);
    left = await attachedNow(dir);
  }
  return left;
}

async function attachedNow(dir: string): Promise<string[]> {
  const left = (await Deno.readTextFile("/proc/mounts")).split("\n")
    .filter((line) => line.includes(dir));
  for await (const { name } of Deno.readDir("/sys/block")) {
    try {
      const file = `/sys/block/${name}/loop/backing_file`;
      const path = await Deno.readTextFile(file);
      if (path.includes(dir)) left.push(`${name}: ${path}`);
    } catch {
      // It is no loop device, or has just been detached.
    }
  }
  return left;
}

Deno.test({
  ...EXT4,
  name: "exploreExt4() finds nothing, and sees the barriers of the kernel",
  async fn() {
    await using dir = await tmpfsDir();
    let traffic: Traffic | null = null;
    const report = await exploreExt4({
      dir: dir.path,
      onRecorded: (found) => traffic = found,
      explore: { maxStates: 40, progress: false },
    });
    const steps = makeSteps(0).length;
    assertEquals([report.states, report.acknowledged], [40, steps]);
    assert(report.flushes >= steps, report.summary);
    assertEquals(traffic!.flushes, report.flushes);
    assertEquals(traffic!.lostFlushes, 0);
    assertEquals(await attachedTo(dir.path), []);
  },
});

for (
  const { inOrder, expected } of [
    { inOrder: false, expected: /The file system is damaged|is missing/ },
    // A journal that is cut short is whole, but who was told of it was told a lie.
    { inOrder: true, expected: /Not what was there after step .* is missing/ },
  ]
) {
  Deno.test({
    ...EXT4,
    name: `exploreExt4() finds out about lost flushes${
      inOrder ? " in order" : ""
    }`,
    async fn() {
      await using dir = await tmpfsDir();
      let traffic: Traffic | null = null;
      const failure = await assertRejects(
        () =>
          exploreExt4({
            dir: dir.path,
            noFlush: true,
            inOrder,
            onRecorded: (found) => traffic = found,
            explore: { maxStates: 300, progress: false },
          }),
        CrashFailure,
      );
      assertMatch(String(failure.cause), expected);
      assertStringIncludes(failure.story, "the power fails");
      assertStringIncludes(failure.story, "LOST");
      assert(traffic!.lostFlushes > traffic!.flushes);
      assertEquals(await attachedTo(dir.path), []);
    },
  });
}

Deno.test({
  ...EXT4,
  name: "exploreExt4() leaves nothing mounted if its workload is given up",
  async fn() {
    await using dir = await tmpfsDir();
    const stop = new AbortController();
    const explored = exploreExt4({
      dir: dir.path,
      explore: { progress: false, signal: stop.signal },
    });
    const ended = assertRejects(() => explored, DOMException, "aborted");
    const mounted = () => Deno.readTextFileSync("/proc/mounts");
    while (!mounted().includes(`${dir.path}/mnt`)) {
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    stop.abort();
    await ended;
    assertEquals(await attachedTo(dir.path), []);
  },
});

const ROOT = new URL("../", import.meta.url);

/** Starts the example as its reader would. */
function start(dir: string, ...args: string[]): Deno.ChildProcess {
  return new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "-A",
      "--quiet",
      "examples/ext4/explore.ts",
      "--dir",
      dir,
      ...args,
    ],
    cwd: ROOT,
    env: { NO_COLOR: "1" },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
}

Deno.test({
  ...EXT4,
  name: "ext4/explore.ts says how it went, and cleans up after Ctrl-C",
  async fn() {
    await using dir = await tmpfsDir();
    const decoder = new TextDecoder();
    const short = await start(dir.path, "--states", "5").output();
    const said = decoder.decode(short.stdout);
    assertEquals(short.code, 0, said + decoder.decode(short.stderr));
    assertMatch(
      said,
      /asked for \d+ writes of \d+ KiB in all, .* flushes: \d+/,
    );
    assertStringIncludes(said, "Nothing lost, nothing damaged");

    const wrong = await start(dir.path, "--block-size", "513").output();
    assertEquals(wrong.code, 2);

    const long = start(dir.path, "--states", "1000000");
    const reader = long.stdout.getReader();
    const { value } = await reader.read();
    assertStringIncludes(decoder.decode(value), "The kernel");
    long.kill("SIGINT");
    while (!(await reader.read()).done);
    const stderr = await long.stderr.text();
    assertEquals([(await long.status).code, stderr], [130, "Interrupted\n"]);
    assertEquals(await Array.fromAsync(Deno.readDir(dir.path)), []);
    assertEquals(await attachedTo(dir.path), []);
  },
});

Deno.test("checkTree() tells what a step may leave from what it may not", () => {
  const steps = makeSteps(1);
  for (const [done, step] of steps.entries()) {
    checkTree(steps, done, step.before);
    checkTree(steps, done, step.after);
    checkTree(steps, done + 1, step.after);
    const { after } = step;
    for (const path of after.keys()) {
      // What the next step takes away may be gone.
      if (steps[done + 1]?.after.has(path) === false) continue;
      const found = new Map(after);
      found.delete(path);
      assertThrows(() => checkTree(steps, done + 1, found), Error, path);
    }
    for (const [path, bytes] of after) {
      if (bytes === null || steps[done + 1]?.after.get(path) !== bytes) {
        continue;
      }
      const wrong = bytes.slice();
      wrong[wrong.length - 1]! ^= 1;
      for (const found of [wrong, bytes.subarray(1), bytes.slice(0, -1)]) {
        assertThrows(
          () => checkTree(steps, done + 1, new Map(after).set(path, found)),
          Error,
          path,
        );
      }
    }
    const more = new Map(after).set("stranger", null);
    assertThrows(() => checkTree(steps, done + 1, more), Error, "stranger");
  }
});

Deno.test("checkTree() takes a file that grew by half, and no other bytes", () => {
  const steps = makeSteps(1);
  const done = steps.findIndex(({ text }) => text.startsWith("append 5000"));
  const { before, after } = steps[done]!;
  const [path, whole] = [...after].find(([path, bytes]) =>
    before.get(path) !== bytes
  )!;
  const found = (bytes: Uint8Array) => new Map(before).set(path, bytes);
  checkTree(steps, done, found(whole!.slice(0, 8000)));
  const hole = whole!.slice();
  hole.fill(0, 6144, 6656);
  checkTree(steps, done, found(hole));
  for (const at of [100, 7000]) {
    const wrong = whole!.slice();
    wrong[at]! ^= 1;
    assertThrows(() => checkTree(steps, done, found(wrong)), Error, path);
  }
  assertThrows(() => checkTree(steps, done, found(whole!.slice(0, 5999))));
});
