/**
 * NBD URIs: which server, which export.
 *
 * Source: NetworkBlockDevice/nbd, doc/uri.md.
 *
 * @module
 */

import { MAX_STRING_BYTES, NBD_PORT } from "./numbers.ts";
import { printable } from "../../printable.ts";
import { os } from "../../platform/system.ts";

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
  /** How the connection is made private; without it it is not. */
  readonly tls?: NbdTls;
}

/** How a server proves who it is. */
export interface NbdTls {
  /**
   * Directory with `ca-cert.pem`, the certificate of who vouches for the server;
   * without it the roots that Deno trusts do.
   */
  readonly certificates?: string;
}

/**
 * Bytes that a socket's path may have: `sun_path` of sys/un.h holds 108 on Linux
 * and 104 elsewhere, with a zero at the end.
 */
export const MAX_SOCKET_PATH_BYTES: number = os === "linux" ? 107 : 103;

/**
 * Tells whether something names an NBD server and not a file: also if
 * {@linkcode parseNbdUri} then says that it must be written otherwise.
 *
 * @param path A path or a URL.
 * @returns Whether it begins as an NBD URI does.
 */
export function isNbdUri(path: string | URL): boolean {
  return /^nbds?(\+[a-z]+)?:\/\/|^nbd:(unix:|[^/]+:\d)/i.test(String(path));
}

/**
 * Reads an NBD URI.
 *
 * @param uri The URI: `nbd://host[:port]/[export]`,
 * `nbds://host[:port]/[export][?tls-certificates=DIR]` (with TLS) or
 * `nbd+unix:///[export]?socket=PATH`.
 * @returns What it names.
 * @throws {TypeError} If it is none, or one for what there is not here.
 */
export function parseNbdUri(uri: string | URL): NbdTarget {
  const text = String(uri);
  const fail = (reason: string, value = `"${text}"`): never => {
    throw new TypeError(
      `Cannot read an NBD URI as ${reason}: current value is ${
        printable(value)
      }`,
    );
  };
  const decode = (what: string, value: string): string => {
    try {
      return decodeURIComponent(value);
    } catch {
      return fail(
        `every % in its ${what} must begin the %XX of a character in UTF-8 (a % itself is %25)`,
      );
    }
  };
  if (/^nbd:unix:/i.test(text)) {
    return fail(
      "QEMU's old nbd:unix:PATH must be written nbd+unix:///NAME?socket=PATH",
    );
  }
  const parts =
    /^nbd(s?)(?:\+([a-z]+))?:\/\/([^/?#]*)(?:\/([^?#]*))?(?:\?([^#]*))?$/i
      .exec(text);
  if (parts === null) {
    return fail("it must be nbd://HOST/NAME or nbd+unix:///NAME?socket=PATH");
  }
  const [, tls = "", via = "", authority = "", name = "", query = ""] = parts;
  // A plus is a plus.
  const parameter = (name: string): string | undefined => {
    const item = query.split("&").find((it) => it.startsWith(`${name}=`));
    return item && decode(`parameter ${name}`, item.slice(name.length + 1));
  };
  const exportName = decode("export's name", name);
  // The server may not take it, either: a name of 4,096 bytes is the longest.
  if (utf8Length(exportName) > MAX_STRING_BYTES) {
    return fail(
      `its export's name must be ${MAX_STRING_BYTES} bytes at most`,
      `${utf8Length(exportName)} bytes`,
    );
  }
  if (via !== "") {
    if (via.toLowerCase() !== "unix") {
      return fail(`nbd+${via} is no transport here but nbd+unix is`);
    }
    if (tls !== "") {
      return fail("there is no TLS over a socket here, only nbds://HOST/NAME");
    }
    const path = parameter("socket");
    if (path === undefined || path === "") {
      return fail(
        "it must say where the socket is: nbd+unix:///NAME?socket=PATH",
      );
    }
    if (authority !== "") {
      return fail(
        "a socket's URI names no host and must have three slashes: nbd+unix:///NAME?socket=PATH",
      );
    }
    if (path.includes("\0")) return fail("a path cannot have a zero in it");
    const bytes = utf8Length(path);
    if (bytes > MAX_SOCKET_PATH_BYTES) {
      return fail(
        `its socket's path must be ${MAX_SOCKET_PATH_BYTES} bytes at most, which is all that the system has room for`,
        `${bytes} bytes`,
      );
    }
    return { address: { transport: "unix", path }, exportName };
  }
  if (parameter("socket") !== undefined) {
    return fail("with a socket it must begin with nbd+unix:///");
  }
  for (const name of ["tls-verify-peer", "tls-psk-file", "tls-username"]) {
    if (parameter(name) !== undefined) {
      return fail(
        `there is no ${name} here: a server must have a certificate, and it is always checked`,
      );
    }
  }
  const place = /^(?:[^@]*@)?(\[[^\]]*\]|[^:]*)(?::([^:]*))?$/.exec(authority);
  if (place === null) {
    return fail("an address of IPv6 must be in brackets: nbd://[::1]/NAME");
  }
  const [, host = "", digits = ""] = place;
  const port = digits === "" ? NBD_PORT : Number(digits);
  if (!/^\d*$/.test(digits) || port < 1 || port > 65_535) {
    return fail("its port must be from 1 to 65535", printable(digits));
  }
  const hostname = decode("host", host || "localhost")
    .replace(/^\[(.*)\]$/, "$1");
  const target: NbdTarget = {
    address: { transport: "tcp", hostname, port },
    exportName,
  };
  const certificates = parameter("tls-certificates");
  if (tls === "") {
    // Certificates say that it is not wanted in the clear.
    return certificates === undefined
      ? target
      : fail("with tls-certificates it must begin with nbds://");
  }
  return {
    ...target,
    tls: certificates === undefined ? {} : { certificates },
  };
}

function utf8Length(text: string): number {
  return new TextEncoder().encode(text).length;
}

/**
 * Writes an NBD URI.
 *
 * @param target What it is to name.
 * @returns The URI.
 */
export function formatNbdUri(target: NbdTarget): string {
  const { address, exportName, tls } = target;
  const name = encodeURIComponent(exportName);
  if (address.transport === "unix") {
    return `nbd+unix:///${name}?socket=${pathIn(address.path)}`;
  }
  const host = address.hostname.includes(":")
    ? `[${address.hostname}]`
    : address.hostname;
  const port = address.port === NBD_PORT ? "" : `:${address.port}`;
  const query = tls?.certificates === undefined
    ? ""
    : `?tls-certificates=${pathIn(tls.certificates)}`;
  const scheme = tls === undefined ? "nbd" : "nbds";
  return `${scheme}://${host}${port}/${name}${query}`;
}

function pathIn(path: string): string {
  return encodeURIComponent(path).replaceAll("%2F", "/");
}
