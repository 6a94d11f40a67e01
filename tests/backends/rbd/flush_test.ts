/**
 * What an image in a cluster is asked to make durable, over an image that does
 * what it is told: one flush at a time, and none once one has failed.
 *
 * @module
 */

import { assert, assertEquals, assertRejects } from "@std/assert";
import { type Libc, openLibc } from "../../../ffi/libc.ts";
import { RBD_FEATURE } from "../../../ffi/rbd.ts";
import { addressOf, alignedMemory } from "../../../ffi/memory.ts";
import { MemoryBackend } from "../../../src/backends/memory.ts";
import { ObjectMap } from "../../../src/backends/rbd/object_map.ts";
import {
  RbdBackend,
  type RbdParts,
} from "../../../src/backends/rbd/backend.ts";
import type { Session } from "../../../src/backends/rbd/session.ts";
import { VirtualDisk } from "../../../src/disk/disk.ts";
import { DiskError } from "../../../src/errors.ts";

const EIO = 5;
const ECANCELED = 125;
const SECTOR = new Uint8Array(512).fill(0xa5);

/** An image of which writes are done at once, and flushes when a test says so. */
class ToldImage {
  readonly tags = new Int32Array(16);
  readonly results = new Int32Array(16);
  /** Flushes that are not over. */
  readonly flushes: number[] = [];
  /** Flushes so far. */
  asked = 0;
  /** Its size in bytes, and how often it was asked for. */
  bytes = 524_288;
  looks = 0;
  /** What becomes of reads and refreshes: 0, or −errno. */
  refreshed = 0;
  answer = 0;
  /** Bits of RBD_FEATURE. */
  bits = RBD_FEATURE.EXCLUSIVE_LOCK;
  /** What looks for it find, `null` while they are not over; how many there were. */
  found: number | null = 0;
  sought = 0;
  /** Bounds in ms that requests were given. */
  readonly bounds: (number | null)[] = [];
  readonly #libc: Libc;
  readonly #over: [tag: number, result: number][] = [];
  readonly #byte = alignedMemory(1, 8);
  #fd = -1;

  constructor(libc: Libc) {
    this.#libc = libc;
  }

  notifyBy(fd: number): number {
    this.#fd = fd;
    return 0;
  }

  write(_offset: number, length: number, _address: number, tag: number) {
    this.#end(tag, length);
    return 0;
  }

  discard(_offset: number, length: number, tag: number) {
    this.#end(tag, length);
    return 0;
  }

  zero(_offset: number, length: number, _keeps: boolean, tag: number) {
    this.#end(tag, length);
    return 0;
  }

  read(_offset: number, length: number, _address: number, tag: number) {
    this.#end(tag, this.answer < 0 ? this.answer : length);
    return 0;
  }

  features(): Promise<number> {
    return Promise.resolve(this.bits);
  }

  refresh(tag: number): number {
    this.#end(tag, this.refreshed);
    return 0;
  }

  size(): Promise<number> {
    this.looks++;
    return Promise.resolve(this.bytes);
  }

  resize(bytes: number): Promise<number> {
    this.bytes = bytes;
    return Promise.resolve(0);
  }

  flush(tag: number): number {
    this.flushes.push(tag);
    this.asked++;
    return 0;
  }

  /** Ends the flush that came first. */
  endFlush(result: number): void {
    this.#end(this.flushes.shift()!, result);
  }

  poll(): number {
    const some = this.#over.splice(0, this.tags.length);
    some.forEach(([tag, result], i) => {
      this.tags[i] = tag;
      this.results[i] = result;
    });
    return some.length;
  }

  #end(tag: number, result: number): void {
    this.#over.push([tag, result]);
    const { write } = this.#libc.abi.syscalls!;
    this.#libc.syscall(write, this.#fd, addressOf(this.#byte), 1);
  }
}

function toldDisk(
  isFixed = true,
  held: Partial<Omit<RbdParts, "look">> & { look?: boolean } = {},
  mmap: (() => never) | null = null,
): { disk: VirtualDisk; image: ToldImage } {
  const libc = openLibc();
  const image = new ToldImage(libc);
  const session = {
    libc: mmap === null ? libc : new Proxy(libc, {
      get(_, name: keyof Libc) {
        if (name === "mmap") return mmap;
        const member = libc[name];
        return typeof member === "function" ? member.bind(libc) : member;
      },
    }),
    image,
    isSeen: false,
    bound: (ms: number | null) => image.bounds.push(ms),
    close: () => Promise.resolve(0),
  } as unknown as Session;
  const { geometry, info } = new MemoryBackend({ sectors: 1024 });
  const backend = new RbdBackend({
    session,
    geometry,
    info,
    uri: "rbd:pool/told",
    readOnly: false,
    isFixed,
    objectMap: null,
    openTimeoutMs: 30_000,
    requestTimeoutMs: 30_000,
    closeTimeoutMs: 30_000,
    ...held,
    look: held.look === true
      ? {
        begin: () => image.sought++,
        poll: () => image.found,
        cancel: () => image.found ??= -ECANCELED,
        release() {},
      }
      : null,
  });
  return { disk: VirtualDisk.over(backend), image };
}

const options = { ignore: Deno.build.os !== "linux" };
const durably = (disk: VirtualDisk, sector: number, signal?: AbortSignal) =>
  disk.write(sector, SECTOR, { fua: true, signal });

Deno.test(
  "RbdBackend has one flush in flight, which durable writes share",
  options,
  async () => {
    const { disk, image } = toldDisk();
    const first = durably(disk, 0);
    await disk.write(100, SECTOR);
    const others = [2, 4, 6].map((sector) => durably(disk, sector));
    await disk.write(100, SECTOR);
    assertEquals(image.asked, 1);
    image.endFlush(0);
    await first;
    assertEquals(image.flushes.length, 1);
    image.endFlush(0);
    await Promise.all(others);
    assertEquals(image.asked, 2);
    await disk.close();
  },
);

Deno.test(
  "RbdBackend asks for no flush behind a durable write once a flush failed",
  options,
  async () => {
    const { disk, image } = toldDisk();
    const flush = assertRejects(() => disk.flush(), DiskError, "EIO");
    const write = assertRejects(() => durably(disk, 0), DiskError);
    await disk.write(100, SECTOR);
    image.endFlush(-EIO);
    await flush;
    assertEquals((await write).kind, "latched");
    assertEquals([image.asked, disk.failure?.code], [1, "EIO"]);
    await disk.close();
  },
);

Deno.test(
  "RbdBackend fails all durable writes that share a flush that fails",
  options,
  async () => {
    const { disk, image } = toldDisk();
    const abort = new AbortController();
    const first = durably(disk, 0, abort.signal);
    await disk.write(100, SECTOR);
    const failures = [2, 4].map((sector) =>
      assertRejects(() => durably(disk, sector), DiskError)
    );
    await disk.write(100, SECTOR);
    abort.abort("enough");
    assertEquals(await first.catch(String), "enough");
    image.endFlush(0);
    // A turn of the event loop takes the byte.
    while (image.flushes.length === 0) {
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    image.endFlush(-EIO);
    for (const [index, failure] of failures.entries()) {
      const { kind, code, operation, sector } = await failure;
      assertEquals([kind, code, operation], ["io", "EIO", "write"]);
      assertEquals(sector, 2 + 2 * index);
    }
    assertEquals(image.asked, 2);
    await disk.close();
  },
);

/** Waits until something is so; a test that waits in vain does not end. */
async function until(isSo: () => boolean): Promise<void> {
  while (!isSo()) await new Promise((resolve) => setTimeout(resolve, 1));
}

/** Ends the next flush. */
async function endFlush(image: ToldImage): Promise<void> {
  await until(() => image.flushes.length > 0);
  image.endFlush(0);
}

for (
  const [what, change] of [
    ["a write", (disk) => disk.write(1008, new Uint8Array(8192))],
    ["a discard", (disk) => disk.discard(1008, 16)],
    ["zeroes", (disk) => disk.writeZeroes(1008, 16)],
    ["a durable write", null],
  ] as [string, ((disk: VirtualDisk) => Promise<void>) | null][]
) {
  Deno.test(
    `RbdBackend fails the flush behind ${what} that others have cut off`,
    options,
    async () => {
      const { disk, image } = toldDisk();
      image.bytes -= 4096;
      await change?.(disk);
      const flush = assertRejects(
        () => change === null ? durably(disk, 1020) : disk.flush(),
        DiskError,
        "it was cut while open",
      );
      await endFlush(image);
      assertEquals((await flush).kind, "io");
      assertEquals(disk.failure?.kind, "io");
      await disk.close();
    },
  );
}

Deno.test(
  "RbdBackend knows at a flush that an image was shorter meanwhile",
  options,
  async () => {
    const { disk, image } = toldDisk(false);
    image.bytes -= 4096;
    await disk.write(1008, new Uint8Array(8192));
    await until(() => image.looks > 0);
    image.bytes += 4096;
    const flush = assertRejects(
      () => disk.flush(),
      DiskError,
      "it was cut while open",
    );
    await endFlush(image);
    await flush;
    await disk.close();
  },
);

Deno.test(
  "RbdBackend flushes a disk that was made shorter by itself",
  options,
  async () => {
    const { disk, image } = toldDisk();
    await disk.write(1008, new Uint8Array(8192));
    await disk.resize(512, { force: true });
    const flush = disk.flush();
    await endFlush(image);
    await flush;
    // What no write came before needs no look.
    const { looks } = image;
    const next = disk.flush();
    await endFlush(image);
    await next;
    assertEquals([looks, disk.failure], [image.looks, null]);
    await disk.close();
  },
);

for (
  const [what, lose] of [
    ["its client is shut out", async (image, disk) => {
      image.answer = -108;
      await assertRejects(() => disk.read(0, 1), DiskError, "ESHUTDOWN");
    }],
    ["its lock has gone to others", async (image, disk) => {
      image.answer = -30;
      await assertRejects(() => disk.read(0, 1), DiskError, "EROFS");
    }],
    ["its snapshot is gone", async (image, disk) => {
      image.answer = -2;
      await assertRejects(() => disk.read(0, 1), DiskError, "ENOENT");
    }],
    ["what has changed cannot be learned", async (image) => {
      image.refreshed = -108;
      await until(() => image.looks > 0);
    }],
    ["the cluster has it no more", async (image) => {
      image.found = -108;
      await until(() => image.sought > 1);
    }],
    ["others switch its lock off", async (image) => {
      image.bits = 0;
      await until(() => image.looks > 0);
    }],
  ] as [string, (image: ToldImage, disk: VirtualDisk) => Promise<void>][]
) {
  Deno.test(
    `RbdBackend knows of no holes and no lock once ${what}`,
    options,
    async () => {
      const { info } = new MemoryBackend({ sectors: 1024 });
      const { disk, image } = toldDisk(false, {
        info: { ...info, lock: { method: "exclusive-lock", reason: null } },
        objectMap: new ObjectMap(new Uint8Array(1), 1024),
        look: true,
      });
      const all = { sector: 0, count: 1024 };
      assertEquals(await disk.extents(), [{ ...all, hole: true }]);
      await lose(image, disk);
      await until(() => disk.info.lock.method === "none");
      assertEquals(await disk.extents(), [{ ...all, hole: false }]);
      assert(disk.info.lock.reason?.startsWith("it is lost: "));
      await disk.close();
    },
  );
}

Deno.test(
  "RbdBackend bounds no request by the time that a resize may take",
  options,
  async () => {
    const { disk, image } = toldDisk();
    await disk.resize(2048);
    assertEquals(image.bounds, []);
    await disk.close();
  },
);

Deno.test(
  "RbdBackend says that FFI was revoked, and not that memory is short",
  options,
  async () => {
    const revoked = () => {
      throw new Deno.errors.NotCapable("Requires ffi access");
    };
    const { disk, image } = toldDisk(true, {}, revoked);
    image.resize = () => Promise.reject(new Deno.errors.NotCapable("no"));
    for (
      const request of [
        () => disk.write(0, SECTOR),
        () => disk.read(0, 1),
        () => disk.resize(2048),
      ]
    ) {
      const { kind } = await assertRejects(request, DiskError, "--allow-ffi");
      assertEquals(kind, "permission");
    }
    await disk.close();
  },
);

Deno.test(
  "RbdBackend.close() waits for no look that the cluster does not answer",
  options,
  async () => {
    const { disk, image } = toldDisk(true, { look: true });
    await until(() => image.sought > 0);
    image.found = null;
    await disk.close();
    assertEquals(image.found, -ECANCELED);
  },
);

Deno.test(
  "RbdBackend fails reads of a snapshot that is gone, and has no zeroes for them",
  options,
  async () => {
    const { disk, image } = toldDisk(true, { look: true });
    await disk.read(0, 1);
    image.found = -2;
    await until(() => image.sought > 1);
    const { code, kind } = await assertRejects(
      () => disk.read(0, 1),
      DiskError,
    );
    assertEquals([kind, code], ["not-found", "ENOENT"]);
    await disk.close();
  },
);
