/**
 * One client: what it sends becomes requests to the disk, and their answers
 * become replies, in the order in which the disk gives them.
 *
 * Bytes from the socket feed a state machine that takes as many requests as
 * have come, so that they reach the queue as one batch; nothing is awaited for
 * a single request. The rest of a large payload is read straight into the
 * memory that goes to the disk.
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
  Command,
  Magic,
  REQUEST_BYTES,
  WireError,
} from "../protocol/nbd/numbers.ts";
import { type CommandOptions, Commands, refusalText } from "./commands.ts";
import {
  type Agreement,
  Handshake,
  type HandshakeOptions,
  MAX_OPTION_BYTES,
  ProtocolError,
} from "./handshake.ts";
import { Job, type JobKeeper } from "./job.ts";
import type {
  MemoryAccount,
  MemoryBudget,
  MemoryHolder,
} from "./memory_budget.ts";
import { Replies } from "./replies.ts";
import type { ServedDisk } from "./served_disk.ts";
import { type NbdTlsOptions, secure } from "./tls.ts";

/** Bytes of a payload that are worth reading to refuse it. */
const MAX_REFUSED_BYTES = 64 << 20;

/** Bytes of replies that the client must take before it may go on haggling. */
const MAX_UNREAD_BYTES = 65_536;

/** How long a client that is sent away may keep silent, in ms. */
const FAREWELL_MS = 50;

/** What a connection may do. */
export interface ConnectionOptions extends HandshakeOptions, CommandOptions {
  /** Requests under way at once. */
  readonly maxRequests: number;
  /** Bytes under way at once; one request goes through, however large. */
  readonly maxBytes: number;
  /** What all clients together may hold. */
  readonly budget: MemoryBudget;
  /** What TLS needs; `null` if there is none. */
  readonly tls: NbdTlsOptions | null;
  /** Milliseconds that a handshake may take. */
  readonly handshakeMs: number;
}

/** One client. */
export class Connection implements MemoryHolder, JobKeeper {
  #stream: ByteStream;
  readonly #options: ConnectionOptions;
  #writer: StreamWriter;
  readonly #handshake: Handshake;
  #served: ServedDisk | null = null;
  #commands: Commands | null = null;
  #replies: Replies | null = null;
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

  /** Whether nobody gets an answer any more. */
  get isGone(): boolean {
    return this.#gone;
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
        else {
          const target = this.#straightTarget();
          const count = await this.#reader.fill(target);
          // The other side is gone, or this one has closed the socket.
          if (count === null) break;
          if (target !== null) this.#filled += count;
        }
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
      if (taken === 0 && await this.#reader.fill() === null) this.#ended = true;
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
    this.#served = agreement.served;
    this.#replies = new Replies(
      this.#writer,
      agreement.structured,
      this.#options.counters,
      this,
    );
    this.#commands = new Commands(
      agreement,
      this.#options,
      this.#replies,
      this,
    );
    this.#reader.resize(RECEIVE_BYTES);
  }

  /** Where the rest of a large payload goes without a copy. */
  #straightTarget(): Uint8Array | null {
    return this.#filling !== null &&
        this.#reader.canGoStraight(this.#target.length - this.#filled)
      ? this.#target.subarray(this.#filled)
      : null;
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
    const held = refused === 0 ? this.#commands!.memoryFor(job) : 0;
    if (!budget.admit(this.#account, held)) return false;
    job.held = held;
    this.#held += held;
    return true;
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
      this.#commands!.start(job);
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
    const refused = this.#stopping
      ? WireError.ESHUTDOWN
      : this.#commands!.refusal(job);
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
      return this.#replies!.failure(job, refused, refusalText(refused));
    }
    this.#bytes += job.weight;
    if (job.type !== Command.Write || job.length === 0) {
      return this.#commands!.start(job);
    }
    this.#target = this.#commands!.prepareWrite(job);
    this.#filled = 0;
    this.#filling = job;
  }

  /** Hears that a request was answered. */
  answered(): void {
    this.#requests--;
    this.#options.counters.requests++;
    this.#settle();
    this.#resume();
  }

  /** Gives a request's memory back; the disk and the socket are done with it. */
  giveMemory(job: Job): void {
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
    this.giveMemory(job);
    this.#requests--;
  }
}

/** Room for the longest option that is looked at. */
const OPTION_ROOM = MAX_OPTION_BYTES + 64;
