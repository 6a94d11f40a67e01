import { assert, assertEquals, assertRejects } from "@std/assert";
import { recordWorkload } from "@platter/disk/testing";
import { crashTest } from "../../src/crash/run_crash_test.ts";
import {
  CrashTestError,
  CrashTestFailure,
} from "../../src/crash/crash_test_error.ts";
import { needs, run, tempDir } from "../helpers.ts";

const fuse = needs("nbdfuse", "fusermount3");

/** Two versions, each of which is promised once it is durable. */
async function recorded(
  path: string,
  promise = (version: number): unknown => version,
): Promise<string> {
  await using made = await recordWorkload({
    device: { sectors: 128 },
    async workload(disk, acknowledge) {
      for (const version of [1, 2]) {
        await disk.write(version, new Uint8Array(512).fill(version));
        await disk.flush();
        acknowledge(promise(version));
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

Deno.test(
  "crashTest() says that there is no room, whatever is made there first that has none",
  needs("root", "nbdfuse", "fusermount3", "mount"),
  async () => {
    await using dir = await tempDir();
    const directory = dir.join("small");
    await Deno.mkdir(directory);
    const isRoomIn = async (
      size: string,
      options: Parameters<typeof crashTest>[0],
    ): Promise<boolean> => {
      await run("mount", ["-t", "tmpfs", "-o", size, "tmpfs", directory]);
      try {
        await crashTest({ directory, jobs: 1, maxStates: 2, ...options });
        return true;
      } catch (error) {
        if (error instanceof CrashTestFailure) return true;
        assert(error instanceof CrashTestError, `${size}: ${error}`);
        const words = `Cannot test as there is no room left in "${directory}"`;
        assert(error.message.startsWith(words), `${size}: ${error.message}`);
        return false;
      } finally {
        await run("umount", [directory]);
      }
    };
    const workload = {
      ...{ size: "64KiB", check: "true" },
      run: "printf x | dd of=$PLATTER_IMAGE conv=notrunc,fsync; echo ACK",
    };
    // One more file each time: some thing or other has no room.
    let files = 1;
    while (!await isRoomIn(`nr_inodes=${files}`, workload)) files++;
    assert(files > 5, `${files}`);
    const recording = await recorded(
      dir.join("run.rec"),
      () => "x".repeat(1 << 20),
    );
    assert(!await isRoomIn("size=512k", { recording, check: "true" }));
  },
);
