/**
 * One front end: its connection, what was agreed on with it, the guest's memory,
 * and the rings that it set up.
 *
 * Messages are taken one after the other, each with the descriptors that came
 * with it, which belong to whatever the message sets or are closed. Whoever
 * breaks the protocol is sent away; what it asked the disk for ends by itself,
 * and only then is its memory given back.
 *
 * @module
 */

import {
  closeOffThread,
  isEventCounter,
  isUnixSocket,
} from "../../ffi/foreign_descriptor.ts";
import type { Libc } from "../../ffi/libc.ts";
import { alignedMemory } from "../../ffi/memory.ts";
import { makeMemoryFile } from "../../ffi/shared_memory.ts";
import { MessageSocket } from "../../ffi/unix_socket.ts";
import type { VirtualDisk } from "../disk/disk.ts";
import { featureBits, hasFeature, VirtioFeature } from "../virtio.ts";
import { BlockDevice, type BlockDeviceOptions } from "./block_device.ts";
import type { BouncePool } from "./bounce_pool.ts";
import type { VhostCounters } from "./counters.ts";
import { checkInflight, inflightBytes, InflightRegion } from "./inflight.ts";
import { GuestFault, MemoryMap, overlap, type Region } from "./memory_map.ts";
import {
  BackEndMessage,
  formatConfig,
  formatInflight,
  formatMessage,
  formatU64,
  formatVringState,
  FrontEndMessage,
  type Header,
  HEADER_BYTES,
  type InflightMessage,
  MAX_DESCRIPTORS,
  MAX_PAYLOAD_BYTES,
  parseConfig,
  parseEmpty,
  parseHeader,
  parseInflight,
  parseMemoryTable,
  parseU64,
  parseVringAddresses,
  parseVringDescriptor,
  parseVringState,
  PROTOCOL_FEATURES_BIT,
  protocolBits,
  ProtocolFeature,
  type RegionMessage,
  VhostProtocolError,
} from "./messages.ts";
import { openRegionMemory } from "./region_memory.ts";
import { Vring, type VringDevice } from "./vring.ts";
import type { Watched, Watcher } from "./watcher.ts";

/** Messages that are taken in a row before others have their turn. */
const MAX_MESSAGES = 32;

/**
 * Memory that was taken away and is still in use, at most: each has mappings or
 * descriptors, of which a process has few.
 */
const MAX_EARLIER_MAPS = 8;

/** What this device has of the protocol. */
const PROTOCOL_FEATURES = protocolBits(
  ProtocolFeature.MultiQueue,
  ProtocolFeature.ReplyAck,
  ProtocolFeature.BackendReq,
  ProtocolFeature.Config,
  ProtocolFeature.InflightShmfd,
  ProtocolFeature.ResetDevice,
);

/**
 * Messages that are part of a feature of the protocol, and which that is. A
 * question whose answer brings no descriptor, anybody may ask.
 */
const FEATURE_OF: Readonly<Record<number, number>> = {
  [FrontEndMessage.SetBackendReqFd]: ProtocolFeature.BackendReq,
  [FrontEndMessage.SetConfig]: ProtocolFeature.Config,
  [FrontEndMessage.GetInflightFd]: ProtocolFeature.InflightShmfd,
  [FrontEndMessage.SetInflightFd]: ProtocolFeature.InflightShmfd,
  [FrontEndMessage.ResetDevice]: ProtocolFeature.ResetDevice,
};

/** What the rings of this device have. */
const RING_FEATURES = featureBits(
  VirtioFeature.IndirectDescriptors,
  VirtioFeature.EventIndex,
) | PROTOCOL_FEATURES_BIT;

/** What a front end is given. */
export interface FrontEndOptions extends BlockDeviceOptions {
  /** The C library. */
  readonly libc: Libc;
  /** Waits for descriptors. */
  readonly watcher: Watcher;
  /** The disk. */
  readonly disk: VirtualDisk;
  /** Memory to bounce data through. */
  readonly bounces: BouncePool;
  /** What is counted. */
  readonly counters: VhostCounters;
  /** Hears of what a driver did wrong. */
  readonly onError: (error: Error) => void;
}

/** One front end. */
export class FrontEnd implements VringDevice {
  readonly #options: FrontEndOptions;
  readonly #socket: MessageSocket;
  readonly #watched: Watched;
  readonly #vrings: Vring[];
  /** Carries out the requests of the rings. */
  readonly block: BlockDevice;
  /** The guest's memory now; `null` as long as there is none. */
  memory: MemoryMap | null = null;
  /** Where requests in flight are noted; `null` if they are not. */
  inflight: InflightRegion | null = null;
  /** What the guest had before, and requests still use. */
  readonly #earlier = new Set<MemoryMap>();

  /** Whether it has begun (SET_OWNER), and did not merely knock. */
  attached = false;
  /** What the front end took of the features. */
  #features = 0n;
  #protocolFeatures = 0n;
  /** Where messages of ours go; `null` as long as nowhere. */
  #backendSocket: MessageSocket | null = null;

  readonly #headerBytes = alignedMemory(HEADER_BYTES, 8);
  readonly #payloadBytes = alignedMemory(MAX_PAYLOAD_BYTES, 8);
  readonly #outgoing = alignedMemory(HEADER_BYTES + MAX_PAYLOAD_BYTES, 8);
  /** What came so far of the message that is being received. */
  #received = 0;
  #header: Header | null = null;
  #descriptors: number[] = [];
  /** A descriptor of ours that goes with the next answer. */
  #attachment: number | undefined;
  /** Descriptors of whatever kind that are to be closed. */
  #unwanted: number[] = [];
  /** When those that were to be closed so far are. */
  #closing: Promise<unknown> = Promise.resolve();

  /** Whether the connection has been or is to be closed. */
  #gone = false;
  readonly #ended = Promise.withResolvers<void>();

  /**
   * Begins to serve a front end.
   *
   * @param fd Its connection, which is closed here.
   * @param options What it is given.
   */
  constructor(fd: number, options: FrontEndOptions) {
    this.#options = options;
    this.#socket = new MessageSocket(options.libc, fd);
    this.block = new BlockDevice(
      options.disk,
      options,
      options.bounces,
      options.counters,
    );
    this.#vrings = Array.from(
      { length: options.queues },
      (_, index) => new Vring(this, index),
    );
    this.#watched = options.watcher.socket(fd, () => void this.#receive());
    this.#watched.arm();
    options.watcher.flush();
  }

  /** When it has gone, and everything that it had was given back. */
  get ended(): Promise<void> {
    return this.#ended.promise;
  }

  /** Waits for descriptors. */
  get watcher(): Watcher {
    return this.#options.watcher;
  }

  /** What is counted. */
  get counters(): VhostCounters {
    return this.#options.counters;
  }

  /** Whether used_event and avail_event are in use. */
  get eventIndex(): boolean {
    return hasFeature(this.#features, VirtioFeature.EventIndex);
  }

  /** Whether descriptors may lie in tables of their own. */
  get indirect(): boolean {
    return hasFeature(this.#features, VirtioFeature.IndirectDescriptors);
  }

  /** Closes a descriptor, unless that may take a while: then a little later. */
  readonly closeDescriptor = (fd: number): void => {
    const { libc } = this.#options;
    if (isEventCounter(libc, fd)) libc.close(fd);
    else this.#unwanted.push(fd);
  };

  /** Hands over to the disk what was submitted. */
  readonly kickDisk = (): void => this.#options.disk.kick();

  /** Hears of what a driver did wrong. */
  readonly onBroken = (error: Error): void => this.#options.onError(error);

  /** Tells the front end that the configuration space has changed. */
  announceConfig(): void {
    const socket = this.#backendSocket;
    if (socket === null) return;
    // QEMU reads all of it then, and takes the capacity alone.
    this.block.settleWriteback();
    const { ConfigChange } = BackEndMessage;
    const length = formatMessage(
      this.#outgoing,
      ConfigChange,
      false,
      new Uint8Array(0),
    );
    // Who takes nothing there hears of it by asking.
    socket.send(this.#outgoing.subarray(0, length));
  }

  /**
   * Sends it away. What it asked for is done, and no longer answered.
   *
   * @param error Why, if it did something wrong.
   */
  async end(error: Error | null = null): Promise<void> {
    if (this.#gone) return;
    this.#gone = true;
    if (error !== null) {
      this.#options.counters.dropped++;
      this.#options.onError(error);
    }
    this.#watched.close();
    this.#socket.shutDown();
    const sockets = [this.#socket.fd];
    if (this.#backendSocket !== null) sockets.push(this.#backendSocket.fd);
    this.#backendSocket = null;
    await Promise.all(this.#vrings.map((vring) => vring.close()));
    this.memory?.release();
    this.memory = null;
    this.inflight?.release();
    this.inflight = null;
    await this.#closeDescriptors();
    await closeOffThread(this.#options.libc, sockets);
    this.#ended.resolve();
  }

  /** Takes the messages that have come. */
  async #receive(): Promise<void> {
    try {
      for (let i = 0; i < MAX_MESSAGES; i++) {
        const header = this.#next();
        if (header === null) break;
        if (header === "end") return await this.end();
        await this.#take(header);
        if (this.#gone) return;
      }
      this.#watched.arm();
      this.#options.watcher.flush();
    } catch (error) {
      await this.end(error instanceof Error ? error : new Error(String(error)));
    }
  }

  /** The next message, if all of it is there; its payload is received by then. */
  #next(): Header | "end" | null {
    const { EAGAIN, EINTR } = this.#options.libc.abi.errno;
    for (;;) {
      const target = this.#header === null
        ? this.#headerBytes
        : this.#payloadBytes.subarray(0, this.#header.size);
      if (this.#received === target.length) {
        this.#received = 0;
        if (this.#header !== null) {
          const header = this.#header;
          this.#header = null;
          return header;
        }
        this.#header = parseHeader(
          new DataView(target.buffer, target.byteOffset, target.length),
        );
        continue;
      }
      const count = this.#socket.receive(
        target.subarray(this.#received),
        this.#descriptors,
      );
      if (count === -EAGAIN) return null;
      if (count === -EINTR) continue;
      if (count === 0 && this.#received === 0 && this.#header === null) {
        return "end";
      }
      if (count <= 0 || this.#descriptors.length > MAX_DESCRIPTORS) {
        throw new VhostProtocolError(
          count === 0
            ? "Cannot take a message as the connection ended within it"
            : count < 0
            ? `Cannot take a message: errno ${-count}`
            : `Cannot take a message as it must bring at most ${MAX_DESCRIPTORS} descriptors`,
        );
      }
      this.#received += count;
    }
  }

  /** Does what a message says, and answers it. */
  async #take(header: Header): Promise<void> {
    const payload = this.#payloadBytes.slice(0, header.size);
    let answer: Uint8Array | null | undefined;
    let failure: unknown = null;
    try {
      answer = await this.#handle(header.request, payload);
      if (this.#descriptors.length > 0) {
        throw new VhostProtocolError(
          `Cannot take message ${header.request} as it must come with no more descriptors: current value is ${this.#descriptors.length}`,
        );
      }
    } catch (error) {
      failure = error;
    } finally {
      // What was taken is no longer among them.
      await this.#closeDescriptors();
    }
    if (this.#gone) return this.#dropAttachment();
    const acknowledges = header.needsReply && !isReplied(header.request) &&
      this.#agreed(ProtocolFeature.ReplyAck);
    if (failure !== null) {
      this.#dropAttachment();
      // Who asked to hear of it may go on; nobody else would know.
      if (!acknowledges || !(failure instanceof GuestFault)) throw failure;
      this.#options.onError(failure);
    }
    if (acknowledges) answer = formatU64(failure === null ? 0n : 1n);
    if (answer === null || answer === undefined) return;
    const length = formatMessage(
      this.#outgoing,
      header.request,
      true,
      answer,
    );
    const sent = this.#socket.send(
      this.#outgoing.subarray(0, length),
      this.#attachment,
    );
    this.#dropAttachment();
    const { EPIPE, ECONNRESET } = this.#options.libc.abi.errno;
    // It has hung up without waiting for the answer.
    if (sent === -EPIPE || sent === -ECONNRESET) return await this.end();
    if (sent !== length) {
      throw new VhostProtocolError(
        `Cannot answer message ${header.request} as the front end does not take it`,
      );
    }
  }

  /** Does what a message says; returns what it is answered by, if it is. */
  async #handle(
    request: number,
    payload: Uint8Array<ArrayBuffer>,
  ): Promise<Uint8Array | null> {
    const message = FrontEndMessage;
    const feature = FEATURE_OF[request];
    if (feature !== undefined && !this.#agreed(feature)) {
      throw notAgreed(request);
    }
    switch (request) {
      case message.GetFeatures:
        parseEmpty(payload);
        return formatU64(this.#offered);
      case message.SetFeatures:
        this.#setFeatures(parseU64(payload));
        return null;
      case message.SetOwner:
        parseEmpty(payload);
        this.attached = true;
        return null;
      case message.ResetOwner:
        parseEmpty(payload);
        for (const vring of this.#vrings) vring.enable(false);
        return null;
      case message.ResetDevice:
        parseEmpty(payload);
        await this.#reset();
        return null;
      case message.GetProtocolFeatures:
        parseEmpty(payload);
        return formatU64(PROTOCOL_FEATURES);
      case message.SetProtocolFeatures:
        this.#setProtocolFeatures(parseU64(payload));
        return null;
      case message.GetQueueNum:
        parseEmpty(payload);
        return formatU64(BigInt(this.#vrings.length));
      case message.SetMemTable:
        await this.#setMemory(parseMemoryTable(payload));
        return null;
      case message.SetVringNum: {
        const { index, value } = parseVringState(payload);
        this.#vring(index).setSize(value);
        return null;
      }
      case message.SetVringBase: {
        const { index, value } = parseVringState(payload);
        this.#vring(index).setBase(value);
        return null;
      }
      case message.SetVringAddr: {
        const addresses = parseVringAddresses(payload);
        this.#vring(addresses.index).setAddresses(addresses);
        return null;
      }
      case message.SetVringEnable: {
        const { index, value } = parseVringState(payload);
        this.#vring(index).enable(value !== 0);
        return null;
      }
      case message.GetVringBase: {
        const { index } = parseVringState(payload);
        const value = await this.#vring(index).stop();
        return formatVringState({ index, value });
      }
      case message.SetVringKick:
      case message.SetVringCall:
      case message.SetVringErr:
        this.#setDescriptor(request, payload);
        return null;
      case message.SetBackendReqFd: {
        parseEmpty(payload);
        const { libc } = this.#options;
        const fd = this.#takeDescriptor();
        if (!isUnixSocket(libc, fd)) {
          this.#unwanted.push(fd);
          throw new VhostProtocolError(
            "Cannot send messages as their socket must be a Unix socket",
          );
        }
        if (this.#backendSocket !== null) {
          this.#unwanted.push(this.#backendSocket.fd);
        }
        this.#backendSocket = new MessageSocket(libc, fd);
        return null;
      }
      case message.GetConfig: {
        const { offset, size } = parseConfig(payload);
        const bytes = new Uint8Array(size);
        bytes.set(this.block.config().subarray(offset, offset + size));
        return formatConfig(offset, bytes);
      }
      case message.SetConfig: {
        const { offset, bytes } = parseConfig(payload);
        // The guest's mistake is none of the front end's.
        const done = this.block.setConfig(offset, bytes);
        this.inflight?.noteWriteback(this.block.writeback ?? false);
        await done;
        return null;
      }
      case message.GetInflightFd:
        return this.#makeInflight(payload);
      case message.SetInflightFd:
        await this.#setInflight(parseInflight(payload));
        return null;
      default:
        throw notAgreed(request);
    }
  }

  get #offered(): bigint {
    return this.block.features | RING_FEATURES;
  }

  #agreed(feature: number): boolean {
    return (this.#protocolFeatures >> BigInt(feature) & 1n) === 1n;
  }

  #setFeatures(features: bigint): void {
    if ((features & ~this.#offered) !== 0n) {
      throw new VhostProtocolError(
        `Cannot set features as they must be among 0x${
          this.#offered.toString(16)
        }: current value is 0x${features.toString(16)}`,
      );
    }
    this.#features = features;
    this.block.setFeatures(features);
    // Who knows no features of the protocol cannot enable a ring.
    if ((features & PROTOCOL_FEATURES_BIT) === 0n) {
      for (const vring of this.#vrings) vring.enable(true);
    }
  }

  #setProtocolFeatures(features: bigint): void {
    if ((features & ~PROTOCOL_FEATURES) !== 0n) {
      throw new VhostProtocolError(
        `Cannot set features of the protocol as they must be among 0x${
          PROTOCOL_FEATURES.toString(16)
        }: current value is 0x${features.toString(16)}`,
      );
    }
    this.#protocolFeatures = features;
  }

  async #reset(): Promise<void> {
    for (const vring of this.#vrings) {
      vring.enable(false);
      await vring.stop();
    }
    this.#features = 0n;
    this.block.setFeatures(0n);
    this.inflight?.release();
    this.inflight = null;
  }

  /** Makes memory for requests in flight, for the front end to keep. */
  #makeInflight(payload: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
    const { queues, queueSize } = checkInflight(parseInflight(payload));
    const byteLength = inflightBytes({ queues, queueSize });
    const fd = makeMemoryFile(this.#options.libc, "inflight", byteLength);
    if (fd < 0) {
      throw new Error(
        `Cannot make memory for requests in flight: errno ${-fd}`,
      );
    }
    this.#attachment = fd;
    const message = { byteLength, fileOffset: 0, queues, queueSize };
    return formatInflight(message, payload.length);
  }

  /** Notes in the front end's memory what is in flight, from the next start on. */
  async #setInflight(message: InflightMessage): Promise<void> {
    if (this.#vrings.some(({ busy }) => busy)) {
      throw new VhostProtocolError(
        "Cannot set the memory for requests in flight as all rings must be stopped first",
      );
    }
    const memory = openRegionMemory(
      this.#options.libc,
      this.#takeDescriptor(),
      message,
      (fd) => this.#unwanted.push(fd),
    );
    const { block } = this;
    let inflight: InflightRegion;
    let noted: boolean | null;
    try {
      inflight = new InflightRegion(memory, message);
      noted = inflight.writeback;
    } catch (error) {
      memory.release();
      throw error;
    }
    this.inflight?.release();
    this.inflight = inflight;
    if (noted === null) block.settleWriteback();
    // What the driver turned off since then stays off.
    const on = (noted ?? true) && block.writeback !== false;
    inflight.noteWriteback(on);
    await block.setWriteback(on);
  }

  #dropAttachment(): void {
    if (this.#attachment === undefined) return;
    this.#options.libc.close(this.#attachment);
    this.#attachment = undefined;
  }

  async #setMemory(messages: RegionMessage[]): Promise<void> {
    checkRegions(messages);
    while (this.#earlier.size >= MAX_EARLIER_MAPS) {
      await Promise.race([...this.#earlier].map(({ released }) => released));
    }
    if (this.#gone) return;
    if (messages.length !== this.#descriptors.length) {
      throw new VhostProtocolError(
        `Cannot take a table of memory as each of ${messages.length} regions must come with a descriptor: current value is ${this.#descriptors.length}`,
      );
    }
    const regions: Region[] = [];
    try {
      for (const { guestAddress, userAddress, ...file } of messages) {
        const memory = openRegionMemory(
          this.#options.libc,
          this.#takeDescriptor(),
          file,
          (fd) => this.#unwanted.push(fd),
        );
        const { byteLength } = file;
        regions.push({ guestAddress, userAddress, byteLength, memory });
      }
    } catch (error) {
      for (const { memory } of regions) memory.release();
      throw error;
    }
    const before = this.memory;
    this.memory = new MemoryMap(regions);
    for (const vring of this.#vrings) vring.relocate();
    if (before === null) return;
    this.#earlier.add(before);
    void before.released.then(() => this.#earlier.delete(before));
    before.release();
  }

  #setDescriptor(request: number, payload: Uint8Array<ArrayBuffer>): void {
    const { index, hasDescriptor } = parseVringDescriptor(payload);
    const vring = this.#vring(index);
    const isKick = request === FrontEndMessage.SetVringKick;
    if (isKick && !hasDescriptor) {
      throw new VhostProtocolError(
        `Cannot start ring ${index} as it must have a descriptor for its kick: polling is not supported`,
      );
    }
    const fd = hasDescriptor ? this.#takeDescriptor() : null;
    if (isKick) {
      this.block.settleWriteback();
      vring.setKick(fd!);
    } else if (request === FrontEndMessage.SetVringCall) vring.setCall(fd);
    else vring.setError(fd);
    this.#options.watcher.flush();
  }

  #vring(index: number): Vring {
    const vring = this.#vrings[index];
    if (vring !== undefined) return vring;
    throw new VhostProtocolError(
      `Cannot find ring ${index} as there are ${this.#vrings.length}`,
    );
  }

  #takeDescriptor(): number {
    const fd = this.#descriptors.shift();
    if (fd !== undefined) return fd;
    throw new VhostProtocolError(
      "Cannot take a message as it must come with a descriptor",
    );
  }

  /** Closes what came with a message and has no use, or has none any more. */
  async #closeDescriptors(): Promise<void> {
    const fds = [...this.#descriptors, ...this.#unwanted];
    this.#descriptors = [];
    this.#unwanted = [];
    const closed = closeOffThread(this.#options.libc, fds);
    this.#closing = Promise.all([this.#closing, closed]);
    await this.#closing;
  }
}

function notAgreed(request: number): VhostProtocolError {
  return new VhostProtocolError(
    `Cannot take message ${request} as it was not agreed on`,
  );
}

/** Whether a message has an answer of its own. */
function isReplied(request: number): boolean {
  const message = FrontEndMessage;
  return request === message.GetFeatures ||
    request === message.GetProtocolFeatures ||
    request === message.GetQueueNum || request === message.GetVringBase ||
    request === message.GetConfig || request === message.GetInflightFd;
}

/** Two regions must not have an address in common. */
function checkRegions(regions: readonly RegionMessage[]): void {
  for (const [i, a] of regions.entries()) {
    if (a.byteLength === 0) {
      throw new VhostProtocolError(
        "Cannot take a table of memory as each region must have at least one byte",
      );
    }
    for (const b of regions.slice(i + 1)) {
      if (
        overlap(a.guestAddress, a.byteLength, b.guestAddress, b.byteLength) ||
        overlap(a.userAddress, a.byteLength, b.userAddress, b.byteLength)
      ) {
        throw new VhostProtocolError(
          "Cannot take a table of memory as two regions must not overlap",
        );
      }
    }
  }
}
