/**
 * What the tests of the engines share: which there are, slow and failing disks,
 * programs of their own, with some system calls answered in the kernel's place.
 *
 * @module
 */

import { openLibc } from "../../../ffi/libc.ts";
import { openDirect } from "../../../src/backends/direct/mod.ts";
import { AioQueue } from "../../../src/engines/aio_queue.ts";
import type { DirectBackend } from "../../../src/backends/direct/backend.ts";
import type { EngineName } from "../../../src/engines/choose_engine.ts";
import { IoUringQueue } from "../../../src/engines/io_uring_queue.ts";
import { run, tempDir } from "../../helpers.ts";

/** Every engine. */
export const ENGINES = ["io_uring", "libaio", "sync"] as const;

/** The engines that have requests in flight. */
export const ASYNC_ENGINES = ["io_uring", "libaio"] as const;

const found = new Map<EngineName, boolean>();

/** Whether an engine is to be had here; containers often have no io_uring. */
export function hasEngine(name: EngineName): boolean {
  let has = found.get(name);
  if (has === undefined) {
    has = Deno.build.os === "linux" && tries(name);
    found.set(name, has);
  }
  return has;
}

function tries(name: EngineName): boolean {
  const queue = openQueue(name);
  if (typeof queue === "string") {
    console.warn(`Some tests are skipped as ${queue}`);
    return false;
  }
  queue?.close();
  return true;
}

function openQueue(name: EngineName) {
  switch (name) {
    case "io_uring":
      return IoUringQueue.open(openLibc(), 4);
    case "libaio":
      return AioQueue.open(openLibc(), 4);
    case "iocp":
      return "only Windows has completion ports";
    case "auto":
    case "sync":
      return null;
  }
}

/**
 * Whether direct I/O is to be had where tests have their images: on tmpfs, btrfs
 * and others it is not.
 */
export async function hasDirect(): Promise<boolean> {
  await using dir = await tempDir();
  const disk = await openWith(await dir.file("disk.img", 65_536), "sync", 1);
  const { active, reason } = disk.info.direct;
  await disk.close();
  if (!active) console.warn(`Some tests are skipped as ${reason}`);
  return active;
}

/** Opens an image with an engine, of which so much may be in flight. */
export function openWith(
  path: string,
  engine: EngineName,
  depth: number,
  options: Partial<Parameters<typeof openDirect>[1]> = {},
): Promise<DirectBackend> {
  return openDirect(path, {
    readOnly: false,
    direct: "prefer",
    lock: "auto",
    engine: { engine, depth, stallMs: 0.1, pollMs: 0.1 },
    ...options,
  });
}

/** A file whose reads and writes a program carries out. */
export interface ServedFile extends AsyncDisposable {
  /** Its path. */
  readonly path: string;
  /** The file in which its content really is. */
  readonly behind: string;
}

/** What {@linkcode slowFile} and its like need. */
export const SERVED_TOOLS = ["root", "nbdkit", "nbdfuse", "fusermount3"];

/**
 * A file that takes its time.
 *
 * @param content What is in it.
 * @param delayMs How long each read and each write takes, in ms.
 */
export function slowFile(
  content: Uint8Array,
  delayMs: number,
): Promise<ServedFile> {
  return served(content, (behind) => [
    ...["--filter=delay", "file", behind, "cache=none"],
    ...[`rdelay=${delayMs}ms`, `wdelay=${delayMs}ms`],
  ]);
}

/**
 * A file of which some bytes can be neither read nor written: EIO.
 *
 * @param content What is in it.
 * @param bad Where these bytes are.
 */
export function failingFile(
  content: Uint8Array,
  bad: readonly number[],
): Promise<ServedFile> {
  return served(content, (behind) => {
    // $3 is the count, $4 the offset: nbdkit-eval-plugin(1).
    const fails = bad.map((at) =>
      `if [ $4 -le ${at} ] && [ $(($4 + $3)) -gt ${at} ]; then echo EIO >&2; exit 1; fi;`
    ).join(" ");
    return [
      ...["eval", `get_size=echo ${content.length}`, "can_write=exit 0"],
      ...["thread_model=echo parallel", "can_flush=exit 0", "flush=exit 0"],
      `pread=${fails} dd if=${behind} iflag=count_bytes,skip_bytes skip=$4 count=$3 status=none`,
      `pwrite=${fails} dd of=${behind} oflag=seek_bytes seek=$4 conv=notrunc status=none`,
    ];
  });
}

/** A file whose reads and writes wait for as long as they are told to. */
export interface HeldFile extends ServedFile {
  /** Has them wait from now on. */
  hold(): Promise<void>;
  /** Has them go on. */
  letGo(): Promise<void>;
}

/**
 * A file that can be held up.
 *
 * @param content What is in it.
 */
export async function heldFile(content: Uint8Array): Promise<HeldFile> {
  const control = (behind: string) => `${behind}.control`;
  const file = await served(content, (behind) => [
    ...["--filter=pause", "file", behind, "cache=none"],
    `pause-control=${control(behind)}`,
  ]);
  const tell = async (word: string) => {
    using conn = await Deno.connect({
      transport: "unix",
      path: control(file.behind),
    });
    await conn.write(new TextEncoder().encode(word));
    // It says so once it holds: nbdkit-pause-filter(1).
    const said = new Uint8Array(1);
    await conn.read(said);
    if (new TextDecoder().decode(said) !== word.toUpperCase()) {
      throw new Error(`Cannot hold a file up as nbdkit says ${said}`);
    }
  };
  return {
    path: file.path,
    behind: file.behind,
    hold: () => tell("p"),
    letGo: () => tell("r"),
    async [Symbol.asyncDispose]() {
      await tell("r");
      await file[Symbol.asyncDispose]();
    },
  };
}

/** Serves a file with nbdkit, and shows it with nbdfuse as a file again. */
async function served(
  content: Uint8Array,
  args: (behind: string) => string[],
): Promise<ServedFile> {
  await using stack = new AsyncDisposableStack();
  const dir = stack.use(await tempDir());
  const behind = await dir.file("behind.img", content);
  const at = dir.join("served");
  await Deno.mkdir(at);
  const path = `${at}/disk.img`;
  const process = new Deno.Command("nbdfuse", {
    args: [path, "[", "nbdkit", "-t", "32", ...args(behind), "]"],
    stdin: "null",
    stdout: "null",
    stderr: "null",
  }).spawn();
  let ended = false;
  const status = process.status.finally(() => ended = true);
  stack.defer(async () => {
    // What is still open is taken away as well.
    if (!ended) await run("fusermount3", ["-u", "-z", at]);
    await status;
  });
  const size = () => Deno.statSync(path).size;
  for (;;) {
    if (ended) throw new Error("Cannot serve a file as nbdfuse ended");
    try {
      if (size() === content.length) break;
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  const kept = stack.move();
  return { path, behind, [Symbol.asyncDispose]: () => kept.disposeAsync() };
}

/** Waits. */
export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** How a program is run. */
export interface ProgramOptions {
  /** Arguments for it; the first is most often a path. */
  args?: string[];
  /** Arguments for Deno. */
  flags?: string[];
  /** System calls that fail, such as `"io_submit:error=EAGAIN:when=2+3"`. */
  inject?: string[];
}

const HEAD = `
import { DiskError, VirtualDisk } from ${
  JSON.stringify(import.meta.resolve("../../../mod.ts"))
};
import { openWith, pause } from ${JSON.stringify(import.meta.url)};
const path = Deno.args[0];
const tell = (error) => error instanceof DiskError
  ? { ...error, message: error.message, path: error.path }
  : { kind: "thrown", message: String(error) };
const attempt = (promise) => Promise.resolve(promise).then(() => null, tell);
void [VirtualDisk, openWith, pause, attempt, path];
`;

/**
 * Runs a program of its own.
 *
 * @param body What it does; it returns plain data.
 * @returns What it returned.
 * @throws If it does not end well.
 */
export async function program<T>(
  body: string,
  options: ProgramOptions = {},
): Promise<T> {
  const { args = [], flags = [], inject = [] } = options;
  await using dir = await tempDir();
  const script = dir.join("script.ts");
  await Deno.writeTextFile(
    script,
    `${HEAD}\nconst result = await (async () => {${body}})();\n` +
      `console.log(JSON.stringify(result ?? null));\n`,
  );
  const command = [
    ...[Deno.execPath(), "run", "--quiet", "--no-check", "-A"],
    ...[...flags, script, ...args],
  ];
  if (inject.length > 0) {
    const names = inject.map((one) => one.slice(0, one.indexOf(":")));
    command.unshift(
      ...["strace", "-f", "-qq", "--seccomp-bpf", "-o", "/dev/null"],
      ...["-e", `trace=${[...new Set(names)].join(",")}`],
      ...inject.flatMap((one) => ["-e", `inject=${one}`]),
    );
  }
  return JSON.parse(await run(command[0]!, command.slice(1))) as T;
}
