/**
 * Programs of the system: whether they are there, and what they say.
 *
 * @module
 */

/** Programs of administrators are not in everybody's `PATH`. */
const PATH = `${Deno.env.get("PATH") ?? ""}:/usr/sbin:/sbin`;

/** What a program may take; one that takes longer hangs. */
const PATIENCE_MS = 60_000;

/** A program that did not do what it had to. */
export class ToolError extends Error {
  /** Always `"ToolError"`. */
  override readonly name = "ToolError";
}

/** What a program did. */
export interface Ran {
  /** How it ended; above 128 if a signal ended it. */
  readonly code: number;
  /** What it said, on either stream. */
  readonly said: string;
}

/**
 * Runs a program, however it ends, in a session of its own: Ctrl-C is for us to
 * hear, who then stop what we started in the right order.
 *
 * @param name The program.
 * @param args Its arguments.
 * @param env More of its environment.
 * @returns What it did.
 */
export async function attempt(
  name: string,
  args: readonly string[],
  env: Record<string, string> = {},
): Promise<Ran> {
  const { code, stdout, stderr } = await new Deno.Command(name, {
    args: [...args],
    env: { PATH, LC_ALL: "C", ...env },
    stdin: "null",
    detached: true,
    signal: AbortSignal.timeout(PATIENCE_MS),
  }).output();
  const decoder = new TextDecoder();
  return {
    code,
    said: `${decoder.decode(stdout)}${decoder.decode(stderr)}`.trim(),
  };
}

/**
 * Runs a program that has to succeed.
 *
 * @param name The program.
 * @param args Its arguments.
 * @param env More of its environment.
 * @returns What it said.
 * @throws {ToolError} If it does not.
 */
export async function run(
  name: string,
  args: readonly string[],
  env: Record<string, string> = {},
): Promise<string> {
  const { code, said } = await attempt(name, args, env);
  if (code === 0) return said;
  throw new ToolError(
    `Cannot run ${name} ${args.join(" ")} as it exits with ${code}: ${said}`,
  );
}

/**
 * What is not there of what is needed.
 *
 * @param names Programs.
 * @returns One line for each thing missing.
 */
export function missing(names: readonly string[]): string[] {
  if (Deno.build.os !== "linux") return ["Linux, whose ext4 this is about"];
  const lines: string[] = [];
  if (Deno.uid() !== 0) lines.push("root, who alone may mount");
  for (const device of ["/dev/fuse", "/dev/loop-control"]) {
    if (!exists(device)) lines.push(`${device}, which the kernel provides`);
  }
  for (const name of names) {
    if (
      !PATH.split(":").some((dir) => dir !== "" && exists(`${dir}/${name}`))
    ) {
      lines.push(`the program ${name}`);
    }
  }
  return lines;
}

/**
 * Whether there is anything at a path.
 *
 * @param path The path.
 * @returns Whether.
 */
export function exists(path: string): boolean {
  try {
    Deno.lstatSync(path);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}
