/**
 * What a file of tests becomes on another runtime: it sees our `Deno`, an
 * `@std/assert` that can be loaded there, and the package by its own name. Lines stay where they are.
 *
 * @module
 */

import process from "node:process";
import config from "../../deno.json" with { type: "json" };

/** Files that are changed. */
export const TESTS: RegExp = /\/tests\/(?!runtimes\/).*\.ts$/;

/**
 * Changes a file of tests.
 *
 * @param source Its source.
 * @returns The changed source.
 */
export function transform(source: string): string {
  const api = new URL("deno_api.ts", import.meta.url).href;
  const assert = new URL(process.env.PLATTER_STD_ASSERT!, "file:").href;
  return `import { Deno } from "${api}";` +
    source.replaceAll('from "@std/assert"', `from "${assert}"`)
      .replaceAll(
        /from "@platter\/disk(\/\w+)?"/g,
        (_, entry = "") => {
          const file =
            config.exports[`.${entry}` as keyof typeof config.exports];
          return `from "${new URL(`../../${file}`, import.meta.url)}"`;
        },
      );
}
