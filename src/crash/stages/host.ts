/**
 * Stage host: a file system of the running kernel, or a block device of its own.
 * The workload's disk is a file by FUSE, and a loop device over it with direct
 * I/O, so that nothing waits in a cache below the device; the disks of checks
 * are loop devices over plain files. Root only.
 *
 * A file system is mounted within the namespace of the command that uses it
 * ({@linkcode findIsolation}), by the shell that is process 1 there. So it is
 * mounted for nobody else, no other namespace that begins meanwhile holds it,
 * and it goes with the command, whatever that leaves running and however it
 * ends. The shell unmounts it in good order once it has killed everybody else.
 *
 * For a check, `mount` makes the loop device itself: the kernel detaches that
 * with its last user. As it does so a moment later, and the file must be nobody's
 * before it becomes the next state, that is waited for.
 *
 * @module
 */

import { asFile } from "../../mount/as_file.ts";
import { attachLoop } from "../../mount/loop_device.ts";
import { escaped } from "../../mount/mount_shell.ts";
import { ForkServers } from "../fork_server.ts";
import { findIsolation } from "../isolation.ts";
import { program, ProgramError, requireAll } from "../programs.ts";
import { runShell } from "../run_shell.ts";
import { removeIfThere } from "../scratch.ts";
import type {
  Attached,
  AttachedDisk,
  AttachOptions,
  RunOptions,
  RunOutcome,
  Stage,
  StageOptions,
} from "../stage.ts";

/** The longest that the kernel may take to let go of a file, in ms. */
const RELEASE_MS = 30_000;

/**
 * Runs `$1` in a file system: of type `$4`, with the options `$5`, of `$3`, a
 * device or a file; the kernel calls where it is mounted `$6`. No variable tells
 * any of that, and none is set here before the command: it would find it in its
 * environment, or one of its own changed. Before it is unmounted everybody else
 * in the namespace is killed, so that it is busy for a moment only.
 *
 * That the mount fails is told by its own code and words (32 for what mount(8)
 * says of a failed mount), and by a file beside the mount point, as the command
 * may exit and speak alike. What comes after the command says nothing: its last
 * line is the verdict's. It may have unmounted the disk itself, or mounted another
 * one over it.
 */
const MOUNTED = `
if [ $$ != 1 ]; then
  echo "no namespace of its own" >&2
  exit 125
fi
mount -t "$4" -o "$5" "$3" "$PLATTER_DIR" ||
  { code=$?; : > "$PLATTER_DIR.failed"; exit "$code"; }
mounted() (
  device=
  while read -r _ _ _ _ at _ rest; do
    if [ "$at" = "$1" ]; then
      rest=\${rest#*- }
      rest=\${rest#* }
      device=\${rest%% *}
    fi
  done < /proc/self/mountinfo
  [ -n "$device" ] && printf '%s\\n' "$device"
)
if [ ! -b "$3" ] && PLATTER_DEVICE=$(mounted "$6"); then
  export PLATTER_DEVICE
fi
sh -c "$1"
code=$?
{
  tries=0
  kill -KILL -1
  while mounted "$6"; do
    if umount "$PLATTER_DIR"; then continue; fi
    tries=$((tries + 1))
    if [ "$tries" -gt 100 ]; then break; fi
    kill -KILL -1
    sleep 0.02
  done
} > /dev/null 2>&1
exit "$code"
`;

/** What mount says if there is no loop device to be had: that is no verdict. */
const NO_LOOP = /failed to setup loop device|failed to set up loop device/;

/** Programs get a mounted folder, or a block device. */
class HostStage implements Stage {
  readonly name = "host";
  readonly ways = ["device", "mount"] as const;
  readonly #servers = new ForkServers();

  wants(): "file" {
    return "file";
  }

  async require({ fileSystem }: StageOptions): Promise<void> {
    await requireAll("use the stage host", [
      {
        what: "root, who alone may mount (the stages uml and qemu take none)",
        from: null,
        isThere: () =>
          Promise.resolve(Deno.build.os === "linux" && Deno.uid() === 0),
      },
      program("sh", "dash"),
      program("mkfifo", "coreutils"),
      program("nbdfuse", "libnbd-bin"),
      program("fusermount3", "fuse3"),
      program("losetup", "mount"),
      program("mount", "mount"),
      program("unshare", "util-linux"),
      {
        what: "the right to make mount and process namespaces",
        from: null,
        isThere: async () => (await findIsolation()).mounts,
      },
      ...fileSystem === null ? [] : [{
        what: `${fileSystem} in the running kernel`,
        from: null,
        isThere: () => kernelHas(fileSystem),
      }],
    ]);
  }

  async attach(disk: AttachedDisk, options: AttachOptions): Promise<Attached> {
    const { directory, on, signal } = options;
    await using parts = new AsyncDisposableStack();
    const environment: Record<string, string> = {};
    const isMounted = on === "mount";
    let source: string;
    if ("file" in disk) {
      source = await Deno.realPath(disk.file);
      if (isMounted) parts.defer(() => released(source));
      else {
        const { blockSize } = disk;
        const loop = parts.use(await attachLoop(source, { blockSize }));
        environment.PLATTER_DEVICE = loop.device;
      }
    } else {
      const { blockSize } = disk.backend.geometry;
      const file = parts.use(
        await asFile(disk.backend, {
          path: `${directory}/image`,
          // QEMU's tool flushes at every close, which hides a missing fsync.
          tool: "nbdfuse",
          signal,
        }),
      );
      const loop = parts.use(await attachLoop(file.path, { blockSize }));
      if (!loop.direct) {
        throw new ProgramError(
          "Cannot use the stage host as the loop device does no direct I/O over FUSE here",
        );
      }
      source = loop.device;
      environment.PLATTER_DEVICE = loop.device;
    }
    if (isMounted) {
      environment.PLATTER_DIR = `${directory}/mnt`;
      await Deno.mkdir(environment.PLATTER_DIR);
      parts.defer(() => removeIfThere(`${directory}/mnt`));
    }
    const script = isMounted
      ? {
        text: MOUNTED,
        args: [
          ...mountingOf(source, options),
          escaped(environment.PLATTER_DIR!),
        ],
      }
      : undefined;
    const all = parts.move();
    return {
      environment,
      run: async (command: string, run: RunOptions): Promise<RunOutcome> => {
        const outcome = await runShell(command, {
          ...run,
          directory,
          servers: this.#servers,
          isolated: run.isolated || isMounted,
          environment: { ...run.environment, ...environment },
          script,
        });
        if (
          isMounted && outcome.code !== 0 && NO_LOOP.test(outcome.output) &&
          await takeAway(`${environment.PLATTER_DIR}.failed`)
        ) {
          throw new ProgramError(
            `Cannot use the stage host as mount says: ${outcome.output.trim()}`,
          );
        }
        return outcome;
      },
      [Symbol.asyncDispose]: () => all.disposeAsync(),
    };
  }

  async end(): Promise<void> {
    await this.#servers[Symbol.asyncDispose]();
  }
}

/**
 * Makes the stage.
 *
 * @returns The stage.
 */
export function hostStage(): Stage {
  return new HostStage();
}

/** What is mounted, as which type, with what options. */
function mountingOf(
  source: string,
  { fileSystem, mountOptions }: AttachOptions,
): string[] {
  const words = [
    ...source.startsWith("/dev/") ? [] : ["loop"],
    // Two images of one file system are mounted side by side: xfs(5).
    ...fileSystem === "xfs" ? ["nouuid"] : [],
    ...mountOptions === undefined ? [] : [mountOptions],
  ];
  return [source, fileSystem ?? "auto", words.join(",") || "defaults"];
}

/** Removes a file; whether it was there. */
async function takeAway(path: string): Promise<boolean> {
  try {
    await Deno.remove(path);
    return true;
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    return false;
  }
}

/** Waits until no loop device has a file any more. */
async function released(file: string): Promise<void> {
  for (const end = performance.now() + RELEASE_MS;;) {
    if (!await hasLoop(file)) return;
    if (performance.now() > end) {
      throw new ProgramError(
        `Cannot go on as the kernel does not let go of "${file}"`,
      );
    }
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

async function hasLoop(file: string): Promise<boolean> {
  for await (const { name } of Deno.readDir("/sys/block")) {
    if (!name.startsWith("loop")) continue;
    try {
      const path = `/sys/block/${name}/loop/backing_file`;
      if ((await Deno.readTextFile(path)).trim() === file) return true;
    } catch {
      // It has none, or no longer.
    }
  }
  return false;
}

async function kernelHas(fileSystem: string): Promise<boolean> {
  const text = await Deno.readTextFile("/proc/filesystems");
  if (text.split(/\s+/).includes(fileSystem)) return true;
  try {
    // A module that the mount loads.
    const { success } = await new Deno.Command("modprobe", {
      args: ["--dry-run", fileSystem],
      ...{ stdin: "null", stdout: "null", stderr: "null" },
    }).output();
    return success;
  } catch {
    return false;
  }
}
