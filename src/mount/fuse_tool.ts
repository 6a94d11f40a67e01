/**
 * The programs that make a file of an NBD export by FUSE: which of them are
 * here, what is missing and which package brings it, and their command lines.
 *
 * @module
 */

import { DiskError } from "../errors.ts";

/** A program that makes a file of an NBD export. */
export type FuseToolName = "nbdfuse" | "qemu-storage-daemon";

/** What a tool is to do. */
export interface FuseMount {
  /** The file that it mounts over. */
  readonly point: string;
  /** The Unix socket of the server. */
  readonly socket: string;
  /** The file that it writes its process id to once it is mounted. */
  readonly pidFile: string;
  /** Whether writes are refused. */
  readonly readOnly: boolean;
  /** Whether all users may use the file, and not only who mounted it. */
  readonly allowOther: boolean;
}

/** A tool as it is used. */
interface FuseTool {
  readonly name: FuseToolName;
  /** The Debian package that brings it. */
  readonly package: string;
  /** What it is sent when the shell that watches it is no more. */
  readonly endSignal: "KILL" | "TERM";
  command(mount: FuseMount): string[];
}

/** In the order in which they are taken. */
const TOOLS: readonly FuseTool[] = [
  {
    name: "nbdfuse",
    package: "libnbd-bin",
    // With auto_unmount, fusermount3 stays and unmounts when nbdfuse is no more.
    endSignal: "KILL",
    command: ({ point, socket, pidFile, readOnly, allowOther }) => [
      "nbdfuse",
      ...["-o", allowOther ? "auto_unmount,allow_other" : "auto_unmount"],
      ...["-P", pidFile],
      ...(readOnly ? ["--readonly"] : []),
      point,
      ...["--unix", socket],
    ],
  },
  {
    name: "qemu-storage-daemon",
    package: "qemu-system-common",
    // It mounts by itself and unmounts when it is asked to end.
    endSignal: "TERM",
    command: ({ point, socket, pidFile, readOnly, allowOther }) => [
      "qemu-storage-daemon",
      "--blockdev",
      // Without discard=unmap a hole that is punched is a success and no hole.
      `driver=nbd,node-name=disk,discard=unmap,read-only=${onOff(readOnly)},` +
      `server.type=unix,server.path=${quoted(socket)}`,
      "--export",
      `type=fuse,id=file,node-name=disk,writable=${onOff(!readOnly)},` +
      `allow-other=${onOff(allowOther)},mountpoint=${quoted(point)}`,
      ...["--pidfile", pidFile],
    ],
  },
];

/** Says what is here, in words. */
const PROBE = `PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
for tool; do command -v "$tool" > /dev/null && echo "$tool"; done
if [ -c /dev/fuse ]; then echo device; fi
if [ -r /dev/fuse ] && [ -w /dev/fuse ]; then echo access; fi
exit 0`;

/**
 * Looks for a tool, and for what it needs.
 *
 * @param wanted Its name; the best one that is here if not given.
 * @returns The tool.
 * @throws {DiskError} With kind `platform`: it names what is missing, and the
 * Debian package that brings it; `permission` if FUSE may not be used, or
 * programs not be run.
 */
export async function findFuseTool(
  wanted: FuseToolName | undefined,
): Promise<FuseTool> {
  if (Deno.build.os !== "linux") {
    throw missing("this must be Linux", `current value is ${Deno.build.os}`);
  }
  const here = await probe();
  const tools = TOOLS.filter(({ name }) =>
    wanted === undefined || name === wanted
  );
  const tool = tools.find(({ name }) => here.has(name));
  if (tool === undefined) {
    const names = tools.map((tool) =>
      `${tool.name} (Debian's package ${tool.package})`
    );
    throw missing(
      `there must be ${names.join(" or ")}`,
      "it is not in the PATH",
    );
  }
  if (!here.has("fusermount3")) {
    throw missing(
      "there must be fusermount3 (Debian's package fuse3)",
      "it is not in the PATH",
    );
  }
  if (!here.has("device")) {
    throw missing(
      "there must be /dev/fuse",
      "load the kernel's module fuse, or give the container the device",
    );
  }
  if (!here.has("access")) {
    throw new DiskError(
      "permission",
      "Cannot mount a disk as /dev/fuse must be readable and writable: the operating system does not permit it (ls -l /dev/fuse tells whom it does)",
      { operation: "mount", path: "/dev/fuse" },
    );
  }
  return tool;
}

async function probe(): Promise<ReadonlySet<string>> {
  const tools = [...TOOLS.map(({ name }) => name), "fusermount3"];
  try {
    const { stdout } = await new Deno.Command("sh", {
      args: ["-c", PROBE, "sh", ...tools],
      stdin: "null",
      stderr: "null",
    }).output();
    return new Set(new TextDecoder().decode(stdout).split("\n"));
  } catch (error) {
    if (!(error instanceof Deno.errors.NotCapable)) throw error;
    throw new DiskError(
      "permission",
      "Cannot mount a disk as Deno must be allowed to run sh: use --allow-run=sh",
      { operation: "mount", cause: error },
    );
  }
}

function missing(what: string, more: string): DiskError {
  return new DiskError("platform", `Cannot mount a disk as ${what}: ${more}`, {
    operation: "mount",
  });
}

function onOff(value: boolean): string {
  return value ? "on" : "off";
}

/** A value in an option of QEMU's, where a comma ends it unless doubled. */
function quoted(value: string): string {
  return value.replaceAll(",", ",,");
}
