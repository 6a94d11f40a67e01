/**
 * Stage raw: programs that use a disk image or a block device by themselves, and
 * whatever speaks NBD. Nothing is mounted by the kernel, so no root is needed:
 * the workload's image is a file by FUSE, the images of checks are plain files.
 *
 * @module
 */

import type { Backend } from "../../backend.ts";
import { VirtualDisk } from "../../disk/disk.ts";
import { openBackend } from "../../disk/open.ts";
import { asFile } from "../../mount/as_file.ts";
import { NbdServer } from "../../nbd/server.ts";
import { ForkServers } from "../fork_server.ts";
import { program, requireAll } from "../programs.ts";
import { runShell } from "../run_shell.ts";
import type {
  AttachAs,
  Attached,
  AttachedDisk,
  AttachOptions,
  Stage,
  StageOptions,
} from "../stage.ts";

/** Programs get a file or the URI of an NBD server. */
class RawStage implements Stage {
  readonly name = "raw";
  readonly ways = ["image", "nbd"] as const;
  readonly #servers = new ForkServers();

  wants(on: AttachAs): "file" | "backend" {
    return on === "nbd" ? "backend" : "file";
  }

  async require({ on }: StageOptions): Promise<void> {
    await requireAll("use the stage raw", [
      program("sh", "dash"),
      program("mkfifo", "coreutils"),
      ...on === "nbd" ? [] : [
        program("nbdfuse", "libnbd-bin"),
        program("fusermount3", "fuse3"),
      ],
    ]);
  }

  async attach(disk: AttachedDisk, options: AttachOptions): Promise<Attached> {
    const { directory, on, signal } = options;
    await using parts = new AsyncDisposableStack();
    const environment: Record<string, string> = {};
    if (on === "nbd") {
      const served = parts.use(VirtualDisk.over(await backendOf(disk)));
      const server = parts.use(NbdServer.listen({
        path: `${directory}/nbd`,
        exports: [{ disk: served }],
      }));
      environment.PLATTER_NBD = server.uri();
    } else if ("file" in disk) environment.PLATTER_IMAGE = disk.file;
    else {
      const file = parts.use(
        await asFile(disk.backend, {
          path: `${directory}/disk.img`,
          // QEMU's tool flushes at every close, which hides a missing fsync.
          tool: "nbdfuse",
          signal,
        }),
      );
      environment.PLATTER_IMAGE = file.path;
    }
    const all = parts.move();
    return {
      environment,
      run: (command, run) =>
        runShell(command, {
          ...run,
          directory,
          servers: this.#servers,
          environment: { ...run.environment, ...environment },
        }),
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
export function rawStage(): Stage {
  return new RawStage();
}

async function backendOf(disk: AttachedDisk): Promise<Backend> {
  return "backend" in disk
    ? disk.backend
    : await openBackend(disk.file, { format: "raw" });
}
