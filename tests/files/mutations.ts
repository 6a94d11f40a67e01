/**
 * Damaged file systems by the thousand: small images of several kinds with
 * mistakes in them, drawn from a seed, whose files are listed, read and taken out.
 * Whatever is on the disk, the answer must be files or a typed error, in bounded
 * time and memory.
 *
 * A child process does the work, with 7-Zip in its own thread (`same_thread.ts`);
 * if nothing comes of it for a while, that counts as a mutation that computes for
 * ever, and the next child goes on after it.
 *
 * The long form, for so many mutations or so many seconds, whichever is first:
 *
 * ```sh
 * deno run -A tests/files/mutations.ts 100000 [SEED] [SECONDS]
 * ```
 *
 * @module
 */

import { VirtualDisk } from "@platter/disk";
import {
  extractFiles,
  type FileEntry,
  FileSystemError,
  listFiles,
  readFile,
} from "@platter/disk/files";
import { assertEquals } from "@std/assert";
import { Random } from "../../src/random.ts";
import { run, tempDir } from "../helpers.ts";
import { useImage, useSameThread } from "./same_thread.ts";
import { makeTree } from "./trees.ts";

/** How an image is made: `$1` is a tree, `$2` the image. */
const IMAGES: readonly (readonly [name: string, script: string])[] = [
  [
    "FAT12",
    'truncate -s 96K "$2" && mkfs.vfat "$2" && mcopy -s -i "$2" "$1"/* ::',
  ],
  ["ext2", 'mke2fs -q -t ext2 -N 64 -b 1024 -d "$1" "$2" 192'],
  ["ext4", 'mke2fs -q -t ext4 -O ^has_journal -N 64 -b 1024 -d "$1" "$2" 256'],
  ["SquashFS", 'mksquashfs "$1" "$2" -quiet -no-progress -b 4096 -noI -noD'],
  ["ISO 9660", 'genisoimage -quiet -no-pad -R -J -o "$2" "$1"'],
  ["UDF", 'genisoimage -quiet -no-pad -udf -o "$2" "$1"'],
  ["cpio", 'cd "$1" && find . | cpio -o -H newc --quiet > "$2"'],
];

/** The programs that make the images. */
export const TOOLS: readonly string[] = [
  ...["mkfs.vfat", "mcopy", "mke2fs", "mksquashfs", "genisoimage", "cpio"],
];

/** Numbers that file systems stumble over. */
const NUMBERS = [0, 1, 2, 3, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 2 ** 31, -1];

/** How long nothing may come of one mutation, in ms, on a busy machine. */
const PATIENCE_MS = 120_000;

/** Bytes of a file that are read at most. */
const MOST_READ = 1 << 20;

/** Mutations of one child, whose memory must stay below {@linkcode MOST_MEMORY}. */
const EACH_CHILD = 5000;

/** Bytes: 7-Zip itself may have 2 GiB, for one mutation at a time. */
const MOST_MEMORY = 3 * 2 ** 30;

/** What became of mutations, counted. */
export interface Outcomes {
  /** How many there were. */
  rounds: number;
  /** How many were listed, read, taken out, or refused, by the error's kind. */
  readonly counts: Record<string, number>;
  /** What was neither files nor a typed error, with the seed of each. */
  readonly failures: string[];
}

/** Makes the images in a directory. */
async function makeImages(dir: string): Promise<void> {
  const tree = `${dir}/tree`;
  await makeTree(tree);
  // As little as makes a tree: what there is of it is hit more often then.
  await Deno.writeFile(`${tree}/folder/big.bin`, new Uint8Array(9000).fill(7));
  const plain = `${dir}/plain`;
  await Deno.mkdir(`${plain}/folder/sub`, { recursive: true });
  for (const name of ["hello.txt", "folder/big.bin", "folder/sub/deep.txt"]) {
    await Deno.copyFile(`${tree}/${name}`, `${plain}/${name}`);
  }
  for (const [name, script] of IMAGES) {
    const from = name === "FAT12" ? plain : tree;
    await run("sh", ["-c", script, "sh", from, `${dir}/${name}`]);
  }
}

/** An image, and where there is something in it: that is hit more often. */
interface Original {
  readonly bytes: Uint8Array;
  readonly used: readonly number[];
}

/** Changes an image: a few bytes, numbers or sectors of it, or its end. */
function mutate(random: Random, { bytes, used }: Original): Uint8Array {
  const image = bytes.slice();
  const somewhere = () =>
    random.below(8) === 0
      ? random.below(image.length)
      : used[random.below(used.length)]!;
  const view = new DataView(image.buffer);
  for (let left = 1 + random.below(8); left > 0; left--) {
    const at = somewhere();
    const way = random.below(8);
    if (way < 3) image[at] = random.below(256);
    else if (way === 3) image[at]! ^= 1 << random.below(8);
    else if (way < 6) {
      const place = Math.min(at & ~3, image.length - 4);
      const number = NUMBERS[random.below(NUMBERS.length)]!;
      view.setInt32(place, number, random.below(2) === 0);
    } else {
      // A sector that is lost, or has the content of another one: loops.
      const to = at - at % 512;
      const other = somewhere();
      const from = other - other % 512;
      if (way === 6) image.fill(0, to, to + 512);
      else image.copyWithin(to, from, from + 512);
    }
  }
  const sectors = image.length / 512;
  return random.below(16) > 0
    ? image
    : image.slice(0, 512 * (1 + random.below(sectors)));
}

/**
 * Mutates file systems.
 *
 * @param count How many mutations.
 * @param seed What the first is drawn from; each has the next number.
 * @param seconds Ends earlier after so many.
 * @param progress Told now and then.
 * @returns What became of them.
 */
export async function mutations(
  count: number,
  seed: number,
  seconds = Infinity,
  progress: (outcomes: Outcomes) => void = () => {},
): Promise<Outcomes> {
  const end = performance.now() + seconds * 1000;
  const outcomes: Outcomes = { rounds: 0, counts: {}, failures: [] };
  await using dir = await tempDir();
  await makeImages(dir.path);
  while (outcomes.rounds < count && performance.now() < end) {
    const { rounds } = outcomes;
    const most = Math.min(EACH_CHILD, count - rounds);
    await oneChild(dir.path, seed + rounds, most, outcomes, end);
    progress(outcomes);
  }
  return outcomes;
}

/** Runs a child until it has done its part, or nothing comes of it. */
async function oneChild(
  dir: string,
  seed: number,
  count: number,
  outcomes: Outcomes,
  end: number,
): Promise<void> {
  const child = new Deno.Command(Deno.execPath(), {
    args: [
      ...["run", "-A", "--no-check", import.meta.filename!],
      ...["--child", dir, String(seed), String(count)],
    ],
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const complaints = new Response(child.stderr).text();
  const lines = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  let done = 0;
  let rest = "";
  let isLate = false;
  const kill = () => {
    try {
      child.kill("SIGKILL");
    } catch {
      // It has ended.
    }
  };
  for (;;) {
    const timer = setTimeout(() => {
      isLate = true;
      kill();
    }, PATIENCE_MS);
    const { value = "", done: isEnd } = await lines.read();
    clearTimeout(timer);
    if (isEnd) break;
    const texts = (rest + value).split("\n");
    rest = texts.pop()!;
    for (const text of texts) {
      const [outcome, failure] = JSON.parse(text) as [string, string?];
      outcomes.counts[outcome] = (outcomes.counts[outcome] ?? 0) + 1;
      if (failure !== undefined) {
        outcomes.failures.push(`seed ${seed + done}: ${failure}`);
      }
      done++;
    }
    if (performance.now() > end && done < count) {
      kill();
      break;
    }
  }
  await lines.cancel();
  const { success } = await child.status;
  const said = await complaints;
  if (isLate) {
    outcomes.failures.push(`seed ${seed + done} computes for ever`);
    done++;
  } else if (!success && performance.now() < end) {
    outcomes.failures.push(`seed ${seed + done} ended the process: ${said}`);
    done++;
  }
  outcomes.rounds += done;
}

/** What a child does: a line for each mutation. */
async function beChild(dir: string, seed: number, count: number) {
  await useSameThread();
  const images = IMAGES.map(([name]) => {
    const bytes = Deno.readFileSync(`${dir}/${name}`);
    const whole = new Uint8Array(Math.ceil(bytes.length / 512) * 512);
    whole.set(bytes);
    const used = Array.from(whole.keys()).filter((at) => whole[at] !== 0);
    return { bytes: whole, used };
  });
  for (let round = seed; round < seed + count; round++) {
    // Of its own, so that one can be seen again without those before it.
    const random = new Random(round);
    const image = mutate(random, images[round % images.length]!);
    let line: [string, string?];
    try {
      line = [await useFiles(image, random, `${dir}/out`)];
    } catch (error) {
      line = error instanceof FileSystemError
        ? [error.kind]
        : ["failed", `${IMAGES[round % images.length]![0]}: ${error}`];
    }
    const { rss } = Deno.memoryUsage();
    if (rss > MOST_MEMORY) line = ["memory", `${rss} bytes`];
    console.log(JSON.stringify(line));
  }
}

/** Lists the files of an image; reads or takes out some. */
async function useFiles(
  image: Uint8Array,
  random: Random,
  out: string,
): Promise<string> {
  useImage(image);
  await using disk = VirtualDisk.memory({ sectors: image.length / 512 });
  await disk.write(0, image);
  const files: FileEntry[] = [];
  for await (const entry of listFiles(disk)) {
    if (entry.type === "file" && files.length < 1000) files.push(entry);
  }
  const way = random.below(8);
  if (files.length === 0 || way > 2) return "listed";
  if (way === 0) return await takeOut(disk, files, out);
  const { path, size } = files[random.below(files.length)]!;
  const bytes = await readFile(disk, path, { maxBytes: MOST_READ });
  assertEquals(bytes.length, size);
  return "read";
}

/** Takes small files out; what is there then must be what is said. */
async function takeOut(
  disk: VirtualDisk,
  files: readonly FileEntry[],
  out: string,
): Promise<string> {
  const small = files.filter(({ size }) => size <= MOST_READ);
  if (small.length === 0) return "listed";
  try {
    const paths = small.map(({ path }) => path);
    const { files, bytes } = await extractFiles(disk, out, { paths });
    assertEquals(contentOf(out), { files, bytes });
  } finally {
    await Deno.remove(out, { recursive: true }).catch(() => {});
  }
  return "taken out";
}

/** Counts the files below a directory. */
function contentOf(path: string): { files: number; bytes: number } {
  const { isFile, isDirectory, size } = Deno.lstatSync(path);
  if (!isDirectory) return { files: Number(isFile), bytes: isFile ? size : 0 };
  const sum = { files: 0, bytes: 0 };
  for (const { name } of Deno.readDirSync(path)) {
    const { files, bytes } = contentOf(`${path}/${name}`);
    sum.files += files;
    sum.bytes += bytes;
  }
  return sum;
}

if (import.meta.main && Deno.args[0] === "--child") {
  const [, dir, seed, count] = Deno.args;
  await beChild(dir!, Number(seed), Number(count));
} else if (import.meta.main) {
  const [count = 1000, seed = Date.now() % 2 ** 31, seconds] = Deno.args.map(
    Number,
  );
  console.log(`seed ${seed}`);
  const began = performance.now();
  const { failures } = await mutations(count, seed, seconds, (outcomes) => {
    const { rounds, counts, failures } = outcomes;
    const spent = Math.round((performance.now() - began) / 1000);
    console.log(
      `${rounds} in ${spent} s: ${
        JSON.stringify(counts)
      }, ${failures.length} failed`,
    );
  });
  for (const failure of failures.slice(0, 50)) console.error(failure);
  if (failures.length > 0) Deno.exit(1);
}
