/**
 * The images and devices that measurements are taken on. They are made when
 * they are first needed, and are gone afterwards, whatever happens.
 *
 * @module
 */

import fs from "node:fs";
import { join } from "node:path";
import type { Target } from "./contenders.ts";
import { Unavailable } from "./work.ts";

/** A place to measure on. */
export interface Place {
  /** Its path; empty for memory. */
  readonly path: string;
  /** Its size. */
  readonly bytes: number;
}

const MIB = 1_048_576;
const LARGE_BYTES = 2 ** 40;
const RAM_DISK_BYTES = 512 * MIB;
const MEMORY_DISK_BYTES = 16 * MIB;
const CHUNK_BYTES = 4 * MIB;

const ZRAM_CONTROL = "/sys/class/zram-control";

/** Scratch images, in a directory of their own. */
export class Scratch implements AsyncDisposable {
  readonly #cleanUp = new AsyncDisposableStack();
  readonly #places = new Map<Target, Promise<Place>>();
  readonly #bytes: number;
  readonly #signal: AbortSignal;
  readonly #progress: (text: string) => void;
  /** Where the images are. */
  readonly directory: string;

  private constructor(
    directory: string,
    bytes: number,
    signal: AbortSignal,
    progress: (text: string) => void,
  ) {
    this.directory = directory;
    this.#bytes = bytes;
    this.#signal = signal;
    this.#progress = progress;
  }

  /**
   * Makes a directory for scratch images.
   *
   * @param options Where, how large the images are, what ends their making, and
   * who hears of it. Without a parent, `tmp` in the current directory.
   * @returns The scratch space; dispose of it.
   */
  static async make(options: {
    parent?: string;
    bytes: number;
    signal: AbortSignal;
    progress?: (text: string) => void;
  }): Promise<Scratch> {
    const parent = options.parent ?? join(Deno.cwd(), "tmp");
    const made = await Deno.mkdir(parent).then(() => true, () => false);
    const directory = await Deno.makeTempDir({ dir: parent, prefix: "bench_" });
    const scratch = new Scratch(
      directory,
      options.bytes,
      options.signal,
      options.progress ?? (() => {}),
    );
    if (made) {
      // Unless it is in use by now.
      scratch.#cleanUp.defer(() => Deno.remove(parent).catch(() => {}));
    }
    scratch.#cleanUp.defer(() => {
      // A file of many small pieces takes its time.
      scratch.#progress("Removing the scratch images");
      return Deno.remove(directory, { recursive: true });
    });
    return scratch;
  }

  /**
   * A place to measure on, made at the first call.
   *
   * @param target Which one.
   * @returns The place.
   * @throws {Unavailable} If it cannot be had here.
   */
  place(target: Target): Promise<Place> {
    const known = this.#places.get(target);
    if (known !== undefined) return known;
    const made = this.#make(target);
    this.#places.set(target, made);
    return made;
  }

  async #make(target: Target): Promise<Place> {
    switch (target) {
      case "memory":
        return { path: "", bytes: MEMORY_DISK_BYTES };
      case "ram disk":
        return await this.#ramDisk();
      case "large image": {
        const path = join(this.directory, "large.img");
        await Deno.writeFile(path, new Uint8Array());
        try {
          await Deno.truncate(path, LARGE_BYTES);
        } catch {
          throw new Unavailable("the file system takes no sparse 1 TiB file");
        }
        return { path, bytes: LARGE_BYTES };
      }
      case "image":
      case "buffered image": {
        const direct = target === "image";
        const path = join(
          this.directory,
          direct ? "scratch.img" : "cached.img",
        );
        await Deno.writeFile(path, new Uint8Array());
        await this.#fill(path, this.#bytes, direct);
        return { path, bytes: this.#bytes };
      }
    }
  }

  /**
   * Really writes: blocks that are only allocated are answered by the file
   * system, without the disk.
   */
  async #fill(path: string, bytes: number, direct: boolean): Promise<void> {
    const { O_RDWR, O_DIRECT } = fs.constants;
    let file: number;
    try {
      file = fs.openSync(path, O_RDWR | (direct ? O_DIRECT : 0));
    } catch (cause) {
      throw new Error(
        `Cannot make an image in ${this.directory} as its file system has no direct I/O: use --dir`,
        { cause },
      );
    }
    try {
      // WebAssembly's memory is page-aligned. One chunk is enough, as nobody
      // looks at the bytes; but zeroes are a special case in some devices.
      const memory = new WebAssembly.Memory({ initial: CHUNK_BYTES / 65_536 });
      for (let at = 0; at < CHUNK_BYTES; at += 65_536) {
        crypto.getRandomValues(new Uint8Array(memory.buffer, at, 65_536));
      }
      for (let at = 0; at < bytes; at += CHUNK_BYTES) {
        const part = Math.min(CHUNK_BYTES, bytes - at);
        fs.writeSync(file, new Uint8Array(memory.buffer), 0, part, at);
        const percent = Math.floor(at / bytes * 100);
        this.#progress(`Writing ${path}: ${percent}%`);
        // Lets Ctrl-C in.
        await new Promise((resolve) => setTimeout(resolve));
        this.#signal.throwIfAborted();
      }
      fs.fsyncSync(file);
    } finally {
      fs.closeSync(file);
    }
  }

  /** A zram device of our own: 4Kn, and about as fast as memory. */
  async #ramDisk(): Promise<Place> {
    let id: string;
    try {
      // Reading adds a device and tells its number:
      // Documentation/ABI/testing/sysfs-class-zram-control
      id = (await Deno.readTextFile(`${ZRAM_CONTROL}/hot_add`)).trim();
    } catch {
      throw new Unavailable("a RAM disk needs root and the zram module");
    }
    const path = `/dev/zram${id}`;
    const device = `/sys/block/zram${id}`;
    this.#cleanUp.defer(async () => {
      await Deno.writeTextFile(`${device}/reset`, "1");
      await Deno.writeTextFile(`${ZRAM_CONTROL}/hot_remove`, id);
    });
    if (!fs.existsSync(path)) {
      throw new Unavailable(`there is no ${path}: nothing makes device files`);
    }
    await Deno.writeTextFile(`${device}/disksize`, `${RAM_DISK_BYTES}`);
    await this.#fill(path, RAM_DISK_BYTES, true);
    return { path, bytes: RAM_DISK_BYTES };
  }

  /** Takes everything away. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#cleanUp.disposeAsync();
  }
}
