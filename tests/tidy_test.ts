/**
 * Holds the house: which file may import which, what no file may contain, and
 * that no file, no export and no member of a class is left over. The rules are
 * the tables below; {@linkcode tidy} applies them to a tree of sources, so that
 * each rule is first shown to fail on a small made-up tree, and then holds on
 * the real one.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { posix } from "node:path";

/** Source text by path, relative to the root of the repository. */
type Tree = Record<string, string>;

/** The name under which the package's own files are imported from outside. */
const PACKAGE = "@platter/disk";

/**
 * The floors, from the bottom up. A file stands on the first floor that names
 * it: a folder by its trailing slash, or one file. An import goes to a lower
 * floor, or stays on its own.
 */
const FLOORS: [name: string, members: string[]][] = [
  ["platform", ["src/platform/"]],
  ["protocol", ["src/protocol/"]],
  ["engines", ["src/engines/"]],
  ["backends", ["src/backends/"]],
  ["layers", ["src/layers/"]],
  ["queue", ["src/queue.ts"]],
  ["disk", ["src/disk/"]],
  ["mod", ["mod.ts"]],
  ["image", ["src/image/"]],
  ["files", ["src/files/"]],
  ["faces", ["src/nbd/", "src/testing/", "src/vhost/"]],
  ["mount", ["src/mount/"]],
  ["crash", ["src/crash/"]],
  ["doctor", ["src/doctor/"]],
  ["cli", ["src/cli/"]],
  // Everything else directly in src/. Above the platform, though it is matched
  // last.
  ["vocabulary", ["src/*.ts"]],
];

/** Folders whose files follow the rules of style. */
const STYLED = /^(src|ffi|tests|bench|examples)\/|^mod\.ts$/;

/** Folders that are the library, and must be reachable from an export. */
const LIBRARY = /^(src|ffi)\//;

/** Who may reach into ffi/: whoever talks to a kernel, tests and benchmarks. */
const FFI_USERS = new RegExp(
  [
    /^(ffi|tests|bench|examples)\//,
    /^src\/(engines|backends\/(direct|rbd)|vhost)\//,
    /^src\/platform\/(held_file|sockets)\.ts$/,
  ].map(({ source }) => source).join("|"),
);

/** Rooms behind a front door, and who may reach into them. */
const ROOMS: [room: RegExp, users: RegExp][] = [
  [/^src\/backends\/[^/]+\/(?!mod\.ts$)/, /^src\/backends\//],
  [/^src\/engines\/(windows\/)?(?!(windows\/)?mod\.ts$)/, /^src\/engines\//],
];

/** Who may have what reads file systems: nobody else is to download it. */
const FILES_READERS = /^src\/files\/seven_zip(_worker)?\.ts$/;
const FILES_PACKAGE =
  /^npm:7z-wasm@\d+\.\d+\.\d+\/7zz\.es6\.js$|^data:text\/javascript,import source /;

/** What ffi/ may have of the runtime: how memory is kept from being taken away. */
const FFI_BUILTINS = new Set(["node:process"]);

const SNAKE_CASE = /^_?[a-z0-9]+(_[a-z0-9]+)*(\.d)?\.ts$/;
const MAX_COLUMNS = 100;

/** What may not be written where. Comments do not count unless said so. */
const BANNED: {
  pattern: RegExp;
  where: RegExp;
  except?: RegExp;
  inComments?: boolean;
}[] = [
  {
    pattern:
      /\bDeno\.(dlopen|Unsafe(Pointer|PointerView|FnPointer|Callback))\b/,
    where: /^(src|examples)\/|^mod\.ts$/,
  },
  // Pulled out of the namespace, the names above would no longer be seen.
  { pattern: /\}\s*=\s*Deno;/, where: /^(src|examples)\/|^mod\.ts$/ },
  // Nothing refers to that memory: it may be somebody else's when it is used.
  {
    pattern: /\baddressOf\((alignedMemory|new )/,
    where: /^(src|ffi|bench|examples)\//,
  },
  {
    pattern: /\bconsole\.\w+/,
    where: /^(src|ffi)\/|^mod\.ts$/,
    except: /^src\/cli\//,
  },
  { pattern: /\b(TODO|FIXME|XXX)\b/, where: STYLED, inComments: true },
  { pattern: /@ts-(ignore|nocheck)\b/, where: STYLED, inComments: true },
  {
    pattern: /deno-lint-ignore.*\bno-explicit-any\b/,
    where: /^(src|ffi)\/|^mod\.ts$/,
    inComments: true,
  },
];

/** Tests that quote what is banned. */
const QUOTES_BANNED = new Set(["tests/tidy_test.ts"]);

/** Blanks out comments, but keeps every line where it was. */
function withoutComments(source: string): string {
  return source
    .replace(
      /^([^\n"'`]*?)\/\*[\s\S]*?\*\//gm,
      (comment, code) =>
        code + comment.slice(code.length).replace(/[^\n]/g, " "),
    )
    .replace(/(^|\s)\/\/.*$/gm, "$1");
}

/**
 * Everything that a module names to be loaded: static imports, re-exports,
 * dynamic imports, types by import(), and worker or asset URLs.
 */
function specifiersOf(source: string): string[] {
  const code = withoutComments(source);
  const patterns = [
    /^\s*(?:import|export)\b[^;"'`]*?\bfrom\s*["']([^"']+)["']/gm,
    /^\s*import\s*["']([^"']+)["']/gm,
    /\bimport\(\s*["']([^"']+)["']/g,
    /\bnew URL\(\s*["'](\.[^"']+)["'],\s*import\.meta\.url/g,
    /\bimport\.meta\.resolve\(\s*["']([^"']+)["']/g,
  ];
  return patterns.flatMap((pattern) =>
    [...code.matchAll(pattern)].map((match) => match[1]!)
  );
}

/** What one specifier means in `file`: a path of the tree, or a package. */
function resolve(
  file: string,
  specifier: string,
  exports: Record<string, string>,
): { path: string } | { package: string } {
  if (specifier.startsWith(".")) {
    return { path: posix.join(posix.dirname(file), specifier) };
  }
  if (specifier === PACKAGE || specifier.startsWith(`${PACKAGE}/`)) {
    const target = exports[`.${specifier.slice(PACKAGE.length)}`];
    if (target !== undefined) return { path: posix.normalize(target) };
  }
  return { package: specifier };
}

/** The floor of a file, or -1 for a folder that no floor knows. */
function floorOf(path: string): number {
  const named = FLOORS.findIndex(([, members]) =>
    members.some((member) =>
      member.endsWith("/") ? path.startsWith(member) : path === member
    )
  );
  // What differs by runtime is below everything.
  if (named >= 0) return named === 0 ? 0 : named + 1;
  return /^src\/[^/]+\.ts$/.test(path) ? 1 : -1;
}

function floorName(floor: number): string {
  return floor === 1 ? "vocabulary" : FLOORS[Math.max(0, floor - 1)]![0];
}

/** Why `from` may not import `to`, or nothing if it may. */
function importFault(from: string, to: string): string | undefined {
  if (to.startsWith("ffi/")) {
    return FFI_USERS.test(from)
      ? undefined
      : "only src/engines, src/backends/direct, src/backends/rbd and src/vhost may import ffi/";
  }
  if (from.startsWith("ffi/")) {
    return to.startsWith("src/platform/")
      ? undefined
      : "ffi/ imports nothing outside ffi/";
  }
  if (!from.startsWith("src/") && from !== "mod.ts") return undefined;
  for (const [room, users] of ROOMS) {
    const entered = room.exec(to);
    if (entered !== null && !users.test(from)) {
      return `${entered[0]} is entered by its mod.ts`;
    }
  }
  const [above, below] = [floorOf(from), floorOf(to)];
  if (above < 0 || below < 0) return undefined; // Reported once, by file.
  return below <= above
    ? undefined
    : `${floorName(above)} may not import ${floorName(below)}`;
}

/** Why a file of the library may not import a package, or nothing. */
function packageFault(from: string, name: string): string | undefined {
  if (!LIBRARY.test(from) && from !== "mod.ts") return undefined;
  if (name.startsWith(PACKAGE)) return "import own files by their path";
  if (FFI_BUILTINS.has(name)) return undefined;
  if (from.startsWith("ffi/")) return "ffi/ imports nothing outside ffi/";
  if (name.startsWith("node:")) return undefined;
  if (from.startsWith("src/cli/") && name.startsWith("@std/")) return undefined;
  if (FILES_READERS.test(from) && FILES_PACKAGE.test(name)) return undefined;
  return "the library depends on no package";
}

/** One cycle per knot of the graph, each as the path around it. */
function cyclesIn(graph: Map<string, string[]>): string[] {
  const done = new Set<string>();
  const trail: string[] = [];
  const cycles: string[] = [];
  const visit = (file: string) => {
    const start = trail.indexOf(file);
    if (start >= 0) {
      cycles.push([...trail.slice(start), file].join(" -> "));
      return;
    }
    if (done.has(file)) return;
    trail.push(file);
    for (const next of graph.get(file) ?? []) visit(next);
    trail.pop();
    done.add(file);
  };
  for (const file of graph.keys()) visit(file);
  return cycles;
}

function reachableFrom(
  roots: string[],
  graph: Map<string, string[]>,
): Set<string> {
  const reached = new Set<string>();
  const pending = [...roots];
  for (let file = pending.pop(); file !== undefined; file = pending.pop()) {
    if (reached.has(file)) continue;
    reached.add(file);
    pending.push(...graph.get(file) ?? []);
  }
  return reached;
}

/** Faults of one file by itself. */
function styleFaults(path: string, source: string): string[] {
  const faults: string[] = [];
  const names = path.split("/");
  if (
    !SNAKE_CASE.test(names.at(-1)!) ||
    !names.slice(0, -1).every((name) => SNAKE_CASE.test(`${name}.ts`))
  ) {
    faults.push(`${path}: the name is not snake_case`);
  }
  source.split("\n").forEach((line, index) => {
    // Text stays in one piece, to be found by a search, and so does a link; a
    // row of a table in a comment cannot be broken.
    const width = line.replace(/(["`])(.*\1|.*$)/, "").length;
    const tableRow = /^ \* \|/.test(line);
    if (width > MAX_COLUMNS && !tableRow && !line.includes("https://")) {
      faults.push(`${path}:${index + 1}: longer than ${MAX_COLUMNS} columns`);
    }
  });
  const code = withoutComments(source);
  for (const { pattern, where, except, inComments } of BANNED) {
    if (!where.test(path) || except?.test(path)) continue;
    if (QUOTES_BANNED.has(path)) continue;
    const match = pattern.exec(inComments ? source : code);
    if (match === null) continue;
    const line = source.slice(0, match.index).split("\n").length;
    faults.push(`${path}:${line}: ${match[0].trim()} is not allowed here`);
  }
  if (/\bimport\(\s*[^"'\s]/.test(code) && LIBRARY.test(path)) {
    faults.push(`${path}: a dynamic import names its file as a plain string`);
  }
  if (LIBRARY.test(path) || path === "mod.ts") {
    const doc = /^(?:\/\/.*\n|\s)*\/\*\*[\s\S]*?\*\//.exec(source)?.[0] ?? "";
    if (!doc.includes("@module")) {
      faults.push(`${path}: does not begin with a comment marked @module`);
    }
  }
  if (path === "mod.ts") {
    const rest = code.replace(/^export\b[^;"']*\bfrom\s*"[^"]+";$/gm, "");
    if (rest.trim() !== "") faults.push(`${path}: does more than re-export`);
  }
  return faults;
}

/** What each statement takes from another module: names, or `"*"` for all. */
function takenBy(source: string): { specifier: string; names: string[] }[] {
  const code = withoutComments(source);
  const statement =
    /^\s*(?:import|export)\s+(?:type\s+)?(?:\{([^}]*)\}|\*[^;"']*?)\s*from\s*["']([^"']+)["']/gm;
  const dynamic = /\bimport\(\s*["']([^"']+)["']/g;
  return [
    ...[...code.matchAll(statement)].map(([, names, specifier]) => ({
      specifier: specifier!,
      names:
        names?.split(",").map((name) =>
          name.trim().replace(/^type\s+/, "").replace(/\s+as\s.*/s, "")
        ) ?? ["*"],
    })),
    ...[...code.matchAll(dynamic)].map(([, specifier]) => ({
      specifier: specifier!,
      names: ["*"],
    })),
  ];
}

const DECLARED =
  /^export\s+(?:(?:abstract|async)\s+)*(const|let|function\*?|class|interface|type)\s+(\w+)/gm;

/** What a user of the package can name: exports, as `path#name`. */
function publicNames(
  tree: Tree,
  exports: Record<string, string>,
): Set<string> {
  const found = new Set<string>();
  const reach = (path: string, wanted: string) => {
    const key = `${path}#${wanted}`;
    if (found.has(key) || tree[path] === undefined) return;
    found.add(key);
    const code = withoutComments(tree[path]);
    if (wanted === "*") {
      for (const [, , name] of code.matchAll(DECLARED)) reach(path, name!);
    }
    const reexports = code.match(/^export\b[^;]*?\bfrom\s*"[^"]+"/gm) ?? [];
    for (const { specifier, names } of takenBy(reexports.join(";\n"))) {
      const target = resolve(path, specifier, exports);
      if (!("path" in target)) continue;
      if (names[0] === "*") reach(target.path, wanted);
      else for (const name of names) reach(target.path, name);
    }
  };
  for (const path of Object.values(exports)) reach(posix.normalize(path), "*");
  return found;
}

/**
 * Exports of the library, and members of its classes, that nothing uses but
 * tests. What its own module uses may be exported to be tested by itself.
 */
function unusedFaults(tree: Tree, exports: Record<string, string>): string[] {
  const known = publicNames(tree, exports);
  const taken = new Set(known);
  const outside = Object.entries(tree).filter(([path]) =>
    !path.startsWith("tests/")
  );
  const codes = new Map<string, string>();
  for (const [path, source] of outside) {
    codes.set(path, withoutComments(source));
    for (const { specifier, names } of takenBy(source)) {
      const target = resolve(path, specifier, exports);
      if (!("path" in target)) continue;
      for (const name of names) taken.add(`${target.path}#${name}`);
    }
  }
  const all = [...codes.values()].join("\n");
  const members = new Set(
    [...all.matchAll(/\.(\w+)/g)].map(([, name]) => name),
  );
  for (
    const [braces] of all.matchAll(
      /(?<!\$)\{[^{}]*\}(?=\s*(=[^=>]|\)|:|of\b))/g,
    )
  ) {
    for (const name of braces.match(/\w+/g) ?? []) members.add(name);
  }
  const faults: string[] = [];
  for (const [path, code] of codes) {
    if (!LIBRARY.test(path)) continue;
    for (const [, kind, name] of code.matchAll(DECLARED)) {
      const whole = taken.has(`${path}#*`) || taken.has(`${path}#${name}`);
      const own = code.match(new RegExp(`\\b${name}\\b`, "g"))!.length;
      if (!whole && own === 1) {
        faults.push(`${path}: nothing but tests uses ${name}`);
      }
      // Members of what is public are for whoever uses the package.
      if (kind !== "class" || known.has(`${path}#${name}`)) continue;
      const body = new RegExp(`\\bclass ${name}\\b[^{]*\\{\\n([^]*?)^\\}`, "m")
        .exec(code)?.[1] ?? "";
      const member =
        /^ {2}(?:(?:readonly|static|override|async|get|set) |\*)*(\w+)(?:[(<:?!]| =)/gm;
      for (const [, each] of body.matchAll(member)) {
        if (each === "constructor" || members.has(each)) continue;
        faults.push(`${path}: nothing but tests uses ${name}.${each}`);
      }
    }
  }
  return faults;
}

/** Every fault of a tree, as `path: what is wrong`. */
function tidy(tree: Tree, exports: Record<string, string>): string[] {
  const faults: string[] = [];
  const graph = new Map<string, string[]>();
  for (const [path, source] of Object.entries(tree)) {
    if (STYLED.test(path)) faults.push(...styleFaults(path, source));
    if (path.startsWith("src/") && floorOf(path) < 0) {
      faults.push(`${path}: stands on no floor`);
    }
    const targets: string[] = [];
    for (const specifier of specifiersOf(source)) {
      const target = resolve(path, specifier, exports);
      if ("package" in target) {
        const fault = packageFault(path, target.package);
        if (fault) faults.push(`${path}: imports ${specifier}: ${fault}`);
        continue;
      }
      targets.push(target.path);
      const own = !specifier.startsWith(".") &&
        (LIBRARY.test(path) || path === "mod.ts");
      const fault = own
        ? packageFault(path, specifier)
        : importFault(path, target.path);
      if (fault) faults.push(`${path}: imports ${target.path}: ${fault}`);
    }
    graph.set(path, targets);
  }
  for (const cycle of cyclesIn(graph)) faults.push(`import cycle: ${cycle}`);
  faults.push(...unusedFaults(tree, exports));
  const roots = [
    ...Object.values(exports).map((path) => posix.normalize(path)),
    ...Object.keys(tree).filter((path) => /^(examples|bench)\//.test(path)),
  ];
  const reached = reachableFrom(roots, graph);
  for (const path of Object.keys(tree)) {
    if (LIBRARY.test(path) && !reached.has(path)) {
      faults.push(`${path}: no export, example or benchmark reaches it`);
    }
  }
  return faults;
}

const ROOT = new URL("../", import.meta.url);

async function readTree(): Promise<Tree> {
  const tree: Tree = {};
  const visit = async (folder: string) => {
    const entries = await Array.fromAsync(Deno.readDir(new URL(folder, ROOT)));
    for (const entry of entries) {
      const path = `${folder}${entry.name}`;
      if (entry.isDirectory) await visit(`${path}/`);
      else if (path.endsWith(".ts")) {
        tree[path] = await Deno.readTextFile(new URL(path, ROOT));
      }
    }
  };
  for (const folder of ["src/", "ffi/", "tests/", "bench/", "examples/"]) {
    try {
      await visit(folder);
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  }
  tree["mod.ts"] = await Deno.readTextFile(new URL("mod.ts", ROOT));
  return tree;
}

const MODULE = "/** A module.\n *\n * @module\n */\n";
const EXPORTS = { ".": "./mod.ts", "./cli": "./src/cli/main.ts" };

/** A tree without a fault; each case below spoils one thing in it. */
const CLEAN: Tree = {
  "mod.ts": `${MODULE}export {\n  disk,\n} from "./src/disk/disk.ts";\n`,
  "src/cli/main.ts":
    `${MODULE}import { parseArgs } from "@std/cli/parse-args";\n` +
    `import { disk } from "../../mod.ts";\nconsole.log(parseArgs, disk);\n`,
  "src/disk/disk.ts": `${MODULE}export { queue as disk } from "../queue.ts";\n`,
  "src/queue.ts":
    `${MODULE}import type { Faults } from "./layers/faults.ts";\n` +
    `export const queue = () => import("./backends/direct/mod.ts");\n`,
  "src/layers/faults.ts":
    `${MODULE}import "./overlay.ts";\nimport "../backends/memory.ts";\n`,
  "src/layers/overlay.ts": MODULE,
  "src/backends/memory.ts": `${MODULE}import "../request.ts";\n`,
  "src/backends/direct/mod.ts": `${MODULE}import "./ring.ts";\n`,
  "src/backends/direct/ring.ts":
    `${MODULE}import "../../../ffi/ring.ts";\nimport "node:fs";\n`,
  "src/request.ts": `${MODULE}// See https://example.org; import "./disk.ts"\n`,
  "ffi/ring.ts": `${MODULE}Deno.dlopen("libc.so.6", {});\n`,
  "examples/demo.ts": `import { disk } from "@platter/disk";\n`,
  "tests/ring_test.ts": `import "../ffi/ring.ts";\n`,
};

/** CLEAN with files added, or with lines added to the files it has. */
function spoiled(changes: Tree): Tree {
  const tree = { ...CLEAN };
  for (const [path, lines] of Object.entries(changes)) {
    tree[path] = `${tree[path] ?? ""}${lines}\n`;
  }
  return tree;
}

Deno.test("tidy() finds nothing in a clean tree", () => {
  assertEquals(tidy(CLEAN, EXPORTS), []);
});

const CASES: [title: string, changes: Tree, faults: string[]][] = [
  [
    "an import that goes up",
    { "src/layers/overlay.ts": `import { queue } from "../queue.ts";` },
    [
      "src/layers/overlay.ts: imports src/queue.ts: layers may not import queue",
      "import cycle: src/queue.ts -> src/layers/faults.ts -> " +
      "src/layers/overlay.ts -> src/queue.ts",
    ],
  ],
  [
    "a type import that goes up",
    { "src/request.ts": `type M = import("./backends/memory2.ts").Memory;` },
    [
      "src/request.ts: imports src/backends/memory2.ts: " +
      "vocabulary may not import backends",
    ],
  ],
  [
    "a protocol importing who speaks it",
    {
      "src/protocol/nbd/reader.ts":
        `${MODULE}import "../../request.ts";\nimport "../../backends/memory.ts";`,
      "src/backends/memory.ts": `import "../protocol/nbd/reader.ts";`,
    },
    [
      "src/protocol/nbd/reader.ts: imports src/backends/memory.ts: " +
      "protocol may not import backends",
      "import cycle: src/backends/memory.ts -> src/protocol/nbd/reader.ts -> " +
      "src/backends/memory.ts",
    ],
  ],
  [
    "the vocabulary importing a protocol",
    {
      "src/protocol/nbd/uri.ts": MODULE,
      "src/request.ts": `import "./protocol/nbd/uri.ts";`,
    },
    [
      "src/request.ts: imports src/protocol/nbd/uri.ts: " +
      "vocabulary may not import protocol",
    ],
  ],
  [
    "mod.ts importing a face",
    { "mod.ts": `export { server } from "./src/nbd/server.ts";` },
    ["mod.ts: imports src/nbd/server.ts: mod may not import faces"],
  ],
  [
    "a backend's room used by a face",
    {
      "src/nbd/server.ts": `${MODULE}import "../backends/direct/ring.ts";`,
      "src/cli/main.ts": `import "../nbd/server.ts";`,
    },
    [
      "src/nbd/server.ts: imports src/backends/direct/ring.ts: " +
      "src/backends/direct/ is entered by its mod.ts",
    ],
  ],
  [
    "the engines' room used by a backend",
    {
      "src/engines/mod.ts": `${MODULE}import "./aio.ts";`,
      "src/engines/aio.ts": MODULE,
      "src/engines/windows/mod.ts": `${MODULE}import "./port.ts";`,
      "src/engines/windows/port.ts": MODULE,
      "src/backends/memory.ts": [
        `import "../engines/mod.ts";`,
        `import "../engines/aio.ts";`,
        `import "../engines/windows/mod.ts";`,
        `import "../engines/windows/port.ts";`,
      ].join("\n"),
    },
    [
      "src/backends/memory.ts: imports src/engines/aio.ts: " +
      "src/engines/ is entered by its mod.ts",
      "src/backends/memory.ts: imports src/engines/windows/port.ts: " +
      "src/engines/windows/ is entered by its mod.ts",
    ],
  ],
  [
    "an engine importing a backend",
    {
      "src/engines/mod.ts": `${MODULE}import "../backends/memory.ts";`,
      "src/queue.ts": `import "./engines/mod.ts";`,
    },
    [
      "src/engines/mod.ts: imports src/backends/memory.ts: " +
      "engines may not import backends",
    ],
  ],
  [
    "ffi/ imported from outside the direct backend",
    { "src/backends/memory.ts": `export * from "../../ffi/ring.ts";` },
    [
      "src/backends/memory.ts: imports ffi/ring.ts: " +
      "only src/engines, src/backends/direct, src/backends/rbd and src/vhost may import ffi/",
    ],
  ],
  [
    "ffi/ importing from outside",
    { "ffi/ring.ts": `import "../src/errors.ts";\nimport "node:fs";` },
    [
      "ffi/ring.ts: imports node:fs: ffi/ imports nothing outside ffi/",
      "ffi/ring.ts: imports src/errors.ts: ffi/ imports nothing outside ffi/",
    ],
  ],
  [
    "what differs by runtime importing who asks it",
    {
      "src/platform/system.ts": `${MODULE}import "../request.ts";`,
      "src/request.ts": `import "./platform/system.ts";`,
    },
    [
      "src/platform/system.ts: imports src/request.ts: " +
      "platform may not import vocabulary",
      "import cycle: src/request.ts -> src/platform/system.ts -> src/request.ts",
    ],
  ],
  [
    "a package below the command line",
    { "src/disk/disk.ts": `import { delay } from "@std/async";` },
    ["src/disk/disk.ts: imports @std/async: the library depends on no package"],
  ],
  [
    "what reads file systems, elsewhere or in no version",
    {
      "src/disk/disk.ts": `import "npm:7z-wasm@1.2.0/7zz.es6.js";`,
      "src/files/seven_zip_worker.ts":
        `${MODULE}import "npm:7z-wasm/7zz.es6.js";\n` +
        `import "npm:7z-wasm@1.2.0/7zz.es6.js";`,
      "src/cli/main.ts":
        `new URL("../files/seven_zip_worker.ts", import.meta.url);`,
    },
    [
      "src/disk/disk.ts: imports npm:7z-wasm@1.2.0/7zz.es6.js: " +
      "the library depends on no package",
      "src/files/seven_zip_worker.ts: imports npm:7z-wasm/7zz.es6.js: " +
      "the library depends on no package",
    ],
  ],
  [
    "the package imported by its own name",
    { "src/cli/main.ts": `import { disk } from "@platter/disk";` },
    ["src/cli/main.ts: imports mod.ts: import own files by their path"],
  ],
  [
    "a cycle on one floor",
    { "src/layers/overlay.ts": `import type { F } from "./faults.ts";` },
    [
      "import cycle: src/layers/faults.ts -> src/layers/overlay.ts -> " +
      "src/layers/faults.ts",
    ],
  ],
  [
    "a folder without a floor",
    { "src/extra/x.ts": MODULE, "src/cli/main.ts": `import "../extra/x.ts";` },
    ["src/extra/x.ts: stands on no floor"],
  ],
  [
    "a dead file",
    { "src/dead.ts": MODULE, "tests/dead_test.ts": `import "../src/dead.ts";` },
    ["src/dead.ts: no export, example or benchmark reaches it"],
  ],
  [
    "FFI outside ffi/",
    { "src/backends/direct/mod.ts": "Deno.UnsafePointer.of(x);" },
    ["src/backends/direct/mod.ts:6: Deno.UnsafePointer is not allowed here"],
  ],
  [
    "FFI taken out of the namespace",
    { "src/backends/direct/mod.ts": "const { dlopen } = Deno;" },
    ["src/backends/direct/mod.ts:6: } = Deno; is not allowed here"],
  ],
  [
    "a computed dynamic import",
    { "src/backends/direct/mod.ts": "await import(name);" },
    [
      "src/backends/direct/mod.ts: " +
      "a dynamic import names its file as a plain string",
    ],
  ],
  [
    "a name that is not snake_case",
    { "tests/ringTest.ts": "", "bench/my-bench/main.ts": "" },
    [
      "tests/ringTest.ts: the name is not snake_case",
      "bench/my-bench/main.ts: the name is not snake_case",
    ],
  ],
  [
    "a long line, but not a long link or a long text",
    {
      "src/disk/disk.ts":
        `// ${"x".repeat(98)}\n// https://${"x".repeat(98)}\n` +
        `throw new Error("${"x".repeat(98)}");`,
    },
    ["src/disk/disk.ts:6: longer than 100 columns"],
  ],
  [
    "a console outside the command line",
    { "src/disk/disk.ts": "console.error(1);" },
    ["src/disk/disk.ts:6: console.error is not allowed here"],
  ],
  [
    "an address of what nothing refers to",
    { "src/queue.ts": "use(addressOf(alignedMemory(512)));" },
    ["src/queue.ts:7: addressOf(alignedMemory is not allowed here"],
  ],
  [
    "work left for later",
    {
      "src/disk/disk.ts": "// TODO: more",
      "tests/ring_test.ts": "/* FIXME */",
    },
    [
      "src/disk/disk.ts:6: TODO is not allowed here",
      "tests/ring_test.ts:2: FIXME is not allowed here",
    ],
  ],
  [
    "types switched off",
    {
      "src/disk/disk.ts": "// @ts-ignore because",
      "src/queue.ts": "// deno-lint-ignore no-explicit-any",
    },
    [
      "src/disk/disk.ts:6: @ts-ignore is not allowed here",
      "src/queue.ts:7: deno-lint-ignore no-explicit-any is not allowed here",
    ],
  ],
  [
    "a module without its comment",
    {
      "ffi/poll.ts": "/** Not the module's. */",
      "bench/x.ts": `import "../ffi/poll.ts";`,
    },
    ["ffi/poll.ts: does not begin with a comment marked @module"],
  ],
  [
    "an export that nothing but tests uses",
    {
      "src/queue.ts": [
        "export const spare = 1;",
        "export type Named = { from: string };",
        "export const named: Named = { from: '' };",
        "export const measured = 2; // spare, spare",
      ].join("\n"),
      "src/disk/disk.ts": `export { named } from "../queue.ts";`,
      "bench/x.ts": `import { measured } from "../src/queue.ts";`,
      "tests/ring_test.ts":
        `import { measured, spare } from "../src/queue.ts";`,
    },
    ["src/queue.ts: nothing but tests uses spare"],
  ],
  [
    "a member of a class that nothing but tests uses",
    {
      "src/request.ts": [
        "export class Ring {",
        "  entries = 8;",
        "  get room(): number {",
        "    return this.entries;",
        "  }",
        "  enter(): void {}",
        "}",
      ].join("\n"),
      "src/queue.ts": [
        `import { Ring } from "./request.ts";`,
        "const { enter } = new Ring();",
        "export class Open { shown = enter; }",
        "export class Shown {",
        "  forUsers(): void {}",
        "}",
      ].join("\n"),
      "mod.ts": `export { Open, Shown } from "./src/queue.ts";`,
      "tests/ring_test.ts":
        `import { Ring } from "../src/request.ts";\nnew Ring().room;`,
    },
    ["src/request.ts: nothing but tests uses Ring.room"],
  ],
  [
    "mod.ts with code of its own",
    { "mod.ts": "export const one = 1;" },
    ["mod.ts: does more than re-export"],
  ],
];

for (const [title, changes, faults] of CASES) {
  Deno.test(`tidy() reports ${title}`, () => {
    assertEquals(tidy(spoiled(changes), EXPORTS).toSorted(), faults.toSorted());
  });
}

Deno.test("tidy() ignores imports that stand in comments", () => {
  const source = `/**\n * import "./a.ts";\n */\n// import "./b.ts";\n` +
    `/* export * from "./c.ts"; */\nimport "./d.ts"; // import("./e.ts")\n`;
  assertEquals(specifiersOf(source), ["./d.ts"]);
});

Deno.test("the repository is tidy", async () => {
  const config = JSON.parse(
    await Deno.readTextFile(new URL("deno.json", ROOT)),
  ) as { exports: Record<string, string> };
  assertEquals(tidy(await readTree(), config.exports), []);
});
