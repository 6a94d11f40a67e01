/**
 * Programs of others, and devices, that something here needs: what each is for,
 * and what brings it. Programs are looked for and not run, but for User Mode
 * Linux, which is there on machines that it does not run on. Devices are opened.
 *
 * @module
 */

import fs from "node:fs";
import { findProgram, searchPath } from "../crash/programs.ts";
import { tryUml } from "../crash/stages/uml_trial.ts";
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

/** A tool as this runtime has it: some are of use on Deno alone. */
function asUsedHere(tool: Tool): Tool {
  if (runtime === "deno" || !FOR_DENO.has(tool.name)) return tool;
  const remedy = `Deno: on ${runtimeName} nothing uses it`;
  return tool.path === null
    ? { ...tool, remedy }
    : { ...tool, verdict: "limited", reason: "it needs Deno", remedy };
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

/** A device that need be readable and writable, and what brings it. */
type Device = readonly [path: string, purpose: string, remedy: string];
const DEVICES: readonly Device[] = [
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
 * @param signal Gives it up.
 * @returns What was found; `null` if that may not be looked for, which takes
 * `--allow-env=PATH` and `--allow-read`.
 */
export async function findTools(
  signal: AbortSignal | undefined,
): Promise<readonly Tool[] | null> {
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
    if (path === null) return missing(name, purpose, `apt-get install ${from}`);
    if (!isGranted({ name: "run", command: name })) {
      const reason = "it may not be run";
      return limited(name, path, purpose, reason, `--allow-run=${name}`);
    }
    const reason = name === "linux.uml" ? await umlLack(signal) : null;
    return reason === null
      ? good(name, path, purpose)
      : limited(name, path, purpose, reason, null);
  });
  const devices = os === "linux" ? DEVICES : [];
  const libraries = os === "linux" ? LIBRARIES : [];
  return [
    ...await Promise.all(programs),
    ...libraries.map(([name, purpose, from]) => {
      const path = LIBRARY_FOLDERS.map((folder) => `${folder}/${name}`)
        .find(isThere);
      return path === undefined
        ? missing(name, purpose, `apt-get install ${from}`)
        : good(name, path, purpose);
    }),
    ...devices.map((device): Tool => {
      // To open one asks for more than the path, and /dev for all there is.
      if (isEverythingGranted()) return tryDevice(device);
      const [name, purpose] = device;
      const remedy = "--allow-all";
      return { ...missing(name, purpose, remedy), verdict: "unknown" };
    }),
  ].map(asUsedHere);
}

/**
 * Opens a device for reading and writing, and closes it.
 *
 * @param device The device.
 * @param open Opens it; throws as `node:fs` does.
 * @returns What was found.
 */
export function tryDevice(
  [path, purpose, remedy]: Device,
  open: (path: string) => number = (path) =>
    fs.openSync(path, fs.constants.O_RDWR),
): Tool {
  try {
    fs.closeSync(open(path));
    return good(path, path, purpose);
  } catch (error) {
    const { code } = error as { code?: unknown };
    // What has a name may still have no driver, or no hardware: ENODEV, ENXIO.
    if (code !== "EACCES" && code !== "EPERM") {
      return missing(path, purpose, remedy);
    }
    return limited(
      path,
      path,
      purpose,
      `it is there, and this user is not permitted to open it (${code})`,
      `be root, or of the group that ls -l ${path} shows (of a container: --device ${path})`,
    );
  }
}

function good(name: string, path: string, purpose: string): Tool {
  return { name, verdict: "good", path, purpose, reason: null, remedy: null };
}

function missing(name: string, purpose: string, remedy: string): Tool {
  return {
    name,
    verdict: "missing",
    path: null,
    purpose,
    reason: null,
    remedy,
  };
}

function limited(
  name: string,
  path: string,
  purpose: string,
  reason: string,
  remedy: string | null,
): Tool {
  return { name, verdict: "limited", path, purpose, reason, remedy };
}

/** Why User Mode Linux does not run here; `null` if it does, or may not be tried. */
async function umlLack(
  signal: AbortSignal | undefined,
): Promise<string | null> {
  if (runtime !== "deno" || !isEverythingGranted()) return null;
  try {
    for (const need of await tryUml(signal)) {
      if (!await need.isThere()) return `it needs ${need.what}`;
    }
    return null;
  } catch (error) {
    signal?.throwIfAborted();
    // No room for a temporary folder, say, which is no reason to say no more.
    return `it could not be tried: ${(error as Error).message}`;
  }
}

function isEverythingGranted(): boolean {
  return (["read", "write", "sys", "env", "net", "run", "ffi"] as const)
    .every((name) => isGranted({ name }));
}

function isThere(path: string): boolean {
  return isGranted({ name: "read", path }) && fs.existsSync(path);
}
