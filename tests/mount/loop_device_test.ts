/**
 * Files as block devices.
 *
 * @module
 */

import { assert, assertEquals, assertRejects } from "@std/assert";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { DiskError } from "../../src/errors.ts";
import { asFile } from "../../src/mount/as_file.ts";
import { attachLoop } from "../../src/mount/loop_device.ts";
import { needs, tempDir } from "../helpers.ts";
import { exists, needsFuse, processesWith, shell, until } from "./harness.ts";

/** The only line of a file; `null` if it is not there, or goes meanwhile. */
function contentOf(path: string): Promise<string | null> {
  return Deno.readTextFile(path).then((text) => text.trim(), () => null);
}

for (const blockSize of [512, 4096]) {
  Deno.test({
    name:
      `attachLoop() makes a disk of blocks of ${blockSize} a device, and lets go of it`,
    ...needsFuse("root", "nbdfuse", "losetup", "mkfs.ext4"),
    async fn() {
      await using disk = VirtualDisk.memory({ size: "16MiB", blockSize });
      await using file = await asFile(disk);
      const loop = await attachLoop(file.path, { blockSize });
      assert(loop.direct);
      const { code, out } = await shell(
        'blockdev --getss "$1" && mkfs.ext4 -q "$1" && e2fsck -fn "$1" 2>&1',
        loop.device,
      );
      assertEquals([code, out.split("\n")[0]], [0, String(blockSize)], out);
      await loop.detach();
      await loop.detach();
      const name = loop.device.slice("/dev/".length);
      const backing = `/sys/block/${name}/loop/backing_file`;
      // If it is attached, then somebody else's.
      assert(await contentOf(backing) !== file.path);
      // Nobody holds the file any more.
      assertEquals(await file.close(), { busy: false, error: null });
    },
  });
}

/** Does what losetup does, and gives what it detached to another file at once. */
const HASTY = `#!/bin/sh
PATH=\${PATH#*:}
losetup "$@" || exit
if [ "$1" = --detach ]; then
  losetup "$2" "\${0%/*}/../other.img" && echo "$2" > "\${0%/*}/../taken"
fi
exit 0
`;

Deno.test({
  name:
    "LoopDevice.detach() is over although another file has its number by then",
  ...needs("root", "losetup"),
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", 1 << 20);
    await dir.file("other.img", 1 << 20);
    await Deno.mkdir(dir.join("bin"));
    await Deno.writeTextFile(dir.join("bin/losetup"), HASTY, { mode: 0o755 });
    const before = Deno.env.get("PATH")!;
    Deno.env.set("PATH", `${dir.join("bin")}:${before}`);
    try {
      const loop = await attachLoop(path);
      await loop.detach();
    } finally {
      Deno.env.set("PATH", before);
      // Unless somebody else was faster.
      const taken = await contentOf(dir.join("taken"));
      if (taken !== null) await shell('losetup --detach "$1"', taken);
    }
  },
});

for (const killed of [false, true]) {
  const how = killed ? ", after its shell was killed" : "";
  Deno.test({
    name:
      `LoopDevice.detach() takes nobody's device away that has its number${how}`,
    ...needs("root", "losetup"),
    async fn() {
      await using dir = await tempDir();
      const path = await dir.file("disk.img", 1 << 20);
      const loop = await attachLoop(path);
      const { device } = loop;
      const backing = `/sys/block/${device.slice("/dev/".length)}/loop`;
      await shell('losetup --detach "$1"', device);
      // Before Linux 5.15 nothing tells the two apart.
      if (!exists(backing.replace(/loop$/, "diskseq"))) return;
      await until("the kernel", () => !exists(backing));
      // Unless somebody else is faster.
      const { code } = await shell('losetup "$1" "$2"', device, path);
      if (killed) {
        for (const pid of processesWith(path)) Deno.kill(pid, "SIGKILL");
      }
      await loop.detach();
      if (code !== 0) return;
      assertEquals(await contentOf(`${backing}/backing_file`), path);
      await shell('losetup --detach "$1"', device);
    },
  });
}

Deno.test({
  name: "attachLoop() refuses writes to a device that is read-only",
  ...needs("root", "losetup"),
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", 1 << 20);
    await using loop = await attachLoop(path, { readOnly: true });
    const { code } = await shell(
      'dd if=/dev/zero of="$1" count=1 conv=fsync',
      loop.device,
    );
    assert(code !== 0);
  },
});

Deno.test({
  name: "attachLoop() says what is wrong",
  ...needs("root", "losetup"),
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", 1 << 20);
    await assertRejects(
      () => attachLoop(path, { blockSize: 1000 }),
      RangeError,
    );
    const missing = () => attachLoop(dir.join("none"));
    assertEquals((await assertRejects(missing, DiskError)).kind, "not-found");
    await Deno.symlink("round", dir.join("round"));
    for (const odd of [`${path}/below`, dir.join("round")]) {
      const error = await assertRejects(() => attachLoop(odd), DiskError);
      assert(error.message.startsWith(`Cannot attach "${odd}"`), error.message);
    }
    const large = () => attachLoop(path, { blockSize: 1 << 20 });
    const error = await assertRejects(large, DiskError);
    assertEquals(error.kind, "platform");
    assert(error.message.includes("losetup"), error.message);
  },
});
