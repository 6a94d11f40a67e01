/**
 * Which runtime, operating system and architecture this is, by Deno's names.
 *
 * @module
 */

import process from "node:process";

/** A runtime that this is made for. */
export type Runtime = "deno" | "node" | "bun";

/** The runtime. */
export const runtime: Runtime = typeof Deno !== "undefined"
  ? "deno"
  : process.versions.bun !== undefined
  ? "bun"
  : "node";

/** Whether this thread can be terminated while the program goes on. */
export const inWorker: boolean = runtime === "deno"
  ? "WorkerGlobalScope" in globalThis
  : !process.getBuiltinModule("node:worker_threads").isMainThread;

/** What it calls itself. */
export const runtimeName: string = {
  deno: "Deno",
  node: "Node.js",
  bun: "Bun",
}[runtime];

/** Deno's names of what `process.platform` and `process.arch` call otherwise. */
const NAMES: Readonly<Record<string, string>> = {
  win32: "windows",
  sunos: "illumos",
  x64: "x86_64",
  arm64: "aarch64",
};

/** The operating system, as in `Deno.build.os`. */
export const os: string = NAMES[process.platform] ?? process.platform;

/** The architecture, as in `Deno.build.arch`. */
export const arch: string = NAMES[process.arch] ?? process.arch;

/** The first Node.js that has the syntax this is written in (`await using`). */
const OLDEST_NODE = 24;

/**
 * Says which Node.js it takes, where a module that is loaded later would only be
 * called wrong.
 *
 * @throws {Error} If this is an earlier one.
 */
export function assertRuntime(): void {
  if (runtime !== "node") return;
  if (parseInt(process.versions.node) >= OLDEST_NODE) return;
  throw new Error(
    `Cannot run as Node.js must be ${OLDEST_NODE} or later: current value is ${process.versions.node}`,
  );
}
