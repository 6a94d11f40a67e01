/**
 * The functions of Windows that are used: how each is called, and in which
 * library it is. It opens libraries when asked, and calls none of their functions.
 *
 * Files are opened by kernel32.dll, as that knows paths. What is done with a file
 * is called in ntdll.dll, which kernel32.dll calls for it: it returns a status.
 * (`NtReadFile` is what `ReadFile` calls, `NtRemoveIoCompletionEx` what
 * `GetQueuedCompletionStatusEx` does, and so on.)
 *
 * @module
 */

import { isNotCapable } from "../src/platform/permissions.ts";
import { runtimeName } from "../src/platform/system.ts";
import { FfiError } from "./ffi_error.ts";
import type {
  FfiPermissions,
  OpenedLibrary,
  OpenLibrary,
} from "./foreign/interface.ts";
import { foreign } from "./foreign/mod.ts";

/** The parameters of `NtReadFile` and `NtWriteFile`, in words. */
type Transfer = (
  file: bigint,
  event: bigint,
  apc: bigint,
  context: bigint,
  statusBlock: bigint,
  buffer: bigint,
  length: number,
  offset: bigint,
  key: bigint,
) => number;

/** The parameters of `NtFsControlFile` and `NtDeviceIoControlFile`. */
type Control = (
  file: bigint,
  event: bigint,
  apc: bigint,
  context: bigint,
  statusBlock: bigint,
  code: number,
  input: bigint,
  inputLength: number,
  output: bigint,
  outputLength: number,
) => number;

/** The parameters of the calls that ask for information, or set it. */
type Information = (
  file: bigint,
  statusBlock: bigint,
  information: bigint,
  length: number,
  informationClass: number,
) => number;

/**
 * The functions of Windows. Handles and addresses are bigints, as Deno's fast
 * calls take no numbers for 64 bits; a status is a signed number.
 */
export interface WindowsFunctions {
  /** Opens what a path leads to; all bits are set in the handle if it fails. */
  readonly CreateFileW: (
    path: Uint8Array<ArrayBuffer>,
    access: number,
    share: number,
    security: bigint,
    disposition: number,
    flags: number,
    template: bigint,
  ) => bigint;
  /** Closes a handle of any kind. */
  readonly CloseHandle: (handle: bigint) => number;
  /** What the last call of kernel32.dll failed for. */
  readonly GetLastError: () => number;
  /** Makes a completion port, or binds a file to one. */
  readonly CreateIoCompletionPort: (
    file: bigint,
    port: bigint,
    key: bigint,
    threads: number,
  ) => bigint;
  /** Puts a completion into a port that no operation stands behind. */
  readonly PostQueuedCompletionStatus: (
    port: bigint,
    bytes: number,
    key: bigint,
    context: bigint,
  ) => number;
  /** Makes an event, which is a handle that can be waited for. */
  readonly CreateEventW: (
    security: bigint,
    manual: number,
    signalled: number,
    name: bigint,
  ) => bigint;
  /** Waits for a handle. */
  readonly WaitForSingleObject: (handle: bigint, ms: number) => number;
  /** Locks bytes of a file: the offset is that of an operation's memory. */
  readonly LockFileEx: (
    file: bigint,
    flags: number,
    reserved: number,
    lengthLow: number,
    lengthHigh: number,
    overlapped: bigint,
  ) => number;
  /** Gives memory, in pages. */
  readonly VirtualAlloc: (
    address: bigint,
    length: bigint,
    type: number,
    protection: number,
  ) => bigint;
  /** Takes it back. */
  readonly VirtualFree: (
    address: bigint,
    length: bigint,
    type: number,
  ) => number;
  /** Begins to list the volumes; each has a name that can be opened. */
  readonly FindFirstVolumeW: (name: bigint, characters: number) => bigint;
  /** Goes on with the list. */
  readonly FindNextVolumeW: (
    search: bigint,
    name: bigint,
    characters: number,
  ) => number;
  /** Ends it. */
  readonly FindVolumeClose: (search: bigint) => number;
  /** Reads. */
  readonly NtReadFile: Transfer;
  /** Writes. */
  readonly NtWriteFile: Transfer;
  /** A control code of a file system. */
  readonly NtFsControlFile: Control;
  /** A control code of a device. */
  readonly NtDeviceIoControlFile: Control;
  /** Flushes a file, and the cache of its device; always waits. */
  readonly NtFlushBuffersFile: (file: bigint, statusBlock: bigint) => number;
  /** Gives up what was begun with that status block. */
  readonly NtCancelIoFileEx: (
    file: bigint,
    begunWith: bigint,
    statusBlock: bigint,
  ) => number;
  /** Asks about a file. */
  readonly NtQueryInformationFile: Information;
  /** Changes something about a file. */
  readonly NtSetInformationFile: Information;
  /** Asks about a file's volume. */
  readonly NtQueryVolumeInformationFile: Information;
  /** Takes completions out of a port. */
  readonly NtRemoveIoCompletionEx: (
    port: bigint,
    entries: bigint,
    count: number,
    removed: bigint,
    timeout: bigint,
    alertable: number,
  ) => number;
}

/** Those that are called on another thread, as they wait. */
export interface OffThreadFunctions {
  /** As {@linkcode WindowsFunctions.NtRemoveIoCompletionEx}. */
  readonly NtRemoveIoCompletionEx: (
    ...args: Parameters<WindowsFunctions["NtRemoveIoCompletionEx"]>
  ) => Promise<number>;
  /** As {@linkcode WindowsFunctions.NtFlushBuffersFile}. */
  readonly NtFlushBuffersFile: (
    ...args: Parameters<WindowsFunctions["NtFlushBuffersFile"]>
  ) => Promise<number>;
  /** Does nothing but for a hand-off to the other thread and back. */
  readonly NtYieldExecution: () => Promise<number>;
  /** Lets go of the library; nothing may be waited for any more. */
  close(): void;
}

const transfer = {
  parameters: [
    ...["u64", "u64", "u64", "u64", "u64", "u64", "i32", "u64", "u64"] as const,
  ],
  result: "i32",
} as const;

const control = {
  parameters: [
    ...["u64", "u64", "u64", "u64", "u64"] as const,
    ...["i32", "u64", "i32", "u64", "i32"] as const,
  ],
  result: "i32",
} as const;

const information = {
  parameters: ["u64", "u64", "u64", "i32", "i32"],
  result: "i32",
} as const;

const NtRemoveIoCompletionEx = {
  parameters: ["u64", "u64", "i32", "u64", "u64", "i32"],
  result: "i32",
} as const;

const NtFlushBuffersFile = {
  parameters: ["u64", "u64"],
  result: "i32",
} as const;

/** What is called in which library. BOOL and ULONG are 32 bits. */
const LIBRARIES = {
  "kernel32.dll": {
    CreateFileW: {
      parameters: ["buffer", "i32", "i32", "u64", "i32", "i32", "u64"],
      result: "u64",
    },
    CloseHandle: { parameters: ["u64"], result: "i32" },
    GetLastError: { parameters: [], result: "i32" },
    CreateIoCompletionPort: {
      parameters: ["u64", "u64", "u64", "i32"],
      result: "u64",
    },
    PostQueuedCompletionStatus: {
      parameters: ["u64", "i32", "u64", "u64"],
      result: "i32",
    },
    CreateEventW: { parameters: ["u64", "i32", "i32", "u64"], result: "u64" },
    WaitForSingleObject: { parameters: ["u64", "i32"], result: "i32" },
    LockFileEx: {
      parameters: ["u64", "i32", "i32", "i32", "i32", "u64"],
      result: "i32",
    },
    VirtualAlloc: { parameters: ["u64", "u64", "i32", "i32"], result: "u64" },
    VirtualFree: { parameters: ["u64", "u64", "i32"], result: "i32" },
    FindFirstVolumeW: { parameters: ["u64", "i32"], result: "u64" },
    FindNextVolumeW: { parameters: ["u64", "u64", "i32"], result: "i32" },
    FindVolumeClose: { parameters: ["u64"], result: "i32" },
  },
  "ntdll.dll": {
    NtReadFile: transfer,
    NtWriteFile: transfer,
    NtFsControlFile: control,
    NtDeviceIoControlFile: control,
    NtFlushBuffersFile,
    NtCancelIoFileEx: { parameters: ["u64", "u64", "u64"], result: "i32" },
    NtQueryInformationFile: information,
    NtSetInformationFile: information,
    NtQueryVolumeInformationFile: information,
    NtRemoveIoCompletionEx,
  },
} as const;

/** The same for another thread: all of it is in ntdll.dll. */
const OFF_THREAD = {
  NtRemoveIoCompletionEx: { ...NtRemoveIoCompletionEx, nonblocking: true },
  NtFlushBuffersFile: { ...NtFlushBuffersFile, nonblocking: true },
  NtYieldExecution: { parameters: [], result: "i32", nonblocking: true },
} as const;

/**
 * Takes the functions of Windows. The libraries are let go of at once: a process
 * is made of these two and never loses them.
 *
 * @param openLibrary What opens a library.
 * @returns The functions.
 * @throws {FfiError} If they cannot be had, or Deno forbids it.
 */
export function openWindowsFunctions(
  openLibrary: OpenLibrary,
): WindowsFunctions {
  const functions: Record<string, unknown> = {};
  for (const [fileName, symbols] of Object.entries(LIBRARIES)) {
    let library: OpenedLibrary;
    try {
      library = openLibrary(fileName, symbols);
    } catch (cause) {
      throw isNotCapable(cause)
        ? new FfiError(
          "permission",
          `Cannot open ${fileName} as ${runtimeName} does not allow it: run with --allow-ffi`,
          { cause },
        )
        : new FfiError(
          "library",
          `Cannot open ${fileName} as it cannot be loaded, or lacks a function: use the portable backend`,
          { cause },
        );
    }
    Object.assign(functions, library.symbols);
    library.close();
  }
  return functions as unknown as WindowsFunctions;
}

/**
 * Takes the functions that are called on another thread.
 *
 * @param openLibrary What opens a library.
 * @returns The functions, with their library, which is to be closed.
 */
export function openOffThreadFunctions(
  openLibrary: OpenLibrary,
): OffThreadFunctions {
  const library = openLibrary("ntdll.dll", OFF_THREAD);
  return {
    ...library.symbols as Omit<OffThreadFunctions, "close">,
    close: () => library.close(),
  };
}

/**
 * Makes sure that FFI is allowed, asking the user if it may be asked.
 *
 * @param permissions What knows the permissions; the runtime unless given.
 * @throws {FfiError} If FFI is not allowed, or for certain paths only: that
 * forbids addresses.
 */
export function ensureWindowsPermission(
  permissions: FfiPermissions = foreign().permissions,
): void {
  const everything = { name: "ffi" } as const;
  let { state } = permissions.querySync(everything);
  if (state === "prompt") state = permissions.requestSync(everything).state;
  if (state === "granted") return;
  throw new FfiError(
    "permission",
    "Cannot use FFI as --allow-ffi is not granted, or for certain paths only, which " +
      "forbids addresses: run with --allow-ffi without a path",
  );
}
