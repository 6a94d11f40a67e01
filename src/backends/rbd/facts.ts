/**
 * What a disk in a Ceph cluster is and what its flushes give, by what the cluster
 * says of itself: how often it keeps what is written, whether librbd has a cache,
 * and how it is.
 *
 * @module
 */

import type { RadosCluster } from "../../../ffi/rados.ts";
import type { RbdImage } from "../../../ffi/rbd.ts";
import type { BackendInfo, DurabilityInfo, LockInfo } from "../../info.ts";
import { plural } from "../../plural.ts";
import { printable } from "../../printable.ts";
import { settleAll } from "../../settle_all.ts";

/** The pool that has an image's content. */
export interface PoolFacts {
  /** Its name. */
  readonly name: string;
  /** Copies of each object, or its pieces in a pool with erasure coding. */
  readonly size: number;
  /** So many of them must be there for the pool to take requests. */
  readonly minSize: number;
  /** Whether it keeps copies; else erasure coding. */
  readonly isReplicated: boolean;
}

/** What is known of a cluster and an image's place in it. */
export interface ClusterFacts {
  /** `null` where this user may not ask for it. */
  readonly pool: PoolFacts | null;
  /** Such as `"HEALTH_OK"`; `null` where this user may not ask for it. */
  readonly health: string | null;
  /** What is wrong, in the cluster's words. */
  readonly problems: readonly string[];
  /** librbd's cache: its policy, or `null` if it is off. */
  readonly cache: string | null;
  /** Whether that answers a write before the cluster has it. */
  readonly isWriteBack: boolean;
  /** Whether writes end in a cache on this machine that outlives the program. */
  readonly isKeptHere: boolean;
}

/** What the cluster is asked of librbd's options. */
const CACHE = "rbd_cache";
const POLICY = "rbd_cache_policy";
/** Bytes that the cache may have and the cluster not; with 0 it writes through. */
const MAX_DIRTY = "rbd_cache_max_dirty";
/** `disabled`, or where this machine keeps what is not in the cluster yet. */
const PERSISTENT = "rbd_persistent_cache_mode";

/** Kinds of pools, `pg_pool_t::TYPE_` of Ceph's osd/osd_types.h. */
const TYPE_REPLICATED = 1;

/** The most problems that are told. */
const MOST_PROBLEMS = 3;

/**
 * Asks a cluster about itself. What it does not tell is not known; nothing fails
 * for it.
 *
 * @param cluster The cluster.
 * @param image The image.
 * @returns The facts.
 */
export async function askFacts(
  cluster: RadosCluster,
  image: RbdImage,
): Promise<ClusterFacts> {
  const asked = [
    askJson(cluster, "osd pool ls", { detail: "detail" }),
    askJson(cluster, "health", {}),
    image.options([CACHE, POLICY, MAX_DIRTY, PERSISTENT]),
  ] as const;
  // Whoever is told that one has failed closes what the others ask.
  await settleAll(asked);
  const [pools, health, options] = await Promise.all(asked);
  const values = typeof options === "number"
    ? new Map<string, string>()
    : options;
  const isCached = (values.get(CACHE) ?? cluster.get(CACHE)) === "true";
  const policy = values.get(POLICY) ?? cluster.get(POLICY) ?? "on";
  const maxDirty = values.get(MAX_DIRTY) ?? cluster.get(MAX_DIRTY);
  const kept = values.get(PERSISTENT) ?? cluster.get(PERSISTENT) ?? "disabled";
  const said = member(health, "status");
  const status = typeof said === "string" ? printable(said) : null;
  return {
    pool: poolOf(pools, image.dataPool),
    health: status,
    problems: status === "HEALTH_OK" ? [] : problemsOf(health),
    cache: isCached ? policy : null,
    isWriteBack: policy !== "writethrough" && maxDirty !== "0",
    isKeptHere: kept !== "disabled" && kept !== "",
  };
}

/** A member of what came over a wire; `undefined` if there is none. */
function member(value: unknown, name: string): unknown {
  return typeof value === "object" && value !== null
    ? (value as Record<string, unknown>)[name]
    : undefined;
}

async function askJson(
  cluster: RadosCluster,
  prefix: string,
  more: Record<string, string>,
): Promise<unknown> {
  const { result, output } = await cluster.ask({
    prefix,
    ...more,
    format: "json",
  });
  if (result < 0) return null;
  try {
    return JSON.parse(output);
  } catch {
    return null;
  }
}

function poolOf(pools: unknown, id: number): PoolFacts | null {
  if (!Array.isArray(pools)) return null;
  const found: unknown = pools.find((one) => member(one, "pool_id") === id);
  const name = member(found, "pool_name");
  const size = member(found, "size");
  const minSize = member(found, "min_size");
  if (
    typeof name !== "string" || typeof size !== "number" ||
    typeof minSize !== "number"
  ) return null;
  const isReplicated = member(found, "type") === TYPE_REPLICATED;
  return { name: printable(name), size, minSize, isReplicated };
}

function problemsOf(health: unknown): string[] {
  const texts: string[] = [];
  for (const check of Object.values(member(health, "checks") ?? {})) {
    const text = member(member(check, "summary"), "message");
    if (typeof text === "string") texts.push(printable(text.slice(0, 120)));
  }
  const more = texts.length - MOST_PROBLEMS;
  return more > 0
    ? [...texts.slice(0, MOST_PROBLEMS), `${plural(more, "more problem")}`]
    : texts;
}

/** What there is to say of a disk. */
export interface DescribedImage {
  readonly uri: string;
  readonly id: string;
  readonly lock: LockInfo;
  readonly facts: ClusterFacts;
  readonly warnings: readonly string[];
}

/**
 * Tells what a disk in a Ceph cluster is and why.
 *
 * @param image What there is to say of it.
 * @returns What is known.
 */
export function describe(image: DescribedImage): BackendInfo {
  const { uri, id, lock, facts, warnings } = image;
  const health = facts.health === null || facts.health === "HEALTH_OK" ? [] : [
    `the cluster said ${facts.health} when the disk was opened: ${
      facts.problems.join("; ")
    }`,
  ];
  return {
    backend: "rbd",
    path: uri,
    medium: "network",
    fileSystem: facts.pool === null ? null : `Ceph pool ${facts.pool.name}`,
    engine: { name: "librbd", reason: null },
    direct: {
      active: false,
      method: null,
      reason: "there is no file: librbd sends requests to the cluster",
      memoryAlignment: 1,
      offsetAlignment: 1,
      readOffsetAlignment: 1,
      alignmentSource: "none",
    },
    durability: durabilityOf(facts),
    lock,
    warnings: [...health, ...warnings],
    id,
  };
}

function durabilityOf(
  { pool, cache, isWriteBack, isKeptHere }: ClusterFacts,
): DurabilityInfo {
  const reasons: string[] = [];
  if (pool === null) {
    reasons.push("this user may not ask how often the pool keeps what it has");
  } else if (!pool.isReplicated) {
    reasons.push(
      `the pool ${pool.name} keeps ${
        plural(pool.size, "piece")
      } of each object (erasure coding), and takes requests while ${pool.minSize} are there`,
    );
  } else if (pool.size === 1) {
    reasons.push(
      `the pool ${pool.name} keeps one replica: what it has is lost with that`,
    );
  } else {
    reasons.push(
      `the pool ${pool.name} keeps ${
        plural(pool.size, "replica")
      } of each object, and takes requests while ${pool.minSize} are there`,
    );
  }
  if (cache !== null) {
    reasons.push(
      `librbd's cache is on (${cache}): ${
        isWriteBack
          ? "a write may be over before the cluster has it, and a flush brings it there"
          : "a write is over once the cluster has it"
      }`,
    );
  }
  if (isKeptHere) {
    reasons.push(
      "librbd's persistent cache is on: a flush reaches a log on this machine, and the cluster later",
    );
  }
  return {
    // An OSD answers a write once all that are up in its placement group have it
    // on their media (Ceph's architecture guide, "Peering and Sets").
    flush: pool === null || isKeptHere ? "unknown" : "media",
    method: "rbd_aio_flush",
    deviceCache: isKeptHere
      ? "librbd's, persistent, on this machine"
      : cache === null
      ? "none"
      : `librbd's, ${cache}`,
    fua: "write + rbd_aio_flush",
    reason: reasons.join("; "),
  };
}
