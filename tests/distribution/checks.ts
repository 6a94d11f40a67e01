/**
 * The package as users get it: published by `deno publish` to a registry on
 * loop-back, and then used from an empty folder with an empty cache. `deno task
 * distribution` runs it; it is no part of the gate's own tests, as it publishes,
 * installs and compiles, which takes a while, and takes npm for `7z-wasm`.
 *
 * `@std/cli` is served with the code of its npm build and the signatures of
 * `std/cli`: see `std/README.md`.
 *
 * @module
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { needs, type TempDir, tempDir } from "../helpers.ts";
import { filesIn, Registry } from "./registry.ts";

const ROOT = new URL("../../", import.meta.url).pathname;
const CONFIG = JSON.parse(await Deno.readTextFile(`${ROOT}deno.json`)) as {
  version: string;
  exports: Record<string, string>;
};
const encoder = new TextEncoder();

let dir: TempDir;
let registry: Registry;

/** Runs a program, in a folder of its own unless another one is said. */
async function run(
  command: string[],
  { cwd, cache = "user", env = {} }: {
    cwd: string;
    cache?: string;
    env?: Record<string, string>;
  },
): Promise<string> {
  const [program, ...args] = command;
  const { success, stdout, stderr } = await new Deno.Command(program!, {
    args,
    cwd,
    stdin: "null",
    env: {
      DENO_DIR: dir.join(`cache-${cache}`),
      DENO_NO_PROMPT: "1",
      DENO_NO_UPDATE_CHECK: "1",
      JSR_URL: registry.url,
      NO_COLOR: "1",
      ...env,
    },
  }).output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  if (success) return text(stdout);
  throw new Error(
    `Cannot run ${command.join(" ")}: ${text(stdout)}${text(stderr)}`,
  );
}

/** Runs Deno. */
function deno(cwd: string, ...args: string[]): Promise<string> {
  return run([Deno.execPath(), ...args], { cwd });
}

/** Makes an empty folder. */
async function emptyFolder(name: string): Promise<string> {
  await Deno.mkdir(dir.join(name));
  return dir.join(name);
}

/** A copy of what git knows here, without the stand-ins: as publishing does. */
async function copyOfPackage(): Promise<string> {
  const copy = await emptyFolder("package");
  const listed = await run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
    { cwd: ROOT },
  );
  for (const path of listed.trim().split("\n")) {
    if (/^(std|tests|bench|examples)\/|^deno\.lock$/.test(path)) continue;
    await Deno.mkdir(`${copy}/${path}`.replace(/\/[^/]*$/, ""), {
      recursive: true,
    });
    await Deno.copyFile(`${ROOT}${path}`, `${copy}/${path}`);
  }
  const { links: _, ...config } = CONFIG as { links?: unknown };
  await Deno.writeTextFile(`${copy}/deno.json`, JSON.stringify(config));
  return copy;
}

/** Serves @std/cli: code of the npm build, signatures of the stand-in. */
async function addStd(): Promise<void> {
  const { npmCache } = JSON.parse(
    await run([Deno.execPath(), "info", "--json"], {
      cwd: ROOT,
      env: Deno.env.has("DENO_DIR")
        ? { DENO_DIR: Deno.env.get("DENO_DIR")! }
        : { DENO_DIR: "" },
    }),
  ) as { npmCache: string };
  const { specifiers } = JSON.parse(
    await Deno.readTextFile(`${ROOT}deno.lock`),
  ) as { specifiers: Record<string, string> };
  const [, version] = Object.entries(specifiers)
    .find(([name]) => name.startsWith("npm:deno-std@"))!;
  const files = new Map<string, Uint8Array>();
  for await (const host of Deno.readDir(npmCache)) {
    const folder = `${npmCache}/${host.name}/deno-std/${version}`;
    // There may be others of it, and other registries without it.
    if (!await Deno.lstat(folder).then(() => true, () => false)) continue;
    for (const part of ["cli", "internal"]) {
      for (const [path, bytes] of await filesIn(`${folder}/${part}`)) {
        files.set(`/${part}${path}`, bytes);
      }
    }
  }
  const exports: Record<string, string> = {};
  for (const module of ["parse_args", "prompt_secret"]) {
    const path = `/cli/${module}.js`;
    const code = files.get(path);
    assert(code !== undefined, `${path} of deno-std is in no cache`);
    const types = `/* @ts-self-types="./${module}.d.ts" */\n`;
    files.set(path, new Uint8Array([...encoder.encode(types), ...code]));
    files.set(
      `/cli/${module}.d.ts`,
      await Deno.readFile(`${ROOT}std/cli/${module}.d.ts`),
    );
    exports[`./${module.replace("_", "-")}`] = `.${path}`;
  }
  registry.add("@std/cli", { version: "1.0.0", exports, files });
}

Deno.test.beforeAll(async () => {
  dir = await tempDir();
  registry = new Registry();
  await addStd();
  await run(
    [
      ...[Deno.execPath(), "publish", "--allow-dirty", "--no-check"],
      ...["--token", "none"],
    ],
    { cwd: await copyOfPackage(), cache: "publisher" },
  );
});

Deno.test.afterAll(async () => {
  await registry[Symbol.asyncDispose]();
  await dir[Symbol.asyncDispose]();
});

Deno.test("deno publish ships what the exports reach, and no tests", () => {
  const { version, exports, files } = registry.get("@platter/disk")!;
  assertEquals(version, CONFIG.version);
  assertEquals(exports, CONFIG.exports);
  for (const path of Object.values(exports)) assert(files.has(path.slice(1)));
  const folders = new Set(
    [...files.keys()].map((path) => path.split("/")[1]),
  );
  assertEquals(
    [...folders].filter((name) => /^(tests|bench|examples|std)$/.test(name!)),
    [],
  );
  for (const [path, bytes] of files) {
    if (!path.endsWith(".ts")) continue;
    // Code alone: examples in comments are for users, who have an import map.
    const code = new TextDecoder().decode(bytes)
      .replace(/\/\*[\s\S]*?\*\//g, "").replace(/^\s*\/\/.*$/gm, "");
    assertEquals(/from "@(std|platter)\//.test(code), false, path);
  }
});

Deno.test("the library is imported, checked and used from an empty folder", async () => {
  const folder = await emptyFolder("library");
  const entries = Object.keys(CONFIG.exports).filter((name) =>
    name !== "./cli"
  );
  const source = [
    ...entries.map((name, i) =>
      `import * as m${i} from "jsr:@platter/disk@${CONFIG.version}${
        name.slice(1)
      }";`
    ),
    `import { VirtualDisk } from "jsr:@platter/disk@${CONFIG.version}";`,
    ...entries.map((_, i) =>
      `const n${i}: number = Object.keys(m${i}).length;`
    ),
    `if (${entries.map((_, i) => `n${i} === 0`).join(" || ")}) throw 1;`,
    `await using disk = await VirtualDisk.create("disk.img", { size: "1MiB" });`,
    `const data: Uint8Array = disk.allocate(8).fill(7);`,
    `await disk.write(8, data);`,
    `await disk.flush();`,
    `const [byte] = await disk.read(8, 1);`,
    `console.log(byte, disk.info.backend);`,
  ].join("\n");
  await Deno.writeTextFile(`${folder}/use.ts`, source);
  await deno(folder, "check", "use.ts");
  const direct = await deno(folder, "run", "-A", "use.ts");
  assertMatch(direct, Deno.build.os === "linux" ? /^7 direct$/m : /^7 /m);
  await Deno.remove(`${folder}/disk.img`);
  const portable = await deno(
    ...[folder, "run", "--allow-read=.", "--allow-write=.", "use.ts"] as const,
  );
  assertMatch(portable, /^7 portable$/m);
  // What is public has types that say what is wrong.
  await Deno.writeTextFile(
    `${folder}/wrong.ts`,
    `import { parseSize } from "jsr:@platter/disk@${CONFIG.version}";\n` +
      `export const size: string = parseSize("1");\n`,
  );
  const refused = await deno(folder, "check", "wrong.ts").then(
    () => "",
    (error) => String(error),
  );
  assertMatch(refused, /TS2322/);
});

Deno.test("deno add brings the package to a project", async () => {
  const folder = await emptyFolder("project");
  await Deno.writeTextFile(`${folder}/deno.json`, "{}");
  await deno(folder, "add", "jsr:@platter/disk");
  await Deno.writeTextFile(
    `${folder}/use.ts`,
    `import { parseSize } from "@platter/disk";\nconsole.log(parseSize("1k"));`,
  );
  assertEquals((await deno(folder, "run", "use.ts")).trim(), "1024");
});

Deno.test("the library alone downloads nothing of npm", async () => {
  const folder = await emptyFolder("alone");
  const source = `import "jsr:@platter/disk@${CONFIG.version}";`;
  await Deno.writeTextFile(`${folder}/use.ts`, source);
  await run([Deno.execPath(), "run", "use.ts"], {
    cwd: folder,
    cache: "alone",
  });
  const cached = [...(await filesIn(dir.join("cache-alone"))).keys()];
  assert(cached.some((path) => path.startsWith("/remote/")));
  assertEquals(cached.filter((path) => path.startsWith("/npm/")), []);
});

/** Runs verbs of a command line that is installed somehow. */
async function useVerbs(
  folder: string,
  platter: (...args: string[]) => Promise<string>,
): Promise<void> {
  assertEquals(
    (await platter("--version")).trim(),
    `platter ${CONFIG.version}`,
  );
  await platter("create", "disk.img", "1MiB");
  await Deno.writeTextFile(`${folder}/data`, "hello");
  await platter("write", "disk.img", "--sector", "8", "--pad", "data");
  assertMatch(
    await platter("read", "disk.img", "--sector", "8", "--count", "1"),
    /hello/,
  );
  const info = JSON.parse(await platter("info", "--json", "disk.img"));
  assertEquals(info.sectors, 2048);
  const found = JSON.parse(await platter("doctor", "--json"));
  assertEquals(found.platter, CONFIG.version);
  assertEquals(found.findings.scratch.verdict, "good");
}

Deno.test("platter runs from the registry, without being installed", async () => {
  const folder = await emptyFolder("run");
  const name = `jsr:@platter/disk@${CONFIG.version}/cli`;
  await useVerbs(folder, (...args) => deno(folder, "run", "-A", name, ...args));
});

Deno.test(
  "deno install -g -n platter makes a command, whose workers start",
  needs("mkfs.vfat", "mcopy"),
  async () => {
    const folder = await emptyFolder("install");
    await deno(
      ...[folder, "install", "--global", "--allow-all", "--name", "platter"],
      ...["--root", folder, `jsr:@platter/disk@${CONFIG.version}/cli`],
    );
    const platter = (...args: string[]) =>
      run([`${folder}/bin/platter`, ...args], {
        cwd: folder,
        env: {
          // The command is a script that runs `deno`.
          PATH: `${Deno.execPath().replace(/\/[^/]*$/, "")}:${
            Deno.env.get("PATH")
          }`,
        },
      });
    await useVerbs(folder, platter);
    await listInImage(folder, platter);
  },
);

// Deno downloads what runs such a file, from a place of its own.
Deno.test({
  name: "deno compile makes a program of a checkout, which reads files",
  ignore: Deno.env.get("PLATTER_COMPILE") !== "1" ||
    needs("mkfs.vfat", "mcopy").ignore,
  async fn() {
    const folder = await emptyFolder("compile");
    await deno(
      ...[dir.join("package"), "compile", "--allow-all"],
      "--exclude-unused-npm",
      ...["--include", "src/files/seven_zip_worker.ts"],
      ...["--output", `${folder}/platter`, "src/cli/main.ts"],
    );
    const platter = (...args: string[]) =>
      run([`${folder}/platter`, ...args], { cwd: folder });
    await useVerbs(folder, platter);
    await listInImage(folder, platter);
  },
});

/** Lists a file in an image: by a worker, with a package of npm. */
async function listInImage(
  folder: string,
  platter: (...args: string[]) => Promise<string>,
): Promise<void> {
  await Deno.writeFile(`${folder}/fat.img`, new Uint8Array(1 << 20));
  await run(["mkfs.vfat", "fat.img"], { cwd: folder });
  await run(["mcopy", "-i", "fat.img", "data", "::inside"], { cwd: folder });
  assertMatch(await platter("ls", "fat.img"), /inside/i);
}

Deno.test("the registry was asked for nothing that JSR would not have", () => {
  const expected = [
    // The first question of `deno publish`: is this version there already?
    `GET /api/scopes/platter/packages/disk/versions/${CONFIG.version}`,
    // `deno install` takes the versions of a package's own lock file, if any.
    `GET /@platter/disk/${CONFIG.version}/deno.lock`,
  ];
  assertEquals(registry.missing.filter((it) => !expected.includes(it)), []);
});
