import { assertEquals } from "@std/assert";
import { needs, type TempDir, tempDir } from "../helpers.ts";

const roots = needs("root", "mkfs.ext4", "nbdfuse", "losetup", "unshare");

/** What of a folder the system still has: processes, loop devices, mounts, files. */
async function leftOf(dir: TempDir): Promise<string[]> {
  const left: string[] = [];
  for await (const { name } of Deno.readDir(dir.path)) {
    if (name.startsWith("platter-crash-")) left.push(name);
  }
  const look = async (name: string, path: string) => {
    try {
      if ((await Deno.readTextFile(path)).includes(dir.path)) left.push(name);
    } catch {
      // It is no such thing, or has just gone.
    }
  };
  for await (const { name } of Deno.readDir("/proc")) {
    if (!/^\d+$/.test(name) || Number(name) === Deno.pid) continue;
    await look(`process ${name}`, `/proc/${name}/environ`);
    await look(`process ${name}`, `/proc/${name}/cmdline`);
    await look(`mount of ${name}`, `/proc/${name}/mountinfo`);
  }
  for await (const { name } of Deno.readDir("/sys/block")) {
    await look(name, `/sys/block/${name}/loop/backing_file`);
  }
  return left;
}

async function until(what: () => Promise<boolean>): Promise<boolean> {
  for (let i = 0; i < 2400; i++) {
    if (await what()) return true;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  return false;
}

for (const where of ["run", "check"]) {
  for (const signal of ["SIGKILL", "SIGINT"] as const) {
    Deno.test(
      `a crash test that is ended by ${signal} in ${where} leaves nothing attached or running`,
      roots,
      async () => {
        await using dir = await tempDir();
        const child = new Deno.Command(Deno.execPath(), {
          args: [
            ...["run", "-A", "--no-config", "--no-check", "--quiet"],
            new URL("killed_child.ts", import.meta.url).pathname,
            ...[dir.path, where],
          ],
          stdout: "null",
          stderr: "null",
        }).spawn();
        const reached = await until(async () => {
          try {
            return (await Deno.stat(dir.join("reached"))).isFile;
          } catch {
            return false;
          }
        });
        child.kill(signal);
        await child.status;
        assertEquals(reached, true);
        let left: string[] = [];
        await until(async () => (left = await leftOf(dir)).length === 0);
        assertEquals(left, []);
      },
    );
  }
}
