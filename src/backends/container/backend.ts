/**
 * The disk inside a container: an NBD connection to a `qemu-nbd` of its own,
 * which lives as long as the disk does. Requests go to the connection as they
 * are; errors come back with what `qemu-nbd` said of them.
 *
 * @module
 */

import type {
  Abilities,
  Backend,
  BackendCounters,
  Complete,
  Limits,
} from "../../backend.ts";
import { DiskError } from "../../errors.ts";
import type { Geometry } from "../../geometry.ts";
import type { BackendInfo } from "../../info.ts";
import { keepOnThread } from "../../one_thread.ts";
import type { Request } from "../../request.ts";
import { answerRequest } from "../../throw_later.ts";
import type { NbdBackend } from "../nbd/backend.ts";
import type { QemuNbd } from "./qemu_nbd.ts";

/** How long an error waits for the words of a child that ends, in ms. */
const LAST_WORDS_MS = 500;

/** What the disk inside a container is made of. */
export interface ContainerParts {
  /** The connection. */
  readonly below: NbdBackend;
  /** Its other end. */
  readonly child: QemuNbd;
  /** What it is and why. */
  readonly info: BackendInfo;
  /** How long the child may take to close the image, in ms. */
  readonly closeTimeoutMs: number;
  /** Unlocks and closes the image, last of all. */
  readonly release: () => void;
}

/** Requests to a container. */
export class ContainerBackend implements Backend {
  readonly #parts: ContainerParts;
  readonly #late = new Set<Promise<void>>();
  #closing: Promise<void> | null = null;

  /**
   * Constructs a new instance.
   *
   * @param parts What it is made of; it closes all of it.
   */
  constructor(parts: ContainerParts) {
    keepOnThread(this, "a backend");
    this.#parts = parts;
  }

  /** The disk's shape. */
  get geometry(): Geometry {
    return this.#parts.below.geometry;
  }

  /** What it can do. */
  get abilities(): Abilities {
    return this.#parts.below.abilities;
  }

  /** How large requests may get. */
  get limits(): Limits {
    return this.#parts.below.limits;
  }

  /** What it is and why. */
  get info(): BackendInfo {
    return this.#parts.info;
  }

  /** What it counted so far. */
  get counters(): Readonly<BackendCounters> {
    return this.#parts.below.counters;
  }

  /** Carries out a batch. */
  submit(batch: readonly Request[], complete: Complete): void {
    this.#parts.below.submit(batch, (request, error) => {
      if (error === null) answerRequest(request, null, complete);
      else this.#fail(request, error, complete);
    });
  }

  /** Answers a request early. */
  cancel(request: Request): void {
    this.#parts.below.cancel(request);
  }

  /** Memory: any does as well as any other. */
  allocate(byteLength: number): Uint8Array<ArrayBuffer> {
    return this.#parts.below.allocate(byteLength);
  }

  /** Hears that the disk is to be closed. */
  closing(): void {
    this.#parts.below.closing();
  }

  /** Waits for everything submitted, and until the image is closed. */
  close(): Promise<void> {
    return this.#closing ??= this.#close();
  }

  async #close(): Promise<void> {
    const { below, child, closeTimeoutMs, info, release } = this.#parts;
    try {
      await below.close();
      while (this.#late.size > 0) await Promise.all(this.#late);
      const status = await child.end(closeTimeoutMs);
      if (status?.success) return;
      const how = status === null
        ? `qemu-nbd did not end within ${closeTimeoutMs} ms and was made to`
        : status.signal === null
        ? `qemu-nbd failed with code ${status.code}`
        : `qemu-nbd was ended by ${status.signal}`;
      const said = child.said === "" ? "" : `: ${child.said}`;
      throw new DiskError(
        "io",
        `Cannot close "${info.path}" in good order as ${how}${said}`,
        { operation: "close", path: info.path! },
      );
    } finally {
      release();
    }
  }

  /** Answers with an error; if the connection is lost, with why it is. */
  #fail(request: Request, error: DiskError, complete: Complete): void {
    const { child } = this.#parts;
    if (error.code !== "ENOTCONN") {
      return answerRequest(request, error, complete);
    }
    if (child.hasEnded) {
      return answerRequest(request, this.#explain(error), complete);
    }
    const late = child.within(LAST_WORDS_MS).then(() => {
      this.#late.delete(late);
      answerRequest(request, this.#explain(error), complete);
    });
    this.#late.add(late);
  }

  #explain(error: DiskError): DiskError {
    const { child } = this.#parts;
    if (!child.hasEnded) return error;
    const words = child.said === ""
      ? "qemu-nbd has ended"
      : `qemu-nbd has ended: ${child.said}`;
    const { kind, message, operation, path, sector, count, code } = error;
    return new DiskError(kind, `${message} (${words})`, {
      ...{ operation, path, sector, count, code, cause: error },
    });
  }
}
