import {
  assert,
  assertEquals,
  assertGreater,
  assertGreaterOrEqual,
  assertLess,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { type FaultEvent, faults } from "../../src/layers/faults.ts";
import { writeRequest } from "../../src/request.ts";
import { carryOut, submitAll } from "../contract.ts";
import { assertFails, read, sector, values } from "./faulty.ts";
import { memory } from "./stacks.ts";

Deno.test("faults() with an error fails what matches, and does nothing", async () => {
  const below = memory();
  const faulty = faults(below, ["write sector=8..15 error=ENOSPC"]);
  await carryOut(faulty, writeRequest(7, sector(1)), read(8, 8));
  const error = await assertFails(
    faulty,
    writeRequest(4, sector(1, 5)),
    "ENOSPC",
  );
  assertEquals(error.kind, "no-space");
  assertEquals([error.operation, error.sector, error.count], ["write", 4, 5]);
  assertGreater(error.errno!, 0);
  assertStringIncludes(
    error.message,
    `Cannot write 5 sectors at sector 4 as the fault rule "write sector=8..15 error=ENOSPC" says ENOSPC: No space left on device`,
  );
  assertEquals(await values(below, 4, 5), [0, 0, 0, 1, 0]);
});

Deno.test("faults() counts by nth and times, and calls by name", async () => {
  const faulty = faults(memory(), [
    "read nth=2 times=2 name=second error=EIO",
  ]);
  const outcomes: boolean[] = [];
  for (let i = 0; i < 5; i++) {
    const [error] = await submitAll(faulty, [read(0)]);
    outcomes.push(error === null);
    if (error) assertStringIncludes(error.message, `"second"`);
  }
  assertEquals(outcomes, [true, false, false, true, true]);
  assertEquals(faulty.hits(faulty.rules[0]!), 2);
});

Deno.test("faults() asks a condition of one's own", async () => {
  const faulty = faults(memory(), [{
    when: (request) => request.count === 3,
    effect: { kind: "error", code: "EIO" },
  }]);
  await carryOut(faulty, read(0, 2));
  await assertFails(faulty, read(0, 3));
});

Deno.test("faults() acts as often as a ratio says, the same for a seed", async () => {
  const failures = async (seed: number) => {
    const faulty = faults(memory(), ["read ratio=1/4 error=EIO"], { seed });
    const requests = Array.from({ length: 1000 }, (_, i) => read(i));
    return (await submitAll(faulty, requests)).map((error) => error !== null);
  };
  const first = await failures(1);
  const count = first.filter((failed) => failed).length;
  assert(count > 200 && count < 300);
  assertEquals(await failures(1), first);
  assert((await failures(2)).some((failed, i) => failed !== first[i]));
});

Deno.test("faults() takes rules, and switches them, while it runs", async () => {
  const faulty = faults(memory());
  assertEquals(faulty.limits.maxSegments, 1024);
  await carryOut(faulty, read(0));
  const rule = faulty.add("read error=EIO");
  assertEquals(faulty.limits.maxSegments, 1);
  await assertFails(faulty, read(0));
  rule.enabled = false;
  await carryOut(faulty, read(0));
  rule.enabled = true;
  await assertFails(faulty, read(0));
  assert(faulty.remove(rule));
  await carryOut(faulty, read(0));
  faulty.add(rule);
  faulty.add("write error=EIO");
  faulty.clear();
  assertEquals(faulty.rules, []);
  await carryOut(faulty, read(0), writeRequest(0, sector(1)));
});

Deno.test("faults() tells of each fault", async () => {
  const events: FaultEvent[] = [];
  const faulty = faults(memory(), ["write lost", "read delay=0ms"], {
    onFault: (event) => events.push(event),
  });
  await carryOut(faulty, writeRequest(3, sector(1, 2)));
  await carryOut(faulty, read(5));
  const [lost, delay] = faulty.rules;
  assertEquals(events, [
    { rule: lost!, operation: "write", sector: 3, count: 2 },
    { rule: delay!, operation: "read", sector: 5, count: 1 },
  ]);
});

Deno.test("faults() with a delay holds the answer back, with another effect too", async () => {
  const faulty = faults(memory(), [
    "read delay=15ms",
    "read delay=15ms",
    "read sector=9 error=EIO",
  ]);
  const start = performance.now();
  const answers: string[] = [];
  const slow = submitAll(faulty, [read(0), read(9)]);
  slow.then(() => answers.push("reads"));
  await carryOut(faulty, writeRequest(20, sector(1)));
  answers.push("write");
  const [good, bad] = await slow;
  assertEquals(answers, ["write", "reads"]);
  assertGreaterOrEqual(performance.now() - start, 30);
  assertEquals([good, bad?.code], [null, "EIO"]);
});

Deno.test("faults() answers a delayed request at once when it is cancelled", async () => {
  const faulty = faults(memory(), ["read delay=30s"]);
  await using disk = VirtualDisk.over(faulty);
  const start = performance.now();
  const reason = new Error("enough");
  const controller = new AbortController();
  const reading = disk.read(0, 1, { signal: controller.signal });
  setTimeout(() => controller.abort(reason), 5);
  assertEquals(await assertRejects(() => reading), reason);
  assertLess(performance.now() - start, 30_000);
});
