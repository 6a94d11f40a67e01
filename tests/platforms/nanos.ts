/**
 * The Nanos unikernel under QEMU. Nobody's archive has it: `PLATTER_NANOS` names a
 * folder in which its kernel, boot loader and `mkfs` were built. It runs one program
 * and ends, so each suite is an image and a boot of its own.
 *
 * @module
 */

import { runProgram } from "../../src/crash/programs.ts";
import { needPrograms, REPOSITORY, warmCache } from "./guests.ts";
import { Missing, type Platform, runPlaces } from "./platform.ts";
import type { RunDeno } from "./suites.ts";

/** What of this repository goes there. */
const OURS = [
  ...["src", "ffi", "std", "tests", "examples"],
  ...["mod.ts", "deno.json", "deno.lock"],
];

/** Where Deno's cache is there. */
const CACHE = "/cache";

/** A folder for images there. */
const IMAGES = "/images";

/** What is in a folder: files of this machine, and folders. */
type Tree = { [name: string]: Tree | string };

/** Nanos, if it is told where. */
export const NANOS: readonly Platform[] = [{
  name: "nanos",
  about: "the Nanos unikernel as PLATTER_NANOS has it, QEMU",
  places: ["tfs"],
  async run(run) {
    const built = Deno.env.get("PLATTER_NANOS");
    if (built === undefined) {
      throw new Missing("PLATTER_NANOS names no folder in which it was built");
    }
    await needPrograms("ldd", "qemu-system-x86_64");
    await using stack = new AsyncDisposableStack();
    const directory = await Deno.makeTempDir({
      dir: "/var/tmp",
      prefix: "platter-",
    });
    stack.defer(() => Deno.remove(directory, { recursive: true }));
    await warmCache(`${directory}/cache`);
    const tree = await treeOf(`${directory}/cache`);
    const runDeno: RunDeno = async (args, env, timeoutMs) => {
      const image = `${directory}/image`;
      await Deno.writeTextFile(`${image}.manifest`, manifest(tree, args, env));
      await runProgram("sh", [
        "-c",
        `"$1"/output/tools/bin/mkfs -s 1G -b "$2"/boot/boot.img \
-k "$2"/bin/kernel.img "$3" <"$3.manifest"`,
        ...["mkfs", built, `${built}/output/platform/pc`, image],
      ]);
      return await boot(image, timeoutMs);
    };
    const place = {
      name: "tfs",
      where: IMAGES,
      suites: ["facts", "contract"],
    } as const;
    await runPlaces(runDeno, this.name, "Nanos", [place], run);
  },
}];

/** Deno with its libraries, this repository, and what Deno made of it. */
async function treeOf(cache: string): Promise<Tree> {
  const libraries = await runProgram("ldd", [Deno.execPath()]);
  const root: Tree = {
    deno: Deno.execPath(),
    [IMAGES.slice(1)]: {},
    tmp: {},
  };
  for (const [path] of libraries.matchAll(/\/\S+/g)) put(root, path, path);
  for (const name of OURS) {
    await putAll(root, `${REPOSITORY}/${name}`, `${REPOSITORY}/${name}`);
  }
  await putAll(root, CACHE, cache);
  return root;
}

/** Puts a file of this machine somewhere. */
function put(root: Tree, path: string, file: string): void {
  const folders = path.split("/").filter((name) => name !== "");
  const name = folders.pop()!;
  let at = root;
  for (const folder of folders) at = (at[folder] ??= {}) as Tree;
  at[name] = file;
}

/** Puts what is in a folder somewhere, or a file. */
async function putAll(root: Tree, path: string, from: string): Promise<void> {
  if (!(await Deno.stat(from)).isDirectory) return put(root, path, from);
  for await (const { name } of Deno.readDir(from)) {
    await putAll(root, `${path}/${name}`, `${from}/${name}`);
  }
}

/** What Nanos' `mkfs` reads: a tree, and the program. */
function manifest(
  tree: Tree,
  args: readonly string[],
  env: Readonly<Record<string, string>>,
): string {
  const quoted = (text: string) => `"${text}"`;
  const files = (tree: Tree): string =>
    Object.entries(tree).map(([name, what]) =>
      typeof what === "string"
        ? `${quoted(name)}:(contents:(host:${quoted(what)}))\n`
        : `${quoted(name)}:(children:(${files(what)}))\n`
    ).join("");
  const variables = Object.entries({ ...env, DENO_DIR: CACHE, HOME: "/tmp" })
    .map(([name, value]) => `${name}:${quoted(value)}`);
  // Its exit status is to be QEMU's.
  return `(children:(${files(tree)}) program:/deno debug_exit:t
cwd:${quoted(REPOSITORY)} arguments:[deno ${args.map(quoted).join(" ")}]
environment:(${variables.join(" ")}))`;
}

/** Boots an image, and waits until its program ends. */
async function boot(image: string, timeoutMs: number) {
  const { code, stdout } = await new Deno.Command("qemu-system-x86_64", {
    args: [
      ...["-machine", "q35", "-cpu", "max", "-m", "2G", "-nodefaults"],
      ...["-display", "none", "-serial", "stdio", "-no-reboot"],
      ...["-device", "virtio-rng-pci", "-device", "isa-debug-exit"],
      ...["-drive", `if=none,id=disk,format=raw,file=${image}`],
      ...["-device", "virtio-scsi-pci,id=scsi"],
      ...["-device", "scsi-hd,bus=scsi.0,drive=disk"],
    ],
    stdin: "null",
    stderr: "inherit",
    signal: AbortSignal.timeout(timeoutMs),
  }).output();
  // The device doubles the status, and adds one.
  return {
    code: code % 2 === 1 ? code >> 1 : code,
    output: new TextDecoder().decode(stdout).replaceAll("\r", ""),
  };
}
