/**
 * Runs tests in Deno's build for Windows, under Wine, and prints one table:
 *
 * ```sh
 * deno task wine [FILE…]
 * ```
 *
 * Deno comes from npm, of the version that runs this, and is kept in
 * `PLATTER_WINE_DIR` (by default a folder `platter-wine` for temporary files).
 * Debian's packages: `wine64`, `wine`, `gcc-mingw-w64-x86-64`, `libz-mingw-w64`,
 * `npm`. What Wine 8 lacks is made up for: a library that hands its one
 * function on to another, zlib, and one byte of Deno, so that it does not find a function that
 * Wine has no body for.
 *
 * This shows that calls, structures and logic are right. What Wine does not do as
 * Windows does stays unknown: it refuses no I/O that is not aligned (the tests have
 * a check in front), has no sparse files, and writes through nothing.
 *
 * @module
 */

import { hasTool, run } from "../helpers.ts";

const NEEDED = ["wine", "x86_64-w64-mingw32-gcc", "npm", "tar"];
const ZLIB = "/usr/x86_64-w64-mingw32/lib/zlib1.dll";

/**
 * The library that Deno takes random numbers from, which Wine 8 lacks: its one
 * function is another library's.
 */
const RANDOM = `LIBRARY bcryptprimitives.dll
EXPORTS
  ProcessPrng = advapi32.SystemFunction036
`;

/** What is run here, and not in Wine. */
const TABLES = "tests/ffi/windows_header_test.ts";

/** What is run there unless files are named. */
const FILES = [
  "tests/backends/direct/windows/real_test.ts",
  "tests/backends/portable/backend_test.ts",
  "tests/disk/disk_test.ts",
  "tests/ffi/memory_test.ts",
];

/** How long one file of tests may take: Wine is slow, and a machine may be busy. */
const DEADLINE_MS = 20 * 60_000;

const root = new URL("../..", import.meta.url).pathname;
const temporary = Deno.env.get("TMPDIR") ?? "/var/tmp";
const home = Deno.env.get("PLATTER_WINE_DIR") ?? `${temporary}/platter-wine`;

const environment = {
  WINEPREFIX: `${home}/prefix`,
  WINEARCH: "win64",
  WINEDEBUG: "-all",
  // Neither .NET nor a browser is to be installed.
  WINEDLLOVERRIDES: "mscoree,mshtml=",
  DISPLAY: "",
  NO_COLOR: "1",
  DENO_DIR: windowsPath(`${home}/cache`),
};

/** Wine shows this machine's files as drive Z. */
function windowsPath(path: string): string {
  return `Z:${path.replaceAll("/", "\\")}`;
}

/** Brings Deno for Windows to where Wine runs it; once for each version. */
async function setUp(): Promise<string> {
  const folder = `${home}/deno-${Deno.version.deno}`;
  const program = `${folder}/package/deno.exe`;
  try {
    if ((await Deno.stat(`${folder}/ready`)).isFile) return program;
  } catch {
    await Deno.mkdir(folder, { recursive: true });
  }
  console.log(`Setting Deno ${Deno.version.deno} for Windows up in ${home}`);
  const name = `@deno/win32-x64@${Deno.version.deno}`;
  const packed =
    (await run("npm", ["pack", name, "--silent", "--pack-destination", folder]))
      .trim();
  await run("tar", ["-xzf", `${folder}/${packed}`, "-C", folder]);
  await Deno.writeTextFile(`${folder}/random.def`, RANDOM);
  await run("x86_64-w64-mingw32-gcc", [
    ...["-shared", "-nostdlib", "-o"],
    ...[`${folder}/package/bcryptprimitives.dll`, `${folder}/random.def`],
  ]);
  await Deno.copyFile(ZLIB, `${folder}/package/zlib1.dll`);
  await hideFunction(program, "VirtualAlloc2");
  await Deno.remove(`${folder}/${packed}`);
  await output("wine", ["wineboot", "-i"]);
  await Deno.writeTextFile(`${folder}/ready`, "");
  return program;
}

/** Changes the name of a function in a program, which does without it then. */
async function hideFunction(program: string, name: string): Promise<void> {
  const bytes = await Deno.readFile(program);
  const wanted = new TextEncoder().encode(`${name}\0`);
  let at = -1;
  do {
    at = bytes.indexOf(wanted[0]!, at + 1);
    if (at < 0) throw new Error(`Cannot find ${name} in ${program}`);
  } while (!wanted.every((byte, i) => bytes[at + i] === byte));
  bytes[at] = "X".charCodeAt(0);
  await Deno.writeFile(program, bytes);
}

/** What a program printed, and whether it went well. */
async function output(
  command: string,
  args: string[],
): Promise<{ text: string; ok: boolean }> {
  const { stdout, stderr, success } = await new Deno.Command(command, {
    args,
    cwd: root,
    env: command === "wine" ? environment : { NO_COLOR: "1" },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
    signal: AbortSignal.timeout(DEADLINE_MS),
  }).output();
  const decoder = new TextDecoder();
  return { text: decoder.decode(stdout) + decoder.decode(stderr), ok: success };
}

const missing = NEEDED.filter((tool) => !hasTool(tool));
if (missing.length > 0) {
  console.error(`Cannot run Wine as these are missing: ${missing.join(", ")}`);
  Deno.exit(1);
}
const deno = await setUp();
const version = (await run("wine", ["--version"])).trim();
const [today] = new Date().toISOString().split("T");
console.log(`${today}, ${version}, Deno ${Deno.version.deno} for Windows\n`);
console.log("| tests | passed | failed | skipped |");
console.log("| ----- | ------ | ------ | ------- |");
let failures = 0;
const texts: string[] = [];
const flags = ["test", "-A", "--no-check", "--no-prompt"];
const files = Deno.args.length > 0 ? Deno.args : [TABLES, ...FILES];
for (const file of files) {
  const { text, ok } = file === TABLES
    ? await output(Deno.execPath(), [...flags, file])
    : await output("wine", [deno, ...flags, file]);
  const count = (word: string) =>
    Number(new RegExp(`(\\d+) ${word}`).exec(text)?.[1] ?? 0);
  // What ends before it counts has failed as a whole.
  const bad = ok ? 0 : Math.max(1, count("failed"));
  failures += bad;
  console.log(
    `| ${file} | ${count("passed")} | ${bad} | ${count("ignored")} |`,
  );
  if (bad > 0) texts.push(text);
}
for (const text of texts) console.error(text);
Deno.exit(failures > 0 ? 1 : 0);
