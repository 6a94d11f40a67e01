import { assertEquals } from "@std/assert";
import { recordWorkload } from "@platter/disk/testing";
import { crashTest } from "../../src/crash/run_crash_test.ts";
import { needs, tempDir } from "../helpers.ts";

const fuse = needs("nbdfuse", "fusermount3");

Deno.test(
  "crashTest() gives each check a new file in a folder of its own",
  fuse,
  async () => {
    await using dir = await tempDir();
    const precious = await dir.file("precious", new Uint8Array([1, 2, 3]));
    const recording = dir.join("run.rec");
    {
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
      await made.save(recording);
    }
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
