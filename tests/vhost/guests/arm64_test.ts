/**
 * A driver on another processor: Debian's kernel for 64-bit ARM, emulated, on a
 * disk of ours. It takes minutes and fetches a kernel and programs by apt, as
 * `deno task platforms arm64` does: `PLATTER_LONG=1 deno task guests`.
 *
 * @module
 */

import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { LONG, needs, run, tempDir } from "../../helpers.ts";
import { startMachine } from "../../platforms/machine.ts";
import { debianKernel, debianRoot } from "../../platforms/packages.ts";
import { ServedDisk } from "./served_disk.ts";

const WANTED = LONG && Deno.env.get("PLATTER_GUESTS") === "1" &&
  Deno.build.os === "linux";

const DISK_BYTES = 128 << 20;

/** Files that are written at once, each by a process of its own. */
const FILES = [1, 2, 3, 4];

/** Fills the files, four at a time, and makes each of them durable. */
const WRITE = `for i in ${FILES.join(" ")}; do
  dd if=/dev/urandom of=/tmp/disk/$i bs=64k count=64 oflag=direct conv=fsync &
done; wait`;

const SUMS = `cd /tmp/disk && sha256sum ${FILES.join(" ")}; cd /`;

Deno.test({
  name:
    "Linux on 64-bit ARM makes an ext4 on a disk of ours and finds it again",
  ignore: !WANTED ||
    needs(
      "apt-get",
      "debugfs",
      "dpkg-deb",
      "e2fsck",
      "qemu-system-aarch64",
      "xz",
    )
      .ignore,
  async fn() {
    await using stack = new AsyncDisposableStack();
    const dir = stack.use(await tempDir());
    const image = await dir.file("disk.img", DISK_BYTES);
    const disk = stack.use(await ServedDisk.open(image, dir.join("disk.sock")));
    const share = dir.join("share");
    await Deno.mkdir(share);
    const guest = stack.use(
      await startMachine({
        architecture: "aarch64",
        kernel: await debianKernel(
          { release: "trixie", architecture: "arm64" },
          "arm64",
        ),
        root: await debianRoot({ release: "bookworm", architecture: "arm64" }),
        hostPrefix: "/host",
        directory: dir.path,
        modules: ["crc32c_generic", "ext4"],
        otherModules: [],
        disks: [],
        sockets: [disk.server.path],
        share,
      }),
    );
    assertStringIncludes(await guest.run("uname -m"), "aarch64");
    assertEquals(
      Number(await guest.run("cat /sys/block/vda/size")),
      disk.info.sectors,
    );
    const mount = "mount -t ext4 -o discard /dev/vda /tmp/disk";
    await guest.run(`mkfs.ext4 -q -F /dev/vda && mkdir /tmp/disk && ${mount}`);
    disk.startCounting();
    await guest.run(WRITE);
    // Of files that become durable together, some share a flush.
    assert(disk.counts.flushes >= 1, "a file was made durable without a flush");
    const sums = await guest.run(SUMS);
    assertEquals(sums.match(/^[0-9a-f]{64} /gm)?.length, FILES.length);
    await guest.run(`umount /tmp/disk && ${mount}`);
    assertEquals(await guest.run(SUMS), sums);
    disk.startCounting();
    await guest.run("fstrim /tmp/disk && umount /tmp/disk");
    assert(disk.counts.discards > 0, "what is free was not discarded");
    assertEquals(
      (await guest.run("dmesg")).match(/I\/O error|EXT4-fs error/),
      null,
    );
    await guest.stop();
    // What the guest had is on the host, and sound.
    await disk[Symbol.asyncDispose]();
    await run("e2fsck", ["-fn", image]);
    for (const i of FILES) {
      const sum = await run("sh", [
        "-c",
        `debugfs -R "cat /${i}" ${image} 2>/dev/null | sha256sum`,
      ]);
      assertStringIncludes(sums, `${sum.split(" ")[0]}  ${i}`);
    }
  },
});
