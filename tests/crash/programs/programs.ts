/**
 * Programs that nobody here wrote, each with what is known of it when the power
 * fails: data for the tests and for `main.ts`, which runs them all.
 *
 * What a program does stands in a script beside this file, that prepares, runs
 * and checks it on the disk that the environment names; this is which scripts
 * there are, on which disks, and what is to come of it.
 *
 * @module
 */

import { fileURLToPath } from "node:url";
import type { CrashTestOptions } from "../../../src/crash/crash_test_options.ts";

/** One program in one configuration, on one kind of disk. */
export interface Program {
  /** What it is called, for people and for choosing it. */
  readonly name: string;
  /** The script beside this file, and the words for it after its verb. */
  readonly script: readonly [file: string, ...words: string[]];
  /**
   * The disk: a raw one for programs that want a file, or a file system of the
   * kernel's, which takes root.
   */
  readonly disk: Pick<
    CrashTestOptions,
    "stage" | "size" | "fileSystem" | "mountOptions" | "device"
  >;
  /** Programs that it needs, beside `sh`; and `"root"`. */
  readonly tools: readonly string[];
  /** Files of Debian's that it needs, where there is no program to name. */
  readonly files?: readonly string[];
  /**
   * Whether it survives each power cut: as its documentation says, but for what
   * `docs/found.md` tells.
   */
  readonly survives: boolean;
  /** States to check in the long form. */
  readonly states: number;
}

const HOST_TOOLS = ["root", "nbdfuse", "fusermount3", "losetup", "unshare"];

/** Disks with a file system, big enough for what is done there. */
const FILE_SYSTEMS = {
  ext4: { stage: "host", fileSystem: "ext4", size: "32MiB" },
  // mkfs.xfs makes none that is smaller.
  xfs: { stage: "host", fileSystem: "xfs", size: "300MiB" },
  btrfs: { stage: "host", fileSystem: "btrfs", size: "128MiB" },
} as const;

const POSTGRESQL_EXT4 = { ...FILE_SYSTEMS.ext4, size: "128MiB" } as const;

function postgresql(
  setting: string | null,
  survives: boolean,
  states: number,
): Program[] {
  return [
    ["ext4", POSTGRESQL_EXT4] as const,
    ["XFS", FILE_SYSTEMS.xfs] as const,
  ].map(([name, disk]) => ({
    name: `PostgreSQL ${setting ?? "default"} on ${name}`,
    script: ["postgresql.sh", ...setting === null ? [] : [setting]],
    disk,
    tools: [...HOST_TOOLS, "psql", "pg_ctlcluster", `mkfs.${disk.fileSystem}`],
    survives,
    states,
  }));
}

function sqlite(mode: string, synchronous: string, survives: boolean): Program {
  return {
    name: `sqlite3 ${mode}+${synchronous}`,
    script: ["sqlite3.sh", mode, synchronous],
    disk: FILE_SYSTEMS.ext4,
    tools: [...HOST_TOOLS, "mkfs.ext4", "sqlite3", "stdbuf"],
    survives,
    states: 300,
  };
}

function store(
  name: string,
  script: string,
  file: string,
  states: number,
): Program[] {
  return [true, false].map((survives) => ({
    name: `${name} ${survives ? "sync" : "nosync"}`,
    script: [script, survives ? "sync" : "nosync"],
    disk: FILE_SYSTEMS.ext4,
    tools: [...HOST_TOOLS, "mkfs.ext4"],
    files: ["/usr/bin/python3", file],
    survives,
    states,
  }));
}

function rename(
  how: "durable" | "atomic" | "careless",
  fileSystem: keyof typeof FILE_SYSTEMS,
  survives: boolean,
  mountOptions?: string,
): Program {
  return {
    name: `rename ${how} on ${fileSystem}${
      mountOptions === undefined ? "" : ` ${mountOptions}`
    }`,
    script: ["rename.sh", how],
    disk: { ...FILE_SYSTEMS[fileSystem], mountOptions },
    tools: [...HOST_TOOLS, `mkfs.${fileSystem}`],
    survives,
    states: 150,
  };
}

const RAW = { stage: "raw", size: "16MiB" } as const;

/** All of them. */
export const PROGRAMS: readonly Program[] = [
  ...["sgdisk", "sfdisk", "parted"].map((tool): Program => ({
    name: `${tool} on a raw disk`,
    script: ["partition_table.sh", tool],
    disk: RAW,
    tools: [...new Set(["sgdisk", "sfdisk", tool])],
    survives: tool === "sfdisk",
    states: 300,
  })),
  ...(["grow", "shrink", "uuid", "seed", "repair"] as const).map((
    what,
  ): Program => ({
    name: `ext4 tools ${what}`,
    script: ["ext4_tools.sh", what],
    disk: { ...RAW, size: "32MiB" },
    tools: ["mkfs.ext4", "resize2fs", "tune2fs", "e2fsck", "debugfs"],
    survives: what !== "uuid",
    states: 200,
  })),
  ...["virtio-blk", "virtio-scsi", "nvme"].map((controller): Program => ({
    name: `QEMU's ${controller}`,
    script: ["qemu_disk.ts", controller],
    disk: { ...RAW, device: { blockSize: 4096 } },
    tools: [
      "mkfs.ext4",
      "debugfs",
      "qemu-system-x86_64",
      "busybox",
      "apt-get",
      "dpkg-deb",
    ],
    survives: controller !== "nvme",
    states: 100,
  })),
  ...postgresql(null, true, 300),
  ...postgresql("fsync=off", false, 100),
  ...postgresql("synchronous_commit=off", false, 80),
  ...postgresql("full_page_writes=off", false, 400),
  sqlite("DELETE", "EXTRA", true),
  sqlite("TRUNCATE", "FULL", true),
  sqlite("WAL", "FULL", true),
  sqlite("OFF", "OFF", false),
  sqlite("WAL", "NORMAL", false),
  sqlite("DELETE", "FULL", false),
  ...store(
    "LMDB",
    "lmdb_program.py",
    "/usr/lib/python3/dist-packages/lmdb",
    200,
  ),
  ...store(
    "LevelDB",
    "leveldb_program.py",
    "/usr/lib/python3/dist-packages/plyvel",
    200,
  ),
  ...store("RocksDB", "rocksdb_program.py", "/usr/bin/ldb", 60),
  ...(["strict", "relaxed"] as const).map((mode): Program => ({
    name: `PGlite ${mode}`,
    script: ["pglite.sh", mode],
    disk: POSTGRESQL_EXT4,
    tools: [...HOST_TOOLS, "mkfs.ext4", "deno"],
    survives: false,
    states: 30,
  })),
  ...(["all", "none"] as const).map((fsync): Program => ({
    name: `git core.fsync=${fsync}`,
    script: ["git.sh", fsync],
    disk: FILE_SYSTEMS.ext4,
    tools: [...HOST_TOOLS, "mkfs.ext4", "git"],
    survives: false,
    states: 120,
  })),
  rename("durable", "ext4", true),
  rename("durable", "xfs", true),
  rename("durable", "btrfs", true),
  rename("atomic", "ext4", true),
  rename("atomic", "ext4", false, "noauto_da_alloc"),
  rename("atomic", "xfs", false),
  rename("atomic", "btrfs", true),
  rename("careless", "ext4", false),
];

/** What can be asked of a script. */
export type ProgramVerb = "prepare" | "run" | "check" | "damage";

/**
 * The command line of a program, for a shell.
 *
 * @param program The program.
 * @param verb What to do; `"damage"` is what the check must see.
 * @returns The command line.
 */
export function commandOf(
  { script: [file, ...words] }: Program,
  verb: ProgramVerb,
): string {
  const interpreter = file.endsWith(".py")
    ? "/usr/bin/python3"
    : file.endsWith(".ts")
    ? `"${Deno.execPath()}" run -A --quiet --no-check`
    : "sh";
  const path = fileURLToPath(new URL(file, import.meta.url));
  return [interpreter, `"${path}"`, verb, ...words].join(" ");
}

/**
 * What a crash test is to be told of a program: the disk and the commands.
 *
 * @param program The program.
 * @returns Options of the test.
 */
export function crashTestOf(program: Program): CrashTestOptions {
  return {
    ...program.disk,
    prepare: commandOf(program, "prepare"),
    run: commandOf(program, "run"),
    check: commandOf(program, "check"),
    // A server that starts on a busy machine has not failed.
    checkTimeoutMs: 300_000,
  };
}
