/**
 * Opens a disk behind an NBD server.
 *
 * @module
 */

import { parseNbdUri } from "../../protocol/nbd/uri.ts";
import { NbdBackend } from "./backend.ts";
import { connectNbd } from "./connect.ts";
import { DEFAULT_OPEN_TIMEOUT_MS, type NbdOptions } from "./options.ts";

export {
  DEFAULT_CLOSE_TIMEOUT_MS,
  DEFAULT_OPEN_TIMEOUT_MS,
} from "./options.ts";

/**
 * Opens a disk behind an NBD server.
 *
 * @param uri `nbd://host[:port]/[export]`, `nbds://` (with TLS) or
 * `nbd+unix:///[export]?socket=PATH`.
 * @param options How to open it.
 * @returns Its backend.
 * @throws {DiskError} If the server cannot be reached, or has no such disk, or
 * does not say so in time.
 * @throws {TypeError} If the URI cannot be read.
 */
export async function openNbd(
  uri: string,
  options: NbdOptions,
): Promise<NbdBackend> {
  const target = parseNbdUri(uri);
  const id = options.id ??
    (target.exportName.replace(/[^\x20-\x7e]/g, "_").slice(0, 20) || "nbd");
  return await connectNbd(
    target,
    uri,
    {
      timeoutMs: options.openTimeoutMs ?? DEFAULT_OPEN_TIMEOUT_MS,
      ...(options.signal === undefined ? {} : { signal: options.signal }),
    },
    (stream, negotiated) =>
      new NbdBackend(stream, negotiated, uri, id, options),
  );
}
