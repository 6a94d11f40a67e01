import { VirtualDisk } from "@platter/disk";
import { writePartitions } from "@platter/disk/image";
import { assertEquals } from "@std/assert";
import { cpioOf } from "../files/trees.ts";
import { type TempDir, tempDir } from "../helpers.ts";
import { platter } from "./harness.ts";

/** An image with partitions, of which the second has files. */
async function makeImage(dir: TempDir): Promise<string> {
  const path = dir.join("disk.img");
  await using disk = await VirtualDisk.create(path, { size: "4MiB" });
  await writePartitions(disk, {
    kind: "gpt",
    partitions: [{ type: "efi", size: "1MiB" }, { type: "linux" }],
  });
  const files = cpioOf([
    { name: "z", content: "one\ttab \x1b[31m\n" },
    { name: "a\x1b", mode: 0o104755 },
    { name: "folder", mode: 0o041777 },
    { name: "folder/link", mode: 0o120777, content: "../z" },
    { name: "pipe", mode: 0o010600 },
  ]);
  await disk.write(4096, files);
  await disk.flush();
  return path;
}

Deno.test("platter ls, cat and extract show and take out files", async () => {
  await using dir = await tempDir();
  const image = await makeImage(dir);
  assertEquals(
    await platter(["ls", image]).then(({ out }) => out.split("\n")),
    [
      "-rwsr-xr-x     0     0           0 2001-09-09 01:46:40 a\\u{1b}",
      "drwxrwxrwt     0     0           0 2001-09-09 01:46:40 folder",
      "?rw-------     0     0           0 2001-09-09 01:46:40 pipe",
      "-rw-r--r--     0     0          14 2001-09-09 01:46:40 z",
      "",
    ],
  );
  const part = ["--partition", "2"];
  const json = await platter(["ls", image, "folder/", "-R", "--json", ...part]);
  assertEquals(
    JSON.parse(json.out).map(({ path, target }: Record<string, unknown>) => [
      ...[path, target],
    ]),
    [["folder", null], ["folder/link", "../z"]],
  );
  for (const how of [[], ["-R"], ["-R", "--json"]]) {
    const none = await platter(["ls", image, "none", ...part, ...how]);
    assertEquals([none.code, none.out, none.err], [
      2,
      "",
      'platter: Cannot list "none" as there is no such file or directory in the file system\n',
    ]);
  }
  const plain = await platter(["cat", image, "z", ...part]);
  assertEquals([plain.code, plain.out], [0, "one\ttab \x1b[31m\n"]);
  const shown = await platter(["cat", image, "z"], { terminal: true });
  assertEquals(shown.out, "one\ttab \\u{1b}[31m\n");

  const out = dir.join("out");
  const taken = await platter(["extract", image, "-o", out, "z", "pipe"]);
  assertEquals([taken.code, taken.out, taken.err], [
    2,
    `Extracted 1 file (14 B), 0 folders, 0 links to ${out}, left out 1\n`,
    'platter: "pipe" is left out as it is a device, a pipe or a socket\n',
  ]);
  const again = await platter(["extract", image, "-o", out, "/z"]);
  assertEquals([again.code, again.err], [
    2,
    `platter: Cannot extract "z" as "${out}/z" exists: replace it with --force\n`,
  ]);
  const forced = ["extract", image, "-o", out, "/z", "folder", "-f", "--json"];
  assertEquals(JSON.parse((await platter(forced)).out), {
    ...{ files: 1, directories: 1, symlinks: 1, bytes: 14 },
    ...{ skippedCount: 0, skipped: [] },
  });
  const usage = await platter(["extract", image]);
  assertEquals([usage.code, usage.err], [
    2,
    "platter: Cannot extract as --output must say where to\n",
  ]);
});

Deno.test("platter ls says which partition cannot be read", async () => {
  await using dir = await tempDir();
  const image = await makeImage(dir);
  const { code, err } = await platter(["ls", image, "--partition", "1"]);
  assertEquals([code, err], [
    2,
    "platter: Cannot read files as no file system was recognised on the disk\n",
  ]);
  const empty = await platter(["ls", await dir.file("empty.img", 0)]);
  assertEquals([empty.code, empty.err], [
    2,
    "platter: Cannot read files as the disk is empty: it has 0 sectors\n",
  ]);
});
