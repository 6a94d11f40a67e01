/**
 * Listeners for signals of the operating system.
 *
 * @module
 */

import process from "node:process";
import { runtime } from "./system.ts";

/** A signal. */
export type Signal = "SIGBREAK" | "SIGHUP" | "SIGINT" | "SIGTERM" | "SIGXFSZ";

/**
 * Has a function called when a signal comes, in place of what the signal does
 * by itself.
 *
 * @param name The signal.
 * @param listener The function.
 */
export function listen(name: Signal, listener: () => void): void {
  if (runtime === "deno") Deno.addSignalListener(name, listener);
  else process.on(name, listener);
}

/**
 * Takes that back.
 *
 * @param name The signal.
 * @param listener The function.
 */
export function unlisten(name: Signal, listener: () => void): void {
  if (runtime === "deno") Deno.removeSignalListener(name, listener);
  else process.off(name, listener);
}
