/**
 * What the tests of mounts share: which tools there are, what is mounted, and
 * programs that hold a file.
 *
 * @module
 */

import type { FuseToolName } from "../../src/mount/mod.ts";
import { hasTool, needs } from "../helpers.ts";

/** Whether FUSE may be used here, beside the tools that a test needs. */
export function needsFuse(...tools: string[]): { ignore: boolean } {
  const { ignore } = needs("fusermount3", ...tools);
  if (ignore) return { ignore };
  try {
    Deno.openSync("/dev/fuse", { read: true, write: true }).close();
    return { ignore: false };
  } catch (error) {
    console.warn(`Tests of mounts are skipped as /dev/fuse: ${error}`);
    return { ignore: true };
  }
}

/** The tools that are here. */
export const TOOLS: readonly FuseToolName[] =
  (["nbdfuse", "qemu-storage-daemon"] as const).filter(hasTool);

/** Runs a command line, for at most two minutes, off this thread. */
export async function shell(
  script: string,
  ...args: string[]
): Promise<{ code: number; out: string }> {
  const { code, stdout, stderr } = await new Deno.Command("timeout", {
    args: ["-s", "KILL", "120", "sh", "-c", script, "sh", ...args],
    // In English, as tests look for words.
    env: { PATH: `${Deno.env.get("PATH")}:/usr/sbin:/sbin`, LC_ALL: "C" },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  return { code, out: text(stdout) + text(stderr) };
}

/** Whether anything is mounted there. */
export function isMounted(path: string): boolean {
  return Deno.readTextFileSync("/proc/self/mountinfo").split("\n")
    .some((line) => line.split(" ")[4] === path);
}

/** Waits until something is so. */
export async function until(
  what: string,
  is: () => boolean | Promise<boolean>,
): Promise<void> {
  for (const end = performance.now() + 60_000; !await is();) {
    if (performance.now() > end) throw new Error(`Cannot wait for: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** Whether something is of that name; nothing is asked of what is mounted. */
export function exists(path: string): boolean {
  const [, parent, name] = /^(.*)\/([^/]*)$/.exec(path)!;
  try {
    return [...Deno.readDirSync(parent || "/")].some((it) => it.name === name);
  } catch {
    return false;
  }
}

/** The processes whose command line has something in it. */
export function processesWith(text: string): number[] {
  return [...Deno.readDirSync("/proc")].map(({ name }) => Number(name))
    .filter((pid) => {
      if (!Number.isInteger(pid) || pid === Deno.pid) return false;
      try {
        return Deno.readTextFileSync(`/proc/${pid}/cmdline`).includes(text);
      } catch {
        return false;
      }
    });
}

/** The process of that program among {@linkcode processesWith}. */
export function processOfProgram(program: string, text: string): number {
  const found = processesWith(text).filter((pid) => {
    try {
      const name = Deno.readTextFileSync(`/proc/${pid}/comm`).trim();
      // The kernel keeps 15 characters of a name.
      return name === program.slice(0, 15);
    } catch {
      // It has ended meanwhile.
      return false;
    }
  });
  if (found.length !== 1) {
    throw new Error(`Cannot tell which ${program} it is: ${found.join(", ")}`);
  }
  return found[0]!;
}

/** A program that has a file open for as long as this is. */
export async function holding(path: string): Promise<AsyncDisposable> {
  const child = new Deno.Command("sh", {
    args: ["-c", 'exec 3< "$1"; echo; read -r _', "sh", path],
    stdin: "piped",
    stdout: "piped",
  }).spawn();
  const reader = child.stdout.getReader();
  await reader.read();
  return {
    async [Symbol.asyncDispose]() {
      await child.stdin.close();
      await reader.cancel();
      await child.status;
    },
  };
}
