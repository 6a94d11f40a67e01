/**
 * Opens the C library: under which file names to look for it, and how each of
 * its functions is called on each system. It opens a library when asked, and
 * calls none of its functions.
 *
 * @module
 */

import { ffiOption, isNotCapable } from "../src/platform/permissions.ts";
import { runtimeName } from "../src/platform/system.ts";
import type { Abi, AbiOs } from "./abi.ts";
import { FfiError } from "./ffi_error.ts";
import type {
  FfiPermissions,
  ForeignFunction,
  ForeignFunctions,
  NativeType,
  OpenedLibrary,
  OpenLibrary,
} from "./foreign/interface.ts";
import { foreign } from "./foreign/mod.ts";

/**
 * The functions of libc, called alike on every system. Every 64-bit argument
 * is a bigint, as Deno's fast calls take no numbers for these; optional ones
 * are undefined where the system lacks them. Results are those of C: −1 and
 * errno on failure.
 */
export interface LibcFunctions {
  /** `int *__errno_location(void)` and its relatives. */
  readonly errnoLocation: () => bigint;
  /** `int open(const char *path, int flags, ...)`. */
  readonly open: (
    path: Uint8Array<ArrayBuffer>,
    flags: number,
    mode: number,
  ) => number;
  /** `int close(int fd)`. */
  readonly close: (fd: number) => number;
  /** `ssize_t pread(int fd, void *buffer, size_t length, off_t offset)`. */
  readonly pread: (
    fd: number,
    address: bigint,
    length: bigint,
    offset: bigint,
  ) => number;
  /** `ssize_t pwrite(int fd, const void *buffer, size_t length, off_t offset)`. */
  readonly pwrite: (
    fd: number,
    address: bigint,
    length: bigint,
    offset: bigint,
  ) => number;
  /** `ssize_t preadv(int fd, const struct iovec *iov, int count, off_t offset)`. */
  readonly preadv:
    | ((fd: number, iov: bigint, count: number, offset: bigint) => number)
    | undefined;
  /** `ssize_t pwritev(int fd, const struct iovec *iov, int count, off_t offset)`. */
  readonly pwritev:
    | ((fd: number, iov: bigint, count: number, offset: bigint) => number)
    | undefined;
  /** `ssize_t preadv2(int fd, const struct iovec *iov, int count, off_t offset, int flags)`. */
  readonly preadv2:
    | ((
      fd: number,
      iov: bigint,
      count: number,
      offset: bigint,
      flags: number,
    ) => number)
    | undefined;
  /** `ssize_t pwritev2(int fd, const struct iovec *iov, int count, off_t offset, int flags)`. */
  readonly pwritev2:
    | ((
      fd: number,
      iov: bigint,
      count: number,
      offset: bigint,
      flags: number,
    ) => number)
    | undefined;
  /** `int fdatasync(int fd)`. */
  readonly fdatasync: ((fd: number) => number) | undefined;
  /** `int fsync(int fd)`. */
  readonly fsync: (fd: number) => number;
  /** `int fallocate(int fd, int mode, off_t offset, off_t length)`. */
  readonly fallocate:
    | ((fd: number, mode: number, offset: bigint, length: bigint) => number)
    | undefined;
  /** `int directio(int fd, int advice)`. */
  readonly directio: ((fd: number, advice: number) => number) | undefined;
  /** `int flock(int fd, int operation)`. */
  readonly flock: (fd: number, operation: number) => number;
  /** `int ftruncate(int fd, off_t length)`. */
  readonly ftruncate: (fd: number, length: bigint) => number;
  /** `off_t lseek(int fd, off_t offset, int whence)`. */
  readonly lseek: (fd: number, offset: bigint, whence: number) => bigint;
  /** `int ioctl(int fd, unsigned long request, ...)`. */
  readonly ioctl: (fd: number, request: bigint, argument: bigint) => number;
  /** `int fcntl(int fd, int command, ...)`. */
  readonly fcntl: (fd: number, command: number, argument: bigint) => number;
  /** `long syscall(long number, ...)`, the result cut to an int. */
  readonly syscall:
    | ((
      number: bigint,
      a: bigint,
      b: bigint,
      c: bigint,
      d: bigint,
      e: bigint,
      f: bigint,
    ) => number)
    | undefined;
  /**
   * `void *mmap(void *address, size_t length, int protection, int flags,
   * int fd, off_t offset)`.
   */
  readonly mmap: (
    address: bigint,
    length: bigint,
    protection: number,
    flags: number,
    fd: number,
    offset: bigint,
  ) => bigint;
  /** `int munmap(void *address, size_t length)`. */
  readonly munmap: (address: bigint, length: bigint) => number;
}

/**
 * File names under which a system may have its C library, best first.
 *
 * @param abi The system.
 * @returns The names, for dlopen(3) to look up.
 */
export function libcFileNames(abi: Abi): readonly string[] {
  switch (abi.os) {
    case "linux":
      // glibc; then musl by its own name, and by the name that distributions
      // other than Alpine give it.
      return ["libc.so.6", `libc.musl-${abi.arch}.so.1`, "libc.so"];
    case "darwin":
      return ["/usr/lib/libSystem.B.dylib", "libSystem.dylib"];
    case "freebsd":
      return ["libc.so.7"];
    case "illumos":
      return ["libc.so.1"];
  }
}

/** Argument registers for integers of AAPCS64: x0 to x7. */
const INTEGER_REGISTERS = 8;

/**
 * Parameters of a variadic function: the named ones, and one more. Apple's
 * arm64 passes variadic arguments on the stack only, eight bytes each, and
 * never in registers. A signature that has filled all eight registers puts
 * its ninth integer argument into that same first stack slot.
 */
function variadic(
  abi: Abi,
  named: readonly NativeType[],
  last: NativeType,
): NativeType[] {
  if (!abi.variadicOnStack) return [...named, last];
  const padding = new Array<NativeType>(INTEGER_REGISTERS - named.length)
    .fill("i32");
  return [...named, ...padding, last];
}

/** What a system calls the function that says where errno is. */
const ERRNO_LOCATION: Readonly<Record<AbiOs, string>> = {
  linux: "__errno_location",
  darwin: "__error",
  freebsd: "__error",
  illumos: "___errno",
};

/**
 * The signatures of the functions of libc on a system.
 *
 * @param abi The system.
 * @returns What to open it with.
 */
export function libcSymbols(abi: Abi): ForeignFunctions {
  const symbols: Record<string, ForeignFunction> = {
    // int *__errno_location(void), and what others call it.
    errnoLocation: {
      name: ERRNO_LOCATION[abi.os],
      parameters: [],
      result: "usize",
    },
    // int open(const char *path, int flags, ... /* mode_t, promoted to int */)
    // Eight bytes wide on the stack; the upper half is not read.
    open: {
      parameters: variadic(
        abi,
        ["buffer", "i32"],
        abi.variadicOnStack ? "i64" : "i32",
      ),
      result: "i32",
    },
    // int close(int fd)
    close: { parameters: ["i32"], result: "i32" },
    // ssize_t pread(int fd, void *buffer, size_t length, off_t offset)
    // A count fits an i32, as no system moves more than 0x7fffffff at once,
    // and an i32 result is a number where an i64 would be a BigInt.
    pread: { parameters: ["i32", "u64", "u64", "i64"], result: "i32" },
    // ssize_t pwrite(int fd, const void *buffer, size_t length, off_t offset)
    pwrite: { parameters: ["i32", "u64", "u64", "i64"], result: "i32" },
    // ssize_t preadv(int fd, const struct iovec *iov, int count, off_t offset)
    // (macOS 11 and later)
    preadv: {
      parameters: ["i32", "u64", "i32", "i64"],
      result: "i32",
      optional: true,
    },
    // ssize_t pwritev(int fd, const struct iovec *iov, int count, off_t offset)
    pwritev: {
      parameters: ["i32", "u64", "i32", "i64"],
      result: "i32",
      optional: true,
    },
    // int fsync(int fd)
    fsync: { parameters: ["i32"], result: "i32" },
    // int flock(int fd, int operation)
    flock: { parameters: ["i32", "i32"], result: "i32" },
    // int ftruncate(int fd, off_t length)
    ftruncate: { parameters: ["i32", "i64"], result: "i32" },
    // off_t lseek(int fd, off_t offset, int whence)
    lseek: { parameters: ["i32", "i64", "i32"], result: "i64" },
    // int ioctl(int fd, unsigned long request, ...)
    // (musl: int request; reads the lower half of the same register)
    ioctl: { parameters: variadic(abi, ["i32", "u64"], "u64"), result: "i32" },
    // int fcntl(int fd, int command, ...)
    fcntl: { parameters: variadic(abi, ["i32", "i32"], "i64"), result: "i32" },
    // void *mmap(void *address, size_t length, int protection, int flags,
    //            int fd, off_t offset)
    mmap: {
      parameters: ["u64", "u64", "i32", "i32", "i32", "i64"],
      result: "i64",
    },
    // int munmap(void *address, size_t length)
    munmap: { parameters: ["u64", "u64"], result: "i32" },
  };
  if (abi.os !== "darwin") {
    // int fdatasync(int fd)
    // (macOS exports one that no header declares; fsync is used there)
    symbols.fdatasync = { parameters: ["i32"], result: "i32", optional: true };
  }
  if (abi.os === "illumos") {
    // int directio(int fd, int advice)
    symbols.directio = { parameters: ["i32", "i32"], result: "i32" };
  }
  if (abi.os === "linux") {
    // ssize_t preadv2(int fd, const struct iovec *iov, int count,
    //                 off_t offset, int flags)
    // (glibc 2.26, musl 1.2.5)
    symbols.preadv2 = {
      parameters: ["i32", "u64", "i32", "i64", "i32"],
      result: "i32",
      optional: true,
    };
    // ssize_t pwritev2(int fd, const struct iovec *iov, int count,
    //                  off_t offset, int flags)
    symbols.pwritev2 = {
      parameters: ["i32", "u64", "i32", "i64", "i32"],
      result: "i32",
      optional: true,
    };
    // int fallocate(int fd, int mode, off_t offset, off_t length)
    symbols.fallocate = {
      parameters: ["i32", "i32", "i64", "i64"],
      result: "i32",
      optional: true,
    };
    // long syscall(long number, ...)
    // Variadic, but both architectures of Linux pass these in registers.
    symbols.syscall = {
      parameters: ["i64", "i64", "i64", "i64", "i64", "i64", "i64"],
      result: "i32",
    };
  }
  return symbols;
}

type AnyFunction = (...args: unknown[]) => unknown;

/** Makes functions that Apple's arm64 needs padded look like all others. */
function bindFunctions(
  abi: Abi,
  symbols: Readonly<Record<string, unknown>>,
): LibcFunctions {
  const functions: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(symbols)) {
    // A missing optional symbol is null.
    if (typeof value === "function") functions[name] = value;
  }
  if (abi.variadicOnStack) {
    // Each has two named parameters: six registers are left to fill.
    const { open, ioctl, fcntl } = symbols as Record<string, AnyFunction>;
    functions.open = (path: unknown, flags: unknown, mode: number) =>
      open!(path, flags, 0, 0, 0, 0, 0, 0, BigInt(mode));
    functions.ioctl = (fd: unknown, request: unknown, argument: unknown) =>
      ioctl!(fd, request, 0, 0, 0, 0, 0, 0, argument);
    functions.fcntl = (fd: unknown, command: unknown, argument: unknown) =>
      fcntl!(fd, command, 0, 0, 0, 0, 0, 0, argument);
  }
  return functions as unknown as LibcFunctions;
}

/**
 * Opens the C library and takes its functions.
 *
 * The handle is closed again at once. Deno keeps what a call needs with each
 * function, and the code stays mapped, as the running process itself is linked
 * with this library. So nothing is left open that would have to be closed
 * (the leak check of `deno test` counts open libraries), and a thread needs to
 * do this only once: functions of a second opening would lose the fast calls
 * that the compiler made for those of the first.
 *
 * @param abi The system.
 * @param openLibrary What opens a library; the runtime unless given.
 * @returns The functions.
 * @throws {FfiError} If the library cannot be opened, or Deno forbids it.
 */
export function openLibcFunctions(
  abi: Abi,
  openLibrary: OpenLibrary = foreign().openLibrary,
): LibcFunctions {
  const symbols = libcSymbols(abi);
  const fileNames = libcFileNames(abi);
  const causes: unknown[] = [];
  for (const fileName of fileNames) {
    let library: OpenedLibrary;
    try {
      library = openLibrary(fileName, symbols);
    } catch (cause) {
      if (isNotCapable(cause)) {
        throw new FfiError(
          "permission",
          `Cannot open libc as ${runtimeName} does not allow "${fileName}": run with ${ffiOption}`,
          { cause },
        );
      }
      causes.push(cause);
      continue;
    }
    const functions = bindFunctions(abi, library.symbols);
    library.close();
    return functions;
  }
  throw new FfiError(
    "library",
    `Cannot open libc as none of ${
      fileNames.join(", ")
    } could be loaded: use the portable backend`,
    { cause: new AggregateError(causes) },
  );
}

/**
 * Makes sure that FFI is allowed, asking the user if it may be asked.
 *
 * @param abi The system.
 * @param permissions What knows the permissions; the runtime unless given.
 * @throws {FfiError} If FFI is not allowed, or only for certain paths: that
 * forbids addresses, without which nothing here works.
 */
export function ensureFfiPermission(
  abi: Abi,
  permissions: FfiPermissions = foreign().permissions,
): void {
  const everything = { name: "ffi" } as const;
  let state = permissions.querySync(everything).state;
  if (state === "prompt") state = permissions.requestSync(everything).state;
  if (state === "granted") return;
  const limited = libcFileNames(abi).some((path) =>
    permissions.querySync({ name: "ffi", path }).state === "granted"
  );
  throw new FfiError(
    "permission",
    limited
      ? "Cannot open libc as --allow-ffi is limited to certain paths, which forbids " +
        "addresses: run with --allow-ffi without a path"
      : `Cannot open libc as ${ffiOption} is not granted: run with ${ffiOption}`,
  );
}
