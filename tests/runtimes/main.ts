/**
 * Runs the tests of the library on Node.js and Bun: `deno task runtimes [NAME…]`,
 * all of them with `--all`, prints one table, and fails if a test fails that is
 * not in `differences.ts`, or if one is there that passes everywhere.
 *
 * @module
 */

import { DIFFERENCES } from "./differences.ts";
import { makeNpmPackage } from "./npm_package.ts";
import { install, type Installed, RUNTIMES } from "./runtimes.ts";

const HERE = new URL("./", import.meta.url);
const ROOT = new URL("../../", import.meta.url);

/** How long the tests of one row may take on one runtime. */
const DEADLINE_MS = 600_000;

/** Suites by the row that they are in; the last are for `--all`. */
const ROWS: readonly (readonly [
  row: string,
  files: readonly string[],
  all: readonly string[],
])[] = [
  ["memory", ["tests/backends/memory_test.ts"], []],
  ["queue", ["tests/queue_test.ts", "tests/order_test.ts"], []],
  [
    "portable",
    ["tests/backends/portable/backend_test.ts"],
    ["tests/backends/portable"],
  ],
  [
    "direct",
    [
      "tests/backends/direct/contract_test.ts",
      "tests/backends/direct/errors_test.ts",
    ],
    ["tests/backends/direct", "tests/backends/file_claim_test.ts"],
  ],
  [
    "loop",
    ["tests/backends/direct/stall_test.ts"],
    ["tests/backends/direct/sockets_test.ts"],
  ],
  ["foreign functions", ["tests/ffi"], []],
  [
    "disk",
    ["tests/disk/disk_test.ts", "tests/disk/sync_disk_test.ts"],
    ["tests/disk"],
  ],
  ["layers", ["tests/layers/contract_test.ts"], ["tests/layers"]],
  [
    "NBD client",
    ["tests/backends/nbd/client_test.ts"],
    ["tests/backends/nbd", "tests/protocol/nbd"],
  ],
  ["NBD server", ["tests/nbd/server_test.ts"], ["tests/nbd"]],
  [
    "partitions",
    [
      "tests/image/read_partitions_test.ts",
      "tests/image/write_partitions_test.ts",
    ],
    ["tests/image"],
  ],
  [
    "crash states",
    [
      "tests/testing/explore_crashes_test.ts",
      "tests/testing/crash_model_test.ts",
    ],
    ["tests/testing"],
  ],
];

/** What a test came to. */
interface Result {
  readonly file: string;
  readonly name: string;
  readonly outcome: "ok" | "skipped" | "needs-deno" | "failed";
  readonly why: string;
}

async function filesIn(path: string): Promise<string[]> {
  if (path.endsWith(".ts")) return [path];
  const found: string[] = [];
  for await (const { name } of Deno.readDir(new URL(path, ROOT))) {
    if (name.endsWith("_test.ts")) found.push(`${path}/${name}`);
  }
  return found.toSorted();
}

/** The assertions as one file that any runtime loads. */
async function bundleAssertions(): Promise<string> {
  const path = await Deno.makeTempFile({ suffix: ".js" });
  const { success, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["bundle", "--quiet", "-o", path, "std/assert/mod.ts"],
    cwd: ROOT,
    stdout: "null",
    stderr: "piped",
  }).output();
  if (success) return path;
  throw new Error(new TextDecoder().decode(stderr));
}

/** Runs files of tests, each in a process of its own. */
async function run(
  { program, env }: Installed,
  hooks: readonly string[],
  files: readonly string[],
  assertions: string,
): Promise<Result[]> {
  const results: Result[] = [];
  for (const file of files) {
    const end = AbortSignal.timeout(DEADLINE_MS);
    const { stdout, stderr, code } = await new Deno.Command(program, {
      args: [...hooks, new URL("child.ts", HERE).pathname, file],
      cwd: ROOT,
      env: { ...env, PLATTER_STD_ASSERT: assertions },
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
      signal: end,
    }).output();
    results.push(...resultsIn(new TextDecoder().decode(stdout)));
    if (code !== 0) {
      const why = new TextDecoder().decode(stderr).slice(-2000);
      const outcome = "failed";
      results.push({ file, name: "(the process)", outcome, why });
    }
  }
  return results;
}

/** Installs the package as npm does, and a program that uses it beside it. */
async function installPackage(): Promise<string> {
  const folder = await Deno.makeTempDir({
    dir: "/var/tmp",
    prefix: "platter-",
  });
  const tarball = await makeNpmPackage(folder);
  await Deno.writeTextFile(`${folder}/package.json`, '{ "type": "module" }\n');
  await Deno.copyFile(
    new URL("npm_user.js", HERE),
    `${folder}/npm_user.js`,
  );
  const { success, stderr } = await new Deno.Command("npm", {
    args: ["install", "--no-audit", "--no-fund", "--no-package-lock", tarball],
    cwd: folder,
    stdout: "null",
    stderr: "piped",
  }).output();
  if (!success) throw new Error(new TextDecoder().decode(stderr));
  return folder;
}

/** Uses the installed package: by a program, and by its command line. */
async function usePackage(
  { program }: Installed,
  folder: string,
): Promise<Result[]> {
  const output = async (...args: string[]) => {
    const { stdout, stderr } = await new Deno.Command(program, {
      args,
      cwd: folder,
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
      signal: AbortSignal.timeout(DEADLINE_MS),
    }).output();
    const [answer, complaint] = [stdout, stderr].map((bytes) =>
      new TextDecoder().decode(bytes)
    );
    return { answer: answer!, complaint: complaint! };
  };
  const used = await output("npm_user.js");
  const results = resultsIn(used.answer);
  const command = await output("node_modules/.bin/platter", "help", "copy");
  const told = /^Usage: platter copy/m.test(command.answer);
  results.push({
    file: "bin",
    name: "platter help copy",
    outcome: told && results.length > 0 ? "ok" : "failed",
    why: command.complaint + used.complaint,
  });
  return results;
}

/** Tests print figures of their own, too. */
function resultsIn(text: string): Result[] {
  return text.split("\n").filter((line) => line.startsWith('{"file":'))
    .map((line) => JSON.parse(line));
}

/** Why a test may fail there; undefined if it may not. */
function differenceOf(runtime: string, { file, name }: Result) {
  return DIFFERENCES.find((each) =>
    each.file === file && each.name.test(name) &&
    each.on.some((prefix) => runtime.startsWith(prefix))
  );
}

async function main(args: readonly string[]): Promise<number> {
  const wantsAll = args.includes("--all");
  const names = args.filter((arg) => !arg.startsWith("--"));
  const chosen = RUNTIMES.filter(({ name }) =>
    names.length === 0 ||
    names.some((each) => name.toLowerCase().startsWith(each.toLowerCase()))
  );
  if (chosen.length === 0) {
    console.error(
      `Cannot run on ${names} as there is ${
        RUNTIMES.map(({ name }) => name).join(", ")
      }`,
    );
    return 2;
  }
  const assertions = await bundleAssertions();
  const folder = await installPackage();
  const began = performance.now();
  const totals = { ok: 0, failed: 0, skipped: 0 };
  const cells = new Map<string, string[]>();
  const seen = new Set<unknown>();

  function count(runtime: string, row: string, results: readonly Result[]) {
    const count = { ok: 0, differs: 0, skipped: 0, failed: 0 };
    for (const result of results) {
      if (result.outcome === "ok") count.ok++;
      else if (result.outcome !== "failed") count.skipped++;
      else {
        const difference = differenceOf(runtime, result);
        if (difference !== undefined) {
          count.differs++;
          seen.add(difference);
          continue;
        }
        count.failed++;
        const { file, name, why } = result;
        console.log(`\n${runtime}: ${file}: ${name}\n${why}`);
      }
    }
    if (count.ok === 0) {
      count.failed++;
      console.log(`\n${runtime}: no test of "${row}" has passed`);
    }
    totals.ok += count.ok;
    totals.failed += count.failed;
    totals.skipped += count.skipped + count.differs;
    const text = [
      `${count.ok} passed`,
      ...(count.failed > 0 ? [`${count.failed} FAILED`] : []),
      ...(count.differs > 0 ? [`${count.differs} differ`] : []),
      ...(count.skipped > 0 ? [`${count.skipped} skipped`] : []),
    ].join(", ");
    cells.set(row, [...cells.get(row) ?? [], text]);
  }

  try {
    for (const runtime of chosen) {
      const installed = await install(runtime);
      for (const [row, short, all] of ROWS) {
        const paths = wantsAll ? [...short, ...all] : short;
        const files = (await Promise.all(paths.map(filesIn))).flat();
        const hooks = runtime.hooks(HERE);
        const once = [...new Set(files)];
        count(runtime.name, row, await run(installed, hooks, once, assertions));
      }
      count(runtime.name, "npm package", await usePackage(installed, folder));
    }
  } finally {
    await Deno.remove(assertions);
    await Deno.remove(folder, { recursive: true });
  }
  const table = [
    ["", ...chosen.map(({ name }) => name)],
    ...[...cells].map(([row, texts]) => [row, ...texts]),
  ];
  const widths = table[0]!.map((_, i) =>
    Math.max(...table.map((row) => row[i]!.length))
  );
  console.log();
  for (const row of table) {
    console.log(
      row.map((cell, i) => cell.padEnd(widths[i]!)).join("  ").trim(),
    );
  }
  console.log("\nWhat differs, and why:");
  for (const { file, on, why } of DIFFERENCES) {
    console.log(`- ${on.join(", ")}: ${why} (${file})`);
  }
  if (wantsAll && names.length === 0) {
    for (const each of DIFFERENCES) {
      if (seen.has(each)) continue;
      totals.failed++;
      console.log(`\nNothing differs any more in ${each.file}: ${each.name}`);
    }
  }
  const seconds = Math.round((performance.now() - began) / 1000);
  // As `deno test` closes, for who counts.
  console.log(
    `\n${
      totals.failed === 0 ? "ok" : "FAILED"
    } | ${totals.ok} passed | ${totals.failed} failed | ${totals.skipped} ignored (${seconds}s)`,
  );
  return totals.failed === 0 ? 0 : 1;
}

Deno.exit(await main(Deno.args));
