/**
 * Hostile guests and front ends by the thousand: sessions that make sense, with
 * mistakes in their messages, rings, tables and memory, drawn from a seed, against
 * a device of ours. Whatever they do, the device must touch no byte outside of the
 * memory and the disk that it was given, send the front end away or leave the ring
 * alone, keep nothing of it, and serve the next one.
 *
 * The long form:
 *
 * ```sh
 * deno run -A tests/vhost/mutations.ts 100000 [SEED]
 * ```
 *
 * @module
 */

import type { Backend } from "../../src/backend.ts";
import { MemoryBackend } from "../../src/backends/memory.ts";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { Random } from "../../src/random.ts";
import { RequestType } from "../../src/request.ts";
import { GuestFault } from "../../src/vhost/memory_map.ts";
import {
  VhostProtocolError,
  VhostServer,
  VirtqueueError,
} from "../../src/vhost/mod.ts";
import { VirtioFeature } from "../../src/virtio.ts";
import { tempDir } from "../helpers.ts";
import { VhostDriver } from "./driver.ts";
import { FrontEnd, HungUp } from "./front_end.ts";
import { Kernel, KernelError, Poller, Seal } from "./kernel.ts";
import { GUARD, GuestMemory, type GuestRegion, PAGE_BYTES } from "./memory.ts";
import {
  configPart,
  Flag,
  memoryRegion,
  memoryTable,
  Message,
  message,
  PROTOCOL_FEATURES,
  type Region,
  ringAddresses,
  ringState,
  u64,
} from "./messages.ts";
import { type Buffer, DESCRIPTOR_BYTES, Ring } from "./ring.ts";

/** Sectors of the disk, and on each side of it. */
const SECTORS = 512;

const RING_SIZE = 16;

/** Bytes of each of the two regions of a guest's memory. */
const REGION_BYTES = 48 * PAGE_BYTES;

/** Every so many sessions an honest driver is served, and leaks are looked for. */
const CHECK_EVERY = 250;

/** Numbers that rings and protocols stumble over. */
const NUMBERS = [
  0,
  1,
  2,
  15,
  16,
  17,
  255,
  256,
  511,
  512,
  4095,
  4096,
  0x7fff,
  0x8000,
  0xffff,
  0x10000,
  2 ** 31 - 1,
  2 ** 31,
  2 ** 32 - 1,
];

const BIG_NUMBERS = [
  ...NUMBERS.map(BigInt),
  2n ** 32n,
  2n ** 52n,
  2n ** 53n,
  2n ** 63n,
  2n ** 64n - 1n,
  2n ** 64n - 4096n,
];

/** What became of the sessions. */
export interface MutationOutcome {
  /** Sessions. */
  sessions: number;
  /** Front ends that were sent away. */
  dropped: number;
  /** Rings that were stopped. */
  brokenRings: number;
  /** Requests answered. */
  requests: number;
  /** Requests answered with an error. */
  errors: number;
  /** Sessions that the device took to their end. */
  finished: number;
}

/** What a session has. */
interface Session {
  readonly random: Random;
  readonly kernel: Kernel;
  readonly frontEnd: FrontEnd;
  readonly memory: GuestMemory;
  readonly ring: Ring;
  readonly kick: number;
  readonly call: number;
  readonly error: number;
  /** Whether the device was given other memory than the regions. */
  givenOther: boolean;
  /** Whether the device has to wait for the rest of a message. */
  unheard: boolean;
}

/**
 * What a session may leave behind: sockets, counters and memory. The runtime has
 * files of its own besides, which it opens when it likes.
 */
function holdings(): { descriptors: string[]; mappings: number } {
  const descriptors: string[] = [];
  for (const { name } of Deno.readDirSync("/proc/self/fd")) {
    try {
      descriptors.push(Deno.readLinkSync(`/proc/self/fd/${name}`));
    } catch {
      // The one by which the directory is read.
    }
  }
  return {
    descriptors: descriptors.filter((name) =>
      /^socket|eventfd|memfd/.test(name)
    )
      .toSorted(),
    mappings: Deno.readTextFileSync("/proc/self/maps").split("\n")
      .filter((line) => line.includes("memfd:")).length,
  };
}

/**
 * Runs mutated sessions, in a process that does nothing else.
 *
 * @param sessions How many.
 * @param seed What they are drawn from.
 * @param progress Hears how many are done.
 * @returns What became of them.
 * @throws If the device did anything that it must not.
 */
export async function runMutations(
  sessions: number,
  seed: number,
  progress: (done: number) => void = () => {},
): Promise<MutationOutcome> {
  const random = new Random(seed);
  await using stack = new AsyncDisposableStack();
  const dir = stack.use(await tempDir());
  const watched = watchedDisk(random.fork());
  stack.defer(() => watched.whole.close());
  const surprises: Error[] = [];
  const server = stack.use(VhostServer.listen({
    path: dir.join("vhost.sock"),
    disk: watched.disk,
    queues: 2,
    onError: (error) => {
      if (
        error instanceof VhostProtocolError ||
        error instanceof VirtqueueError || error instanceof GuestFault
      ) return;
      surprises.push(error);
    },
  }));
  const kernel = new Kernel();
  stack.defer(() => kernel.close());
  const poller = new Poller(kernel);
  stack.defer(() => poller.close());

  let finished = 0;
  const honest = async (at: number) => {
    await serveHonest(server.path, at);
    await serverIsIdle(server);
  };
  await honest(0);
  // The runtime opens some things once, when they are first needed, which may be
  // after the first look: what sessions keep grows more than once.
  let before: ReturnType<typeof holdings> | null = null;
  let growths = 0;
  for (let i = 0; i < sessions; i++) {
    try {
      if (await oneSession(random, kernel, poller, server.path)) finished++;
      if (watched.outside > 0) {
        throw new Error("Sectors outside of the disk were touched");
      }
      if (surprises.length > 0) throw surprises[0];
      if (i % CHECK_EVERY === CHECK_EVERY - 1) {
        await honest(i);
        const now = holdings();
        before ??= now;
        const grows = now.descriptors.length > before.descriptors.length ||
          now.mappings > before.mappings;
        if (grows && ++growths > 1) {
          throw new Error(
            `Something was kept: ${JSON.stringify({ before, now })}`,
          );
        }
        if (grows) before = now;
        progress(i + 1);
      }
    } catch (error) {
      throw new Error(
        `Session ${i} of seed ${seed}: ${
          error instanceof Error ? error.message : error
        }`,
        { cause: error },
      );
    }
  }
  await honest(sessions);
  const { dropped, brokenRings, requests, errors } = server.counters;
  return { sessions, dropped, brokenRings, requests, errors, finished };
}

/** A disk in the middle of a larger one, whose answers may take a while. */
function watchedDisk(random: Random) {
  const memory = new MemoryBackend({ sectors: 3 * SECTORS });
  const state = { outside: 0 };
  const backend: Backend = {
    geometry: memory.geometry,
    abilities: memory.abilities,
    limits: memory.limits,
    info: memory.info,
    counters: memory.counters,
    submit(batch, complete) {
      for (const { sector, count } of batch) {
        if (count === 0) continue;
        if (sector < SECTORS || sector + count > 2 * SECTORS) state.outside++;
      }
      if (random.chance(3, 4)) return memory.submit(batch, complete);
      const kept = [...batch];
      setTimeout(() => memory.submit(kept, complete), random.below(3));
    },
    allocate: (length) => memory.allocate(length),
    close: () => memory.close(),
  };
  const whole = VirtualDisk.over(backend);
  return {
    whole,
    disk: whole.slice(SECTORS, SECTORS),
    get outside() {
      return state.outside;
    },
  };
}

/** A driver that makes sense is served as ever. */
async function serveHonest(path: string, at: number): Promise<void> {
  const driver = await VhostDriver.connect(path, {
    seed: at,
    regions: [1 << 20],
  });
  const disk = VirtualDisk.over(driver);
  try {
    const data = new Uint8Array(4096).fill(at % 255 + 1);
    await disk.write(at % 500, data);
    const back = await disk.read(at % 500, 8);
    if (back.some((byte) => byte !== data[0])) {
      throw new Error("An honest driver reads what it has not written");
    }
    await disk.flush();
  } finally {
    await disk.close();
  }
}

async function serverIsIdle(server: VhostServer): Promise<void> {
  for (let i = 0; server.attached; i++) {
    if (i > 60_000) throw new Error("A front end that has gone is still there");
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

/** One session; true if the device took it to its end. */
async function oneSession(
  random: Random,
  kernel: Kernel,
  poller: Poller,
  path: string,
): Promise<boolean> {
  let session: Session | null = null;
  const frontEnd = new FrontEnd(kernel, path, poller);
  const memory = new GuestMemory(kernel);
  const counters = [kernel.eventfd(), kernel.eventfd(), kernel.eventfd()];
  try {
    // Sealed memory is shared with the device, other memory copied by calls.
    const seals = random.chance(1, 2) ? Seal.Shrink | Seal.Grow : 0;
    const guestAddress = random.pick([0, 0x10_0000, 2 ** 40]);
    for (let i = 0; i < 2; i++) {
      memory.add({
        guestAddress: guestAddress + i * REGION_BYTES,
        byteLength: REGION_BYTES,
        mapOffset: (i + 1) * PAGE_BYTES,
        seals,
      });
    }
    const [kick, call, error] = counters as [number, number, number];
    session = {
      random,
      kernel,
      frontEnd,
      memory,
      ring: new Ring(
        memory,
        RING_SIZE,
        random.chance(1, 2),
        random.pick([0, 16, 1024]),
      ),
      kick,
      call,
      error,
      givenOther: false,
      unheard: false,
    };
    await play(session);
    return true;
  } catch (error) {
    // It was sent away, in the middle of something.
    if (error instanceof HungUp) return false;
    if (error instanceof KernelError && /send/.test(error.message)) {
      return false;
    }
    // A message that was spoilt asked for a reply.
    if (error instanceof Error && /^The reply to/.test(error.message)) {
      return false;
    }
    throw error;
  } finally {
    await frontEnd.close();
    if (session?.givenOther !== true) memory.checkGuards();
    memory.close();
    for (const fd of counters) kernel.libc.close(fd);
  }
}

/** Lets the device do what it does. */
async function turns(): Promise<void> {
  for (let i = 0; i < 5; i++) {
    await new Promise((resolve) => setTimeout(resolve, 0));
  }
}

/** A message of a session: its number, its payload and its descriptors. */
type Line = [request: number, payload?: Uint8Array, fds?: readonly number[]];

/** Sets a ring up, offers requests, and does mischief. */
async function play(session: Session): Promise<void> {
  const { random, frontEnd } = session;
  const lines = setUp(session);
  // The mischief is in the messages, in the ring, or in both.
  const inMessages = random.chance(1, 3);
  if (inMessages) {
    for (let i = random.between(1, 3); i > 0; i--) spoilLines(session, lines);
  }
  for (const line of lines) say(session, line, inMessages);
  if (session.unheard) return await turns();
  const rounds = random.between(1, 3);
  for (let i = 0; i < rounds; i++) {
    offerRequests(session);
    if (random.chance(7, 8)) spoilRing(session);
    session.ring.publish();
    session.kernel.signal(session.kick);
    if (random.chance(1, 4)) await frontEnd.settled();
    if (random.chance(1, 3)) interfere(session);
    if (random.chance(1, 4)) spoilRing(session);
  }
  // Gone at once, in the middle of whatever the device does.
  if (random.chance(1, 8)) return;
  await frontEnd.settled();
  if (random.chance(1, 2)) {
    await frontEnd.ask(Message.GetVringBase, ringState(0, 0));
  }
}

/** The messages that start a ring. */
function setUp({ memory, ring, kick, call, error, random }: Session): Line[] {
  const { regions } = memory;
  const features = 1n << BigInt(PROTOCOL_FEATURES) |
    1n << BigInt(VirtioFeature.Version1) |
    (random.chance(3, 4)
      ? 1n << BigInt(VirtioFeature.IndirectDescriptors)
      : 0n) |
    (random.chance(1, 2) ? 1n << BigInt(VirtioFeature.EventIndex) : 0n) |
    (random.chance(1, 2) ? 1n << BigInt(VirtioFeature.Flush) : 0n) |
    1n << BigInt(VirtioFeature.Discard) |
    1n << BigInt(VirtioFeature.WriteZeroes);
  const { descriptors, used, available } = ring.parts;
  return [
    [Message.SetOwner],
    [Message.SetFeatures, u64(features)],
    [Message.SetMemTable, memoryTable(regions), regions.map(({ fd }) => fd)],
    [Message.SetVringCall, u64(0), [call]],
    [Message.SetVringErr, u64(0), [error]],
    [Message.SetVringNum, ringState(0, RING_SIZE)],
    [Message.SetVringBase, ringState(0, 0)],
    [
      Message.SetVringAddr,
      ringAddresses(
        0,
        memory.userAddress(descriptors),
        memory.userAddress(used),
        memory.userAddress(available),
      ),
    ],
    [Message.SetVringKick, u64(0), [kick]],
    [Message.SetVringEnable, ringState(0, 1)],
  ];
}

/** Sends a message, maybe with a header that is not right. */
function say(
  session: Session,
  [request, payload, fds]: Line,
  wrong: boolean,
): void {
  const { frontEnd, random } = session;
  const bytes = message(request, payload);
  const view = new DataView(bytes.buffer);
  if (wrong && random.chance(1, 24)) {
    switch (random.below(4)) {
      case 0:
        view.setUint32(0, random.pick([0, 7, 33, 44, 999, 2 ** 32 - 1]), true);
        break;
      case 1:
        view.setUint32(4, random.below(16), true);
        break;
      case 2:
        view.setUint32(8, random.pick(NUMBERS), true);
        session.unheard = true;
        break;
      case 3:
        // In two pieces, of which the second may never come.
        frontEnd.raw(bytes.subarray(0, 7), fds);
        if (random.chance(1, 2)) frontEnd.raw(bytes.subarray(7));
        else session.unheard = true;
        return;
    }
  }
  frontEnd.raw(bytes, fds);
}

/** Spoils the messages of a session in one place. */
function spoilLines(session: Session, lines: Line[]): void {
  const { random, memory, kick } = session;
  const at = random.below(lines.length);
  const [request, payload = new Uint8Array(0), fds = []] = lines[at]!;
  if (request === Message.SetMemTable) session.givenOther = true;
  switch (random.below(12)) {
    case 0:
      lines.splice(at, 1);
      break;
    case 1:
      lines.splice(at, 0, lines[at]!);
      break;
    case 2: {
      const other = random.below(lines.length);
      [lines[at], lines[other]] = [lines[other]!, lines[at]!];
      break;
    }
    case 3: {
      const bytes = payload.slice();
      if (bytes.length > 0) {
        bytes[random.below(bytes.length)]! ^= 1 << random.below(8);
      }
      lines[at] = [request, bytes, fds];
      break;
    }
    case 4: {
      const bytes = payload.slice();
      if (bytes.length >= 8) {
        new DataView(bytes.buffer).setBigUint64(
          random.below(Math.floor(bytes.length / 8)) * 8,
          random.pick(BIG_NUMBERS),
          true,
        );
      }
      lines[at] = [request, bytes, fds];
      break;
    }
    case 5:
      lines[at] = [request, payload.subarray(0, random.below(64)), fds];
      break;
    case 6:
      lines[at] = [
        request,
        new Uint8Array(payload.length + random.between(1, 2000)),
        fds,
      ];
      break;
    case 7:
      // Descriptors that are missing.
      lines[at] = [request, payload, fds.slice(1)];
      break;
    case 8:
      // And more than there can be.
      lines[at] = [
        request,
        payload,
        Array.from({ length: random.between(1, 20) }, () => kick),
      ];
      break;
    case 9:
      // Memory for a counter, a counter for memory.
      lines[at] = [
        request,
        payload,
        fds.map((fd) => fd === kick ? memory.regions[0]!.fd : kick),
      ];
      break;
    case 10: {
      session.givenOther = true;
      const regions = memory.regions.map((region) =>
        wrongRegion(region, random)
      );
      lines[at] = [
        Message.SetMemTable,
        memoryTable(regions),
        memory.regions.map(({ fd }) => fd),
      ];
      break;
    }
    case 11:
      lines.splice(at, 0, oddMessage(session));
      break;
  }
}

function wrongRegion(region: GuestRegion, random: Random): Region {
  const number = () => Number(random.pick(BIG_NUMBERS) % 2n ** 53n);
  const { guestAddress, byteLength, userAddress, mapOffset } = region;
  const whole = { guestAddress, byteLength, userAddress, mapOffset };
  switch (random.below(5)) {
    case 0:
      return { ...whole, guestAddress: number() };
    case 1:
      return { ...whole, byteLength: number() };
    case 2:
      return { ...whole, userAddress: number() };
    case 3:
      return { ...whole, mapOffset: number() };
    default:
      return whole;
  }
}

/** A message that no driver of this kind sends, or not now. */
function oddMessage({ random, memory, kick }: Session): Line {
  const [region] = memory.regions;
  const number = () => random.pick(NUMBERS);
  return random.pick<Line>([
    [Message.ResetOwner],
    [Message.ResetDevice],
    [Message.SetVringEnable, ringState(number(), number())],
    [Message.SetVringNum, ringState(random.below(3), number())],
    [Message.SetVringBase, ringState(random.below(3), number())],
    [Message.SetVringKick, u64(0x100 | random.below(3))],
    [Message.SetVringCall, u64(0x100 | random.below(3))],
    [Message.SetVringCall, u64(random.below(300)), [kick]],
    [Message.SetBackendReqFd, u64(0), [kick]],
    [Message.SetConfig, configPart(number(), new Uint8Array(1))],
    [Message.SetConfig, configPart(32, Uint8Array.of(number()))],
    [Message.AddMemReg, memoryRegion(region!), [region!.fd]],
    [Message.RemMemReg, memoryRegion(region!)],
    [Message.SetInflightFd, new Uint8Array(24), [region!.fd]],
    [Message.SetProtocolFeatures, u64(random.pick(BIG_NUMBERS))],
    [Message.SetFeatures, u64(random.pick(BIG_NUMBERS))],
    [Message.SetStatus, u64(0)],
  ]);
}

/** Makes requests that make sense, as many as there is room for. */
function offerRequests({ memory, ring, random }: Session): void {
  for (let i = random.between(1, 4); i > 0; i--) {
    const type = random.pick([
      RequestType.In,
      RequestType.In,
      RequestType.Out,
      RequestType.Out,
      RequestType.Flush,
      RequestType.GetId,
      RequestType.Discard,
      RequestType.WriteZeroes,
    ]);
    const sector = random.below(SECTORS - 16);
    const room = memory.take(4 * PAGE_BYTES);
    if (room === null) return;
    // Nothing is given back: the memory ends with the session.
    const header = new Uint8Array(32);
    const view = new DataView(header.buffer);
    view.setUint32(0, type, true);
    view.setBigUint64(8, BigInt(sector), true);
    // Of a discard or a zeroing, the range.
    view.setBigUint64(16, BigInt(sector), true);
    view.setUint32(24, random.between(1, 8), true);
    memory.write(room, header);
    const data = room + PAGE_BYTES + random.pick([0, 1, 512]);
    const ranged = type === RequestType.Discard ||
      type === RequestType.WriteZeroes;
    const buffers: Buffer[] = [
      { address: room, length: ranged ? 32 : 16, write: false },
    ];
    if (type === RequestType.In || type === RequestType.Out) {
      const write = type === RequestType.In;
      const count = random.between(1, 4);
      for (let n = 0; n < count; n++) {
        buffers.push({ address: data + n * 1536, length: 512, write });
      }
    } else if (type === RequestType.GetId) {
      buffers.push({ address: data, length: 20, write: true });
    }
    buffers.push({ address: room + 64, length: 1, write: true });
    const table = random.chance(1, 3)
      ? { address: room + 3 * PAGE_BYTES, before: 0 }
      : null;
    if (ring.add(buffers, table) === null) return;
  }
}

/** Spoils a ring, its descriptors or what they point to. */
function spoilRing({ memory, ring, random }: Session): void {
  const { descriptors, available, used } = ring.parts;
  const number = () => random.pick(NUMBERS);
  const poke = (address: number, length: number) => {
    const view = memory.view(address, length);
    view[random.below(length)]! ^= 1 << random.below(8);
  };
  for (let times = random.between(1, 3); times > 0; times--) {
    const index = random.below(RING_SIZE);
    const descriptor = memory.view(
      descriptors + index * DESCRIPTOR_BYTES,
      DESCRIPTOR_BYTES,
    );
    const view = new DataView(
      descriptor.buffer,
      descriptor.byteOffset,
      DESCRIPTOR_BYTES,
    );
    switch (random.below(12)) {
      case 0:
        poke(descriptors, RING_SIZE * DESCRIPTOR_BYTES);
        break;
      case 1:
        poke(available, 6 + 2 * RING_SIZE);
        break;
      case 2:
        poke(used, 6 + 8 * RING_SIZE);
        break;
      case 3:
        // An index that jumps.
        ring.forge(random.pick([ring.nextAvailable + RING_SIZE + 1, number()]));
        break;
      case 4:
        // A loop, or a way out of the table.
        view.setUint16(12, random.below(8), true);
        view.setUint16(14, number(), true);
        break;
      case 5:
        view.setUint16(12, view.getUint16(12, true) ^ 2, true);
        break;
      case 6:
        view.setUint32(8, number(), true);
        break;
      case 7:
        view.setBigUint64(0, random.pick(BIG_NUMBERS), true);
        break;
      case 8: {
        // Near the ends of the regions, on either side.
        const region = random.pick(memory.regions);
        const end = region.guestAddress +
          (random.chance(1, 2) ? region.byteLength : 0);
        view.setBigUint64(
          0,
          BigInt(Math.max(0, end + random.between(-600, 600))),
          true,
        );
        break;
      }
      case 9:
        // The ring itself, for a buffer.
        view.setBigUint64(0, BigInt(random.pick([descriptors, used])), true);
        break;
      case 10: {
        // A table, or what is none.
        view.setUint16(12, 4 | random.below(4), true);
        view.setUint32(8, random.pick([16, 32, 1600, 8, 0, 17]), true);
        break;
      }
      case 11:
        // Whatever the requests consist of.
        poke(random.pick(memory.regions).guestAddress, REGION_BYTES);
        break;
    }
  }
}

/** What a front end may do to a ring that runs. */
function interfere(session: Session): void {
  const { random, frontEnd, memory, ring, kernel, kick } = session;
  const { regions } = memory;
  const { descriptors, used, available } = ring.parts;
  const tell = (regions: readonly GuestRegion[]) =>
    frontEnd.tell(
      Message.SetMemTable,
      memoryTable(regions),
      regions.map(({ fd }) => fd),
    );
  switch (random.below(10)) {
    case 0:
      tell(regions);
      break;
    case 1:
      // Memory is taken away while it is in use.
      tell([random.pick(regions)]);
      break;
    case 2:
      tell(regions.toReversed());
      break;
    case 3:
      frontEnd.tell(
        Message.SetVringAddr,
        ringAddresses(
          0,
          memory.userAddress(descriptors) + random.pick([0, 16, 4096, 8]),
          memory.userAddress(used) + random.pick([0, 4, 4096, 1]),
          memory.userAddress(available) + random.pick([0, 2, 4096, 1]),
        ),
      );
      break;
    case 4: {
      // Cut, where no seal forbids it; the guard behind it goes with it.
      const region = random.pick(regions);
      const size = random.pick([0, PAGE_BYTES, region.byteLength]);
      const whole = region.mapped.bytes.length;
      if (kernel.libc.ftruncate(region.fd, size) < 0) break;
      kernel.signal(kick);
      kernel.libc.ftruncate(region.fd, whole);
      region.mapped.bytes.fill(GUARD, 0, region.mapOffset);
      region.mapped.bytes.fill(GUARD, region.mapOffset + region.byteLength);
      break;
    }
    case 5:
      frontEnd.tell(Message.SetVringEnable, ringState(0, 0));
      kernel.signal(kick);
      frontEnd.tell(Message.SetVringEnable, ringState(0, 1));
      break;
    case 6:
      frontEnd.tell(Message.ResetDevice);
      break;
    case 7: {
      const [request, payload, fds] = oddMessage(session);
      frontEnd.raw(message(request, payload), fds);
      break;
    }
    case 8:
      frontEnd.raw(
        message(Message.GetFeatures, undefined, Flag.Version | Flag.Reply),
      );
      break;
    case 9:
      for (let i = random.below(5); i > 0; i--) kernel.signal(kick);
      break;
  }
}

if (import.meta.main) {
  const isJson = Deno.args.includes("--json");
  const [sessions = "100000", seed = String(Date.now() >>> 0)] = Deno.args;
  const say = isJson ? () => {} : console.log;
  say(`seed ${seed}`);
  const outcome = await runMutations(Number(sessions), Number(seed), (done) => {
    if (done % 10_000 === 0) say(`${done} sessions`);
  });
  console.log(isJson ? JSON.stringify(outcome) : outcome);
}
