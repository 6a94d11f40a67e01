/**
 * A socketpair(2): one end is written to from here or by the kernel, the other
 * is given to the runtime, which can wait for sockets.
 *
 * @module
 */

import type { Libc } from "./libc.ts";
import { addressOf, alignedMemory } from "./memory.ts";

// include/linux/socket.h, include/linux/net.h.
const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SOCK_CLOEXEC = 0x80000;
const SOCK_NONBLOCK = 0x800;

/** A pair of connected Unix sockets. Linux only. */
export class SocketPair {
  readonly #libc: Libc;
  /** The socket of this side. */
  readonly fd: number;
  readonly #byte: Uint8Array<ArrayBuffer>;
  /** The other socket; its new owner closes it. */
  readonly otherFd: number;
  // Only read from, so that it may lie in the heap: a Worker that is terminated
  // leaves another byte there, or none.
  /** Address of the byte that {@linkcode SocketPair.send} sends. */
  readonly byteAddress: number;

  private constructor(libc: Libc, fd: number, otherFd: number) {
    this.#libc = libc;
    this.fd = fd;
    this.otherFd = otherFd;
    this.#byte = alignedMemory(1, 8);
    this.byteAddress = addressOf(this.#byte);
  }

  /**
   * Makes a pair: `int socketpair(int domain, int type, int protocol, int
   * sockets[2])`.
   *
   * @param libc The C library.
   * @param outlives Whether the socket of this side may outlive a Worker that is
   * terminated, as others write to its number: to close it would give that to
   * another file.
   * @returns The pair, or −errno.
   */
  static open(libc: Libc, outlives = false): SocketPair | number {
    const number = libc.abi.syscalls?.socketpair;
    if (number === undefined) return -libc.abi.errno.ENOSYS;
    const memory = alignedMemory(8, 8);
    const result = libc.syscall(
      number,
      AF_UNIX,
      SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK,
      0,
      addressOf(memory),
    );
    if (result < 0) return result;
    const [fd, otherFd] = new Int32Array(memory.buffer, memory.byteOffset, 2);
    return new SocketPair(libc, outlives ? fd! : libc.keep(fd!), otherFd!);
  }

  /**
   * Sends a byte to the other socket.
   *
   * @returns Whether it went out.
   */
  send(): boolean {
    const { write } = this.#libc.abi.syscalls!;
    return this.#libc.syscall(write, this.fd, this.byteAddress, 1) === 1;
  }

  /** Closes the socket of this side. */
  close(): void {
    this.#libc.closeKept(this.fd);
  }
}
