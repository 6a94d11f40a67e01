/**
 * User Mode Linux as a {@linkcode Machine}: its disks are vhost-user devices, and
 * the one that changes is taken from the guest's driver and given to it again.
 *
 * The driver (`arch/um/drivers/virtio_uml.c`) connects to a socket when a device
 * is bound to it by sysfs, and closes the connection when it is unbound. The block
 * device goes with it, and everything that the kernel had cached of it; the next
 * one is asked for its size and its abilities anew.
 *
 * @module
 */

import type { Backend } from "../../backend.ts";
import { VirtualDisk } from "../../disk/disk.ts";
import { VhostServer } from "../../vhost/mod.ts";
import { ControlDisk } from "./control_disk.ts";
import { type Guest, GuestError, type GuestUser } from "./guest.ts";
import { firstLines, Lent, type Machine } from "./machine.ts";
import { loadModules, startUml } from "./uml_guest.ts";

/** Where the driver of its disks is in sysfs. */
const DRIVER = "/sys/bus/platform/drivers/virtio-uml";

/** What the devices are called: the control disk, and the one that changes. */
const CONTROL = "virtio-uml.0";
const DISK = "virtio-uml.1";

/** What its kernel needs that is not part of it. */
const MODULES = ["drivers/block/virtio_blk", "fs/overlayfs/overlay"];

/** How a machine is set up. */
export interface UmlMachineOptions {
  /** Mebibytes of memory. */
  readonly memoryMib: number;
  /** Who runs it; this process' user if not given. */
  readonly user?: GuestUser | undefined;
  /** Gives up starting. */
  readonly signal?: AbortSignal | undefined;
}

/** A machine. */
export class UmlMachine implements Machine {
  readonly directory: string;
  readonly user: GuestUser | undefined;
  readonly control = new ControlDisk();
  readonly #stack = new AsyncDisposableStack();
  readonly #mistakes: Error[] = [];
  #plugged: AsyncDisposableStack | null = null;
  guest!: Guest;
  controlDevice = "";

  private constructor(directory: string, user: GuestUser | undefined) {
    this.directory = directory;
    this.user = user;
  }

  /**
   * Boots one.
   *
   * @param options How.
   * @returns The machine.
   * @throws {GuestError} If it does not boot.
   */
  static async boot(options: UmlMachineOptions): Promise<UmlMachine> {
    const { memoryMib, user, signal } = options;
    // Sockets have short names.
    const directory = await Deno.makeTempDir({ prefix: "platter-uml-" });
    const machine = new UmlMachine(directory, user);
    machine.#stack.defer(() => Deno.remove(directory, { recursive: true }));
    try {
      if (user !== undefined) await Deno.chown(directory, user.uid, user.gid);
      machine.#serve(machine.#stack, "control", machine.control);
      machine.guest = machine.#stack.use(
        await startUml({
          sockets: ["control", "disk"].map((name) => `${directory}/${name}`),
          directory,
          init: firstLines(loadModules(MODULES)),
          memoryMib,
          user,
          signal,
        }),
      );
      machine.controlDevice = await machine.#device(CONTROL);
      return machine;
    } catch (error) {
      await machine[Symbol.asyncDispose]();
      // What the driver did wrong is the better reason.
      throw machine.#mistakes[0] ?? error;
    }
  }

  fits(): boolean {
    return true;
  }

  async plug(backend: Backend): Promise<string> {
    const stack = new AsyncDisposableStack();
    this.#plugged = stack;
    this.#serve(stack, "disk", new Lent(backend));
    return await this.#device(DISK, `echo ${DISK} >${DRIVER}/bind &&`);
  }

  async unplug(): Promise<void> {
    const stack = this.#plugged;
    if (stack === null) return;
    this.#plugged = null;
    try {
      if (!this.guest.over) {
        await this.guest.run(`echo ${DISK} >${DRIVER}/unbind`);
      }
    } finally {
      await stack[Symbol.asyncDispose]();
    }
    const mistake = this.#mistakes.pop();
    if (mistake !== undefined) {
      throw new GuestError(`The guest's driver made a mistake: ${mistake}`, {
        cause: mistake,
      });
    }
  }

  /** Ends it, and removes what is left of it. */
  async [Symbol.asyncDispose](): Promise<void> {
    // The guest first: with it go its connections.
    const plugged = this.#plugged;
    this.#plugged = null;
    await this.#stack[Symbol.asyncDispose]();
    await plugged?.[Symbol.asyncDispose]();
  }

  #serve(stack: AsyncDisposableStack, name: string, backend: Backend): void {
    const disk = stack.use(VirtualDisk.over(backend));
    const path = `${this.directory}/${name}`;
    stack.use(VhostServer.listen({
      disk,
      path,
      onError: (error) => this.#mistakes.push(error),
    }));
    const { user } = this;
    if (user !== undefined) Deno.chownSync(path, user.uid, user.gid);
  }

  /** What the guest calls a disk, after something else. */
  async #device(name: string, before = ""): Promise<string> {
    const found = await this.guest.run(
      `${before} cd /sys/bus/platform/devices/${name}/virtio*/block && echo *`,
    );
    return `/dev/${found}`;
  }
}
