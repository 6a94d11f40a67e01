/**
 * File systems that this kernel may not have: a guest under QEMU, emulated, with
 * Debian's kernel, whose root is this machine's by 9p, runs Deno on them.
 *
 * It takes a minute or two, and fetches a kernel by apt, so that it runs when it
 * is asked for: `deno task guests`.
 *
 * @module
 */

import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { shellOn } from "../../../src/crash/guests/guest.ts";
import { guestKernel } from "../../../src/crash/guests/kernel_package.ts";
import { startQemu } from "../../../src/crash/guests/qemu_guest.ts";
import { needs, tempDir } from "../../helpers.ts";

const WANTED = Deno.env.get("PLATTER_GUESTS") === "1" &&
  Deno.build.os === "linux" && Deno.build.arch === "x86_64";

const MODULES = [
  ...["virtio_pci", "9p", "9pnet_virtio"],
  ...["loop", "vfat", "nls_cp437", "nls_ascii"],
];

/** Deno in a guest that emulates its processor takes its time, in ms. */
const PROGRAM_MS = 600_000;

/** What a file system was found to do, by backend. */
interface Found {
  readonly fileSystem: string;
  readonly active: boolean;
  readonly reason: string | null;
  readonly flush: string;
  readonly abilities: {
    readonly discard: string;
    readonly writeZeroes: string;
  };
  readonly lock: string;
  /** What was read back is not what was written. */
  readonly wrong: boolean;
  /** What became of others that open the image, by backend and purpose. */
  readonly others: Readonly<Record<string, string>>;
}

const PROGRAM = `
import { VirtualDisk } from ${
  JSON.stringify(import.meta.resolve("../../../mod.ts"))
};
const found = {};
for (const directory of Deno.args) {
  for (const backend of ["direct", "portable"]) {
    const path = directory + "/" + backend + ".img";
    Deno.writeFileSync(path, new Uint8Array(1 << 20).fill(3));
    await using disk = await VirtualDisk.open(path, { backend });
    await disk.write(8, new Uint8Array(4096).fill(5), { fua: true });
    await disk.writeZeroes(10, 2);
    const bytes = await disk.read(0, 24);
    const wrong = bytes.some((byte, i) => byte !==
      (i < 4096 || i >= 8192 ? 3 : i >= 5120 && i < 6144 ? 0 : 5));
    const others = {};
    for (const other of ["direct", "portable"]) {
      for (const readOnly of [false, true]) {
        others[other + (readOnly ? " reader" : " writer")] =
          await VirtualDisk.open(path, { backend: other, readOnly }).then(
            async (second) => { await second.close(); return "opened"; },
            (error) => error.kind ?? String(error),
          );
      }
    }
    const { fileSystem, direct, durability, abilities, lock } = disk.info;
    found[directory + " " + backend] = {
      fileSystem, active: direct.active, reason: direct.reason,
      flush: durability.flush, abilities, lock: lock.method, wrong, others,
    };
  }
}
console.log(JSON.stringify(found));
`;

Deno.test({
  name:
    "VirtualDisk.open() has one writer, and says what is known, on 9p and vfat",
  ignore: !WANTED ||
    needs("root", "qemu-system-x86_64", "busybox", "mkfs.vfat").ignore,
  async fn() {
    await using dir = await tempDir();
    await Deno.mkdir(dir.join("share"));
    await Deno.writeTextFile(dir.join("share/program.ts"), PROGRAM);
    const vfat = await dir.file("share/vfat.img", 16 << 20);
    await new Deno.Command("mkfs.vfat", { args: [vfat] }).output();
    const init = dir.join("init");
    await Deno.writeTextFile(
      init,
      `#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/dev/shm
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm
mount -t tmpfs memory /dev/shm
mkdir /dev/shm/9p /dev/shm/vfat
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 share /dev/shm/9p
mount -o loop /dev/shm/9p/vfat.img /dev/shm/vfat
${shellOn("/dev/ttyS1")}`,
      { mode: 0o755 },
    );
    const export9p = (id: string, path: string, more: string) => [
      "-fsdev",
      `local,id=${id},path=${path},security_model=none,multidevs=remap${more}`,
      "-device",
      `virtio-9p-pci,fsdev=${id},mount_tag=${id}`,
    ];
    await using guest = await startQemu({
      kernel: await guestKernel(),
      modules: MODULES,
      init:
        `/bin/busybox mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=loose,ro host /root || exec /bin/busybox poweroff -f
exec /bin/busybox switch_root /root ${init}
`,
      sockets: [],
      directory: dir.path,
      processors: 2,
      memoryMib: 1536,
      accelerator: "tcg",
      args: [
        ...export9p("host", "/", ",readonly=on"),
        ...export9p("share", dir.join("share"), ""),
      ],
    });
    const deno = `DENO_DIR=/dev/shm/deno ${Deno.execPath()}`;
    const { output } = await guest.try(
      `${deno} run --quiet --no-check --no-lock -A /dev/shm/9p/program.ts ` +
        `/dev/shm/9p /dev/shm/vfat 2>/dev/shm/errors || tail -c 2000 /dev/shm/errors`,
      { timeoutMs: PROGRAM_MS },
    );
    assertStringIncludes(output, "/dev/shm/9p direct");
    const found: Record<string, Found> = JSON.parse(output);
    for (const backend of ["direct", "portable"]) {
      const [nine, fat] = ["9p", "vfat"].map((name) =>
        found[`/dev/shm/${name} ${backend}`]!
      );
      for (const one of [nine!, fat!]) {
        assertEquals(one.wrong, false, backend);
        assertEquals(one.lock, backend === "direct" ? "OFD" : "flock");
        assertEquals(one.abilities.discard, "none");
        assertEquals(one.abilities.writeZeroes, "emulated");
        assertEquals(one.others["direct writer"], "locked");
        assertEquals(one.others["portable writer"], "locked");
        assertEquals(one.others["portable reader"], "opened");
      }
      assertEquals(fat!.others["direct reader"], "opened");
      // There, flock of the portable writer is a lock on the reader's byte.
      assertEquals(
        nine!.others["direct reader"],
        backend === "direct" ? "opened" : "locked",
      );
      // The server says of it what it is there: ext4, say.
      assertEquals(nine!.fileSystem, "9p");
      assertEquals([nine!.active, nine!.flush], [false, "unknown"]);
      assertMatch(nine!.reason!, /^9p bypasses the cache of this machine only/);
      assertEquals([fat!.fileSystem, fat!.active], ["vfat", true]);
      // It is on a loop device, whose file is on the server's.
      assertEquals(fat!.flush, "unknown");
    }
  },
});
