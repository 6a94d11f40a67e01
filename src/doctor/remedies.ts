/**
 * What would mend a lack, found by what the reason for it names: a limit, a
 * setting, a permission. The reasons are `disk.info`'s; nothing is probed here.
 *
 * @module
 */

import { ffiOption } from "../platform/permissions.ts";

/** What a reason names, and what would mend that. */
export const REMEDIES: readonly (readonly [names: RegExp, remedy: string])[] = [
  [
    /io_uring_setup is not permitted/,
    "sysctl -w kernel.io_uring_disabled=0 (of a container: --security-opt seccomp=unconfined)",
  ],
  [
    /the kernel has no io_uring, or a filter hides it/,
    "Linux 5.6 or later (of a container: --security-opt seccomp=unconfined)",
  ],
  [
    /the kernel has no AIO, or a filter hides it/,
    "of a container: --security-opt seccomp=unconfined",
  ],
  [/RLIMIT_MEMLOCK/, "ulimit -l unlimited"],
  [/fs\.aio-max-nr/, "sysctl -w fs.aio-max-nr=1048576"],
  [/chattr \+C/, "chattr +C on the folder, before the image is made in it"],
  [
    /ignores O_DIRECT before version 2\.3/,
    "OpenZFS 2.3 or later, with zfs set direct=standard on the dataset",
  ],
  [
    /keeps its data in memory/,
    "a folder on a disk, such as /var/tmp",
  ],
  [
    /leaves direct I\/O and flushes to the file system below/,
    "a volume for the images (docker run -v NAME:/images), not the container's own layers",
  ],
  [
    /bypasses the cache of this machine only|hands O_DIRECT to a user-space/,
    "a folder on a disk of this machine",
  ],
  [/what a flush reaches on .* is not/, "a folder on a disk of this machine"],
  [/mounted volatile/, "mount the overlay without -o volatile"],
  [/install the package koffi/, "npm install koffi"],
  [/--allow-sys=statfs/, "--allow-sys=statfs"],
  [/without FFI|need FFI|FFI is not allowed here/, ffiOption],
];

/**
 * What would mend a lack.
 *
 * @param reason Why there is one; `null` if there is none.
 * @returns What would mend it; `null` if nothing is known to.
 */
export function remedyOf(reason: string | null): string | null {
  if (reason === null) return null;
  return REMEDIES.find(([names]) => names.test(reason))?.[1] ?? null;
}
