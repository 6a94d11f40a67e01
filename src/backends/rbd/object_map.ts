/**
 * Which objects of an image there are: what there is not reads as zeroes. librbd
 * could say (rbd_diff_iterate2), but asks the cluster for it in a call that waits,
 * and a question for extents must not. So the map that librbd keeps beside the
 * image is read when the disk is opened, and what is written from then on is added
 * to it. That is all that can change while nobody else can write: with the
 * exclusive lock, or in a snapshot.
 *
 * The map is an object "rbd_object_map.ID", with a dot and the number of a snapshot
 * in 16 hexadecimal digits behind it for that (Ceph's librbd/ObjectMap.cc). It is a
 * `BitVector<2>` (common/bit_vector.hpp): u32 length of the header; in it u8
 * version, u8 oldest version, u32 length, u64 objects; then two bits for each
 * object, the first ones in the upper bits of a byte.
 *
 * @module
 */

import type { RadosCluster } from "../../../ffi/rados.ts";
import {
  RBD_FEATURE,
  RBD_FLAG_OBJECT_MAP_INVALID,
  type RbdImage,
} from "../../../ffi/rbd.ts";
import { type Extent, MAX_EXTENTS } from "../../backend.ts";
import { SECTOR_BYTES } from "../../geometry.ts";

/** Where the length, the number of objects and the header's end are. */
const HEADER_LENGTH = 14;
const OBJECTS_AT = 10;
const BITS_AT = 18;

/** include/rbd_types.h: OBJECT_NONEXISTENT; all others mean that there is one. */
const NONEXISTENT = 0;

/** The most bytes of a map that are read: that of an image of 256 TiB. */
const MOST_BYTES = 16_777_216;

/** Which objects there are. */
export class ObjectMap {
  /** 1 for each object that there is, or may be. */
  readonly #there: Uint8Array;
  readonly #objectSectors: number;

  /**
   * Constructs a new instance.
   *
   * @param there 1 for each object that there is.
   * @param objectSectors Sectors of an object.
   */
  constructor(there: Uint8Array, objectSectors: number) {
    this.#there = there;
    this.#objectSectors = objectSectors;
  }

  /** Hears that sectors are to be written. */
  touch(sector: number, count: number): void {
    const size = this.#objectSectors;
    const first = Math.floor(sector / size);
    this.#there.fill(1, first, Math.floor((sector + count - 1) / size) + 1);
  }

  /**
   * Where objects are.
   *
   * @param sector First sector.
   * @param count Sectors.
   * @returns Extents, as `Backend.extents` wants them.
   */
  extents(sector: number, count: number): Extent[] {
    const size = this.#objectSectors;
    const end = sector + count;
    const found: Extent[] = [];
    for (let at = sector; at < end && found.length < MAX_EXTENTS;) {
      let object = Math.floor(at / size);
      const hole = this.#isHole(object);
      do object++; while (object * size < end && this.#isHole(object) === hole);
      const next = Math.min(object * size, end);
      found.push({ sector: at, count: next - at, hole });
      at = next;
    }
    return found;
  }

  /** What the map does not know is there. */
  #isHole(object: number): boolean {
    return this.#there[object] === 0;
  }
}

/** Where a map is looked for. */
export interface MapPlace {
  readonly cluster: RadosCluster;
  readonly pool: bigint;
  readonly image: RbdImage;
  /** The image's number, as `RbdImage.id` gives it. */
  readonly id: string;
  /** The number of the snapshot that is open; `null` for the image. */
  readonly snapshot: number | null;
  /** Bytes of an object. */
  readonly objectSize: number;
}

/**
 * Reads the map of an image that nobody else writes to.
 *
 * @param place Where it is.
 * @returns The map; `null` if there is none that can be trusted: the image is a
 * clone or in stripes, or its map is said to be invalid.
 */
export async function readObjectMap(
  place: MapPlace,
): Promise<ObjectMap | null> {
  const { cluster, pool, image, id, snapshot, objectSize } = place;
  const features = await image.features();
  const flags = await image.flags();
  if (
    features < 0 || (features & RBD_FEATURE.OBJECT_MAP) === 0 ||
    flags < 0 || (flags & RBD_FLAG_OBJECT_MAP_INVALID) !== 0 ||
    await image.overlap() !== 0 || await image.stripes() !== 1
  ) return null;
  const name = `rbd_object_map.${id}` +
    (snapshot === null ? "" : `.${snapshot.toString(16).padStart(16, "0")}`);
  const bytes = await cluster.read(pool, name, MOST_BYTES);
  const there = typeof bytes === "number" ? null : decodeObjectMap(bytes);
  return there === null
    ? null
    : new ObjectMap(there, objectSize / SECTOR_BYTES);
}

/**
 * Reads a map.
 *
 * @param bytes The object's content.
 * @returns 1 for each object that there is; `null` if it is none, or not whole.
 */
export function decodeObjectMap(bytes: Uint8Array): Uint8Array | null {
  if (bytes.length < BITS_AT) return null;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const objects = Number(view.getBigUint64(OBJECTS_AT, true));
  if (
    view.getUint32(0, true) !== HEADER_LENGTH ||
    objects > (bytes.length - BITS_AT) * 4
  ) return null;
  const there = new Uint8Array(objects);
  for (let i = 0; i < objects; i++) {
    const state = bytes[BITS_AT + (i >> 2)]! >> (6 - (i & 3) * 2) & 3;
    there[i] = state === NONEXISTENT ? 0 : 1;
  }
  return there;
}
