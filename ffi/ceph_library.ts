/**
 * Opens the libraries of Ceph's clients, librados and librbd, once they are
 * needed, and calls their functions: those that only hand something over or look
 * at memory on this thread, and those that wait for the cluster on another one.
 *
 * Signatures: `/usr/include/rados/librados.h`, `/usr/include/rbd/librbd.h` of
 * Ceph 16 (Debian's librados-dev and librbd-dev). Every pointer is an address,
 * every result that is of use fits 32 bits: lengths that are asked for here do.
 *
 * @module
 */

import process from "node:process";
import { FfiError } from "./ffi_error.ts";
import type { ForeignFunctions, OpenedLibrary } from "./foreign/interface.ts";
import { foreign } from "./foreign/mod.ts";
import type { Libc } from "./libc.ts";
import { libcFileNames } from "./library.ts";
import { assertFfiGranted } from "./permission.ts";

/** The libraries, by the names that the dynamic linker knows them by. */
const RADOS = "librados.so.2";
const RBD = "librbd.so.1";

// dlfcn.h: bind everything now, and keep it when it is closed.
const RTLD_NOW = 2;
const RTLD_NODELETE = 0x1000;

const P = "u64";
const I = "i32";

/** Functions that wait for nobody. */
const RADOS_CALLS = {
  // int rados_create2(rados_t *, const char *cluster, const char *name, uint64_t flags)
  rados_create2: { parameters: [P, P, P, P], result: I },
  // int rados_conf_read_file(rados_t, const char *path)
  rados_conf_read_file: { parameters: [P, P], result: I },
  // int rados_conf_set(rados_t, const char *option, const char *value)
  rados_conf_set: { parameters: [P, P, P], result: I },
  // int rados_conf_get(rados_t, const char *option, char *value, size_t length)
  rados_conf_get: { parameters: [P, P, P, P], result: I },
  // void rados_ioctx_set_namespace(rados_ioctx_t, const char *namespace)
  rados_ioctx_set_namespace: { parameters: [P, P], result: I },
  // void rados_ioctx_destroy(rados_ioctx_t)
  rados_ioctx_destroy: { parameters: [P], result: I },
  // int rados_aio_create_completion2(void *argument, rados_callback_t, rados_completion_t *)
  rados_aio_create_completion2: { parameters: [P, P, P], result: I },
  // int rados_aio_exec(rados_ioctx_t, const char *object, rados_completion_t, const char *class,
  //   const char *method, const char *input, size_t length, char *output, size_t length)
  rados_aio_exec: { parameters: [P, P, P, P, P, P, P, P, P], result: I },
  // int rados_aio_cancel(rados_ioctx_t, rados_completion_t)
  rados_aio_cancel: { parameters: [P, P], result: I },
  // int rados_aio_is_complete(rados_completion_t)
  rados_aio_is_complete: { parameters: [P], result: I },
  // int rados_aio_get_return_value(rados_completion_t)
  rados_aio_get_return_value: { parameters: [P], result: I },
  // void rados_aio_release(rados_completion_t)
  rados_aio_release: { parameters: [P], result: I },
  // void rados_buffer_free(char *)
  rados_buffer_free: { parameters: [P], result: I },
} as const;

const RBD_CALLS = {
  // void rbd_image_options_create(rbd_image_options_t *)
  rbd_image_options_create: { parameters: [P], result: I },
  // void rbd_image_options_destroy(rbd_image_options_t)
  rbd_image_options_destroy: { parameters: [P], result: I },
  // int rbd_aio_open(rados_ioctx_t, const char *name, rbd_image_t *, const char *snapshot,
  //                  rbd_completion_t)
  rbd_aio_open: { parameters: [P, P, P, P, P], result: I },
  // int rbd_aio_open_read_only(…), the same
  rbd_aio_open_read_only: { parameters: [P, P, P, P, P], result: I },
  // int rbd_aio_close(rbd_image_t, rbd_completion_t)
  rbd_aio_close: { parameters: [P, P], result: I },
  // int64_t rbd_get_data_pool_id(rbd_image_t)
  rbd_get_data_pool_id: { parameters: [P], result: I },
  // int rbd_set_image_notification(rbd_image_t, int fd, int type)
  rbd_set_image_notification: { parameters: [P, I, I], result: I },
  // int rbd_poll_io_events(rbd_image_t, rbd_completion_t *, int count)
  rbd_poll_io_events: { parameters: [P, P, I], result: I },
  // int rbd_aio_create_completion(void *argument, rbd_callback_t, rbd_completion_t *)
  rbd_aio_create_completion: { parameters: [P, P, P], result: I },
  // int rbd_aio_is_complete(rbd_completion_t)
  rbd_aio_is_complete: { parameters: [P], result: I },
  // ssize_t rbd_aio_get_return_value(rbd_completion_t)
  rbd_aio_get_return_value: { parameters: [P], result: I },
  // void *rbd_aio_get_arg(rbd_completion_t)
  rbd_aio_get_arg: { parameters: [P], result: I },
  // void rbd_aio_release(rbd_completion_t)
  rbd_aio_release: { parameters: [P], result: I },
  // int rbd_aio_read(rbd_image_t, uint64_t offset, size_t length, char *, rbd_completion_t)
  rbd_aio_read: { parameters: [P, P, P, P, P], result: I },
  // int rbd_aio_write(rbd_image_t, uint64_t offset, size_t length, const char *, rbd_completion_t)
  rbd_aio_write: { parameters: [P, P, P, P, P], result: I },
  // int rbd_aio_discard(rbd_image_t, uint64_t offset, uint64_t length, rbd_completion_t)
  rbd_aio_discard: { parameters: [P, P, P, P], result: I },
  // int rbd_aio_write_zeroes(rbd_image_t, uint64_t offset, size_t length, rbd_completion_t,
  //                          int zero_flags, int op_flags)
  rbd_aio_write_zeroes: { parameters: [P, P, P, P, I, I], result: I },
  // int rbd_aio_flush(rbd_image_t, rbd_completion_t)
  rbd_aio_flush: { parameters: [P, P], result: I },
} as const;

/** Functions that wait for the cluster. */
const WAITING = {
  // int rados_connect(rados_t)
  rados_connect: { library: RADOS, parameters: 1 },
  // void rados_shutdown(rados_t)
  rados_shutdown: { library: RADOS, parameters: 1 },
  // int rados_ioctx_create(rados_t, const char *pool, rados_ioctx_t *)
  rados_ioctx_create: { library: RADOS, parameters: 3 },
  // int rados_mon_command(rados_t, const char **command, size_t count, const char *input,
  //   size_t length, char **output, size_t *length, char **status, size_t *length)
  rados_mon_command: { library: RADOS, parameters: 9 },
  // int rados_read(rados_ioctx_t, const char *object, char *, size_t length, uint64_t offset)
  rados_read: { library: RADOS, parameters: 5 },
  // int rbd_create4(rados_ioctx_t, const char *name, uint64_t size, rbd_image_options_t)
  rbd_create4: { library: RBD, parameters: 4 },
  // int rbd_remove(rados_ioctx_t, const char *name)
  rbd_remove: { library: RBD, parameters: 2 },
  // int rbd_stat(rbd_image_t, rbd_image_info_t *, size_t)
  rbd_stat: { library: RBD, parameters: 3 },
  // int rbd_get_size(rbd_image_t, uint64_t *)
  rbd_get_size: { library: RBD, parameters: 2 },
  // int rbd_get_features(rbd_image_t, uint64_t *)
  rbd_get_features: { library: RBD, parameters: 2 },
  // int rbd_get_id(rbd_image_t, char *, size_t)
  rbd_get_id: { library: RBD, parameters: 3 },
  // int rbd_get_stripe_count(rbd_image_t, uint64_t *)
  rbd_get_stripe_count: { library: RBD, parameters: 2 },
  // int rbd_snap_get_id(rbd_image_t, const char *, uint64_t *)
  rbd_snap_get_id: { library: RBD, parameters: 3 },
  // int rbd_snap_is_protected(rbd_image_t, const char *, int *)
  rbd_snap_is_protected: { library: RBD, parameters: 3 },
  // int rbd_get_overlap(rbd_image_t, uint64_t *)
  rbd_get_overlap: { library: RBD, parameters: 2 },
  // int rbd_get_flags(rbd_image_t, uint64_t *)
  rbd_get_flags: { library: RBD, parameters: 2 },
  // int rbd_resize(rbd_image_t, uint64_t)
  rbd_resize: { library: RBD, parameters: 2 },
  // int rbd_lock_acquire(rbd_image_t, rbd_lock_mode_t)
  rbd_lock_acquire: { library: RBD, parameters: 2 },
  // int rbd_lock_get_owners(rbd_image_t, rbd_lock_mode_t *, char **, size_t *)
  rbd_lock_get_owners: { library: RBD, parameters: 4 },
  // void rbd_lock_get_owners_cleanup(char **, size_t)
  rbd_lock_get_owners_cleanup: { library: RBD, parameters: 2 },
  // int rbd_watchers_list(rbd_image_t, rbd_image_watcher_t *, size_t *)
  rbd_watchers_list: { library: RBD, parameters: 3 },
  // void rbd_watchers_list_cleanup(rbd_image_watcher_t *, size_t)
  rbd_watchers_list_cleanup: { library: RBD, parameters: 2 },
  // int rbd_config_image_list(rbd_image_t, rbd_config_option_t *, int *)
  rbd_config_image_list: { library: RBD, parameters: 3 },
  // void rbd_config_image_list_cleanup(rbd_config_option_t *, int)
  rbd_config_image_list_cleanup: { library: RBD, parameters: 2 },
} as const;

/** The name of a function that waits for the cluster. */
export type WaitingCall = keyof typeof WAITING;

type Signatures = Record<
  string,
  { readonly parameters: readonly ("u64" | "i32")[]; readonly result: "i32" }
>;

/** Pointers and sizes as bigint, `int` as number. */
type Arguments<T extends readonly ("u64" | "i32")[]> = {
  -readonly [K in keyof T]: T[K] extends "u64" ? bigint : number;
};

/** Functions as they are called. */
type Functions<T extends Signatures> = {
  readonly [Name in keyof T]: (
    ...args: Arguments<T[Name]["parameters"]>
  ) => number;
};

/** The functions of both libraries that wait for nobody. */
export type CephCalls =
  & Functions<typeof RADOS_CALLS>
  & Functions<typeof RBD_CALLS>;

/** Ceph's client libraries in this process. */
export interface CephLibrary {
  /** Functions that wait for nobody. */
  readonly calls: CephCalls;
  /**
   * Calls a function that waits for the cluster, on another thread.
   *
   * @param name The function.
   * @param args Addresses and numbers; what they lead to must stay until the
   * call is over.
   * @returns Its result; of no use where it has none.
   * @throws {Deno.errors.NotCapable} If FFI is not allowed.
   */
  wait(name: WaitingCall, ...args: bigint[]): Promise<number>;
  /**
   * Calls such a function that may wait for ever: on a thread of its own, which
   * takes some 50 ms, and which a program that is done does not wait for.
   *
   * @param name The function.
   * @param args As for {@linkcode CephLibrary.wait}.
   * @returns Its result.
   * @throws {Deno.errors.NotCapable} If FFI is not allowed.
   */
  leave(name: WaitingCall, ...args: bigint[]): Promise<number>;
  /**
   * Gets such a function ready: it can be called without a permission from then
   * on.
   *
   * @param name The function.
   * @returns It; to be closed once it is not needed.
   * @throws {Deno.errors.NotCapable} If FFI is not allowed.
   */
  ready(name: WaitingCall): ReadyCall;
}

/** A function that waits for the cluster, whatever becomes of permissions. */
export interface ReadyCall {
  /** Calls it on another thread; as {@linkcode CephLibrary.wait}. */
  call(...args: bigint[]): Promise<number>;
  /** Gives it up; not while it is being called. */
  close(): void;
}

let shared: CephLibrary | undefined;

/**
 * Ceph's client libraries, opened on the first call.
 *
 * @param libc The C library.
 * @returns The libraries. There is nothing to close.
 * @throws {FfiError} If they cannot be opened, and what to install.
 * @throws {Deno.errors.NotCapable} If FFI is not allowed.
 */
export function openCeph(libc: Libc): CephLibrary {
  if (shared !== undefined) return shared;
  assertFfiGranted();
  const calls = {
    ...bind(libc, RADOS, RADOS_CALLS),
    ...bind(libc, RBD, RBD_CALLS),
  };
  return shared = {
    calls,
    wait: callWaiting,
    leave: callApart,
    ready: readyCall,
  };
}

/**
 * Takes functions out of a library, which stays in the process from then on: it
 * has threads, and they must not lose their code. Deno's own handle is closed at
 * once, as one that stays open counts as a leak.
 */
function bind<const T extends Signatures>(
  libc: Libc,
  fileName: string,
  signatures: T,
): Functions<T> {
  const library = open(fileName, signatures);
  if (pin(libc, fileName)) library.close();
  return library.symbols as unknown as Functions<T>;
}

/** Opens one of the libraries. */
function open(fileName: string, signatures: ForeignFunctions): OpenedLibrary {
  try {
    return foreign().openLibrary(fileName, signatures);
  } catch (cause) {
    if (cause instanceof Error && cause.name === "NotCapable") throw cause;
    const package_ = fileName === RADOS ? "librados2" : "librbd1";
    const text = cause instanceof Error ? cause.message : String(cause);
    const reason = /symbol/i.test(text)
      ? `lacks functions of Ceph 16 (${text})`
      : "could not be loaded";
    throw new FfiError(
      "library",
      `Cannot reach Ceph as ${fileName} ${reason}: install ${package_} (Debian, Ubuntu, ` +
        "Fedora, openSUSE) or ceph-libs (Arch Linux)",
      { cause },
    );
  }
}

/** Keeps a library that is open; tells whether it will stay. */
function pin(libc: Libc, fileName: string): boolean {
  // In libc itself since glibc 2.34, and in musl's.
  for (const name of [...libcFileNames(libc.abi), "libdl.so.2"]) {
    try {
      const library = foreign().openLibrary(name, {
        // void *dlopen(const char *, int)
        dlopen: { parameters: ["buffer", "i32"], result: "usize" },
      });
      const path = new TextEncoder().encode(`${fileName}\0`);
      const dlopen = library.symbols.dlopen as (
        path: Uint8Array,
        flags: number,
      ) => bigint;
      const handle = dlopen(path, RTLD_NOW | RTLD_NODELETE);
      library.close();
      if (handle !== 0n) return true;
    } catch {
      // Not that one.
    }
  }
  return false;
}

async function callWaiting(
  name: WaitingCall,
  ...args: bigint[]
): Promise<number> {
  const ready = readyCall(name);
  try {
    return await ready.call(...args);
  } finally {
    ready.close();
  }
}

/** What runs on such a thread: text, as a file would take permission to be read. */
const APART = `
  const { parentPort, workerData } =
    process.getBuiltinModule("node:worker_threads");
  const { fileName, name, args } = workerData;
  const parameters = args.map(() => "u64");
  const { symbols } = Deno.dlopen(fileName, {
    call: { name, parameters, result: "i32" },
  });
  parentPort.postMessage(symbols.call(...args));
`;

async function callApart(
  name: WaitingCall,
  ...args: bigint[]
): Promise<number> {
  assertFfiGranted();
  const { library: fileName } = WAITING[name];
  // Not imported, as it would be loaded by who has no use for it.
  const { Worker } = process.getBuiltinModule("node:worker_threads");
  const source = `data:text/javascript,${encodeURIComponent(APART)}`;
  const worker = new Worker(new URL(source), {
    workerData: { fileName, name, args },
    // Its own would be a copy of this one's, which takes a permission.
    env: {},
  });
  // A call that Deno makes on a thread of its pool keeps the program alive.
  worker.unref();
  try {
    return await new Promise<number>((resolve, reject) => {
      worker.once("message", resolve);
      worker.once("error", reject);
    });
  } finally {
    await worker.terminate();
  }
}

function readyCall(name: WaitingCall): ReadyCall {
  assertFfiGranted();
  const { library: fileName, parameters } = WAITING[name];
  const library = foreign().openLibrary(fileName, {
    call: {
      name,
      parameters: new Array<"u64">(parameters).fill("u64"),
      result: "i32",
      nonblocking: true,
    },
  });
  return {
    call: library.symbols.call as (...args: bigint[]) => Promise<number>,
    close: () => library.close(),
  };
}
