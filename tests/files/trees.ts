/**
 * Trees of files for images, and what there is in a tree, to be compared.
 *
 * @module
 */

import { run } from "../helpers.ts";

/** What is known of one thing in a tree. */
export interface Thing {
  type: string;
  mode?: number;
  modified?: number;
  size?: number;
  hash?: string;
  target?: string;
}

/** A moment that is not now, and has parts of a second. */
const MOMENT = new Date("2001-02-03T04:05:06.789Z");

/** Makes a tree with all that is awkward in names, modes, sizes and links. */
export async function makeTree(path: string): Promise<void> {
  await Deno.mkdir(`${path}/folder/sub`, { recursive: true });
  await Deno.mkdir(`${path}/empty`);
  const big = new Uint8Array(700_001);
  for (let index = 0; index < big.length; index++) big[index] = index * 7 >> 3;
  const files: [string, string | Uint8Array, number][] = [
    ["folder/big.bin", big, 0o644],
    ["folder/sub/deep.txt", "deep\n", 0o640],
    ["hello.txt", "hello\n", 0o755],
    ["nothing", "", 0o600],
    ["ünï and more.txt", "u", 0o644],
    ["sp ace*?.txt", "s", 0o644],
    ["[x]@-i!", "x", 0o444],
    ["- folder", "not what it looks like", 0o644],
    ["esc\x1b[31m", "e", 0o644],
  ];
  for (const [name, content, mode] of files) {
    const bytes = typeof content === "string"
      ? new TextEncoder().encode(content)
      : content;
    await Deno.writeFile(`${path}/${name}`, bytes);
    await Deno.chmod(`${path}/${name}`, mode);
    await Deno.utime(`${path}/${name}`, MOMENT, MOMENT);
  }
  await Deno.symlink("../hello.txt", `${path}/folder/link`);
  await Deno.symlink("folder", `${path}/way`);
  await Deno.symlink("/no/where//else", `${path}/absolute`);
  await Deno.utime(`${path}/empty`, MOMENT, MOMENT);
}

/** What there is in a tree, by path. */
export async function thingsIn(root: string): Promise<Map<string, Thing>> {
  const things = new Map<string, Thing>();
  const visit = async (folder: string) => {
    for await (const { name } of Deno.readDir(`${root}/${folder}`)) {
      const path = `${folder}${name}`;
      const { mode, mtime, isDirectory, isSymlink, size } = await Deno.lstat(
        `${root}/${path}`,
      );
      if (isSymlink) {
        const target = await Deno.readLink(`${root}/${path}`);
        things.set(path, { type: "symlink", target });
        continue;
      }
      const modified = Math.floor(mtime!.getTime() / 1000);
      const known = { mode: mode! & 0o777, modified };
      if (isDirectory) {
        things.set(path, { type: "directory", ...known });
        await visit(`${path}/`);
      } else {
        const hash = await hashOf(await Deno.readFile(`${root}/${path}`));
        things.set(path, { type: "file", ...known, size, hash });
      }
    }
  };
  await visit("");
  return things;
}

/** A hash of bytes. */
export async function hashOf(bytes: Uint8Array): Promise<string> {
  const data = bytes as Uint8Array<ArrayBuffer>;
  return new Uint8Array(await crypto.subtle.digest("SHA-1", data)).toHex();
}

/** One entry of a cpio archive, whose names and modes may be anything. */
export interface CpioEntry {
  name: string;
  mode?: number;
  content?: string;
}

/** Makes a cpio archive: cpio(5), "New ASCII Format"; whole sectors of it. */
export function cpioOf(entries: readonly CpioEntry[]): Uint8Array {
  const encoder = new TextEncoder();
  const parts: Uint8Array[] = [];
  const add = (bytes: Uint8Array) => {
    parts.push(bytes, new Uint8Array((4 - bytes.length % 4) % 4));
  };
  [...entries, { name: "TRAILER!!!" }].forEach((entry: CpioEntry, index) => {
    const name = encoder.encode(`${entry.name}\0`);
    const content = encoder.encode(entry.content ?? "");
    const numbers = [
      ...[index + 1, entry.mode ?? 0o100644, 0, 0, 1, 1_000_000_000],
      ...[content.length, 0, 0, 0, 0, name.length, 0],
    ];
    const hex = numbers.map((it) => it.toString(16).padStart(8, "0")).join("");
    const head = encoder.encode(`070701${hex}`);
    add(new Uint8Array([...head, ...name]));
    add(content);
  });
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  const image = new Uint8Array(Math.ceil(length / 512) * 512);
  let at = 0;
  for (const part of parts) {
    image.set(part, at);
    at += part.length;
  }
  return image;
}

/** Makes an ext file system of a tree. */
export async function makeExt(
  image: string,
  tree: string,
  type = "ext4",
  size = "8M",
  ...options: string[]
): Promise<void> {
  await run("mke2fs", [
    ...["-q", "-t", type, ...options, "-d", tree, image, size],
  ]);
}
