/**
 * A second disk of a guest, through which it speaks: acknowledgements, and what
 * commands print. Every write to it is a message, and nothing of it is kept.
 *
 * It is the one way out of a guest that stands in line with its disk: a line is
 * heard when the request that brings it arrives, by the same transport as the
 * requests of the disk beside it. In the guest it takes `dd` and nothing else:
 * each piece that comes out of a pipe goes into a block of its own, padded with
 * zeroes, past the guest's cache.
 *
 * @module
 */

import type { Complete } from "../../backend.ts";
import { MemoryBackend } from "../../backends/memory.ts";
import { gather } from "../../buffer.ts";
import { SECTOR_BYTES } from "../../geometry.ts";
import { Layer } from "../../layers/layer.ts";
import { type Request, RequestType } from "../../request.ts";
import { changedError } from "../../request_error.ts";
import { throwLater } from "../../throw_later.ts";

/** Streams that it has: each is a part of the disk. */
export type Channel = "ack" | "output" | "errors";

const CHANNELS: readonly Channel[] = ["ack", "output", "errors"];

/** Bytes of a part: more than any command says. */
const PART_BYTES = 2 ** 40;

/** Bytes that go into one block. */
const BLOCK_BYTES = 4096;

/** Hears what a guest says. */
export type Listener = (channel: Channel, bytes: Uint8Array) => void;

/** A disk that hears. */
export class ControlDisk extends Layer {
  /** Who hears; nobody between two commands. */
  listener: Listener | null = null;

  /** Constructs a new instance. */
  constructor() {
    super(
      "control",
      new MemoryBackend({
        size: CHANNELS.length * PART_BYTES,
        id: "platter-control",
      }),
    );
  }

  /** Takes writes for messages; the rest finds a disk full of zeroes. */
  protected override carryOut(
    batch: readonly Request[],
    complete: Complete,
  ): void {
    const others: Request[] = [];
    for (const request of batch) {
      if (request.type !== RequestType.Out) {
        others.push(request);
        continue;
      }
      const bytes = new Uint8Array(request.count * SECTOR_BYTES);
      if (!gather(request, 0, bytes)) {
        complete(request, changedError(request));
        continue;
      }
      const at = request.sector * SECTOR_BYTES;
      const channel = CHANNELS[Math.floor(at / PART_BYTES)]!;
      for (let from = 0; from < bytes.length; from += BLOCK_BYTES) {
        const block = bytes.subarray(from, from + BLOCK_BYTES);
        try {
          this.listener?.(channel, withoutPadding(block));
        } catch (thrown) {
          throwLater(thrown);
        }
      }
      complete(request, null);
    }
    if (others.length > 0) this.backend.submit(others, complete);
  }
}

/** What was said, without the zeroes that dd fills a block with. */
function withoutPadding(block: Uint8Array): Uint8Array {
  let end = block.length;
  while (end > 0 && block[end - 1] === 0) end--;
  return block.subarray(0, end);
}

/**
 * The command of a guest that hands on its standard input to the control disk.
 *
 * @param device The control disk in the guest.
 * @param channel The stream.
 * @returns A command for a shell.
 */
export function speaker(device: string, channel: Channel): string {
  const seek = CHANNELS.indexOf(channel) * PART_BYTES / BLOCK_BYTES;
  return `dd of=${device} bs=${BLOCK_BYTES} seek=${seek} ` +
    "conv=sync,notrunc oflag=direct status=none >/dev/null 2>&1";
}
