/**
 * Memory that changes under a request: buffers are transferred, detached,
 * shrunk and grown between the submission of a request and its answer, over
 * every backend, engine and layer.
 *
 * Every sector of a write holds the number of that write in each of its words,
 * so that whatever is found on the disk tells where it came from. Memory that a
 * buffer was transferred to is filled with {@linkcode FOREIGN} at once: found on
 * the disk, or gone from that memory, it shows that the disk went on with memory
 * that was not its own any more.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { VirtualDisk } from "../src/disk/disk.ts";
import type { DiskError } from "../src/errors.ts";
import { SECTOR_BYTES } from "../src/geometry.ts";
import { NbdServer } from "../src/nbd/server.ts";
import { Random } from "../src/random.ts";
import {
  readRequest,
  type Request,
  Status,
  writeRequest,
} from "../src/request.ts";
import { type FuzzSubject, needsRoot, SUBJECTS } from "./fuzz.ts";
import { hasTmpfs, LONG, needs } from "./helpers.ts";
import { jittery, LAYERS, memory } from "./layers/stacks.ts";

const FOREIGN = 0xeeee_eeee;

/** A caller's memory beyond this is sent to an NBD server from where it is, in bytes. */
const SENT_AS_IT_IS = 32_768;

/** Memory, and how to spoil it. */
interface Victim {
  readonly bytes: Uint8Array;
  /** Changes it; returns memory that it was transferred to, if there is any. */
  readonly spoil: (() => Uint8Array | null) | null;
}

/** Ways to make memory of so many bytes that changes, or does not. */
const MEMORIES: ((
  length: number,
  disk: VirtualDisk,
  random: Random,
) => Victim)[] = [
  // Stays as it is.
  (length, _, random) => {
    const skip = random.below(3);
    return { bytes: new Uint8Array(length + skip).subarray(skip), spoil: null };
  },
  // Cannot be taken away: whoever tries is refused, and the request goes on.
  (length, disk) => {
    const bytes = disk.allocate(length / SECTOR_BYTES);
    return { bytes, spoil: null };
  },
  (length) => {
    const bytes = new Uint8Array(length);
    return { bytes, spoil: () => new Uint8Array(bytes.buffer.transfer()) };
  },
  (length) => {
    const { buffer } = new Uint8Array(length);
    const spoil = () =>
      new Uint8Array(structuredClone(buffer, { transfer: [buffer] }));
    return { bytes: new Uint8Array(buffer), spoil };
  },
  (length) => {
    const bytes = new Uint8Array(length);
    const spoil = () => {
      const { port1, port2 } = new MessageChannel();
      port1.postMessage(null, [bytes.buffer]);
      port1.close();
      port2.close();
      return null;
    };
    return { bytes, spoil };
  },
  // A view of a fixed length is out of bounds then, one without shrinks.
  (length, _, random) => {
    const buffer = new ArrayBuffer(length, { maxByteLength: 2 * length });
    const tracks = random.chance(1, 2);
    const sizes = tracks ? [0, length / 2, length * 2] : [0, length / 2];
    const spoil = () => {
      buffer.resize(random.pick(sizes));
      return null;
    };
    return {
      bytes: tracks
        ? new Uint8Array(buffer)
        : new Uint8Array(buffer, 0, length),
      spoil,
    };
  },
];

/** A request in flight. */
interface Attempt {
  readonly id: number;
  readonly reads: boolean;
  readonly sector: number;
  readonly count: number;
  readonly segments: Victim[];
  request: Request | null;
  spoilt: boolean;
  error: DiskError | null;
}

/** The number that a whole sector holds. */
function stampOf(bytes: Uint8Array, sector: number): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const first = view.getUint32(sector * SECTOR_BYTES);
  for (let at = 4; at < SECTOR_BYTES; at += 4) {
    const word = view.getUint32(sector * SECTOR_BYTES + at);
    assertEquals(word, first, `a sector of two writes, at byte ${at}`);
  }
  return first;
}

function fill(bytes: Uint8Array, stamp: number): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = 0; at + 4 <= bytes.length; at += 4) view.setUint32(at, stamp);
}

/** A disk, and how to have it back. */
interface ChangeSubject extends FuzzSubject {
  /**
   * Opens the disk anew, once all that was asked of it is done or never will be.
   * There if a large write that is changed while it is sent may cost the disk:
   * NBD has no way to take back the rest of one.
   */
  reopen?: () => Promise<VirtualDisk>;
}

async function change(
  { disk, reopen }: ChangeSubject,
  options: { seed: number; requests: number; holds: boolean },
): Promise<{ spoilt: number; refused: number }> {
  const random = new Random(options.seed);
  const block = disk.blockSize / SECTOR_BYTES;
  const blocks = Math.floor(disk.sectors / block);
  const content = new Map<number, number>();
  const heirs: Uint8Array[] = [];
  let id = 0;
  let spoilt = 0;
  let refused = 0;

  function make(): Attempt {
    // Close to each other, so that neighbours merge and overlaps wait.
    const size = random.chance(1, 200) ? random.between(257, 400) : 8;
    const length = Math.min(random.between(1, size), blocks);
    const first = random.below(Math.min(blocks - length, 64) + 1);
    const attempt: Attempt = {
      id: ++id,
      reads: random.chance(1, 3),
      sector: first * block,
      count: length * block,
      segments: [],
      request: null,
      spoilt: false,
      error: null,
    };
    for (let left = length; left > 0;) {
      const part = random.chance(1, 3) ? random.between(1, left) : left;
      const victim = random.pick(MEMORIES)(
        part * block * SECTOR_BYTES,
        disk,
        random,
      );
      if (!attempt.reads) fill(victim.bytes, attempt.id);
      attempt.segments.push(victim);
      left -= part;
    }
    return attempt;
  }

  function spoil(attempt: Attempt): void {
    const { spoil } = random.pick(attempt.segments);
    // Once it is answered, its memory is nobody's concern.
    const answered = attempt.request!.status !== undefined;
    if (spoil === null || attempt.spoilt || answered) return;
    attempt.spoilt = true;
    spoilt++;
    const heir = spoil();
    if (heir === null) return;
    fill(heir, FOREIGN);
    // `node:fs` and sockets keep hold of the memory that they read into.
    if (options.holds || !attempt.reads) heirs.push(heir);
  }

  /** What a sector may hold: nothing that failed is known to be left out. */
  function check(found: number, sector: number, attempts: Attempt[]): void {
    const before = content.get(sector) ?? 0;
    const may = new Set([before]);
    for (const { id, reads, sector: first, count, error } of attempts) {
      if (reads || sector < first || sector >= first + count) continue;
      if (error === null) may.clear();
      may.add(id);
    }
    assert(
      may.has(found),
      `sector ${sector} holds ${found.toString(16)} and none of ${[...may]}`,
    );
  }

  while (id < options.requests) {
    const attempts = Array.from({ length: random.between(1, 48) }, make);
    const answers = attempts.map((attempt) => {
      const segments = attempt.segments.map(({ bytes }) => bytes);
      const request = attempt.reads
        ? readRequest(attempt.sector, ...segments)
        : writeRequest(attempt.sector, ...segments);
      attempt.request = request;
      return disk.submit(request).then((status) => {
        assertEquals(status === Status.Ok, request.error === null);
        attempt.error = request.error;
      });
    });
    for (const attempt of attempts) {
      if (random.chance(1, 3)) spoil(attempt);
    }
    if (random.chance(1, 2)) {
      if (random.chance(1, 2)) disk.kick();
      for (let i = random.below(12); i > 0; i--) await null;
      for (const attempt of attempts) {
        if (random.chance(1, 6)) spoil(attempt);
      }
    }
    if (random.chance(1, 2)) {
      await new Promise((resolve) => setImmediate(resolve));
      for (const attempt of attempts) {
        if (random.chance(1, 6)) spoil(attempt);
      }
    }
    await Promise.all(answers);

    const isLost = reopen !== undefined &&
      attempts.some(({ error }) => isLoss(error));
    if (isLost) {
      const isKnown = attempts.some(({ error, reads, spoilt, count }) =>
        error?.kind === "argument" && !reads && spoilt &&
        count * SECTOR_BYTES > SENT_AS_IT_IS
      );
      assert(isKnown, "a connection was lost, and nobody's memory had changed");
    }
    for (const attempt of attempts) {
      const { error, reads, sector, count } = attempt;
      if (isLost && isLoss(error)) continue;
      if (error !== null) {
        assertEquals(error.kind, "argument", error.message);
        assert(attempt.spoilt, `innocent, but: ${error.message}`);
        refused++;
      } else if (reads) {
        // In whatever order: anything that was written here at any time.
        const bytes = new Uint8Array(count * SECTOR_BYTES);
        let at = 0;
        for (const segment of attempt.segments) {
          bytes.set(segment.bytes, at);
          at += segment.bytes.length;
        }
        assertEquals(at, bytes.length, "a read into memory that has gone");
        for (let i = 0; i < count; i++) {
          const stamp = stampOf(bytes, i);
          assert(
            stamp === (content.get(sector + i) ?? 0) ||
              attempts.some((other) =>
                other.id === stamp && !other.reads && other.id < attempt.id
              ),
            `sector ${sector + i} reads as ${stamp.toString(16)}`,
          );
        }
      }
    }
    if (isLost) disk = await reopen();
    const end = Math.max(...attempts.map((each) => each.sector + each.count));
    const found = await disk.read(0, end);
    for (let sector = 0; sector < end; sector++) {
      const stamp = stampOf(found, sector);
      check(stamp, sector, attempts);
      content.set(sector, stamp);
    }
    for (const heir of heirs.splice(0)) {
      for (let i = 0; i < heir.length; i++) {
        if (heir[i] !== 0xee) throw new Error("the disk wrote to other memory");
      }
    }
  }
  return { spoilt, refused };
}

/** Whether an error says that a connection was lost for memory that changed. */
function isLoss(error: DiskError | null): boolean {
  return error?.code === "ENOTCONN" &&
    /resized while it was sent$/.test(error.message);
}

/** A disk behind a server of our own. */
async function remote(): Promise<ChangeSubject> {
  const served = VirtualDisk.over(jittery(7));
  const listen = () =>
    NbdServer.listen({ port: 0, exports: [{ disk: served }] });
  let server = listen();
  let disk = await VirtualDisk.open(server.uri());
  return {
    disk,
    start: 0,
    async reopen() {
      console.log("  a connection was lost for memory that changed");
      await disk.close();
      // Ends when what it was asked for is done.
      await server.close();
      server = listen();
      return disk = await VirtualDisk.open(server.uri());
    },
    async [Symbol.asyncDispose]() {
      await disk.close();
      await server.close();
      await served.close();
    },
  };
}

const layered = (layer: (typeof LAYERS)[string], late: boolean) => () => {
  const disk = VirtualDisk.over(layer(late ? jittery(3) : memory()));
  return Promise.resolve<FuzzSubject>({
    disk,
    start: 0,
    [Symbol.asyncDispose]: () => disk.close(),
  });
};

const ALL: Record<string, () => Promise<ChangeSubject>> = {
  ...SUBJECTS,
  "NBD": remote,
  ...Object.fromEntries(
    Object.entries(LAYERS).flatMap(([name, layer]) => [
      [`${name} over memory`, layered(layer, false)],
      [`${name} over a slow disk`, layered(layer, true)],
    ]),
  ),
};

for (const [name, make] of Object.entries(ALL)) {
  // Its sectors count from the whole disk's start, and it adds nothing here.
  if (name === "slice") continue;
  const linux = Deno.build.os === "linux";
  const ignore = !linux && /direct|tmpfs|device|tail/.test(name) ||
    name.includes("tmpfs") && !hasTmpfs() ||
    needsRoot(name) && needs("root", "losetup", "mkfs.ext4").ignore;
  Deno.test({
    name: `memory that changes under a request harms nobody: ${name}`,
    ignore,
    async fn() {
      await using subject = await make();
      const seed = crypto.getRandomValues(new Uint32Array(1))[0]!;
      const requests = LONG ? 10_000 : 500;
      console.log(`${name}: seed ${seed}, ${requests} requests`);
      const holds = !/portable|NBD/.test(name);
      const { spoilt, refused } = await change(subject, {
        seed,
        requests,
        holds,
      });
      console.log(`  ${spoilt} changed meanwhile, ${refused} refused`);
      assert(refused > requests / 20);
    },
  });
}
