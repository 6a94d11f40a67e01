/**
 * What tests share: scratch places, outside tools, and loop devices.
 *
 * @module
 */

/** A directory that goes away with its content. */
export interface TempDir extends AsyncDisposable {
  /** Its path. */
  readonly path: string;
  /** The path of something in it. */
  join(name: string): string;
  /** Makes a file in it: a hole of that size, or those bytes. */
  file(name: string, content: number | Uint8Array): Promise<string>;
}

/**
 * Makes a directory on a disk, not in memory: under `/var/tmp` where there is
 * one, or where `PLATTER_TEST_DIR` says.
 */
export function tempDir(): Promise<TempDir> {
  const dir = Deno.env.get("PLATTER_TEST_DIR") ??
    (Deno.build.os === "windows" ? undefined : "/var/tmp");
  return directoryIn(dir);
}

/** Makes a directory in memory; ignore tests by {@linkcode hasTmpfs}. */
export function tmpfsDir(): Promise<TempDir> {
  return directoryIn("/dev/shm");
}

/** Whether there is a tmpfs for {@linkcode tmpfsDir}. */
export function hasTmpfs(): boolean {
  try {
    return Deno.build.os === "linux" &&
      Deno.statSync("/dev/shm").isDirectory === true;
  } catch {
    return false;
  }
}

async function directoryIn(dir: string | undefined): Promise<TempDir> {
  const path = await Deno.makeTempDir({
    prefix: "platter-",
    ...(dir === undefined ? {} : { dir }),
  });
  const join = (name: string) => `${path}/${name}`;
  return {
    path,
    join,
    async file(name, content) {
      if (typeof content === "number") {
        using file = await Deno.create(join(name));
        await file.truncate(content);
      } else {
        await Deno.writeFile(join(name), content);
      }
      return join(name);
    },
    async [Symbol.asyncDispose]() {
      await Deno.remove(path, { recursive: true });
    },
  };
}

/** CAP_SYS_ADMIN of capabilities(7), which mounts and loop devices need. */
const SYSTEM_ADMINISTRATION = 1n << 21n;

/**
 * Whether the tests may do what needs root: loop devices, mounts. In a container,
 * user 0 may have none of root's powers.
 */
export function isRoot(): boolean {
  if (Deno.build.os === "windows" || Deno.uid() !== 0) return false;
  return Deno.build.os !== "linux" || isAdministrator();
}

/** Whether this is root of the machine, and not of a namespace of its own. */
function isAdministrator(): boolean {
  try {
    const status = Deno.readTextFileSync("/proc/self/status");
    const powers = BigInt(`0x${/^CapEff:\s*([\da-f]+)$/m.exec(status)![1]}`);
    // inside, outside, count: user_namespaces(7).
    const users = Deno.readTextFileSync("/proc/self/uid_map").trim();
    return (powers & SYSTEM_ADMINISTRATION) !== 0n &&
      /^0\s+0\s+4294967295$/.test(users);
  } catch {
    return true;
  }
}

/**
 * Whether the long form of the tests is wanted (`deno task test:long`): what is
 * also covered by a shorter test, once more on everything.
 */
export const LONG: boolean = Deno.env.get("PLATTER_LONG") === "1";

/** Whether a program is in `PATH` or where administrators' programs are. */
export function hasTool(name: string): boolean {
  const windows = Deno.build.os === "windows";
  const dirs = (Deno.env.get("PATH") ?? "").split(windows ? ";" : ":");
  if (!windows) dirs.push("/usr/sbin", "/sbin");
  return dirs.some((dir) => {
    try {
      return Deno.statSync(`${dir}/${name}${windows ? ".exe" : ""}`).isFile;
    } catch {
      return false;
    }
  });
}

/** Whether FUSE may be used: its device is there, and this user's to open. */
function mayUseFuse(): boolean {
  try {
    Deno.openSync("/dev/fuse", { read: true, write: true }).close();
    return true;
  } catch {
    return false;
  }
}

/**
 * Test options for tests that need outside tools: without them the test is
 * skipped and says why, or, if `PLATTER_REQUIRE_TOOLS` is 1, fails here.
 *
 * @param tools Names of programs, or `"root"`.
 */
export function needs(...tools: string[]): { ignore: boolean } {
  const missing = tools.filter((tool) =>
    tool === "root" ? !isRoot() : !hasTool(tool)
  );
  // What a container, or another user, may lack although the program is there.
  if (tools.includes("nbdfuse") && !mayUseFuse()) missing.push("/dev/fuse");
  if (missing.length === 0) return { ignore: false };
  const reason = `these are missing: ${missing.join(", ")}`;
  if (Deno.env.get("PLATTER_REQUIRE_TOOLS") === "1") {
    throw new Error(
      `Cannot skip a test as PLATTER_REQUIRE_TOOLS is 1 and ${reason}`,
    );
  }
  console.warn(`Some tests are skipped as ${reason}`);
  return { ignore: true };
}

/**
 * Runs a program.
 *
 * @returns What it printed.
 * @throws With what it printed to its standard error, if it fails.
 */
export async function run(command: string, args: string[]): Promise<string> {
  const output = await new Deno.Command(command, {
    args,
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  if (!output.success) {
    throw new Error(
      `Cannot run ${command} ${
        args.join(" ")
      } as it exits with ${output.code}: ${text(output.stderr).trim()}`,
    );
  }
  return text(output.stdout);
}

/** A block device that is really a file. */
export interface LoopDevice extends AsyncDisposable {
  /** Its path, such as `/dev/loop0`. */
  readonly path: string;
}

/**
 * Makes a block device of a file.
 *
 * @param path The file.
 * @param sectorSize The device's logical block size in bytes.
 */
export async function loopDevice(
  path: string,
  sectorSize: number = 512,
): Promise<LoopDevice> {
  const device = (await run("losetup", [
    "--sector-size",
    String(sectorSize),
    "--direct-io=on",
    "--show",
    "-f",
    path,
  ])).trim();
  return {
    path: device,
    async [Symbol.asyncDispose]() {
      const file = behind(device);
      await run("losetup", ["-d", device]);
      // Whoever has it open at the time, such as udev, keeps it, and its file.
      await soon(() => file === null || behind(device) !== file);
    },
  };
}

/** The file behind a loop device; `null` if there is none. */
function behind(device: string): string | null {
  const name = device.slice(device.lastIndexOf("/") + 1);
  try {
    return Deno.readTextFileSync(`/sys/block/${name}/loop/backing_file`);
  } catch {
    return null;
  }
}

/** How long what was given up may stay in use, in ms. */
const UNUSED_MS = 60_000;

/** How often that is looked at, in ms. */
const LOOK_MS = 50;

/** Waits until something is so, or has not been for long. */
async function soon(holds: () => boolean): Promise<void> {
  for (let left = UNUSED_MS; left > 0 && !holds(); left -= LOOK_MS) {
    await pause(LOOK_MS);
  }
}

/** A file system that is mounted. */
export interface Mount extends AsyncDisposable {
  /** Where it is. */
  readonly path: string;
  /** The path of something in it. */
  join(name: string): string;
}

/**
 * Mounts something.
 *
 * @param source A device with a file system, or any word for one in memory.
 * @param target A directory, made if missing.
 * @param args Further arguments of `mount`.
 */
export async function mount(
  source: string,
  target: string,
  ...args: string[]
): Promise<Mount> {
  await Deno.mkdir(target, { recursive: true });
  await run("mount", [...args, source, target]);
  return {
    path: target,
    join: (name) => `${target}/${name}`,
    async [Symbol.asyncDispose]() {
      await unmount(target);
      // A mount namespace that a program beside this one had made meanwhile, as
      // crash tests do, keeps a copy of a mount until it ends.
      if (source.startsWith("/dev/")) await soon(() => !isMounted(source));
    },
  };
}

/**
 * Unmounts. A file that was closed may be in use for a little longer: by a thread
 * of the kernel that has just completed a request, or by a Worker that ends.
 */
async function unmount(target: string): Promise<void> {
  for (let left = UNUSED_MS;; left -= LOOK_MS) {
    try {
      // In words that are known.
      await run("env", ["LC_ALL=C", "umount", target]);
      return;
    } catch (error) {
      if (left <= 0 || !String(error).includes("target is busy")) throw error;
    }
    await pause(LOOK_MS);
  }
}

/** Whether any process sees it mounted. */
function isMounted(device: string): boolean {
  for (const { name } of Deno.readDirSync("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const mounts = Deno.readTextFileSync(`/proc/${name}/mountinfo`);
      if (mounts.includes(` ${device} `)) return true;
    } catch {
      // It has ended.
    }
  }
  return false;
}

/**
 * Pauses.
 *
 * @param ms For so many ms.
 * @returns Afterwards.
 */
export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/**
 * Whether something takes less than so many ms at one of ten attempts: a machine
 * with much else to do makes some of them slow, and a mistake all.
 *
 * @param ms So many.
 * @param work What is done.
 * @returns Whether it does.
 */
export async function isQuick(
  ms: number,
  work: () => unknown,
): Promise<boolean> {
  for (let attempt = 0; attempt < 10; attempt++) {
    const start = performance.now();
    await work();
    if (performance.now() - start < ms) return true;
  }
  return false;
}

/**
 * Stops a process. A thread stops once it has its turn, which may take a busy
 * machine a while.
 *
 * @param pid The process.
 * @returns When none of its threads runs.
 */
export async function stopProcess(pid: number): Promise<void> {
  Deno.kill(pid, "SIGSTOP");
  const tasks = `/proc/${pid}/task`;
  const runs = () =>
    [...Deno.readDirSync(tasks)].some(({ name }) => {
      try {
        const status = Deno.readTextFileSync(`${tasks}/${name}/status`);
        return !/^State:\s+[TtZX]/m.test(status);
      } catch {
        // It has ended meanwhile.
        return true;
      }
    });
  while (runs()) await pause(5);
}

/** Attempts to reach a server that starts, 20 ms apart: a minute of them. */
const START_ATTEMPTS = 3000;

/**
 * Waits until a server takes connections: its socket is there a little earlier.
 *
 * @param path The socket.
 * @returns When it does.
 */
export async function untilListening(path: string): Promise<void> {
  for (let attempts = 1;; attempts++) {
    try {
      return (await Deno.connect({ transport: "unix", path })).close();
    } catch (error) {
      if (attempts === START_ATTEMPTS) throw error;
      await pause(20);
    }
  }
}

/** The qemu-nbd that have a container open, by what they were started with. */
export async function childrenOver(path: string): Promise<number[]> {
  const found: number[] = [];
  for await (const { name } of Deno.readDir("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const line = await Deno.readTextFile(`/proc/${name}/cmdline`);
      const [program = ""] = line.split("\0");
      if (program.includes("qemu-nbd") && line.includes(path)) {
        found.push(Number(name));
      }
    } catch {
      // It is gone.
    }
  }
  return found;
}
