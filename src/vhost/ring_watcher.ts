/**
 * Waiting for descriptors by a ring.
 *
 * A small io_uring of its own has one operation for each descriptor: a poll for a
 * socket, a read for an event counter. Behind each of them stands a send, by
 * which the kernel itself puts a byte into a pair of sockets that the loop sleeps
 * on. So an idle guest costs nothing, and a kick costs no thread.
 *
 * Descriptors come from somebody else, who may make a read or a write of them
 * wait (O_NONBLOCK is not ours alone to set). The ring's operations on sockets and
 * event counters never hold this thread up: what cannot be done at once waits in
 * the kernel. Any other file may, as the kernel asks its driver whether it can be
 * read before it lets an operation wait: those are not looked at.
 *
 * @module
 */

import { Socket } from "node:net";
import { clearTimeout, setTimeout } from "node:timers";
import { isEventCounter } from "../../ffi/foreign_descriptor.ts";
import { IORING_OP, IORING_SETUP, IOSQE, IoUring } from "../../ffi/io_uring.ts";
import type { Libc } from "../../ffi/libc.ts";
import { mapMemory, type MappedMemory } from "../../ffi/mapped_memory.ts";
import { POLLIN } from "../../ffi/poll.ts";
import { SocketPair } from "../../ffi/socket_pair.ts";
import {
  COUNTER_BYTES,
  type Signal,
  socketSignal,
  stopBlocking,
  type Watched,
  type Watcher,
  watchNothing,
} from "./watcher.ts";

// include/linux/socket.h.
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;

/** Submissions between two calls. */
const ENTRIES = 64;

/** Bytes of the memory that counters are read into: so many at most. */
const MEMORY_BYTES = 16_384;

/** What is written to a counter lies in the first place of that memory. */
const MAX_SLOTS = MEMORY_BYTES / COUNTER_BYTES;

/**
 * Flags of newer kernels (6.0) first; older ones refuse what they lack. Without
 * COOP_TASKRUN: a kick is to interrupt this thread also while it looks at another
 * ring without entering the kernel.
 */
const SETUPS = [IORING_SETUP.SINGLE_ISSUER, 0];

// What operations bring back: a slot's index, or one of these.
const BYTE = 0xffff_ffff;
/** With the index of a slot whose operation is taken back. */
const CANCELS = 0x8000_0000;

/** Until what the kernel did not take is handed over once more, in ms. */
const RETRY_MS = 1;

/** Waits for operations to be taken back, and how long each is, in µs. */
const CLOSE_WAITS = 100;
const CLOSE_WAIT_US = 1000;

/** What an operation is for. */
class Slot {
  /** Whether the kernel has an operation of it, or will. */
  busy = false;
  /** Whether nobody wants to hear of it any more. */
  closed = false;
  readonly fd: number;
  readonly isCounter: boolean;
  /** Called when there is something; `null` for a signal. */
  readonly onReady: ((bytes: number) => void) | null;

  constructor(
    fd: number,
    isCounter: boolean,
    onReady: ((bytes: number) => void) | null,
  ) {
    this.fd = fd;
    this.isCounter = isCounter;
    this.onReady = onReady;
  }
}

/** Waits for descriptors by a ring. */
export class RingWatcher implements Watcher {
  readonly #libc: Libc;
  readonly #ring: IoUring;
  readonly #memory: MappedMemory;
  readonly #pair: SocketPair;
  readonly #socket: Socket;
  /** By what their operations bring back; the first place is never taken. */
  readonly #slots: (Slot | null)[] = [null];
  /** Slots of which something came, for the next byte. */
  readonly #ready: [slot: Slot, result: number][] = [];
  /**
   * What is to be handed over, by what it brings back. It becomes submissions in
   * {@linkcode flush} alone, as those name descriptors by numbers, which may be
   * those of other files later on.
   */
  readonly #line: number[] = [];
  #retry: ReturnType<typeof setTimeout> | null = null;
  #closed = false;

  private constructor(
    libc: Libc,
    ring: IoUring,
    memory: MappedMemory,
    pair: SocketPair,
  ) {
    this.#libc = libc;
    this.#ring = ring;
    this.#memory = memory;
    this.#pair = pair;
    new DataView(memory.bytes.buffer).setUint32(0, 1, true);
    // Into memory of ours: a stream makes 64 KiB of its own for each byte.
    this.#socket = new Socket({
      fd: pair.otherFd,
      readable: true,
      onread: { buffer: new Uint8Array(64), callback: this.#onByte },
    });
    this.#socket.resume();
    this.#socket.on("error", () => {});
  }

  /**
   * Makes a watcher.
   *
   * @param libc The C library.
   * @returns The watcher; `null` if the system has no io_uring for it.
   */
  static open(libc: Libc): RingWatcher | null {
    const pair = SocketPair.open(libc);
    if (typeof pair === "number") return null;
    for (const flags of SETUPS) {
      const ring = IoUring.setup(libc, { entries: ENTRIES, flags });
      if (typeof ring === "number") continue;
      try {
        const operations = ring.operations();
        if (!operations[IORING_OP.SEND]) throw new Error("Cannot send");
        return new RingWatcher(libc, ring, mapMemory(libc, MEMORY_BYTES), pair);
      } catch {
        ring.close();
        break;
      }
    }
    pair.close();
    libc.close(pair.otherFd);
    return null;
  }

  /** Waits for a socket. */
  socket(fd: number, onReady: () => void): Watched {
    return this.#watch(new Slot(fd, false, onReady));
  }

  /** Waits for an event counter, and sets it back to 0. */
  counter(fd: number, onReady: (isCounter: boolean) => void): Watched {
    if (!isEventCounter(this.#libc, fd)) return watchNothing(onReady);
    return this.#watch(
      new Slot(fd, true, (bytes) => onReady(bytes === COUNTER_BYTES)),
    );
  }

  /** Tells by an event counter, or a Unix socket. */
  signal(fd: number): Signal {
    if (!isEventCounter(this.#libc, fd)) return socketSignal(this.#libc, fd);
    // A counter that blocks would be tried over and over by the ring.
    stopBlocking(this.#libc, fd);
    const slot = new Slot(fd, true, null);
    const index = this.#place(slot);
    return {
      raise: () => {
        // One that the kernel could not write yet will be seen all the same.
        if (slot.busy || slot.closed) return;
        slot.busy = true;
        this.#line.push(index);
      },
      close: () => this.#closeSlot(slot, index),
    };
  }

  /** Hands over what was armed and raised. */
  flush(): void {
    const ring = this.#ring;
    const line = this.#line;
    while (!this.#closed && line.length > 0) {
      while (line.length > 0 && ring.entries - ring.unsubmitted >= 2) {
        this.#prepare(line.shift()!);
      }
      ring.enter(0, 0);
      const isRefused = ring.unsubmitted > 0;
      if (isRefused) this.#takeBack();
      this.#drain();
      if (!isRefused) continue;
      // The kernel may have no memory for the moment.
      this.#retry ??= setTimeout(() => {
        this.#retry = null;
        this.flush();
      }, RETRY_MS);
      return;
    }
  }

  /** Waits for nothing any more, and gives everything back. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#slots.forEach((slot, index) => {
      if (slot !== null) this.#closeSlot(slot, index);
    });
    this.flush();
    const ring = this.#ring;
    const isBusy = () => this.#slots.some((slot) => slot?.busy);
    for (let i = 0; i < CLOSE_WAITS && isBusy(); i++) {
      ring.enter(1, CLOSE_WAIT_US);
      this.#drain();
    }
    this.#closed = true;
    if (this.#retry !== null) clearTimeout(this.#retry);
    // What the kernel may still read into is left to it.
    if (!isBusy()) this.#memory.release();
    ring.close();
    const gone = new Promise((resolve) => this.#socket.once("close", resolve));
    this.#socket.destroy();
    await gone;
    this.#pair.close();
  }

  #watch(slot: Slot): Watched {
    const index = this.#place(slot);
    return {
      arm: () => {
        if (slot.busy || slot.closed) return;
        slot.busy = true;
        this.#line.push(index);
      },
      close: () => this.#closeSlot(slot, index),
    };
  }

  /** Prepares what stands in the line. */
  #prepare(what: number): void {
    const ring = this.#ring;
    if (what === BYTE) return this.#prepareByte();
    if (what >= CANCELS) {
      ring.prepareCancel(what - CANCELS, what);
      return;
    }
    const { fd, isCounter, onReady } = this.#slots[what]!;
    const { address } = this.#memory;
    if (onReady === null) {
      ring.prepareWrite(fd, address, COUNTER_BYTES, 0, 0, what);
      return;
    }
    // Hard links: the byte is sent however the operation ends.
    const flags = IOSQE.IO_HARDLINK;
    if (isCounter) {
      const at = address + what * COUNTER_BYTES;
      ring.prepareRead(fd, at, COUNTER_BYTES, 0, what, flags);
    } else ring.preparePoll(fd, POLLIN, what, flags);
    this.#prepareByte();
  }

  #prepareByte(): void {
    this.#ring.prepareSend(
      this.#pair.fd,
      this.#pair.byteAddress,
      1,
      MSG_DONTWAIT | MSG_NOSIGNAL,
      BYTE,
    );
  }

  /** Puts what the kernel did not take back into the line. */
  #takeBack(): void {
    const left: number[] = [];
    let hasByte = false;
    this.#ring.takeBack((what) => {
      // A byte comes with what it stands behind, if that was not taken either.
      if (what !== BYTE || !hasByte) left.push(what);
      hasByte = what < CANCELS && this.#slots[what]!.onReady !== null;
    });
    this.#line.unshift(...left);
  }

  #place(slot: Slot): number {
    let index = this.#slots.indexOf(null, 1);
    if (index < 0) index = this.#slots.length;
    if (index >= MAX_SLOTS) {
      throw new RangeError(
        `Cannot watch a descriptor as there must be at most ${MAX_SLOTS} at once`,
      );
    }
    this.#slots[index] = slot;
    return index;
  }

  #closeSlot(slot: Slot, index: number): void {
    if (slot.closed || this.#closed) return;
    slot.closed = true;
    const at = this.#line.indexOf(index);
    if (at >= 0) {
      this.#line.splice(at, 1);
      slot.busy = false;
    }
    if (!slot.busy) {
      this.#slots[index] = null;
      return;
    }
    this.#line.push(CANCELS + index);
    this.flush();
  }

  /** Takes what is over: also what found no place, as much as a call gives. */
  #drain(): void {
    const ring = this.#ring;
    ring.drain(this.#onCompletion);
    while (ring.overflown) {
      ring.enter(0, 0);
      if (ring.drain(this.#onCompletion) === 0) break;
    }
  }

  readonly #onCompletion = (index: number, result: number): void => {
    if (index >= CANCELS) return;
    const slot = this.#slots[index];
    if (!slot) return;
    slot.busy = false;
    if (slot.closed) this.#slots[index] = null;
    else if (slot.onReady !== null) this.#ready.push([slot, result]);
  };

  readonly #onByte = (): boolean => {
    if (this.#closed) return false;
    this.#drain();
    for (let next = this.#ready.shift(); next; next = this.#ready.shift()) {
      const [slot, result] = next;
      if (!slot.closed) slot.onReady!(result);
    }
    this.flush();
    return true;
  };
}
