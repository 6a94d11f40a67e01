import { assertEquals, assertRejects } from "@std/assert";
import { recordWorkload } from "@platter/disk/testing";
import { crashTest } from "../../src/crash/run_crash_test.ts";
import { CrashTestError } from "../../src/crash/crash_test_error.ts";
import { needs, run, tempDir } from "../helpers.ts";

const fuse = needs("nbdfuse", "fusermount3");

/** Two versions, each of which is promised once it is durable. */
async function recorded(path: string): Promise<string> {
  await using made = await recordWorkload({
    device: { sectors: 128 },
    async workload(disk, acknowledge) {
      for (const version of [1, 2]) {
        await disk.write(version, new Uint8Array(512).fill(version));
        await disk.flush();
        acknowledge(version);
      }
    },
  });
  await made.save(path);
  return path;
}

Deno.test(
  "crashTest() gives each check a new file in a folder of its own",
  fuse,
  async () => {
    await using dir = await tempDir();
    const precious = await dir.file("precious", new Uint8Array([1, 2, 3]));
    const recording = await recorded(dir.join("run.rec"));
    const report = await crashTest({
      ...{ recording, jobs: 1, environment: { PRECIOUS: precious } },
      // A journal beside the image, one more name for it, and another file in
      // its place.
      check: `
      if [ "$(ls -A "\${PLATTER_IMAGE%/*}")" != disk.img ]; then
        echo "there are files of the check before"; exit 1
      fi
      touch "$PLATTER_IMAGE-journal"
      ln "$PLATTER_IMAGE" "$PLATTER_IMAGE-kept"
      ln -sf "$PRECIOUS" "$PLATTER_IMAGE"`,
    });
    assertEquals(report.verdict, "safe");
    assertEquals(await Deno.readFile(precious), new Uint8Array([1, 2, 3]));
  },
);

Deno.test(
  "crashTest() says that there is no room, and not that a state has failed",
  needs("root", "nbdfuse", "fusermount3", "mount"),
  async () => {
    await using dir = await tempDir();
    const recording = await recorded(dir.join("run.rec"));
    const small = dir.join("small");
    await Deno.mkdir(small);
    await run("mount", ["-t", "tmpfs", "-o", "size=1m", "tmpfs", small]);
    try {
      await assertRejects(
        () =>
          crashTest({
            ...{ recording, directory: small, jobs: 1 },
            check: `case $PLATTER_STATE in
              crash*) head -c 2000000 /dev/zero > "$PLATTER_IMAGE-copy";;
            esac`,
          }),
        CrashTestError,
        "Cannot test as there is no room left in",
      );
    } finally {
      await run("umount", [small]);
    }
  },
);
