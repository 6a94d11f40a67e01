/**
 * Waiting for descriptors by a ring.
 *
 * A small io_uring of its own has one operation for each descriptor: a poll for a
 * socket, a read for an event counter. When one is over, a {@linkcode Bell} wakes
 * the event loop. So an idle guest costs nothing, and a kick costs no thread.
 *
 * The way through the event loop costs some 40 µs for each kick. So when a guest
 * was answered and nothing is in flight, this thread stays for a while: it sleeps
 * in the ring itself, for times that no timer notices, and until the event loop is
 * wanted for anything, by a poll of the loop's own epoll. The bell does not ring
 * meanwhile, as whoever polls the loop would hear it.
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
import {
  clearImmediate,
  clearTimeout,
  setImmediate,
  setTimeout,
} from "node:timers";
import { isEventCounter } from "../../ffi/foreign_descriptor.ts";
import {
  IORING_FEAT,
  IORING_OP,
  IORING_SETUP,
  IoUring,
} from "../../ffi/io_uring.ts";
import type { Libc } from "../../ffi/libc.ts";
import { mapMemory, type MappedMemory } from "../../ffi/mapped_memory.ts";
import { POLLIN } from "../../ffi/poll.ts";
import { findReactor } from "../../ffi/reactor.ts";
import { SocketPair } from "../../ffi/socket_pair.ts";
import { Bell } from "./bell.ts";
import {
  COUNTER_BYTES,
  type Signal,
  socketSignal,
  stopBlocking,
  type Watched,
  type Watcher,
  watchNothing,
} from "./watcher.ts";

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
const LOOP = 0xffff_ffff;
/** With the index of a slot whose operation is taken back. */
const CANCELS = 0x8000_0000;

/**
 * The longest sleep in the ring, in µs: the first one, which holds up whoever has
 * work in the same event loop, and those after it, if nobody had any in the turn
 * between, that is, for so many ms. And for how long in all, in ms.
 */
const FIRST_SLEEP_US = 200;
const NEXT_SLEEP_US = 1000;
const IDLE_TURN_MS = 0.1;
const LINGER_MS = 2;

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

/** A ring that can send; `null` if there is none. */
function openRing(libc: Libc): IoUring | null {
  for (const flags of SETUPS) {
    const ring = IoUring.setup(libc, { entries: ENTRIES, flags });
    if (typeof ring === "number") continue;
    if (ring.operations()[IORING_OP.SEND]) return ring;
    ring.close();
    break;
  }
  return null;
}

/** Waits for descriptors by a ring. */
export class RingWatcher implements Watcher {
  readonly #libc: Libc;
  readonly #ring: IoUring;
  readonly #memory: MappedMemory;
  readonly #pair: SocketPair;
  readonly #bell: Bell;
  readonly #socket: Socket;
  /** By what their operations bring back; the first place is never taken. */
  readonly #slots: (Slot | null)[] = [null];
  /** Slots of which something came, for the next turn. */
  readonly #ready: [slot: Slot, result: number][] = [];
  /**
   * What is to be handed over, by what it brings back. It becomes submissions in
   * {@linkcode flush} alone, as those name descriptors by numbers, which may be
   * those of other files later on.
   */
  readonly #line: number[] = [];
  #retry: ReturnType<typeof setTimeout> | null = null;
  /** The event loop's epoll; `null` if it is not known, `undefined` not yet. */
  #loopFd: number | null | undefined;
  /** Whether the ring has a poll of it. */
  #watchesLoop = false;
  #lingerUntil = 0;
  /** When the next sleep was asked for, in ms; `null` if it is the first one. */
  #sleptAt: number | null = null;
  /** Whether a turn is at work on what is ready. */
  #telling = false;
  #isIdle: () => boolean = () => false;
  #immediate: ReturnType<typeof setImmediate> | null = null;
  #closed = false;

  private constructor(
    libc: Libc,
    ring: IoUring,
    memory: MappedMemory,
    pair: SocketPair,
    bell: Bell,
  ) {
    this.#libc = libc;
    this.#ring = ring;
    this.#memory = memory;
    this.#pair = pair;
    this.#bell = bell;
    this.#armBell();
    new DataView(memory.bytes.buffer).setUint32(0, 1, true);
    this.#socket = new Socket({ fd: pair.otherFd, readable: true });
    this.#socket.on("data", this.#onByte);
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
    const ring = openRing(libc);
    const bell = ring === null ? null : Bell.open(libc, pair);
    if (ring !== null && bell !== null && ring.countBy(bell.counter) >= 0) {
      try {
        const memory = mapMemory(libc, MEMORY_BYTES);
        return new RingWatcher(libc, ring, memory, pair, bell);
      } catch {
        // There is no memory left.
      }
    }
    bell?.close();
    ring?.close();
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
      let count = 0;
      while (count < line.length && ring.unsubmitted < ring.entries) {
        this.#prepare(line[count++]!);
      }
      line.splice(0, count);
      this.#enter(0, 0);
      // The kernel may have no memory for the moment.
      if (ring.unsubmitted > 0) {
        const left: number[] = [];
        ring.takeBack((what) => left.push(what));
        line.unshift(...left);
        this.#later();
        break;
      }
    }
    // What was there already when it was asked for.
    if (this.#ready.length > 0 && !this.#telling) this.#pair.send();
  }

  /** Sleeps in the ring for a while. */
  linger(isIdle: () => boolean): void {
    if (this.#closed || this.#loopFd === null) return;
    this.#isIdle = isIdle;
    this.#lingerUntil = performance.now() + LINGER_MS;
    this.#sleptAt = null;
    this.#immediate ??= setImmediate(this.#onImmediate);
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
      this.#enter(1, CLOSE_WAIT_US);
    }
    this.#closed = true;
    if (this.#retry !== null) clearTimeout(this.#retry);
    if (this.#immediate !== null) clearImmediate(this.#immediate);
    // What the kernel may still read into is left to it.
    if (!isBusy()) this.#memory.release();
    ring.close();
    this.#bell.close();
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
    if (what === LOOP) {
      ring.preparePoll(this.#loopFd!, POLLIN, LOOP);
      return;
    }
    if (what >= CANCELS) {
      ring.prepareCancel(what - CANCELS, what);
      return;
    }
    const { fd, isCounter, onReady } = this.#slots[what]!;
    const { address } = this.#memory;
    if (onReady === null) {
      ring.prepareWrite(fd, address, COUNTER_BYTES, 0, 0, what);
    } else if (isCounter) {
      const at = address + what * COUNTER_BYTES;
      ring.prepareRead(fd, at, COUNTER_BYTES, 0, what);
    } else ring.preparePoll(fd, POLLIN, what);
  }

  /** Enters the kernel, and takes what is over. */
  #enter(waitFor: number, timeoutUs: number): void {
    const ring = this.#ring;
    // What comes within the call is looked for afterwards: also what comes between
    // the two, by an interrupt.
    ring.counts = false;
    ring.enter(waitFor, timeoutUs);
    ring.counts = true;
    this.#drain();
  }

  #armBell(): void {
    this.#bell.arm();
    if (this.#bell.isRefused) this.#later();
  }

  /** Hands over again what the kernel did not take. */
  #later(): void {
    this.#retry ??= setTimeout(() => {
      this.#retry = null;
      this.#armBell();
      this.flush();
    }, RETRY_MS);
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
    if (index === LOOP) this.#watchesLoop = false;
    if (index >= CANCELS) return;
    const slot = this.#slots[index];
    if (!slot) return;
    slot.busy = false;
    if (slot.closed) this.#slots[index] = null;
    else if (slot.onReady !== null) this.#ready.push([slot, result]);
  };

  readonly #onByte = (): void => {
    if (this.#closed) return;
    // It is known where the loop sleeps once a byte has woken it.
    if (this.#loopFd === undefined) this.#loopFd = this.#findLoop();
    this.#armBell();
    this.#drain();
    this.#tell();
  };

  /** A turn of the event loop: sleeps for a while, if nothing has come yet. */
  readonly #onImmediate = (): void => {
    this.#immediate = null;
    const now = performance.now();
    if (!this.#isIdle() || now > this.#lingerUntil) return;
    const isFirst = this.#sleptAt === null;
    if (!isFirst && now - this.#sleptAt! > IDLE_TURN_MS) return;
    if (!this.#watchesLoop) {
      this.#watchesLoop = true;
      this.#line.push(LOOP);
    }
    this.flush();
    // Who wants the loop has it when no turn is asked for.
    if (!this.#watchesLoop) return;
    if (this.#ready.length === 0) {
      this.#enter(1, isFirst ? FIRST_SLEEP_US : NEXT_SLEEP_US);
    }
    if (this.#ready.length > 0) this.#tell();
    else if (this.#watchesLoop) {
      this.#sleptAt = performance.now();
      this.#immediate = setImmediate(this.#onImmediate);
    }
  };

  /** Tells whoever has something. */
  #tell(): void {
    this.#telling = true;
    try {
      for (let next = this.#ready.shift(); next; next = this.#ready.shift()) {
        const [slot, result] = next;
        if (!slot.closed) slot.onReady!(result);
      }
    } finally {
      this.#telling = false;
      this.flush();
    }
  }

  #findLoop(): number | null {
    if ((this.#ring.features & IORING_FEAT.EXT_ARG) === 0) return null;
    try {
      return findReactor(this.#libc, this.#pair.otherFd, this.#pair.fd);
    } catch {
      // FFI was given up with the server open.
      return null;
    }
  }
}
