/**
 * A disk of ours that a guest gets: an image behind layers that count and that
 * go wrong when told to.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import type { Backend, Complete } from "../../../src/backend.ts";
import { VirtualDisk } from "../../../src/disk/disk.ts";
import { openBackend, type OpenOptions } from "../../../src/disk/open.ts";
import { type Faults, faults, Layer } from "../../../src/layers/mod.ts";
import { type Request, RequestType } from "../../../src/request.ts";
import { VhostServer } from "../../../src/vhost/mod.ts";

/** Requests that reached the disk, by what they ask for. */
export interface Counts {
  reads: number;
  writes: number;
  /** Of the writes, those that are durable when they are answered. */
  durableWrites: number;
  flushes: number;
  discards: number;
  zeroes: number;
}

/** Counts what comes by. */
class Counting extends Layer {
  counts: Counts = noCounts();

  constructor(backend: Backend) {
    super("counting", backend);
  }

  protected override carryOut(
    batch: readonly Request[],
    complete: Complete,
  ): void {
    for (const request of batch) this.#count(request);
    this.backend.submit(batch, complete);
  }

  #count({ type, fua }: Request): void {
    const { counts } = this;
    if (type === RequestType.In) counts.reads++;
    if (type === RequestType.Out) counts.writes++;
    if (type === RequestType.Out && fua) counts.durableWrites++;
    if (type === RequestType.Flush) counts.flushes++;
    if (type === RequestType.Discard) counts.discards++;
    if (type === RequestType.WriteZeroes) counts.zeroes++;
  }
}

function noCounts(): Counts {
  return {
    reads: 0,
    writes: 0,
    durableWrites: 0,
    flushes: 0,
    discards: 0,
    zeroes: 0,
  };
}

/** A disk that is served to a guest. */
export class ServedDisk implements AsyncDisposable {
  readonly #counting: Counting;
  readonly #disk: VirtualDisk;
  readonly #mistakes: Error[];
  /** What goes wrong: rules may be added and removed. */
  readonly faults: Faults;
  /** The device. */
  readonly server: VhostServer;

  private constructor(backend: Backend, socket: string, readOnly: boolean) {
    this.faults = faults(backend);
    this.#counting = new Counting(this.faults);
    this.#disk = VirtualDisk.over(this.#counting);
    this.#mistakes = [];
    this.server = VhostServer.listen({
      disk: this.#disk,
      path: socket,
      readOnly,
      onError: (error) => this.#mistakes.push(error),
    });
  }

  /**
   * Serves an image.
   *
   * @param image Its path.
   * @param socket Where to.
   * @param options How it is opened.
   * @returns The disk, listening.
   */
  static async open(
    image: string,
    socket: string,
    options: OpenOptions = {},
  ): Promise<ServedDisk> {
    const backend = await openBackend(image, options);
    try {
      return new ServedDisk(backend, socket, options.readOnly ?? false);
    } catch (error) {
      await backend.close();
      throw error;
    }
  }

  /** What the disk says of itself. */
  get info(): VirtualDisk["info"] {
    return this.#disk.info;
  }

  /** Changes its size. */
  resize(sectors: number): Promise<void> {
    return this.#disk.resize(sectors);
  }

  /** Counts what happens from now on. */
  startCounting(): void {
    this.#counting.counts = noCounts();
  }

  /** What happened since. */
  get counts(): Counts {
    return this.#counting.counts;
  }

  /** Stops serving, and closes the disk. Guests make no mistakes. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.server.close();
    await this.#disk.close();
    assertEquals(this.#mistakes, []);
  }
}
