/**
 * Protected ranges and figures on the command line: `serve --protect` and
 * `serve --stats`.
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { openBackend } from "../../src/disk/open.ts";
import { overlay } from "../../src/disk/overlay.ts";
import { writePartitions } from "../../src/image/write_partitions.ts";
import { parseRange, placeRanges } from "../../src/cli/disk_range.ts";
import { StatsFile } from "../../src/cli/stats_file.ts";
import { tempDir } from "../helpers.ts";
import { exists, type Outcome, platter } from "./harness.ts";

async function serving(
  args: string[],
  use: (disk: VirtualDisk) => Promise<void>,
): Promise<Outcome> {
  let used: Promise<void> | undefined;
  const outcome = await platter(["serve", ...args, "--port", "0"], {
    onOutput(text, interrupt) {
      if (!text.startsWith("nbd")) return;
      const run = async () => {
        await using disk = await VirtualDisk.open(text.trim());
        await use(disk);
      };
      used = run().finally(interrupt);
      used.catch(() => {});
    },
  });
  await used;
  return outcome;
}

async function partitioned(path: string): Promise<void> {
  await using disk = await VirtualDisk.create(path, { size: "8MiB" });
  await writePartitions(disk, {
    kind: "gpt",
    partitions: [
      { type: "efi", name: "boot", size: "2MiB" },
      { type: "linux", name: "ro\u001bot" },
    ],
  });
}

const ones = new Uint8Array(512).fill(1);

Deno.test("platter serve --protect refuses, --stats counts by partition", async () => {
  await using dir = await tempDir();
  const [image, stats] = [dir.join("disk.img"), dir.join("stats.json")];
  await partitioned(image);
  const args = [image, "--stats", stats];
  const kinds: string[] = [];
  const { code, err } = await serving(
    [...args, "--protect", "partition=1", "--protect", "sector=0..33"],
    async (disk) => {
      for (const sector of [0, 2048, 6143, 6144]) {
        await disk.write(sector, ones).then(
          () => kinds.push("done"),
          (error) => kinds.push(error.code),
        );
      }
      // There at once, and whole.
      assertEquals(
        JSON.parse(await Deno.readTextFile(stats)).format,
        "platter-stats",
      );
    },
  );
  assertEquals(code, 0, err);
  assertEquals(kinds, ["EPERM", "EPERM", "EPERM", "done"]);
  assertStringIncludes(
    err,
    "write 1 sector at sector 2048: refused, as it touches partition 1, protected",
  );
  const figures = JSON.parse(await Deno.readTextFile(stats));
  assertEquals([figures.version, figures.path], [1, image]);
  assertEquals(figures.protected.requests, 3);
  assertEquals(figures.disk.writes.failed, 3);
  assertEquals(
    figures.ranges.map((it: { name: string; writes: { requests: number } }) => [
      it.name,
      it.writes.requests,
    ]),
    [[`partition 1 "boot"`, 2], [`partition 2 "ro\\u{1b}ot"`, 1]],
  );
  assertEquals(figures.disk.unflushedBytes, 0);
  // Written anew by the next one, which only notes.
  const again = await serving(
    [...args, "--overlay", "--protect", "offset=1MiB+512", "--protect-note"],
    (disk) => disk.write(2048, ones),
  );
  assertEquals(again.code, 0, again.err);
  assertStringIncludes(again.err, "at sector 2048: carried out");
  const { ranges } = JSON.parse(await Deno.readTextFile(stats));
  assertEquals(ranges[0].rewrittenBytes, 0);
  assertEquals((await Array.fromAsync(Deno.readDir(dir.path))).length, 2);
});

Deno.test("platter serve --protect takes partitions of the overlay, not of its base", async () => {
  await using dir = await tempDir();
  const [image, changes] = [dir.join("disk.img"), dir.join("disk.overlay")];
  await partitioned(image);
  {
    await using disk = VirtualDisk.over(
      await overlay(await openBackend(image), { file: changes }),
    );
    const partitions = [{ type: "linux", start: 8192 }];
    await writePartitions(disk, { kind: "gpt", partitions });
    await disk.flush();
  }
  const kinds: string[] = [];
  const { code, err } = await serving(
    [image, `--overlay=${changes}`, "--protect", "partition=1"],
    async (disk) => {
      for (const sector of [2048, 8192]) {
        await disk.write(sector, ones).then(
          () => kinds.push("done"),
          (error) => kinds.push(error.code),
        );
      }
    },
  );
  assertEquals(code, 0, err);
  assertEquals(kinds, ["done", "EPERM"]);
});

Deno.test("platter serve --stats overwrites nothing but figures", async () => {
  await using dir = await tempDir();
  const image = await dir.file("disk.img", 1 << 20);
  const other = dir.join("other");
  await Deno.writeTextFile(other, "a letter");
  await Deno.symlink(image, dir.join("link"));
  await Deno.mkdir(dir.join("folder"));
  const cases: [path: string, words: string][] = [
    [image, "it is the image"],
    [dir.join("link"), "it is the image"],
    [other, "it has content that is no figures"],
    [dir.join("folder"), "it is no file"],
    [dir.join("none/stats"), "there is no such file or directory"],
  ];
  for (const [path, words] of cases) {
    const { code, err } = await platter(
      ["serve", image, "--port", "0", "--stats", path],
    );
    assertEquals(code, 2, err);
    assertStringIncludes(err, words);
  }
  assertEquals(await Deno.readTextFile(other), "a letter");
  const trace = dir.join("trace");
  const { err } = await platter(
    ["serve", image, "--port", "0", "--trace", trace, "--stats", trace],
  );
  assertStringIncludes(err, "it is the trace");
  const output = await dir.file("output", 0);
  for (const option of ["--trace", "--stats"]) {
    const { code, err } = await platter(
      ["serve", image, "--port", "0", option, output],
      { stdoutPath: output },
    );
    assertEquals(code, 2);
    assertStringIncludes(err, "it is what standard output goes to");
  }
});

for (const option of ["trace", "stats"]) {
  Deno.test(`platter serve --${option} leaves no file behind that it may not use`, async () => {
    await using dir = await tempDir();
    const image = await dir.file("disk.img", 1 << 20);
    const path = dir.join("note");
    const main = new URL("../../src/cli/main.ts", import.meta.url).pathname;
    const cases = [
      // It may not be looked at.
      { read: image, write: dir.path },
      // Nothing may be made beside it.
      ...(option === "stats"
        ? [{ read: [image, path].join(), write: path }]
        : []),
    ];
    for (const { read, write } of cases) {
      const { code, stderr } = await new Deno.Command(Deno.execPath(), {
        args: [
          ...["run", "--no-check", "--no-prompt", "--allow-net"],
          ...[`--allow-read=${read}`, `--allow-write=${write}`, main],
          ...["serve", image, "--port", "0", "--overlay"],
          ...[`--${option}`, path],
        ],
        stdin: "null",
        stdout: "null",
      }).output();
      const err = new TextDecoder().decode(stderr);
      assertEquals(code, 2, err);
      assertStringIncludes(err, `Cannot write --${option} "`);
      assertEquals(await exists(path), false);
    }
  });
}

for (const way of ["a file that came meanwhile", "what came into its file"]) {
  Deno.test(`StatsFile stops rather than replace ${way}`, async () => {
    await using dir = await tempDir();
    const path = dir.join("stats.json");
    const failures: string[] = [];
    let count = 0;
    const file = await StatsFile.open(
      path,
      {},
      () => ({ count: count++ }),
      (error) => failures.push(error.message),
    );
    if (way === "a file that came meanwhile") await Deno.remove(path);
    await Deno.writeTextFile(path, "somebody else's");
    await file.close();
    assertEquals(failures.length, 1);
    assertStringIncludes(failures[0]!, "it is another file by now");
    assert(file.failure !== null);
    assertEquals(await Deno.readTextFile(path), "somebody else's");
    assertEquals((await Array.fromAsync(Deno.readDir(dir.path))).length, 1);
  });
}

Deno.test("parseRange() reads sectors, bytes and partitions, and nothing else", async () => {
  const good: [string, unknown][] = [
    ["sector=8", { sector: 8, count: 1 }],
    ["sector=8..15", { sector: 8, count: 8 }],
    ["SECTORS=8..", { sector: 8 }],
    ["offset=1MiB+4KiB", { sector: 2048, count: 8 }],
    ["partition=12", { partition: 12 }],
  ];
  for (const [text, range] of good) assertEquals(parseRange(text), range);
  for (
    const text of [
      "8",
      "partition=0",
      "partition=x",
      "sector=9..8",
      "sector=",
      "write",
      "flush=kept",
      "",
    ]
  ) {
    assertThrows(
      () => parseRange(text),
      TypeError,
      `current value is ${JSON.stringify(text)}`,
    );
  }
  await using disk = VirtualDisk.memory({ size: "1MiB" });
  const refused = await placeRanges([{ partition: 3 }], disk).catch((it) => it);
  assertEquals(refused.kind, "not-found");
});

Deno.test("platter serve refuses a range that is not there, and changes nothing", async () => {
  await using dir = await tempDir();
  const image = await dir.file("disk.img", 1 << 20);
  const cases: [args: string[], words: string][] = [
    [["--protect", "partition=1"], "Cannot open partition 1"],
    [["--protect", "sector=2048"], "lie on the disk, which has 2048 sectors"],
    [["--protect", "all"], `Cannot use --protect as a range must be as in`],
    [["--protect-note"], "there must be a --protect"],
  ];
  for (const [args, words] of cases) {
    const { code, err } = await platter(
      ["serve", image, "--port", "0", "--stats", dir.join("s"), ...args],
    );
    assertEquals(code, 2, err);
    assertStringIncludes(err, words);
  }
  assertEquals(await exists(dir.join("s")), false);
});
