/**
 * Has Node.js load tests as `transform.ts` says: `node --import`.
 *
 * @module
 */

import { registerHooks } from "node:module";
import { TESTS, transform } from "./transform.ts";

registerHooks({
  load(url, context, next) {
    const loaded = next(url, context);
    if (!TESTS.test(url) || !loaded.source) return loaded;
    return { ...loaded, source: transform(String(loaded.source)) };
  },
});
