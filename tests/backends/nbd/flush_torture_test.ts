/**
 * Durable writes, writes and flushes, some of them aborted, over a server without
 * FUA that answers in any order and now and then fails a flush: there is one flush
 * at a time, none after one that failed, and a durable write is acknowledged only
 * if a flush has succeeded that began when its data was there.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { VirtualDisk } from "../../../src/disk/disk.ts";
import { SECTOR_BYTES } from "../../../src/geometry.ts";
import { Command, ExportFlag } from "../../../src/protocol/nbd/numbers.ts";
import { Random } from "../../../src/random.ts";
import { LONG } from "../../helpers.ts";
import {
  ALL_FLAGS,
  type RawPeer,
  RawServer,
  type SeenRequest,
} from "./raw_server.ts";

/** Requests of one seed. */
const REQUESTS = 120;
/** Durable writes have a sector of their own each, behind those of the others. */
const OTHERS = 20;
const EIO = 5;

const pause = (ms: number) =>
  new Promise<void>((resolve) => setTimeout(resolve, ms));

/** What a server saw; events are numbered in their order. */
class Seen {
  readonly #random: Random;
  readonly #failing: boolean;
  #events = 0;
  #flushing = false;
  #failed = false;
  /** When the last successful flush began. */
  #flushed = 0;
  /** When the data of a sector was there. */
  readonly #written = new Map<number, number>();
  readonly faults: string[] = [];

  constructor(random: Random) {
    this.#random = random;
    this.#failing = random.chance(1, 2);
  }

  /** Checks what is said of a durable write that is acknowledged. */
  acknowledged(sector: number): void {
    const written = this.#written.get(sector) ?? Infinity;
    if (this.#flushed < written) this.faults.push(`${sector} is not durable`);
  }

  readonly serve = async (peer: RawPeer): Promise<void> => {
    const random = this.#random;
    const flags = ALL_FLAGS & ~ExportFlag.SendFua;
    await peer.attach({ flags, structured: false });
    const answers: Promise<void>[] = [];
    try {
      for (;;) {
        const request = await peer.request();
        if (request.type === Command.Disconnect) break;
        const late = random.chance(1, 2) ? 0 : random.below(4);
        const answer = this.#begin(request);
        // The client may be gone by then: it does not wait for what it aborted.
        answers.push(
          pause(late).then(() => peer.simple(request, answer()))
            .catch(() => {}),
        );
      }
    } finally {
      await Promise.all(answers);
    }
  };

  /** Takes a request; returns what carries it out and gives its error. */
  #begin({ type, offset }: SeenRequest): () => number {
    const began = ++this.#events;
    if (type === Command.Write) {
      return () => {
        this.#written.set(offset / SECTOR_BYTES, ++this.#events);
        return 0;
      };
    }
    if (this.#flushing) this.faults.push("two flushes at once");
    if (this.#failed) this.faults.push("a flush after one that failed");
    this.#flushing = true;
    return () => {
      this.#flushing = false;
      this.#failed = this.#failing && this.#random.chance(1, 8);
      if (!this.#failed) this.#flushed = Math.max(this.#flushed, began);
      return this.#failed ? EIO : 0;
    };
  }
}

async function torture(seed: number): Promise<void> {
  const random = new Random(seed);
  const seen = new Seen(random.fork());
  await using server = await RawServer.start(seen.serve);
  await using disk = await VirtualDisk.open(server.uri);
  const sector = new Uint8Array(SECTOR_BYTES);
  const answers: Promise<string>[] = [];
  const aborts: Promise<void>[] = [];
  for (let i = 0; i < REQUESTS; i++) {
    const abort = new AbortController();
    if (random.chance(1, 5)) {
      aborts.push(pause(random.below(3)).then(() => abort.abort("aborted")));
    }
    const { signal } = abort;
    const kind = random.below(10);
    const at = 2 * (OTHERS + i);
    const answer = kind < 5
      ? disk.write(at, sector, { fua: true, signal })
        .then(() => seen.acknowledged(at))
      : kind < 7
      ? disk.write(2 * random.below(OTHERS), sector, { signal })
      : disk.flush({ signal });
    answers.push(answer.then(() => "done", (error) => error.kind ?? error));
    if (random.chance(1, 6)) await pause(random.below(2));
  }
  await Promise.all(aborts);
  const outcomes = new Set(await Promise.all(answers));
  for (const known of ["done", "aborted", "io", "latched"]) {
    outcomes.delete(known);
  }
  assertEquals([...outcomes], [], `seed ${seed}`);
  assertEquals(seen.faults, [], `seed ${seed}`);
  assert(disk.failure === null || disk.failure.code === "EIO");
}

Deno.test("NbdBackend acknowledges as durable what is, whatever fails and is aborted", async () => {
  for (let seed = 1; seed <= (LONG ? 200 : 6); seed++) await torture(seed);
});
