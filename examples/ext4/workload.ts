/**
 * What a program does to a file system that it wants to trust: each step ends
 * with the `fsync()` of all that it changed. What is there after a step, and
 * what may be there in the middle of it, is known beforehand.
 *
 * @module
 */

import { Random } from "@platter/disk/testing";
import { Buffer } from "node:buffer";

/** Paths from the root without a leading `/`: bytes of a file; `null` is a folder. */
export type Tree = ReadonlyMap<string, Uint8Array | null>;

/** One step. */
export interface Step {
  /** What it does. */
  readonly text: string;
  /** What is there before. */
  readonly before: Tree;
  /** What is there after. */
  readonly after: Tree;
  /** Whether there is nothing in between. */
  readonly atomic: boolean;
  /** Does it, in a file system mounted at this path. */
  readonly act: (root: string) => Promise<void>;
}

/** What nobody promised anything of. */
export const SCRATCH = "scratch";

/** A file is found with sectors of before and of after, no smaller parts. */
const SECTOR_BYTES = 512;

/**
 * The steps.
 *
 * @param seed What the content of files is drawn from.
 * @param rounds How often all of it is done, each time in a folder of its own.
 * @returns The steps, in order.
 */
export function makeSteps(seed: number, rounds: number = 1): Step[] {
  const random = new Random(seed);
  const steps: Step[] = [];
  let tree: Tree = new Map();
  const add = (
    text: string,
    change: (after: Map<string, Uint8Array | null>) => void,
    act: (root: string) => Promise<void>,
    atomic = false,
  ) => {
    const after = new Map(tree);
    change(after);
    steps.push({ text, before: tree, after, atomic, act });
    tree = after;
  };
  const data = (length: number) => {
    // No zeroes: those are what is found where nothing was written.
    const bytes = new Uint8Array(length);
    for (let i = 0; i < length; i++) bytes[i] = 1 + random.below(255);
    return bytes;
  };
  const bytesOf = (path: string) => tree.get(path)!;

  const makeFolder = (path: string) =>
    add(
      `make the folder ${path}`,
      (after) => after.set(path, null),
      async (root) => {
        await Deno.mkdir(`${root}/${path}`);
        await syncFolderOf(root, path);
      },
      true,
    );
  const removeFolder = (path: string) =>
    add(
      `remove the folder ${path}`,
      (after) => after.delete(path),
      async (root) => {
        await Deno.remove(`${root}/${path}`);
        await syncFolderOf(root, path);
      },
      true,
    );
  const create = (length: number, ...paths: string[]) => {
    const files = paths.map((path) => ({ path, bytes: data(length) }));
    add(
      `create ${paths.join(", ")} of ${length} bytes`,
      (after) => files.forEach(({ path, bytes }) => after.set(path, bytes)),
      async (root) => {
        await Promise.all(files.map(async ({ path, bytes }) => {
          using file = await Deno.open(`${root}/${path}`, {
            write: true,
            createNew: true,
          });
          await writeAll(file, bytes);
          await file.sync();
        }));
        for (const path of paths) await syncFolderOf(root, path);
      },
    );
  };
  const append = (path: string, length: number, gap = 0) => {
    const bytes = data(length);
    const old = bytesOf(path)!;
    const whole = new Uint8Array(old.length + gap + length);
    whole.set(old);
    whole.set(bytes, old.length + gap);
    const after = gap === 0 ? "" : ` after a gap of ${gap}`;
    add(
      `append ${length} bytes to ${path}${after}`,
      (after) => after.set(path, whole),
      async (root) => {
        using file = await Deno.open(`${root}/${path}`, { write: true });
        await file.seek(old.length + gap, Deno.SeekMode.Start);
        await writeAll(file, bytes);
        // The size is what fdatasync() has to make durable, too.
        await file.syncData();
      },
    );
  };
  const overwrite = (path: string, offset: number, length: number) => {
    const bytes = data(length);
    const whole = bytesOf(path)!.slice();
    whole.set(bytes, offset);
    add(
      `overwrite ${length} bytes of ${path} from ${offset}`,
      (after) => after.set(path, whole),
      async (root) => {
        using file = await Deno.open(`${root}/${path}`, { write: true });
        await file.seek(offset, Deno.SeekMode.Start);
        await writeAll(file, bytes);
        await file.syncData();
      },
    );
  };
  const truncate = (path: string, length: number) => {
    const old = bytesOf(path)!;
    const whole = new Uint8Array(length);
    whole.set(old.subarray(0, length));
    add(
      `truncate ${path} from ${old.length} to ${length} bytes`,
      (after) => after.set(path, whole),
      async (root) => {
        using file = await Deno.open(`${root}/${path}`, { write: true });
        await file.truncate(length);
        await file.sync();
      },
    );
  };
  const rename = (from: string, to: string) =>
    add(
      `rename ${from} to ${to}${tree.has(to) ? ", which is replaced" : ""}`,
      (after) => {
        for (const [path, bytes] of tree) {
          if (path !== from && !path.startsWith(`${from}/`)) continue;
          after.delete(path);
          after.set(`${to}${path.slice(from.length)}`, bytes);
        }
      },
      async (root) => {
        await Deno.rename(`${root}/${from}`, `${root}/${to}`);
        await syncFolderOf(root, to);
        if (folderOf(from) !== folderOf(to)) await syncFolderOf(root, from);
      },
      true,
    );
  const link = (from: string, to: string) =>
    add(
      `link ${from} as ${to}`,
      (after) => after.set(to, bytesOf(from)),
      async (root) => {
        await Deno.link(`${root}/${from}`, `${root}/${to}`);
        await syncFolderOf(root, to);
      },
      true,
    );
  const unlink = (...paths: string[]) =>
    add(
      `unlink ${paths.join(", ")}`,
      (after) => paths.forEach((path) => after.delete(path)),
      async (root) => {
        for (const path of paths) await Deno.remove(`${root}/${path}`);
        for (const path of paths) await syncFolderOf(root, path);
      },
    );

  for (let round = 1; round <= rounds; round++) {
    const root = `round${round}`;
    makeFolder(root);
    create(6000, `${root}/log`);
    makeFolder(`${root}/box`);
    append(`${root}/log`, 5000);
    create(900, `${root}/box/a`, `${root}/box/b`, `${root}/box/c`);
    create(20_000, `${root}/box/settings.new`);
    rename(`${root}/box/settings.new`, `${root}/box/settings`);
    append(`${root}/log`, 300);
    create(9000, `${root}/box/settings.new`);
    rename(`${root}/box/settings.new`, `${root}/box/settings`);
    truncate(`${root}/log`, 2500);
    overwrite(`${root}/box/settings`, 3000, 5000);
    unlink(`${root}/box/b`);
    link(`${root}/box/a`, `${root}/kept`);
    makeFolder(`${root}/box/deep`);
    create(150_000, `${root}/box/deep/large`);
    unlink(`${root}/box/a`);
    rename(`${root}/box/c`, `${root}/box/deep/moved`);
    append(`${root}/kept`, 2000, 70_000);
    truncate(`${root}/box/deep/large`, 10_000);
    truncate(`${root}/box/deep/large`, 30_000);
    rename(`${root}/box/deep`, `${root}/deep`);
    create(40, `${root}/box/x`, `${root}/box/y`);
    unlink(`${root}/box/x`, `${root}/box/y`, `${root}/box/settings`);
    removeFolder(`${root}/box`);
    append(`${root}/log`, 60_000);
  }
  return steps;
}

/**
 * Uses the file system beside the steps, and never asks for anything to be
 * durable: the steps' own commits take along what is half done here.
 *
 * @param root Where the file system is mounted.
 * @param round Another number each time.
 * @returns When it is done.
 */
export async function scribble(root: string, round: number): Promise<void> {
  const folder = `${root}/${SCRATCH}`;
  await Deno.mkdir(folder, { recursive: true });
  const path = (number: number) => `${folder}/${number % 5}`;
  await Deno.writeFile(path(round), new Uint8Array(5000).fill(1 + round % 255));
  if (round > 2) await Deno.remove(path(round - 2));
}

/**
 * Finds out whether what is there may be there.
 *
 * @param steps The steps.
 * @param done How many of them were done; the next one may have begun.
 * @param found What is there.
 * @throws {Error} If anything is missing, is not what it was, or should not be
 * there.
 */
export function checkTree(
  steps: readonly Step[],
  done: number,
  found: Tree,
): void {
  const before: Tree = done === 0 ? new Map() : steps[done - 1]!.after;
  const next = steps[done];
  const after = next?.after ?? before;
  const problems = problemsOf(found, before, before);
  if (problems.length === 0) return;
  if (next !== undefined) {
    const later = problemsOf(found, next.atomic ? after : before, after);
    if (later.length === 0) return;
    // Of what the step in progress does not touch, all must be there.
    throw new Error(
      `Not what was there after step ${done}, nor what step ${
        done + 1
      } may leave (${next.text}): ${
        (next.atomic ? problems : later).join("; ")
      }`,
    );
  }
  throw new Error(
    `Not what was there after step ${done}, the last one: ${
      problems.join("; ")
    }`,
  );
}

function problemsOf(found: Tree, before: Tree, after: Tree): string[] {
  const problems: string[] = [];
  const paths = new Set([...before.keys(), ...after.keys(), ...found.keys()]);
  for (const path of paths) {
    const problem = problemOf(
      found.get(path),
      before.get(path),
      after.get(path),
    );
    if (problem !== null) problems.push(`${path} ${problem}`);
  }
  return problems;
}

/** What is wrong with one file or folder. */
function problemOf(
  found: Uint8Array | null | undefined,
  before: Uint8Array | null | undefined,
  after: Uint8Array | null | undefined,
): string | null {
  if (found === undefined) {
    return before === undefined || after === undefined ? null : "is missing";
  }
  if (before === undefined && after === undefined) return "should not be there";
  if (found === null) {
    return before === null || after === null ? null : "is a folder";
  }
  const olds = before ?? null;
  const news = after ?? null;
  if (olds === null && news === null) return "is a file";
  if (olds !== null && equal(found, olds)) return null;
  if (news !== null && equal(found, news)) return null;
  if (olds !== news && news !== null && between(found, olds, news)) return null;
  const expected = [olds, news === olds ? null : news].flatMap((bytes) =>
    bytes === null ? [] : [`${bytes.length} bytes`]
  );
  const other = [olds, news].find((bytes) => bytes?.length === found.length);
  const at = other?.findIndex((byte, i) => byte !== found[i]);
  return `has ${found.length} bytes in place of ${expected.join(" or ")}` +
    (at === undefined ? "" : `, not the same from byte ${at} on`);
}

/**
 * Whether a file may be found so while it gets from one content to another: any
 * sector as before or as after, and of what is not common to both, any as
 * zeroes. Those are where a file grew and its bytes did not follow, and also
 * where it is to shrink: ext4 zeroes the rest of the last block before it
 * changes the size, and nobody promised that a truncation is atomic.
 */
function between(
  found: Uint8Array,
  before: Uint8Array | null,
  after: Uint8Array,
): boolean {
  const old = before ?? new Uint8Array();
  const [short, long] = old.length < after.length ? [old, after] : [after, old];
  if (found.length < short.length || found.length > long.length) return false;
  // A file that shrinks has the one size or the other.
  if (
    old === long && found.length !== old.length &&
    found.length !== after.length
  ) return false;
  for (let at = 0; at < found.length;) {
    const common = at < short.length;
    const end = Math.min(
      found.length,
      at - at % SECTOR_BYTES + SECTOR_BYTES,
      common ? short.length : Infinity,
    );
    const part = found.subarray(at, end);
    const may = equal(part, long.subarray(at, end)) ||
      (common
        ? equal(part, short.subarray(at, end))
        : part.every((byte) => byte === 0));
    if (!may) return false;
    at = end;
  }
  return true;
}

function equal(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0;
}

function folderOf(path: string): string {
  return path.includes("/") ? path.slice(0, path.lastIndexOf("/")) : "";
}

/** Makes the names in a folder durable. */
async function syncFolderOf(root: string, path: string): Promise<void> {
  using folder = await Deno.open(`${root}/${folderOf(path)}`, { read: true });
  await folder.sync();
}

async function writeAll(file: Deno.FsFile, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.length;) {
    at += await file.write(bytes.subarray(at));
  }
}
