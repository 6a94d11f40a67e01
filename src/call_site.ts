/**
 * Call sites: from which line of the user's program a request came.
 *
 * @module
 */

/** Where this library's own files are: frames in them are skipped. */
const OWN = [new URL("./", import.meta.url).href];

/** Stack frames that are captured: the library's own and some of the caller. */
const DEPTH = 24;

/**
 * Captures the stack, to be read later.
 *
 * @returns An error that is not thrown; its `stack` is formatted when read.
 */
export function captureStack(): Error {
  const limit = Error.stackTraceLimit;
  Error.stackTraceLimit = DEPTH;
  const error = new Error();
  Error.stackTraceLimit = limit;
  return error;
}

/** A line of the user's program. */
export interface CallSite {
  /** The function's name; empty if it has none. */
  readonly name: string;
  /** The file's name, without its folders. */
  readonly file: string;
  /** The line, from 1. */
  readonly line: number;
}

/**
 * The lines of the program in a stack, the innermost first.
 *
 * @param error What captured it.
 * @returns The lines outside of this library.
 */
export function callSites(error: Error): CallSite[] {
  const sites: CallSite[] = [];
  for (const text of (error.stack ?? "").split("\n")) {
    const match = /^ {4}at (?:(?:async )?(.*?) \()?(.*?):(\d+):\d+\)?$/.exec(
      text,
    );
    if (match === null) continue;
    const url = match[2]!.replace(/^async /, "");
    if (OWN.some((own) => url.startsWith(own))) {
      // Further frames are those of the caller of the exploration.
      if (sites.length > 0) break;
      continue;
    }
    if (/^(ext|node|native):/.test(url)) continue;
    const name = (match[1] ?? "").replace(/^(async|new) /, "")
      .replace(/^Object\./, "").replace(/ \[as .*\]$/, "");
    sites.push({
      name: name === "<anonymous>" ? "" : name,
      file: url.slice(url.lastIndexOf("/") + 1),
      line: Number(match[3]),
    });
  }
  return sites;
}

/**
 * The line of a program in words: the innermost, and who called that, unless it
 * is the workload or the recovery itself.
 *
 * @param error What captured it.
 * @returns For example `wal.ts:21 in append < wal.ts:40 in commit`.
 */
export function describeOrigin(error: Error): string {
  const [site, caller] = callSites(error);
  if (site === undefined) return "";
  const short = site.name === "workload" || site.name === "recover" ||
    caller === undefined || caller.name === "";
  return [site, ...(short ? [] : [caller])].map(({ name, file, line }) =>
    `${file}:${line}${name === "" ? "" : ` in ${name}`}`
  ).join(" < ");
}
