/**
 * Unix sockets whose messages carry descriptors (SCM_RIGHTS), which Deno's own
 * do not; and more room for what Deno's own send. No call here waits: what cannot
 * be done at once is −EAGAIN. Linux only.
 *
 * Layouts: include/linux/socket.h (`struct msghdr`, `struct cmsghdr`),
 * include/uapi/linux/un.h, include/uapi/asm-generic/socket.h, on 64-bit systems.
 *
 * @module
 */

import type { Libc } from "./libc.ts";
import {
  addressOf,
  alignedMemory,
  readU64,
  structMemory,
  writeU64,
} from "./memory.ts";

const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SOCK_CLOEXEC = 0x80000;
const SOCK_NONBLOCK = 0x800;
const SOL_SOCKET = 1;
const SCM_RIGHTS = 1;
const SO_SNDBUF = 7;
const SO_ACCEPTCONN = 30;
const SHUT_RDWR = 2;
const MSG_CTRUNC = 0x8;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const MSG_CMSG_CLOEXEC = 0x40000000;

/** struct sockaddr_un: u16 family@0, char path[108]@2. */
const SOCKADDR_BYTES = 110;
const PATH_BYTES = 108;

/** The most bytes that a socket's path has, as a NUL stands behind it. */
export const MAX_SOCKET_PATH_BYTES: number = PATH_BYTES - 1;

/** Where an option's value (i32) and a length (u32) are, behind a name. */
const OPTION_AT = 112;

/** Connections that wait to be accepted. */
const BACKLOG = 16;

/**
 * struct msghdr: pointer name@0, u32 namelen@8, pointer iov@16, u64 iovlen@24,
 * pointer control@32, u64 controllen@40, i32 flags@48.
 */
const MSGHDR_BYTES = 56;
/** struct iovec: pointer base@0, u64 len@8. */
const IOVEC_AT = MSGHDR_BYTES;
/** struct cmsghdr: u64 len@0, i32 level@8, i32 type@12, data@16. */
const CMSG_HEADER_BYTES = 16;
const CONTROL_AT = IOVEC_AT + 16 + 8; // A multiple of 16.
/**
 * Room for as many descriptors as a message can have (SCM_MAX_FD is 253): what
 * finds no room is closed by the kernel, within the call.
 */
const CONTROL_BYTES = 16 + 253 * 4 + 4;

/**
 * Makes a socket that listens at a path, which must not exist.
 *
 * @param libc The C library.
 * @param path The path, at most 107 bytes.
 * @returns Its descriptor, or −errno (−EADDRINUSE where there is something of
 * that name, −EINVAL for a path that no socket can have).
 */
export function listenUnix(libc: Libc, path: string): number {
  const { syscalls, errno } = libc.abi;
  if (syscalls === undefined) return -errno.ENOSYS;
  const bytes = new TextEncoder().encode(path);
  // A name that begins with NUL would be one outside of the file system.
  if (bytes.length === 0 || bytes.length >= PATH_BYTES || bytes.includes(0)) {
    return -errno.EINVAL;
  }
  const fd = libc.syscall(
    syscalls.socket,
    AF_UNIX,
    SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK,
  );
  if (fd < 0) return fd;
  const { address, view } = structMemory(SOCKADDR_BYTES);
  view.setUint16(0, AF_UNIX, true);
  bytes.forEach((byte, i) => view.setUint8(2 + i, byte));
  let result = libc.syscall(syscalls.bind, fd, address, 2 + bytes.length + 1);
  if (result >= 0) result = libc.syscall(syscalls.listen, fd, BACKLOG);
  if (result >= 0) return fd;
  libc.close(fd);
  return result;
}

/**
 * Accepts a connection.
 *
 * @param libc The C library.
 * @param fd A socket that listens.
 * @returns The connection's descriptor, or −errno.
 */
export function acceptUnix(libc: Libc, fd: number): number {
  const { syscalls, errno } = libc.abi;
  if (syscalls === undefined) return -errno.ENOSYS;
  return libc.syscall(
    syscalls.accept4,
    fd,
    0,
    0,
    SOCK_CLOEXEC | SOCK_NONBLOCK,
  );
}

/** Descriptors in a row that are not in use, after which none is looked for. */
const MOST_UNUSED = 64;

/**
 * Gives the connections that were accepted at a path room for more bytes of what
 * is sent, as long as there are not many of them.
 *
 * What the room is now is `net.core.wmem_default`, 208 KiB; what it can be is
 * twice `net.core.wmem_max`, which counts the kernel's own structures as well.
 *
 * @param libc The C library.
 * @param path The path, as the listening socket was bound to it.
 * @param bytes The room, half of what the kernel makes of it.
 * @param most So many connections have it: those with the lowest descriptors.
 * @returns How many connections have it now.
 */
export function widenAccepted(
  libc: Libc,
  path: string,
  bytes: number,
  most: number,
): number {
  const { syscalls, errno } = libc.abi;
  const name = new TextEncoder().encode(path);
  if (syscalls === undefined || name.length >= PATH_BYTES) return 0;
  const { getsockname, getsockopt, setsockopt } = syscalls;
  const { address, view } = structMemory(OPTION_AT + 12);
  const value = address + OPTION_AT;
  const lengthAt = value + 4;
  const option = (fd: number, number: number): number => {
    view.setUint32(OPTION_AT + 4, 4, true);
    libc.syscall(getsockopt, fd, SOL_SOCKET, number, value, lengthAt);
    return view.getInt32(OPTION_AT, true);
  };
  let wide = 0;
  let unused = 0;
  for (let fd = 0; unused < MOST_UNUSED && wide < most; fd++) {
    view.setUint32(OPTION_AT + 4, SOCKADDR_BYTES, true);
    const result = libc.syscall(getsockname, fd, address, lengthAt);
    unused = result === -errno.EBADF ? unused + 1 : 0;
    const isNamed = result === 0 && view.getUint16(0, true) === AF_UNIX &&
      view.getUint32(OPTION_AT + 4, true) === 2 + name.length + 1 &&
      name.every((byte, i) => view.getUint8(2 + i) === byte);
    if (!isNamed || option(fd, SO_ACCEPTCONN) !== 0) continue;
    wide++;
    if (option(fd, SO_SNDBUF) >= bytes) continue;
    view.setInt32(OPTION_AT, bytes, true);
    libc.syscall(setsockopt, fd, SOL_SOCKET, SO_SNDBUF, value, 4);
  }
  return wide;
}

/** One connection, for bytes and descriptors. */
export class MessageSocket {
  readonly #libc: Libc;
  /** Its descriptor. */
  readonly fd: number;
  readonly #struct: Uint8Array<ArrayBuffer>;
  readonly #view: DataView;
  readonly #address: number;

  /**
   * Constructs a new instance.
   *
   * @param libc The C library.
   * @param fd A connected Unix socket; it is closed with this.
   */
  constructor(libc: Libc, fd: number) {
    this.#libc = libc;
    this.fd = fd;
    this.#struct = alignedMemory(CONTROL_AT + CONTROL_BYTES, 16);
    this.#view = new DataView(
      this.#struct.buffer,
      this.#struct.byteOffset,
      this.#struct.length,
    );
    this.#address = addressOf(this.#struct);
  }

  /**
   * Receives what is there.
   *
   * @param target Where to, memory of `alignedMemory`; no byte more is taken.
   * @param descriptors Descriptors that came with it are added to it, to be
   * closed by whoever has it.
   * @returns Bytes received, 0 at the end of the stream, or −errno (−EAGAIN if
   * nothing is there). More descriptors than there is room for are −EMSGSIZE.
   */
  receive(target: Uint8Array<ArrayBuffer>, descriptors: number[]): number {
    const { syscalls, errno } = this.#libc.abi;
    const view = this.#message(target, CONTROL_BYTES);
    const result = this.#libc.syscall(
      syscalls!.recvmsg,
      this.fd,
      this.#address,
      MSG_DONTWAIT | MSG_CMSG_CLOEXEC,
    );
    if (result < 0) return result;
    const end = CONTROL_AT + readU64(view, 40);
    for (let at = CONTROL_AT; at + CMSG_HEADER_BYTES <= end;) {
      const length = readU64(view, at);
      const isRights = view.getInt32(at + 8, true) === SOL_SOCKET &&
        view.getInt32(at + 12, true) === SCM_RIGHTS;
      if (length < CMSG_HEADER_BYTES || at + length > end) break;
      for (
        let i = at + CMSG_HEADER_BYTES;
        isRights && i + 4 <= at + length;
        i += 4
      ) descriptors.push(view.getInt32(i, true));
      at += Math.ceil(length / 8) * 8;
    }
    return (view.getInt32(48, true) & MSG_CTRUNC) === 0
      ? result
      : -errno.EMSGSIZE;
  }

  /**
   * Sends bytes, and maybe a descriptor with the first of them.
   *
   * @param bytes The bytes, memory of `alignedMemory`.
   * @param descriptor A descriptor, which stays the caller's.
   * @returns Bytes sent, or −errno (−EAGAIN if the other side takes none now).
   */
  send(bytes: Uint8Array<ArrayBuffer>, descriptor?: number): number {
    const view = this.#message(
      bytes,
      descriptor === undefined ? 0 : CMSG_HEADER_BYTES + 8,
    );
    if (descriptor !== undefined) {
      writeU64(view, CONTROL_AT, CMSG_HEADER_BYTES + 4);
      view.setInt32(CONTROL_AT + 8, SOL_SOCKET, true);
      view.setInt32(CONTROL_AT + 12, SCM_RIGHTS, true);
      view.setInt32(CONTROL_AT + 16, descriptor, true);
    }
    return this.#libc.syscall(
      this.#libc.abi.syscalls!.sendmsg,
      this.fd,
      this.#address,
      MSG_DONTWAIT | MSG_NOSIGNAL,
    );
  }

  /** Tells the other side that it is over. */
  shutDown(): void {
    this.#libc.syscall(this.#libc.abi.syscalls!.shutdown, this.fd, SHUT_RDWR);
  }

  /** Closes the socket. */
  close(): void {
    this.#libc.close(this.fd);
  }

  /** Fills in a message of one piece of memory. */
  #message(bytes: Uint8Array, controlBytes: number): DataView {
    this.#struct.fill(0);
    const view = this.#view;
    writeU64(view, 16, this.#address + IOVEC_AT);
    writeU64(view, 24, 1);
    writeU64(view, IOVEC_AT, addressOf(bytes));
    writeU64(view, IOVEC_AT + 8, bytes.length);
    if (controlBytes > 0) {
      writeU64(view, 32, this.#address + CONTROL_AT);
      writeU64(view, 40, controlBytes);
    }
    return view;
  }
}
