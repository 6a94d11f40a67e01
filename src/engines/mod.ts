/**
 * The engines: how an operation on a descriptor reaches the kernel, and where the
 * thread waits until it is over. This is their front door; on Windows,
 * `windows/mod.ts` is another one.
 *
 * An owner (`DirectBackend`) describes an {@linkcode Operation} (a code, a
 * descriptor, an address, a range), pushes as many as it likes to its
 * {@linkcode Engine}, and kicks it. The engine hands them to the kernel and
 * answers each once, with bytes moved or −errno. What memory they move is the
 * owner's until then; the engine copies nothing and looks at no content.
 *
 * | part | what it does |
 * | ---- | ------------ |
 * | `engine.ts` | the seam: what an operation and an engine are |
 * | `choose_engine.ts` | tries what the system has, and says why it is that one |
 * | `sync_engine.ts` | one blocking call for each operation |
 * | `async_engine.ts` | slots and completions over a queue into the kernel (`kernel_queue.ts`): `io_uring_queue.ts`, `aio_queue.ts`, a completion port |
 * | `waiting.ts`, `wait_policy.ts`, `stall_budget.ts` | where the thread waits, and for how long |
 * | `loop_turn.ts`, `notifier.ts` | turns of the event loop, and completions that wake it |
 * | `host.ts`, `posix_host.ts` | the operating system under all of these |
 * | `worker_descriptors.ts` | descriptors that Deno closes with their Worker |
 *
 * It reaches the kernel through `ffi/` and Deno's event loop through
 * `src/platform/`. It opens no image, and knows no requests, no disks and no
 * files but by number; in a Worker, to have such a number, it opens what it is
 * told to.
 *
 * @module
 */

export {
  chooseEngine,
  DEFAULT_ENGINE,
  ENGINE_NAMES,
  type EngineFile,
  type EngineName,
  type EngineOptions,
  type MakeEngine,
} from "./choose_engine.ts";
export {
  AllocateMode,
  type Engine,
  Operation,
  OperationCode,
} from "./engine.ts";
export type { Host, HostErrno } from "./host.ts";
export { PosixHost, syncFile, syncMethod } from "./posix_host.ts";
export { SyncEngine } from "./sync_engine.ts";
export { WorkerDescriptors } from "./worker_descriptors.ts";
