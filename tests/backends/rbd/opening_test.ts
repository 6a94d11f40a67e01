/**
 * What an opening of an image holds, counted over libraries that do what they are
 * told: each of its steps fails once, in each way that it can, and nothing stays.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import type { CephCalls, CephLibrary } from "../../../ffi/ceph_library.ts";
import { type Libc, openLibc } from "../../../ffi/libc.ts";
import { memoryAt } from "../../../ffi/memory.ts";
import type { RbdBackend } from "../../../src/backends/rbd/backend.ts";
import { openRbd } from "../../../src/backends/rbd/mod.ts";
import type { RbdOptions } from "../../../src/backends/rbd/options.ts";

const EIO = 5;
const ENOENT = 2;
const ENOMEM = 12;

/** What gives something, by what takes it back. */
const GIVES: Record<string, string> = {
  munmap: "mmap",
  close: "ready",
  rados_shutdown: "rados_create2",
  rados_ioctx_destroy: "rados_ioctx_create",
  rados_aio_release: "rados_aio_create_completion2",
  rbd_aio_release: "rbd_aio_create_completion",
  rbd_image_options_destroy: "rbd_image_options_create",
  rbd_aio_close: "rbd_aio_open",
  rbd_remove: "rbd_create4",
};

/** Where each puts the handle that it gives, of its arguments. */
const HANDLES: Record<string, number> = {
  rados_create2: 0,
  rados_ioctx_create: 2,
  rados_aio_create_completion2: 2,
  rbd_aio_create_completion: 2,
  rbd_image_options_create: 0,
  rbd_aio_open: 2,
};

/** A way in which a step can fail: by its result, or as FFI was revoked. */
type Way = "errno" | "throw";

/** Libraries of which one step fails, and that count what they have given. */
class CountedLibraries {
  readonly #real = openLibc();
  readonly #fails: number;
  readonly #way: Way;
  readonly held = new Map<string, number>();
  /** Steps so far that can fail, and the one that did. */
  steps = 0;
  failed = "";
  /** Calls on other threads that are not over. */
  #waiting = 0;
  readonly libc: Libc;
  readonly ceph: CephLibrary;

  constructor(fails: number, way: Way) {
    this.#fails = fails;
    this.#way = way;
    const real = this.#real;
    this.libc = new Proxy(real, {
      get: (_, name: keyof Libc) => {
        if (name === "mmap") {
          return (...args: Parameters<Libc["mmap"]>) =>
            this.#step("mmap")
              ? -ENOMEM
              : this.#gave("mmap", real.mmap(...args));
        }
        if (name === "munmap") {
          return (address: number, byteLength: number) => {
            this.#took("munmap");
            return real.munmap(address, byteLength);
          };
        }
        if (name === "syscall") {
          return (...args: Parameters<Libc["syscall"]>) =>
            args[0] === real.abi.syscalls!.socketpair &&
              this.#step("socketpair")
              ? -ENOMEM
              : real.syscall(...args);
        }
        const member = real[name];
        return typeof member === "function" ? member.bind(real) : member;
      },
    });
    this.ceph = {
      calls: new Proxy({} as CephCalls, {
        get: (_, name: string) => (...args: (bigint | number)[]) =>
          this.#call(name, args),
      }),
      wait: async (name, ...args) => {
        if (this.#way === "throw" && this.#step(name)) this.#revoked();
        this.#waiting++;
        await Promise.resolve();
        this.#waiting--;
        return this.#call(name, args);
      },
      leave: () => this.#revoked(),
      ready: (name) => {
        if (this.#way === "throw" && this.#step("ready")) this.#revoked();
        this.#gave("ready", 0);
        return {
          call: (...args) => Promise.resolve(this.#call(name, args)),
          close: () => this.#took("close"),
        };
      },
    };
  }

  #revoked(): never {
    throw new Deno.errors.NotCapable("Requires ffi access");
  }

  /** Counts a step that can fail; tells whether it does. */
  #step(name: string): boolean {
    if (this.steps++ !== this.#fails) return false;
    this.failed = name;
    return true;
  }

  #gave(name: string, result: number): number {
    this.held.set(name, (this.held.get(name) ?? 0) + 1);
    return result;
  }

  #took(name: string): void {
    const given = GIVES[name]!;
    const left = (this.held.get(given) ?? 0) - 1;
    assert(left >= 0, `${name} without ${given}`);
    this.held.set(given, left);
  }

  /** One call: fails, gives or takes back. */
  #call(name: string, args: (bigint | number)[]): number {
    if (name in GIVES) {
      const isUsed = this.#waiting > 0 && name !== "rbd_image_options_destroy";
      assert(!isUsed, `${name} while others ask`);
      this.#took(name);
      return 0;
    }
    const given = name === "rbd_aio_open_read_only" ? "rbd_aio_open" : name;
    const canFail = !/aio_(create|is_complete|get_return)|options_create/.test(
      name,
    );
    // Of what runs on another thread, "throw" has failed the call itself.
    const isHere = this.#way === "errno";
    if (isHere && canFail && this.#step(name)) return -EIO;
    if (Object.values(GIVES).includes(given)) this.#gave(given, 0);
    const at = HANDLES[given];
    if (at !== undefined) {
      new BigUint64Array(memoryAt(Number(args[at]), 8))[0] = 1n;
    }
    switch (name) {
      case "rbd_aio_is_complete":
      case "rados_aio_is_complete":
        return 1;
      case "rbd_get_features":
        // RBD_FEATURE.EXCLUSIVE_LOCK and OBJECT_MAP.
        new BigUint64Array(memoryAt(Number(args[1]), 8))[0] = 12n;
        return 0;
      case "rbd_lock_get_owners":
        return -ENOENT;
      case "rbd_stat": {
        const [size, objectSize] = [1n << 20n, 1n << 22n];
        new BigUint64Array(memoryAt(Number(args[1]), 16)).set([
          size,
          objectSize,
        ]);
        return 0;
      }
      case "rbd_get_stripe_count":
        new BigUint64Array(memoryAt(Number(args[1]), 8))[0] = 1n;
        return 0;
      default:
        return 0;
    }
  }

  /** What is held still. */
  get left(): [string, number][] {
    return [...this.held].filter(([, count]) => count > 0);
  }
}

const OPTIONS: RbdOptions = {
  readOnly: false,
  lock: "exclusive",
  openTimeoutMs: 30_000,
  closeTimeoutMs: 30_000,
};

const open = (
  libraries: CountedLibraries,
  image: string,
  options: Partial<RbdOptions>,
): Promise<RbdBackend> =>
  openRbd(
    `rbd:pool/space/${image}`,
    { ...OPTIONS, ...options },
    () => libraries,
  );

for (
  const [what, image, options] of [
    ["an image", "image", {}],
    ["a snapshot", "image@one", {}],
    ["a new image", "image", { create: { sizeBytes: 1 << 20 } }],
  ] as [string, string, Partial<RbdOptions>][]
) {
  for (const way of ["errno", "throw"] as const) {
    Deno.test({
      name: `openRbd() of ${what} keeps nothing where a step fails (${way})`,
      ignore: Deno.build.os !== "linux",
      async fn() {
        const failed = new Set<string>();
        for (let fails = 0;; fails++) {
          const libraries = new CountedLibraries(fails, way);
          const outcome = await open(libraries, image, options).catch(
            (error: unknown) => error as Error,
          );
          if (!(outcome instanceof Error)) {
            await outcome.close().catch(() => {});
          }
          // What was asked for stays, if it is there.
          if (!(outcome instanceof Error)) libraries.held.delete("rbd_create4");
          assertEquals(libraries.left, [], `after ${libraries.failed} failed`);
          if (libraries.failed === "") break;
          failed.add(libraries.failed);
        }
        assert(failed.has("mmap") && failed.has("socketpair"));
        assert(failed.size > (way === "errno" ? 15 : 10), [...failed].join());
      },
    });
  }
}

Deno.test({
  name: "openRbd() that is given up at any moment keeps nothing",
  ignore: Deno.build.os !== "linux",
  async fn() {
    let isOver = false;
    for (let turns = 0; !isOver; turns++) {
      const libraries = new CountedLibraries(-1, "errno");
      const abort = new AbortController();
      const { signal } = abort;
      const opening = open(libraries, "image", { signal });
      opening.then(() => isOver = true, () => {});
      for (let turn = 0; turn < turns; turn++) await Promise.resolve();
      abort.abort(new Error("Enough"));
      if (isOver) {
        await (await opening).close();
      } else {
        const outcome = await opening.catch((error: unknown) => error);
        if (!(outcome instanceof Error)) await (outcome as RbdBackend).close();
        for (
          let waits = 0;
          libraries.left.length > 0 && waits < 5000;
          waits++
        ) {
          await new Promise((resolve) => setTimeout(resolve, 1));
        }
      }
      assertEquals(libraries.left, []);
    }
  },
});
