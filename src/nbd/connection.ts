/**
 * One client: what it sends becomes requests to the disk, and their answers
 * become replies, in the order in which the disk gives them.
 *
 * Bytes from the socket feed a state machine that takes as many requests as
 * have come, so that they reach the queue as one batch; nothing is awaited for
 * a single request. The rest of a large payload is read straight into the
 * memory that goes to the disk. Data that was read goes out with its header in
 * front, in one write; small replies of one turn are joined.
 *
 * Backpressure: nothing is read from the socket while the connection has as
 * many requests, or as many bytes, under way as it may, replies that the client
 * has not taken included, or while other clients hold the memory that the next
 * request wants.
 *
 * @module
 */

import type { ByteStream } from "../protocol/nbd/byte_stream.ts";
import { MessageReader, RECEIVE_BYTES } from "../protocol/nbd/reader.ts";
import { StreamWriter } from "../protocol/nbd/writer.ts";
import {
  Allocation,
  CHUNK_BYTES,
  CHUNK_DONE,
  ChunkType,
  Command,
  CommandFlag,
  ExportFlag,
  Magic,
  readU64,
  REQUEST_BYTES,
  SIMPLE_REPLY_BYTES,
  viewOf,
  WireError,
  writeU64,
} from "../protocol/nbd/numbers.ts";
import {
  type Agreement,
  ALLOCATION_CONTEXT,
  Handshake,
  type HandshakeOptions,
  MAX_OPTION_BYTES,
  ProtocolError,
} from "./handshake.ts";
import type {
  MemoryAccount,
  MemoryBudget,
  MemoryHolder,
} from "./memory_budget.ts";
import { printable } from "../printable.ts";
import { HEADROOM_BYTES, type Memory, memoryBytes } from "./memory_pool.ts";
import type { ByteRun } from "./run_map.ts";
import { allDone, type ServedDisk, wireErrorOf } from "./served_disk.ts";
import { type NbdTlsOptions, secure } from "./tls.ts";
import type { Turns } from "./turns.ts";

/** Bytes of a payload that are worth reading to refuse it. */
const MAX_REFUSED_BYTES = 64 << 20;

/** From here on a read asks where holes are. */
const SPARSE_BYTES = 32_768;

/** Runs of data and holes that one reply tells apart. */
const MAX_CHUNKS = 32;

/** Runs that one answer about them has at most. */
const MAX_STATUS_RUNS = 1024;

/** Bytes of replies that the client must take before it may go on haggling. */
const MAX_UNREAD_BYTES = 65_536;

/** How long a client that is sent away may keep silent, in ms. */
const FAREWELL_MS = 50;

/** What is counted of all connections together. */
export interface NbdCounters {
  /** Connections so far. */
  connections: number;
  /** Requests answered, good or bad. */
  requests: number;
  /** Requests answered with an error. */
  errors: number;
  /** Bytes of data sent, holes not counted. */
  bytesRead: number;
  /** Bytes of data taken. */
  bytesWritten: number;
  /**
   * Reads, writes and zeroes that did not start and end on blocks of the disk.
   * To write or zero them, the blocks at their ends are read first.
   */
  unaligned: number;
  /** Connections that were ended as the client broke the protocol. */
  dropped: number;
  /**
   * Connections that were ended as others waited for the memory that the client
   * held, and it neither took its answers nor sent what it had announced.
   */
  evicted: number;
  /** Connections that were gone before they were accepted. */
  resets: number;
  /** The most memory that clients held at any time, in bytes. */
  peakMemory: number;
}

/** What a connection may do. */
export interface ConnectionOptions extends HandshakeOptions {
  /** Requests under way at once. */
  readonly maxRequests: number;
  /** Bytes under way at once; one request goes through, however large. */
  readonly maxBytes: number;
  /** What all clients together may hold. */
  readonly budget: MemoryBudget;
  /** How work that is done in the event loop is divided among them. */
  readonly turns: Turns;
  /** What TLS needs; `null` if there is none. */
  readonly tls: NbdTlsOptions | null;
  /** What is counted. */
  readonly counters: NbdCounters;
  /** Milliseconds that a handshake may take. */
  readonly handshakeMs: number;
}

/** A request under way. */
class Job {
  readonly type: number;
  readonly flags: number;
  readonly cookieHigh: number;
  readonly cookieLow: number;
  readonly offset: number;
  readonly length: number;
  /** Bytes of data that it has under way. */
  readonly weight: number;
  /** Whether it starts and ends on blocks of the disk. */
  readonly aligned: boolean;
  /** Bytes of the server's memory that it holds. */
  held = 0;
  memory: Memory | null = null;

  constructor(view: DataView, at: number, served: ServedDisk) {
    this.flags = view.getUint16(at + 4);
    this.type = view.getUint16(at + 6);
    this.cookieHigh = view.getUint32(at + 8);
    this.cookieLow = view.getUint32(at + 12);
    this.offset = readU64(view, at + 16);
    this.length = view.getUint32(at + 24);
    this.weight = this.type === Command.Read || this.type === Command.Write
      ? this.length
      : 0;
    this.aligned = served.isAligned(this.offset, this.length);
  }
}

/** Flags that a request may have, by its type. FUA is taken on every one. */
const FLAGS: readonly number[] = [
  CommandFlag.DontFragment, // READ
  0, // WRITE
  0, // DISC
  0, // FLUSH
  0, // TRIM
  0, // CACHE
  CommandFlag.NoHole | CommandFlag.FastZero, // WRITE_ZEROES
  CommandFlag.RequestOne, // BLOCK_STATUS
];

const encoder = new TextEncoder();

/**
 * What is said about an error. A string of the protocol has 4,096 bytes at most;
 * a line is enough.
 */
const MESSAGE = new Uint8Array(512);

/** One client. */
export class Connection implements MemoryHolder {
  #stream: ByteStream;
  readonly #options: ConnectionOptions;
  #writer: StreamWriter;
  readonly #handshake: Handshake;
  #agreement: Agreement | null = null;
  #served: ServedDisk | null = null;
  readonly #reader: MessageReader;
  /** A write whose payload is coming; where that goes, and how far it is. */
  #filling: Job | null = null;
  #target = new Uint8Array();
  #filled = 0;
  #requests = 0;
  #bytes = 0;
  /** Bytes of the server's memory that requests hold. */
  #held = 0;
  readonly #account: MemoryAccount;
  /** Whether the next request had to wait. */
  #full = false;
  /** Questions about data and holes, answered one after the other. */
  #questions: Job[] = [];
  #mapping = false;
  #wake: (() => void) | null = null;
  /** Nothing is taken from the client any more. */
  #ended = false;
  /** The socket is gone: nobody gets an answer. */
  #gone = false;
  #stopping = false;
  #closed = false;
  #farewell: ReturnType<typeof setTimeout> | null = null;
  /** Whether it came to an agreement about an export. */
  attached = false;
  /** Why it was ended, if the client is to blame. */
  fault: Error | null = null;

  /**
   * Constructs a new instance.
   *
   * @param stream The socket; the connection closes it.
   * @param options What the client may do.
   */
  constructor(stream: ByteStream, options: ConnectionOptions) {
    this.#stream = stream;
    this.#options = options;
    this.#reader = new MessageReader(stream, OPTION_ROOM);
    this.#writer = this.#writerTo(stream);
    this.#handshake = new Handshake(this.#writer, options);
    this.#account = options.budget.open(this);
  }

  #writerTo(stream: ByteStream): StreamWriter {
    return new StreamWriter(
      stream,
      () => {
        this.#settle();
        this.#resume();
      },
      () => this.abandon(),
    );
  }

  /** Bytes that went over its socket so far, either way. */
  get movedBytes(): number {
    return this.#reader.receivedBytes + this.#writer.writtenBytes;
  }

  /** Whether the server waits for the client, and not it for the server. */
  get isAwaited(): boolean {
    return this.#filling !== null || this.#writer.pendingBytes > 0;
  }

  /**
   * Serves the client until it leaves, breaks the protocol, or is sent away.
   *
   * @returns When everything that it asked for is done and the socket closed.
   */
  async run(): Promise<void> {
    this.#options.counters.connections++;
    const timer = setTimeout(() => this.abandon(), this.#options.handshakeMs);
    try {
      await this.#haggle();
      clearTimeout(timer);
      while (!this.#ended) {
        while (this.#takeNext());
        if (this.#ended) break;
        if (this.#full) await this.#room();
        else if (!await this.#read()) break;
      }
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.fault = error;
      this.#options.counters.dropped++;
    } finally {
      clearTimeout(timer);
      this.#ended = true;
      this.#options.budget.leave(this.#account);
      this.#giveUpFilling();
      while (this.#requests > 0) await this.#room();
      if (!this.#gone) await this.#writer.settled();
      this.#options.budget.close(this.#account);
      this.#close();
    }
  }

  /**
   * Sends the client away in good order: what it asked for is answered, and
   * what it asks for from now on is refused, so that it knows and leaves by
   * itself. If it says nothing more, the server hangs up.
   */
  stop(): void {
    if (this.#stopping) return;
    this.#stopping = true;
    this.#handshake.stopping = true;
    this.#resume();
    this.#partIfSilent();
  }

  /** Sends the client away at once. */
  abandon(): void {
    this.#gone = true;
    this.#ended = true;
    this.#writer.abandon();
    this.#close();
    this.#resume();
  }

  /** Called when others wait for memory that this client holds for nothing. */
  evict(): void {
    this.#options.counters.evicted++;
    this.fault = new Error(
      "A client held memory that others waited for, and did not move",
    );
    this.abandon();
  }

  /** Called when there may be memory again. */
  wake(): void {
    this.#resume();
  }

  /** Hangs up once everything is answered and nothing more comes. */
  #partIfSilent(): void {
    if (this.#closed) return;
    const before = this.#reader.receivedBytes;
    this.#farewell = setTimeout(() => {
      // A write whose payload is still to come is not waited for.
      const owed = this.#requests - (this.#filling === null ? 0 : 1);
      if (
        owed > 0 || this.#writer.pendingBytes > 0 ||
        this.#reader.receivedBytes > before
      ) return this.#partIfSilent();
      this.#ended = true;
      this.#close();
      this.#resume();
    }, FAREWELL_MS);
  }

  #close(): void {
    if (this.#closed) return;
    this.#closed = true;
    if (this.#farewell !== null) clearTimeout(this.#farewell);
    try {
      this.#stream.close();
    } catch {
      // It was closed by whoever gave it.
    }
  }

  async #haggle(): Promise<void> {
    const handshake = this.#handshake;
    while (!this.#ended) {
      if (this.#writer.pendingBytes > MAX_UNREAD_BYTES) {
        await this.#room();
        continue;
      }
      const taken = handshake.take(this.#reader.peek());
      this.#reader.take(taken);
      if (handshake.aborted) this.#ended = true;
      if (handshake.securing) {
        await this.#secure(this.#options.tls!);
        continue;
      }
      if (handshake.agreement !== null) {
        this.#begin(handshake.agreement);
        return;
      }
      this.#settle();
      if (taken === 0 && !await this.#read()) this.#ended = true;
    }
  }

  async #secure(tls: NbdTlsOptions): Promise<void> {
    // Whoever is in between could have put it there, to be taken for the
    // client's (as in CVE-2021-3716).
    if (this.#reader.available > 0) {
      throw new ProtocolError("A client says more before TLS has begun");
    }
    await this.#writer.settled();
    if (this.#gone) return;
    this.#stream = await secure(this.#stream, tls);
    if (this.#closed) this.#stream.close();
    this.#reader.switchTo(this.#stream);
    this.#writer = this.#writerTo(this.#stream);
    this.#handshake.secured(this.#writer);
  }

  #begin(agreement: Agreement): void {
    this.attached = true;
    this.#agreement = agreement;
    this.#served = agreement.served;
    this.#reader.resize(RECEIVE_BYTES);
  }

  /** Reads what there is to where it belongs; tells whether there was more. */
  async #read(): Promise<boolean> {
    const straight = this.#filling !== null &&
      this.#reader.canGoStraight(this.#target.length - this.#filled);
    try {
      const count = await this.#reader.fill(
        straight ? this.#target.subarray(this.#filled) : null,
      );
      if (straight && count !== null) this.#filled += count;
      return count !== null;
    } catch {
      // The other side is gone, or this one has closed the socket.
      return false;
    }
  }

  /** Waits until something that was under way is done. */
  #room(): Promise<void> {
    return new Promise((resolve) => {
      const before = this.#wake;
      this.#wake = before === null ? resolve : () => {
        before();
        resolve();
      };
    });
  }

  #resume(): void {
    const wake = this.#wake;
    this.#wake = null;
    wake?.();
  }

  /** Whether a request may begin now; if it may, its memory is its own. */
  #admits(job: Job, refused: number): boolean {
    const { maxRequests, maxBytes, budget } = this.#options;
    if (this.#requests >= maxRequests) return false;
    // What is refused takes no memory.
    const weight = refused === 0 ? job.weight : 0;
    // What is read counts once more while it is sent: with half as much under
    // way, all of its memory is used again.
    const bytes = this.#bytes + this.#writer.pendingBytes;
    if (bytes > 0 && bytes + weight > maxBytes) return false;
    const held = refused === 0 ? this.#memoryFor(job) : 0;
    if (!budget.admit(this.#account, held)) return false;
    job.held = held;
    this.#held += held;
    return true;
  }

  /** Bytes of the server's memory that a request takes. */
  #memoryFor({ type, flags, offset, length, aligned }: Job): number {
    if (length === 0) return 0;
    const served = this.#served!;
    switch (type) {
      case Command.Read:
        return memoryBytes(aligned ? length : served.span(offset, length));
      case Command.Write:
        return aligned
          ? memoryBytes(length)
          : memoryBytes(served.span(offset, length)) + served.endsBytes;
      case Command.WriteZeroes:
        return aligned ? 0 : served.endsBytes;
      case Command.BlockStatus:
        return CHUNK_BYTES + 4 + 8 * runsFor(flags);
      default:
        return 0;
    }
  }

  /** Tells the budget what the client holds. */
  #settle(): void {
    this.#options.budget.hold(
      this.#account,
      this.#held + this.#writer.copiedBytes,
    );
  }

  /** Takes the next message, or a part of it; tells whether there was one. */
  #takeNext(): boolean {
    this.#full = false;
    if (this.#ended) return false;
    const reader = this.#reader;
    const { available } = reader;
    if (this.#filling !== null) {
      const missing = this.#target.length - this.#filled;
      const count = Math.min(missing, available);
      if (count > 0) {
        const at = reader.take(count);
        this.#target.set(reader.bytes.subarray(at, at + count), this.#filled);
        this.#filled += count;
      }
      if (this.#filled < this.#target.length) return false;
      const job = this.#filling;
      this.#filling = null;
      this.#write(job);
      return true;
    }
    if (available < 4) return false;
    if (reader.view.getUint32(reader.at) !== Magic.Request) {
      throw new ProtocolError("A request does not begin with its magic number");
    }
    if (available < REQUEST_BYTES) return false;
    const job = new Job(reader.view, reader.at, this.#served!);
    if (job.type === Command.Disconnect) {
      this.#ended = true;
      return false;
    }
    const refused = this.#refuse(job);
    if (!this.#admits(job, refused)) {
      this.#full = true;
      return false;
    }
    reader.take(REQUEST_BYTES);
    this.#start(job, refused);
    return true;
  }

  #start(job: Job, refused: number): void {
    this.#requests++;
    if (refused !== 0) {
      if (job.type === Command.Write) {
        if (job.length > MAX_REFUSED_BYTES) {
          this.#requests--;
          throw new ProtocolError(`A write has ${job.length} bytes of data`);
        }
        this.#reader.drain(job.length);
      }
      return this.#fail(job, refused, refusalText(refused));
    }
    if (job.length === 0 && job.type !== Command.Flush) {
      return this.#succeed(job);
    }
    switch (job.type) {
      case Command.Read:
        return this.#startRead(job);
      case Command.Write:
        return this.#startWrite(job);
      case Command.BlockStatus:
        this.#questions.push(job);
        if (!this.#mapping) this.#answerQuestions();
        return;
      case Command.Cache:
        // There is no cache to fill; the protocol lets that be a success.
        return this.#succeed(job);
      default:
        this.#change(job).then(
          () => {
            this.#giveMemory(job);
            this.#succeed(job);
          },
          (error) => this.#failFrom(job, error),
        );
    }
  }

  /** Why a request must be refused: an error number, or 0. */
  #refuse(job: Job): number {
    if (this.#stopping) return WireError.ESHUTDOWN;
    const served = this.#served!;
    const { type, flags, offset, length } = job;
    const allowed = FLAGS[type];
    if (
      allowed === undefined || (flags & ~(allowed | CommandFlag.Fua)) !== 0 ||
      ((flags & CommandFlag.DontFragment) !== 0 && !this.#agreement!.structured)
    ) return WireError.EINVAL;
    if (type === Command.Flush) {
      return (served.flags & ExportFlag.SendFlush) === 0 || offset !== 0 ||
          length !== 0
        ? WireError.EINVAL
        : 0;
    }
    const moves = type === Command.Read || type === Command.Write;
    const writes = type === Command.Write || type === Command.Trim ||
      type === Command.WriteZeroes;
    if (writes && served.readOnly) return WireError.EPERM;
    if (writes && (flags & CommandFlag.Fua) !== 0) {
      if ((served.flags & ExportFlag.SendFua) === 0) return WireError.EINVAL;
    }
    if (
      (type === Command.Trim && (served.flags & ExportFlag.SendTrim) === 0) ||
      (type === Command.WriteZeroes &&
        (served.flags & ExportFlag.SendWriteZeroes) === 0) ||
      (type === Command.BlockStatus && !this.#agreement!.allocation)
    ) return WireError.EINVAL;
    if (moves && length > this.#options.maxPayload) return WireError.EINVAL;
    if (offset > served.size - length) {
      return type === Command.Write || type === Command.WriteZeroes
        ? WireError.ENOSPC
        : WireError.EINVAL;
    }
    if ((flags & CommandFlag.FastZero) !== 0 && served.slowZeroes) {
      return WireError.ENOTSUP;
    }
    return 0;
  }

  #startRead(job: Job): void {
    const served = this.#served!;
    const { offset, length, aligned } = job;
    if (!aligned) this.#options.counters.unaligned++;
    const start = aligned ? offset : offset - offset % served.blockSize;
    const end = start + (aligned ? length : served.span(offset, length));
    job.memory = served.memory.take(end - start, job.held);
    this.#bytes += job.weight;
    if (
      this.#agreement!.structured && aligned && length >= SPARSE_BYTES &&
      (job.flags & CommandFlag.DontFragment) === 0
    ) {
      served.fewRuns(offset, length, MAX_CHUNKS).then(
        (runs) =>
          runs !== null && runs.some(({ hole }) => hole) &&
            runs.at(-1)!.end === offset + length
            ? this.#readSparse(job, runs)
            : this.#readWhole(job, start, end),
        (error) => this.#failFrom(job, error),
      );
    } else this.#readWhole(job, start, end);
  }

  #readWhole(job: Job, start: number, end: number): void {
    const at = HEADROOM_BYTES;
    this.#served!.read(start, end - start, job.memory!, at).then(
      () => this.#answerRead(job, at + job.offset - start),
      (error) => this.#failFrom(job, error),
    );
  }

  /** Reads the data only; the holes go out as a word. */
  #readSparse(job: Job, runs: readonly ByteRun[]): void {
    const served = this.#served!;
    const data = runs.filter(({ hole }) => !hole);
    const memory = job.memory!;
    allDone(data.map(({ start, end }) =>
      served.read(
        start,
        end - start,
        memory,
        HEADROOM_BYTES + start - job.offset,
      )
    )).then(
      () => this.#answerSparse(job, runs),
      (error) => this.#failFrom(job, error),
    );
  }

  #answerSparse(job: Job, runs: readonly ByteRun[]): void {
    const memory = job.memory!;
    const { view, bytes } = memory;
    const last = runs.at(-1);
    let data = 0;
    let pieces = 1;
    const pieceDone = () => {
      if (--pieces === 0) this.#giveMemory(job);
    };
    for (const run of runs) {
      const size = run.end - run.start;
      const flags = run === last ? CHUNK_DONE : 0;
      if (run.hole) {
        const at = this.#chunk(
          job,
          flags,
          ChunkType.OffsetHole,
          12,
        );
        writeU64(this.#writer.view, at, run.start);
        this.#writer.view.setUint32(at + 8, size);
      } else {
        // What lies in front is the page for it, or a hole.
        const at = HEADROOM_BYTES + run.start - job.offset;
        this.#chunkHeader(
          view,
          at - CHUNK_BYTES - 8,
          job,
          flags,
          ChunkType.OffsetData,
          8 + size,
        );
        writeU64(view, at - 8, run.start);
        data += size;
        pieces++;
        this.#writer.push(
          bytes.subarray(at - CHUNK_BYTES - 8, at + size),
          pieceDone,
        );
      }
    }
    pieceDone();
    this.#options.counters.bytesRead += data;
    this.#done();
  }

  #answerRead(job: Job, at: number): void {
    const { bytes, view } = job.memory!;
    let front = SIMPLE_REPLY_BYTES;
    if (this.#agreement!.structured) {
      front = CHUNK_BYTES + 8;
      this.#chunkHeader(
        view,
        at - front,
        job,
        CHUNK_DONE,
        ChunkType.OffsetData,
        8 + job.length,
      );
      writeU64(view, at - 8, job.offset);
    } else {
      this.#simpleHeader(view, at - front, job, 0);
    }
    this.#options.counters.bytesRead += job.length;
    // Before the memory may go to somebody else.
    this.#writer.push(
      bytes.subarray(at - front, at + job.length),
      () => this.#giveMemory(job),
    );
    this.#done();
  }

  #startWrite(job: Job): void {
    const served = this.#served!;
    let lead = 0;
    if (job.aligned) {
      job.memory = served.memory.take(job.length, job.held);
    } else {
      this.#options.counters.unaligned++;
      lead = job.offset % served.blockSize;
      job.memory = served.memory.take(served.span(job.offset, job.length));
    }
    this.#bytes += job.weight;
    const at = HEADROOM_BYTES + lead;
    this.#target = job.memory.bytes.subarray(at, at + job.length);
    this.#filled = 0;
    this.#filling = job;
  }

  #write(job: Job): void {
    const served = this.#served!;
    const { offset, length } = job;
    const fua = (job.flags & CommandFlag.Fua) !== 0;
    const memory = job.memory!;
    const written = job.aligned
      ? served.write(offset, length, memory, fua)
      : served.modify(offset, length, memory, fua);
    written.then(
      () => {
        this.#options.counters.bytesWritten += length;
        this.#giveMemory(job);
        this.#succeed(job);
      },
      (error) => this.#failFrom(job, error),
    );
  }

  #change(job: Job): Promise<void> {
    const served = this.#served!;
    const fua = (job.flags & CommandFlag.Fua) !== 0;
    switch (job.type) {
      case Command.Flush:
        return served.disk.flush();
      case Command.Trim:
        return served.trim(job.offset, job.length, fua);
      default:
        if (!job.aligned) this.#options.counters.unaligned++;
        return served.writeZeroes(
          job.offset,
          job.length,
          (job.flags & CommandFlag.NoHole) === 0,
          fua,
        );
    }
  }

  /** One after the other, each in pieces, while others have their turn. */
  async #answerQuestions(): Promise<void> {
    this.#mapping = true;
    for (;;) {
      const job = this.#questions.shift();
      if (job === undefined) break;
      const most = runsFor(job.flags);
      const map = this.#served!.map(job.offset, job.length, most);
      const step = () => this.#gone ? Promise.resolve() : map.step();
      try {
        do await this.#options.turns.take(step); while (
          !map.done && !this.#gone
        );
        this.#answerStatus(job, map.runs.slice(0, most));
      } catch (error) {
        this.#failFrom(job, error);
      }
    }
    this.#mapping = false;
  }

  #answerStatus(job: Job, runs: readonly ByteRun[]): void {
    const bytes = new Uint8Array(CHUNK_BYTES + 4 + 8 * runs.length);
    const view = viewOf(bytes);
    this.#chunkHeader(
      view,
      0,
      job,
      CHUNK_DONE,
      ChunkType.BlockStatus,
      bytes.length - CHUNK_BYTES,
    );
    view.setUint32(CHUNK_BYTES, ALLOCATION_CONTEXT);
    let at = CHUNK_BYTES + 4;
    for (const { start, end, hole } of runs) {
      view.setUint32(at, end - start);
      view.setUint32(at + 4, hole ? Allocation.Hole | Allocation.Zero : 0);
      at += 8;
    }
    this.#writer.push(bytes);
    this.#giveMemory(job);
    this.#done();
  }

  #succeed(job: Job): void {
    if (
      this.#agreement!.structured &&
      (job.type === Command.Read || job.type === Command.BlockStatus)
    ) {
      this.#chunk(job, CHUNK_DONE, ChunkType.None, 0);
    } else {
      const at = this.#writer.reserve(SIMPLE_REPLY_BYTES);
      this.#simpleHeader(this.#writer.view, at, job, 0);
    }
    this.#done();
  }

  #failFrom(job: Job, error: unknown): void {
    this.#giveMemory(job);
    const writes = job.type !== Command.Read && job.type !== Command.Cache &&
      job.type !== Command.BlockStatus;
    const text = error instanceof Error ? error.message : String(error);
    this.#fail(job, wireErrorOf(error, writes), text);
  }

  #fail(job: Job, error: number, text: string): void {
    this.#options.counters.errors++;
    if (this.#agreement!.structured) {
      const { written: length } = encoder.encodeInto(
        printable(text, MESSAGE.length),
        MESSAGE,
      );
      const bytes = new Uint8Array(CHUNK_BYTES + 6 + length);
      const view = viewOf(bytes);
      this.#chunkHeader(
        view,
        0,
        job,
        CHUNK_DONE,
        ChunkType.Error,
        bytes.length - CHUNK_BYTES,
      );
      view.setUint32(CHUNK_BYTES, error);
      view.setUint16(CHUNK_BYTES + 4, length);
      bytes.set(MESSAGE.subarray(0, length), CHUNK_BYTES + 6);
      this.#writer.push(bytes);
    } else {
      const at = this.#writer.reserve(SIMPLE_REPLY_BYTES);
      this.#simpleHeader(this.#writer.view, at, job, error);
    }
    this.#done();
  }

  #done(): void {
    this.#requests--;
    this.#options.counters.requests++;
    this.#settle();
    this.#resume();
  }

  /** Gives a request's memory back; the disk and the socket are done with it. */
  #giveMemory(job: Job): void {
    const { memory } = job;
    if (memory !== null) {
      job.memory = null;
      this.#bytes -= job.weight;
      this.#served!.memory.give(memory);
    }
    // The budget hears of it with the answer, or when that is written.
    this.#held -= job.held;
    job.held = 0;
  }

  /** A write whose payload will never come. */
  #giveUpFilling(): void {
    const job = this.#filling;
    if (job === null) return;
    this.#filling = null;
    this.#giveMemory(job);
    this.#requests--;
  }

  /** Begins a small chunk; returns where its payload goes in the writer. */
  #chunk(job: Job, flags: number, type: number, length: number): number {
    const at = this.#writer.reserve(CHUNK_BYTES + length);
    this.#chunkHeader(this.#writer.view, at, job, flags, type, length);
    return at + CHUNK_BYTES;
  }

  #chunkHeader(
    view: DataView,
    at: number,
    job: Job,
    flags: number,
    type: number,
    length: number,
  ): void {
    view.setUint32(at, Magic.Chunk);
    view.setUint16(at + 4, flags);
    view.setUint16(at + 6, type);
    view.setUint32(at + 8, job.cookieHigh);
    view.setUint32(at + 12, job.cookieLow);
    view.setUint32(at + 16, length);
  }

  #simpleHeader(view: DataView, at: number, job: Job, error: number): void {
    view.setUint32(at, Magic.SimpleReply);
    view.setUint32(at + 4, error);
    view.setUint32(at + 8, job.cookieHigh);
    view.setUint32(at + 12, job.cookieLow);
  }
}

/** Runs that an answer to a question with these flags has at most. */
function runsFor(flags: number): number {
  return (flags & CommandFlag.RequestOne) !== 0 ? 1 : MAX_STATUS_RUNS;
}

/** Room for the longest option that is looked at. */
const OPTION_ROOM = MAX_OPTION_BYTES + 64;

function refusalText(error: number): string {
  switch (error) {
    case WireError.EPERM:
      return "The export is read-only";
    case WireError.ENOSPC:
      return "The export ends before that";
    case WireError.ENOTSUP:
      return "Zeroes are no faster than writing them";
    case WireError.ESHUTDOWN:
      return "The server is stopping";
    default:
      return "The request is malformed or out of range";
  }
}
