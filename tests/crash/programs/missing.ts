/**
 * What a program of `programs.ts` needs and this machine does not have.
 *
 * @module
 */

import { hasTool, isRoot } from "../../helpers.ts";
import type { Program } from "./programs.ts";

/**
 * Looks for what a program needs.
 *
 * @param program The program.
 * @returns What is missing: names of programs, paths, `"root"`.
 */
export function missingOf({ tools, files = [] }: Program): string[] {
  return [
    ...tools.filter((tool) => tool === "root" ? !isRoot() : !hasTool(tool)),
    ...files.filter((path) => !exists(path)),
  ];
}

function exists(path: string): boolean {
  try {
    Deno.statSync(path);
    return true;
  } catch {
    return false;
  }
}
