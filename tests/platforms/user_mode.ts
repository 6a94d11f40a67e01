/**
 * Programs for another processor on this kernel, by QEMU's user mode: it knows no
 * io_uring and no AIO, so that blocking calls are what runs, but the constants and
 * the calling convention are those of that processor.
 *
 * @module
 */

import { fetched, needPrograms, REPOSITORY, warmCache } from "./guests.ts";
import { arm64Deno, debianRoot } from "./packages.ts";
import { type Platform, runPlaces } from "./platform.ts";
import { byShell, EVERYWHERE, type Shell } from "./suites.ts";

/** Where QEMU's user mode is, as Debian names it. */
const QEMU = "qemu-aarch64-static";

/** Deno for 64-bit ARM in QEMU's user mode. */
export const USER_MODE: readonly Platform[] = [{
  name: "arm64-user",
  about: "Deno for 64-bit ARM on this kernel, by QEMU's user mode",
  places: ["file"],
  async run(run) {
    await needPrograms(QEMU, "npm", "apt-get", "dpkg-deb");
    const [root, deno] = await fetched(() =>
      Promise.all([
        debianRoot({ release: "bookworm", architecture: "arm64" }),
        arm64Deno(),
      ])
    );
    await using stack = new AsyncDisposableStack();
    const directory = await Deno.makeTempDir({
      dir: "/var/tmp",
      prefix: "platter-",
    });
    stack.defer(() => Deno.remove(directory, { recursive: true }));
    await Deno.mkdir(`${directory}/images`);
    await warmCache(`${directory}/deno`);
    const shell: Shell = {
      deno: `${QEMU} -L ${root} ${deno}`,
      repository: REPOSITORY,
      denoDir: `${directory}/deno`,
      async run(command, timeoutMs) {
        const { code, stdout } = await new Deno.Command("sh", {
          args: ["-c", command],
          stdin: "null",
          stderr: "null",
          signal: AbortSignal.timeout(timeoutMs),
        }).output();
        return { code, output: new TextDecoder().decode(stdout) };
      },
    };
    const place = {
      name: "file",
      where: `${directory}/images`,
      suites: EVERYWHERE,
    };
    const kernel = `Linux ${Deno.osRelease()}`;
    await runPlaces(byShell(shell), this.name, kernel, [place], run);
  },
}];
