/**
 * Programs of the system that can tell what is on an image.
 *
 * @module
 */

import { findProgram } from "../../programs.ts";

/** How long such a program may take, in milliseconds. */
const TIMEOUT_MS = 30_000;

/** A program that is not there: its name, and the Debian package that has it. */
export class MissingTool extends Error {
  /** Always `"MissingTool"`. */
  override readonly name = "MissingTool";

  /**
   * Constructs a new instance.
   *
   * @param tool The program.
   * @param debianPackage What brings it.
   */
  constructor(tool: string, debianPackage: string) {
    super(`${tool} is missing (Debian package ${debianPackage})`);
  }
}

/** A program took too long. */
export class ToolTimeout extends Error {
  /** Always `"ToolTimeout"`. */
  override readonly name = "ToolTimeout";

  /**
   * Constructs a new instance.
   *
   * @param tool The program.
   */
  constructor(tool: string) {
    super(`${tool} took longer than ${TIMEOUT_MS / 1000} s`);
  }
}

/**
 * Runs a program that only looks at files of ours.
 *
 * @param tool Its name.
 * @param debianPackage What brings it.
 * @param args Its arguments.
 * @returns What it printed to its standard output, whatever it exited with.
 * @throws {MissingTool} If it is not there.
 * @throws {ToolTimeout} If it takes too long; it is ended then.
 */
export async function runTool(
  tool: string,
  debianPackage: string,
  ...args: string[]
): Promise<string> {
  const path = await findProgram(tool);
  if (path === null) throw new MissingTool(tool, debianPackage);
  const { signal, stdout } = await new Deno.Command(path, {
    args,
    env: { LC_ALL: "C" },
    stdin: "null",
    stdout: "piped",
    stderr: "null",
    signal: AbortSignal.timeout(TIMEOUT_MS),
  }).output();
  if (signal !== null) throw new ToolTimeout(tool);
  return new TextDecoder().decode(stdout);
}
