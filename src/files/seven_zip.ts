/**
 * Runs 7-Zip on a disk, in a worker. The disk is read where it is, by ordinary
 * asynchronous requests, so that it may be any disk: over a network, under
 * layers, a partition. What 7-Zip writes comes as it is taken; whoever stops
 * taking it stops 7-Zip.
 *
 * @module
 */

import { onlyOnDeno } from "../deno_only.ts";
import type { VirtualDisk } from "../disk/disk.ts";
import { DiskError } from "../errors.ts";
import { SECTOR_BYTES } from "../geometry.ts";
import { printable } from "../printable.ts";
import type { FoundFileSystem } from "./find_file_system.ts";
import type { Mask } from "./joliet.ts";
import { FileSystemError } from "./file_system_error.ts";
import {
  MOST_UNREAD,
  READ_BYTES,
  type SevenZipMessage,
  type SevenZipOutput,
  type SevenZipTask,
  Word,
  WORDS_BYTES,
} from "./seven_zip_protocol.ts";

/** How files are read. */
export interface FilesOptions {
  /** Gives up, with the signal's reason. */
  signal?: AbortSignal | undefined;
  /**
   * How long may be computed, in ms, from one thing that comes of it to the
   * next: a file system that is damaged may be an endless one. Waits for the
   * disk and for whoever takes the files do not count.
   *
   * @default {120_000}
   */
  timeoutMs?: number | undefined;
}

const DEFAULT_TIMEOUT_MS = 120_000;

/** Characters that are kept of what 7-Zip complains about. */
const MOST_COMPLAINTS = 500;

/**
 * Lines that are a complaint: `ERROR: …`, and the words that stand below
 * `ERRORS:` (7-Zip, "ExtractCallbackConsole.cpp", `k_ErrorFlagsMessages`).
 */
const COMPLAINT = new RegExp(
  "^((Open )?ERROR: (?!/image)|Is not archive|Headers Error|.*Unexpected end |" +
    "Unavailable |Unsupported |.*Data Error|CRC Error|Not enough )",
);

/** What 7-Zip exits with when there was nothing but warnings: its "ExitCode.h". */
const WARNING = 1;

/** What 7-Zip writes: a line of messages, or a piece of its answer. */
export type SevenZipEvent =
  | { readonly kind: "line"; readonly text: string }
  | { readonly kind: "data"; readonly bytes: Uint8Array };

/**
 * Runs 7-Zip.
 *
 * @param found The file system, whose disk 7-Zip sees as `/image`.
 * @param args Its command line.
 * @param options When to give up.
 * @returns What it writes, in pieces.
 * @throws {FileSystemError} If it fails or takes too long.
 * @throws {DiskError} If the disk fails, or the worker cannot run.
 * @throws {RangeError} If the timeout is no number of ms.
 */
export async function* runSevenZip(
  found: FoundFileSystem,
  args: readonly string[],
  options: FilesOptions,
): AsyncGenerator<readonly SevenZipEvent[], void> {
  const { signal, timeoutMs = DEFAULT_TIMEOUT_MS } = options;
  if (!(timeoutMs > 0 && timeoutMs <= 2 ** 31 - 1)) {
    throw new RangeError(
      `Cannot read files as timeoutMs must be from 1 to 2147483647: current value is ${timeoutMs}`,
    );
  }
  signal?.throwIfAborted();
  const run = new Run(found, args, await program(), timeoutMs);
  const onAbort = () => run.fail(signal!.reason);
  signal?.addEventListener("abort", onAbort);
  const reader = new Reader();
  try {
    for (;;) {
      const output = await run.next();
      if (output === null) break;
      yield reader.read(output);
      // It may have ended before.
      signal?.throwIfAborted();
    }
  } finally {
    signal?.removeEventListener("abort", onAbort);
    await run.end();
  }
  if (run.code > WARNING) {
    throw new FileSystemError(
      "damaged",
      `Cannot read all files as the file system is damaged: 7-Zip says ${
        reader.complaints || `no more than its exit code, ${run.code}`
      }`,
    );
  }
}

let loaded: Promise<{ default: WebAssembly.Module }> | null = null;

/**
 * 7-Zip itself, compiled once for all workers. It comes as a module and not as a
 * file, so that no permission is needed to read it; TypeScript does not know yet
 * how that is written.
 */
async function program(): Promise<WebAssembly.Module> {
  onlyOnDeno("read the files of a file system");
  loaded ??= import(
    "data:text/javascript,import source program from 'npm:7z-wasm@1.2.0/7zz.wasm'; export default program;"
  );
  try {
    return (await loaded).default;
  } catch (error) {
    loaded = null;
    throw new DiskError(
      "platform",
      `Cannot read files as the npm package 7z-wasm cannot be loaded: ${
        printable(error instanceof Error ? error.message : String(error), 500)
      }`,
      { operation: "read", cause: error },
    );
  }
}

/** One run of the worker. */
class Run {
  readonly #disk: VirtualDisk;
  readonly #mask: Mask;
  readonly #worker: Worker;
  readonly #words: Int32Array;
  readonly #target: Uint8Array;
  readonly #buffer: Uint8Array<ArrayBuffer>;
  readonly #clock: Clock;
  readonly #stop = new AbortController();
  /** Output that is not taken yet; at most {@linkcode MOST_UNREAD}. */
  readonly #outputs: SevenZipOutput[] = [];
  /** How it ended: by itself, or with an error. */
  #ended: { error?: unknown } | null = null;
  #wake = () => {};
  #isReading = false;
  #serving = Promise.resolve();
  /** What 7-Zip exited with. */
  code = 0;

  constructor(
    { disk, mask }: FoundFileSystem,
    args: readonly string[],
    program: WebAssembly.Module,
    timeoutMs: number,
  ) {
    this.#disk = disk;
    this.#mask = mask;
    this.#buffer = disk.allocate(READ_BYTES / SECTOR_BYTES);
    const shared = new SharedArrayBuffer(WORDS_BYTES + READ_BYTES);
    this.#words = new Int32Array(shared, 0, WORDS_BYTES / 4);
    this.#target = new Uint8Array(shared, WORDS_BYTES);
    this.#clock = new Clock(timeoutMs, () => {
      this.fail(
        new FileSystemError(
          "timeout",
          `Cannot read files as nothing has come of the file system within ${timeoutMs} ms: it may be damaged`,
        ),
      );
    });
    this.#worker = new Worker(
      new URL("./seven_zip_worker.ts", import.meta.url),
      {
        type: "module",
      },
    );
    this.#worker.onmessage = ({ data }: { data: SevenZipMessage }) =>
      this.#hear(data);
    this.#worker.onerror = (event) => {
      event.preventDefault();
      this.fail(workerError(event));
    };
    const size = disk.sectors * SECTOR_BYTES;
    const task: SevenZipTask = { program, args, size, shared };
    this.#worker.postMessage(task);
    this.#clock.start();
  }

  /** The next piece of output, or `null` if there is none any more. */
  async next(): Promise<SevenZipOutput | null> {
    while (this.#outputs.length === 0 && this.#ended === null) {
      await new Promise<void>((resolve) => this.#wake = resolve);
    }
    const ended = this.#ended;
    if (ended !== null && "error" in ended) throw ended.error;
    const output = this.#outputs.shift();
    if (output === undefined) return null;
    Atomics.sub(this.#words, Word.Unread, 1);
    Atomics.notify(this.#words, Word.Unread);
    if (ended === null && !this.#isReading) this.#clock.start();
    return output;
  }

  /** Ends it with an error. */
  fail(error: unknown): void {
    this.#end({ error });
  }

  /** Ends it, whatever it does; afterwards nothing of it is left. */
  async end(): Promise<void> {
    this.#end({});
    await this.#serving;
  }

  #end(ended: { error?: unknown }): void {
    if (this.#ended !== null) return;
    this.#ended = ended;
    this.#clock.end();
    this.#stop.abort();
    // A worker that sleeps would not hear of its end in another way.
    Atomics.store(this.#words, Word.Stop, 1);
    for (const word of [Word.Reading, Word.Unread]) {
      Atomics.store(this.#words, word, 0);
      Atomics.notify(this.#words, word);
    }
    this.#worker.terminate();
    this.#wake();
  }

  #hear(message: SevenZipMessage): void {
    if (this.#ended !== null) return;
    if (message.kind === "read") {
      this.#clock.pause();
      this.#isReading = true;
      this.#serving = this.#serve(message.offset, message.length);
    } else if (message.kind === "output") {
      this.#outputs.push(message);
      this.#clock.reset();
      // It waits as long as all of that is there.
      if (this.#outputs.length >= MOST_UNREAD) this.#clock.pause();
      this.#wake();
    } else if (message.kind === "done") {
      this.code = message.code;
      this.#end({});
    } else if (message.full) {
      this.fail(
        new FileSystemError(
          "too-large",
          "Cannot read files as the file system needs more than the 2 GiB of memory that 7-Zip may have",
        ),
      );
    } else {
      this.fail(
        new FileSystemError(
          "damaged",
          `Cannot read files as the file system is damaged: 7-Zip ended with ${
            printable(message.reason)
          }`,
        ),
      );
    }
  }

  async #serve(offset: number, length: number): Promise<void> {
    try {
      const bytes = this.#buffer.subarray(0, length);
      const { signal } = this.#stop;
      await this.#disk.readInto(offset / SECTOR_BYTES, bytes, { signal });
      for (const [at, value] of this.#mask) {
        if (at >= offset && at < offset + length) bytes[at - offset] = value;
      }
      this.#target.set(bytes);
    } catch (error) {
      return this.fail(error);
    }
    if (this.#ended !== null) return;
    this.#isReading = false;
    this.#clock.start();
    Atomics.store(this.#words, Word.Reading, 0);
    Atomics.notify(this.#words, Word.Reading);
  }
}

/** The worker did not start: its modules, or the package, cannot be had. */
function workerError({ message, error }: ErrorEvent): DiskError {
  return new DiskError(
    /^Requires \w+ access/.test(message) ? "permission" : "platform",
    `Cannot read files as the worker that reads them cannot run: ${
      printable(message, 500)
    }`,
    { operation: "read", cause: error },
  );
}

/** A clock that runs while 7-Zip computes. */
class Clock {
  readonly #limitMs: number;
  readonly #expired: () => void;
  #leftMs: number;
  #startedAt = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(limitMs: number, expired: () => void) {
    this.#limitMs = limitMs;
    this.#leftMs = limitMs;
    this.#expired = expired;
  }

  start(): void {
    if (this.#timer !== undefined) return;
    this.#startedAt = performance.now();
    this.#timer = setTimeout(this.#expired, Math.max(0, this.#leftMs));
  }

  pause(): void {
    if (this.#timer === undefined) return;
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#leftMs -= performance.now() - this.#startedAt;
  }

  /** All of the time again. */
  reset(): void {
    const runs = this.#timer !== undefined;
    this.pause();
    this.#leftMs = this.#limitMs;
    if (runs) this.start();
  }

  end(): void {
    clearTimeout(this.#timer);
  }
}

/** Lines and data of what 7-Zip writes, in order, and what it complains about. */
class Reader {
  readonly #decoder = new TextDecoder();
  #rest = "";
  #complaints = "";

  /** What 7-Zip complains about, in one line; nothing if it does not. */
  get complaints(): string {
    return printable(this.#complaints.replace(/; $/, ""), MOST_COMPLAINTS);
  }

  read({ runs, bytes }: SevenZipOutput): SevenZipEvent[] {
    const events: SevenZipEvent[] = [];
    let at = 0;
    runs.forEach((length, index) => {
      const part = bytes.subarray(at, at + length);
      at += length;
      if (index % 2 === 1) events.push({ kind: "data", bytes: part });
      else if (length > 0) this.#readLines(part, events);
    });
    return events;
  }

  #readLines(bytes: Uint8Array, events: SevenZipEvent[]): void {
    const text = this.#rest + this.#decoder.decode(bytes, { stream: true });
    const lines = text.split("\n");
    this.#rest = lines.pop()!;
    for (const text of lines) {
      events.push({ kind: "line", text });
      if (this.#complaints.length > MOST_COMPLAINTS) continue;
      if (COMPLAINT.test(text)) this.#complaints += `${text.trim()}; `;
    }
  }
}
