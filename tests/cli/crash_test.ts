import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { PAGE_START } from "../../src/crash/report/html.ts";
import { needs } from "../helpers.ts";
import { exists, platter, processOf, Scratch } from "./harness.ts";

const raw = needs("nbdfuse", "fusermount3", "dd");

/**
 * Writes a sector, makes it durable if that is said, and promises it. The flush
 * that there must be is before: one right after the promise may be there before it.
 */
const run = (conv: string) =>
  `sync "$PLATTER_IMAGE"; printf new | dd of="$PLATTER_IMAGE" bs=1 conv=notrunc${conv} 2>&1 && echo ACK new`;
const CHECK =
  'grep -q new "$PLATTER_ACKED" || exit 0; [ "$(head -c 3 "$PLATTER_IMAGE")" = new ] || { echo "it is gone"; exit 1; }';
const SIZE = ["crash", "--size", "64KiB"];

const WRONG: [args: string[], words: string][] = [
  [["--size", "1M", "--run", "true"], "takes a --check"],
  [["--size", "1M", "--check", "true"], "one of --run and --recording"],
  [["--run", "true", "--check", "true"], "takes one of IMAGE and --size"],
  [
    ["x.img", "--size", "1M", "--run", "true", "--check", "true"],
    "takes one of IMAGE and --size",
  ],
  [
    ["--recording", "x", "--size", "1M", "--check", "true"],
    "Cannot use --size with --recording as nothing is run",
  ],
  [
    ["--size", "1M", "--run", "a", "--check", "b", "--in", "moon"],
    "Cannot use --in as it must be",
  ],
  [
    ["--size", "1M", "--run", "a", "--check", "b", "--on", "mount"],
    "Cannot test as --on must be",
  ],
  [
    ["--size", "1000", "--run", "a", "--check", "b"],
    'Cannot use --size as it must be whole blocks of 512 bytes: current value is "1000"',
  ],
  [
    ["--size", "2k", "--run", "a", "--check", "b", "--fs", "ext4"],
    "Cannot use --size as it must be whole blocks of 4096 bytes",
  ],
  [
    ["--size", "1M", "--run", "a", "--check", "b", "--block-size", "0"],
    "Cannot use a block size that is not a power of two from 512 to 65536: current value is 0",
  ],
  [
    ["--size", "0", "--run", "a", "--check", "b"],
    "Cannot use --size as it must be above 0",
  ],
  [
    ["--size", "1M", "--run", "a", "--check", "b", "--dir", "/nowhere/at/all"],
    'Cannot make a folder in "/nowhere/at/all" as there is no such file',
  ],
  [
    ["--size", "1M", "--run", "a", "--check", "b", "--fs", "ext4"],
    "Cannot mount ext4 at stage raw as it has no kernel to mount it: use stage host",
  ],
  [
    ["--size", "1M", "--run", "a", "--check", "b", "--budget", "soon"],
    'and at most 24 days: current value is "soon"',
  ],
  [
    ["--size", "1M", "--run", "a", "--check", "b", "--ack", "("],
    "Cannot use --ack as",
  ],
  [
    ["--size", "1M", "--run", "a", "--check", "b", "--jobs", "0"],
    "Cannot use --jobs as",
  ],
  [
    [
      ...["--size", "1M", "--run", "a", "--check", "b"],
      ...["--crash-during-recovery", "twice"],
    ],
    "Cannot use --crash-during-recovery as it must be a whole number",
  ],
];

for (const [args, words] of WRONG) {
  Deno.test(`crash ${args.join(" ")} is refused`, async () => {
    const { code, err, out } = await platter(["crash", ...args]);
    assertEquals([code, out], [2, ""]);
    assertStringIncludes(err, words);
  });
}

Deno.test("crash does not write a report over what it tests", async () => {
  await using dir = await Scratch.make();
  const image = await dir.image("disk.img", 65_536);
  const { code, err } = await platter([
    ...["crash", image, "--run", "true", "--check", "true", "--html", image],
  ]);
  assertEquals(code, 2);
  assertStringIncludes(err, "as it is what is tested");
  assertEquals((await Deno.stat(image)).size, 65_536);
});

Deno.test("crash writes no report over another file of its own, a folder or nowhere", async () => {
  await using dir = await Scratch.make();
  const [one, alias] = [dir.of("one"), `${dir.of("no")}/../one`];
  await Deno.mkdir(dir.of("no"));
  const [letter, page] = [dir.of("letter"), dir.of("page.html")];
  await Deno.writeTextFile(letter, "<!DOCTYPE html>");
  await Deno.writeTextFile(page, PAGE_START);
  const REFUSED: [args: string[], words: string][] = [
    [["--record", one, "--html", one], "as it is what --record makes"],
    [["--record", one, "--junit", alias], "as it is what --record makes"],
    [["--html", one, "--junit", alias], "as it is that of --html"],
    [["--html", dir.of("no")], "as it is no file"],
    [["--html", dir.of("none/x")], "as there is no such file or directory"],
    [["--html", letter], "as it has content that is no such report: name"],
    [["--junit", page], "as it has content that is no such report: name"],
  ];
  for (const [args, words] of REFUSED) {
    const { code, out, err } = await platter([
      ...[...SIZE, "--run", "true", "--check", "true", ...args],
    ]);
    assertEquals([code, out], [2, ""]);
    assertStringIncludes(err, words);
    assertEquals(err.includes("Preparing"), false);
  }
  assertEquals((await Array.fromAsync(Deno.readDir(dir.of(".")))).length, 3);
  assertEquals(await Deno.readTextFile(letter), "<!DOCTYPE html>");
  assertEquals(await Deno.readTextFile(page), PAGE_START);
});

Deno.test(
  "crash tells what it found if a report cannot be written",
  raw,
  async () => {
    // Linux: a device that is always full.
    const { code, out, err } = await platter([
      ...[...SIZE, "--run", run(",fsync"), "--check", CHECK],
      ...["--html", "/dev/full"],
    ]);
    assertEquals(code, 2);
    assertStringIncludes(out, "Safe");
    assertStringIncludes(err, 'Cannot write "/dev/full"');
  },
);

Deno.test(
  "crash writes over its own reports, and over no file that was made meanwhile",
  raw,
  async () => {
    await using dir = await Scratch.make();
    const [html, junit] = [dir.of("it.html"), dir.of("it.xml")];
    const test = [...SIZE, "--run", run(",fsync"), "--quiet"];
    const reports = ["--html", html, "--junit", junit];
    for (let i = 0; i < 2; i++) {
      const { code, err } = await platter([
        ...[...test, "--check", CHECK, ...reports],
      ]);
      assertEquals([code, err], [0, ""]);
      assertStringIncludes(await Deno.readTextFile(html), "</html>");
      assertStringIncludes(await Deno.readTextFile(junit), "</testsuites>");
    }
    const { code, out, err } = await platter([
      ...[...test, "--check", `${CHECK}; echo mine > ${html}`, ...reports],
    ]);
    assertEquals(code, 2);
    assertStringIncludes(out, "Safe");
    assertStringIncludes(err, `Cannot write --html to "${html}" as it has`);
    assertEquals(await Deno.readTextFile(html), "mine\n");
  },
);

Deno.test("crash says that a recording is not whole", raw, async () => {
  await using dir = await Scratch.make();
  const record = dir.of("run.rec");
  const made = await platter([
    ...[...SIZE, "--run", run(",fsync"), "--check", CHECK, "--record", record],
  ]);
  assertEquals(made.code, 0, made.err);
  assertEquals(made.err.includes("not whole"), false);
  await Deno.truncate(record, (await Deno.stat(record)).size - 1);
  const { err } = await platter([
    ...["crash", "--recording", record, "--check", CHECK, "--allow-no-proof"],
  ]);
  assertStringIncludes(err, "platter: the recording is not whole");
});

Deno.test("crash exits with 0 if no state fails", raw, async () => {
  const { code, out, err } = await platter([
    ...[...SIZE, "--run", run(",fsync"), "--check", CHECK, "--quiet"],
  ]);
  assertEquals([code, err], [0, ""]);
  assertStringIncludes(out, "Safe");
});

Deno.test(
  "crash exits with 1 if a state fails, and writes what it is asked for",
  raw,
  async () => {
    await using dir = await Scratch.make();
    const [record, html, junit] = ["run.rec", "it.html", "it.xml"].map((name) =>
      dir.of(name)
    );
    const old = dir.of("old.html");
    await Deno.writeTextFile(old, `${PAGE_START}of last time`);
    await Deno.writeTextFile(junit!, "");
    await Deno.link(old, html!);
    const { code, out, err } = await platter([
      ...[...SIZE, "--run", run(""), "--check", CHECK, "--record", record!],
      ...["--html", html!, "--junit", junit!],
    ]);
    assertEquals(code, 1, err);
    assertStringIncludes(out, "it is gone");
    assertStringIncludes(err, "Failed: it is gone");
    assertStringIncludes(await Deno.readTextFile(html!), "it is gone");
    assertStringIncludes(await Deno.readTextFile(junit!), "it is gone");
    // It took the old one's name, and did not empty it first.
    assertEquals(await Deno.readTextFile(old), `${PAGE_START}of last time`);
    const [token] = /crash1:\S+/.exec(out)!;
    assertStringIncludes(out, `--recording ${record} --only ${token}`);

    const again = await platter([
      ...["crash", "--recording", record!, "--check", CHECK],
      ...["--only", token, "--json"],
    ]);
    assertEquals(again.code, 1, again.err);
    const report = JSON.parse(again.out);
    assertEquals([report.verdict, report.explored.states], ["failed", 1]);
  },
);

Deno.test(
  "crash exits with 2 if the check is broken, and says what it said",
  raw,
  async () => {
    const { code, out, err } = await platter([
      ...[
        ...SIZE,
        "--run",
        run(",fsync"),
        "--check",
        "echo no such tool; exit 127",
      ],
    ]);
    assertEquals([code, out], [2, ""]);
    assertStringIncludes(err, "the check is broken");
    assertStringIncludes(err, "no such tool");
  },
);

Deno.test(
  "crash exits with 2 without promises, and names the option",
  raw,
  async () => {
    const { code, err } = await platter([
      ...[...SIZE, "--check", "true"],
      ...[
        "--run",
        'dd if=/dev/zero of="$PLATTER_IMAGE" bs=512 count=1 conv=notrunc,fsync',
      ],
    ]);
    assertEquals(code, 2);
    assertStringIncludes(err, "run acknowledged nothing");
    assertStringIncludes(err, "--allow-no-proof");
  },
);

Deno.test(
  "crash exits with 130 on Ctrl-C, and leaves nothing",
  raw,
  async () => {
    await using dir = await Scratch.make();
    const reached = dir.of("reached");
    const child = processOf([
      ...[...SIZE, "--dir", dir.path, "--run", run(",fsync"), "--check"],
      `case $PLATTER_STATE in start|end) ;; *) echo > ${reached}; sleep 600;; esac`,
    ], { stdout: "null", stderr: "piped" }).spawn();
    for (let i = 0; i < 6000 && !await exists(reached); i++) {
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    child.kill("SIGINT");
    const { code, stderr } = await child.output();
    assertEquals(code, 130);
    assertStringIncludes(new TextDecoder().decode(stderr), "Interrupted");
    const left = await Array.fromAsync(
      Deno.readDir(dir.path),
      ({ name }) => name,
    );
    assertEquals(left, ["reached"]);
    const mounts = await Deno.readTextFile("/proc/self/mountinfo");
    assert(!mounts.includes(dir.path));
  },
);

/** Recovers from a log: moves its record to its place, then clears it. */
const RECOVER = (flush: string) =>
  `exec python3 - <<'EOF'
import os, sys
disk = os.open(os.environ["PLATTER_IMAGE"], os.O_RDWR)
if os.pread(disk, 3, 0) == b"new":
    os.pwrite(disk, b"new".ljust(512), 4096)
    ${flush}
    os.pwrite(disk, bytes(512), 0)
    os.fsync(disk)
promised = open(os.environ["PLATTER_ACKED"]).read().split()
if promised and os.pread(disk, 3, 4096) != b"new":
    sys.exit("it is gone")
EOF`;

Deno.test(
  "crash --crash-during-recovery finds a recovery that only one power cut leaves right",
  needs("nbdfuse", "fusermount3", "dd", "python3"),
  async () => {
    await using dir = await Scratch.make();
    const record = dir.of("run.rec");
    const html = dir.of("it.html");
    const check = RECOVER("");
    const twice = ["--crash-during-recovery", "1", "--states", "50"];
    const bad = await platter([
      ...[...SIZE, "--run", run(",fsync").replace("bs=1", "bs=3")],
      ...[...twice, "--check", check, "--record", record, "--html", html],
    ]);
    assertEquals(bad.code, 1, bad.err);
    assertStringIncludes(bad.out, "0 of 3 states");
    assertStringIncludes(bad.out, "it was interrupted as well");
    assertStringIncludes(bad.out, "it is gone");
    assertStringIncludes(
      await Deno.readTextFile(html),
      "Then the recovery did this, and the power failed again",
    );
    const [token] = /crash1:\S+/.exec(bad.out)!;
    assertEquals(token.split(":").length, 4);
    const again = await platter([
      ...["crash", "--recording", record, "--check", check, "--only", token],
      "--json",
    ]);
    assertEquals(again.code, 1, again.err);
    const { explored, groups } = JSON.parse(again.out);
    assertEquals([explored.recoveryStates, explored.recoveryFailed], [1, 1]);
    assertEquals([groups[0].token, groups[0].crashes], [token, 2]);

    const right = await platter([
      ...["crash", "--recording", record, ...twice],
      ...["--check", RECOVER("os.fsync(disk)")],
    ]);
    assertEquals(right.code, 0, right.err);
    assertStringIncludes(right.out, "of interrupted recoveries");
  },
);
