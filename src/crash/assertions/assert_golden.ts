/**
 * The assertion that a disk holds what a golden image says, which is made and
 * brought up to date by the test itself, as `@std/testing/snapshot` does it.
 *
 * @module
 */

import { mkdir, readFile } from "node:fs/promises";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { programArguments } from "../../platform/terminal.ts";
import { replaceFile } from "../../backends/replace_file.ts";
import { VirtualDisk } from "../../disk/disk.ts";
import { SECTOR_BYTES } from "../../geometry.ts";
import { printable } from "../../printable.ts";
import { DiskAssertionError } from "../../testing/assert_sectors.ts";
import {
  formatGolden,
  GOLDEN_START,
  type GoldenImage,
  openGolden,
  parseGolden,
} from "../../testing/golden_image.ts";
import { ImageRanges } from "../../testing/image_range.ts";
import {
  assertDisksEqual,
  type AssertDisksOptions,
} from "./assert_disks_equal.ts";

/** How to compare with a golden image. */
export interface AssertGoldenOptions extends AssertDisksOptions {
  /**
   * Whether to compare, or to write the golden image anew; by default the
   * arguments of the test run say it: `deno test -A -- --update` (or `-u`).
   */
  mode?: "assert" | "update" | undefined;
}

/**
 * Asserts that a disk holds what a golden image says.
 *
 * The golden image is a text with the blocks that are not zeroes, compressed, a
 * line for each: keep it in version control, beside the test. It is made, and
 * made anew, by `deno test -A -- --update`; look at what changed before it is
 * committed. What is ignored is not kept.
 *
 * @param disk The disk.
 * @param path The file of the golden image; `new URL("golden/fresh.txt",
 * import.meta.url)` is beside the test.
 * @param options What may differ, and what to show.
 * @returns When it was read and is right, or the golden image was written.
 * @throws {DiskAssertionError} If it differs, or there is no golden image yet.
 * @throws {TypeError} If the file is no golden image; it stays as it is.
 * @throws {RangeError} If more than 256 MiB of the disk are not zeroes.
 * @throws {DiskError} If the disk fails.
 *
 * @example
 * ```ts
 * import { VirtualDisk } from "@platter/disk";
 * import { assertGolden } from "@platter/disk/testing";
 * import { assertRejects } from "@std/assert";
 *
 * const golden = `${await Deno.makeTempDir()}/fresh.txt`;
 * await using disk = VirtualDisk.memory({ size: "1MiB" });
 * await disk.write(8, new Uint8Array(512).fill(7));
 * await assertGolden(disk, golden, { mode: "update" }); // or by -- --update
 * await assertGolden(disk, golden);
 * await disk.write(9, new Uint8Array(512).fill(7));
 * await assertRejects(() => assertGolden(disk, golden), Error, "sector 9");
 * ```
 */
export async function assertGolden(
  disk: VirtualDisk,
  path: string | URL,
  options: AssertGoldenOptions = {},
): Promise<void> {
  const { mode = wantsUpdate() ? "update" : "assert", ...compare } = options;
  const file = path instanceof URL ? fileURLToPath(path) : path;
  const golden = await read(file);
  if (mode === "update") return await update(disk, file, golden, compare);
  if (golden === null) {
    throw new DiskAssertionError(
      `There is no golden image ${
        JSON.stringify(printable(file, 500))
      } yet: make it by "deno test -A -- --update"`,
      [],
    );
  }
  await using expected = await openGolden(golden);
  try {
    await assertDisksEqual(disk, expected, compare);
  } catch (error) {
    if (!(error instanceof DiskAssertionError)) throw error;
    throw new DiskAssertionError(
      `${error.message}\nIf that is right, make the golden image anew by "deno test -A -- --update"`,
      error.sectors,
    );
  }
}

async function update(
  disk: VirtualDisk,
  file: string,
  old: GoldenImage | null,
  { ignore = [] }: AssertDisksOptions,
): Promise<void> {
  const resized = VirtualDisk.resized([disk]);
  if (resized !== null) await resized;
  const ignored = new ImageRanges(ignore, disk.sectors, "ignore");
  const hide = (sector: number, bytes: Uint8Array) => {
    for (
      const hidden of ignored.within(sector, bytes.length / SECTOR_BYTES)
    ) {
      const from = (hidden.sector - sector) * SECTOR_BYTES;
      bytes.fill(0, from, from + hidden.count * SECTOR_BYTES);
    }
  };
  const text = await formatGolden(disk, hide, old);
  await mkdir(dirname(file), { recursive: true });
  await replaceFile(file, text);
}

/** The golden image in a file; `null` if there is none. */
async function read(file: string): Promise<GoldenImage | null> {
  let text: string;
  try {
    text = await readFile(file, "utf8");
  } catch (error) {
    if ((error as { code?: unknown }).code === "ENOENT") return null;
    throw error;
  }
  if (!text.startsWith(GOLDEN_START)) {
    throw new TypeError(
      `Cannot use ${
        JSON.stringify(printable(file, 500))
      } as a golden image as it must begin with "${GOLDEN_START.trim()}"`,
    );
  }
  return parseGolden(text);
}

/** Whether the test run was asked to, in the words of `@std/testing/snapshot`. */
function wantsUpdate(): boolean {
  return programArguments().some((arg) => arg === "--update" || arg === "-u");
}
