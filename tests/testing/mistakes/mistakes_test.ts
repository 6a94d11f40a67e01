/**
 * A catalogue of mistakes that storage programs really make: the explorer finds
 * each wrong form and passes each right one, and tells a story that is kept in
 * `snapshots/`. To write the stories anew:
 *
 *     deno test -A tests/testing/mistakes -- --update
 *
 * @module
 */

import { CrashFailure } from "@platter/disk/testing";
import { assert, assertEquals, assertRejects } from "@std/assert";
import acknowledgedTooEarly from "./acknowledged_too_early.ts";
import checksumOverPart from "./checksum_over_part.ts";
import commitNotFlushed from "./commit_not_flushed.ts";
import commitNotOrdered from "./commit_not_ordered.ts";
import discardOvertakesWrite from "./discard_overtakes_write.ts";
import fsyncRetried from "./fsync_retried.ts";
import fuaTakenForFlush from "./fua_taken_for_flush.ts";
import headerInPlace from "./header_in_place.ts";
import lengthBeforeData from "./length_before_data.ts";
import logClearedTooEarly from "./log_cleared_too_early.ts";
import logTailNotStamped from "./log_tail_not_stamped.ts";
import misdirectedWrite from "./misdirected_write.ts";
import type { Mistake } from "./mistake.ts";
import newerSlotNotValidated from "./newer_slot_not_validated.ts";
import recoveryNotIdempotent from "./recovery_not_idempotent.ts";
import tornPage from "./torn_page.ts";
import tornSector from "./torn_sector.ts";

const CATALOGUE: Record<string, Mistake> = {
  commit_not_ordered: commitNotOrdered,
  commit_not_flushed: commitNotFlushed,
  header_in_place: headerInPlace,
  checksum_over_part: checksumOverPart,
  fsync_retried: fsyncRetried,
  newer_slot_not_validated: newerSlotNotValidated,
  log_tail_not_stamped: logTailNotStamped,
  torn_page: tornPage,
  discard_overtakes_write: discardOvertakesWrite,
  recovery_not_idempotent: recoveryNotIdempotent,
  acknowledged_too_early: acknowledgedTooEarly,
  misdirected_write: misdirectedWrite,
  fua_taken_for_flush: fuaTakenForFlush,
  length_before_data: lengthBeforeData,
  log_cleared_too_early: logClearedTooEarly,
  torn_sector: tornSector,
};

const UPDATE = Deno.args.includes("--update");

async function assertStory(name: string, story: string): Promise<void> {
  const path = new URL(`snapshots/${name}.txt`, import.meta.url);
  if (UPDATE) return await Deno.writeTextFile(path, `${story}\n`);
  assertEquals(`${story}\n`, await Deno.readTextFile(path));
}

for (const [name, mistake] of Object.entries(CATALOGUE)) {
  Deno.test(`exploreCrashes() finds: ${mistake.title}`, async () => {
    const failure = await assertRejects(() => mistake.wrong(), CrashFailure);
    await assertStory(name, failure.story);
    const again = await assertRejects(
      () => mistake.replay(failure.token),
      CrashFailure,
    );
    assertEquals(again.story, failure.story);
    assertEquals(again.token, failure.token);
  });

  Deno.test(`exploreCrashes() passes what is right: ${name}`, async () => {
    const report = await mistake.right();
    assert(report.states > 1, report.summary);
  });
}

Deno.test("the catalogue has a story for every mistake and no other", () => {
  const kept = Array.from(
    Deno.readDirSync(new URL("snapshots/", import.meta.url)),
    ({ name }) => name,
  ).toSorted();
  assertEquals(
    kept,
    Object.keys(CATALOGUE).map((name) => `${name}.txt`).toSorted(),
  );
});
