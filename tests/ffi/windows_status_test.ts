import { assert, assertEquals } from "@std/assert";
import { isError, isFailure, resultOf, STATUS } from "../../ffi/windows_abi.ts";

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
