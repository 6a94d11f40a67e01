/**
 * Names of images in Ceph clusters: which pool, which image, of which cluster.
 *
 * ```text
 * rbd:POOL/IMAGE
 * rbd:POOL/NAMESPACE/IMAGE@SNAPSHOT?conf=/etc/ceph/ceph.conf&id=admin&cluster=ceph
 * ```
 *
 * The part before the question mark is that of Ceph's own `rbd` command (rbd(8),
 * "image-spec" and "snap-spec").
 *
 * @module
 */

import { printable } from "../../printable.ts";

/** What a name leads to. */
export interface RbdTarget {
  /** The pool. */
  readonly pool: string;
  /** The namespace in it; the default one is empty. */
  readonly namespace: string;
  /** The image. */
  readonly image: string;
  /** A snapshot of it; `null` for the image as it is now. */
  readonly snapshot: string | null;
  /** The configuration file; `null` for where Ceph looks by itself. */
  readonly conf: string | null;
  /** Who asks: the part after `client.`. */
  readonly id: string;
  /** The cluster's name. */
  readonly cluster: string;
}

/** The longest that a part of a name may be, in bytes: more than Ceph takes. */
const MOST_BYTES = 1024;

const PARAMETERS = ["conf", "id", "cluster"] as const;

/**
 * Tells whether something names an image in a Ceph cluster and not a file: also
 * if {@linkcode parseRbdUri} then says that it must be written otherwise.
 *
 * @param path A path or a URL.
 * @returns Whether it begins with `rbd:`.
 */
export function isRbdUri(path: string | URL): boolean {
  return /^rbd:/i.test(String(path));
}

/**
 * Reads the name of an image in a Ceph cluster.
 *
 * @param uri The name, as the head of this file has it; `%XX` stands for a byte
 * of UTF-8.
 * @returns What it leads to.
 * @throws {TypeError} If it is none.
 */
export function parseRbdUri(uri: string | URL): RbdTarget {
  const text = String(uri);
  const fail = (reason: string): never => {
    throw new TypeError(
      `Cannot read the name of a Ceph image as ${reason}: current value is ${
        printable(`"${text}"`)
      }`,
    );
  };
  const decode = (what: string, value: string): string => {
    let decoded: string;
    try {
      decoded = decodeURIComponent(value);
    } catch {
      return fail(
        `every % in its ${what} must begin the %XX of a character in UTF-8 (a % itself is %25)`,
      );
    }
    // C would stop there, and mean another one.
    if (decoded.includes("\0")) {
      return fail(`there cannot be a zero in its ${what}`);
    }
    return new TextEncoder().encode(decoded).length > MOST_BYTES
      ? fail(`its ${what} must be ${MOST_BYTES} bytes at most`)
      : decoded;
  };
  const [, spec = "", query = ""] = /^rbd:([^?]*)(?:\?(.*))?$/is.exec(text) ??
    fail("it must begin with rbd:");
  if (spec.startsWith("//")) {
    return fail("there is no host in it: it must be rbd:POOL/IMAGE");
  }
  if (/:[a-z_]+=/i.test(spec)) {
    return fail(
      "QEMU's rbd:POOL/IMAGE:conf=PATH:id=USER must be written rbd:POOL/IMAGE?conf=PATH&id=USER",
    );
  }
  const at = spec.indexOf("@");
  const names = (at < 0 ? spec : spec.slice(0, at)).split("/");
  if (names.length < 2 || names.length > 3) {
    return fail("it must be rbd:POOL/IMAGE or rbd:POOL/NAMESPACE/IMAGE");
  }
  const snapshot = at < 0 ? null : decode("snapshot", spec.slice(at + 1));
  const pool = decode("pool", names[0]!);
  const namespace = names.length === 3 ? decode("namespace", names[1]!) : "";
  const image = decode("image", names.at(-1)!);
  for (
    const [what, value] of [
      ["pool", pool],
      ["image", image],
      ["namespace", names.length === 3 ? namespace : null],
      ["snapshot", snapshot],
    ] as const
  ) {
    if (value === "") return fail(`its ${what} must have a name`);
  }
  if (snapshot !== null && /[@/]/.test(snapshot)) {
    return fail("a snapshot's name cannot have @ or / in it");
  }
  const options: Partial<Record<typeof PARAMETERS[number], string>> = {};
  for (const item of query === "" ? [] : query.split("&")) {
    const [name = "", value] = item.split(/=(.*)/s);
    const parameter = PARAMETERS.find((one) => one === name);
    if (parameter === undefined || !value) {
      return fail(
        `after the ? it has only conf=PATH, id=USER and cluster=NAME`,
      );
    }
    if (options[parameter] !== undefined) {
      return fail(`it must have ${parameter} only once`);
    }
    options[parameter] = decode(`parameter ${parameter}`, value);
  }
  if (/[,;]/.test(options.conf ?? "")) {
    return fail("librados takes a comma or ; in conf for the end of a path");
  }
  return {
    pool,
    namespace,
    image,
    snapshot,
    conf: options.conf ?? null,
    id: (options.id ?? "admin").replace(/^client\./, ""),
    cluster: options.cluster ?? "ceph",
  };
}
