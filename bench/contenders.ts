/**
 * The contenders, each in a process of its own.
 *
 * @module
 */

import { fioArguments, fioError, parseFio } from "./peers/fio.ts";
import type { PlatterOptions } from "./platter.ts";
import { type Measurement, Unavailable, type Work } from "./work.ts";

/** What a measurement is taken on. */
export type Target =
  | "image"
  | "buffered image"
  | "ram disk"
  | "large image"
  | "memory";

/** Somebody who takes measurements. */
export interface Contender {
  /** As the table shows it; the same name is the same line of the chart. */
  readonly name: string;
  /** What it is measured on, if not on what the case says. */
  readonly target?: Target;
  /**
   * Takes one measurement.
   *
   * @param work The measurement.
   * @param signal Ends it.
   * @returns What came out.
   * @throws {Unavailable} If it cannot take part here.
   */
  measure(work: Work, signal: AbortSignal): Promise<Measurement>;
  /**
   * The same by another tree of Platter; only Platter has it.
   *
   * @param root Where the tree is, as a URL that ends with a slash.
   * @param name What to call it.
   * @returns The contender.
   */
  inTree?(root: string, name: string): Contender;
}

/** Runs a program to its end. */
async function run(
  command: string,
  args: string[],
  signal: AbortSignal,
): Promise<{ success: boolean; stdout: string; stderr: string }> {
  signal.throwIfAborted();
  try {
    const output = await new Deno.Command(command, {
      args,
      signal,
      stdin: "null",
      env: { NO_COLOR: "1", DENO_NO_UPDATE_CHECK: "1" },
    }).output();
    signal.throwIfAborted();
    const decoder = new TextDecoder();
    return {
      success: output.success,
      stdout: decoder.decode(output.stdout),
      stderr: decoder.decode(output.stderr),
    };
  } catch (error) {
    signal.throwIfAborted();
    if (error instanceof Deno.errors.NotFound) {
      throw new Unavailable(`${command} is not installed`);
    }
    throw error;
  }
}

/** Runs a script that prints a measurement as its last line. */
async function runScript(
  command: string,
  args: string[],
  signal: AbortSignal,
): Promise<Measurement> {
  const { success, stdout, stderr } = await run(command, args, signal);
  if (!success) {
    // Node shows the source first, Deno the error.
    const line = stderr.split("\n").find((line) => /\w: /.test(line)) ?? stderr;
    throw new Error(line.replace(/^error: (Uncaught )?(\(in promise\) )?/, ""));
  }
  return JSON.parse(stdout.trimEnd().split("\n").at(-1)!);
}

const DENO_FLAGS = ["run", "-A", "--no-check", "--no-lock", "--quiet"];

function script(name: string): string {
  return new URL(name, import.meta.url).pathname;
}

function runDeno(
  name: string,
  argument: unknown,
  signal: AbortSignal,
): Promise<Measurement> {
  const args = [...DENO_FLAGS, script(name), JSON.stringify(argument)];
  return runScript(Deno.execPath(), args, signal);
}

/**
 * Platter.
 *
 * @param options How it is to do it.
 * @param detail What to add to its name.
 * @param target What it is measured on, if not on what the case says.
 * @returns The contender.
 */
export function platter(
  options: Partial<PlatterOptions>,
  detail?: string,
  target?: Target,
): Contender {
  const all = { backend: "direct", face: "requests", ...options } as const;
  const label = detail ?? options.engine;
  return {
    name: label === undefined ? "Platter" : `Platter, ${label}`,
    ...(target === undefined ? {} : { target }),
    inTree: (root, name) => platter({ ...options, root }, name, target),
    async measure(work, signal) {
      const measured = await runDeno(
        "platter.ts",
        { work, options: all },
        signal,
      );
      const { engine = "auto" } = options;
      if (engine !== "auto" && measured.engine !== engine) {
        throw new Unavailable(
          `Platter has no engine ${engine} here: it used ${measured.engine}`,
        );
      }
      return measured;
    },
  };
}

/**
 * fio.
 *
 * @param engine Its `--ioengine`.
 * @returns The contender.
 */
export function fio(engine: string): Contender {
  return {
    name: `fio ${engine}`,
    async measure(work, signal) {
      const args = fioArguments(engine, work);
      const { success, stdout, stderr } = await run("fio", args, signal);
      if (!success) throw fioError(engine, stderr + stdout);
      return parseFio(stdout, work.operation);
    },
  };
}

/**
 * `node:fs`.
 *
 * @param runtime Whose.
 * @param descriptors How many to spread the requests over.
 * @returns The contender.
 */
export function nodeFs(
  runtime: "Deno" | "Node",
  descriptors = 1,
): Contender {
  const many = descriptors === 1 ? "" : ` × ${descriptors}`;
  return {
    name: `node:fs in ${runtime}${many}`,
    measure(work, signal) {
      const name = "peers/node_fs.mjs";
      const argument = { ...work, descriptors };
      return runtime === "Deno"
        ? runDeno(name, argument, signal)
        : runScript("node", [script(name), JSON.stringify(argument)], signal);
    },
  };
}

/**
 * `Deno.FsFile`, through the operating system's cache.
 *
 * @returns The contender.
 */
export function denoFile(): Contender {
  return {
    name: "Deno.FsFile, cached",
    target: "buffered image",
    measure: (work, signal) => runDeno("peers/deno_file.ts", work, signal),
  };
}

/**
 * A promise and a copy, without a disk.
 *
 * @returns The contender.
 */
export function barePromise(): Contender {
  return {
    name: "a promise and a copy",
    measure: (work, signal) => runDeno("peers/promise.ts", work, signal),
  };
}
