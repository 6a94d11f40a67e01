/**
 * Has Bun load tests as `transform.ts` says: `bun --preload`.
 *
 * @module
 */

import fs from "node:fs";
import { TESTS, transform } from "./transform.ts";

interface Plugin {
  name: string;
  setup(build: {
    onLoad(
      match: { filter: RegExp },
      load: (file: { path: string }) => { contents: string; loader: string },
    ): void;
  }): void;
}

const { Bun } = globalThis as unknown as {
  Bun: { plugin(plugin: Plugin): void };
};

Bun.plugin({
  name: "tests",
  setup(build) {
    build.onLoad({ filter: TESTS }, ({ path }) => ({
      contents: transform(fs.readFileSync(path, "utf8")),
      loader: "ts",
    }));
  },
});
