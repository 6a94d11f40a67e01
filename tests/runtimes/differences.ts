/**
 * What is known not to pass on another runtime, and why. A test that fails and is
 * not here is an error of ours, and so is an entry that nothing fails of.
 *
 * @module
 */

/** Tests that fail somewhere. */
export interface Difference {
  /** How the names of the runtimes begin. */
  readonly on: readonly string[];
  /** The file of the tests. */
  readonly file: string;
  /** What their titles match. */
  readonly name: RegExp;
  /** Why they fail there. */
  readonly why: string;
}

/** All that is known. */
export const DIFFERENCES: readonly Difference[] = [
  {
    on: ["Node", "Bun"],
    file: "tests/disk/disk_test.ts",
    name: /shows what it is when it is printed/,
    why: "it prints in a form of its own",
  },
  {
    on: ["Bun"],
    file: "tests/disk/disk_test.ts",
    name: /is sent to no other thread/,
    why: "it refuses in words of its own, and not in ours",
  },
  {
    on: ["Node", "Bun"],
    file: "tests/ffi/library_test.ts",
    name: /stops at a refusal/,
    why: "it refuses no library, and the test's own refusal is Deno's",
  },
  {
    on: ["Bun"],
    file: "tests/ffi/reactor_test.ts",
    name: /waits for a socket|of Workers apart/,
    why:
      "its new Socket() takes no descriptor, as the test makes one; the library connects it",
  },
  {
    on: ["Node 26", "Bun"],
    file: "tests/ffi/poll_test.ts",
    name: /waitReadable\(\)/,
    why: "it calls nothing on another thread; a timer waits instead",
  },
  {
    on: ["Node 26", "Bun"],
    file: "tests/ffi/aio_test.ts",
    name: /until drained/,
    why: "it calls nothing on another thread; a timer waits instead",
  },
];
