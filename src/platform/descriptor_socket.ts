/**
 * A socket that is open already, for the event loop to wait for.
 *
 * @module
 */

import { Socket } from "node:net";
import { runtime } from "./system.ts";

/**
 * Gives a socket to the event loop.
 *
 * @param fd Its descriptor, which is the loop's from now on.
 * @returns The socket.
 */
export function socketOf(fd: number): Socket {
  if (runtime !== "bun") return new Socket({ fd, readable: true });
  // Bun takes no descriptor there, and delivers nothing; here it does.
  const socket = new Socket();
  socket.connect({ fd } as unknown as Parameters<Socket["connect"]>[0]);
  return socket;
}
