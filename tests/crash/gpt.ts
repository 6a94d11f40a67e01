/**
 * Adding a partition to a GPT disk that has one.
 *
 * @module
 */

import type { CrashTestOptions } from "../../src/crash/crash_test_options.ts";

/**
 * The test of a program that does it.
 *
 * @param program The program.
 * @returns The test.
 */
export function gptTest(program: "sgdisk" | "sfdisk"): CrashTestOptions {
  return {
    size: "64MiB",
    prepare: 'printf "label: gpt\nsize=1MiB\n" | sfdisk -q "$PLATTER_IMAGE"',
    run: `${
      program === "sgdisk"
        ? 'sgdisk -n 2:0:0 "$PLATTER_IMAGE"'
        : 'echo size=8MiB | sfdisk -q --append "$PLATTER_IMAGE"'
    } && echo ACK added`,
    check: `sfdisk --dump "$PLATTER_IMAGE" > "$PLATTER_ACKED.found" 2>&1
      has() { grep -q "$1" "$PLATTER_ACKED.found" || { echo "no $2"; exit 1; }; }
      has "label: gpt" GPT
      has disk.img1 "partition 1"
      if grep -q added "$PLATTER_ACKED"; then has disk.img2 "partition 2"; fi`,
    maxStates: 500,
  };
}
