/**
 * The runtimes beside Deno, as npm has them: fetched once into a folder of their
 * own, and how each is started with tests.
 *
 * @module
 */

/** Where they are kept. */
const DIRECTORY = Deno.env.get("PLATTER_RUNTIMES_DIR") ??
  "/var/tmp/platter-runtimes";

/** A runtime. */
export interface OtherRuntime {
  /** What it is called. */
  readonly name: string;
  /** The npm packages that it is made of. */
  readonly packages: readonly string[];
  /** Its program, in the folder of the packages. */
  readonly program: string;
  /** What it is started with to load tests. */
  readonly hooks: (folder: URL) => readonly string[];
  /** Other versions, in which the command line alone is run. */
  readonly commands?: readonly {
    readonly packages: readonly string[];
    /** What `platter help copy` exits with. */
    readonly code: number;
    /** What it says. */
    readonly says: RegExp;
  }[];
}

/** All of them, the oldest that works first. */
export const RUNTIMES: readonly OtherRuntime[] = [
  {
    name: "Node 24 + koffi",
    packages: ["node@24", "koffi@3"],
    program: "node_modules/node/bin/node",
    hooks: (folder) => ["--import", new URL("node_hooks.ts", folder).href],
    commands: [
      // The last one that does not know import.meta.main.
      { packages: ["node@24.1.0"], code: 0, says: /^Usage: platter copy/m },
      {
        packages: ["node@22"],
        code: 2,
        says: /^platter: Cannot run as Node\.js must be 24 or later: .* 22\./,
      },
    ],
  },
  {
    name: "Node 26",
    packages: ["node@26"],
    program: "node_modules/node/bin/node",
    hooks: (folder) => ["--import", new URL("node_hooks.ts", folder).href],
  },
  {
    name: "Bun",
    packages: ["bun@1"],
    program: "node_modules/bun/bin/bun.exe",
    hooks: (folder) => ["--preload", new URL("bun_hooks.ts", folder).pathname],
  },
];

/** A runtime that can be started. */
export interface Installed {
  /** The path of its program. */
  readonly program: string;
  /** What it is started with beside the usual. */
  readonly env: Readonly<Record<string, string>>;
}

/**
 * Fetches a runtime, unless it is there.
 *
 * @param runtime The runtime.
 * @returns Where it is.
 * @throws {Error} If npm cannot fetch it.
 */
export async function install(
  runtime: Pick<OtherRuntime, "packages" | "program">,
): Promise<Installed> {
  const folder = `${DIRECTORY}/${runtime.packages.join("+")}`;
  const installed = {
    program: `${folder}/${runtime.program}`,
    // What `require` looks through last: koffi is beside its runtime.
    env: { NODE_PATH: `${folder}/node_modules`, NODE_NO_WARNINGS: "1" },
  };
  if (await works(installed.program)) return installed;
  await Deno.mkdir(folder, { recursive: true });
  const { success, stderr } = await new Deno.Command("npm", {
    args: [
      ...["install", "--prefix", folder, "--no-audit", "--no-fund"],
      ...["--no-package-lock", ...runtime.packages],
    ],
    stdout: "null",
    stderr: "piped",
  }).output();
  if (success && await works(installed.program)) return installed;
  throw new Error(
    `Cannot fetch ${runtime.packages.join(" + ")}: ${
      new TextDecoder().decode(stderr)
    }`,
  );
}

async function works(program: string): Promise<boolean> {
  try {
    const { success } = await new Deno.Command(program, {
      args: ["--version"],
      stdout: "null",
      stderr: "null",
    }).output();
    return success;
  } catch {
    return false;
  }
}
