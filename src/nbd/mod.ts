/**
 * Any disk over NBD, so that qemu, libnbd's tools, fio and the Linux kernel
 * attach to it. {@linkcode NbdServer} is where to start.
 *
 * The other direction needs nothing from here: `VirtualDisk.open` takes
 * `nbd://`, `nbds://` and `nbd+unix://` URIs.
 *
 * @module
 */

export type { ByteStream } from "../platform/byte_stream.ts";
export {
  formatNbdUri,
  type NbdAddress,
  type NbdTarget,
  type NbdTls,
  parseNbdUri,
} from "../protocol/nbd/uri.ts";
export type { NbdCounters } from "./counters.ts";
export { ProtocolError } from "./handshake.ts";
export type { NbdExport } from "./served_disk.ts";
export {
  type NbdListenOptions,
  NbdServer,
  type NbdServerOptions,
} from "./server.ts";
export type { NbdTlsOptions } from "./tls.ts";
