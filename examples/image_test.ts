/**
 * How to test a disk image: copy this, and put your own builder in the place of
 * `buildImage`. It asks what is asked of most images: are the partitions right, is
 * the right file in it, does the program that runs on it write only where it may,
 * and is the rest as it was when somebody last looked?
 *
 * ```sh
 * deno test -A examples/image_test.ts
 * deno test -A examples/image_test.ts -- --update   # after a change that is meant
 * ```
 *
 * A copy has no golden image yet: its first run takes `--update`.
 *
 * The image has an ext4 that `mke2fs` makes (Debian's package e2fsprogs); where
 * that is missing the tests are skipped.
 *
 * @module
 */

import { type Backend, openBackend, VirtualDisk } from "@platter/disk";
import { assertFile } from "@platter/disk/files";
import {
  openPartition,
  type Partition,
  readPartitions,
  writePartitions,
} from "@platter/disk/image";
import {
  assertDisksEqual,
  assertGolden,
  assertOnlyChanged,
  assertPartitions,
  type Overlay,
  overlay,
  protect,
} from "@platter/disk/testing";
import { assertEquals, assertRejects } from "@std/assert";
import {
  afterAll,
  afterEach,
  beforeAll,
  beforeEach,
  describe,
  it,
} from "@std/testing/bdd";

/** What is under test: it makes the image of a kiosk. */
async function buildImage(path: string): Promise<void> {
  const tree = await Deno.makeTempDir();
  try {
    await Deno.mkdir(`${tree}/etc`);
    await Deno.writeTextFile(`${tree}/etc/hostname`, "kiosk\n");
    await Deno.writeTextFile(`${tree}/etc/fstab`, "/dev/vda2 / ext4 ro 0 1\n");
    await using disk = await VirtualDisk.create(path, { size: "32MiB" });
    await writePartitions(disk, {
      kind: "gpt",
      id: "5B0A8D5C-2A8F-4C57-9E61-3F0C5A9D1E01",
      partitions: [
        {
          type: "efi",
          name: "boot",
          size: "8MiB",
          guid: "5B0A8D5C-2A8F-4C57-9E61-3F0C5A9D1E02",
        },
        {
          type: "linux",
          name: "root",
          guid: "5B0A8D5C-2A8F-4C57-9E61-3F0C5A9D1E03",
        },
      ],
    });
    await using root = await openPartition(disk, 2);
    await makeExt4(root, tree);
  } finally {
    await Deno.remove(tree, { recursive: true });
  }
}

/** Makes an ext4 with the files of a folder on a partition. */
async function makeExt4(partition: VirtualDisk, tree: string): Promise<void> {
  const file = await Deno.makeTempFile();
  try {
    const { success, stderr } = await new Deno.Command("mke2fs", {
      args: [
        "-q",
        "-F",
        "-t",
        "ext4",
        "-b",
        "4096",
        "-d",
        tree,
        file,
        `${Math.floor(partition.sectors / 8)}`,
      ],
    }).output();
    if (!success) throw new Error(new TextDecoder().decode(stderr));
    await using made = await VirtualDisk.open(file, { readOnly: true });
    const bytes = await made.read(0, made.sectors);
    await partition.write(0, bytes);
    await partition.flush();
  } finally {
    await Deno.remove(file);
  }
}

/** What runs on the image: it notes the first start in the root partition. */
async function firstStart(disk: VirtualDisk): Promise<void> {
  await using root = await openPartition(disk, 2);
  const superblock = await root.read(0, 8);
  superblock[1024 + 52] = 1; // s_mnt_count, as a kernel counts mounts.
  await root.write(0, superblock);
  await root.flush();
}

function has(program: string): boolean {
  try {
    new Deno.Command(program, { args: ["-V"], stderr: "null", stdout: "null" })
      .outputSync();
    return true;
  } catch (error) {
    // Without permission the tests fail: skipped, they would seem to pass.
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

const group = has("mke2fs") ? describe : describe.skip;

group("the image of a kiosk", () => {
  let folder: string;
  let image: Backend;
  let changes: Overlay;
  let disk: VirtualDisk;
  let root: Partition;

  beforeAll(async () => {
    folder = await Deno.makeTempDir();
    await buildImage(`${folder}/kiosk.img`);
    image = await openBackend(`${folder}/kiosk.img`, { readOnly: true });
  });

  // Each test has the image as it was built, and whatever it writes is gone
  // afterwards: an overlay costs nothing, whatever the size of the image.
  beforeEach(async () => {
    changes = overlay(image, { ownsBase: false });
    disk = VirtualDisk.over(changes);
    root = (await readPartitions(disk)).partitions[1]!;
  });

  afterEach(async () => {
    await disk.close();
  });

  afterAll(async () => {
    await image.close();
    await Deno.remove(folder, { recursive: true });
  });

  it("has a partition to boot from and one for the system", async () => {
    await assertPartitions(disk, {
      kind: "gpt",
      partitions: [
        { type: "efi", name: "boot", start: 2048 },
        { type: "linux", name: "root" },
      ],
    });
  });

  it("knows its name, and mounts its root read-only", async () => {
    await using system = await openPartition(disk, 2);
    await assertFile(system, "/etc/hostname", "kiosk\n");
    await assertFile(system, "/etc/fstab", /^\S+ \/ ext4 ro\b/m);
  });

  it("has the partition table that somebody has looked at", async () => {
    await assertGolden(
      disk.slice(0, 2048),
      new URL("golden/kiosk_table.txt", import.meta.url),
    );
  });

  it("is written only in its root partition when it starts", async () => {
    await firstStart(disk);
    assertOnlyChanged(changes, [root]);
    // And there it is the superblock that changed.
    await using before = VirtualDisk.over(overlay(image, { ownsBase: false }));
    await assertDisksEqual(disk, before, {
      ignore: [{ sector: root.start, count: 8 }],
    });
  });

  it("starts with all but its root partition protected", async () => {
    const guarded = protect(changes, [
      {
        name: "the table and the boot partition",
        sector: 0,
        count: root.start,
      },
    ]);
    await using started = VirtualDisk.over(guarded);
    await firstStart(started);
    assertEquals(guarded.violations, []);
    await assertRejects(
      () => started.write(0, new Uint8Array(512)),
      Error,
      "the table and the boot partition is protected",
    );
  });
});
