/**
 * What layers call requests, and what their options have in common.
 *
 * @module
 */

import type { Ratio } from "../random.ts";
import { operationName, RequestType } from "../request.ts";

/** What a request asks for, in words: those of errors and traces. */
export type DiskOperation =
  | "read"
  | "write"
  | "flush"
  | "get id"
  | "discard"
  | "write zeroes"
  | "secure erase";

/** Every operation. */
export const OPERATIONS: readonly DiskOperation[] = Object.values(RequestType)
  .map((type) => operationName(type) as DiskOperation);

/**
 * The request type for an operation.
 *
 * @param operation Its name.
 * @returns The type, or `undefined` if there is none of that name.
 */
export function typeOfOperation(operation: string): RequestType | undefined {
  return Object.values(RequestType).find((type) =>
    operationName(type) === operation
  );
}

/**
 * Checks a ratio.
 *
 * @param ratio The ratio.
 * @throws {RangeError} If it is no ratio of integers from 0 to 1.
 */
export function checkRatio(ratio: Ratio): void {
  const { numerator, denominator } = ratio;
  if (
    Number.isInteger(numerator) && Number.isInteger(denominator) &&
    numerator >= 0 && denominator >= 1 && denominator <= 2 ** 32 &&
    numerator <= denominator
  ) return;
  throw new RangeError(
    `Cannot use a ratio as it must be two integers, 0 ≤ numerator ≤ denominator and 1 ≤ denominator ≤ 2^32: current value is ${numerator}/${denominator}`,
  );
}
