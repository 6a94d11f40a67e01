/**
 * Programs of the system that the stages need: where they are, in which package
 * of Debian, and what they say.
 *
 * @module
 */

import fs from "node:fs/promises";
import process from "node:process";

/** A program that did not do what it had to, or is not there. */
export class ProgramError extends Error {
  /** Always `"ProgramError"`. */
  override readonly name = "ProgramError";
}

/**
 * Where programs are looked for: administrators' are not in everybody's path.
 *
 * @returns Folders, for `PATH`.
 */
export function searchPath(): string {
  const path = process.env.PATH ?? "/usr/local/bin:/usr/bin:/bin";
  return `${path}:/usr/local/sbin:/usr/sbin:/sbin`;
}

/**
 * Looks for a program.
 *
 * @param name Its name.
 * @returns Its path; `null` if there is none.
 */
export async function findProgram(name: string): Promise<string | null> {
  for (const folder of searchPath().split(":")) {
    if (folder === "") continue;
    try {
      const path = `${folder}/${name}`;
      const stat = await fs.stat(path);
      if (stat.isFile() && (stat.mode & 0o111) !== 0) return path;
    } catch (error) {
      const { code } = error as { code?: unknown };
      if (!["ENOENT", "ENOTDIR", "EACCES"].includes(String(code))) throw error;
    }
  }
  return null;
}

/**
 * Runs a program of the system, in a session of its own: Ctrl-C is for this
 * process to hear.
 *
 * @param name The program.
 * @param args Its arguments.
 * @returns What it printed to its standard output.
 * @throws {ProgramError} If it is not there or fails: with what it complained of.
 */
export async function runProgram(
  name: string,
  args: readonly string[],
): Promise<string> {
  const path = await findProgram(name);
  if (path === null) {
    throw new ProgramError(`Cannot run ${name} as there is no such program`);
  }
  const { success, code, stdout, stderr } = await new Deno.Command(path, {
    args: [...args],
    env: { PATH: searchPath(), LC_ALL: "C" },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
    detached: true,
  }).output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes).trim();
  if (success) return text(stdout);
  throw new ProgramError(
    `Cannot run ${name} ${args.join(" ")} as it exits with ${code}: ${
      text(stderr) || text(stdout)
    }`,
  );
}

/** A thing that has to be there: a program, a right, a device. */
export interface Need {
  /** What it is called, such as `"losetup"`. */
  readonly what: string;
  /** The package of Debian that has it; `null` if none has. */
  readonly from: string | null;
  /**
   * Finds out whether it is there.
   *
   * @returns Whether.
   */
  isThere(): Promise<boolean>;
}

/**
 * The need for a program.
 *
 * @param name The program.
 * @param from The package of Debian that has it; `null` if that is not known.
 * @returns The need.
 */
export function program(name: string, from: string | null): Need {
  return {
    what: name,
    from,
    isThere: async () => await findProgram(name) !== null,
  };
}

/**
 * Finds out whether all of it is there.
 *
 * @param purpose What it is for, such as `"use stage host"`.
 * @param needs What must be there.
 * @returns If it is.
 * @throws {ProgramError} If anything is missing: names all of it.
 */
export async function requireAll(
  purpose: string,
  needs: readonly Need[],
): Promise<void> {
  const missing: string[] = [];
  for (const need of needs) {
    if (await need.isThere()) continue;
    missing.push(
      need.from === null ? need.what : `${need.what} (package ${need.from})`,
    );
  }
  if (missing.length === 0) return;
  throw new ProgramError(
    `Cannot ${purpose} as there is something missing: ${missing.join(", ")}`,
  );
}
