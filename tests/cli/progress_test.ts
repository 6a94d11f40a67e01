import { assert, assertEquals, assertMatch } from "@std/assert";
import type { CliIo } from "../../src/cli/io.ts";
import { Progress, progressLine } from "../../src/cli/progress.ts";

const MIB = 1 << 20;
const CLEAR = "\r\x1b[2K";

function fakeIo(isTerminal: boolean, columns = 80) {
  const written: string[] = [];
  const clock = { ms: 0 };
  const output = {
    isTerminal,
    columns,
    write(bytes: Uint8Array) {
      written.push(new TextDecoder().decode(bytes));
      return Promise.resolve();
    },
  };
  const io: CliIo = {
    stdout: output,
    stderr: output,
    debug: false,
    stdin: () => new ReadableStream(),
    ...{ stdinFile: null, stdoutFile: null },
    now: () => clock.ms,
    onInterrupt: () => () => {},
  };
  return { io, clock, written };
}

/** Lets what was written be written. */
function turn(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 0));
}

Deno.test("progressLine() shows percentage, rate and time left", () => {
  assertEquals(
    progressLine("Copying", 256 * MIB, 1024 * MIB, 2000),
    "Copying   25%  256 MiB of 1 GiB  128 MiB/s  0:06 left",
  );
});

Deno.test("progressLine() is 100% only when all is done", () => {
  assertMatch(progressLine("X", 999_999, 1_000_000, 1000), / 99% /);
  assertMatch(progressLine("X", 1_000_000, 1_000_000, 1000), / 100% /);
  assertMatch(progressLine("X", 0, 0, 0), / 100% /);
});

Deno.test("progressLine() knows no time left before anything is done", () => {
  assertEquals(
    progressLine("X", 0, MIB, 500),
    "X    0%  0 B of 1 MiB  0 B/s",
  );
});

Deno.test("Progress is silent where no person watches", async () => {
  const { io, clock, written } = fakeIo(false);
  const progress = new Progress(io);
  for (let i = 0; i < 10; i++) {
    clock.ms += 1000;
    progress.update("Copying", i, 10);
    await turn();
  }
  await progress.clear();
  assertEquals(written, []);
});

Deno.test("Progress is silent if the work is short", async () => {
  const { io, clock, written } = fakeIo(true);
  const progress = new Progress(io);
  for (; clock.ms < 299; clock.ms++) {
    progress.update("Copying", clock.ms, 1000);
  }
  await progress.clear();
  assertEquals(written, []);
});

Deno.test("Progress draws over one line, ten times a second, and takes it away", async () => {
  const { io, clock, written } = fakeIo(true);
  const progress = new Progress(io);
  for (; clock.ms <= 1000; clock.ms += 10) {
    progress.update("Copying", clock.ms * MIB, 2000 * MIB);
    await turn();
  }
  assertEquals(written.length, 8);
  for (const text of written) {
    assert(text.startsWith(`${CLEAR}Copying `) && !text.includes("\n"));
  }
  await progress.clear();
  await progress.clear();
  assertEquals(written.slice(8), [CLEAR]);
});

Deno.test("Progress starts another clock for another label", async () => {
  const { io, clock, written } = fakeIo(true);
  const progress = new Progress(io);
  progress.update("Copying", 0, 100);
  clock.ms = 10_000;
  progress.update("Verifying", 0, 100 * MIB);
  clock.ms = 11_000;
  progress.update("Verifying", 50 * MIB, 100 * MIB);
  await progress.clear();
  assertMatch(written[0]!, /Verifying {3}50% .* 50 MiB\/s {2}0:01 left/);
});

Deno.test("Progress never wraps its line", async () => {
  const { io, clock, written } = fakeIo(true, 20);
  const progress = new Progress(io);
  progress.update("Copying", 0, 100);
  clock.ms = 1000;
  progress.update("Copying", 50, 100);
  await progress.clear();
  assertEquals(written[0], `${CLEAR}Copying   50%  50 B`);
});
