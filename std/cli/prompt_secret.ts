/** Stands in for `jsr:@std/cli/prompt-secret`: see std/README.md. @module */

// @ts-types="./prompt_secret.d.ts"
export * from "npm:deno-std@^1.4.0/cli/prompt_secret.js";
