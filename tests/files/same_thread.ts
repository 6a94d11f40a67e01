/**
 * 7-Zip's worker without a thread of its own, for tests by the thousand, in which
 * starting threads would take most of the time: the worker's own code runs as soon
 * as it is given its task, and the image is bytes that are at hand. What computes
 * for ever stops the whole process.
 *
 * @module
 */

import {
  type SevenZipMessage,
  type SevenZipTask,
  Word,
  WORDS_BYTES,
} from "../../src/files/seven_zip_protocol.ts";

type Handler = (event: { data: SevenZipTask }) => Promise<void>;

/** The worker that runs at the moment. */
let current: SameThreadWorker | null = null;
let handler: Handler | null = null;

/** What workers see as their disk. */
let image: Uint8Array = new Uint8Array(0);

/** Says what the next worker reads. */
export function useImage(bytes: Uint8Array): void {
  image = bytes;
}

/** Puts it in the place of `Worker`. */
export async function useSameThread(): Promise<void> {
  const scope = globalThis as unknown as {
    onmessage: Handler | null;
    postMessage(message: SevenZipMessage): void;
    close(): void;
    Worker: unknown;
  };
  scope.postMessage = (message) => current?.hear(message);
  scope.close = () => {};
  await import("../../src/files/seven_zip_worker.ts");
  handler = scope.onmessage;
  scope.onmessage = null;
  scope.Worker = SameThreadWorker;
}

class SameThreadWorker {
  onmessage: ((event: { data: SevenZipMessage }) => void) | null = null;
  onerror: unknown = null;
  #words: Int32Array = new Int32Array(0);
  #target: Uint8Array = new Uint8Array(0);

  postMessage(task: SevenZipTask): void {
    this.#words = new Int32Array(task.shared, 0, WORDS_BYTES / 4);
    this.#target = new Uint8Array(task.shared, WORDS_BYTES);
    // Whoever made it goes on first, as with a thread; and one after the other,
    // as there is one scope for all of them.
    queueMicrotask(() => {
      current = this;
      void handler!({ data: task });
    });
  }

  /** What the worker says: reads are answered before it would sleep. */
  hear(message: SevenZipMessage): void {
    if (message.kind === "read") {
      const { offset, length } = message;
      this.#target.set(image.subarray(offset, offset + length));
      Atomics.store(this.#words, Word.Reading, 0);
      return;
    }
    // Nobody could take it while this thread sleeps.
    Atomics.store(this.#words, Word.Unread, 0);
    this.onmessage?.({ data: message });
  }

  terminate(): void {}
}
