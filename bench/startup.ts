/**
 * How long the command line takes to start: `platter info` of a small image, with
 * its modules in Deno's cache, beside `qemu-img info`, and what of it is the
 * runtime's. Each row is a process of its own; rows take turns, so that a busy
 * machine is as busy for all of them.
 *
 * ```sh
 * deno task bench:startup --runs 20
 * ```
 *
 * @module
 */

import { parseArgs } from "@std/cli/parse-args";

/** What is run, one after the other. */
interface Row {
  /** What it shows. */
  readonly title: string;
  readonly command: readonly [program: string, ...args: string[]];
}

const MAIN = new URL("../src/cli/main.ts", import.meta.url).pathname;
const DISK = new URL("../src/disk/disk.ts", import.meta.url).pathname;

const { runs: typed } = parseArgs(Deno.args, {
  string: ["runs"],
  default: { runs: "20" },
});
const runs = Number(typed);
if (!Number.isSafeInteger(runs) || runs < 1) {
  console.error(
    `Cannot run as --runs must be a whole number above 0: current value is ${typed}`,
  );
  Deno.exit(2);
}

const dir = await Deno.makeTempDir({ prefix: "platter-startup-" });
try {
  const image = `${dir}/disk.img`;
  await Deno.writeFile(image, new Uint8Array(1 << 20).fill(1));
  await Deno.writeTextFile(`${dir}/empty.ts`, "export {};\n");
  await Deno.writeTextFile(`${dir}/fs.ts`, `import "node:fs";\n`);
  const deno = (...args: string[]): Row["command"] => [
    Deno.execPath(),
    "run",
    "--allow-all",
    "--no-check",
    ...args,
  ];
  const rows: Row[] = [
    { title: "qemu-img info", command: ["qemu-img", "info", image] },
    { title: "Deno, an empty module", command: deno(`${dir}/empty.ts`) },
    { title: "Deno, node:fs", command: deno(`${dir}/fs.ts`) },
    { title: "import of VirtualDisk", command: deno(DISK) },
    { title: "platter --version", command: deno(MAIN, "--version") },
    { title: "platter info", command: deno(MAIN, "info", image) },
    {
      title: "platter info, without FFI",
      command: deno("--deny-ffi", MAIN, "info", image),
    },
  ];
  const times = new Map<Row, number[]>(rows.map((row) => [row, []]));
  for (let run = 0; run <= runs; run++) {
    for (const row of run % 2 === 0 ? rows : rows.toReversed()) {
      const ms = await timeOf(row);
      // The first turn fills the caches.
      if (run > 0 && ms !== null) times.get(row)!.push(ms);
    }
  }
  console.log(`${runs} runs of each in turn, in ms\n`);
  console.log("                            least  median");
  for (const [{ title }, all] of times) {
    all.sort((a, b) => a - b);
    const text = all.length === 0
      ? "not here"
      : [all[0]!, all[all.length >> 1]!].map((ms) => ms.toFixed(0).padStart(6))
        .join("  ");
    console.log(`${title.padEnd(26)} ${text}`);
  }
} finally {
  await Deno.remove(dir, { recursive: true });
}

/** How long a process takes, in ms; `null` if there is no such program. */
async function timeOf({ title, command }: Row): Promise<number | null> {
  const [program, ...args] = command;
  const start = performance.now();
  try {
    const { success, stderr } = await new Deno.Command(program, {
      args,
      stdout: "null",
    }).output();
    const ms = performance.now() - start;
    if (success) return ms;
    throw new Error(
      `Cannot measure "${title}" as it fails: ${
        new TextDecoder().decode(stderr)
      }`,
    );
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
}
