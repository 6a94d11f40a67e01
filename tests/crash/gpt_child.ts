/**
 * Adds a partition by the program that is named, and prints the report of what a
 * power cut may leave of the table: for a process of another user. Imports
 * nothing but this repository, so that it needs no configuration.
 *
 * @module
 */

import { runCrashTest } from "../../src/crash/run_crash_test.ts";
import { gptTest } from "./gpt.ts";

const report = await runCrashTest(gptTest(Deno.args[0] as "sgdisk" | "sfdisk"));
console.log(JSON.stringify({ user: Deno.uid(), report }));
