/**
 * A virtio-blk driver over vhost-user, without a guest: requests become chains
 * in shared memory, and a `Backend` comes out of it, so that whatever is asked
 * of a backend can be asked of a device through its rings.
 *
 * It does what the specification allows and few drivers do: buffers are cut
 * anywhere, a header may be in two of them or in one with the data, tables of
 * descriptors come with and without descriptors before them, memory is of
 * several regions and buffers may cross from one into the next. It believes the
 * device nothing: it looks at a ring only after the device's call, never writes
 * a request twice, and looks for bytes beside its buffers. All of it is drawn
 * from a seed.
 *
 * Sources: OASIS virtio 1.3 §2.7 "Split Virtqueues", §5.2 "Block Device"; QEMU,
 * docs/interop/vhost-user.rst.
 *
 * @module
 */

import { Buffer as Bytes } from "node:buffer";
import {
  type Abilities,
  type Backend,
  type BackendCounters,
  type Complete,
  type Limits,
  refuse,
  refuseChanged,
} from "../../src/backend.ts";
import { gather, offsetMemory, scatter } from "../../src/buffer.ts";
import { DiskError } from "../../src/errors.ts";
import { closedError, requestError } from "../../src/request_error.ts";
import {
  type Geometry,
  makeGeometry,
  SECTOR_BYTES,
} from "../../src/geometry.ts";
import type { BackendInfo } from "../../src/info.ts";
import { keepOnThread } from "../../src/one_thread.ts";
import { Random } from "../../src/random.ts";
import {
  ID_BYTES,
  type Request,
  RequestFlag,
  RequestType,
  Status,
} from "../../src/request.ts";
import {
  decodeConfig,
  decodeId,
  hasFeature,
  type VirtioConfig,
  VirtioFeature,
} from "../../src/virtio.ts";
import { FrontEnd, HungUp } from "./front_end.ts";
import { Kernel, KernelError, Poller, Seal } from "./kernel.ts";
import { GUARD, GuestMemory, PAGE_BYTES } from "./memory.ts";
import {
  configPart,
  inflight,
  memoryTable,
  Message,
  PROTOCOL_FEATURES,
  ProtocolFeature,
  ringAddresses,
  ringState,
  u64,
} from "./messages.ts";
import { type Buffer, Ring } from "./ring.ts";
import { answerRequest } from "../../src/throw_later.ts";

/** How long a device that hung up may take to come back, in ms. */
const RECONNECT_MS = 60_000;

/** How long a device may take for a request, in ms. */
const REQUEST_MS = 60_000;

/** Bytes of the configuration space that are read: up to the zoned part. */
const CONFIG_BYTES = 60;

/** Bytes of a header, and of a discard's or a zeroing's range. */
const HEADER_BYTES = 16;
const RANGE_BYTES = 16;

/** VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP. */
const UNMAP = 1;

/** No status that a device gives. */
const NO_STATUS = 0xff;

/** Everything that the driver knows of, as a set of bits. */
const KNOWN_FEATURES = [
  VirtioFeature.SizeMax,
  VirtioFeature.SegMax,
  VirtioFeature.ReadOnly,
  VirtioFeature.BlkSize,
  VirtioFeature.Flush,
  VirtioFeature.Topology,
  VirtioFeature.ConfigWce,
  VirtioFeature.MultiQueue,
  VirtioFeature.Discard,
  VirtioFeature.WriteZeroes,
  VirtioFeature.SecureErase,
  VirtioFeature.IndirectDescriptors,
  VirtioFeature.EventIndex,
  VirtioFeature.Version1,
].reduce((bits, feature) => bits | 1n << BigInt(feature), 0n);

/** How a driver is set up. */
export interface DriverOptions {
  /** What everything random is drawn from. */
  seed?: number;
  /** Queues, if the device has as many. */
  queues?: number;
  /** Descriptors of each queue. */
  queueSize?: number;
  /** Features that are not to be negotiated, by their bits. */
  without?: readonly number[];
  /** Sizes of the regions of memory, in bytes, which adjoin. */
  regions?: readonly number[];
  /**
   * Which regions are sealed, so that they cannot shrink: a device may treat
   * them differently.
   *
   * @default {"some"}
   */
  sealed?: "all" | "some" | "none";
  /**
   * Whether to spare a device made of QEMU's libvhost-user what is allowed and
   * it cannot do: it looks for a table in a chain's first descriptor alone
   * (virtio §2.7.5.3.2), counts a buffer that is in two regions twice, which
   * makes of it a loop, and does not pad the identity.
   *
   * @default {false}
   */
  spareLibvhostUser?: boolean;
  /**
   * Whether to go on with the next device when this one hangs up: requests in
   * flight are noted in memory that the driver keeps.
   *
   * @default {false}
   */
  reconnect?: boolean;
}

/** A request of the disk's, and what is left of it. */
interface Job {
  readonly request: Request;
  readonly complete: Complete;
  left: number;
  flushed: boolean;
  error: DiskError | null;
}

/** One request to the device. */
interface Piece {
  readonly job: Job;
  readonly type: RequestType;
  readonly sector: number;
  /** Bytes that move, and where they are in the request's data. */
  readonly bytes: number;
  readonly from: number;
  /** What the device reads behind the header, if that is no data. */
  readonly ranges: Uint8Array | null;
}

/** Memory for one direction of a chain: buffers, and gaps between them. */
interface Stream {
  readonly address: number;
  readonly byteLength: number;
  readonly buffers: readonly Buffer[];
}

/** A piece that the device has. */
interface Flight {
  readonly piece: Piece;
  readonly out: Stream;
  readonly in: Stream;
  /** What the device reads, to see that it stays as it is. */
  readonly sent: Uint8Array;
  readonly table: { address: number; before: number } | null;
}

/** One queue. */
interface Queue {
  readonly index: number;
  readonly ring: Ring;
  readonly kick: number;
  readonly call: number;
  readonly error: number;
  readonly flights: Map<number, Flight>;
}

/** A disk behind a vhost-user device. */
export class VhostDriver implements Backend {
  readonly #options: DriverOptions;
  readonly #random: Random;
  readonly #path: string;
  readonly #poller: Poller;
  #waiting: Piece[] = [];
  #loop: Promise<void> | null = null;
  #jobs = 0;
  #lost: DiskError | null = null;
  #closing: Promise<void> | null = null;
  #drained: (() => void) | null = null;
  #running = false;
  /** What the device notes of its requests, and its descriptor. */
  #inflight: { message: Uint8Array<ArrayBuffer>; fd: number } | null = null;
  /** Devices that it went on with. */
  reconnects = 0;
  /** The kernel. */
  readonly kernel: Kernel;
  /** The connection. */
  frontEnd: FrontEnd;
  /** The guest's memory. */
  readonly memory: GuestMemory;
  /** The queues, once there are any. */
  queues: readonly Queue[] = [];
  /** The features that were negotiated. */
  features = 0n;
  /** The protocol features that were negotiated. */
  protocolFeatures = 0n;
  /** The device's configuration space. */
  config!: VirtioConfig;
  /** Notifications: how often the device was told, and how often it told. */
  readonly notifications = { kicks: 0, kicksSaved: 0, calls: 0 };

  /** The disk's shape. */
  geometry!: Geometry;
  /** What it can do. */
  abilities!: Abilities;
  /** How large requests may get. */
  limits: Limits = { maxSegments: 1, maxBytes: 1 << 20 };
  /** What it is and why. */
  info!: BackendInfo;
  /** What it counted so far. */
  readonly counters: BackendCounters = {
    systemCalls: 0,
    bounced: 0,
    readModifyWrites: 0,
  };

  private constructor(path: string, options: DriverOptions) {
    keepOnThread(this, "a driver");
    this.#path = path;
    this.#options = options;
    this.#random = new Random(options.seed ?? 1);
    this.kernel = new Kernel();
    try {
      this.frontEnd = new FrontEnd(this.kernel, path);
    } catch (error) {
      this.kernel.close();
      throw error;
    }
    this.#poller = new Poller(this.kernel);
    this.memory = new GuestMemory(this.kernel);
  }

  /**
   * Connects to a device, negotiates, and starts its queues.
   *
   * @param path The device's socket.
   * @param options How.
   * @returns The driver.
   */
  static async connect(
    path: string,
    options: DriverOptions = {},
  ): Promise<VhostDriver> {
    const driver = new VhostDriver(path, options);
    try {
      await driver.#negotiate();
      driver.#layOut();
      await driver.start();
      await driver.#identify();
      return driver;
    } catch (error) {
      await driver.#release();
      throw error;
    }
  }

  /** Whether a protocol feature was negotiated. */
  hasProtocol(feature: number): boolean {
    return (this.protocolFeatures >> BigInt(feature) & 1n) === 1n;
  }

  get #spares(): boolean {
    return this.#options.spareLibvhostUser ?? false;
  }

  #has(feature: VirtioFeature): boolean {
    return hasFeature(this.features, feature);
  }

  async #negotiate(): Promise<void> {
    const { frontEnd } = this;
    const offered = await frontEnd.number(Message.GetFeatures);
    let wanted = offered & KNOWN_FEATURES;
    if ((offered >> BigInt(PROTOCOL_FEATURES) & 1n) === 1n) {
      wanted |= 1n << BigInt(PROTOCOL_FEATURES);
      const protocol = await frontEnd.number(Message.GetProtocolFeatures);
      const use = [
        ProtocolFeature.MultiQueue,
        ProtocolFeature.ReplyAck,
        ProtocolFeature.Config,
        ProtocolFeature.ResetDevice,
        ...this.#options.reconnect ? [ProtocolFeature.InflightShmfd] : [],
      ];
      this.protocolFeatures = use.reduce(
        (bits, bit) => bits | protocol & 1n << BigInt(bit),
        0n,
      );
      frontEnd.tell(Message.SetProtocolFeatures, u64(this.protocolFeatures));
    }
    for (const bit of this.#options.without ?? []) {
      wanted &= ~(1n << BigInt(bit));
    }
    this.features = wanted;
    frontEnd.tell(Message.SetOwner);
    await this.readConfig();
  }

  /** Reads the configuration space, and with it the disk's shape. */
  async readConfig(): Promise<VirtioConfig> {
    const { payload } = await this.frontEnd.ask(
      Message.GetConfig,
      configPart(0, new Uint8Array(CONFIG_BYTES)),
    );
    const bytes = new Uint8Array(payload.buffer);
    const config = decodeConfig(bytes.subarray(12));
    this.config = config;
    const has = (feature: VirtioFeature) => this.#has(feature);
    const blockSize = has(VirtioFeature.BlkSize)
      ? config.blkSize
      : SECTOR_BYTES;
    this.geometry = makeGeometry(config.capacity, blockSize, {
      physicalBlockSize: blockSize << config.physicalBlockExp,
      minimumIoSize: config.minIoSize * blockSize,
      optimalIoSize: config.optIoSize * blockSize,
    });
    const flush = has(VirtioFeature.Flush);
    this.abilities = {
      readOnly: has(VirtioFeature.ReadOnly),
      flush: flush ? "native" : "none",
      // Virtio-blk has no flag for it.
      fua: flush ? "emulated" : "none",
      discard: has(VirtioFeature.Discard) ? "native" : "none",
      writeZeroes: has(VirtioFeature.WriteZeroes) ? "native" : "none",
      secureErase: has(VirtioFeature.SecureErase) ? "native" : "none",
    };
    return config;
  }

  /** Writes one byte of the configuration space: `writeback`. */
  setWriteback(on: boolean): void {
    this.frontEnd.tell(
      Message.SetConfig,
      configPart(32, Uint8Array.of(on ? 1 : 0)),
    );
  }

  #layOut(): void {
    const sizes = this.#options.regions ?? [2 << 20, 1 << 20, 5 << 20];
    const { sealed = "some" } = this.#options;
    let guestAddress = 0x10_0000;
    sizes.forEach((byteLength, i) => {
      const seal = sealed === "all" || sealed === "some" && i % 2 === 0;
      this.memory.add({
        guestAddress,
        byteLength,
        mapOffset: (i + 1) * PAGE_BYTES,
        seals: seal ? Seal.Shrink | Seal.Grow | Seal.Seal : 0,
      });
      guestAddress += byteLength;
    });
  }

  /** Gives the device the memory as it is. */
  async tellMemory(): Promise<void> {
    const { regions } = this.memory;
    this.frontEnd.tell(
      Message.SetMemTable,
      memoryTable(regions),
      regions.map(({ fd }) => fd),
    );
    await this.frontEnd.settled();
  }

  /** Makes the rings anew and starts them. */
  async start(): Promise<void> {
    const { frontEnd, kernel, memory } = this;
    frontEnd.setFeatures(this.features);
    await this.tellMemory();
    const available = this.hasProtocol(ProtocolFeature.MultiQueue)
      ? Number(await frontEnd.number(Message.GetQueueNum))
      : 1;
    const count = Math.min(this.#options.queues ?? 2, available);
    const size = this.#options.queueSize ?? 128;
    this.queues = Array.from({ length: count }, (_, index) => ({
      index,
      ring: new Ring(
        memory,
        size,
        this.#has(VirtioFeature.EventIndex),
        this.#random.pick([0, 0, 16, 48, 1040]),
      ),
      kick: kernel.eventfd(),
      call: kernel.eventfd(),
      error: kernel.eventfd(),
      flights: new Map(),
    }));
    if (this.hasProtocol(ProtocolFeature.InflightShmfd)) {
      const { payload, fds } = await frontEnd.ask(
        Message.GetInflightFd,
        inflight(0, count, size),
      );
      this.#inflight = {
        message: new Uint8Array(payload.buffer),
        fd: fds[0]!,
      };
      this.#tellInflight();
    }
    this.resume();
    await frontEnd.settled();
  }

  #tellInflight(): void {
    const { message, fd } = this.#inflight!;
    this.frontEnd.tell(Message.SetInflightFd, message, [fd]);
  }

  /** Goes on with the next device that lives long enough. */
  async #reconnect(): Promise<void> {
    const end = performance.now() + RECONNECT_MS;
    for (;;) {
      try {
        const next = new FrontEnd(this.kernel, this.#path);
        await this.frontEnd.close();
        this.frontEnd = next;
        await this.attach();
        this.reconnects++;
        return;
      } catch (error) {
        const isGone = error instanceof HungUp || error instanceof KernelError;
        if (!isGone || performance.now() > end) throw error;
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
    }
  }

  /** Says what a device must know to go on, in the order that QEMU has. */
  async attach(): Promise<void> {
    const { frontEnd } = this;
    await frontEnd.number(Message.GetFeatures);
    await frontEnd.number(Message.GetProtocolFeatures);
    frontEnd.tell(Message.SetProtocolFeatures, u64(this.protocolFeatures));
    frontEnd.tell(Message.SetOwner);
    frontEnd.setFeatures(this.features);
    if (this.#inflight !== null) this.#tellInflight();
    await this.tellMemory();
    this.resume((ring) => ring.usedIndex);
    await frontEnd.settled();
  }

  /**
   * Starts the rings where they are.
   *
   * @param base Where that is: what the device said when it stopped, or what the
   * driver knows of one that did not say.
   */
  resume(base: (ring: Ring) => number = (ring) => ring.nextAvailable): void {
    const { frontEnd, memory } = this;
    for (const { index, ring, kick, call, error } of this.queues) {
      const { descriptors, used, available } = ring.parts;
      frontEnd.tell(Message.SetVringCall, u64(index), [call]);
      frontEnd.tell(Message.SetVringErr, u64(index), [error]);
      frontEnd.tell(Message.SetVringNum, ringState(index, ring.size));
      frontEnd.tell(
        Message.SetVringBase,
        ringState(index, base(ring)),
      );
      frontEnd.tell(
        Message.SetVringAddr,
        ringAddresses(
          index,
          memory.userAddress(descriptors),
          memory.userAddress(used),
          memory.userAddress(available),
        ),
      );
      frontEnd.tell(Message.SetVringKick, u64(index), [kick]);
    }
    for (const { index } of this.queues) {
      frontEnd.tell(Message.SetVringEnable, ringState(index, 1));
    }
    this.#running = true;
    this.#pump();
  }

  /**
   * Stops the rings, as a guest's reset or migration does: what the device has
   * is finished by it, what it has not waits until {@linkcode resume}.
   *
   * @returns Where each of them stopped.
   */
  async stop(): Promise<number[]> {
    this.#running = false;
    const bases: number[] = [];
    for (const { index } of this.queues) {
      this.frontEnd.tell(Message.SetVringEnable, ringState(index, 0));
      const { payload } = await this.frontEnd.ask(
        Message.GetVringBase,
        ringState(index, 0),
      );
      if (payload.getUint32(0, true) !== index) {
        throw new Error("The base of another ring was told");
      }
      bases.push(payload.getUint32(4, true));
    }
    return bases;
  }

  async #identify(): Promise<void> {
    const data = new Uint8Array(ID_BYTES);
    this.info = this.#describe("");
    const { segMax } = this.config;
    this.limits = {
      maxSegments: 64,
      maxBytes: 256 << 10,
    };
    this.#segMax = this.#has(VirtioFeature.SegMax) ? segMax : 1;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const job: Job = {
      request: { type: RequestType.GetId } as Request,
      complete: (_, error) => error === null ? resolve() : reject(error),
      left: 1,
      flushed: true,
      error: null,
    };
    this.#jobs++;
    this.#identity = data;
    this.#waiting.push({
      job,
      type: RequestType.GetId,
      sector: 0,
      bytes: ID_BYTES,
      from: 0,
      ranges: null,
    });
    this.#pump();
    await promise;
    this.#identity = null;
    this.info = this.#describe(decodeId(data));
  }
  #identity: Uint8Array | null = null;
  #segMax = 1;

  #describe(id: string): BackendInfo {
    const flushes = this.abilities.flush !== "none";
    return {
      backend: "vhost-user",
      path: this.#path,
      medium: "virtual",
      fileSystem: null,
      engine: { name: "virtio", reason: null },
      direct: {
        active: false,
        method: null,
        reason: "the device has the disk, and its own ways",
        memoryAlignment: 1,
        offsetAlignment: 1,
        readOffsetAlignment: 1,
        alignmentSource: "none",
      },
      durability: {
        flush: "unknown",
        method: flushes ? "VIRTIO_BLK_T_FLUSH" : "none",
        deviceCache: "unknown",
        fua: flushes ? "write + VIRTIO_BLK_T_FLUSH" : "none",
        reason: "what a flush reaches is for the device to say",
      },
      lock: { method: "none", reason: "the device decides who may write" },
      id,
    };
  }

  /** Carries out a batch. */
  submit(batch: readonly Request[], complete: Complete): void {
    for (const request of batch) {
      const refused = this.#closing !== null
        ? closedError(request, this.#path)
        : refuse(request, this.geometry, this.abilities, this.#path);
      if (refused !== null) answerRequest(request, refused, complete);
      else if (this.#lost !== null) {
        answerRequest(request, this.#lostError(request), complete);
      } else this.#begin(request, complete);
    }
    this.#pump();
  }

  /** Memory: any does as well as any other, as all of it is copied. */
  allocate(byteLength: number): Uint8Array<ArrayBuffer> {
    return offsetMemory(byteLength);
  }

  /** Waits for everything submitted, stops the rings, and hangs up. */
  close(): Promise<void> {
    return this.#closing ??= (async () => {
      if (this.#jobs > 0) {
        await new Promise<void>((resolve) => this.#drained = resolve);
      }
      await this.#loop;
      try {
        if (this.#lost === null && this.#running) await this.stop();
      } finally {
        await this.#release();
      }
    })();
  }

  /** Hangs up at once, whatever is in flight. */
  async drop(): Promise<void> {
    this.#lose("the driver hung up");
    this.#closing ??= Promise.resolve();
    await this.#loop;
    await this.#release();
  }

  async #release(): Promise<void> {
    await this.#loop;
    await this.frontEnd.close();
    await this.#poller.close();
    for (const { kick, call, error } of this.queues) {
      for (const fd of [kick, call, error]) this.kernel.libc.close(fd);
    }
    if (this.#inflight !== null) this.kernel.libc.close(this.#inflight.fd);
    let beside: unknown = null;
    try {
      this.memory.checkGuards();
    } catch (error) {
      beside = error;
    }
    this.memory.close();
    this.kernel.close();
    if (beside !== null) throw beside;
  }

  /** Cuts a request into what the device takes at once. */
  #begin(request: Request, complete: Complete): void {
    const pieces: Piece[] = [];
    const job: Job = {
      request,
      complete,
      left: 0,
      flushed: !request.fua,
      error: null,
    };
    const add = (
      sector: number,
      bytes: number,
      from: number,
      ranges: Uint8Array | null = null,
    ) => pieces.push({ job, type: request.type, sector, bytes, from, ranges });
    switch (request.type) {
      case RequestType.Flush:
        add(0, 0, 0);
        break;
      case RequestType.GetId:
        add(0, ID_BYTES, 0);
        break;
      case RequestType.In:
      case RequestType.Out: {
        const { blockSize } = this.geometry;
        const most = Math.max(
          blockSize,
          this.#random.pick([64, 128, 256]) * 1024,
        );
        const total = request.count * SECTOR_BYTES;
        for (let at = 0; at < total; at += most) {
          add(
            request.sector + at / SECTOR_BYTES,
            Math.min(most, total - at),
            at,
          );
        }
        break;
      }
      default: {
        for (const ranges of this.#rangesOf(request)) add(0, 0, 0, ranges);
      }
    }
    job.left = pieces.length;
    this.#jobs++;
    this.#waiting.push(...pieces);
  }

  /** The payloads of a discard, a zeroing or an erasure. */
  #rangesOf(request: Request): Uint8Array[] {
    const { config } = this;
    const [most, ranges] = request.type === RequestType.Discard
      ? [config.maxDiscardSectors, config.maxDiscardSeg]
      : request.type === RequestType.WriteZeroes
      ? [config.maxWriteZeroesSectors, config.maxWriteZeroesSeg]
      : [config.maxSecureEraseSectors, config.maxSecureEraseSeg];
    const unmap = request.type === RequestType.WriteZeroes &&
      (request.flags & RequestFlag.Unmap) !== 0;
    const all: Uint8Array[] = [];
    let { sector, count } = request;
    while (count > 0) {
      const payload: Uint8Array[] = [];
      for (let i = 0; i < Math.max(1, ranges) && count > 0; i++) {
        const sectors = Math.min(count, most === 0 ? count : most);
        const range = new Uint8Array(RANGE_BYTES);
        const view = new DataView(range.buffer);
        view.setBigUint64(0, BigInt(sector), true);
        view.setUint32(8, sectors, true);
        view.setUint32(12, unmap ? UNMAP : 0, true);
        payload.push(range);
        sector += sectors;
        count -= sectors;
      }
      all.push(joined(payload));
    }
    return all;
  }

  /** Gives the device what it has room for. */
  #pump(): void {
    if (!this.#running || this.#lost !== null) return;
    while (this.#waiting.length > 0) {
      const [piece] = this.#waiting;
      const changed = piece!.bytes > 0 && piece!.type !== RequestType.GetId
        ? refuseChanged(piece!.job.request, this.#path)
        : null;
      if (changed !== null) {
        this.#waiting.shift();
        this.#answered(piece!, changed);
        continue;
      }
      const first = this.#random.below(this.queues.length);
      const taken = this.queues.some((_, i) =>
        this.#issue(
          this.queues[(first + i) % this.queues.length]!,
          piece!,
        )
      );
      if (!taken) break;
      this.#waiting.shift();
    }
    for (const { ring, kick } of this.queues) {
      const before = ring.nextAvailable;
      if (ring.publish()) {
        this.counters.systemCalls++;
        this.notifications.kicks++;
        this.kernel.signal(kick);
      } else if (ring.nextAvailable !== before) {
        this.notifications.kicksSaved++;
      }
    }
    const inFlight = this.queues.some(({ ring }) => ring.outstanding > 0);
    if (!inFlight && this.#waiting.length > 0) {
      throw new RangeError("There is no room for a single request");
    }
    if (inFlight) this.#loop ??= this.#run();
  }

  /** Makes a chain of a piece; false if there is no room for it. */
  #issue(queue: Queue, piece: Piece): boolean {
    const random = this.#random;
    const indirect = this.#has(VirtioFeature.IndirectDescriptors) &&
      random.chance(1, 2);
    // A chain is no longer than its ring, also with a table (virtio §2.7.5.3.1).
    const room = indirect ? queue.ring.size : queue.ring.free;
    const most = Math.min(room - 4, this.#segMax, random.pick([1, 2, 8, 32]));
    if (most < 1) return false;
    const header = new Uint8Array(HEADER_BYTES);
    const view = new DataView(header.buffer);
    view.setUint32(0, piece.type, true);
    view.setBigUint64(8, BigInt(piece.sector), true);
    let sent: Uint8Array = header;
    if (piece.ranges !== null) sent = joined([header, piece.ranges]);
    else if (piece.type === RequestType.Out) {
      sent = new Uint8Array(HEADER_BYTES + piece.bytes);
      sent.set(header);
      gather(piece.job.request, piece.from, sent.subarray(HEADER_BYTES));
    }
    const moved = sent.length - HEADER_BYTES;
    const received = piece.type === RequestType.In ||
        piece.type === RequestType.GetId
      ? piece.bytes
      : 0;
    const out = this.#stream(this.#cut(HEADER_BYTES, moved, most, 1), false);
    if (out === null) return false;
    const into = this.#stream(this.#cut(0, received, most, 1), true);
    if (into === null) {
      this.#giveStream(out);
      return false;
    }
    const buffers = [...out.buffers, ...into.buffers];
    const table = indirect
      ? this.#table(buffers.length, queue.ring.free)
      : null;
    if (table === null && indirect) {
      this.#giveStream(out);
      this.#giveStream(into);
      return false;
    }
    let at = 0;
    for (const { address, length } of out.buffers) {
      this.memory.write(address, sent.subarray(at, at + length));
      at += length;
    }
    const status = into.buffers.at(-1)!;
    this.memory.write(
      status.address + status.length - 1,
      Uint8Array.of(NO_STATUS),
    );
    const head = queue.ring.add(buffers, table);
    if (head === null) {
      this.#giveStream(out);
      this.#giveStream(into);
      if (table !== null) this.memory.give(table.address, PAGE_BYTES);
      return false;
    }
    if (moved + received > 0) this.counters.bounced++;
    queue.flights.set(head, { piece, out, in: into, sent, table });
    return true;
  }

  /**
   * Lengths of buffers for a header, data, and what follows them.
   *
   * @param before Bytes before the data: 16, or none where the status follows.
   * @param data Bytes of data.
   * @param most Buffers that the data may be in.
   * @param after Bytes of the status, where it follows.
   */
  #cut(before: number, data: number, most: number, after: number): number[] {
    const random = this.#random;
    const lengths: number[] = [];
    if (before > 0) {
      lengths.push(
        ...random.chance(1, 6)
          ? [random.pick([1, 8, 15])].flatMap((n) => [n, before - n])
          : [before],
      );
    }
    const parts = data === 0 ? 0 : Math.min(
      random.between(1, most),
      Math.ceil(data / SECTOR_BYTES),
    );
    const odd = random.chance(1, 4);
    let left = data;
    for (let i = 0; i < parts; i++) {
      const unit = odd ? 1 : SECTOR_BYTES;
      const share = Math.floor(left / (parts - i) / unit) * unit;
      const length = i === parts - 1 ? left : Math.max(
        Math.min(unit, left),
        share - (odd ? random.below(Math.min(64, share + 1)) : 0),
      );
      if (length === 0) continue;
      lengths.push(length);
      left -= length;
    }
    if (before > 0) {
      // Header and data in one buffer.
      if (data > 0 && random.chance(1, 8)) {
        lengths.splice(0, 2, lengths[0]! + lengths[1]!);
      }
    } else if (data > 0 && random.chance(1, 8)) {
      lengths.push(lengths.pop()! + after);
    } else {
      lengths.push(after);
    }
    return lengths;
  }

  /** Memory for buffers of these lengths, with gaps between them. */
  #stream(lengths: readonly number[], write: boolean): Stream | null {
    const random = this.#random;
    const places: number[] = [];
    const alignment = random.pick([1, 16, 512, 512, 4096]);
    let end = 0;
    for (const length of lengths) {
      const gap = end + random.below(40);
      const at = length < SECTOR_BYTES
        ? gap
        : Math.ceil(gap / alignment) * alignment;
      places.push(at);
      end = at + length;
    }
    const { regions } = this.memory;
    const region = random.pick(regions);
    const from = region.guestAddress +
      random.below(region.byteLength / PAGE_BYTES) * PAGE_BYTES;
    const address = this.memory.take(end, this.#spares, from);
    if (address === null) return null;
    const fill = this.#spares && write ? 0 : GUARD;
    for (const view of this.memory.pieces(address, end)) view.fill(fill);
    return {
      address,
      byteLength: end,
      buffers: lengths.map((length, i) => ({
        address: address + places[i]!,
        length,
        write,
      })),
    };
  }

  #giveStream({ address, byteLength }: Stream): void {
    this.memory.give(address, byteLength);
  }

  /** Memory for a table of descriptors; `null` if there is no room. */
  #table(
    buffers: number,
    free: number,
  ): { address: number; before: number } | null {
    if (free === 0) return null;
    const before = !this.#spares && this.#random.chance(1, 6)
      ? this.#random.below(Math.min(buffers, free))
      : 0;
    const address = this.memory.take(PAGE_BYTES);
    if (address === null) return null;
    return { address, before };
  }

  /** Waits for calls while the device has anything. */
  async #run(): Promise<void> {
    // So that whoever started it has noted it before it can end.
    await Promise.resolve();
    try {
      for (;;) {
        const busy = this.queues.filter(({ ring }) => ring.outstanding > 0);
        if (busy.length === 0 || this.#lost !== null) return;
        const ready = busy.filter(({ ring }) =>
          ring.listen(
            this.#random.chance(1, 4)
              ? this.#random.below(ring.outstanding)
              : 0,
          )
        );
        if (ready.length > 0) {
          for (const queue of ready) this.#reap(queue);
          this.#pump();
          continue;
        }
        const fds = await this.#poller.wait(
          busy.flatMap(({ call, error }) => [call, error]),
          REQUEST_MS,
          [this.frontEnd.fd],
        );
        if (this.#lost !== null) return;
        if (fds.length === 0) {
          throw new Error(`The device made no call for ${REQUEST_MS} ms`);
        }
        for (const queue of busy) {
          if (fds.includes(queue.error)) {
            throw new Error(`The device gave up queue ${queue.index}`);
          }
          if (!fds.includes(queue.call)) continue;
          this.kernel.drain(queue.call);
          this.notifications.calls++;
          queue.ring.ignore();
          this.#reap(queue);
        }
        this.#pump();
        if (fds.includes(this.frontEnd.fd)) {
          if (this.#inflight === null) throw new Error("The device hung up");
          await this.#reconnect();
        }
      }
    } catch (error) {
      this.#lose(error);
    } finally {
      this.#loop = null;
    }
  }

  #reap(queue: Queue): void {
    // An answer may lead to new requests, with descriptors that are free again.
    const landed = queue.ring.take().map(({ head, length }) => {
      const flight = queue.flights.get(head)!;
      queue.flights.delete(head);
      return { flight, length };
    });
    for (const { flight, length } of landed) this.#land(flight, length);
  }

  /** Takes the answer of one piece. */
  #land(flight: Flight, usedLength: number): void {
    const { piece, out, in: into, sent, table } = flight;
    const writable = into.buffers.reduce((sum, { length }) => sum + length, 0);
    if (usedLength > writable) {
      throw new Error(`It wrote ${usedLength} bytes of ${writable}`);
    }
    this.#checkGaps(into);
    this.#checkGaps(out);
    if (!sameBytes(this.#collect(out), sent)) {
      throw new Error("The device wrote what it was to read");
    }
    const answer = this.#collect(into);
    const status = answer.at(-1)!;
    this.#giveStream(out);
    this.#giveStream(into);
    if (table !== null) this.memory.give(table.address, PAGE_BYTES);
    const { request } = piece.job;
    if (status === Status.Ok) {
      const data = answer.subarray(0, -1);
      if (this.#identity !== null) this.#identity.set(data);
      else if (piece.type === RequestType.GetId) request.data!.set(data);
      else if (
        piece.type === RequestType.In && !scatter(request, piece.from, data)
      ) {
        return this.#answered(piece, refuseChanged(request, this.#path));
      }
      return this.#answered(piece, null);
    }
    this.#answered(piece, this.#statusError(piece, status));
  }

  #statusError({ job: { request } }: Piece, status: number): DiskError {
    const [kind, code] = status === Status.IoErr
      ? ["io", "EIO"] as const
      : status === Status.Unsupp
      ? ["unsupported", "EOPNOTSUPP"] as const
      : ["io", `status ${status}`] as const;
    return requestError(kind, request, `the device says ${code}`, {
      path: this.#path,
      code,
    });
  }

  #collect({ buffers }: Stream): Uint8Array {
    return joined(
      buffers.map(({ address, length }) => this.memory.read(address, length)),
    );
  }

  /** Looks between the buffers, where nobody has anything to write. */
  #checkGaps({ address, buffers }: Stream): void {
    const fill = this.#spares && buffers[0]!.write ? 0 : GUARD;
    let at = address;
    for (const buffer of buffers) {
      const gap = this.memory.read(at, buffer.address - at);
      for (let i = 0; i < gap.length; i++) {
        if (gap[i] === fill) continue;
        throw new Error("The device wrote beside a buffer");
      }
      at = buffer.address + buffer.length;
    }
  }

  #answered({ job }: Piece, error: DiskError | null): void {
    job.error ??= error;
    if (--job.left > 0) return;
    if (job.error === null && !job.flushed) {
      job.flushed = true;
      job.left = 1;
      this.#waiting.push({
        job,
        type: RequestType.Flush,
        sector: 0,
        bytes: 0,
        from: 0,
        ranges: null,
      });
      return;
    }
    this.#finish(job, job.error);
  }

  #finish(job: Job, error: DiskError | null): void {
    answerRequest(job.request, error, job.complete);
    if (--this.#jobs === 0) this.#drained?.();
  }

  #lostError(request: Request): DiskError {
    return requestError("io", request, this.#lost!.message, {
      path: this.#path,
      code: "ENOTCONN",
      cause: this.#lost,
    });
  }

  /** Fails everything in flight, once and for all. */
  #lose(cause: unknown): void {
    if (this.#lost !== null) return;
    const text = cause instanceof Error ? cause.message : String(cause);
    this.#lost = new DiskError("io", `the device is lost: ${text}`, { cause });
    this.#poller.wake();
    const jobs = new Set(this.#waiting.map(({ job }) => job));
    for (const { flights } of this.queues) {
      for (const { piece } of flights.values()) jobs.add(piece.job);
      flights.clear();
    }
    this.#waiting = [];
    for (const job of jobs) this.#finish(job, this.#lostError(job.request));
  }
}

function joined(parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(
    parts.reduce((sum, { length }) => sum + length, 0),
  );
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

function sameBytes(one: Uint8Array, other: Uint8Array): boolean {
  return Bytes.compare(one, other) === 0;
}
