/** Stands in for `jsr:@std/assert`: see std/README.md. @module */

// @ts-types="./mod.d.ts"
export * from "npm:deno-std@^1.4.0/assert/mod.js";
