/**
 * System calls that fail from now on, in this thread and no other: a filter as
 * containers have it, which cannot be taken away again. So what uses it runs
 * in a thread of its own.
 *
 * @module
 */

import { openLibc } from "../../../ffi/libc.ts";
import { addressOf, alignedMemory, writeU64 } from "../../../ffi/memory.ts";
import { program } from "./harness.ts";

// include/uapi/linux/prctl.h, seccomp.h, bpf_common.h.
const PR_SET_SECCOMP = 22;
const PR_SET_NO_NEW_PRIVS = 38;
const SECCOMP_MODE_FILTER = 2;
const SECCOMP_RET_ALLOW = 0x7fff0000;
const SECCOMP_RET_ERRNO = 0x00050000;
const LOAD_WORD = 0x20;
const JUMP_IF_EQUAL = 0x15;
const RETURN = 0x06;
/** `struct seccomp_data`: i32 number, u32 arch, u64 pointer, u64 arguments[6]. */
const ARGUMENTS_AT = 16;

/** Calls that the library's own table does not name. */
const MORE_CALLS = {
  x86_64: { ioctl: 16, fcntl: 72, lseek: 8, mmap: 9, prctl: 157 },
  aarch64: { ioctl: 29, fcntl: 25, lseek: 62, mmap: 222, prctl: 167 },
};

/** A call that is to fail. */
export interface Denied {
  /** The call, such as `"statx"`. */
  readonly call: string;
  /** The error's name. */
  readonly code: string;
  /** An argument that it must have: which one, from 0, and its value. */
  readonly argument?: readonly [index: number, value: number];
}

/** Has calls of this thread fail from now on. */
export function deny(...all: Denied[]): void {
  const libc = openLibc();
  const calls: Record<string, number> = {
    ...libc.abi.syscalls!,
    ...MORE_CALLS[libc.abi.arch],
  };
  const errnos = libc.abi.errno as unknown as Record<string, number>;
  const steps: [code: number, yes: number, no: number, value: number][] = [];
  for (const { call, code, argument } of all) {
    const number = calls[call];
    const errno = errnos[code];
    if (number === undefined || errno === undefined) {
      throw new Error(`Cannot deny ${call} with ${code}`);
    }
    steps.push([LOAD_WORD, 0, 0, 0]);
    if (argument === undefined) steps.push([JUMP_IF_EQUAL, 0, 1, number]);
    else {
      const [index, value] = argument;
      steps.push(
        [JUMP_IF_EQUAL, 0, 3, number],
        [LOAD_WORD, 0, 0, ARGUMENTS_AT + index * 8],
        [JUMP_IF_EQUAL, 0, 1, value],
      );
    }
    steps.push([RETURN, 0, 0, SECCOMP_RET_ERRNO | errno]);
  }
  steps.push([RETURN, 0, 0, SECCOMP_RET_ALLOW]);
  // struct sock_filter {u16 code, u8 yes, u8 no, u32 value}, and
  // struct sock_fprog {u16 length, struct sock_filter *steps}.
  const memory = alignedMemory(16 + steps.length * 8, 8);
  const view = new DataView(memory.buffer, memory.byteOffset);
  view.setUint16(0, steps.length, true);
  writeU64(view, 8, addressOf(memory) + 16);
  steps.forEach(([code, yes, no, value], i) => {
    view.setUint16(16 + i * 8, code, true);
    view.setUint8(18 + i * 8, yes);
    view.setUint8(19 + i * 8, no);
    view.setUint32(20 + i * 8, value, true);
  });
  const prctl = calls.prctl!;
  const results = [
    libc.syscall(prctl, PR_SET_NO_NEW_PRIVS, 1),
    libc.syscall(
      prctl,
      PR_SET_SECCOMP,
      SECCOMP_MODE_FILTER,
      addressOf(memory),
    ),
  ];
  if (results.some((result) => result !== 0)) {
    throw new Error(`Cannot deny system calls: ${results}`);
  }
}

/**
 * Runs a program for each of some cases, each in a thread of its own.
 *
 * @param body What it does; it has `path`, `given`, what the programs of
 * {@linkcode program} have, and `deny`, and returns plain data.
 * @param path A path for it.
 * @param cases What each is given.
 * @returns What each returned.
 */
export function inThreads<Given, T>(
  body: string,
  path: string,
  cases: readonly Given[],
): Promise<T[]> {
  const source = `
    import { DiskError, VirtualDisk } from ${
    JSON.stringify(import.meta.resolve("../../../mod.ts"))
  };
    import { openWith, pause } from ${
    JSON.stringify(import.meta.resolve("./harness.ts"))
  };
    import { deny } from ${JSON.stringify(import.meta.url)};
    const tell = (error) => error instanceof DiskError
      ? { ...error, message: error.message, path: error.path }
      : { kind: "thrown", message: String(error?.stack ?? error) };
    const attempt = (promise) =>
      Promise.resolve(promise).then(() => null, tell);
    void [VirtualDisk, openWith, pause, deny, attempt];
    onmessage = async ({ data: [path, given] }) => {
      let result;
      try {
        result = await (async () => {${body}})();
      } catch (error) {
        result = tell(error);
      }
      postMessage(result ?? null);
    };
  `;
  return program<T[]>(
    `
    const source = ${JSON.stringify(source)};
    const url = URL.createObjectURL(
      new Blob([source], { type: "text/javascript" }));
    const results = [];
    for (const given of ${JSON.stringify(cases)}) {
      const worker = new Worker(url, { type: "module" });
      results.push(await new Promise((resolve, reject) => {
        const timer = setTimeout(
          () => reject(new Error(JSON.stringify(given) + " waits for ever")),
          120_000,
        );
        worker.onmessage = ({ data }) => {
          clearTimeout(timer);
          resolve(data);
        };
        worker.onerror = (event) => {
          event.preventDefault();
          clearTimeout(timer);
          reject(new Error(JSON.stringify(given) + ": " + event.message));
        };
        worker.postMessage([path, given]);
      }));
      worker.terminate();
    }
    return results;
    `,
    { args: [path] },
  );
}
