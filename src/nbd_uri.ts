/**
 * NBD URIs: which server, which export.
 *
 * Source: NetworkBlockDevice/nbd, doc/uri.md.
 *
 * @module
 */

import { NBD_PORT } from "./nbd_wire.ts";

/** Where an NBD server listens. */
export type NbdAddress =
  /** On a network. */
  | {
    /** How it is reached. */
    readonly transport: "tcp";
    /** Its name or number. */
    readonly hostname: string;
    /** Its port. */
    readonly port: number;
  }
  /** On this machine. */
  | {
    /** How it is reached. */
    readonly transport: "unix";
    /** The path of its socket. */
    readonly path: string;
  };

/** What a URI names. */
export interface NbdTarget {
  /** The server. */
  readonly address: NbdAddress;
  /** The export; the empty name is the default one. */
  readonly exportName: string;
}

/**
 * Tells whether something names an NBD server and not a file.
 *
 * @param path A path or a URL.
 * @returns Whether it begins as an NBD URI does.
 */
export function isNbdUri(path: string | URL): boolean {
  return /^nbds?(\+unix)?:\/\//i.test(String(path));
}

/**
 * Reads an NBD URI.
 *
 * @param uri The URI: `nbd://host[:port]/[export]` or
 * `nbd+unix:///[export]?socket=PATH`.
 * @returns What it names.
 * @throws {TypeError} If it is none, or one that needs TLS.
 */
export function parseNbdUri(uri: string | URL): NbdTarget {
  const text = String(uri);
  const parts =
    /^(nbds?(?:\+unix)?):\/\/([^/?#]*)(?:\/([^?#]*))?(?:\?([^#]*))?$/i
      .exec(text);
  const fail = (reason: string): never => {
    throw new TypeError(
      `Cannot read an NBD URI as ${reason}: current value is "${text}"`,
    );
  };
  if (parts === null) {
    return fail("it must be nbd://HOST/NAME or nbd+unix:///NAME?socket=PATH");
  }
  const [, scheme = "", authority = "", name = "", query = ""] = parts;
  if (/^nbds/i.test(scheme)) return fail("there is no TLS here");
  const exportName = decodeURIComponent(name);
  if (/\+unix$/i.test(scheme)) {
    const path = new URLSearchParams(query.replaceAll("+", "%2B"))
      .get("socket");
    if (path === null || path === "") {
      return fail("it must say ?socket=PATH");
    }
    if (authority !== "") return fail("a socket's URI names no host");
    return { address: { transport: "unix", path }, exportName };
  }
  const place = /^(?:[^@]*@)?(\[[^\]]*\]|[^:]*)(?::(\d+))?$/.exec(authority);
  const port = Number(place?.[2] ?? NBD_PORT);
  if (place === null || port > 65_535) return fail("its port must be a number");
  const hostname = (place[1] || "localhost").replace(/^\[(.*)\]$/, "$1");
  return { address: { transport: "tcp", hostname, port }, exportName };
}

/**
 * Writes an NBD URI.
 *
 * @param target What it is to name.
 * @returns The URI.
 */
export function formatNbdUri(target: NbdTarget): string {
  const { address, exportName } = target;
  const name = encodeURIComponent(exportName);
  if (address.transport === "unix") {
    const path = encodeURIComponent(address.path).replaceAll("%2F", "/");
    return `nbd+unix:///${name}?socket=${path}`;
  }
  const host = address.hostname.includes(":")
    ? `[${address.hostname}]`
    : address.hostname;
  const port = address.port === NBD_PORT ? "" : `:${address.port}`;
  return `nbd://${host}${port}/${name}`;
}
