/**
 * Hostile clients by the thousand: sessions that make sense, mutated by a seed,
 * against a server without sockets. Whatever they say, the server must touch
 * nothing outside of the export, end each session, and go on with the others.
 *
 * The long form:
 *
 * ```sh
 * deno run -A tests/nbd/mutations.ts 100000 [SEED]
 * ```
 *
 * @module
 */

import { MemoryBackend } from "../../src/backends/memory.ts";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { type ByteStream, NbdServer } from "../../src/nbd/mod.ts";
import {
  Command,
  CommandFlag,
  Option,
} from "../../src/protocol/nbd/numbers.ts";
import { Random } from "../../src/random.ts";
import { altered } from "../fake_backend.ts";
import { goData, metaData, optionMessage, requestMessage } from "./harness.ts";
import { joined, u32 } from "./wire.ts";

/** Sectors of the export, and on each side of it. */
const SECTORS = 512;

/** How long one session may take. */
const DEADLINE_MS = 120_000;

/** Numbers that protocols stumble over. */
const NUMBERS = [
  0,
  1,
  511,
  512,
  513,
  4096,
  65_535,
  65_536,
  1 << 20,
  (32 << 20) - 1,
  32 << 20,
  (32 << 20) + 1,
  64 << 20,
  2 ** 31 - 1,
  2 ** 31,
  2 ** 32 - 1,
];

/** What became of the sessions. */
export interface MutationOutcome {
  /** Sessions. */
  sessions: number;
  /** Those that the server ended for a fault. */
  dropped: number;
  /** Requests answered. */
  requests: number;
  /** Requests answered with an error. */
  errors: number;
  /** The most memory in use, in bytes. */
  peakBytes: number;
}

/** A client that has said it all already, in pieces of any size. */
class Script implements ByteStream {
  readonly #bytes: Uint8Array;
  readonly #random: Random;
  #at = 0;
  closed = false;
  /** Bytes that the server said. */
  heard = 0;

  constructor(bytes: Uint8Array, random: Random) {
    this.#bytes = bytes;
    this.#random = random;
  }

  read(target: Uint8Array): Promise<number | null> {
    const left = this.#bytes.length - this.#at;
    if (this.closed || left === 0) return Promise.resolve(null);
    const size = Math.min(
      left,
      target.length,
      this.#random.chance(1, 4) ? this.#random.between(1, 40) : 100_000,
    );
    target.set(this.#bytes.subarray(this.#at, this.#at + size));
    this.#at += size;
    return Promise.resolve(size);
  }

  write(source: Uint8Array): Promise<number> {
    if (this.closed) return Promise.reject(new Deno.errors.BrokenPipe());
    const size = this.#random.chance(1, 4)
      ? this.#random.between(1, source.length)
      : source.length;
    this.heard += size;
    return Promise.resolve(size);
  }

  close(): void {
    this.closed = true;
  }
}

/** A session that makes sense. */
function session(random: Random): Uint8Array {
  const parts: Uint8Array[] = [u32(random.chance(3, 4) ? 3 : 1)];
  const structured = random.chance(1, 2);
  if (structured) parts.push(optionMessage(Option.StructuredReply));
  if (random.chance(1, 4)) parts.push(optionMessage(Option.List));
  if (random.chance(1, 2)) {
    parts.push(
      optionMessage(Option.SetMetaContext, metaData("", "base:allocation")),
    );
  }
  if (random.chance(1, 4)) {
    parts.push(optionMessage(Option.Info, goData("", 1, 2, 3)));
  }
  parts.push(
    random.chance(1, 4)
      ? optionMessage(Option.ExportName)
      : optionMessage(Option.Go, goData("", 3)),
  );
  const count = random.between(1, 16);
  for (let i = 0; i < count; i++) {
    const type = random.pick([0, 0, 1, 1, 3, 4, 5, 6, 7]);
    const flush = type === Command.Flush;
    const sector = flush ? 0 : random.below(SECTORS);
    const sectors = flush
      ? 0
      : random.between(1, Math.min(SECTORS - sector, 140));
    const flags = random.chance(1, 6) ? CommandFlag.Fua : 0;
    parts.push(
      requestMessage(type, sector * 512, sectors * 512, flags, i),
    );
    if (type === Command.Write) {
      parts.push(new Uint8Array(sectors * 512).fill(i));
    }
  }
  if (random.chance(1, 2)) {
    parts.push(requestMessage(Command.Disconnect, 0, 0));
  }
  return joined(parts);
}

/** Spoils a session in one to four places. */
function mutate(bytes: Uint8Array, random: Random): Uint8Array {
  let result: Uint8Array = bytes.slice();
  for (let times = random.between(1, 4); times > 0; times--) {
    const size = result.length;
    if (size === 0) break;
    // The beginning matters most: the rest is often payload.
    const at = random.below(random.chance(1, 2) ? Math.min(size, 300) : size);
    const span = random.below(Math.min(size - at, 64) + 1);
    switch (random.below(7)) {
      case 0:
        result[at]! ^= 1 << random.below(8);
        break;
      case 1:
        result.set(
          u32(random.pick(NUMBERS)).subarray(0, Math.min(4, size - at)),
          at,
        );
        break;
      case 2:
        result = joined([result.subarray(0, at), result.subarray(at + span)]);
        break;
      case 3:
        result = joined([
          result.subarray(0, at + span),
          result.subarray(at, at + span),
          result.subarray(at + span),
        ]);
        break;
      case 4:
        result = result.slice(0, at);
        break;
      case 5:
        result = joined([
          result.subarray(0, at),
          random.bytes(random.between(1, 40)),
          result.subarray(at),
        ]);
        break;
      case 6:
        result.fill(random.pick([0, 0xff]), at, at + span);
        break;
    }
  }
  return result;
}

/**
 * Runs mutated sessions.
 *
 * @param sessions How many.
 * @param seed What they are drawn from.
 * @param progress Hears how many are done.
 * @returns What became of them.
 * @throws If the server did anything that it must not.
 */
export async function runMutations(
  sessions: number,
  seed: number,
  progress: (done: number) => void = () => {},
): Promise<MutationOutcome> {
  const random = new Random(seed);
  const memory = new MemoryBackend({ sectors: 3 * SECTORS });
  let outside = 0;
  const watched = altered(memory, {
    submit(batch, complete) {
      for (const { sector, count } of batch) {
        if (count === 0) continue;
        if (sector < SECTORS || sector + count > 2 * SECTORS) outside++;
      }
      memory.submit(batch, complete);
    },
    extents: (sector, count) => memory.extents(sector, count),
  });
  const whole = VirtualDisk.over(watched);
  const disk = whole.slice(SECTORS, SECTORS);
  const surprises: Error[] = [];
  const server = NbdServer.detached({
    exports: [{ disk, description: "a target" }],
    onError: (error) => {
      if (error.name !== "ProtocolError") surprises.push(error);
    },
  });
  let peakBytes = 0;
  const check = (condition: boolean, what: string, at: number) => {
    if (!condition) {
      throw new Error(`${what}: session ${at} of seed ${seed}`);
    }
  };
  try {
    for (let i = 0; i < sessions; i++) {
      const sane = session(random);
      const script = new Script(mutate(sane, random), random);
      await inTime(server.attach(script), () => `session ${i} of seed ${seed}`);
      check(script.closed, "A connection was left open", i);
      check(script.heard >= 18, "The server did not even greet", i);
      check(outside === 0, "Sectors outside of the export were touched", i);
      if (surprises.length > 0) throw surprises[0];
      if (i % 500 === 0) {
        const { rss } = Deno.memoryUsage();
        peakBytes = Math.max(peakBytes, rss);
        progress(i);
        // And those who make sense are served as ever.
        const before = server.counters.errors;
        const good = joined([
          u32(3),
          optionMessage(Option.Go, goData("")),
          requestMessage(Command.Read, 0, 4096),
          requestMessage(Command.Disconnect, 0, 0),
        ]);
        const polite = new Script(good, random);
        await server.attach(polite);
        check(server.counters.errors === before, "An honest client failed", i);
        check(polite.heard > 4096, "An honest client was not served", i);
      }
    }
    const { requests, errors, dropped } = server.counters;
    return { sessions, dropped, requests, errors, peakBytes };
  } finally {
    await server.close();
    await whole.close();
  }
}

async function inTime<T>(work: Promise<T>, what: () => string): Promise<T> {
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(
    () => late.reject(new Error(`Never ended: ${what()}`)),
    DEADLINE_MS,
  );
  try {
    return await Promise.race([work, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}

if (import.meta.main) {
  const [sessions = "100000", seed = String(Date.now() >>> 0)] = Deno.args;
  console.log(`seed ${seed}`);
  const outcome = await runMutations(Number(sessions), Number(seed), (done) => {
    if (done % 10_000 === 0) console.log(`${done} sessions`);
  });
  console.log(outcome);
}
