/**
 * QEMU as a {@linkcode Machine}: its disks are vhost-user devices, and below one of
 * them is a socket for a backend, as it were. The guest's driver gives the device
 * up before the backend is changed and takes it again afterwards: the block device
 * goes meanwhile, and everything that the kernel had cached of it.
 *
 * QEMU asks the device for its shape once, when it starts, so that a machine is for
 * disks of one shape.
 *
 * @module
 */

import type {
  Abilities,
  Backend,
  BackendCounters,
  Complete,
  Limits,
} from "../../backend.ts";
import { MemoryBackend } from "../../backends/memory.ts";
import { VirtualDisk } from "../../disk/disk.ts";
import type { Geometry } from "../../geometry.ts";
import type { BackendInfo } from "../../info.ts";
import type { Request } from "../../request.ts";
import { closedError } from "../../request_error.ts";
import { VhostServer } from "../../vhost/mod.ts";
import { ControlDisk } from "./control_disk.ts";
import { type Guest, GuestError, type GuestUser, shellOn } from "./guest.ts";
import type { GuestKernel } from "./kernel_package.ts";
import { fileFor, firstLines, type Machine } from "./machine.ts";
import { startQemu } from "./qemu_guest.ts";
import { answerRequest } from "../../throw_later.ts";

/** What the kernel of a guest needs that is not part of it. */
const MODULES = [
  "virtio_pci",
  "virtio_blk",
  "9p",
  "9pnet_virtio",
  "overlay",
  "crc32c_generic",
  "crc32c_intel",
  "xxhash_generic",
  "blake2b_generic",
  "ext4",
  "xfs",
  "btrfs",
  "vfat",
  "nls_cp437",
  "nls_ascii",
];

/** Where the guest's driver of its disks is in sysfs. */
const DRIVER = "/sys/bus/virtio/drivers/virtio_blk";

/** What the host's root is called towards the guest. */
const ROOT_TAG = "host";

/** How a machine is set up. */
export interface QemuMachineOptions {
  /** Its kernel. */
  readonly kernel: GuestKernel;
  /** Mebibytes of memory. */
  readonly memoryMib: number;
  /** `"tcg"` emulates a processor; `"kvm"` has the host's, if it may. */
  readonly accelerator: "tcg" | "kvm";
  /** Who runs it; this process' user if not given. */
  readonly user?: GuestUser | undefined;
  /** A disk of the shape that all of its disks have. */
  readonly like: Backend;
  /** Gives up starting. */
  readonly signal?: AbortSignal | undefined;
}

/** A machine. */
export class QemuMachine implements Machine {
  readonly directory: string;
  readonly user: GuestUser | undefined;
  readonly control = new ControlDisk();
  readonly #stack = new AsyncDisposableStack();
  readonly #mistakes: Error[] = [];
  readonly #socket: Socket;
  guest!: Guest;
  controlDevice = "";
  /** The disk's device on the guest's virtio bus. */
  #name = "";

  private constructor(directory: string, options: QemuMachineOptions) {
    this.directory = directory;
    this.user = options.user;
    this.#socket = new Socket(options.like);
  }

  /**
   * Boots one.
   *
   * @param options How.
   * @returns The machine.
   * @throws {GuestError} If it does not boot.
   */
  static async boot(options: QemuMachineOptions): Promise<QemuMachine> {
    // Sockets have short names.
    const directory = await Deno.makeTempDir({ prefix: "platter-qemu-" });
    const machine = new QemuMachine(directory, options);
    machine.#stack.defer(() => Deno.remove(directory, { recursive: true }));
    try {
      await machine.#boot(options);
      return machine;
    } catch (error) {
      await machine[Symbol.asyncDispose]();
      // What the driver did wrong is the better reason.
      throw machine.#mistakes[0] ?? error;
    }
  }

  async #boot(options: QemuMachineOptions): Promise<void> {
    const { directory, user } = this;
    if (user !== undefined) await Deno.chown(directory, user.uid, user.gid);
    const init = await fileFor(
      this,
      "init",
      firstLines("") + shellOn("/dev/ttyS1"),
    );
    this.guest = this.#stack.use(
      await startQemu({
        ...options,
        modules: MODULES,
        // What is cached of the host's files stays cached: they are looked at
        // under one name with one content.
        init: `/bin/busybox mount -t 9p -o trans=virtio,version=9p2000.L,` +
          `msize=262144,cache=loose,ro ${ROOT_TAG} /root || exec /bin/busybox poweroff -f
exec /bin/busybox switch_root /root ${init}
`,
        sockets: [
          this.#serve("control", this.control),
          this.#serve("disk", this.#socket),
        ],
        directory,
        processors: 1,
        args: [
          "-fsdev",
          `local,id=${ROOT_TAG},path=/,security_model=none,readonly=on,multidevs=remap`,
          "-device",
          `virtio-9p-pci,fsdev=${ROOT_TAG},mount_tag=${ROOT_TAG}`,
        ],
      }),
    );
    this.controlDevice = "/dev/vda";
    const path = await this.guest.run("readlink -f /sys/block/vdb/device");
    this.#name = path.slice(path.lastIndexOf("/") + 1);
    await this.unplug();
  }

  fits(backend: Backend): boolean {
    return shapeOf(backend) === shapeOf(this.#socket);
  }

  async plug(backend: Backend): Promise<string> {
    this.#socket.backend = backend;
    const found = await this.guest.run(
      `echo ${this.#name} >${DRIVER}/bind && ` +
        `cd ${DRIVER}/${this.#name}/block && echo *`,
    );
    return `/dev/${found}`;
  }

  async unplug(): Promise<void> {
    try {
      if (!this.guest.over) {
        await this.guest.run(`echo ${this.#name} >${DRIVER}/unbind`);
      }
    } finally {
      await this.#socket.unplug();
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
    await this.#stack[Symbol.asyncDispose]();
    await this.#socket.unplug();
  }

  #serve(name: string, backend: Backend): string {
    const disk = this.#stack.use(VirtualDisk.over(backend));
    const path = `${this.directory}/${name}`;
    this.#stack.use(VhostServer.listen({
      disk,
      path,
      onError: (error) => this.#mistakes.push(error),
    }));
    const { user } = this;
    if (user !== undefined) Deno.chownSync(path, user.uid, user.gid);
    return path;
  }
}

/** What QEMU asks a disk once, as text. */
function shapeOf({ geometry, abilities }: Backend): string {
  return JSON.stringify([geometry, abilities]);
}

/** A place for a backend, of which each has the same shape. */
class Socket implements Backend {
  readonly geometry: Geometry;
  readonly abilities: Abilities;
  readonly limits: Limits;
  readonly info: BackendInfo;
  readonly counters: Readonly<BackendCounters>;
  /** What is there now: zeroes, for a driver that looks when it boots. */
  backend: Backend | null;
  #pending = 0;
  #idle: (() => void) | null = null;

  constructor(like: Backend) {
    this.geometry = { ...like.geometry };
    this.abilities = { ...like.abilities };
    this.limits = like.limits;
    this.info = like.info;
    this.counters = like.counters;
    const { sectors, blockSize } = like.geometry;
    this.backend = new MemoryBackend({ sectors, blockSize });
  }

  submit(batch: readonly Request[], complete: Complete): void {
    const { backend } = this;
    if (backend === null) {
      for (const request of batch) {
        answerRequest(request, closedError(request), complete);
      }
      return;
    }
    this.#pending += batch.length;
    backend.submit(batch, (request, error) => {
      answerRequest(request, error, complete);
      if (--this.#pending === 0) this.#idle?.();
    });
  }

  /** Takes out what is there, once it has answered. */
  async unplug(): Promise<void> {
    if (this.#pending > 0) {
      await new Promise<void>((resolve) => this.#idle = resolve);
    }
    this.#idle = null;
    this.backend = null;
  }

  allocate(byteLength: number): Uint8Array<ArrayBuffer> {
    return new Uint8Array(byteLength);
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}
