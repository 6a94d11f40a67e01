/**
 * Requests that are given up while a layer has them, and what goes wrong in a
 * layer before they reach the disk: all of them are answered, and closing ends.
 *
 * @module
 */

import {
  assertEquals,
  assertLess,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { Buffer } from "node:buffer";
import type { Backend, Complete } from "../../src/backend.ts";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { overlay } from "../../src/disk/overlay.ts";
import { DiskError } from "../../src/errors.ts";
import { Layer } from "../../src/layers/layer.ts";
import { faults, readahead, trace, verify } from "../../src/layers/mod.ts";
import { layoutOf, PAGE_BITS } from "../../src/layers/overlay_file/format.ts";
import { type Request, RequestType } from "../../src/request.ts";
import { abortedError } from "../../src/request_error.ts";
import { memory, SECTORS } from "./stacks.ts";

const sector = (value: number, count = 1) =>
  new Uint8Array(count * 512).fill(value);

const turn = () => new Promise((resolve) => setTimeout(resolve));

/** A disk that answers nothing until it is told to, but for what is given up. */
class Silent extends Layer {
  readonly held: [Request, Complete][] = [];
  silent = true;
  memory = true;

  constructor(below: Backend = memory()) {
    super("silent", below, { ownsBase: false });
  }

  override carryOut(batch: readonly Request[], complete: Complete): void {
    for (const request of batch) this.held.push([request, complete]);
    if (!this.silent) this.letGo();
  }

  override cancel(request: Request): void {
    const at = this.held.findIndex(([each]) => each === request);
    if (at < 0) return;
    const [[, complete]] = this.held.splice(at, 1) as [[Request, Complete]];
    complete(request, abortedError(request));
  }

  override allocate(byteLength: number): Uint8Array<ArrayBuffer> {
    if (!this.memory) throw new RangeError("Array buffer allocation failed");
    return super.allocate(byteLength);
  }

  letGo(): void {
    this.silent = false;
    for (const [request, complete] of this.held.splice(0)) {
      this.backend.submit([request], complete);
    }
  }
}

/** Aborts one of two requests, and returns what it rejects with. */
async function withdraw(
  second: (signal: AbortSignal) => Promise<unknown>,
): Promise<unknown> {
  const controller = new AbortController();
  const reason = new Error("Enough");
  const withdrawn = second(controller.signal).catch((error) => error);
  await turn();
  controller.abort(reason);
  return await withdrawn === reason;
}

Deno.test("verify() answers a request that is withdrawn while it waits for another one", async () => {
  const silent = new Silent();
  const disk = VirtualDisk.over(verify(silent, memory()));
  const first = disk.read(0, 8);
  assertEquals(await withdraw((signal) => disk.read(4, 8, { signal })), true);
  const third = disk.read(2, 8);
  // It never reaches the disk, which would answer it a second time.
  silent.letGo();
  await Promise.all([first, third]);
  await disk.close();
});

Deno.test("faults() answers requests that are withdrawn while a flush is in flight", async () => {
  const silent = new Silent();
  const faulty = faults(silent, [
    { operation: "flush", nth: 9, effect: { kind: "flush", pages: "kept" } },
  ]);
  const disk = VirtualDisk.over(faulty);
  await disk.write(0, sector(1));
  const flush = disk.flush();
  await turn();
  const options = { fua: true };
  assertEquals(
    await withdraw((signal) =>
      disk.write(4, sector(2), { signal, ...options })
    ),
    true,
  );
  silent.letGo();
  await flush;
  assertEquals((await disk.read(4, 1))[0], 0);
  await disk.close();
});

/** Opens an overlay over a base and in a file that may both fall silent. */
async function overSilent() {
  const base = new Silent();
  const store = memory({ sectors: layoutOf(SECTORS).fileSectors });
  const file = new Silent(store);
  base.silent = file.silent = false;
  const changes = await overlay(base, { file, ownsBase: false });
  return { base, store, file, changes, disk: VirtualDisk.over(changes) };
}

Deno.test("overlay() in a file withdraws requests from its file and from its base", async () => {
  const { base, file, disk } = await overSilent();
  await disk.write(0, sector(1));
  await disk.flush();
  base.silent = file.silent = true;
  const requests: ((signal: AbortSignal) => Promise<unknown>)[] = [
    (signal) => disk.read(0, 1, { signal }),
    (signal) => disk.read(0, 2, { signal }),
    (signal) => disk.read(1, 1, { signal }),
    (signal) => disk.write(2, sector(2), { signal }),
    (signal) => disk.writeZeroes(3, 1, { signal }),
    // It promises nothing then, and costs nothing of what is durable.
    (signal) => disk.write(0, sector(3), { signal, fua: true }),
  ];
  for (const request of requests) assertEquals(await withdraw(request), true);
  assertEquals([...base.held, ...file.held], []);
  base.silent = file.silent = false;
  assertEquals(
    await disk.read(0, 4),
    new Uint8Array([...sector(1), ...sector(0, 3)]),
  );
  await disk.write(0, sector(4), { fua: true });
  await disk.write(2, sector(5));
  await disk.flush();
  await disk.close();
});

Deno.test("overlay() in a file carries out nothing that is withdrawn while its map is read", async () => {
  const { base, store, disk: first } = await overSilent();
  await first.write(0, sector(1));
  await first.close();
  const file = new Silent(store);
  file.silent = false;
  const disk = VirtualDisk.over(await overlay(base, { file }));
  file.silent = true;
  const withdrawn = withdraw((signal) => disk.read(0, 1, { signal }));
  await turn();
  await turn();
  const [[request, complete]] = file.held.splice(0) as [[Request, Complete]];
  store.submit([request], complete);
  assertEquals(await withdrawn, true);
  assertEquals(file.held, []);
  file.silent = false;
  assertEquals(await disk.read(0, 1), sector(1));
  await disk.close();
});

Deno.test("overlay() in a file answers what is withdrawn while the file does not give its map", async () => {
  const { base, store, disk: first } = await overSilent();
  await first.write(0, sector(1));
  await first.close();
  const file = new Silent(store);
  file.silent = false;
  const disk = VirtualDisk.over(await overlay(base, { file }));
  file.silent = true;
  const other = disk.read(0, 1);
  await turn();
  const requests: ((signal: AbortSignal) => Promise<unknown>)[] = [
    (signal) => disk.read(1, 1, { signal }),
    (signal) => disk.write(2, sector(2), { signal }),
  ];
  for (const request of requests) assertEquals(await withdraw(request), true);
  // One page, which the other one still waits for.
  assertEquals(file.held.length, 1);
  file.letGo();
  assertEquals(await other, sector(1));
  assertEquals(
    await disk.read(0, 3),
    new Uint8Array([...sector(1), ...sector(0, 2)]),
  );
  await disk.close();
});

Deno.test("overlay() in a file answers a write that is withdrawn while a full map is written", async () => {
  const pages = 513;
  const sectors = pages * PAGE_BITS;
  const store = memory({ sectors: layoutOf(sectors).fileSectors });
  const file = new Silent(store);
  file.silent = false;
  const disk = VirtualDisk.over(await overlay(memory({ sectors }), { file }));
  for (let page = 0; page < pages - 1; page++) {
    await disk.write(page * PAGE_BITS, sector(1));
  }
  file.silent = true;
  const last = sectors - 1;
  const write = (signal: AbortSignal) =>
    disk.write(last, sector(2), { signal });
  assertEquals(await withdraw(write), true);
  file.letGo();
  await disk.flush();
  assertEquals(await disk.read(last, 1), sector(0));
  await disk.close();
});

Deno.test("FileOverlay.discard() waits for every flush that withdrawn writes have asked for", async () => {
  const pages = 513;
  const sectors = pages * PAGE_BITS;
  const store = memory({ sectors: layoutOf(sectors).fileSectors });
  const file = new Silent(store);
  file.silent = false;
  const changes = await overlay(memory({ sectors }), { file });
  const disk = VirtualDisk.over(changes);
  for (let page = 0; page < pages - 1; page++) {
    await disk.write(page * PAGE_BITS, sector(1));
  }
  file.silent = true;
  // The second one is for a flush behind that of the first one.
  for (let i = 0; i < 2; i++) {
    const write = (signal: AbortSignal) =>
      disk.write(sectors - 1, sector(2), { signal });
    assertEquals(await withdraw(write), true);
  }
  let isOver = false;
  const discarded = changes.discard().then(() => isOver = true);
  for (let turns = 0; !isOver; turns++) {
    assertLess(turns, 1000);
    await turn();
    const types = new Set(file.held.map(([{ type }]) => type));
    // A flush beside anything else would be one of two that are at work.
    if (types.has(RequestType.Flush)) assertEquals(file.held.length, 1);
    for (const [request, complete] of file.held.splice(0)) {
      store.submit([request], complete);
    }
  }
  await discarded;
  file.silent = false;
  assertEquals(await disk.read(0, 1), sector(0));
  await disk.close();
});

Deno.test("FileOverlay.commit() is interrupted whatever it waits for, and repeated", async () => {
  // Of the file: its map, its data. Of the base: what tells it, a write, a flush,
  // what tells it from then on.
  for (let step = 0; step < 6; step++) {
    const { base: _, store, disk: first } = await overSilent();
    const base = new Silent();
    base.silent = false;
    await first.write(8, sector(1));
    await first.close();
    const file = new Silent(store);
    file.silent = false;
    const changes = await overlay(base, { file, acceptBase: true });
    const holder = step < 2 ? file : base;
    let left = [1, 2, 1, 19, 20, 21][step]!;
    const controller = new AbortController();
    const reason = new Error("Enough");
    const submit = holder.submit.bind(holder);
    holder.submit = (batch, complete) => {
      const { type } = batch[0]!;
      const counts = holder === base || type === RequestType.In;
      holder.silent = counts && --left === 0;
      submit(batch, complete);
      if (holder.silent) queueMicrotask(() => controller.abort(reason));
    };
    const error = await changes.commit(undefined, controller.signal)
      .catch((error) => error);
    assertEquals([error, left], [reason, 0], `step ${step}`);
    holder.letGo();
    // What is not begun is not said to be: nothing of the base has changed.
    if (step < 3) await changes.discard();
    else await changes.commit();
    const disk = VirtualDisk.over(changes);
    assertEquals((await disk.read(8, 1))[0], step < 3 ? 0 : 1);
    await disk.close();
  }
});

Deno.test("FileOverlay.commit() that is interrupted before it writes to the base leaves it to be discarded", async () => {
  // Of the file: a flush, the header in 4 steps, the map and its flush; and from
  // the eighth on the header again, which says that a commit begins.
  for (let nth = 1; nth <= 11; nth++) {
    const { base, store, file, changes, disk } = await overSilent();
    await disk.write(8, sector(1));
    const controller = new AbortController();
    const reason = new Error("Enough");
    let left = nth;
    const submit = file.submit.bind(file);
    file.submit = (batch, complete) => {
      const { type } = batch[0]!;
      if (type !== RequestType.In && --left === 0) controller.abort(reason);
      submit(batch, complete);
    };
    const error = await changes.commit(undefined, controller.signal)
      .catch((error) => error);
    assertEquals([error, left <= 0], [reason, true], `${nth}`);
    file.submit = submit;
    assertEquals(await disk.read(8, 1), sector(1));
    await changes.discard();
    assertEquals(await disk.read(8, 1), sector(0));
    await disk.close();
    const again = await overlay(base, { file: store });
    assertEquals(again.changed, false);
    await again.close();
  }
});

Deno.test("FileOverlay.commit() is interrupted though its file does not flush", async () => {
  const { file, changes, disk } = await overSilent();
  await disk.write(8, sector(1));
  file.silent = true;
  const commit = (signal: AbortSignal) => changes.commit(undefined, signal);
  assertEquals(await withdraw(commit), true);
  file.letGo();
  await changes.commit();
  assertEquals(await disk.read(8, 1), sector(1));
  await disk.close();
});

Deno.test("overlay() in a file gives up opening, whatever it waits for", async () => {
  for (const hung of ["file", "base"]) {
    const base = new Silent();
    const file = new Silent(memory({ sectors: layoutOf(SECTORS).fileSectors }));
    base.silent = hung === "base";
    file.silent = hung === "file";
    assertEquals(
      await withdraw((signal) => overlay(base, { file, signal })),
      true,
    );
    assertEquals([file.closed, base.closed], [true, false]);
    await base.close();
  }
});

Deno.test("overlay() in a file answers a write that is withdrawn while a commit holds it back", async () => {
  const { changes, disk } = await overSilent();
  await disk.write(0, sector(1));
  const target = new Silent();
  const commit = changes.commit(target);
  while (target.held.length === 0) await turn();
  const write = (signal: AbortSignal) => disk.write(0, sector(2), { signal });
  assertEquals(await withdraw(write), true);
  target.letGo();
  await commit;
  assertEquals(await disk.read(0, 1), sector(1));
  await disk.close();
  await target.close();
});

Deno.test("readahead() reads on without the memory that it would read ahead into", async () => {
  const silent = new Silent();
  silent.silent = false;
  silent.memory = false;
  const ahead = readahead(silent);
  const disk = VirtualDisk.over(ahead);
  for (let at = 0; at < 64; at += 8) await disk.read(at, 8);
  assertEquals(ahead.readaheadCounters.pieces, 0);
  await disk.close();
});

Deno.test("verify() fails a read for whose second half there is no memory", async () => {
  const other = new Silent();
  other.silent = false;
  other.memory = false;
  const disk = VirtualDisk.over(verify(memory(), other));
  const error = await assertRejects(() => disk.read(0, 8), DiskError);
  assertEquals(error.kind, "io");
  assertStringIncludes(error.message, "there is no memory");
  other.memory = true;
  await disk.read(0, 8);
  await disk.close();
});

Deno.test("MemoryBackend fails a write for which there is no memory, and no other one", async () => {
  const { Uint8Array: Original } = globalThis;
  const disk = VirtualDisk.over(trace(memory(), () => {}));
  const data = sector(1);
  await disk.write(0, data);
  // As if the system had no more.
  globalThis.Uint8Array = new Proxy(Original, {
    construct(target, args) {
      if (args[0] === 65_536) throw new RangeError("Allocation failed");
      return Reflect.construct(target, args);
    },
  });
  let error: DiskError;
  try {
    error = await assertRejects(() => disk.write(4096, data), DiskError);
    await disk.write(1, data);
  } finally {
    globalThis.Uint8Array = Original;
  }
  assertEquals(error.kind, "no-space");
  await disk.close();
});

Deno.test("trace() goes on with the disk if a request cannot be written down", async () => {
  const traced = trace(memory(), () => {}, { data: true });
  const disk = VirtualDisk.over(traced);
  // As it is if the text is longer than the longest string (2^29 - 24 in V8).
  const original = Buffer.prototype.toString;
  Buffer.prototype.toString = () => {
    throw new TypeError("Invalid string length");
  };
  try {
    await disk.write(0, sector(1));
  } finally {
    Buffer.prototype.toString = original;
  }
  assertEquals(String(traced.failure), "TypeError: Invalid string length");
  assertEquals((await disk.read(0, 1))[0], 1);
  await disk.close();
});
