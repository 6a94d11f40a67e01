/**
 * What a request fails with at a server.
 *
 * @module
 */

import { describePlace, DiskError } from "../../errors.ts";
import { operationName, type Request, RequestType } from "../../request.ts";

/**
 * Makes the error of a request.
 *
 * @param uri What the disk is called.
 * @param request The request.
 * @param kind What kind of error it is.
 * @param code Its name.
 * @param reason Why the request failed.
 * @param errno Its number, if it has one.
 * @returns The error.
 */
export function requestError(
  uri: string,
  request: Request,
  kind: DiskError["kind"],
  code: string,
  reason: string,
  errno?: number,
): DiskError {
  const operation = operationName(request.type);
  const placed = request.type !== RequestType.Flush;
  const { sector, count } = request;
  const place = placed
    ? describePlace(operation, sector, count, uri)
    : describePlace(operation, undefined, undefined, uri);
  return new DiskError(kind, `Cannot ${place} as ${reason}`, {
    operation,
    path: uri,
    code,
    ...(errno === undefined ? {} : { errno }),
    ...(placed ? { sector, count } : {}),
  });
}
