/**
 * The error of a request that fails on purpose.
 *
 * @module
 */

import { describePlace, DiskError, kindOfCode } from "../errors.ts";
import { operationName, type Request, RequestType } from "../request.ts";
import { errnoOf } from "./fault_rule.ts";

/**
 * Makes the error.
 *
 * @param request What fails.
 * @param code The error number's name.
 * @param reason Why, as what follows "as" in a sentence.
 * @param path Where the disk is, if it is somewhere.
 * @returns The error.
 */
export function faultError(
  request: Request,
  code: string,
  reason: string,
  path: string | undefined,
): DiskError {
  const { type, sector, count } = request;
  const operation = operationName(type);
  const placed = type !== RequestType.Flush && type !== RequestType.GetId;
  const place = placed
    ? describePlace(operation, sector, count, path)
    : describePlace(operation, undefined, undefined, path);
  const errno = errnoOf(code);
  return new DiskError(
    kindOfCode(code),
    `Cannot ${place} as ${reason} (${code})`,
    {
      operation,
      code,
      ...(errno === undefined ? {} : { errno }),
      ...(path === undefined ? {} : { path }),
      ...(placed ? { sector, count } : {}),
    },
  );
}
