/**
 * What a server without FUA is asked for: a flush behind each durable write, one
 * at a time, and none once one has failed. Two at once, or one after a failure,
 * could be told "done" by a server whose system reports a failed write-back once.
 *
 * @module
 */

import { assert, assertEquals, assertRejects } from "@std/assert";
import { VirtualDisk } from "../../../src/disk/disk.ts";
import { DiskError } from "../../../src/errors.ts";
import { Command, ExportFlag } from "../../../src/protocol/nbd/numbers.ts";
import {
  ALL_FLAGS,
  type RawPeer,
  RawServer,
  type SeenRequest,
} from "./raw_server.ts";

const EIO = 5;
const ENOTSUP = 95;
const ESHUTDOWN = 108;
const SECTOR = new Uint8Array(512).fill(0xa5);

/** A server without FUA that answers all but flushes, which a test answers. */
interface FlushingServer extends AsyncDisposable {
  readonly uri: string;
  /** Flushes so far. */
  readonly seen: SeenRequest[];
  /** When so many flushes have come. */
  flushes(count: number): Promise<void>;
  /** When so many writes have been answered. */
  writes(count: number): Promise<void>;
  /** Answers the flush of that index. */
  answer(index: number, error?: number): Promise<void>;
  /** Hangs up. */
  hangUp(): void;
}

async function flushingServer(): Promise<FlushingServer> {
  const seen: SeenRequest[] = [];
  let written = 0;
  let changed = Promise.withResolvers<void>();
  let peer: RawPeer;
  const server = await RawServer.start(async (client) => {
    peer = client;
    await client.attach({ flags: ALL_FLAGS & ~ExportFlag.SendFua });
    for (;;) {
      const request = await client.request();
      if (request.type === Command.Disconnect) return;
      if (request.type === Command.Flush) seen.push(request);
      else {
        await client.simple(request);
        written++;
      }
      changed.resolve();
      changed = Promise.withResolvers();
    }
  });
  const until = async (reached: () => boolean) => {
    while (!reached()) await changed.promise;
  };
  return {
    uri: server.uri,
    seen,
    flushes: (count) => until(() => seen.length >= count),
    writes: (count) => until(() => written >= count),
    answer: (index, error) => peer.simple(seen[index]!, error),
    hangUp: () => peer.close(),
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  };
}

const durably = (disk: VirtualDisk, sector: number, signal?: AbortSignal) =>
  disk.write(sector, SECTOR, { fua: true, signal });

/** Another request there and back: what came before has been taken by then. */
async function roundTrip(
  disk: VirtualDisk,
  server: FlushingServer,
  writes: number,
): Promise<void> {
  await disk.write(1000, SECTOR);
  await server.writes(writes);
}

Deno.test("NbdBackend has one flush in flight, which durable writes share", async () => {
  await using server = await flushingServer();
  await using disk = await VirtualDisk.open(server.uri, {
    closeTimeoutMs: 500,
  });
  const ended: number[] = [];
  const note = (sector: number) => () => void ended.push(sector);
  const first = durably(disk, 0).then(note(0));
  await server.flushes(1);
  const others = [2, 4, 6].map((sector) =>
    durably(disk, sector).then(note(sector))
  );
  await server.writes(4);
  await roundTrip(disk, server, 5);
  assertEquals([server.seen.length, ended], [1, []]);
  await server.answer(0);
  await first;
  await server.flushes(2);
  assertEquals(ended, [0]);
  await server.answer(1);
  await Promise.all(others);
  assertEquals(server.seen.length, 2);
});

Deno.test("NbdBackend asks for no flush behind a durable write once a flush failed", async () => {
  await using server = await flushingServer();
  await using disk = await VirtualDisk.open(server.uri, {
    closeTimeoutMs: 500,
  });
  const flush = assertRejects(() => disk.flush(), DiskError, "EIO");
  await server.flushes(1);
  // It does not wait for the flush; its data may be among what that lost.
  const write = assertRejects(() => durably(disk, 0), DiskError, "flush");
  await roundTrip(disk, server, 2);
  await server.answer(0, EIO);
  await flush;
  assertEquals((await write).kind, "latched");
  assertEquals(disk.failure?.code, "EIO");
  assertEquals(server.seen.length, 1);
});

Deno.test("NbdBackend latches no flush that the server says it has not, as its disk does not", async () => {
  await using server = await flushingServer();
  await using disk = await VirtualDisk.open(server.uri, {
    closeTimeoutMs: 500,
  });
  const refused = async (request: Promise<void>) => {
    const error = assertRejects(() => request, DiskError);
    await Promise.race([server.flushes(++flushes), error]);
    assertEquals(server.seen.length, flushes);
    await server.answer(flushes - 1, ENOTSUP);
    assertEquals((await error).kind, "unsupported");
    assertEquals(disk.failure, null);
  };
  let flushes = 0;
  await refused(disk.flush());
  await refused(durably(disk, 0));
  // Nor one that nobody waits for any more.
  const controller = new AbortController();
  const aborted = assertRejects(() =>
    disk.flush({ signal: controller.signal })
  );
  await server.flushes(++flushes);
  controller.abort();
  await aborted;
  const next = disk.flush();
  await server.answer(flushes - 1, ENOTSUP);
  await refused(next);
  const flush = disk.flush();
  await server.flushes(++flushes);
  await server.answer(flushes - 1);
  await flush;
});

Deno.test("NbdBackend fails all durable writes that share a flush that fails", async () => {
  await using server = await flushingServer();
  await using disk = await VirtualDisk.open(server.uri, {
    closeTimeoutMs: 500,
  });
  const first = durably(disk, 0);
  await server.flushes(1);
  const failures = [2, 4].map((sector) =>
    assertRejects(() => durably(disk, sector), DiskError)
  );
  await roundTrip(disk, server, 4);
  await server.answer(0);
  await first;
  await server.flushes(2);
  await server.answer(1, EIO);
  for (const [index, failure] of failures.entries()) {
    const { kind, code, operation, sector } = await failure;
    assertEquals([kind, code, operation], ["io", "EIO", "write"]);
    assertEquals(sector, 2 + 2 * index);
  }
  assertEquals(server.seen.length, 2);
});

Deno.test("NbdBackend answers aborted writes that wait for a flush at once, and the others right", async () => {
  await using server = await flushingServer();
  await using disk = await VirtualDisk.open(server.uri, {
    closeTimeoutMs: 500,
  });
  const abort = new AbortController();
  const { signal } = abort;
  const aborted = [durably(disk, 0, signal)];
  await server.flushes(1);
  aborted.push(durably(disk, 2, signal));
  const kept = durably(disk, 4);
  await roundTrip(disk, server, 4);
  abort.abort("enough");
  for (const each of aborted) assertEquals(await each.catch(String), "enough");
  // Overlaps what was left to the server: that comes first.
  const after = durably(disk, 2);
  await server.answer(0);
  await server.flushes(2);
  await server.answer(1);
  await kept;
  await server.flushes(3);
  await server.answer(2);
  await after;
  assertEquals(disk.failure, null);
});

Deno.test("NbdBackend keeps the failure of a shared flush that all have given up", async () => {
  await using server = await flushingServer();
  await using disk = await VirtualDisk.open(server.uri, {
    closeTimeoutMs: 500,
  });
  const abort = new AbortController();
  const write = durably(disk, 0, abort.signal);
  await server.flushes(1);
  abort.abort("enough");
  assertEquals(await write.catch(String), "enough");
  const next = assertRejects(() => disk.flush(), DiskError, "was aborted");
  await server.answer(0, EIO);
  assertEquals((await next).kind, "io");
  assert(disk.failure !== null);
  assertEquals(server.seen.length, 1);
});

Deno.test("NbdBackend fails who waits for a flush if the server goes, softly or not", async () => {
  for (const softly of [true, false]) {
    await using server = await flushingServer();
    await using disk = await VirtualDisk.open(server.uri, {
      closeTimeoutMs: 500,
    });
    const failures = [assertRejects(() => durably(disk, 0), DiskError)];
    await server.flushes(1);
    failures.push(assertRejects(() => durably(disk, 2), DiskError));
    await roundTrip(disk, server, 3);
    if (softly) await server.answer(0, ESHUTDOWN);
    else server.hangUp();
    for (const failure of failures) {
      const { kind } = await failure;
      assert(kind === "io" || kind === "latched", kind);
    }
    assertEquals(server.seen.length, 1);
  }
});
