import { assert, assertEquals } from "@std/assert";
import {
  errnoOfLastError,
  errnoOfStatus,
  isError,
  isFailure,
  resultOf,
  STATUS,
} from "../../ffi/windows_abi.ts";
import { WINDOWS_ERRNO } from "../../ffi/windows_errno.ts";

const STATUS_DEVICE_BUSY = 0x8000_0011 | 0;
const STATUS_DEVICE_OFF_LINE = 0x8000_0010 | 0;

Deno.test("isFailure() takes warnings for failures, as NT_SUCCESS() does", () => {
  for (const status of [STATUS_DEVICE_BUSY, STATUS_DEVICE_OFF_LINE]) {
    assert(!isError(status));
    assert(isFailure(status));
    assert(resultOf(status, 512) < 0);
  }
  assert(isFailure(STATUS.ACCESS_DENIED));
});

Deno.test("isFailure() is false where it went well, and where an answer is cut", () => {
  for (const status of [STATUS.SUCCESS, STATUS.BUFFER_OVERFLOW]) {
    assert(!isFailure(status));
    assertEquals(resultOf(status, 512), 512);
  }
});

Deno.test("errnoOfStatus() and errnoOfLastError() take a used-up quota for a full disk", () => {
  // STATUS_DISK_FULL, STATUS_QUOTA_EXCEEDED, STATUS_DISK_QUOTA_EXCEEDED.
  for (const status of [0xc000_007f, 0xc000_0044, 0xc000_0802]) {
    assertEquals(errnoOfStatus(status | 0), WINDOWS_ERRNO.ENOSPC);
  }
  // ERROR_DISK_FULL, ERROR_DISK_QUOTA_EXCEEDED.
  for (const code of [112, 1295]) {
    assertEquals(errnoOfLastError(code), WINDOWS_ERRNO.ENOSPC);
  }
});
