/**
 * The part of Deno's API that most tests use, by Node's, so that the same tests
 * run on Node.js and Bun. What is not here throws {@linkcode NeedsDeno}, and the
 * test that wants it is skipped: nothing passes because of a stand-in.
 *
 * Only tests see it (`hooks.ts` puts it before them); the library sees its
 * runtime as it is.
 *
 * @module
 */

import fs from "node:fs";
import os from "node:os";
import process from "node:process";
import { inspect } from "node:util";

/** A test wants something that only Deno has. */
export class NeedsDeno extends Error {}

/** A test as `Deno.test` was given it. */
export interface Registered {
  /** Its name. */
  readonly name: string;
  /** What it does. */
  readonly fn: (context: unknown) => unknown;
  /** Whether it is skipped. */
  readonly ignore: boolean;
}

/** The tests that were registered and not taken yet. */
export const registered: Registered[] = [];

type Options = Partial<Registered> & { permissions?: unknown };

function test(...args: unknown[]): void {
  const fn = args.find((arg) => typeof arg === "function");
  const name = args.find((arg) => typeof arg === "string");
  const options = (args.find((arg) => typeof arg === "object") ??
    {}) as Options;
  if (options.permissions !== undefined) {
    return register({
      fn: () => {
        throw new NeedsDeno("permissions of a test");
      },
    });
  }
  register({ ...options });
  function register(more: Options) {
    const known = { name, fn, ...options, ...more } as Registered;
    registered.push({
      name: known.name ?? known.fn.name,
      fn: known.fn,
      ignore: known.ignore ?? false,
    });
  }
}

test.ignore = () => {};

/** An error class of Deno's, told by its code. */
function errorOf(code: string) {
  return class {
    static [Symbol.hasInstance](error: unknown): boolean {
      return (error as { code?: unknown } | null)?.code === code;
    }
  };
}

const temporary = (
  { dir = os.tmpdir(), prefix = "" }: { dir?: string; prefix?: string } = {},
) => fs.mkdtempSync(`${dir}/${prefix}`);

interface Stat extends Omit<fs.Stats, "isFile" | "isDirectory" | "isSymlink"> {
  isFile: boolean;
  isDirectory: boolean;
  isSymlink: boolean;
}

function statOf(path: string | URL, follow: boolean): Stat {
  const stat = follow ? fs.statSync(path) : fs.lstatSync(path);
  return Object.assign(Object.create(stat), {
    isFile: stat.isFile(),
    isDirectory: stat.isDirectory(),
    isSymlink: stat.isSymbolicLink(),
  });
}

interface OpenOptions {
  read?: boolean;
  write?: boolean;
  create?: boolean;
  createNew?: boolean;
  truncate?: boolean;
}

/** An open file; what it lacks needs Deno. */
class File {
  readonly #fd: number;
  #position = 0;

  constructor(path: string | URL, options: OpenOptions = { read: true }) {
    const { O_RDWR, O_RDONLY, O_CREAT, O_EXCL, O_TRUNC } = fs.constants;
    const { write, create, createNew, truncate } = options;
    this.#fd = fs.openSync(
      path,
      (write ? O_RDWR : O_RDONLY) | (create || createNew ? O_CREAT : 0) |
        (createNew ? O_EXCL : 0) | (truncate ? O_TRUNC : 0),
    );
  }

  truncateSync(size = 0): void {
    fs.ftruncateSync(this.#fd, size);
  }

  seekSync(offset: number, whence: number): number {
    if (whence !== 0) throw new NeedsDeno("seeks from elsewhere");
    return this.#position = offset;
  }

  writeSync(bytes: Uint8Array): number {
    const { length } = bytes;
    const count = fs.writeSync(this.#fd, bytes, 0, length, this.#position);
    this.#position += count;
    return count;
  }

  truncate = (size?: number) => settle(() => this.truncateSync(size));
  seek = (offset: number, whence: number) =>
    settle(() => this.seekSync(offset, whence));
  write = (bytes: Uint8Array) => settle(() => this.writeSync(bytes));

  close(): void {
    fs.closeSync(this.#fd);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** What something gives or throws, as a promise. */
// deno-lint-ignore require-await -- a throw is to be a rejection.
async function settle<T>(act: () => T): Promise<T> {
  return act();
}

const bytesOf = (path: string | URL) => new Uint8Array(fs.readFileSync(path));

const remove = (path: string, { recursive = false } = {}) =>
  recursive
    ? fs.rmSync(path, { recursive })
    : fs.lstatSync(path).isDirectory()
    ? fs.rmdirSync(path)
    : fs.unlinkSync(path);

/** Each has an asynchronous form without `Sync` as well. */
const SYNC = {
  readFileSync: bytesOf,
  readTextFileSync: (path: string | URL) => fs.readFileSync(path, "utf8"),
  writeFileSync: (path: string, bytes: Uint8Array) =>
    fs.writeFileSync(path, bytes),
  writeTextFileSync: (path: string, text: string) =>
    fs.writeFileSync(path, text),
  statSync: (path: string) => statOf(path, true),
  lstatSync: (path: string) => statOf(path, false),
  truncateSync: fs.truncateSync,
  removeSync: remove,
  mkdirSync: (path: string, options?: fs.MakeDirectoryOptions) => {
    fs.mkdirSync(path, options);
  },
  renameSync: fs.renameSync,
  symlinkSync: (target: string, path: string) => fs.symlinkSync(target, path),
  readLinkSync: (path: string) => fs.readlinkSync(path),
  realPathSync: (path: string) => fs.realpathSync(path),
  copyFileSync: (from: string, to: string) => fs.copyFileSync(from, to),
  chmodSync: fs.chmodSync,
  utimeSync: fs.utimesSync,
  makeTempDirSync: temporary,
  openSync: (path: string, options?: OpenOptions) => new File(path, options),
  createSync: (path: string) =>
    new File(path, { write: true, create: true, truncate: true }),
} as const;

const ASYNC = Object.fromEntries(
  Object.entries(SYNC).map(([name, act]) => [
    name.replace(/Sync$/, ""),
    (...args: unknown[]) =>
      settle(() => (act as (...args: unknown[]) => unknown)(...args)),
  ]),
);

const SYSTEMS: Record<string, string> = { win32: "windows" };
const MACHINES: Record<string, string> = { x64: "x86_64", arm64: "aarch64" };

const api = {
  test,
  build: {
    os: SYSTEMS[process.platform] ?? process.platform,
    arch: MACHINES[process.arch] ?? process.arch,
  },
  env: { get: (name: string) => process.env[name] },
  pid: process.pid,
  uid: () => process.getuid?.() ?? null,
  umask: (mask?: number) =>
    mask === undefined ? process.umask() : process.umask(mask),
  memoryUsage: () => process.memoryUsage(),
  inspect: (value: unknown) => inspect(value),
  SeekMode: { Start: 0, Current: 1, End: 2 },
  errors: {
    NotFound: errorOf("ENOENT"),
    AlreadyExists: errorOf("EEXIST"),
    BrokenPipe: errorOf("EPIPE"),
    PermissionDenied: errorOf("EACCES"),
  },
  *readDirSync(path: string) {
    for (const entry of fs.readdirSync(path, { withFileTypes: true })) {
      yield {
        name: entry.name,
        isFile: entry.isFile(),
        isDirectory: entry.isDirectory(),
        isSymlink: entry.isSymbolicLink(),
      };
    }
  },
  ...SYNC,
  ...ASYNC,
};

/** What stands for the global `Deno` in tests. */
export const Deno: unknown = new Proxy(api, {
  get(target, name) {
    if (name in target) return target[name as keyof typeof target];
    throw new NeedsDeno(`Deno.${String(name)}`);
  },
});
