/**
 * `platter partitions`, and `--partition` on other verbs.
 *
 * @module
 */

import { VirtualDisk } from "@platter/disk";
import { type PartitionTable, readPartitions } from "@platter/disk/image";
import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { Buffer } from "node:buffer";
import { parseNew } from "../../src/cli/partitions.ts";
import { tempDir } from "../helpers.ts";
import { platter } from "./harness.ts";

const MIB = 2 ** 20;

/** Holds a file to its content, of which no difference need be shown. */
async function assertIs(path: string, content: Uint8Array): Promise<void> {
  assertEquals(Buffer.compare(await Deno.readFile(path), content), 0);
}

/** An image with a GPT of two partitions, made by the command line. */
async function made(): Promise<
  AsyncDisposable & { path: string; join(name: string): string }
> {
  const dir = await tempDir();
  const path = await dir.file("disk.img", 12 * MIB);
  const { code, out, err } = await platter([
    ...["partitions", path, "--make", "gpt"],
    ...["--add", "type=efi,size=2MiB,name=ESP"],
    ...["--add", "type=linux,bootable,name=root, and more"],
  ]);
  assertEquals([code, err], [0, ""]);
  assertStringIncludes(out, "GPT, 2 partitions");
  return {
    path,
    join: (name) => dir.join(name),
    [Symbol.asyncDispose]: () => dir[Symbol.asyncDispose](),
  };
}

/** Where the partitions of an image are. */
async function readTable(path: string): Promise<{ sectors: number[][] }> {
  await using disk = await VirtualDisk.open(path, { readOnly: true });
  const { partitions } = await readPartitions(disk);
  return { sectors: partitions.map((it) => [it.start, it.sectors]) };
}

Deno.test("platter partitions --make writes a table that it lists, in words and as JSON", async () => {
  await using image = await made();
  const { out, err } = await platter(["partitions", image.path]);
  assertEquals(err, "");
  assertMatch(out, /^ +1 +2048 +4096 +2 MiB {2}EFI system +"ESP"$/m);
  assertMatch(
    out,
    /^ +2 +6144 +\d+ +\d+ MiB {2}Linux .* "root, and more", bootable$/m,
  );
  const json = await platter(["partitions", image.path, "--json"]);
  const table = JSON.parse(json.out) as PartitionTable;
  await using disk = await VirtualDisk.open(image.path, { readOnly: true });
  assertEquals(table.partitions.length, 2);
  assertEquals(
    JSON.stringify(await readPartitions(disk)),
    JSON.stringify(table),
  );
});

Deno.test("platter partitions and info show names that a terminal would obey as escapes", async () => {
  await using image = await made();
  const name = "\u009b2J\u202ex\u{e0041}\n";
  const { code } = await platter([
    ...["partitions", image.path, "--make", "gpt", "--force"],
    ...["--add", `type=linux,name=${name}`],
  ]);
  assertEquals(code, 0);
  for (const verb of ["partitions", "info"]) {
    for (const options of [[], ["--json"]]) {
      const { out } = await platter([verb, image.path, ...options]);
      assertEquals(/(?!\n)[\p{Cc}\p{Cf}]/u.test(out), false);
      if (options.length === 0) continue;
      const json = JSON.parse(out);
      const table = (json.partitionTable ?? json) as PartitionTable;
      assertEquals(table.partitions[0]?.name, name);
    }
  }
});

Deno.test("platter partitions --make leaves what is there unless --force", async () => {
  await using image = await made();
  const before = await Deno.readFile(image.path);
  const make = ["partitions", image.path, "--make", "mbr"];
  const { code, err } = await platter(make);
  assertEquals(code, 2);
  assertStringIncludes(err, "has one with 2 partitions");
  await assertIs(image.path, before);
  const forced = await platter([...make, "--force"]);
  assertEquals(forced.code, 0);
  assertStringIncludes(forced.out, "MBR, 0 partitions");
  // Not a table, and still something.
  await Deno.writeFile(image.path, before.fill(0).fill(1, 5000, 5001));
  const other = await platter(make);
  assertStringIncludes(other.err, "something in its first MiB");
});

Deno.test("platter partitions --make keeps the backup of a GPT that is all that is left of it", async () => {
  await using image = await made();
  const { sectors } = await readTable(image.path);
  const zeroed = await platter(
    ["zero", image.path, "--sector", "0", "--count", "2048"],
  );
  assertEquals(zeroed.code, 0);
  const before = await Deno.readFile(image.path);
  const args = ["partitions", image.path, "--make", "mbr"];
  const { code, out, err } = await platter(args);
  assertEquals([code, out], [2, ""]);
  assertMatch(err, /as it has one with 2 partitions: replace it with --force/);
  await assertIs(image.path, before);
  const repaired = await platter(["partitions", image.path, "--repair"]);
  assertEquals(repaired.code, 0);
  assertEquals((await readTable(image.path)).sectors, sectors);
  assertEquals((await platter([...args, "--force"])).code, 0);
});

Deno.test("platter partitions --repair mends a copy, and moves the backup of a grown image", async () => {
  await using image = await made();
  const nothing = await platter(["partitions", image.path, "--repair"]);
  assertStringIncludes(nothing.out, "Nothing was repaired");
  await Deno.truncate(image.path, 16 * MIB);
  const grown = await platter(["partitions", image.path]);
  assertStringIncludes(grown.out, "2 problems:");
  assertStringIncludes(grown.out, "not in the last one");
  const { code, out } = await platter(["partitions", image.path, "--repair"]);
  assertEquals(code, 0);
  assertStringIncludes(out, "written to the end of the disk");
  assertEquals(out.includes("problem"), false);
  assertEquals(
    (await platter(["partitions", image.path])).out.includes("problem"),
    false,
  );
});

Deno.test("platter partitions refuses options that do not go together, and partitions that are none", async () => {
  await using image = await made();
  const cases: [args: string[], says: string][] = [
    [["--make", "gpt", "--repair"], "Cannot use --make and --repair together"],
    [["--add", "type=linux"], "Cannot use --add as it needs --make"],
    [["--from", "backup"], "Cannot use --from as it needs --repair"],
    [["--make", "bsd"], '"gpt" or "mbr"'],
    [["--make", "gpt", "--add", "size=1"], "must have a type"],
    [["--make", "gpt", "--add", "type=linux,colour=red"], "its words are"],
    [["--force", "--make", "gpt", "--add", "type=ext9"], "zeroes or one of"],
    [
      [
        ...["--force", "--make", "gpt"],
        ...["--add", "type=00000000-0000-0000-0000-000000000000"],
      ],
      "a GUID that is not all zeroes",
    ],
    [["--force", "--make", "gpt", "--add", "type=linux,size=1TiB"], "room"],
    [["--force", "--make", "mbr", "--add", "type=0x05"], "type byte of data"],
  ];
  for (const [args, says] of cases) {
    const before = await Deno.readFile(image.path);
    const { code, err } = await platter(["partitions", image.path, ...args]);
    assertEquals(code, 2, args.join(" "));
    assertStringIncludes(err, says);
    await assertIs(image.path, before);
  }
});

Deno.test("parseNew() reads every word, and a name with commas last", () => {
  assertEquals(
    parseNew(
      "type=0x83,start=1MiB,size=16,number=3,logical,bootable,guid=G,attributes=0x4,name=a,b=c",
    ),
    {
      type: "0x83",
      start: 2048,
      sectors: 16,
      number: 3,
      logical: true,
      bootable: true,
      guid: "G",
      attributes: "0x4",
      name: "a,b=c",
    },
  );
});

Deno.test("platter info lists partitions and what is wrong with their table", async () => {
  await using image = await made();
  await Deno.truncate(image.path, 16 * MIB);
  const { out } = await platter(["info", image.path]);
  assertMatch(out, /^ {2}partitions +GPT, 2 partitions$/m);
  assertMatch(out, /^ +1 +2048 +4096 +2 MiB {2}EFI system/m);
  assertStringIncludes(out.replaceAll(/\s+/g, " "), "the disk may have grown");
  const json = JSON.parse((await platter(["info", image.path, "--json"])).out);
  assertEquals(json.partitionTable.partitions[1].name, "root, and more");
  const one = await platter(["info", image.path, "--partition", "1"]);
  assertStringIncludes(one.out, "2 MiB (2,097,152 bytes");
  const title = `${image.path}, partition 1, from sector 2,048\n`;
  assertEquals(one.out.startsWith(title), true);
  const data = await platter([
    "info",
    ...[image.path, "--partition", "0x1", "--json"],
  ]);
  const { partition, start } = JSON.parse(data.out);
  assertEquals([partition, start], [1, 2048]);
});

Deno.test("platter write, read, map, copy and compare work on one partition", async () => {
  await using image = await made();
  const { path } = image;
  const text = new TextEncoder().encode("hello");
  const at = ["--partition", "2"];
  const written = await platter(
    ["write", path, ...at, "--sector", "8", "--pad"],
    { stdin: [text] },
  );
  assertEquals([written.code, written.err], [0, ""]);
  await using disk = await VirtualDisk.open(path, { readOnly: true });
  assertEquals((await disk.read(6152, 1)).subarray(0, 5), text);
  const dumped = await platter(
    ["read", path, ...at, "--sector", "8", "--count", "1"],
  );
  assertStringIncludes(dumped.out, "|hello");
  const part = image.join("part.img");
  assertEquals((await platter(["copy", path, part, ...at])).code, 0);
  const map = await platter(["map", path, ...at, "--json"]);
  const runs = JSON.parse(map.out) as { sector: number; count: number }[];
  const last = runs.at(-1)!;
  assertEquals(
    (last.sector + last.count) * 512,
    (await Deno.stat(part)).size,
  );
  const equal = ["compare", path, part, ...at, "--with-partition", "0"];
  assertEquals((await platter(equal)).code, 0);
  await Deno.writeFile(part, (await Deno.readFile(part)).fill(1, 512, 513));
  const different = await platter(equal);
  assertEquals(different.code, 1);
  assertStringIncludes(different.out, "sector 1, byte 0");
  // Back again, into the partition and nowhere else.
  const before = await Deno.readFile(path);
  const back = ["copy", part, path, "--force", "--to-partition", "2"];
  assertEquals((await platter(back)).code, 0);
  assertEquals((await platter(equal)).code, 0);
  const after = await Deno.readFile(path);
  const changed = before.findIndex((byte, i) => byte !== after[i]);
  assertEquals(changed, 6145 * 512);
  before[changed] = 1;
  assertEquals(Buffer.compare(after, before), 0);
});

Deno.test("platter says which partitions there are if one is not", async () => {
  await using image = await made();
  const before = await Deno.readFile(image.path);
  for (
    const args of [
      ["read", image.path],
      ["write", image.path, "--sector", "0"],
      ["map", image.path],
      ["info", image.path],
      ["copy", image.path, image.join("no.img")],
      ["copy", image.path, image.path],
      ["compare", image.path, image.path],
      ["serve", image.path, "--port", "0"],
    ]
  ) {
    const { code, err } = await platter([...args, "--partition", "3"]);
    assertEquals(code, 2, args[0]);
    assertStringIncludes(
      err,
      `partition 3 of "${image.path}" as the disk has 2 partitions: 1, 2`,
    );
  }
  // The first has no table, the second no such partition, the third not all of it.
  const [bare, cut] = [image.join("bare.img"), image.join("cut.img")];
  await Deno.writeFile(bare, new Uint8Array(MIB));
  await Deno.writeFile(cut, before.subarray(0, 8 * MIB));
  for (
    const [args, of] of [
      [["compare", image.path, bare, "--partition", "2"], bare],
      [["compare", bare, image.path, "--partition", "2"], bare],
      [["compare", image.path, bare, "--with-partition", "1"], bare],
      [["compare", image.path, cut, "--partition", "2"], cut],
      [["copy", bare, image.path, "--force", "--partition", "2"], bare],
      [["copy", image.path, bare, "--force", "--to-partition", "2"], bare],
      [["copy", image.path, cut, "--force", "--to-partition", "2"], cut],
    ] as const
  ) {
    const { code, err } = await platter([...args]);
    assertEquals(code, 2, err);
    assertMatch(err, new RegExp(`partition \\d of "${of}" as`), args.join(" "));
  }
  await assertIs(image.path, before);
  const none = await platter([
    "copy",
    image.path,
    image.join("no.img"),
    "--to-partition",
    "1",
  ]);
  assertEquals(none.code, 2);
  assertEquals(await Deno.stat(image.join("no.img")).catch(() => null), null);
});

Deno.test("platter copy into a partition that is too small leaves all as it is", async () => {
  await using image = await made();
  const before = await Deno.readFile(image.path);
  const { code, err } = await platter([
    ...["copy", image.path, image.path, "--partition", "2"],
    ...["--to-partition", "1", "--force"],
  ]);
  assertEquals(code, 2);
  assertStringIncludes(err, "itself");
  const source = image.join("large.img");
  await Deno.writeFile(source, new Uint8Array(3 * MIB));
  const other = await platter([
    ...["copy", source, image.path, "--to-partition", "1", "--force"],
  ]);
  assertStringIncludes(other.err, "is as it was");
  await assertIs(image.path, before);
});

Deno.test("platter serve --partition serves one partition, and says so", async () => {
  await using image = await made();
  const socket = image.join("disk.sock");
  let sectors = 0;
  const { code } = await platter(
    ["serve", image.path, "--partition", "1", "--socket", socket],
    {
      onOutput(text, interrupt) {
        if (!text.startsWith("nbd+unix")) return;
        void (async () => {
          try {
            await using disk = await VirtualDisk.open(
              `nbd+unix:///?socket=${socket}`,
            );
            sectors = disk.sectors;
            await disk.write(0, new Uint8Array(512).fill(7));
            await disk.flush();
          } finally {
            interrupt();
          }
        })();
      },
    },
  );
  assertEquals([code, sectors], [0, 4096]);
  await using disk = await VirtualDisk.open(image.path, { readOnly: true });
  assertEquals((await disk.read(2048, 1))[0], 7);
});
