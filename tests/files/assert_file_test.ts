/**
 * assertFile(): what it takes, and what it says.
 *
 * @module
 */

import { assert, assertEquals, assertRejects } from "@std/assert";
import { VirtualDisk } from "@platter/disk";
import {
  assertFile,
  type ExpectedContent,
  FileAssertionError,
} from "@platter/disk/files";
import { needs, tempDir } from "../helpers.ts";

/** What is expected of a file, and what is said of it. */
const CASES: [path: string, expected: ExpectedContent, message: string][] = [
  [
    "/fstab",
    "one\n/dev/vdb2 / ext4\nthree\n",
    `The file "/fstab" differs from byte 11 on (- is there, + should be):
  - "/dev/vda2 / ext4\\n"
  + "/dev/vdb2 / ext4\\n"`,
  ],
  [
    "/blob",
    new Uint8Array(300).fill(1).fill(255, 299),
    `The file "/blob" differs from byte 299 on (- is there, + should be):
  - 01
  + ff`,
  ],
  [
    "/fstab",
    /^swap/m,
    `The file "/fstab" should match /^swap/m: it has 27 bytes, which begin with "one\\n/dev/vda2 / ext4\\nthree\\n"`,
  ],
];

Deno.test({
  name: "assertFile() compares a file with text, bytes, a pattern, a function",
  ...needs("mke2fs"),
  async fn() {
    await using dir = await tempDir();
    const tree = dir.join("tree");
    await Deno.mkdir(tree);
    await Deno.writeTextFile(`${tree}/fstab`, "one\n/dev/vda2 / ext4\nthree\n");
    await Deno.writeFile(`${tree}/blob`, new Uint8Array(300).fill(1));
    const path = dir.join("disk.img");
    const { success } = await new Deno.Command("mke2fs", {
      args: ["-q", "-F", "-t", "ext4", "-d", tree, path, "2M"],
      stdout: "null",
      stderr: "null",
    }).output();
    assert(success);
    await using disk = await VirtualDisk.open(path, { readOnly: true });
    await assertFile(disk, "/fstab", /^\/dev\/vda2 /m);
    let seen = 0;
    await assertFile(disk, "/blob", (bytes) => {
      seen = bytes.length; // It returns nothing: what is wrong it throws.
    });
    assertEquals(seen, 300);
    for (const [path, expected, message] of CASES) {
      const error = await assertRejects(
        () => assertFile(disk, path, expected),
        FileAssertionError,
      );
      assertEquals([error.message, error.name], [message, "AssertionError"]);
    }
    await assertRejects(() => assertFile(disk, "/none"), FileAssertionError);
  },
});
