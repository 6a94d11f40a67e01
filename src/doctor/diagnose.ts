/**
 * Finds out what this machine, this runtime, its permissions and a file system
 * give, by trials on a scratch file there. What is known of disks is asked of
 * `disk.info`, which knows it already; what it claims is tried out here. One
 * lack ends nothing: it is a finding, and the rest is still looked at.
 *
 * @module
 */

import { availableParallelism, release } from "node:os";
import process from "node:process";
import config from "../../deno.json" with { type: "json" };
import { VirtualDisk } from "../disk/disk.ts";
import { DiskError } from "../errors.ts";
import { isGranted, permissions } from "../platform/permissions.ts";
import { arch, os, runtime, runtimeName } from "../platform/system.ts";
import type { Diagnosis, Finding, GrantedPermissions } from "./diagnosis.ts";
import { finding, judge, type Seen, type Trial } from "./findings.ts";
import { lackOf, makeScratch, type Place, placeOf } from "./place.ts";
import { findTools } from "./tools.ts";
import {
  countFlushes,
  discardReads,
  locksOut,
  makeScratchDisk,
  whyNoSocket,
  whyNot,
  zeroesRead,
} from "./trials.ts";

/** How to diagnose. */
export interface DiagnoseOptions {
  /** Gives it up; what was made is removed. */
  signal?: AbortSignal | undefined;
}

/**
 * Finds out what this machine, this runtime, its permissions and the file system
 * of a path give: which engine, whether direct I/O, what a flush reaches, and
 * for each lack what would mend it. It makes a scratch file of 2 MiB in that
 * folder, and removes it; what is there is not touched. Nobody is prompted for a
 * permission: what may not be asked is not known. It takes less than a second on
 * most disks, and another one where User Mode Linux is installed: with all
 * permissions that is started, as it does not run on every machine.
 *
 * @param path A folder; an image, for the folder that it is in; or a device,
 * which is only looked at.
 * @param options How.
 * @returns What was found.
 * @throws {DiskError} If there is nothing at that path (`not-found`), or nothing
 * that could be a place of disks (`geometry`).
 * @throws {TypeError} If it is no path.
 *
 * @example What a flush is worth where images are to be
 * ```ts
 * import { diagnose } from "@platter/disk/doctor";
 * import { assert } from "@std/assert";
 *
 * const folder = await Deno.makeTempDir();
 * const { findings } = await diagnose(folder);
 * assert(findings.flush !== undefined, findings.scratch?.reason ?? "");
 * if (findings.flush.verdict !== "good") console.warn(findings.flush.remedy);
 * ```
 */
export async function diagnose(
  path: string | URL = ".",
  options: DiagnoseOptions = {},
): Promise<Diagnosis> {
  const { signal } = options;
  signal?.throwIfAborted();
  const place = placeOf(path);
  const looked = await lookAround(place, signal);
  signal?.throwIfAborted();
  return {
    form: 1,
    platter: config.version,
    runtime: {
      name: runtimeName,
      version: process.versions[runtime] ?? "unknown",
      os,
      arch,
      kernel: isGranted({ name: "sys", kind: "osRelease" }) ? release() : null,
      processors: availableParallelism(),
    },
    permissions: grantedPermissions(),
    path: place.path,
    of: looked.of,
    disk: looked.seen?.info ?? null,
    findings: {
      scratch: looked.scratch,
      ...(looked.seen === null ? {} : judge(looked.seen)),
      tcp: looked.tcp,
      ...(looked.unix === null ? {} : { unix: looked.unix }),
    },
    tools: await findTools(signal),
  };
}

/** What was seen of a place. */
interface Looked {
  readonly of: Diagnosis["of"];
  readonly seen: Seen | null;
  readonly scratch: Finding;
  readonly tcp: Finding;
  readonly unix: Finding | null;
}

async function lookAround(
  place: Place,
  signal: AbortSignal | undefined,
): Promise<Looked> {
  const { folder, isImage, path } = place;
  const tcp = await socketFinding();
  let lack = place.lack;
  if (folder !== null) {
    try {
      using scratch = makeScratch(folder);
      const image = scratch.of("disk.img");
      await makeScratchDisk(image, signal);
      const seen = await seeScratch(image, signal);
      const unix = await socketFinding(scratch.of("socket"));
      const made = finding("good", `2 MiB in ${folder}`, "trial");
      return { of: "scratch file", seen, scratch: made, tcp, unix };
    } catch (error) {
      if (!(error instanceof DiskError)) throw error;
      lack = lackOf(error, folder);
    }
  }
  const without = (seen: Seen | null, reason: string): Looked => ({
    of: seen === null ? null : "image",
    seen,
    scratch: finding("missing", "none", null, reason, lack!.remedy),
    tcp,
    unix: null,
  });
  if (!isImage) return without(null, lack!.reason);
  try {
    return without(await seeImage(path), lack!.reason);
  } catch (error) {
    if (!(error instanceof DiskError)) throw error;
    return without(null, `${lack!.reason}; ${error.message}`);
  }
}

/** Opens the scratch disk again, as with data on it a host can be asked more. */
async function seeScratch(
  path: string,
  signal: AbortSignal | undefined,
): Promise<Seen> {
  await using disk = await VirtualDisk.open(path, { signal });
  const trials = {
    locksOut: await tryOut(() => locksOut(path)),
    flushes: await tryOut(() => countFlushes(disk, path)),
    durableWrites: await tryOut(() => countFlushes(disk, path, true)),
    zeroesRead: await tryOut(() => zeroesRead(disk, path)),
    discardReads: disk.info.abilities.discard === "none"
      ? undefined
      : await tryOut(() => discardReads(disk, path)),
  };
  signal?.throwIfAborted();
  return { ...await seeDisk(path, disk), tried: trials };
}

/** Carries out a trial: what it fails with is what it finds. */
async function tryOut<T>(trial: () => Promise<T>): Promise<Trial<T>> {
  try {
    return await trial();
  } catch (error) {
    // No space is a lack of the place, and not of what was tried.
    if (!(error instanceof DiskError) || error.kind === "no-space") throw error;
    return { fault: error.message };
  }
}

/** Looks at what is there. */
async function seeImage(path: string): Promise<Seen> {
  await using disk = await VirtualDisk.open(path, {
    readOnly: true,
    lock: "none",
    format: "raw",
  });
  return { ...await seeDisk(path, disk), tried: null };
}

async function seeDisk(
  path: string,
  { info }: VirtualDisk,
): Promise<Omit<Seen, "tried">> {
  if (info.backend !== "direct") {
    const whyPortable = isGranted({ name: "ffi" })
      ? await whyNot(path, "auto") ?? "the direct backend is not taken here"
      : "FFI is not allowed here";
    return { info, whyPortable, lacks: [] };
  }
  const lacks: { engine: string; why: string }[] = [];
  // Elsewhere there is one engine, and no better one.
  const better = os === "linux" ? ["io_uring", "libaio"] as const : [];
  for (const engine of better) {
    const why = await whyNot(path, engine);
    if (why === null) break;
    lacks.push({ engine, why });
  }
  return { info, whyPortable: null, lacks };
}

/** Whether sockets are to be had: Unix ones at a path, or TCP. */
async function socketFinding(at?: string): Promise<Finding> {
  // Deno counts Unix sockets among the network, by no name of theirs.
  const descriptor: Deno.NetPermissionDescriptor = at === undefined
    ? { name: "net", host: "127.0.0.1" }
    : { name: "net" };
  if (!isGranted(descriptor)) {
    return finding(
      "unknown",
      "not tried",
      null,
      `${runtimeName} may not use the network`,
      at === undefined && runtime === "deno"
        ? "--allow-net=127.0.0.1"
        : "--allow-net",
    );
  }
  const reason = await whyNoSocket(at);
  return reason === null
    ? finding("good", "yes", "trial")
    : finding("missing", "no", "trial", reason);
}

function grantedPermissions(): GrantedPermissions {
  const state = (name: keyof GrantedPermissions): string => {
    const { state, partial } = permissions.querySync({ name });
    return partial ? "partial" : state;
  };
  return {
    read: state("read"),
    write: state("write"),
    ffi: state("ffi"),
    net: state("net"),
    run: state("run"),
    env: state("env"),
    sys: state("sys"),
  };
}
