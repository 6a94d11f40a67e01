/**
 * Holds `docs/found.md`: each state that it shows by a recording fails, in the
 * way that is told there.
 *
 * @module
 */

import { assertEquals, assertMatch } from "@std/assert";
import { gunzipSync } from "node:zlib";
import { runCrashTest } from "../../src/crash/run_crash_test.ts";
import { needs, tempDir } from "../helpers.ts";

const ROOT = new URL("../../", import.meta.url);
const PAGE = await Deno.readTextFile(new URL("docs/found.md", ROOT));

/** How the states fail, by recording. */
const MESSAGES: Record<string, RegExp> = {
  sgdisk: /^The partition that was there before is gone$/,
  parted: /^The partition that was there before is gone$/,
  tune2fs: /^Of 6 files \d are gone, content and all$/,
  nvme: /^A file that was acknowledged is gone: 1$/,
};

const COMMAND =
  /--recording tests\/crash\/found\/(\w+)\.rec \\\n +--only (\S+) \\\n +--check '([^']+)'/g;
const commands = [...PAGE.matchAll(COMMAND)];

Deno.test("docs/found.md shows a state of each recording", () => {
  assertEquals(commands.map(([, name]) => name), Object.keys(MESSAGES));
});

for (const [, name, only, check] of commands) {
  Deno.test({
    name: `the recording of ${name} fails at its token`,
    ...needs("sfdisk", "sgdisk", "e2fsck", "debugfs", "deno"),
    async fn() {
      await using dir = await tempDir();
      const recording = dir.join("recording");
      await Deno.writeFile(recording, await readRecording(name!));
      const { verdict, groups } = await runCrashTest({
        recording,
        ...{ only, check: `cd "$ROOT" && ${check}` },
        environment: { ROOT: decodeURIComponent(ROOT.pathname) },
      });
      assertEquals(verdict, "failed");
      assertMatch(groups[0]!.message, MESSAGES[name!]!);
    },
  });
}

/** The bytes of a recording, which may be compressed. */
async function readRecording(name: string): Promise<Uint8Array> {
  const plain = new URL(`tests/crash/found/${name}.rec`, ROOT);
  try {
    return await Deno.readFile(plain);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
  return gunzipSync(await Deno.readFile(new URL(`${plain}.gz`)));
}
