/**
 * Where the numbers were taken: without that they mean nothing.
 *
 * @module
 */

import os from "node:os";

/** A machine, as far as it matters here. */
export interface Machine {
  /** When. */
  readonly date: string;
  /** The processor. */
  readonly cpu: string;
  /** Its cores, as far as this process may use them. */
  readonly cores: number;
  /** Bytes of memory. */
  readonly memoryBytes: number;
  /** The operating system and its version. */
  readonly system: string;
  /** The file system under the images. */
  readonly fileSystem: string;
  /** The block device under that. */
  readonly device: string;
  /** Its logical block size. */
  readonly logicalBlockSize: number | null;
  /** Versions of the contenders; `null` if it is not installed. */
  readonly versions: Readonly<Record<string, string | null>>;
}

/**
 * Looks at this machine.
 *
 * @param directory Where the images are.
 * @returns What it is.
 */
export async function describeMachine(directory: string): Promise<Machine> {
  const [node, fio] = await Promise.all([version("node"), version("fio")]);
  return {
    date: new Date().toISOString().slice(0, 16).replace("T", " ") + " UTC",
    cpu: os.cpus()[0]?.model.trim() ?? Deno.build.arch,
    cores: navigator.hardwareConcurrency,
    memoryBytes: Deno.systemMemoryInfo().total,
    system: `${os.type()} ${Deno.osRelease()} ${Deno.build.arch}`,
    ...await storageOf(directory),
    versions: { deno: Deno.version.deno, node, fio },
  };
}

async function version(command: string): Promise<string | null> {
  try {
    const { stdout } = await new Deno.Command(command, {
      args: ["--version"],
      stdin: "null",
      stderr: "null",
    }).output();
    return new TextDecoder().decode(stdout).trim().replace(/^(v|fio-)/, "");
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
}

type Storage = Pick<Machine, "fileSystem" | "device" | "logicalBlockSize">;

async function storageOf(directory: string): Promise<Storage> {
  const unknown = { fileSystem: "?", device: "?", logicalBlockSize: null };
  if (Deno.build.os !== "linux") return unknown;
  const path = await Deno.realPath(directory);
  const mounts = await Deno.readTextFile("/proc/self/mountinfo");
  // proc_pid_mountinfo(5): 36 35 98:0 /root /mount options … - type source …
  let found = unknown as Storage;
  let longest = -1;
  for (const line of mounts.trimEnd().split("\n")) {
    const [left, right] = line.split(" - ");
    const mount = left!.split(" ")[4]!;
    const inside = mount === "/" || path === mount ||
      path.startsWith(`${mount}/`);
    if (!inside || mount.length < longest) continue;
    longest = mount.length;
    const [fileSystem, device] = right!.split(" ");
    found = {
      fileSystem: fileSystem!,
      device: device!,
      logicalBlockSize: await logicalBlockSize((await Deno.stat(path)).dev),
    };
  }
  return found;
}

async function logicalBlockSize(dev: number): Promise<number | null> {
  // makedev(3) of glibc, as far as 32 bits go.
  const major = (dev >>> 8) & 0xfff;
  const minor = (dev & 0xff) | ((dev >>> 12) & 0xf_ff00);
  // A partition's queue is its disk's.
  for (const queue of ["queue", "../queue"]) {
    try {
      return Number(
        await Deno.readTextFile(
          `/sys/dev/block/${major}:${minor}/${queue}/logical_block_size`,
        ),
      );
    } catch {
      // Not there, or nothing that has one: a network file system, say.
    }
  }
  return null;
}
