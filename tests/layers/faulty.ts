/**
 * What tests of disks that go wrong share.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import type { Backend } from "../../src/backend.ts";
import { DiskError } from "../../src/errors.ts";
import { readRequest } from "../../src/request.ts";
import { readSectors, submitAll } from "../contract.ts";

/** Memory for sectors that all have the same byte. */
export const sector = (value: number, count = 1) =>
  new Uint8Array(count * 512).fill(value);

/** The first byte of each sector. */
export async function values(backend: Backend, at: number, count: number) {
  const data = await readSectors(backend, at, count);
  return Array.from({ length: count }, (_, i) => data[i * 512]!);
}

/** Carries out a request that must fail with an error number. */
export async function assertFails(
  backend: Backend,
  request: Parameters<typeof submitAll>[1][0],
  code = "EIO",
): Promise<DiskError> {
  const [error] = await submitAll(backend, [request]);
  assert(error instanceof DiskError, "it must fail");
  assertEquals(error.code, code);
  return error;
}

/** A read whose data nobody looks at. */
export const read = (at: number, count = 1) =>
  readRequest(at, sector(0, count));

/** Bits that are set. */
export function bitsIn(bytes: Uint8Array): number {
  let bits = 0;
  for (const byte of bytes) {
    for (let rest = byte; rest > 0; rest >>= 1) bits += rest & 1;
  }
  return bits;
}
