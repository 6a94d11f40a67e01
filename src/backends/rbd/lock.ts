/**
 * The exclusive lock of an image. librbd takes it by itself when something is
 * first written, and gives it away to whoever asks: two writers would take turns.
 * So here it is taken when the disk is opened, and kept; who holds it already is
 * not asked for it.
 *
 * @module
 */

import { RBD_FEATURE, type RbdImage } from "../../../ffi/rbd.ts";
import { DiskError } from "../../errors.ts";
import type { LockInfo } from "../../info.ts";
import { codeOf, librarySays, openError } from "./errors.ts";

/** Without the feature, there is none. */
const NO_FEATURE =
  "the image has no exclusive lock: `rbd feature enable POOL/IMAGE exclusive-lock` gives it one";

/**
 * Takes the exclusive lock of an image.
 *
 * @param image The image.
 * @param uri What it is called.
 * @returns How it is locked now.
 * @throws {DiskError} If somebody else has it, of kind `locked`, or as the
 * cluster says.
 */
export async function lockImage(
  image: RbdImage,
  uri: string,
): Promise<LockInfo> {
  const features = await image.features();
  if (features < 0) throw openError(uri, librarySays(features), features);
  if ((features & RBD_FEATURE.EXCLUSIVE_LOCK) === 0) {
    return { method: "none", reason: NO_FEATURE };
  }
  const owner = await image.lockOwner();
  if (typeof owner === "number") {
    if (codeOf(owner) === "EBUSY") {
      throw lockedError(uri, "somebody has locked it (`rbd lock ls` says who)");
    }
    throw openError(uri, librarySays(owner), owner);
  }
  if (owner !== null && await isThere(image, owner)) {
    throw lockedError(uri, `the client at ${owner} holds its exclusive lock`);
  }
  // That of a client that is gone is broken by librbd, which shuts it out.
  const result = await image.lock();
  if (result >= 0) return { method: "exclusive-lock", reason: null };
  if (["EROFS", "EBUSY", "EAGAIN"].includes(codeOf(result))) {
    throw lockedError(uri, "another client holds its exclusive lock");
  }
  throw openError(uri, librarySays(result), result);
}

/** Whether a client has the image open, as far as the cluster knows. */
async function isThere(image: RbdImage, address: string): Promise<boolean> {
  const watchers = await image.watchers();
  return typeof watchers === "number" || watchers.includes(address);
}

function lockedError(uri: string, reason: string): DiskError {
  return new DiskError(
    "locked",
    `Cannot open "${uri}" as ${reason} (the cluster notices within 30 s when a client has gone): close it there, or open this one with lock: "none" or for reading`,
    { operation: "open", path: uri, code: "EBUSY" },
  );
}
