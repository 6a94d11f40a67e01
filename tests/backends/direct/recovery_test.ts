/**
 * What a request goes on with after an operation of it failed, over every
 * operation and every errno that is told apart.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { OperationCode } from "../../../src/engines/engine.ts";
import type { HostErrno } from "../../../src/engines/host.ts";
import { Recovery, recoveryOf } from "../../../src/backends/direct/recovery.ts";
import { Transfer } from "../../../src/backends/direct/transfer.ts";
import { type Request, RequestType } from "../../../src/request.ts";

/** Numbers that mean nothing, as those of systems differ. */
const ERRNO: HostErrno = {
  EPERM: 1001,
  EINTR: 1002,
  EIO: 1003,
  EAGAIN: 1004,
  EBUSY: 1005,
  EINVAL: 1006,
  ENOSYS: 1007,
  EOPNOTSUPP: 1008,
  ECANCELED: 1009,
};

const NAMES = Object.keys(ERRNO) as (keyof HostErrno)[];

type Codes = typeof OperationCode;

/** An operation that failed. */
interface Failed {
  code: keyof Codes;
  type?: number;
  durable?: boolean;
  cancelled?: boolean;
  tried?: boolean;
  retries?: number;
  blockDevice?: boolean;
}

/** What follows, by the name of the error, but for those that just fail. */
function recoveries(failed: Failed): Partial<Record<keyof HostErrno, string>> {
  const { code, type = RequestType.Out, blockDevice = false, ...rest } = failed;
  const words = Object.entries(Recovery);
  const found: Partial<Record<keyof HostErrno, string>> = {};
  for (const name of NAMES) {
    const transfer = Object.assign(new Transfer(), rest, {
      code: OperationCode[code],
      request: { type } as Request,
    });
    const recovery = recoveryOf(transfer, ERRNO[name], ERRNO, blockDevice);
    if (recovery !== Recovery.Fail) {
      found[name] = words.find(([, value]) => value === recovery)![0];
    }
  }
  return found;
}

Deno.test("recoveryOf() never has a sync repeated, nor done in another way", () => {
  const { Flush } = RequestType;
  for (const blockDevice of [false, true]) {
    assertEquals(recoveries({ code: "Sync", type: Flush, blockDevice }), {});
  }
  assertEquals(recoveries({ code: "Sync", type: Flush, cancelled: true }), {});
});

Deno.test("recoveryOf() repeats reads and writes, so many times at most", () => {
  for (const code of ["Read", "Write"] as const) {
    assertEquals(recoveries({ code }), {
      EINTR: "Repeat",
      EAGAIN: "Repeat",
      ECANCELED: "Perform",
    });
    assertEquals(recoveries({ code, tried: true, retries: 999 }), {
      EINTR: "Repeat",
      EAGAIN: "Repeat",
    });
    assertEquals(recoveries({ code, tried: true, retries: 1000 }), {});
    const { ECANCELED, EINTR } = recoveries({ code, cancelled: true });
    assertEquals([ECANCELED, EINTR], ["Abort", "Abort"]);
  }
});

Deno.test("recoveryOf() makes a write durable otherwise where it is denied as such, and repeats it never", () => {
  for (const code of ["Write", "WriteVector"] as const) {
    const denied = {
      EPERM: "SyncInstead",
      ENOSYS: "SyncInstead",
      EOPNOTSUPP: "SyncInstead",
    };
    assertEquals(recoveries({ code, durable: true }), denied);
    // What never ran was given up; what was interrupted may have lost something.
    assertEquals(recoveries({ code, durable: true, cancelled: true }), {
      ...denied,
      ECANCELED: "Abort",
    });
  }
});

Deno.test("recoveryOf() zeroes otherwise where a mode of fallocate is denied", () => {
  const zeroes = { code: "Allocate", type: RequestType.WriteZeroes } as const;
  assertEquals(recoveries({ ...zeroes, tried: true }), {
    EPERM: "ZeroOtherwise",
    EINTR: "Repeat",
    EAGAIN: "Repeat",
    EINVAL: "ZeroOtherwise",
    ENOSYS: "ZeroOtherwise",
    EOPNOTSUPP: "ZeroOtherwise",
  });
  // A device that somebody has claimed; a file is never busy in this way.
  assertEquals(recoveries(zeroes).EBUSY, undefined);
  assertEquals(
    recoveries({ ...zeroes, blockDevice: true }).EBUSY,
    "WriteZeroes",
  );
});

Deno.test("recoveryOf() discards by a call that blocks, and leaves what is busy", () => {
  const discard = { code: "Discard", type: RequestType.Discard } as const;
  assertEquals(recoveries({ ...discard, blockDevice: true }), {
    EINTR: "Repeat",
    EAGAIN: "Repeat",
    EBUSY: "Succeed",
    ENOSYS: "Perform",
    EOPNOTSUPP: "Perform",
    ECANCELED: "Perform",
  });
  assertEquals(recoveries({ ...discard, tried: true }), {
    EINTR: "Repeat",
    EAGAIN: "Repeat",
  });
});
