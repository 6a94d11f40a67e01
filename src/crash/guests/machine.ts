/**
 * What the stages with guests have in common: a machine that stays up and gets
 * one disk after the other, as if by hot-plugging. To the guest's kernel each is a
 * new device with a new cache, and what it had of the last one went with that.
 *
 * @module
 */

import type { Backend, Complete } from "../../backend.ts";
import { Layer } from "../../layers/layer.ts";
import type { Request } from "../../request.ts";
import type { ControlDisk } from "./control_disk.ts";
import type { Guest, GuestUser } from "./guest.ts";

/** A guest with a control disk, and a place for another disk. */
export interface Machine extends AsyncDisposable {
  /** Its shell. */
  readonly guest: Guest;
  /** A folder of the host that the guest sees at the same path, read-only. */
  readonly directory: string;
  /** Who runs it on the host, and must be able to read that folder. */
  readonly user: GuestUser | undefined;
  /** Hears what the guest says. */
  readonly control: ControlDisk;
  /** The control disk as the guest calls it. */
  readonly controlDevice: string;
  /**
   * Finds out whether a disk can be plugged in.
   *
   * @param backend The disk.
   * @returns Whether; if not, another machine can.
   */
  fits(backend: Backend): boolean;
  /**
   * Plugs a disk in.
   *
   * @param backend The disk; it is not closed.
   * @returns What the guest calls it.
   */
  plug(backend: Backend): Promise<string>;
  /** Takes it out: what its guest asked for has been done by then. */
  unplug(): Promise<void>;
}

/** A backend for a while: it is left open by whoever closes this. */
export class Lent extends Layer {
  /**
   * Constructs a new instance.
   *
   * @param backend The backend.
   */
  constructor(backend: Backend) {
    super("served", backend, { ownsBase: false });
  }

  /** Hands on everything. */
  protected override carryOut(
    batch: readonly Request[],
    complete: Complete,
  ): void {
    this.backend.submit(batch, complete);
  }
}

/**
 * Makes a file that a guest can read.
 *
 * @param machine Whose guest.
 * @param kind What it is. Each has a new name, as a guest may remember what was
 * under an old one.
 * @param text Its content.
 * @returns Its path, here and there.
 */
export async function fileFor(
  machine: Pick<Machine, "directory" | "user">,
  kind: string,
  text: string,
): Promise<string> {
  const path = `${machine.directory}/${kind}-${crypto.randomUUID()}`;
  await Deno.writeTextFile(path, text, { mode: 0o700 });
  const { user } = machine;
  if (user !== undefined) await Deno.chown(path, user.uid, user.gid);
  return path;
}

/**
 * The beginning of the first process of a guest whose root is the host's.
 *
 * @param modules Commands that load what the kernel needs.
 * @returns Lines of a shell script.
 */
export function firstLines(modules: string): string {
  return `#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm /dev/platter
mount -t tmpfs memory /dev/platter
{ ip link set lo up || busybox ip link set lo up; } 2>/dev/null
${modules}
`;
}
