/**
 * Runs the tests of the library on Node.js and Bun: `deno task runtimes [NAME…]`,
 * what CI runs with `--short`. `--all` has every file of its folders, many of which
 * need what only Deno's tests have: a list to look through. It runs as many files at
 * once as there are processors, prints one table, and fails if a test fails that is
 * not in `differences.ts`, or if one is there that passes everywhere.
 *
 * @module
 */

import { DIFFERENCES } from "./differences.ts";
import { makeNpmPackage } from "./npm_package.ts";
import {
  install,
  type Installed,
  type OtherRuntime,
  RUNTIMES,
} from "./runtimes.ts";

const HERE = new URL("./", import.meta.url);
const ROOT = new URL("../../", import.meta.url);

/** How long a program may say nothing: a busy machine is slow, and no reason to fail. */
const SILENCE_MS = 600_000;

/** Suites by the row that they are in; the second ones are for `--all`. */
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
    [
      "tests/backends/direct",
      "tests/engines",
      "tests/backends/file_claim_test.ts",
    ],
  ],
  [
    "loop",
    ["tests/engines/stall_test.ts"],
    ["tests/engines/sockets_test.ts"],
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

/**
 * Not even to be tried: a file system over a disk of this very process, whose only
 * thread Bun has wait in calls for what it is to serve. The whole system's sync(2)
 * would wait with it.
 */
const DENO_ONLY: readonly string[] = ["tests/nbd/interop_test.ts"];

/** The rows of `--short`: what holds the contract of backends, and who serves it. */
const SHORT: readonly string[] = [
  ...["memory", "queue", "portable", "direct", "NBD client", "NBD server"],
];

/** Programs of the npm package: ours, and what JSR's is started by, docs/platforms.md. */
const COMMANDS: readonly string[] = [
  "node_modules/.bin/platter",
  "node_modules/@jsr/platter__disk/src/cli/main.js",
];

/** What a test came to. */
interface Result {
  readonly file: string;
  readonly name: string;
  readonly outcome: "ok" | "skipped" | "needs-deno" | "failed";
  readonly why: string;
}

/** How often what came about, by its word in the table. */
const WORDS = ["passed", "failed", "differ", "skipped"] as const;

type Tally = Record<typeof WORDS[number], number>;

const newTally = (): Tally => ({ passed: 0, failed: 0, differ: 0, skipped: 0 });

/** The tally of a row on a runtime. */
function tallyOf(
  tallies: Map<string, Tally>,
  runtime: string,
  row: string,
): Tally {
  const key = `${runtime}: ${row}`;
  const tally = tallies.get(key) ?? newTally();
  tallies.set(key, tally);
  return tally;
}

function textOf(tally: Tally): string {
  return WORDS.filter((word) => word === "passed" || tally[word] > 0)
    .map((word) => `${tally[word]} ${word === "failed" ? "FAILED" : word}`)
    .join(", ");
}

async function filesIn(path: string): Promise<string[]> {
  if (path.endsWith(".ts")) return [path];
  const found: string[] = [];
  for await (const { name } of Deno.readDir(new URL(path, ROOT))) {
    // What a compiler says of tables is the same on every runtime.
    if (!/(?<!_header)_test\.ts$/.test(name)) continue;
    if (DENO_ONLY.includes(`${path}/${name}`)) continue;
    found.push(`${path}/${name}`);
  }
  return found.toSorted();
}

/** The rows that are wanted, with their files. */
async function rowsOf(
  wantsAll: boolean,
  wantsShort: boolean,
): Promise<(readonly [row: string, files: ReadonlySet<string>])[]> {
  const wanted = ROWS.filter(([row]) => !wantsShort || SHORT.includes(row));
  return await Promise.all(wanted.map(async ([row, files, all]) => {
    const paths = wantsAll ? [...files, ...all] : files;
    const found = await Promise.all(paths.map(filesIn));
    return [row, new Set(found.flat())] as const;
  }));
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

/** Runs a file of tests in a process of its own. */
async function run(
  { program, env }: Installed,
  hooks: readonly string[],
  file: string,
  assertions: string,
): Promise<Result[]> {
  const silence = new AbortController();
  const child = new Deno.Command(program, {
    args: [...hooks, new URL("child.ts", HERE).pathname, file],
    cwd: ROOT,
    env: { ...env, PLATTER_STD_ASSERT: assertions },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
    signal: silence.signal,
  }).spawn();
  // A line for each test.
  const [stdout, stderr, { code, signal }] = await Promise.all([
    textUntilSilence(child.stdout, silence),
    new Response(child.stderr).text(),
    child.status,
  ]);
  const results = resultsIn(stdout);
  if (code !== 0) {
    const last = results.at(-1)?.name ?? "none";
    const said = stderr.slice(-2000);
    const why = `It ends with ${signal ?? code} after "${last}": ${said}`;
    results.push({ file, name: "(the process)", outcome: "failed", why });
  }
  return results;
}

/** What a program prints, until it ends or says nothing for too long. */
async function textUntilSilence(
  output: ReadableStream<Uint8Array<ArrayBuffer>>,
  silence: AbortController,
): Promise<string> {
  const reader = output.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const timer = setTimeout(() => {
      silence.abort();
      reader.cancel().catch(() => {});
    }, SILENCE_MS);
    const { value, done } = await reader.read();
    clearTimeout(timer);
    if (done) return text;
    text += value;
  }
}

/** Does all of it, so much at once. */
async function doAll(
  work: readonly (() => Promise<void>)[],
  atOnce: number,
): Promise<void> {
  const rest = work.values();
  await Promise.all(Array.from({ length: atOnce }, async () => {
    for (const one of rest) await one();
  }));
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
  runtime: OtherRuntime,
  { program }: Installed,
  folder: string,
): Promise<Result[]> {
  const output = async (program: string, ...args: string[]) => {
    const { code, stdout, stderr } = await new Deno.Command(program, {
      args,
      cwd: folder,
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
      signal: AbortSignal.timeout(SILENCE_MS),
    }).output();
    const [answer, complaint] = [stdout, stderr].map((bytes) =>
      new TextDecoder().decode(bytes)
    );
    return { code, answer: answer!, complaint: complaint! };
  };
  const used = await output(program, "npm_user.js");
  const results = resultsIn(used.answer);
  if (results.length === 0) {
    const why = used.complaint;
    results.push({ file: "npm_user.js", name: "-", outcome: "failed", why });
  }
  const commands = [{ program, code: 0, says: /^Usage: platter copy/m }];
  for (const { packages, ...expected } of runtime.commands ?? []) {
    const { program } = await install({ ...runtime, packages });
    commands.push({ program, ...expected });
  }
  for (const { program, code, says } of commands) {
    for (const file of COMMANDS) {
      const { answer, complaint, ...is } = await output(
        program,
        file,
        "help",
        "copy",
      );
      results.push({
        file,
        name: `platter help copy, by ${program}`,
        outcome: is.code === code && says.test(answer + complaint)
          ? "ok"
          : "failed",
        why: `Exit code ${is.code}: ${answer}${complaint}`,
      });
    }
  }
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
  const unknown = args.find((arg) =>
    arg.startsWith("-") && !["--all", "--short"].includes(arg)
  );
  if (unknown !== undefined) {
    console.error(`Cannot take ${unknown} as there is --short and --all`);
    return 2;
  }
  const wantsAll = args.includes("--all");
  const names = args.filter((arg) => !arg.startsWith("-"));
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
  const rows = await rowsOf(wantsAll, args.includes("--short"));
  const assertions = await bundleAssertions();
  const folder = await installPackage();
  const began = performance.now();
  const tallies = new Map<string, Tally>();
  const failures: string[] = [];
  const seen = new Set<unknown>();

  /** Counts what came about, and tells at once what failed. */
  function count(runtime: string, row: string, results: readonly Result[]) {
    const tally = tallyOf(tallies, runtime, row);
    for (const result of results) {
      if (result.outcome === "ok") tally.passed++;
      else if (result.outcome !== "failed") tally.skipped++;
      else {
        const difference = differenceOf(runtime, result);
        if (difference !== undefined) {
          tally.differ++;
          seen.add(difference);
          continue;
        }
        tally.failed++;
        const { file, name, why } = result;
        failures.push(`${runtime}: ${file}: ${name}\n${why}`);
        console.error(`FAILED ${failures.at(-1)}`);
      }
    }
  }

  try {
    const work: (() => Promise<void>)[] = [];
    for (const runtime of chosen) {
      const { name } = runtime;
      const installed = await install(runtime);
      const add = (row: string, title: string, act: () => Promise<Result[]>) =>
        work.push(async () => {
          const started = performance.now();
          count(name, row, await act());
          const seconds = (performance.now() - started) / 1000;
          console.error(`${seconds.toFixed(1)} s ${name}: ${title}`);
        });
      const hooks = runtime.hooks(HERE);
      for (const [row, files] of rows) {
        for (const file of files) {
          add(row, file, () => run(installed, hooks, file, assertions));
        }
      }
      const row = "npm package";
      add(row, row, () => usePackage(runtime, installed, folder));
    }
    await doAll(work, navigator.hardwareConcurrency);
  } finally {
    await Deno.remove(assertions);
    await Deno.remove(folder, { recursive: true });
  }
  // What has run no file counts as what nothing has passed in.
  for (const { name } of chosen) {
    for (const [row] of [...rows, ["npm package"] as const]) {
      tallyOf(tallies, name, row);
    }
  }
  const totals: Tally = newTally();
  for (const [key, tally] of tallies) {
    // Where nothing passes, nothing was tried.
    if (tally.passed === 0) {
      tally.failed++;
      failures.push(`${key}: no test has passed`);
    }
    for (const word of WORDS) totals[word] += tally[word];
  }
  const table = [
    ["", ...chosen.map(({ name }) => name)],
    ...[...rows.map(([row]) => row), "npm package"].map((row) => [
      row,
      ...chosen.map(({ name }) => textOf(tallyOf(tallies, name, row))),
    ]),
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
      failures.push(`Nothing differs any more in ${each.file}: ${each.name}`);
    }
  }
  // As `deno test` tells it, here and below, for who reads the log of all.
  if (failures.length > 0) {
    console.log(`\n ERRORS \n\n${failures.join("\n\n")}`);
  }
  const seconds = Math.round((performance.now() - began) / 1000);
  console.log(
    `\n${
      totals.failed === 0 ? "ok" : "FAILED"
    } | ${totals.passed} passed | ${totals.failed} failed | ${
      totals.skipped + totals.differ
    } ignored (${seconds}s)`,
  );
  return totals.failed === 0 ? 0 : 1;
}

Deno.exit(await main(Deno.args));
