/** Stands in for `jsr:@std/cli`: see std/README.md. @module */

export * from "./parse_args.ts";
export * from "./prompt_secret.ts";
