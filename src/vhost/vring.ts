/**
 * One ring of a device: what a front end said of it, whether it runs, and the
 * way of its requests from the driver's kick to the driver's call.
 *
 * A ring runs while it was started (by its kick descriptor) and is enabled. It
 * takes all there is, asks for the next kick, and looks once more before it is
 * left alone. Answers that come together are shown and told together.
 *
 * What a driver does wrong breaks the ring: it is left alone, and the front end
 * is told by the error descriptor, until it stops the ring.
 *
 * @module
 */

import { clearImmediate, setImmediate } from "node:timers";
import type { BlockDevice } from "./block_device.ts";
import type { VhostCounters } from "./counters.ts";
import type { InflightRegion } from "./inflight.ts";
import { GuestFault, type MemoryMap } from "./memory_map.ts";
import { VhostProtocolError, type VringAddresses } from "./messages.ts";
import {
  type Chain,
  type InflightLog,
  MAX_VIRTQUEUE_SIZE,
  Virtqueue,
  VirtqueueError,
} from "./virtqueue.ts";
import type { Signal, Watched, Watcher } from "./watcher.ts";

/**
 * Pieces of memory of requests that a ring has in flight, from which on no more
 * requests are taken: 32 of Linux's largest are as many. A driver can make one
 * request of thousands.
 */
const MAX_PIECES = 4096;

/** What a ring has of the device that it belongs to. */
export interface VringDevice {
  /** Carries out its requests. */
  readonly block: Pick<BlockDevice, "carryOut">;
  /** Waits for its descriptors. */
  readonly watcher: Watcher;
  /** The guest's memory now; `null` as long as there is none. */
  readonly memory: MemoryMap | null;
  /** Where requests in flight are noted; `null` if they are not. */
  readonly inflight: InflightRegion | null;
  /** Whether used_event and avail_event are in use. */
  readonly eventIndex: boolean;
  /** Whether descriptors may lie in tables of their own. */
  readonly indirect: boolean;
  /** Where kicks, calls and broken rings are counted. */
  readonly counters: VhostCounters;
  /** Closes a descriptor. */
  readonly closeDescriptor: (fd: number) => void;
  /** Hands over to the disk what was submitted. */
  readonly kickDisk: () => void;
  /** Hears of what a driver did wrong. */
  readonly onBroken: (error: Error) => void;
}

/** A descriptor of the front end's, and what is done with it. */
interface Owned<T> {
  readonly fd: number;
  readonly use: T;
}

/** One ring. */
export class Vring {
  readonly #device: VringDevice;
  readonly #index: number;
  #size = 0;
  #base = 0;
  #addresses: VringAddresses | null = null;
  #enabled = false;
  #kick: Owned<Watched> | null = null;
  #call: Owned<Signal> | null = null;
  #error: Owned<Signal> | null = null;
  /** There while the ring was started, until it is stopped or breaks. */
  #queue: Virtqueue | null = null;
  /** Where its requests in flight are noted since it was started. */
  #inflight: InflightLog | null = null;
  #started = false;
  #inFlight = 0;
  /** Pieces of memory that those have. */
  #pieces = 0;
  #drained: PromiseWithResolvers<void> | null = null;
  /** Whether answers will be shown at the end of this turn's answers. */
  #publishing = false;
  #again: ReturnType<typeof setImmediate> | null = null;

  /**
   * Constructs a new instance.
   *
   * @param device What it belongs to.
   * @param index Its number, for messages.
   */
  constructor(device: VringDevice, index: number) {
    this.#device = device;
    this.#index = index;
  }

  /**
   * Sets its size.
   *
   * @param size Descriptors.
   * @throws {VhostProtocolError} If it is none that there can be, or it runs.
   */
  setSize(size: number): void {
    this.#refuseStarted("size");
    if (size < 1 || size > MAX_VIRTQUEUE_SIZE || (size & (size - 1)) !== 0) {
      throw new VhostProtocolError(
        `Cannot use ring ${this.#index} as its size must be a power of two up to ${MAX_VIRTQUEUE_SIZE}: current value is ${size}`,
      );
    }
    this.#size = size;
  }

  /**
   * Sets where it goes on.
   *
   * @param base The index of the next chain.
   * @throws {VhostProtocolError} If it is more than 16 bits, or it runs.
   */
  setBase(base: number): void {
    this.#refuseStarted("base");
    if (base > 0xffff) {
      throw new VhostProtocolError(
        `Cannot start ring ${this.#index} as its base must have 16 bits: current value is ${base}`,
      );
    }
    this.#base = base;
  }

  /**
   * Sets where it lies. While it runs, it goes on there.
   *
   * @param addresses The front end's addresses.
   */
  setAddresses(addresses: VringAddresses): void {
    this.#addresses = addresses;
    if (this.#started) this.relocate();
  }

  /**
   * Sets by what it is told of new requests, which starts it.
   *
   * @param fd An event counter; the ring closes it.
   * @throws {VhostProtocolError} If it has no size, address or memory yet, or has
   * requests in flight from before it broke.
   */
  setKick(fd: number): void {
    // Those still move data into memory that the driver may have given away.
    if (!this.#started && this.busy) {
      this.#device.closeDescriptor(fd);
      throw new VhostProtocolError(
        `Cannot start ring ${this.#index} as it must be stopped first, while requests are in flight: current value is ${this.#inFlight}`,
      );
    }
    this.#dropKick();
    const { watcher } = this.#device;
    const use = this.#use(
      fd,
      () => watcher.counter(fd, (isCounter) => this.#onKick(isCounter)),
    );
    this.#kick = { fd, use };
    if (!this.#started) {
      if (
        this.#size === 0 || this.#addresses === null ||
        this.#device.memory === null
      ) {
        throw new VhostProtocolError(
          `Cannot start ring ${this.#index} as it must have a size, addresses and memory`,
        );
      }
      const { inflight } = this.#device;
      this.#inflight = inflight?.queue(this.#index, this.#size) ?? null;
      this.#started = true;
      this.#open(this.#base);
      // A device before this one may have ended between an answer and its call.
      if (this.#inflight !== null) this.#call?.use.raise();
    }
    use.arm();
    this.#run();
  }

  /**
   * Sets by what the driver is told of answers. It is told once, at once, as what
   * was told by the one before may be lost.
   *
   * @param fd An event counter, which the ring closes; `null` for none.
   */
  setCall(fd: number | null): void {
    this.#drop(this.#call);
    this.#call = null;
    this.#call = this.#signal(fd);
    if (this.#queue !== null) this.#call?.use.raise();
  }

  /**
   * Sets by what the front end is told that the ring is broken.
   *
   * @param fd An event counter, which the ring closes; `null` for none.
   */
  setError(fd: number | null): void {
    this.#drop(this.#error);
    this.#error = null;
    this.#error = this.#signal(fd);
  }

  /**
   * Enables or disables it.
   *
   * @param enabled Whether requests are to be taken.
   */
  enable(enabled: boolean): void {
    this.#enabled = enabled;
    this.#run();
  }

  /** Whether it runs, or has requests in flight: it may have broken meanwhile. */
  get busy(): boolean {
    return this.#started || this.#inFlight > 0;
  }

  /** Finds its memory anew, as it or its addresses have changed. */
  relocate(): void {
    const before = this.#queue;
    if (before === null) return;
    try {
      this.#publish();
    } catch {
      // The memory that it lay in has gone.
    }
    this.#base = before.nextAvailable;
    this.#open(before);
    this.#run();
  }

  /**
   * Stops it: once every request that it took has been answered, and every one
   * that a device before this one took. Where it would go on is behind those, so
   * that nobody else would carry them out.
   *
   * @returns Where it would go on.
   */
  async stop(): Promise<number> {
    this.#started = false;
    this.#dropKick();
    if (this.#again !== null) clearImmediate(this.#again);
    this.#again = null;
    do {
      this.#guard(() => this.#runAgain());
      if (this.#inFlight > 0) {
        await (this.#drained ??= Promise.withResolvers<void>()).promise;
      }
    } while (this.#queue?.hasAgain);
    this.#guard(() => this.#publish());
    const queue = this.#queue;
    this.#queue = null;
    if (queue !== null) this.#base = queue.nextAvailable;
    return this.#base;
  }

  /**
   * Lets go of everything, once every request has been answered: the front end
   * has gone, and is told nothing any more.
   *
   * @returns When it is done.
   */
  async close(): Promise<void> {
    this.setCall(null);
    this.setError(null);
    this.#queue = null;
    this.#started = false;
    await this.stop();
  }

  /** Looks for the queue in the guest's memory. */
  #open(from: number | Virtqueue): void {
    const { memory, eventIndex, indirect } = this.#device;
    this.#queue = null;
    this.#guard(() => {
      this.#queue = new Virtqueue(
        memory!,
        { size: this.#size, ...this.#addresses!, eventIndex, indirect },
        from,
        this.#inflight,
      );
    });
  }

  #onKick(isCounter: boolean): void {
    this.#device.counters.kicks++;
    if (!isCounter) {
      return this.#break(
        new VirtqueueError(
          `Cannot wait for ring ${this.#index} as its kick must be an event counter`,
        ),
      );
    }
    this.#kick?.use.arm();
    this.#device.watcher.flush();
    this.#run();
  }

  /** Takes what there is, and asks for a kick when there is nothing more. */
  #run(): void {
    if (this.#queue === null || !this.#started || !this.#enabled) return;
    if (this.#again !== null) return;
    this.#guard(() => {
      const queue = this.#queue!;
      queue.stopKicks();
      let taken = 0;
      do {
        // As many as there can be: a driver that never ends must not hold
        // everybody else up.
        for (; taken < this.#size && this.#pieces < MAX_PIECES; taken++) {
          const chain = queue.take();
          if (chain === null) break;
          this.#carryOut(chain);
          if (this.#queue !== queue) return;
        }
        // It goes on when some of them have been answered.
        if (this.#pieces >= MAX_PIECES) break;
        if (taken >= this.#size) {
          this.#again = setImmediate(() => {
            this.#again = null;
            this.#run();
          });
          break;
        }
      } while (queue.wantKick());
      if (taken > 0) this.#device.kickDisk();
    });
  }

  /** Takes what a device before this one took, as far as there is room. */
  #runAgain(): void {
    while (this.#pieces < MAX_PIECES) {
      const chain = this.#queue?.takeAgain() ?? null;
      if (chain === null) break;
      this.#carryOut(chain);
    }
    this.#device.kickDisk();
  }

  async #carryOut(chain: Chain): Promise<void> {
    const { block } = this.#device;
    const memory = this.#device.memory!;
    const pieces = chain.readable.length + chain.writable.length;
    memory.hold();
    this.#inFlight++;
    this.#pieces += pieces;
    try {
      const written = await block.carryOut(chain);
      // It is not started anew before: its answers are for whoever asked.
      this.#queue?.put(chain.head, written);
    } catch (error) {
      this.#break(error);
    } finally {
      memory.release();
      this.#inFlight--;
      this.#pieces -= pieces;
      this.#publishSoon();
      if (this.#inFlight === 0) {
        this.#drained?.resolve();
        this.#drained = null;
      }
    }
  }

  /** Shows answers when those that came with them have been put back, too. */
  #publishSoon(): void {
    if (this.#publishing) return;
    this.#publishing = true;
    queueMicrotask(() => {
      this.#publishing = false;
      this.#guard(() => this.#publish());
      // Before new requests: whoever hands them over may wait for the disk.
      this.#device.watcher.flush();
      this.#run();
    });
  }

  #publish(): void {
    if (!this.#queue?.publish() || this.#call === null) return;
    this.#device.counters.calls++;
    this.#call.use.raise();
  }

  #guard(work: () => void): void {
    try {
      work();
    } catch (error) {
      this.#break(error);
    }
  }

  /** Leaves the ring alone from here on. */
  #break(error: unknown): void {
    if (this.#queue === null && !this.#started) return;
    if (this.#queue !== null) this.#base = this.#queue.nextAvailable;
    this.#queue = null;
    this.#started = false;
    this.#dropKick();
    this.#device.counters.brokenRings++;
    this.#error?.use.raise();
    this.#device.watcher.flush();
    // Anything else than these would be a mistake of ours, and is told as well.
    this.#device.onBroken(
      error instanceof GuestFault || error instanceof VirtqueueError
        ? error
        : new Error(`Cannot go on with ring ${this.#index}: ${error}`, {
          cause: error,
        }),
    );
  }

  #refuseStarted(what: string): void {
    if (!this.#started) return;
    throw new VhostProtocolError(
      `Cannot set the ${what} of ring ${this.#index} as it must be stopped first`,
    );
  }

  /** Puts a descriptor to use, or closes it. */
  #use<T>(fd: number, use: () => T): T {
    try {
      return use();
    } catch (error) {
      this.#device.closeDescriptor(fd);
      throw error;
    }
  }

  #signal(fd: number | null): Owned<Signal> | null {
    if (fd === null) return null;
    return { fd, use: this.#use(fd, () => this.#device.watcher.signal(fd)) };
  }

  #dropKick(): void {
    this.#drop(this.#kick);
    this.#kick = null;
  }

  #drop(owned: Owned<Watched | Signal> | null): void {
    if (owned === null) return;
    owned.use.close();
    this.#device.closeDescriptor(owned.fd);
  }
}
