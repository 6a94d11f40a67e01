/**
 * An epoll of one's own: which of many descriptors are readable. Linux only.
 *
 * Source of numbers and layouts: include/uapi/linux/eventpoll.h.
 *
 * @module
 */

import type { Libc } from "./libc.ts";
import { structMemory } from "./memory.ts";

const EPOLL_CLOEXEC = 0x80000;
const EPOLL_CTL_ADD = 1;
const EPOLL_CTL_DEL = 2;
const EPOLLIN = 1;
const EPOLLONESHOT = 0x4000_0000;

/** Events that are taken at once. */
const MOST_EVENTS = 16;

/** Descriptors, each with a number, waited for at once. */
export class Epoll {
  readonly #libc: Libc;
  /** Readable itself when one of them is. */
  readonly fd: number;
  /** struct epoll_event {u32 events@0, u64 data}, packed on x86-64 alone. */
  readonly #dataAt: number;

  private constructor(libc: Libc, fd: number) {
    this.#libc = libc;
    this.fd = fd;
    this.#dataAt = libc.abi.arch === "x86_64" ? 4 : 8;
  }

  /**
   * Makes one.
   *
   * @param libc The C library.
   * @returns It, or −errno.
   */
  static open(libc: Libc): Epoll | number {
    const number = libc.abi.syscalls?.epoll_create1;
    if (number === undefined) return -libc.abi.errno.ENOSYS;
    const fd = libc.syscall(number, EPOLL_CLOEXEC);
    return fd < 0 ? fd : new Epoll(libc, fd);
  }

  /**
   * Waits for a descriptor, until it was readable once.
   *
   * @param fd The descriptor, which is not waited for yet.
   * @param data Its number, up to 2^32 − 1.
   * @returns 0, or −errno (−EPERM for what cannot be waited for).
   */
  add(fd: number, data: number): number {
    const { address, view } = structMemory(this.#dataAt + 8);
    view.setUint32(0, EPOLLIN | EPOLLONESHOT, true);
    view.setUint32(this.#dataAt, data, true);
    const { epoll_ctl } = this.#libc.abi.syscalls!;
    return this.#libc.syscall(epoll_ctl, this.fd, EPOLL_CTL_ADD, fd, address);
  }

  /**
   * Waits for a descriptor no more, whether or not it was readable.
   *
   * @param fd The descriptor.
   */
  remove(fd: number): void {
    const { epoll_ctl } = this.#libc.abi.syscalls!;
    this.#libc.syscall(epoll_ctl, this.fd, EPOLL_CTL_DEL, fd, 0);
  }

  /**
   * Tells which descriptors are readable now.
   *
   * @returns The numbers of some of them; none if there are none.
   */
  readable(): number[] {
    const stride = this.#dataAt + 8;
    const { address, view } = structMemory(stride * MOST_EVENTS);
    const count = this.#libc.syscall(
      this.#libc.abi.syscalls!.epoll_pwait,
      this.fd,
      address,
      MOST_EVENTS,
      0,
      0,
    );
    const found: number[] = [];
    for (let i = 0; i < count; i++) {
      found.push(view.getUint32(i * stride + this.#dataAt, true));
    }
    return found;
  }

  /** Closes it. */
  close(): void {
    this.#libc.close(this.fd);
  }
}
