/**
 * Which engine an image gets on Windows: a completion port, or blocking calls.
 *
 * @module
 */

import { AsyncEngine } from "../async_engine.ts";
import {
  type EngineOptions,
  type MakeEngine,
  refusal,
} from "../choose_engine.ts";
import type { Operation } from "../engine.ts";
import { SyncEngine } from "../sync_engine.ts";
import { CompletionPortQueue } from "./completion_port_queue.ts";
import type { WindowsHost } from "./host.ts";

/**
 * Chooses an engine for an open image.
 *
 * @param host Windows.
 * @param handle The image.
 * @param path The image's path, for the error.
 * @param options Which engine is wanted.
 * @returns What makes the engine.
 * @throws {DiskError} With kind `platform` if the engine that was asked for is
 * not to be had here.
 */
export function chooseWindowsEngine<T extends Operation>(
  host: WindowsHost,
  handle: number,
  path: string,
  options: EngineOptions,
): MakeEngine<T> {
  const { engine, depth, stallMs, pollMs } = options;
  const asked = engine === "auto" ? null : `asked for: engine: "${engine}"`;
  if (engine !== "auto" && engine !== "iocp" && engine !== "sync") {
    throw refusal(path, engine, "only Linux has it");
  }
  const sync = (reason: string | null): MakeEngine<T> => (complete) =>
    new SyncEngine(host, complete, { info: { name: "sync", reason }, stallMs });
  if (engine === "sync") return sync(asked);
  const queue = CompletionPortQueue.open<T>(host, handle, depth);
  if (typeof queue === "string") {
    if (engine === "iocp") throw refusal(path, engine, queue);
    return sync(queue);
  }
  return (complete) =>
    new AsyncEngine<T>(host, queue, complete, {
      info: { name: "iocp", reason: asked },
      stallMs,
      pollMs,
    });
}
