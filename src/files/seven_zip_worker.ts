/**
 * The worker that runs 7-Zip, once, on the disk of another thread: it answers
 * 7-Zip's reads from what it keeps of the disk or asks for more, and sends on
 * what 7-Zip writes. Of the system it touches nothing, whatever the permissions:
 * 7-Zip sees a file system of Emscripten's, in memory, in which there is the
 * image and nothing else.
 *
 * `seven_zip.ts` starts it; `seven_zip_protocol.ts` says how they talk.
 *
 * @module
 */

import sevenZip from "npm:7z-wasm@1.2.0/7zz.es6.js";
import process from "node:process";
import {
  MOST_UNREAD,
  OUTPUT_BYTES,
  PIECE_BYTES,
  READ_BYTES,
  type SevenZipMessage,
  type SevenZipTask,
  Word,
  WORDS_BYTES,
} from "./seven_zip_protocol.ts";

/** The part of a worker's global scope that is used. */
interface Scope {
  onmessage: ((event: { data: SevenZipTask }) => void) | null;
  postMessage(message: SevenZipMessage, transfer?: ArrayBuffer[]): void;
  close(): void;
}

/** The parts of Emscripten's runtime that are used, as of its 3.1 and 4.0. */
interface Runtime {
  callMain(args: readonly string[]): number;
  FS: {
    createFile(
      folder: string,
      name: string,
      properties: unknown,
      canRead: boolean,
      canWrite: boolean,
    ): FileNode;
  };
}

interface FileNode {
  id: number;
  mode: number;
  node_ops: object;
  stream_ops: StreamOperations;
}

interface Stream {
  position: number;
}

interface StreamOperations {
  llseek?(stream: Stream, offset: number, whence: number): number;
  read?(
    stream: Stream,
    heap: Int8Array,
    offset: number,
    length: number,
    position: number,
  ): number;
}

/** What a WebAssembly program is given, by module and name. */
type Imports = Record<string, Record<string, (...args: never[]) => unknown>>;

/** The heap's limit, as 7z-wasm is built. */
const MOST_HEAP_BYTES = 2 ** 31;

/** Pieces of the disk that are kept: 16 MiB. */
const MOST_PIECES = 256;

/** Words of a `struct tm` that are written. */
const TIME_WORDS = 8;

/** Thrown at 7-Zip when nothing is wanted of it any more. */
class Stopped extends Error {
  override readonly name = "Stopped";
}

const scope = globalThis as unknown as Scope;

scope.onmessage = async ({ data: task }) => {
  scope.onmessage = null;
  const heap = new Heap();
  try {
    const words = new Int32Array(task.shared, 0, WORDS_BYTES / 4);
    const output = new Output(words);
    const started = await start(task.program, heap, output);
    showImage(started, new Disk(task, words));
    const code = started.callMain(task.args);
    output.send();
    scope.postMessage({ kind: "done", code });
  } catch (error) {
    // What is thrown in C++ arrives as the number of its address.
    const reason = error instanceof Error
      ? error.message
      : "an exception of its own";
    const full = heap.bytes.length > 0.9 * MOST_HEAP_BYTES;
    scope.postMessage({ kind: "failed", reason, full });
  }
  scope.close();
};

/** Makes 7-Zip ready to run. */
async function start(
  program: WebAssembly.Module,
  heap: Heap,
  output: Output,
): Promise<Runtime> {
  // To Emscripten this is a browser then: else it would set the exit code of
  // the process, and look for the file.
  Object.assign(process, { type: "renderer" });
  return await sevenZip({
    noExitRuntime: true,
    stdin: () => null,
    stdout: () => {},
    stderr: () => {},
    instantiateWasm(
      imports: Imports,
      done: (instance: WebAssembly.Instance) => void,
    ) {
      keepUniversalTime(imports, heap);
      takeOutput(imports, heap, output);
      const instance = new WebAssembly.Instance(
        program,
        imports as WebAssembly.Imports,
      );
      heap.memory = instance.exports.memory as WebAssembly.Memory;
      done(instance);
      return instance.exports;
    },
  } as Record<string, unknown>) as unknown as Runtime;
}

/**
 * Makes local time universal time: what is printed depends on no time zone
 * then, and needs no guess where the clock is set back. Fields are those of
 * musl's `struct tm`, 32 bits each: seconds, minutes, hours, day, month, year,
 * day of the week, day of the year.
 */
function keepUniversalTime(imports: Imports, heap: Heap): void {
  const env = imports.env!;
  const slow = env._gmtime_js as (time: bigint, at: number) => void;
  // The times of one file are often one.
  let known: bigint | null = null;
  let fields = new Int32Array(0);
  const toFields = (time: bigint, at: number) => {
    const from = at >> 2;
    if (time === known) return heap.words.set(fields, from);
    slow(time, at);
    known = time;
    fields = heap.words.slice(from, from + TIME_WORDS);
  };
  env._gmtime_js = toFields;
  env._localtime_js = toFields;
  env._tzset_js = () => {};
  env._mktime_js = (at: number) => {
    const [second, minute, hour, day, month, year] = heap.words.subarray(
      at >> 2,
      (at >> 2) + 6,
    );
    const ms = Date.UTC(1900 + year!, month, day, hour, minute, second);
    return BigInt(Number.isNaN(ms) ? -1 : Math.floor(ms / 1000));
  };
}

/**
 * Takes what 7-Zip writes to its standard output and standard error, the only
 * files that it writes, before Emscripten would look for the file of a number:
 * there are millions of writes in a long listing. A vector has pairs of address
 * and length (WASI preview 1, `fd_write`).
 */
function takeOutput(imports: Imports, heap: Heap, output: Output): void {
  const wasi = imports.wasi_snapshot_preview1!;
  wasi.fd_write = (fd: number, vector: number, count: number, sum: number) => {
    let written = 0;
    for (let index = 0; index < count; index++) {
      const at = heap.words[(vector >> 2) + 2 * index]! >>> 0;
      const length = heap.words[(vector >> 2) + 2 * index + 1]! >>> 0;
      output.write(fd, heap.bytes, at, length);
      written += length;
    }
    heap.words[sum >> 2] = written;
    return 0;
  };
}

/** Shows 7-Zip the image. */
function showImage({ FS }: Runtime, disk: Disk): void {
  const image = FS.createFile("/", "image", {}, true, false);
  const epoch = new Date(0);
  image.node_ops = {
    ...image.node_ops,
    getattr: ({ id, mode }: FileNode) => ({
      ...{ dev: 1, ino: id, mode, nlink: 1, uid: 0, gid: 0, rdev: 0 },
      ...{ size: disk.size, blksize: 4096, blocks: 0 },
      ...{ atime: epoch, mtime: epoch, ctime: epoch },
    }),
  };
  image.stream_ops = {
    llseek: ({ position }, offset, whence) =>
      whence === 0
        ? offset
        : whence === 1
        ? position + offset
        : disk.size + offset,
    read: (_stream, heap, offset, length, position) =>
      disk.read(heap, offset, length, position),
  };
}

/** 7-Zip's memory, which moves when it grows. */
class Heap {
  memory: WebAssembly.Memory | null = null;
  #bytes: Uint8Array = new Uint8Array(0);
  #words: Int32Array = new Int32Array(0);

  get bytes(): Uint8Array {
    this.#look();
    return this.#bytes;
  }

  get words(): Int32Array {
    this.#look();
    return this.#words;
  }

  #look(): void {
    // Views of what it was have no length any more.
    if (this.#bytes.length > 0 || this.memory === null) return;
    this.#bytes = new Uint8Array(this.memory.buffer);
    this.#words = new Int32Array(this.memory.buffer);
  }
}

/** The disk of the other thread, and what is kept of it. */
class Disk {
  readonly size: number;
  readonly #words: Int32Array;
  readonly #shared: Uint8Array;
  /** By number; what was used last is last. */
  readonly #pieces = new Map<number, Uint8Array>();
  #last: { number: number; bytes: Uint8Array } = {
    number: -1,
    bytes: new Uint8Array(0),
  };
  /** The piece after what was read last, and how much that was. */
  #next = -1;
  #ahead = 1;

  constructor({ size, shared }: SevenZipTask, words: Int32Array) {
    this.size = size;
    this.#words = words;
    this.#shared = new Uint8Array(shared, WORDS_BYTES);
  }

  read(
    heap: Int8Array,
    offset: number,
    length: number,
    position: number,
  ): number {
    throwIfStopped(this.#words);
    const end = Math.min(position + length, this.size);
    let at = position;
    while (at < end) {
      const number = Math.floor(at / PIECE_BYTES);
      const from = at - number * PIECE_BYTES;
      const bytes = this.#piece(number);
      const part = bytes.subarray(
        from,
        Math.min(bytes.length, from + end - at),
      );
      heap.set(part, offset + at - position);
      at += part.length;
    }
    return Math.max(0, at - position);
  }

  #piece(number: number): Uint8Array {
    if (this.#last.number === number) return this.#last.bytes;
    let bytes = this.#pieces.get(number);
    if (bytes === undefined) {
      bytes = this.#fetch(number);
    } else {
      this.#pieces.delete(number);
      this.#pieces.set(number, bytes);
    }
    this.#last = { number, bytes };
    return bytes;
  }

  /** Reads a piece, and more after it the longer one follows another. */
  #fetch(number: number): Uint8Array {
    const most = READ_BYTES / PIECE_BYTES;
    this.#ahead = number === this.#next ? Math.min(most, this.#ahead * 2) : 1;
    const offset = number * PIECE_BYTES;
    let count = 1;
    while (count < this.#ahead && !this.#pieces.has(number + count)) count++;
    const length = Math.min(count * PIECE_BYTES, this.size - offset);
    this.#next = number + count;
    Atomics.store(this.#words, Word.Reading, 1);
    scope.postMessage({ kind: "read", offset, length });
    throwIfStopped(this.#words);
    Atomics.wait(this.#words, Word.Reading, 1);
    throwIfStopped(this.#words);
    for (let at = 0; at < length; at += PIECE_BYTES) {
      const end = Math.min(length, at + PIECE_BYTES);
      const piece = (offset + at) / PIECE_BYTES;
      this.#pieces.set(piece, this.#shared.slice(at, end));
    }
    for (const old of this.#pieces.keys()) {
      if (this.#pieces.size <= MOST_PIECES) break;
      this.#pieces.delete(old);
    }
    return this.#pieces.get(number)!;
  }
}

/** What 7-Zip writes, gathered: it writes some ten bytes at a time. */
class Output {
  readonly #words: Int32Array;
  readonly #bytes = new Uint8Array(OUTPUT_BYTES);
  #length = 0;
  #runs: number[] = [0];

  constructor(words: Int32Array) {
    this.#words = words;
  }

  write(fd: number, heap: Uint8Array, offset: number, length: number): void {
    for (let at = 0; at < length;) {
      if (this.#length === OUTPUT_BYTES) this.send();
      const count = Math.min(length - at, OUTPUT_BYTES - this.#length);
      // Standard error has the even runs.
      if (this.#runs.length % 2 !== fd - 1) this.#runs.push(0);
      this.#runs[this.#runs.length - 1]! += count;
      const from = offset + at;
      if (count < 32) {
        for (let index = 0; index < count; index++) {
          this.#bytes[this.#length + index] = heap[from + index]!;
        }
      } else {
        this.#bytes.set(heap.subarray(from, from + count), this.#length);
      }
      this.#length += count;
      at += count;
    }
  }

  send(): void {
    throwIfStopped(this.#words);
    if (this.#length === 0) return;
    const bytes = this.#bytes.slice(0, this.#length);
    const runs = this.#runs;
    this.#length = 0;
    this.#runs = [0];
    Atomics.add(this.#words, Word.Unread, 1);
    scope.postMessage({ kind: "output", runs, bytes }, [bytes.buffer]);
    for (;;) {
      throwIfStopped(this.#words);
      const unread = Atomics.load(this.#words, Word.Unread);
      if (unread < MOST_UNREAD) return;
      Atomics.wait(this.#words, Word.Unread, unread);
    }
  }
}

function throwIfStopped(words: Int32Array): void {
  if (Atomics.load(words, Word.Stop) !== 0) throw new Stopped("Stopped");
}
