/**
 * What `deno task platforms` chooses, reads and prints.
 *
 * @module
 */

import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { ALL, SHORT } from "./all.ts";
import { choose } from "./choose.ts";
import { differences, type Facts } from "./differences.ts";
import { byShell, NOTHING, readOutcome, runSuite } from "./suites.ts";
import { table } from "./table.ts";

const USUAL: Facts = {
  medium: "file",
  fileSystem: "ext4",
  engine: "io_uring",
  active: true,
  reason: null,
  alignment: [512, 512],
  alignmentSource: "statx",
  flush: "media",
  lock: "OFD",
  discard: "native",
  writeZeroes: "native",
  wrong: [],
};

Deno.test("choose() takes platforms and places, and all without a name", () => {
  const names = (wanted: string[]) => {
    const chosen = choose(ALL, wanted);
    assert(typeof chosen !== "string", String(chosen));
    return chosen.map(({ platform, places }) => [platform.name, ...places]);
  };
  assertEquals(names(["6.1:xfs", "podman"]), [
    ["podman", "overlay", "volume"],
    ["6.1", "xfs"],
  ]);
  assertEquals(names([]), ALL.map(({ name, places }) => [name, ...places]));
  assertEquals(names([...SHORT]).length, SHORT.length);
});

Deno.test("choose() says what there is instead of an unknown name", () => {
  for (const name of ["2.4", "6.1:minix"]) {
    const said = choose(ALL, ["6.1", name]);
    assert(typeof said === "string");
    assertStringIncludes(said, `Cannot run ${name} as it must be one of `);
    assertStringIncludes(said, ", 6.1, ");
  }
});

Deno.test("runSuite() runs Deno by a shell, in the repository and with a place", async () => {
  const lines: string[] = [];
  const run = byShell({
    deno: "/bin/deno",
    repository: "/ours",
    denoDir: "/cache",
    run(line) {
      lines.push(line);
      return Promise.resolve({ code: 0, output: "" });
    },
  });
  await runSuite(run, "facts", "/a", "/b");
  await runSuite(run, "contract", "/dev/vdb");
  const [facts, contract] = lines;
  assertStringIncludes(facts!, "cd /ours && NO_COLOR=1 ");
  assertStringIncludes(
    facts!,
    " PLATTER_TEST_DIR=/a DENO_DIR=/cache /bin/deno ",
  );
  assertStringIncludes(facts!, "facts.ts /a /b 2>&1");
  assertStringIncludes(contract!, " PLATTER_TEST_DEVICE=/dev/vdb ");
});

Deno.test("readOutcome() reads what deno test counts, and which failed", () => {
  const output = "one: a ... ok (3ms)\none: b ... FAILED (2ms)\n\n" +
    "FAILED | 12 passed (3 steps) | 1 failed | 4 ignored (1s)\n";
  assertEquals(readOutcome("contract", 1, output, "/tmp/x"), {
    passed: 12,
    failed: 1,
    skipped: 4,
    failures: ["contract: one: b"],
    differences: [],
  });
});

Deno.test("readOutcome() takes nothing for success that did not end as it must", () => {
  const good = "ok | 12 passed | 0 failed (1s)\n";
  for (
    const [code, output] of [
      [1, good],
      [0, "Killed\n"],
      [137, ""],
      [0, "FAILED | 1 passed | 1 failed (1s)\n"],
    ] as const
  ) {
    const { passed, failed } = readOutcome("contract", code, output, "/tmp/x");
    assertEquals([passed, failed], [0, 1], output);
  }
  for (const suite of ["facts", "alignment"] as const) {
    assertEquals(readOutcome(suite, 0, "", "/tmp/x").failed, 1);
  }
});

Deno.test("readOutcome() counts the steps of the alignment example", () => {
  const output =
    "  ok  (a) 2 × 512 bytes   EINVAL\n  NO  (b) 612 bytes   written\n";
  const { passed, failed } = readOutcome("alignment", 1, output, "/tmp/x");
  assertEquals([passed, failed], [1, 1]);
});

Deno.test("readOutcome() finds the facts of a place, and what is wrong there", () => {
  const line = (where: string, direct: unknown) =>
    `FACTS ${where} ${JSON.stringify({ direct, portable: USUAL })}\n`;
  const output = line("/tmp/x", { ...USUAL, wrong: ["byte 3 reads as 9"] }) +
    line("/tmp/xy", USUAL) + line("/tmp/z", "Error: no");
  const read = (where: string) => readOutcome("facts", 0, output, where);
  assertEquals(read("/tmp/x").failures, ["facts: direct: byte 3 reads as 9"]);
  assertEquals(read("/tmp/xy"), { ...NOTHING, passed: 2 });
  assertEquals(read("/tmp/z").failures, ["facts: direct: Error: no"]);
  assertEquals(read("/tmp/absent").failed, 1);
});

Deno.test("differences() tells of what is unlike ext4 on a new Linux", () => {
  assertEquals(differences(USUAL, USUAL), []);
  assertEquals(
    differences({
      ...USUAL,
      engine: "sync",
      active: false,
      flush: "unknown",
      discard: "none",
      writeZeroes: "emulated",
    }, USUAL),
    [
      "engine sync",
      "not direct",
      "flush unknown",
      "no discard",
      "zeroes are written",
      "portable direct",
      "portable flush media",
    ],
  );
  assertEquals(
    differences({ ...USUAL, alignment: [512, 4096] }, USUAL),
    ["aligned to 512/4096"],
  );
});

Deno.test("table() shows counts, reasons and failures", () => {
  const text = table([
    {
      name: "6.1:xfs",
      kernel: "Linux 6.1",
      outcome: { ...NOTHING, passed: 3, failed: 1, failures: ["facts: x"] },
    },
    { name: "7.2:smb", kernel: "", outcome: null, reason: "no smbd" },
  ], new Date("2026-11-26T12:00:00Z"));
  const cells = text.split("\n").map((line) =>
    line.split("|").map((cell) => cell.trim())
  );
  assertEquals(cells[2], [
    ...["", "6.1:xfs", "Linux 6.1", "3", "1", "0", "none", "2026-11-26", ""],
  ]);
  assertEquals(cells[3]![6], "not run: no smbd");
  assertStringIncludes(text, "Failed:\n6.1:xfs: facts: x");
});
