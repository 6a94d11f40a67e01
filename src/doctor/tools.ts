/**
 * Programs of others, and devices, that something here needs: what each is for,
 * and what brings it. They are looked for and not run.
 *
 * @module
 */

import fs from "node:fs";
import { findProgram, searchPath } from "../crash/programs.ts";
import { isGranted } from "../platform/permissions.ts";
import { arch, os, runtime, runtimeName } from "../platform/system.ts";
import type { Tool } from "./diagnosis.ts";

/** The name, what it is for, and the package of Debian that has it. */
const PROGRAMS: readonly (readonly [
  name: string,
  purpose: string,
  from: string,
])[] = [
  ["qemu-nbd", "opens containers such as qcow2", "qemu-utils"],
  ["qemu-img", "makes, converts and checks containers", "qemu-utils"],
  ["nbdfuse", "platter mount and crash: a disk as a file", "libnbd-bin"],
  ["fusermount3", "the same, for users other than root", "fuse3"],
  [
    "qemu-storage-daemon",
    "platter mount, in place of nbdfuse",
    "qemu-system-common",
  ],
  ["losetup", "loop devices: attachLoop(), platter crash --in host", "mount"],
  ["setpriv", "ends a child when this process is killed", "util-linux"],
  [
    "linux.uml",
    "platter crash --in uml: User Mode Linux",
    "user-mode-linux",
  ],
  [
    "qemu-system-x86_64",
    "platter crash --in qemu; guests on vhost-user disks",
    "qemu-system-x86",
  ],
  ["busybox", "the system in guests of platter crash", "busybox-static"],
  ["debugfs", "names what of ext4 a power cut broke", "e2fsprogs"],
  ["xz", "platter copy of .xz", "xz-utils"],
  ["zstd", "platter copy of .zst", "zstd"],
  ["nbdkit", "other NBD servers; deno task bench:nbd", "nbdkit"],
  ["fio", "workloads; deno task bench", "fio"],
];

/** What only that needs which needs Deno: mounts, and crash tests of programs. */
const FOR_DENO: ReadonlySet<string> = new Set([
  ...["nbdfuse", "fusermount3", "qemu-storage-daemon", "losetup", "linux.uml"],
  ...["busybox", "debugfs", "/dev/fuse", "/dev/kvm"],
]);

/** What would bring a tool on this runtime; `null` if it can be used. */
function needsDeno(name: string): string | null {
  return runtime === "deno" || !FOR_DENO.has(name)
    ? null
    : `Deno: on ${runtimeName} nothing uses it`;
}

/** Libraries, looked for where the dynamic linker looks by itself: ld.so(8). */
const LIBRARIES: typeof PROGRAMS = [
  ["librbd.so.1", "images of Ceph clusters: rbd:POOL/IMAGE", "librbd1"],
];
const LIBRARY_FOLDERS = [
  `/usr/lib/${arch}-linux-gnu`,
  "/usr/lib64",
  "/usr/lib",
  "/usr/local/lib",
];

/** Devices that need be readable and writable, and what brings them. */
const DEVICES: readonly (readonly [
  path: string,
  purpose: string,
  remedy: string,
])[] = [
  [
    "/dev/fuse",
    "platter mount, crash",
    "modprobe fuse (of a container: --device /dev/fuse)",
  ],
  [
    "/dev/kvm",
    "faster guests of platter crash --in qemu",
    "a processor with virtualization (of a container: --device /dev/kvm)",
  ],
];

/**
 * Looks for all of them.
 *
 * @returns What was found; `null` if that may not be looked for, which takes
 * `--allow-env=PATH` and `--allow-read`.
 */
export async function findTools(): Promise<readonly Tool[] | null> {
  // Programs of Windows have other names.
  if (
    os === "windows" ||
    !isGranted({ name: "env", variable: "PATH" }) ||
    !searchPath().split(":").every((path) =>
      path === "" || isGranted({ name: "read", path })
    )
  ) return null;
  const programs = PROGRAMS.map(async ([name, purpose, from]) => {
    // A folder may be allowed and a program in it not (--deny-read).
    const path = await findProgram(name).catch(() => null);
    const remedy = needsDeno(name) ??
      (path === null
        ? `apt-get install ${from}`
        : isGranted({ name: "run", command: name })
        ? null
        : `--allow-run=${name}`);
    return { name, path, purpose, remedy };
  });
  const devices = os === "linux" ? DEVICES : [];
  const libraries = os === "linux" ? LIBRARIES : [];
  return [
    ...await Promise.all(programs),
    ...libraries.map(([name, purpose, from]) => {
      const path = LIBRARY_FOLDERS.map((folder) => `${folder}/${name}`)
        .find(isThere) ?? null;
      const remedy = path === null ? `apt-get install ${from}` : null;
      return { name, path, purpose, remedy };
    }),
    ...devices.map(([name, purpose, remedy]) => {
      // accessSync() asks for more than the path, and /dev for all there is.
      if (!isEverythingGranted()) {
        return { name, path: null, purpose, remedy: "--allow-all" };
      }
      const usable = isUsable(name);
      return {
        name,
        path: usable ? name : null,
        purpose,
        remedy: needsDeno(name) ?? (usable ? null : remedy),
      };
    }),
  ];
}

function isEverythingGranted(): boolean {
  return (["read", "write", "sys", "env", "net", "run", "ffi"] as const)
    .every((name) => isGranted({ name }));
}

function isUsable(path: string): boolean {
  try {
    fs.accessSync(path, fs.constants.R_OK | fs.constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

function isThere(path: string): boolean {
  return isGranted({ name: "read", path }) && fs.existsSync(path);
}
