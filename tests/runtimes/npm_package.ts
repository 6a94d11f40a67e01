/**
 * Makes an npm package of this one as JSR's npm registry does: types stripped by
 * the same transpiler, relative imports of `.ts` told `.js`, those of JSR renamed
 * to `@jsr/…`, those of npm made dependencies. What JSR does not give is added: a
 * `platter` in `bin`.
 *
 * JSR's registry is not asked: `@jsr/std__cli` is made of the stand-in in `std/`
 * and goes into the package (`bundledDependencies`).
 *
 * @module
 */

import config from "../../deno.json" with { type: "json" };

const ROOT = new URL("../../", import.meta.url).pathname;

/** The oldest Node.js that has `await using`, which stays in the code. */
const OLDEST_NODE = ">=24";

/** Makes the tarball in a folder; returns its path. */
export async function makeNpmPackage(folder: string): Promise<string> {
  const out = `${folder}/package`;
  const own = await sourcesIn(["ffi", "src"]);
  const dependencies = await emit(["mod.ts", ...own], out);
  await Deno.copyFile(`${ROOT}deno.json`, `${out}/deno.json`);
  await Deno.copyFile(`${ROOT}LICENSE`, `${out}/LICENSE`);
  const bundled = `${out}/node_modules/@jsr/std__cli`;
  const below = await emit(
    ["std/cli/parse_args.ts", "std/cli/prompt_secret.ts"],
    bundled,
  );
  await writeJson(`${bundled}/package.json`, {
    name: "@jsr/std__cli",
    version: "1.0.0",
    type: "module",
    exports: {
      "./parse-args": "./std/cli/parse_args.js",
      "./prompt-secret": "./std/cli/prompt_secret.js",
    },
  });
  await Deno.mkdir(`${out}/bin`);
  await Deno.writeTextFile(
    `${out}/bin/platter.js`,
    "#!/usr/bin/env node\n" +
      'import { main, processIo } from "../src/cli/main.js";\n' +
      "process.exit(await main(process.argv.slice(2), processIo()));\n",
  );
  await writeJson(`${out}/package.json`, {
    name: `@jsr/${config.name.slice(1).replace("/", "__")}`,
    version: config.version,
    license: config.license,
    type: "module",
    exports: Object.fromEntries(
      Object.entries(config.exports).map((
        [entry, file],
      ) => [entry, file.replace(/\.ts$/, ".js")]),
    ),
    bin: { platter: "./bin/platter.js" },
    engines: { node: OLDEST_NODE },
    dependencies: { ...dependencies, ...below, "@jsr/std__cli": "^1" },
    bundledDependencies: ["@jsr/std__cli"],
    optionalDependencies: { koffi: "^3" },
  });
  await run("npm", ["pack", "--silent", "--pack-destination", folder, out]);
  for await (const { name } of Deno.readDir(folder)) {
    if (name.endsWith(".tgz")) return `${folder}/${name}`;
  }
  throw new Error("npm pack has made no tarball");
}

async function sourcesIn(folders: readonly string[]): Promise<string[]> {
  const found: string[] = [];
  const visit = async (folder: string) => {
    for await (const { name, isDirectory } of Deno.readDir(ROOT + folder)) {
      if (isDirectory) await visit(`${folder}/${name}`);
      else if (/(?<!\.d)\.ts$/.test(name)) found.push(`${folder}/${name}`);
    }
  };
  for (const folder of folders) await visit(folder);
  return found;
}

/** Strips the types of files and rewrites what they import; returns what of npm. */
async function emit(
  files: readonly string[],
  out: string,
): Promise<Record<string, string>> {
  await run(Deno.execPath(), [
    ...["transpile", "--quiet", "--no-check", "--outdir", out],
    ...files,
  ]);
  const dependencies: Record<string, string> = {};
  for (const file of files) {
    const path = `${out}/${file.replace(/\.ts$/, ".js")}`;
    const text = await Deno.readTextFile(path);
    await Deno.writeTextFile(
      path,
      text.replaceAll(
        // What follows from, import, import( or new URL(; not in comments.
        /^(?! *(?:\*|\/\/)).*?(?:\bfrom |\bimport |\bimport\(|\bnew URL\(|\bresolve\()"[^"]+"/gm,
        (line) =>
          line.replace(
            /"([^"]+)"$/,
            (_, name: string) => `"${specifierOf(name, dependencies)}"`,
          ),
      ),
    );
  }
  return dependencies;
}

/** What a module is called in an npm package. */
function specifierOf(
  name: string,
  dependencies: Record<string, string>,
): string {
  const npm = /^npm:((?:@[^/]+\/)?[^@/]+)@([^/]+)(.*)$/.exec(name);
  if (npm !== null) {
    dependencies[npm[1]!] = npm[2]!;
    return npm[1]! + npm[3]!;
  }
  if (name.startsWith(".")) return name.replace(/\.ts$/, ".js");
  return name.replace(/^@std\//, "@jsr/std__");
}

async function writeJson(path: string, value: unknown): Promise<void> {
  await Deno.writeTextFile(path, JSON.stringify(value, null, 2) + "\n");
}

async function run(program: string, args: readonly string[]): Promise<void> {
  const { success, stderr } = await new Deno.Command(program, {
    args: [...args],
    cwd: ROOT,
    stdout: "null",
    stderr: "piped",
  }).output();
  if (!success) throw new Error(new TextDecoder().decode(stderr));
}
