import { assert, assertEquals } from "@std/assert";
import { getLock, setLock } from "../../ffi/file_lock.ts";
import { openLibc } from "../../ffi/libc.ts";

const ignore = Deno.build.os !== "linux";

/** Runs with two openings of one file. */
function withTwo(run: (mine: number, theirs: number, path: string) => void) {
  const libc = openLibc();
  const folder = Deno.makeTempDirSync();
  const path = `${folder}/disk.img`;
  Deno.writeFileSync(path, new Uint8Array(512));
  const mine = libc.open(path, libc.abi.open.O_RDWR);
  const theirs = libc.open(path, libc.abi.open.O_RDWR);
  try {
    run(mine, theirs, path);
  } finally {
    libc.close(mine);
    libc.close(theirs);
    Deno.removeSync(folder, { recursive: true });
  }
}

const EAGAIN = 11;
const EBADF = 9;
const EINVAL = 22;

Deno.test({
  name: "setLock() shares a read lock, and getLock() names who is in the way",
  ignore,
  fn() {
    withTwo((mine, theirs) => {
      const libc = openLibc();
      const { F_RDLCK, F_WRLCK, F_UNLCK } = libc.abi.flock;
      assertEquals(getLock(libc, theirs, F_WRLCK, 0, 0), null);
      assertEquals(setLock(libc, mine, F_RDLCK, 100, 1), 0);
      assertEquals(setLock(libc, theirs, F_RDLCK, 100, 1), 0);
      assertEquals(setLock(libc, theirs, F_UNLCK, 100, 1), 0);
      assertEquals(setLock(libc, theirs, F_WRLCK, 100, 1), -EAGAIN);
      assertEquals(getLock(libc, theirs, F_RDLCK, 100, 1), null);
      assertEquals(getLock(libc, theirs, F_WRLCK, 0, 0), {
        type: F_RDLCK,
        start: 100,
        length: 1,
        pid: -1,
      });
      // Nobody is in one's own way.
      assertEquals(getLock(libc, mine, F_WRLCK, 100, 1), null);
      assertEquals(setLock(libc, mine, F_UNLCK, 100, 1), 0);
      assertEquals(getLock(libc, theirs, F_WRLCK, 0, 0), null);
    });
  },
});

Deno.test({
  name: "setLock() reaches beyond 4 GiB, and up to the end",
  ignore,
  fn() {
    withTwo((mine, theirs) => {
      const libc = openLibc();
      const { F_RDLCK, F_WRLCK } = libc.abi.flock;
      const start = 2 ** 40 + 3;
      assertEquals(setLock(libc, mine, F_WRLCK, start, 2 ** 33), 0);
      assertEquals(setLock(libc, theirs, F_WRLCK, 3, 2 ** 33), 0);
      assertEquals(setLock(libc, theirs, F_RDLCK, start + 1, 1), -EAGAIN);
      assertEquals(getLock(libc, theirs, F_RDLCK, start + 1, 1), {
        type: F_WRLCK,
        start,
        length: 2 ** 33,
        pid: -1,
      });
      assertEquals(setLock(libc, mine, F_RDLCK, 2 ** 45, 0), 0);
      assertEquals(getLock(libc, theirs, F_WRLCK, 2 ** 50, 1), {
        type: F_RDLCK,
        start: 2 ** 45,
        length: 0,
        pid: -1,
      });
    });
  },
});

Deno.test({
  name: "a lock outlives the closing of another descriptor of the file",
  ignore,
  fn() {
    withTwo((mine, theirs, path) => {
      const libc = openLibc();
      const { F_WRLCK } = libc.abi.flock;
      assertEquals(setLock(libc, mine, F_WRLCK, 0, 1), 0);
      // A lock of the process would be gone now.
      libc.close(libc.open(path, 0));
      assertEquals(setLock(libc, theirs, F_WRLCK, 0, 1), -EAGAIN);
    });
  },
});

Deno.test({
  name: "a lock ends with its descriptor",
  ignore,
  fn() {
    withTwo((_mine, theirs, path) => {
      const libc = openLibc();
      const { F_WRLCK } = libc.abi.flock;
      const fd = libc.open(path, libc.abi.open.O_RDWR);
      assertEquals(setLock(libc, fd, F_WRLCK, 0, 1), 0);
      assert(getLock(libc, theirs, F_WRLCK, 0, 1) !== null);
      libc.close(fd);
      assertEquals(getLock(libc, theirs, F_WRLCK, 0, 1), null);
    });
  },
});

Deno.test({
  name: "setLock() and getLock() return -errno",
  ignore,
  fn() {
    withTwo((mine, _theirs, path) => {
      const libc = openLibc();
      const { F_RDLCK, F_WRLCK } = libc.abi.flock;
      assertEquals(setLock(libc, -1, F_RDLCK, 0, 1), -EBADF);
      assertEquals(getLock(libc, -1, F_RDLCK, 0, 1), -EBADF);
      assertEquals(setLock(libc, mine, F_RDLCK, -5, 1), -EINVAL);
      const readOnly = libc.open(path, libc.abi.open.O_RDONLY);
      assertEquals(setLock(libc, readOnly, F_WRLCK, 0, 1), -EBADF);
      assertEquals(setLock(libc, readOnly, F_RDLCK, 0, 1), 0);
      libc.close(readOnly);
    });
  },
});
