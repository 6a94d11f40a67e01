/**
 * What is made of what was seen: a verdict on each thing, by whose word, and
 * what would mend it. Facts go in, words come out; nothing is asked here.
 *
 * @module
 */

import type { DiskInfo } from "../disk/disk.ts";
import { formatCount } from "../units.ts";
import type { Diagnosis, Finding, Verdict } from "./diagnosis.ts";
import { remedyOf } from "./remedies.ts";
import type { FlushCount } from "./trials.ts";

/** A trial that could not be carried out, or what it found. */
export type Trial<T> = T | Fault;

/** Why a trial could not be carried out. */
export interface Fault {
  /** What the disk said. */
  readonly fault: string;
}

/** What was seen of one disk. */
export interface Seen {
  /** What it says of itself. */
  readonly info: DiskInfo;
  /** Why it has not the direct backend; `null` if it has. */
  readonly whyPortable: string | null;
  /** Engines that are not to be had for it, and why. */
  readonly lacks: readonly { readonly engine: string; readonly why: string }[];
  /** What was tried on it; `null` if nothing may be. */
  readonly tried: {
    readonly locksOut: Trial<boolean>;
    readonly zeroesRead: Trial<boolean>;
    /** `undefined` if the disk does not discard. */
    readonly discardReads: Trial<"zeroes" | "data" | null> | undefined;
    readonly flushes: Trial<FlushCount>;
    readonly durableWrites: Trial<FlushCount>;
  } | null;
}

/**
 * Judges what was seen of a disk.
 *
 * @param seen What was seen.
 * @returns The findings.
 */
export function judge(seen: Seen): Diagnosis["findings"] {
  return {
    backend: backendOf(seen),
    engine: engineOf(seen),
    direct: directOf(seen),
    alignment: alignmentOf(seen),
    flush: flushOf(seen),
    fua: fuaOf(seen),
    ...(seen.tried === null
      ? {}
      : { lock: lockOf(seen, seen.tried.locksOut), zero: zeroOf(seen) }),
    discard: discardOf(seen),
  };
}

/**
 * Makes a finding.
 *
 * @param verdict The verdict.
 * @param answer What there is.
 * @param basis By whose word.
 * @param reason Why it is not better.
 * @param remedy What would mend it; by default what the reason names.
 * @returns The finding; what is good has no remedy.
 */
export function finding(
  verdict: Verdict,
  answer: string,
  basis: string | null,
  reason: string | null = null,
  remedy: string | null = remedyOf(reason),
): Finding {
  return {
    verdict,
    answer,
    basis,
    reason,
    remedy: verdict === "good" ? null : remedy,
  };
}

function isFault(trial: Trial<unknown> | undefined): trial is Fault {
  return typeof trial === "object" && trial !== null && "fault" in trial;
}

function backendOf({ info, whyPortable }: Seen): Finding {
  return whyPortable === null
    ? finding("good", info.backend, "trial")
    : finding("limited", info.backend, "trial", whyPortable);
}

function engineOf({ info, whyPortable, lacks }: Seen): Finding {
  const { name, reason } = info.engine;
  if (whyPortable !== null) {
    return finding("limited", name, "trial", reason, remedyOf(whyPortable));
  }
  const why = lacks.map(({ engine, why }) => `no ${engine}: ${why}`).join("; ");
  return why === ""
    ? finding("good", name, "trial", reason)
    // One that is not needed lacks all the same, on the next disk.
    : finding("limited", name, "trial", why);
}

function directOf({ info: { direct } }: Seen): Finding {
  const { active, method, reason, alignmentSource } = direct;
  return active
    ? finding(
      reason === null ? "good" : "limited",
      `yes, by ${method ?? "the backend"}`,
      alignmentSource,
      reason,
    )
    : finding("missing", "no", "disk.info", reason);
}

function alignmentOf({ info: { direct, blockSize } }: Seen): Finding {
  const { memoryAlignment, readOffsetAlignment, offsetAlignment } = direct;
  const answer =
    `memory ${memoryAlignment}, reads ${readOffsetAlignment}, writes ` +
    `${offsetAlignment} bytes`;
  if (offsetAlignment <= blockSize) {
    return finding("good", answer, direct.alignmentSource);
  }
  const bytes = formatCount(offsetAlignment);
  return finding(
    "limited",
    answer,
    direct.alignmentSource,
    `a write that is not whole pieces of ${bytes} bytes reads one first`,
    `--block-size ${offsetAlignment}, if the disk need not have sectors of 512`,
  );
}

function flushOf({ info: { durability }, tried }: Seen): Finding {
  const { flush, method, deviceCache, reason } = durability;
  const answer =
    `reaches ${flush}, by ${method} (device cache: ${deviceCache})`;
  const known = "known of the file system";
  if (isFault(tried?.flushes)) {
    return finding("wrong", answer, known, tried.flushes.fault);
  }
  if (flush !== "media") {
    return flush === "unknown"
      ? finding("unknown", answer, null, reason)
      : finding("limited", answer, known, reason);
  }
  const { made, counted } = tried?.flushes ?? { made: 0, counted: null };
  if (counted === null) return finding("good", answer, known, reason);
  if (counted >= made) {
    return finding("good", answer, countWords(made), reason);
  }
  // The kernel sends none to a device that has nothing to flush.
  if (deviceCache === "write through") {
    return finding("good", answer, "the device says that it has no cache");
  }
  return finding(
    "unknown",
    answer,
    known,
    `the device counted ${counted} of ${made} flushes: a file system that is mounted without barriers sends none, and some drivers do not count`,
    "mount without nobarrier or barrier=0",
  );
}

function countWords(made: number): string {
  return `trial: the device counted at least ${made} of ${made}`;
}

function fuaOf({ info: { abilities, durability }, tried }: Seen): Finding {
  const answer = `${abilities.fua}, by ${durability.fua}`;
  if (isFault(tried?.durableWrites)) {
    return finding("wrong", answer, "trial", tried.durableWrites.fault);
  }
  const { made, counted } = tried?.durableWrites ??
    { made: 0, counted: null };
  return finding(
    abilities.fua === "none" ? "missing" : "good",
    answer,
    counted !== null && made > 0 && counted >= made
      ? `${countWords(made)} as flushes`
      : "known of the file system",
  );
}

function lockOf(
  { info: { lock }, whyPortable }: Seen,
  locksOut: Trial<boolean>,
): Finding {
  const { method, reason } = lock;
  const remedy = remedyOf(whyPortable) ?? remedyOf(reason);
  const basis = "trial: a second writer";
  if (isFault(locksOut)) {
    return finding("wrong", method, basis, locksOut.fault);
  }
  if (method === "none") {
    return locksOut
      ? finding("limited", "within this program only", basis, reason, remedy)
      : finding("missing", "none", basis, reason, remedy);
  }
  if (!locksOut) {
    return finding("wrong", method, basis, "a second writer was not kept out");
  }
  return finding(
    reason === null ? "good" : "limited",
    method === "OFD" ? "OFD, as QEMU's tools have it" : method,
    basis,
    reason,
    remedy,
  );
}

function zeroOf({ info, tried, whyPortable }: Seen): Finding {
  const { writeZeroes } = info.abilities;
  const basis = "trial: written, made zero, read again";
  if (isFault(tried?.zeroesRead)) {
    return finding("wrong", writeZeroes, basis, tried.zeroesRead.fault);
  }
  if (tried?.zeroesRead === false) {
    return finding("wrong", writeZeroes, basis, "it did not read as zeroes");
  }
  return writeZeroes === "native"
    ? finding("good", writeZeroes, basis)
    : finding(
      "limited",
      writeZeroes,
      basis,
      `zeroes are written as data, as ${
        whyPortable ?? "this file system is not known to zero a range right"
      }`,
    );
}

function discardOf({ info, tried, whyPortable }: Seen): Finding {
  const { discard } = info.abilities;
  const reads = tried?.discardReads;
  if (discard === "none") {
    return finding(
      "missing",
      discard,
      `known of the ${info.medium === "file" ? "file system" : "device"}`,
      whyPortable ??
        (info.medium === "file"
          ? "this file system is not known to give up a range right"
          : "the device takes none"),
    );
  }
  if (reads === undefined) {
    return finding("good", discard, "known of the device");
  }
  const basis = "trial: written, discarded, read again";
  if (isFault(reads)) return finding("wrong", discard, basis, reads.fault);
  return reads === null
    ? finding("wrong", discard, basis, "what it reads as changes")
    : finding("good", `${discard}, and reads as ${reads}`, basis);
}
