/**
 * The part of Deno's API that most tests use, by Node's, so that the same tests
 * run on Node.js and Bun. What is not here throws {@linkcode NeedsDeno}, and the
 * test that wants it is skipped: nothing passes because of a stand-in.
 *
 * Only tests see it (`node_hooks.ts` and `bun_hooks.ts` put it before them); the library sees its
 * runtime as it is.
 *
 * @module
 */

import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import process from "node:process";
import { Readable, Writable } from "node:stream";
import { inspect } from "node:util";
import { connectTo, listenAt } from "../../src/platform/sockets.ts";

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

/** What is done once the tests of a file are over, last in first out. */
export const atEnd: (() => unknown)[] = [];

test.afterAll = (fn: () => unknown) => void atEnd.unshift(fn);

interface CommandOptions {
  args?: string[];
  stdin?: "null" | "piped" | "inherit";
  stdout?: "null" | "piped" | "inherit";
  stderr?: "null" | "piped" | "inherit";
  cwd?: string;
  env?: Record<string, string>;
  clearEnv?: boolean;
  detached?: boolean;
}

/** Another program; what is not said of its streams is as in Deno. */
class Command {
  readonly #command: string;
  readonly #options: CommandOptions;

  constructor(command: string, options: CommandOptions = {}) {
    this.#command = command;
    this.#options = options;
  }

  #how(otherwise: "piped" | "inherit") {
    const { stdin, stdout, stderr, cwd, env, clearEnv } = this.#options;
    const stdio = [stdin ?? (otherwise === "piped" ? "null" : otherwise)]
      .concat(stdout ?? otherwise, stderr ?? otherwise)
      .map((each) =>
        ({ null: "ignore", piped: "pipe" })[each as string] ?? each
      );
    return {
      stdio: stdio as ("ignore" | "pipe" | "inherit")[],
      cwd,
      env: clearEnv ? env : { ...process.env, ...env },
      detached: this.#options.detached ?? false,
      maxBuffer: 1 << 30,
    };
  }

  outputSync() {
    const { args = [] } = this.#options;
    const out = spawnSync(this.#command, args, this.#how("piped"));
    if (out.error !== undefined) throw out.error;
    return {
      ...statusOf(out.status, out.signal),
      stdout: new Uint8Array(out.stdout ?? []),
      stderr: new Uint8Array(out.stderr ?? []),
    };
  }

  async output() {
    const child = childOf(
      spawn(this.#command, this.#options.args ?? [], this.#how("piped")),
    );
    const [status, stdout, stderr] = await Promise.all([
      child.status,
      bytesFrom(child.stdout),
      bytesFrom(child.stderr),
    ]);
    return { ...status, stdout, stderr };
  }

  spawn() {
    const { args = [] } = this.#options;
    return childOf(spawn(this.#command, args, this.#how("inherit")));
  }
}

function statusOf(code: number | null, signal: string | null) {
  return {
    success: code === 0,
    code: code ?? 128 +
        os.constants.signals[signal as keyof typeof os.constants.signals],
    signal,
  };
}

async function bytesFrom(stream: ReadableStream<Uint8Array> | null) {
  const pieces: Uint8Array[] = [];
  for await (const piece of stream ?? []) pieces.push(piece);
  return new Uint8Array(Buffer.concat(pieces));
}

function childOf(child: ChildProcess) {
  const status = new Promise<ReturnType<typeof statusOf>>((resolve, reject) => {
    child.once("exit", (code, signal) => resolve(statusOf(code, signal)));
    child.once("error", reject);
  });
  status.catch(() => {});
  return {
    pid: child.pid,
    status,
    stdin: child.stdin && Writable.toWeb(child.stdin),
    stdout: child.stdout &&
      Readable.toWeb(child.stdout) as unknown as ReadableStream<Uint8Array>,
    stderr: child.stderr &&
      Readable.toWeb(child.stderr) as unknown as ReadableStream<Uint8Array>,
    kill: (signal?: "SIGTERM" | "SIGKILL") => void child.kill(signal),
    ref: () => child.ref(),
    unref: () => child.unref(),
    async output() {
      const [stdout, stderr, ended] = await Promise.all([
        bytesFrom(this.stdout),
        bytesFrom(this.stderr),
        status,
      ]);
      return { ...ended, stdout, stderr };
    },
    async [Symbol.asyncDispose]() {
      child.kill();
      await status;
    },
  };
}

interface Place {
  transport?: "unix" | "tcp";
  path?: string;
  hostname?: string;
  port?: number;
}

const addressOf = ({ path, hostname = "127.0.0.1", port }: Place) =>
  path !== undefined
    ? { transport: "unix", path } as const
    : { transport: "tcp", hostname, port: port! } as const;

/** A connection as the library makes it, with what Deno's has beside that. */
function connectionOf(stream: Awaited<ReturnType<typeof connectTo>>) {
  return Object.assign(stream, {
    [Symbol.dispose]: () => stream.close(),
    setNoDelay() {},
  });
}

const connect = async (place: Place) =>
  connectionOf(await connectTo(addressOf(place), new AbortController().signal));

function listen(place: Place) {
  const listener = listenAt(addressOf(place));
  const accept = async () => connectionOf(await listener.accept());
  return {
    addr: { ...addressOf(place), port: listener.port },
    accept,
    close: () => listener.close(),
    [Symbol.dispose]: () => listener.close(),
    async *[Symbol.asyncIterator]() {
      try {
        for (;;) yield await accept();
      } catch {
        // It was closed.
      }
    },
  };
}

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
  makeTempFileSync: (options?: { dir?: string; prefix?: string }) => {
    const path = `${temporary(options)}/file`;
    fs.writeFileSync(path, "");
    return path;
  },
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
  Command,
  connect,
  listen,
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
  errors: orNeedsDeno("errors", {
    NotFound: errorOf("ENOENT"),
    AlreadyExists: errorOf("EEXIST"),
    BrokenPipe: errorOf("EPIPE"),
    PermissionDenied: errorOf("EACCES"),
    ConnectionRefused: errorOf("ECONNREFUSED"),
    ConnectionReset: errorOf("ECONNRESET"),
    AddrInUse: errorOf("EADDRINUSE"),
    NotADirectory: errorOf("ENOTDIR"),
  }),
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
export const Deno: unknown = orNeedsDeno("Deno", api);

/** Says of what is not there that it needs Deno. */
function orNeedsDeno<T extends object>(name: string, found: T): T {
  return new Proxy(found, {
    get(target, key) {
      if (key in target) return target[key as keyof T];
      throw new NeedsDeno(`${name}.${String(key)}`);
    },
  });
}

// Node.js has none by that name.
globalThis.Worker ??= class {
  constructor() {
    throw new NeedsDeno("Worker");
  }
} as unknown as typeof Worker;
