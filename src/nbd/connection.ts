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
 * many requests, or as many bytes, in flight as it may, replies that the client
 * has not taken included, or while other clients hold the memory that the next
 * request wants (`load.ts`).
 *
 * The life of a connection:
 *
 * | state | what the client says | what ends it |
 * | --- | --- | --- |
 * | open | is carried out | `stop()`: stopping; the client leaves or breaks the protocol: draining; `abandon()`: closed |
 * | stopping | is refused with ESHUTDOWN | the client leaves or breaks the protocol: draining; it is silent, or `abandon()`: closed |
 * | draining | is not read | everything is answered and taken, or `abandon()`: closed |
 * | closed | is not read, and nobody gets an answer | nothing; {@linkcode Connection.run} ends with the last request |
 *
 * @module
 */

import type { ByteStream } from "../platform/byte_stream.ts";
import { MessageReader, RECEIVE_BYTES } from "../protocol/nbd/reader.ts";
import { StreamWriter } from "../protocol/nbd/writer.ts";
import {
  Command,
  Magic,
  REQUEST_BYTES,
  WireError,
} from "../protocol/nbd/numbers.ts";
import { stepTimeout } from "../step_timeout.ts";
import { type CommandOptions, Commands, refusalText } from "./commands.ts";
import {
  type Agreement,
  Handshake,
  type HandshakeOptions,
  MAX_OPTION_BYTES,
  ProtocolError,
} from "./handshake.ts";
import { Job } from "./job.ts";
import { Load, type LoadBounds } from "./load.ts";
import type { MemoryHolder } from "./memory_budget.ts";
import { Replies } from "./replies.ts";
import type { ServedDisk } from "./served_disk.ts";
import { type NbdTlsOptions, secure } from "./tls.ts";

/** Bytes of a payload that are worth reading to refuse it. */
const MAX_REFUSED_BYTES = 64 << 20;

/** Bytes of replies that the client must take before it may go on negotiating. */
const MAX_UNREAD_BYTES = 65_536;

/** How long a client that is sent away may keep silent, in ms. */
const FAREWELL_MS = 50;

/** The steps of the time that a client has. */
const STEPS = 5;

/** The life of a connection, as the head of this file has it. */
type State = "open" | "stopping" | "draining" | "closed";

/** What a connection may do. */
export interface ConnectionOptions
  extends HandshakeOptions, CommandOptions, LoadBounds {
  /** What TLS needs; `null` if there is none. */
  readonly tls: NbdTlsOptions | null;
  /** Milliseconds that a handshake may take. */
  readonly handshakeMs: number;
}

/** One client. */
export class Connection implements MemoryHolder {
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
  readonly #load: Load;
  /** Whether the next request had to wait. */
  #full = false;
  #wake: (() => void) | null = null;
  #state: State = "open";
  #stopFarewell: (() => void) | null = null;
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
    this.#load = new Load(
      options,
      this,
      () => this.#writer,
      () => this.#resume(),
    );
  }

  #writerTo(stream: ByteStream): StreamWriter {
    return new StreamWriter(
      stream,
      () => {
        this.#load.settle();
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
    const stopTimeout = stepTimeout(
      this.#options.handshakeMs,
      () => this.abandon(),
      { steps: STEPS },
    );
    try {
      await this.#negotiate();
      stopTimeout();
      while (!this.#ended) {
        while (this.#takeNext());
        if (this.#ended) break;
        if (this.#full) await this.#change();
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
      stopTimeout();
      this.#end();
      this.#load.leave();
      // A write whose payload will never come.
      if (this.#filling !== null) this.#load.withdraw(this.#filling);
      this.#filling = null;
      while (this.#load.requests > 0) await this.#change();
      if (this.#state === "draining") await this.#writer.settled();
      this.#load.close();
      this.#close();
    }
  }

  /**
   * Sends the client away in good order: what it asked for is answered, and
   * what it asks for from now on is refused, so that it knows and leaves by
   * itself. If it says nothing more, the server hangs up.
   */
  stop(): void {
    if (this.#state !== "open") return;
    this.#state = "stopping";
    this.#handshake.stopping = true;
    this.#resume();
    this.#partIfSilent();
  }

  /** Sends the client away at once. */
  abandon(): void {
    this.#close();
    this.#writer.abandon();
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

  /** Whether nothing more is taken from the client. */
  get #ended(): boolean {
    return this.#state === "draining" || this.#state === "closed";
  }

  /** Whether nobody gets an answer any more. */
  #isClosed(): boolean {
    return this.#state === "closed";
  }

  /** Takes nothing more from the client. */
  #end(): void {
    if (this.#state !== "closed") this.#state = "draining";
  }

  /** Hangs up once everything is answered and nothing more comes. */
  #partIfSilent(): void {
    if (this.#state === "closed") return;
    let before = this.#reader.receivedBytes;
    const lives = () => {
      const { receivedBytes } = this.#reader;
      const hasSaid = receivedBytes > before;
      before = receivedBytes;
      // A write whose payload is still to come is not waited for.
      const owed = this.#load.requests - (this.#filling === null ? 0 : 1);
      return owed > 0 || this.#writer.pendingBytes > 0 || hasSaid;
    };
    const part = () => {
      this.#close();
      this.#resume();
    };
    this.#stopFarewell = stepTimeout(FAREWELL_MS, part, {
      steps: STEPS,
      lives,
    });
  }

  #close(): void {
    if (this.#state === "closed") return;
    this.#state = "closed";
    this.#stopFarewell?.();
    try {
      this.#stream.close();
    } catch {
      // Its owner has closed it.
    }
  }

  async #negotiate(): Promise<void> {
    const handshake = this.#handshake;
    while (!this.#ended) {
      if (this.#writer.pendingBytes > MAX_UNREAD_BYTES) {
        await this.#change();
        continue;
      }
      const taken = handshake.take(this.#reader.peek());
      this.#reader.take(taken);
      if (handshake.aborted) this.#end();
      if (handshake.securing) {
        await this.#secure(this.#options.tls!);
        continue;
      }
      if (handshake.agreement !== null) {
        this.#begin(handshake.agreement);
        return;
      }
      this.#load.settle();
      if (taken === 0 && await this.#reader.fill() === null) this.#end();
    }
  }

  async #secure(tls: NbdTlsOptions): Promise<void> {
    // Whoever is in between could have put it there, to be taken for the
    // client's (as in CVE-2021-3716).
    if (this.#reader.available > 0) {
      throw new ProtocolError("A client says more before TLS has begun");
    }
    await this.#writer.settled();
    if (this.#isClosed()) return;
    this.#stream = await secure(this.#stream, tls);
    if (this.#isClosed()) this.#stream.close();
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
      this.#load,
    );
    this.#commands = new Commands(
      agreement,
      this.#options,
      this.#replies,
      this.#load,
      () => this.#isClosed(),
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

  /** Waits until something is answered, taken, given or over. */
  #change(): Promise<void> {
    return new Promise((resolve) => this.#wake = resolve);
  }

  #resume(): void {
    const wake = this.#wake;
    this.#wake = null;
    wake?.();
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
      this.#end();
      return false;
    }
    const refused = this.#state === "stopping"
      ? WireError.ESHUTDOWN
      : this.#commands!.refusal(job);
    // What is refused takes no memory.
    if (refused !== 0) job.weight = 0;
    const memory = refused === 0 ? this.#commands!.memoryFor(job) : 0;
    if (!this.#load.admit(job, memory)) {
      this.#full = true;
      return false;
    }
    reader.take(REQUEST_BYTES);
    this.#start(job, refused);
    return true;
  }

  #start(job: Job, refused: number): void {
    if (refused !== 0) {
      if (job.type === Command.Write) {
        if (job.length > MAX_REFUSED_BYTES) {
          this.#load.withdraw(job);
          throw new ProtocolError(`A write has ${job.length} bytes of data`);
        }
        this.#reader.drain(job.length);
      }
      return this.#replies!.failure(job, refused, refusalText(refused));
    }
    if (job.type !== Command.Write || job.length === 0) {
      return this.#commands!.start(job);
    }
    const target = this.#commands!.prepareWrite(job);
    if (target === null) return this.#reader.drain(job.length);
    this.#target = target;
    this.#filled = 0;
    this.#filling = job;
  }
}

/** Room for the longest option that is looked at. */
const OPTION_ROOM = MAX_OPTION_BYTES + 64;
