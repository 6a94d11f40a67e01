import {
  assertEquals,
  assertMatch,
  assertRejects,
  assertThrows,
} from "@std/assert";
import { closeSync, constants, openSync } from "node:fs";
import { claimFile, ReplacedError } from "../../src/backends/file_claim.ts";
import { VirtualDisk } from "../../src/disk/disk.ts";
import type { OpenOptions } from "../../src/disk/open.ts";
import { DiskError } from "../../src/errors.ts";
import { needs, run, tempDir } from "../helpers.ts";
import { hasEngine } from "./direct/harness.ts";

/** How the descriptors of this process that lock a file are open. */
function lockingAccess(inode: number): number[] {
  const found: number[] = [];
  for (const { name } of Deno.readDirSync("/proc/self/fdinfo")) {
    let info: string;
    try {
      info = Deno.readTextFileSync(`/proc/self/fdinfo/${name}`);
    } catch {
      // The one that listed them.
      continue;
    }
    if (!new RegExp(`^lock:.*FLOCK.*:${inode} `, "m").test(info)) continue;
    found.push(parseInt(/^flags:\s*([0-7]+)$/m.exec(info)![1]!, 8) & 3);
  }
  return found;
}

Deno.test({
  name:
    "claimFile() locks for writing by a descriptor for writing, as NFS wants it",
  ignore: Deno.build.os !== "linux",
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", 4096);
    const inode = Deno.statSync(path).ino!;
    const fd = openSync(path, constants.O_RDWR);
    try {
      for (const readOnly of [false, true]) {
        const claim = claimFile(path, fd, readOnly)!;
        assertEquals(lockingAccess(inode), [
          readOnly ? constants.O_RDONLY : constants.O_RDWR,
        ]);
        assertThrows(() => claimFile(path, fd, false), DiskError, path);
        claim.release();
        assertEquals(lockingAccess(inode), []);
      }
    } finally {
      closeSync(fd);
    }
  },
});

Deno.test({
  name: "claimFile() does not wait for a pipe that has the file's name by now",
  ...(Deno.build.os === "linux" ? needs("mkfifo") : { ignore: true }),
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", 4096);
    const fd = openSync(path, constants.O_RDONLY);
    try {
      Deno.removeSync(path);
      await run("mkfifo", [path]);
      // A writer, so that to wait would not be for ever.
      const writer = openSync(path, constants.O_RDWR);
      try {
        for (const readOnly of [false, true]) {
          const open = Deno.openSync;
          let opened = 0;
          Deno.openSync = (...args) => (opened++, open(...args));
          try {
            assertThrows(() => claimFile(path, fd, readOnly), ReplacedError);
          } finally {
            Deno.openSync = open;
          }
          assertEquals(opened, 0);
        }
      } finally {
        closeSync(writer);
      }
    } finally {
      closeSync(fd);
    }
  },
});

Deno.test({
  name: "claimFile() locks for reading what may not be written",
  ignore: Deno.build.os !== "linux",
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", 4096);
    await Deno.chmod(path, 0o444);
    const fd = openSync(path, constants.O_RDONLY);
    try {
      const [one, other] = [true, true].map(() => claimFile(path, fd, true)!);
      one!.release();
      other!.release();
    } finally {
      closeSync(fd);
    }
  },
});

Deno.test("claimFile() takes EACCES for someone else's lock, as SMB answers, and few others for none", async () => {
  await using dir = await tempDir();
  const path = await dir.file("disk.img", 4096);
  const fd = openSync(path, constants.O_RDWR);
  const { tryLockSync } = Deno.FsFile.prototype;
  const answers = (code: string) => () => {
    throw Object.assign(new Error("os error"), { code });
  };
  try {
    Deno.FsFile.prototype.tryLockSync = answers("EACCES");
    const error = assertThrows(() => claimFile(path, fd, false), DiskError);
    assertEquals(error.kind, "locked");
    for (const code of ["EINVAL", "ENOLCK", "ENOSYS", "ENOTSUP", "EPERM"]) {
      Deno.FsFile.prototype.tryLockSync = answers(code);
      assertEquals(claimFile(path, fd, false), null, code);
    }
    // Whether it is locked, nobody knows.
    for (const code of ["EIO", "ESTALE", "ENOMEM", "EINTR"]) {
      Deno.FsFile.prototype.tryLockSync = answers(code);
      assertThrows(() => claimFile(path, fd, false), Error, "os error", code);
    }
    for (
      const [error, kind] of [
        [Object.assign(new Error("os error"), { code: "EIO" }), "io"],
        [new Deno.errors.NotCapable("Requires read access"), "permission"],
      ] as const
    ) {
      Deno.FsFile.prototype.tryLockSync = () => {
        throw error;
      };
      const thrown = await assertRejects(
        () => VirtualDisk.open(path, { backend: "portable" }),
        DiskError,
        error.message,
      );
      assertEquals(thrown.kind, kind);
    }
  } finally {
    Deno.FsFile.prototype.tryLockSync = tryLockSync;
    closeSync(fd);
  }
});

Deno.test({
  name:
    "claimFile() takes a lock that is granted once, and none that is granted twice, where nothing is known of the file system",
  ignore: Deno.build.os !== "linux",
  fn() {
    // Nothing is known of proc, which has the locks of every file system.
    const path = "/proc/self/comm";
    const fd = openSync(path, constants.O_RDWR);
    const { tryLockSync } = Deno.FsFile.prototype;
    try {
      const claim = claimFile(path, fd, false);
      assertThrows(() => claimFile(path, fd, false), DiskError, path);
      claim!.release();
      claimFile(path, fd, false)!.release();
      Deno.FsFile.prototype.tryLockSync = () => true;
      assertEquals(claimFile(path, fd, false), null);
    } finally {
      Deno.FsFile.prototype.tryLockSync = tryLockSync;
      closeSync(fd);
    }
  },
});

Deno.test({
  name:
    "An image whose lock finds no free descriptor is a DiskError, with FFI and without",
  ignore: Deno.build.os === "windows",
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", 65_536);
    const open = Deno.openSync;
    const refuse = () => {
      throw Object.assign(new Error("Too many open files (os error 24)"), {
        code: "EMFILE",
      });
    };
    const ways: OpenOptions[] = [
      { backend: "portable" },
      { backend: "portable", readOnly: true, lock: "exclusive" },
      ...(hasEngine("sync") ? [{ backend: "direct" as const }] : []),
    ];
    for (const way of ways) {
      Deno.openSync = refuse;
      try {
        const error = await assertRejects(
          () => VirtualDisk.open(path, way),
          DiskError,
          `Cannot open "${path}"`,
        );
        assertEquals([error.kind, error.code], ["io", "EMFILE"]);
      } finally {
        Deno.openSync = open;
      }
    }
  },
});

Deno.test({
  name:
    "Two writers cannot open a file, its loop device and a partition of it under two names",
  ...(Deno.build.os === "linux"
    ? needs("root", "losetup", "addpart")
    : { ignore: true }),
  async fn() {
    await using stack = new AsyncDisposableStack();
    const dir = stack.use(await tempDir());
    const file = await dir.file("disk.img", 4 << 20);
    const device = (await run("losetup", ["-P", "--show", "-f", file])).trim();
    stack.defer(async () => {
      await run("losetup", ["-d", device]);
    });
    await run("addpart", [device, "1", "2048", "2048"]);
    const part = `${device}p1`;
    const backends = hasEngine("sync")
      ? ["direct", "portable"] as const
      : ["portable"] as const;
    for (
      const [one, other] of [
        ...[[file, device], [device, file], [device, part], [part, device]],
        ...[[file, part], [part, file]],
      ] as const
    ) {
      for (const first of backends) {
        await using disk = await VirtualDisk.open(one, { backend: first });
        for (const backend of backends) {
          const error = await assertRejects(
            () => VirtualDisk.open(other, { backend }),
            DiskError,
            `Cannot open "${other}" for writing as this process, `,
          );
          assertEquals(error.kind, "locked");
          assertMatch(error.message, new RegExp(`has "${one}" open`));
          // Readers are nobody's trouble, and whoever knows better is let in.
          await (await VirtualDisk.open(other, { backend, readOnly: true }))
            .close();
          if (backend === "direct") continue;
          await (await VirtualDisk.open(other, { backend, lock: "none" }))
            .close();
        }
        await disk.read(0, 1);
      }
    }
  },
});
