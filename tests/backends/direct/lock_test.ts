import { assertEquals, assertMatch, assertThrows } from "@std/assert";
import { abiFor } from "../../../ffi/abi.ts";
import { LINUX_ERRNO } from "../../../ffi/errno.ts";
import type { Libc } from "../../../ffi/libc.ts";
import { lockImage } from "../../../src/backends/direct/image_lock.ts";
import { type Locks, takeBoth } from "../../../src/backends/direct/lock.ts";
import { DiskError } from "../../../src/errors.ts";

/**
 * A file's locks, as a system keeps them: flock and bytes, which know of each
 * other only where flock is a lock on bytes.
 */
class Kernel {
  /** Who has flock. */
  flock: string | null = null;
  /** Who has bytes that keep others out. */
  bytes: string | null = null;
  /** Every step, in order. */
  readonly steps: string[] = [];

  constructor(readonly merged: boolean) {}

  /** The locks of somebody. */
  of(who: string, before: (step: string) => void = () => {}): Locks {
    const step = (name: string) => {
      before(name);
      this.steps.push(name);
    };
    const refuse = (what: string): never => {
      throw new DiskError("locked", `Cannot open as ${what} holds it`, {
        operation: "open",
      });
    };
    return {
      claim: () => {
        step("claim");
        // An open description of its own: our own bytes are not "ours" to it.
        if (this.flock !== null) refuse(this.flock);
        if (this.merged && this.bytes !== null) refuse(this.bytes);
        this.flock = who;
        return {
          release: () => {
            step("release");
            if (this.flock === who) this.flock = null;
          },
        };
      },
      lockBytes: () => {
        step("bytes");
        if (this.bytes !== null && this.bytes !== who) refuse(this.bytes);
        if (this.merged && this.flock !== null) refuse(this.flock);
        this.bytes = who;
        return null;
      },
      unlockBytes: () => {
        step("unlock");
        if (this.bytes === who) this.bytes = null;
      },
    };
  }
}

Deno.test("takeBoth() takes both where they have nothing to do with each other", () => {
  const kernel = new Kernel(false);
  const { claim, missing } = takeBoth(kernel.of("us"));
  assertEquals([kernel.flock, kernel.bytes, missing], ["us", "us", null]);
  assertEquals(kernel.steps, ["claim", "bytes"]);
  claim!.release();
  assertEquals(kernel.flock, null);
});

Deno.test("takeBoth() takes the bytes alone where flock is a lock on bytes", () => {
  const kernel = new Kernel(true);
  assertEquals(takeBoth(kernel.of("us")), { claim: null, missing: null });
  assertEquals([kernel.flock, kernel.bytes], [null, "us"]);
  // Whoever comes finds them, by either lock.
  assertThrows(() => takeBoth(kernel.of("them")), DiskError, "us holds it");
  assertThrows(() => kernel.of("them").claim(), DiskError, "us holds it");
  assertEquals([kernel.flock, kernel.bytes], [null, "us"]);
});

for (const merged of [false, true]) {
  Deno.test(`takeBoth() holds nothing where someone else holds one${merged ? ", and flock is a lock on bytes" : ""}`, () => {
    for (const held of ["flock", "bytes"] as const) {
      const kernel = new Kernel(merged);
      kernel[held] = "them";
      assertThrows(() => takeBoth(kernel.of("us")), DiskError, "them holds it");
      assertEquals(kernel[held], "them");
      assertEquals(held === "flock" ? kernel.bytes : kernel.flock, null);
    }
  });

  Deno.test(`takeBoth() takes what others give back or take meanwhile${merged ? ", where flock is a lock on bytes" : ""}`, () => {
    // Someone else begins or ends before any of its steps.
    for (let at = 0; at < 8; at++) {
      for (const held of ["flock", "bytes"] as const) {
        for (const ends of [false, true]) {
          const kernel = new Kernel(merged);
          if (ends) kernel[held] = "them";
          let count = 0;
          let acted = false;
          const locks = kernel.of("us", () => {
            if (count++ !== at || acted) return;
            acted = true;
            if (ends) {
              if (kernel[held] === "them") kernel[held] = null;
              return;
            }
            // Only what the kernel would let them.
            const free = merged
              ? kernel.flock === null && kernel.bytes === null
              : kernel[held] === null;
            if (free) kernel[held] = "them";
          });
          const where = `${held}, ${ends ? "ends" : "begins"} at ${at}`;
          try {
            takeBoth(locks);
          } catch (error) {
            assertEquals((error as DiskError).kind, "locked", where);
            assertEquals(kernel.flock === "us", false, where);
            continue;
          }
          assertEquals(kernel.bytes, "us", where);
          if (!merged && kernel.flock !== "us") {
            // Without flock only where it could not be had beside the bytes.
            assertEquals(kernel.flock, "them", where);
          }
          if (merged) assertEquals(kernel.flock, null, where);
        }
      }
    }
  });
}

Deno.test("takeBoth() passes on what is no lock of anybody", () => {
  const kernel = new Kernel(false);
  const broken = () => {
    throw new TypeError("broken");
  };
  const locks = kernel.of("us");
  assertThrows(() => takeBoth({ ...locks, claim: broken }), TypeError);
  assertThrows(() => takeBoth({ ...locks, lockBytes: broken }), TypeError);
  assertEquals([kernel.flock, kernel.bytes], [null, null]);
  // No flock at all.
  assertEquals(takeBoth({ ...locks, claim: () => null }).missing, null);
  kernel.bytes = "them";
  assertThrows(
    () => takeBoth({ ...locks, claim: () => null }),
    DiskError,
    "them holds it",
  );
});

Deno.test("lockImage() takes few errors for a system without such locks, and no other", () => {
  const abi = abiFor("linux", "x86_64")!;
  const lock = (command: number, errno: number) => {
    const fcntl = (_fd: number, asked: number) =>
      asked === command ? -errno : 0;
    return () =>
      lockImage({ abi, fcntl } as unknown as Libc, 3, "a.img", false, false);
  };
  const { F_OFD_SETLK, F_OFD_GETLK } = abi.fcntl;
  const { EINVAL, ENOLCK, EIO, ESTALE } = LINUX_ERRNO;
  for (const command of [F_OFD_SETLK!, F_OFD_GETLK!]) {
    for (const errno of [EINVAL, ENOLCK]) {
      assertMatch(lock(command, errno)()!, /has no locks/);
    }
    for (const errno of [EIO, ESTALE]) {
      const error = assertThrows(lock(command, errno), DiskError, "a.img");
      assertEquals(error.errno, errno);
    }
  }
});
