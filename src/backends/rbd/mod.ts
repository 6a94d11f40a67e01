/**
 * Opens a disk that is an image in a Ceph cluster.
 *
 * @module
 */

import { RBD_FEATURE, type RbdImage } from "../../../ffi/rbd.ts";
import { parseRbdUri, type RbdTarget } from "../../protocol/rbd/uri.ts";
import { printable } from "../../printable.ts";
import { makeGeometry, SECTOR_BYTES } from "../../geometry.ts";
import { DiskError } from "../../errors.ts";
import type { LockInfo } from "../../info.ts";
import { RbdBackend } from "./backend.ts";
import { librarySays, openError } from "./errors.ts";
import { askFacts, describe } from "./facts.ts";
import { lockImage } from "./lock.ts";
import { readObjectMap } from "./object_map.ts";
import { DEFAULT_REQUEST_TIMEOUT_MS, type RbdOptions } from "./options.ts";
import {
  bounded,
  type Libraries,
  loadLibraries,
  openSession,
  type Session,
  type Steps,
} from "./session.ts";

/** What an image without a watch cannot promise. */
const UNSEEN =
  "the key of this user may only read: nobody is kept from resizing or removing the image meanwhile";

/** The same of a snapshot, which is then read as zeroes without an error. */
const UNSEEN_SNAPSHOT =
  "the key of this user may only read: if others remove the snapshot or the image meanwhile, it reads as zeroes";

/** What a watch does not prevent. */
const UNPROTECTED =
  "the snapshot is not protected: others may remove it meanwhile, and what is read just then may be zeroes (`rbd snap protect` prevents it)";

/**
 * Opens a disk that is an image in a Ceph cluster, or makes it first.
 *
 * @param uri `rbd:POOL/[NAMESPACE/]IMAGE[@SNAPSHOT][?conf=PATH&id=USER&cluster=NAME]`.
 * @param options How to open it.
 * @param load Opens the libraries.
 * @returns Its backend.
 * @throws {DiskError} If it cannot be opened, or not in time.
 * @throws {TypeError} If the name cannot be read, or no image can be made of it.
 */
export async function openRbd(
  uri: string,
  options: RbdOptions,
  load: (uri: string) => Libraries = loadLibraries,
): Promise<RbdBackend> {
  const target = parseRbdUri(uri);
  if (target.snapshot !== null && options.create !== undefined) {
    throw new DiskError(
      "platform",
      `Cannot create "${uri}" as a snapshot is made of an image: "rbd snap create" does`,
      { operation: "create", path: uri },
    );
  }
  const { image } = target;
  if (options.create !== undefined && /[@/]/.test(image)) {
    throw new TypeError(
      `Cannot create a Ceph image as its name must have no @ and no / in it, which Ceph's own tools do not find: current value is ${
        printable(`"${image}"`)
      }`,
    );
  }
  return await bounded(
    async (steps) => {
      const session = await openSession(target, uri, options, load);
      try {
        return await openOn(session, target, uri, options, steps);
      } catch (error) {
        await session.abandon();
        throw error;
      }
    },
    uri,
    options,
  );
}

async function openOn(
  session: Session,
  target: RbdTarget,
  uri: string,
  options: RbdOptions,
  steps: Steps,
): Promise<RbdBackend> {
  const { cluster, image } = session;
  steps.goOn();
  const readOnly = options.readOnly || target.snapshot !== null;
  if (!session.isSeen && !readOnly) {
    throw openError(uri, "the key of this user may only read it", -1);
  }
  if (!readOnly) await refuseMirrored(image, uri);
  const lock = await lockFor(session, target, uri, { ...options, readOnly });
  const sizes = await image.sizes();
  if (typeof sizes === "number") {
    throw openError(uri, librarySays(sizes), sizes);
  }
  const geometry = geometryOf(sizes, uri, options.blockSize);
  const facts = await askFacts(cluster, image);
  const { snapshot } = target;
  // Nobody else writes to it.
  const isOurs = snapshot !== null || lock.method !== "none";
  const { objectSize } = sizes;
  const { pool } = session;
  const place = await placeOf(image, snapshot);
  const objectMap = place === null || !isOurs
    ? null
    : await readObjectMap({ cluster, pool, image, ...place, objectSize });
  const id = options.id ??
    (target.image.replace(/[^\x20-\x7e]/g, "_").slice(0, 20) || "rbd");
  const warnings = await warningsOf(session, snapshot);
  // From here on it is requests that have a bound.
  session.bound(null);
  const look = place === null
    ? null
    : cluster.lookFor(pool, `rbd_header.${place.id}`, place.snapshot);
  try {
    steps.goOn();
    const backend = new RbdBackend({
      session,
      geometry,
      info: describe({ uri: printable(uri), id, lock, facts, warnings }),
      uri,
      readOnly,
      isFixed: snapshot !== null,
      objectMap,
      look,
      openTimeoutMs: options.openTimeoutMs,
      requestTimeoutMs: options.requestTimeoutMs ?? DEFAULT_REQUEST_TIMEOUT_MS,
      closeTimeoutMs: options.closeTimeoutMs,
    });
    steps.arrived();
    return backend;
  } catch (error) {
    look?.release();
    throw error;
  }
}

/** The numbers of an image and of its snapshot; `null` if they are not known. */
async function placeOf(
  image: RbdImage,
  name: string | null,
): Promise<{ id: string; snapshot: number | null } | null> {
  const id = await image.id();
  if (typeof id === "number") return null;
  const snapshot = name === null ? null : await image.snapshotId(name);
  return snapshot !== null && snapshot < 0 ? null : { id, snapshot };
}

/** The cluster that an image is mirrored from has the only writer. */
async function refuseMirrored(image: RbdImage, uri: string): Promise<void> {
  const features = await image.features();
  if (features < 0 || (features & RBD_FEATURE.NON_PRIMARY) === 0) return;
  throw new DiskError(
    "read-only",
    `Cannot open "${uri}" for writing as it is the mirror of an image of another cluster: open it for reading, or promote it (\`rbd mirror image promote\`)`,
    { operation: "open", path: uri, code: "EROFS" },
  );
}

async function warningsOf(
  { isSeen, image }: Session,
  snapshot: string | null,
): Promise<string[]> {
  if (snapshot === null) return isSeen ? [] : [UNSEEN];
  // One that is protected cannot be removed, nor can its image.
  if (await image.snapshotIsProtected(snapshot) > 0) return [];
  return [isSeen ? UNPROTECTED : UNSEEN_SNAPSHOT];
}

async function lockFor(
  session: Session,
  { snapshot }: RbdTarget,
  uri: string,
  { lock, readOnly }: RbdOptions,
): Promise<LockInfo> {
  if (snapshot !== null) {
    return { method: "none", reason: "a snapshot does not change" };
  }
  if (lock === "none") {
    return { method: "none", reason: 'not wanted: lock: "none"' };
  }
  if (readOnly && lock === "auto") {
    return {
      method: "none",
      reason: "it is open for reading, maybe beside a writer",
    };
  }
  return session.isSeen
    ? await lockImage(session.image, uri)
    : { method: "none", reason: "the key of this user may only read" };
}

function geometryOf(
  { size, objectSize }: { size: number; objectSize: number },
  uri: string,
  blockSize: number = SECTOR_BYTES,
) {
  const reason = !Number.isSafeInteger(size)
    ? "it must be smaller than 8 PiB"
    : size % blockSize !== 0
    ? `it must be whole blocks of ${blockSize} bytes`
    : null;
  if (reason !== null) {
    throw new DiskError(
      "geometry",
      `Cannot open "${uri}" as ${reason}: current value is ${size} bytes`,
      { operation: "open", path: uri },
    );
  }
  return makeGeometry(size / SECTOR_BYTES, blockSize, {
    optimalIoSize: objectSize,
  });
}
