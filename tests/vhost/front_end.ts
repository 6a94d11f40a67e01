/**
 * A vhost-user front end: the connection to a back end, and its messages. It
 * knows no disks and no rings, and says what it is told to, also nonsense.
 *
 * @module
 */

import { type Kernel, Poller } from "./kernel.ts";
import { Flag, HEADER_BYTES, Message, message, u64 } from "./messages.ts";

/** How long a back end may take for a reply, in ms. */
const REPLY_MS = 60_000;

/** A reply. */
export interface Reply {
  /** Its payload. */
  readonly payload: DataView<ArrayBuffer>;
  /** The descriptors that came with it: the caller's to close. */
  readonly fds: readonly number[];
}

/** The connection was closed by the back end. */
export class HungUp extends Error {
  constructor() {
    super("The back end has hung up");
    this.name = "HungUp";
  }
}

/** A connection to a back end. */
export class FrontEnd {
  readonly #kernel: Kernel;
  readonly #poller: Poller;
  readonly #ownsPoller: boolean;
  #last: Promise<unknown> = Promise.resolve();
  /** The connection's descriptor. */
  readonly fd: number;

  /**
   * Connects.
   *
   * @param kernel The kernel.
   * @param path The back end's socket.
   * @param poller What waits for it, where many of them follow each other.
   */
  constructor(kernel: Kernel, path: string, poller?: Poller) {
    this.#kernel = kernel;
    this.fd = kernel.connect(path);
    this.#ownsPoller = poller === undefined;
    this.#poller = poller ?? new Poller(kernel);
  }

  /** Hangs up. */
  async close(): Promise<void> {
    this.#kernel.libc.close(this.fd);
    if (this.#ownsPoller) await this.#poller.close();
  }

  /** Sends bytes as they are. */
  raw(bytes: Uint8Array, fds: readonly number[] = []): void {
    this.#kernel.send(this.fd, bytes, fds);
  }

  /** Sends a message that has no reply. */
  tell(request: number, payload?: Uint8Array, fds?: readonly number[]): void {
    this.raw(message(request, payload), fds);
  }

  /**
   * Sends a message, and waits for its reply.
   *
   * @param request The message's number.
   * @param payload Its payload.
   * @param fds Descriptors that go with it.
   * @param flags Its flags.
   * @returns The reply.
   * @throws {HungUp} If the connection ends instead.
   */
  ask(
    request: number,
    payload?: Uint8Array,
    fds?: readonly number[],
    flags: number = Flag.Version,
  ): Promise<Reply> {
    // Replies have no cookie: one question at a time.
    const reply = this.#last.then(async () => {
      this.raw(message(request, payload, flags), fds);
      return await this.#reply(request);
    });
    this.#last = reply.catch(() => {});
    return reply;
  }

  /** Asks for a u64. */
  async number(request: number): Promise<bigint> {
    return (await this.ask(request)).payload.getBigUint64(0, true);
  }

  /**
   * Sends a message with the wish for an acknowledgement (REPLY_ACK).
   *
   * @returns Whether it was carried out.
   */
  async acknowledged(
    request: number,
    payload?: Uint8Array,
    fds?: readonly number[],
  ): Promise<boolean> {
    const flags = Flag.Version | Flag.NeedReply;
    const { payload: reply } = await this.ask(request, payload, fds, flags);
    return reply.getBigUint64(0, true) === 0n;
  }

  /** Waits until everything said so far was heard. */
  async settled(): Promise<void> {
    await this.number(Message.GetFeatures);
  }

  /** Waits until the back end has hung up. */
  async hungUp(timeoutMs: number = REPLY_MS): Promise<boolean> {
    const end = performance.now() + timeoutMs;
    while (performance.now() < end) {
      const received = this.#kernel.receive(this.fd, 4096);
      if (received?.bytes.length === 0) return true;
      if (received === null) await this.#poller.wait([this.fd], 1000);
    }
    return false;
  }

  async #reply(request: number): Promise<Reply> {
    const fds: number[] = [];
    const header = new DataView(
      (await this.#exactly(HEADER_BYTES, fds)).buffer,
    );
    const [number, flags, size] = [0, 4, 8].map((at) =>
      header.getUint32(at, true)
    ) as [number, number, number];
    const payload = size === 0
      ? new Uint8Array(0)
      : await this.#exactly(size, fds);
    // What QEMU demands of a reply: vhost_user_read() in hw/virtio/vhost-user.c.
    if (flags !== (Flag.Version | Flag.Reply) || number !== request) {
      throw new Error(
        `The reply to ${request} is to ${number}, with flags ${flags}`,
      );
    }
    return { payload: new DataView(payload.buffer), fds };
  }

  async #exactly(
    byteLength: number,
    fds: number[],
  ): Promise<Uint8Array<ArrayBuffer>> {
    const bytes = new Uint8Array(byteLength);
    const end = performance.now() + REPLY_MS;
    for (let at = 0; at < byteLength;) {
      const received = this.#kernel.receive(this.fd, byteLength - at);
      if (received === null) {
        if (performance.now() > end) {
          throw new Error(`No reply within ${REPLY_MS} ms`);
        }
        await this.#poller.wait([this.fd], 1000);
        continue;
      }
      fds.push(...received.fds);
      if (received.bytes.length === 0) throw new HungUp();
      bytes.set(received.bytes, at);
      at += received.bytes.length;
    }
    return bytes;
  }

  /** Offers features. */
  setFeatures(features: bigint): void {
    this.tell(Message.SetFeatures, u64(features));
  }
}
