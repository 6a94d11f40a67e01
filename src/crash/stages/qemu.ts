/**
 * Stage qemu: commands run in a Linux guest under QEMU, with Debian's kernel and
 * the host's root, read-only, by 9p. It needs no root and, emulated, nothing of the
 * processor; where User Mode Linux cannot be had, or a real virtio driver is wanted,
 * it is the slower way.
 *
 * A guest of one's own needs no stage but raw: give it the disk by the URI in
 * `PLATTER_NBD`.
 *
 * @module
 */

import type { GuestUser } from "../guests/guest.ts";
import { type GuestKernel, guestKernel } from "../guests/kernel_package.ts";
import { QemuMachine } from "../guests/qemu_machine.ts";
import { type Need, program, requireAll } from "../programs.ts";
import { GUEST_NEEDS, GuestStage } from "./guest_stage.ts";

/** How the stage is set up. */
export interface QemuStageOptions {
  /**
   * Mebibytes of memory of each guest, of which there is one for each check that
   * runs at the same time.
   *
   * @default {512}
   */
  memoryMib?: number | undefined;
  /**
   * `"tcg"` emulates a processor; `"kvm"` has the host's, if it may.
   *
   * @default {"tcg"}
   */
  accelerator?: "tcg" | "kvm" | undefined;
  /** A kernel; Debian's, fetched by apt, if not given. */
  kernel?: GuestKernel | undefined;
  /** Who runs the guests; this process' user if not given. */
  user?: GuestUser | undefined;
}

const NEEDS: readonly Need[] = [
  program("qemu-system-x86_64", "qemu-system-x86"),
  program("busybox", "busybox-static"),
  program("ldd", "libc-bin"),
  ...GUEST_NEEDS,
];

const KERNEL_NEEDS: readonly Need[] = [
  program("apt-get", "apt"),
  program("dpkg-deb", "dpkg"),
];

/**
 * Makes the stage.
 *
 * @param options How.
 * @returns The stage.
 */
export function qemuStage(options: QemuStageOptions = {}): GuestStage {
  const { memoryMib = 512, accelerator = "tcg", user, kernel } = options;
  return new GuestStage({
    name: "qemu",
    require: () =>
      requireAll("use stage qemu", [
        ...NEEDS,
        ...kernel === undefined ? KERNEL_NEEDS : [],
      ]),
    boot: async (like, signal) =>
      await QemuMachine.boot({
        kernel: kernel ?? await guestKernel(),
        memoryMib,
        accelerator,
        user,
        like,
        signal,
      }),
  });
}
