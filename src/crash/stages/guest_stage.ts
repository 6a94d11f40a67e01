/**
 * What the stages uml and qemu have in common: machines that stay up, each used by
 * one disk at a time. A disk that is attached takes one that is idle, or boots one;
 * when it is detached, the machine is idle again, unless something happened in it
 * that the next disk might feel: its kernel complained, a command was killed, it
 * does not let go of the disk. Such a machine is ended.
 *
 * What one check leaves behind that another one might find: nothing. Its processes
 * and System V objects are gone with their namespaces, the files that it wrote
 * beside the disk were in memory of its own, and the disk was taken out.
 *
 * @module
 */

import type { Backend } from "../../backend.ts";
import { MOUNT_POINT, runInGuest } from "../guests/guest_command.ts";
import { GuestError } from "../guests/guest.ts";
import type { Machine } from "../guests/machine.ts";
import { type Need, program } from "../programs.ts";
import type {
  AttachAs,
  Attached,
  AttachedDisk,
  AttachOptions,
  RunOptions,
  RunOutcome,
  Stage,
  StageName,
  StageOptions,
} from "../stage.ts";

/** What it takes, here and in the guest, which has the host's programs. */
export const GUEST_NEEDS: readonly Need[] = [
  program("setpriv", "util-linux"),
  program("unshare", "util-linux"),
  program("chrt", "util-linux"),
  program("mount", "mount"),
  program("dd", "coreutils"),
];

/** A machine, and how its kernel was when it had booted. */
interface Kept {
  readonly machine: Machine;
  readonly taint: string;
}

/** What makes a stage of machines. */
export interface GuestStageOptions {
  /** What it is called. */
  readonly name: StageName;
  /** Finds out what is missing. */
  require(options: StageOptions): Promise<void>;
  /** Boots a machine that such a disk can be plugged into. */
  boot(like: Backend, signal?: AbortSignal): Promise<Machine>;
}

/** A stage of machines. */
export class GuestStage implements Stage {
  readonly name: StageName;
  readonly ways: readonly AttachAs[] = ["device", "mount"];
  readonly #options: GuestStageOptions;
  readonly #idle: Kept[] = [];
  readonly #inUse = new Set<GuestDisk>();
  #ended = false;

  /**
   * Constructs a new instance.
   *
   * @param options What it is made of.
   */
  constructor(options: GuestStageOptions) {
    this.name = options.name;
    this.#options = options;
  }

  async require(options: StageOptions): Promise<void> {
    if (!this.ways.includes(options.on)) {
      throw new TypeError(
        `Cannot use stage ${this.name} as on must be one of ${
          this.ways.join(", ")
        }: current value is ${options.on}`,
      );
    }
    await this.#options.require(options);
  }

  wants(): "backend" {
    return "backend";
  }

  async attach(disk: AttachedDisk, options: AttachOptions): Promise<Attached> {
    if (!("backend" in disk)) {
      throw new TypeError(
        `Cannot attach a disk in stage ${this.name} as it must be served by a backend and no file: current value is ${disk.file}`,
      );
    }
    const kept = await this.#take(disk.backend, options.signal);
    try {
      const device = await kept.machine.plug(disk.backend);
      const attached = new GuestDisk(
        kept.machine,
        device,
        options,
        async (isSound) => {
          this.#inUse.delete(attached);
          await this.#give(kept, isSound);
        },
      );
      this.#inUse.add(attached);
      return attached;
    } catch (error) {
      await kept.machine[Symbol.asyncDispose]();
      throw error;
    }
  }

  async end(): Promise<void> {
    this.#ended = true;
    for (const disk of this.#inUse) await disk[Symbol.asyncDispose]();
    await Promise.all(
      this.#idle.splice(0).map(({ machine }) => machine[Symbol.asyncDispose]()),
    );
  }

  async #take(disk: Backend, signal?: AbortSignal): Promise<Kept> {
    signal?.throwIfAborted();
    const found = this.#idle.findLastIndex(({ machine }) => machine.fits(disk));
    if (found >= 0) return this.#idle.splice(found, 1)[0]!;
    const machine = await this.#options.boot(disk, signal);
    try {
      return { machine, taint: await taintOf(machine) };
    } catch (error) {
      await machine[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Takes the disk out of a machine, and keeps the machine if that is sound. */
  async #give({ machine, taint }: Kept, isSound: boolean): Promise<void> {
    let keep = isSound && !this.#ended && !machine.guest.over;
    let failure: unknown = null;
    try {
      await machine.unplug();
      keep &&= await taintOf(machine) === taint;
    } catch (error) {
      keep = false;
      if (!(error instanceof GuestError)) failure = error;
    }
    if (keep) this.#idle.push({ machine, taint });
    else await machine[Symbol.asyncDispose]();
    if (failure !== null) throw failure;
  }
}

/** A disk in a guest. */
class GuestDisk implements Attached {
  readonly environment: Readonly<Record<string, string>>;
  readonly #machine: Machine;
  readonly #device: string;
  readonly #options: AttachOptions;
  readonly #detach: (isSound: boolean) => Promise<void>;
  #isSound = true;
  #detached: Promise<void> | null = null;

  constructor(
    machine: Machine,
    device: string,
    options: AttachOptions,
    detach: (isSound: boolean) => Promise<void>,
  ) {
    this.#machine = machine;
    this.#device = device;
    this.#options = options;
    this.#detach = detach;
    this.environment = {
      ...options.on === "mount" ? { PLATTER_DIR: MOUNT_POINT } : {},
      PLATTER_DEVICE: device,
    };
  }

  async run(command: string, options: RunOptions): Promise<RunOutcome> {
    const { on, fileSystem, mountOptions } = this.#options;
    try {
      const outcome = await runInGuest(this.#machine, {
        command,
        device: this.#device,
        fileSystem: on === "mount" ? fileSystem : null,
        mountOptions,
        workingDirectory: Deno.cwd(),
      }, {
        ...options,
        environment: { ...options.environment, ...this.environment },
      });
      if (outcome.timedOut) this.#isSound = false;
      return outcome;
    } catch (error) {
      this.#isSound = false;
      throw error;
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#detached ??= this.#detach(this.#isSound);
  }
}

/** What the guest's kernel complained of, as a number; it only grows. */
async function taintOf({ guest }: Machine): Promise<string> {
  return await guest.run("read taint </proc/sys/kernel/tainted; echo $taint");
}
