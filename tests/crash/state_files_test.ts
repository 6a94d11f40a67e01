import { assertEquals } from "@std/assert";
import { StateFiles } from "../../src/crash/state_files.ts";
import {
  hasTmpfs,
  LONG,
  loopDevice,
  mount,
  needs,
  run,
  type TempDir,
  tempDir,
  tmpfsDir,
} from "../helpers.ts";

const BLOCK = 512;
const SIZE = 1 << 20;

/** An image with data at its beginning, after a hole, and at its end. */
function content(): Uint8Array {
  const bytes = new Uint8Array(SIZE);
  bytes.fill(1, 0, 700);
  bytes.fill(2, 300_000, 500_000);
  bytes.fill(3, SIZE - 512);
  return bytes;
}

async function check(
  dir: TempDir | { join(name: string): string },
  shares: boolean,
) {
  const start = dir.join("start.img");
  await Deno.writeFile(start, content());
  const files = await StateFiles.over(start, BLOCK);
  assertEquals(files.shares, shares);
  const path = dir.join("state.img");
  const blocks = new Map([
    [1, new Uint8Array(BLOCK).fill(7)],
    [2, new Uint8Array(BLOCK).fill(8)],
    [SIZE / BLOCK - 1, new Uint8Array(BLOCK)],
    [200, new Uint8Array(BLOCK).fill(9)],
  ]);
  const expected = content();
  for (const [block, bytes] of blocks) expected.set(bytes, block * BLOCK);
  await files.show(path, blocks);
  assertEquals(await Deno.readFile(path), expected);
  // What a check may do to it: write into holes and data, grow, shrink.
  await Deno.writeFile(path, new Uint8Array(SIZE + 5000).fill(255));
  await files.show(path, new Map());
  assertEquals(await Deno.readFile(path), content());
  await Deno.truncate(path, 10);
  await files.show(path, blocks);
  assertEquals(await Deno.readFile(path), expected);
  assertEquals(await Deno.readFile(start), content());
}

Deno.test(
  "StateFiles.show() makes a state whatever a check did to the file before",
  {
    ignore: !hasTmpfs(),
  },
  async () => {
    await using dir = await tmpfsDir();
    await check(dir, false);
  },
);

Deno.test("StateFiles.show() shares blocks where the file system can", {
  ignore: !LONG || needs("root", "mkfs.xfs", "losetup").ignore,
}, async () => {
  await using dir = await tempDir();
  const image = await dir.file("xfs.img", 400 << 20);
  await run("mkfs.xfs", ["-q", image]);
  await using loop = await loopDevice(image);
  await using xfs = await mount(loop.path, dir.join("mnt"));
  await check(xfs, true);
});
