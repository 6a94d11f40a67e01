/**
 * A socket that is open already, for the event loop to wait for.
 *
 * @module
 */

import { Socket } from "node:net";
import { runtime } from "./system.ts";

/** Bytes that are read at once where only their coming counts. */
const SIGNAL_BYTES = 512;

/**
 * Gives a socket to the event loop.
 *
 * @param fd Its descriptor, which is the loop's from now on.
 * @param onSignal Called when bytes have come of which only that counts; they are
 * read into one buffer, and no stream is between, which makes a wake-up cost half.
 * @returns The socket.
 */
export function socketOf(fd: number, onSignal?: () => void): Socket {
  if (runtime !== "bun") {
    const options = { fd, readable: true };
    if (onSignal === undefined) return new Socket(options);
    const buffer = new Uint8Array(SIGNAL_BYTES);
    const callback = () => {
      onSignal();
      return true;
    };
    const socket = new Socket(
      { ...options, onread: { buffer, callback } } as typeof options,
    );
    return socket.resume();
  }
  // Bun takes no descriptor there, and delivers nothing; here it does.
  const socket = new Socket();
  if (onSignal !== undefined) socket.on("data", onSignal);
  socket.connect({ fd } as unknown as Parameters<Socket["connect"]>[0]);
  return socket;
}
