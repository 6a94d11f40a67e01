import {
  assert,
  assertEquals,
  assertFalse,
  assertStrictEquals,
} from "@std/assert";
import { requestError } from "../src/request_error.ts";
import {
  discardRequest,
  flushRequest,
  operationName,
  readRequest,
  Request,
  RequestFlag,
  RequestType,
  Status,
  writeFuaRequest,
  writeRequest,
  writeZeroesRequest,
} from "../src/request.ts";

// OASIS virtio 1.3, 5.2.6 and the C names of Linux' virtio_blk.h.
Deno.test("RequestType, RequestFlag and Status have virtio-blk's numbers", () => {
  assertEquals(RequestType, {
    In: 0,
    Out: 1,
    Flush: 4,
    GetId: 8,
    Discard: 11,
    WriteZeroes: 13,
    SecureErase: 14,
  });
  assertEquals(Status, { Ok: 0, IoErr: 1, Unsupp: 2 });
  assertEquals(RequestFlag.Fua & RequestFlag.Unmap, 0);
});

Deno.test("readRequest() and its siblings count the sectors of their memory", () => {
  const first = new Uint8Array(512);
  const second = new Uint8Array(1024);
  for (const make of [readRequest, writeRequest, writeFuaRequest]) {
    const request = make(7, first, second);
    assertEquals([request.sector, request.count], [7, 3]);
    assertEquals(request.segmentCount, 2);
    assertStrictEquals(request.segment(0), first);
    assertStrictEquals(request.segment(1), second);
    assertEquals(request.status, undefined);
    assertEquals(request.owner, null);
    assertEquals(make(0, first).segmentCount, 1);
    assertEquals(make(0).segmentCount, 0);
    assertEquals(make(0, new Uint8Array(100)).count, 100 / 512);
  }
  assert(writeFuaRequest(0, first).fua);
  assertFalse(writeRequest(0, first).fua);
});

Deno.test("Request.writes tells what changes the disk", () => {
  assert(writeRequest(0).writes);
  assert(discardRequest(0, 1).writes);
  assert(writeZeroesRequest(0, 1).writes);
  assert(new Request(RequestType.SecureErase, 0, 1).writes);
  assertFalse(readRequest(0).writes);
  assertFalse(flushRequest().writes);
  assertFalse(new Request(RequestType.GetId, 0, 0).writes);
});

Deno.test("writeZeroesRequest() takes flags", () => {
  assertEquals(writeZeroesRequest(1, 2).flags, 0);
  assertEquals(writeZeroesRequest(1, 2, RequestFlag.Unmap).flags, 2);
});

Deno.test("operationName() has a verb for every type", () => {
  const names = Object.values(RequestType).map(operationName);
  assertEquals(names, [
    "read",
    "write",
    "flush",
    "get id",
    "discard",
    "write zeroes",
    "secure erase",
  ]);
});

Deno.test("Request.error makes an error once, and only for who looks", () => {
  let made = 0;
  const request = readRequest(8, new Uint8Array(512));
  request.error = () => {
    made++;
    return requestError("aborted", request, "it was aborted");
  };
  assertEquals(made, 0);
  const error = request.error;
  assertEquals([error?.kind, error?.sector], ["aborted", 8]);
  assertStrictEquals(request.error, error);
  assertEquals(made, 1);
  request.error = null;
  assertEquals(request.error, null);
});
