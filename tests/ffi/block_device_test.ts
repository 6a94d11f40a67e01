import { assert, assertEquals } from "@std/assert";
import {
  blockDeviceSize,
  discard,
  logicalBlockSize,
  minimumIo,
  optimalIo,
  physicalBlockSize,
  secureErase,
} from "../../ffi/block_device.ts";
import { type Libc, openLibc } from "../../ffi/libc.ts";
import { addressOf, alignedMemory } from "../../ffi/memory.ts";

const BYTES = 1024 * 1024;

/** Attaches a file to a loop device, as losetup(8) does. */
function attach(path: string, ...flags: string[]): string | undefined {
  try {
    const { success, stdout } = new Deno.Command("losetup", {
      args: ["--find", "--show", ...flags, path],
      stderr: "null",
    }).outputSync();
    return success ? new TextDecoder().decode(stdout).trim() : undefined;
  } catch {
    return undefined;
  }
}

function detach(device: string): void {
  new Deno.Command("losetup", { args: ["--detach", device] }).outputSync();
}

/** Runs with a loop device over a file of 1 MiB of ones. */
function withDevice(
  flags: string[],
  run: (libc: Libc, fd: number) => void,
  write = true,
): void {
  const folder = Deno.makeTempDirSync();
  try {
    const path = `${folder}/disk.img`;
    Deno.writeFileSync(path, new Uint8Array(BYTES).fill(1));
    const device = attach(path, ...flags);
    assert(device !== undefined, "losetup failed");
    try {
      const libc = openLibc();
      const { O_RDWR, O_RDONLY } = libc.abi.open;
      const fd = libc.open(device, write ? O_RDWR : O_RDONLY);
      assert(fd >= 0, `open gave ${fd}`);
      try {
        run(libc, fd);
      } finally {
        libc.close(fd);
      }
    } finally {
      detach(device);
    }
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
}

/** Loop devices need root, losetup, and a kernel that has them. */
function hasLoopDevices(): boolean {
  if (Deno.build.os !== "linux" || Deno.uid() !== 0) return false;
  const folder = Deno.makeTempDirSync();
  try {
    const path = `${folder}/disk.img`;
    Deno.writeFileSync(path, new Uint8Array(BYTES));
    const device = attach(path);
    if (device !== undefined) detach(device);
    return device !== undefined;
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
}

const ignore = !hasLoopDevices();

for (const blockSize of [512, 4096]) {
  Deno.test({
    name: `a block device of ${blockSize}-byte blocks says what it is`,
    ignore,
    fn() {
      withDevice(["--sector-size", String(blockSize)], (libc, fd) => {
        assertEquals(blockDeviceSize(libc, fd), BYTES);
        assertEquals(logicalBlockSize(libc, fd), blockSize);
        assert(physicalBlockSize(libc, fd) >= blockSize);
        assert(minimumIo(libc, fd) >= blockSize);
        assert(optimalIo(libc, fd) >= 0);
      });
    },
  });
}

Deno.test({
  name: "discard() is refused by a read-only device",
  ignore,
  fn() {
    withDevice(["--read-only"], (libc, fd) => {
      // EBADF, as the descriptor is not open for writing.
      assertEquals(discard(libc, fd, 0, 4096), -libc.abi.errno.EBADF);
    }, false);
  },
});

Deno.test({
  name: "discard() changes its range and nothing else",
  ignore,
  fn() {
    withDevice([], (libc, fd) => {
      const memory = alignedMemory(BYTES);
      const result = discard(libc, fd, 65536, 4096);
      // Not every file system under the loop device can.
      assert([0, -libc.abi.errno.EOPNOTSUPP].includes(result));
      assertEquals(libc.pread(fd, addressOf(memory), BYTES, 0), BYTES);
      assert(memory.subarray(0, 65536).every((byte) => byte === 1));
      assert(memory.subarray(69632).every((byte) => byte === 1));
    });
  },
});

Deno.test({
  name: "discard() refuses what is misaligned or beyond the end",
  ignore,
  fn() {
    withDevice([], (libc, fd) => {
      const { EINVAL, EOPNOTSUPP } = libc.abi.errno;
      const misaligned = discard(libc, fd, 1, 512);
      assert([-EINVAL, -EOPNOTSUPP].includes(misaligned));
      const beyond = discard(libc, fd, BYTES, 512);
      assert([-EINVAL, -EOPNOTSUPP].includes(beyond));
      // The high half must not be lost: 2^32 is 0 without it.
      const far = discard(libc, fd, 2 ** 32, 512);
      assert([-EINVAL, -EOPNOTSUPP].includes(far));
    });
  },
});

Deno.test({
  name: "secureErase() is not supported by a loop device",
  ignore,
  fn() {
    withDevice([], (libc, fd) => {
      assertEquals(
        secureErase(libc, fd, 0, 4096),
        -libc.abi.errno.EOPNOTSUPP,
      );
    });
  },
});

Deno.test({
  name: "block device functions return -ENOTTY for a file",
  ignore: Deno.build.os !== "linux",
  fn() {
    const folder = Deno.makeTempDirSync();
    try {
      const libc = openLibc();
      const { O_RDWR, O_CREAT } = libc.abi.open;
      const fd = libc.open(`${folder}/disk.img`, O_RDWR | O_CREAT, 0o600);
      const { ENOTTY } = libc.abi.errno;
      for (
        const ask of [
          blockDeviceSize,
          logicalBlockSize,
          physicalBlockSize,
          minimumIo,
          optimalIo,
        ]
      ) {
        assertEquals(ask(libc, fd), -ENOTTY, ask.name);
      }
      for (const command of [discard, secureErase]) {
        assertEquals(command(libc, fd, 0, 512), -ENOTTY, command.name);
      }
      libc.close(fd);
    } finally {
      Deno.removeSync(folder, { recursive: true });
    }
  },
});
