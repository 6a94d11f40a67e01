/**
 * Namespaces for commands: each gets its own processes, System V objects and
 * mounts, so that what it finds on a disk of the past means nobody who is alive
 * now: a process number in a pid file is taken by nobody (`run_shell.ts` counts
 * from elsewhere in each), a key of shared memory is free. And so that what it
 * leaves running, or mounted, goes with it.
 *
 * `unshare` makes them: by itself for root, else within a user namespace in
 * which everybody is who they are. Which of these is allowed differs by system
 * (containers, `kernel.apparmor_restrict_unprivileged_userns`), so it is tried.
 *
 * A command ends with the process that started it, even if that is killed: it is
 * started by `setpriv --pdeathsig KILL`, and `unshare --kill-child` passes it on
 * to the first process of the namespace, with which the kernel ends all of it
 * (pid_namespaces(7)). Without namespaces it is the shell alone that ends so.
 *
 * @module
 */

import { findProgram, ProgramError, searchPath } from "./programs.ts";

/** How commands are isolated here. */
export interface Isolation {
  /** Program and arguments that come before a command. */
  readonly prefix: readonly string[];
  /** Whether a command gets namespaces. */
  readonly namespaces: boolean;
  /** Whether it may mount there. */
  readonly mounts: boolean;
  /**
   * What comes before a shell that starts commands, and before each of those
   * (`fork_server.ts`), if a namespace can be made within another.
   */
  readonly nested:
    | {
      readonly server: readonly string[];
      readonly command: readonly string[];
    }
    | null;
}

/**
 * `slave`: what is unmounted outside goes here as well, or it would stay mounted for
 * as long as a command runs (mount_namespaces(7)).
 */
const NAMESPACES = [
  ...["--pid", "--ipc", "--mount", "--propagation", "slave"],
  ...["--fork", "--kill-child"],
];

/** A user namespace in which everybody is who they are. */
const USER = ["--user", "--map-current-user"];

/** What can be asked of unshare, the best first. */
const WAYS: readonly { args: readonly string[]; mounts: boolean }[] = [
  { args: [...NAMESPACES, "--mount-proc"], mounts: true },
  { args: NAMESPACES, mounts: true },
  {
    args: [...USER, ...NAMESPACES, "--mount-proc"],
    mounts: false,
  },
  { args: [...USER, ...NAMESPACES], mounts: false },
];

let found: Promise<Isolation> | undefined;
let plain: Promise<Isolation> | undefined;

/**
 * Finds out how commands can be isolated here; tries once.
 *
 * @returns How.
 */
export function findIsolation(): Promise<Isolation> {
  return found ??= find();
}

/**
 * How commands are run that are not to be isolated.
 *
 * @returns How: they still have a session of their own, and end with this
 * process.
 */
export function withoutIsolation(): Promise<Isolation> {
  return plain ??= findPlain();
}

async function findPlain(): Promise<Isolation> {
  const setsid = await findProgram("setsid");
  const setpriv = await findProgram("setpriv");
  if (setsid === null) {
    throw new ProgramError(
      "Cannot run commands as there is no program setsid (package util-linux)",
    );
  }
  return {
    // Not `detached` of the runtime's, which forks all of this process.
    prefix: [
      setsid,
      ...setpriv === null ? [] : [setpriv, "--pdeathsig", "KILL"],
    ],
    namespaces: false,
    mounts: false,
    nested: null,
  };
}

async function find(): Promise<Isolation> {
  const none = await withoutIsolation();
  const unshare = await findProgram("unshare");
  if (unshare === null) return none;
  for (const { args, mounts } of WAYS) {
    const command = [unshare, ...args];
    const prefix = [...none.prefix, ...command];
    if (!await works(prefix)) continue;
    // No mounts of its own: what is mounted later is there for its commands.
    const server = [
      ...[...none.prefix, unshare, ...args.includes("--user") ? USER : []],
      ...["--pid", "--fork", "--kill-child"],
    ];
    const canNest = await works([...server, ...command]);
    return {
      prefix,
      namespaces: true,
      mounts,
      nested: canNest ? { server, command } : null,
    };
  }
  return none;
}

async function works(prefix: readonly string[]): Promise<boolean> {
  const [program, ...args] = prefix;
  const { success } = await new Deno.Command(program!, {
    args: [...args, "true"],
    env: { PATH: searchPath() },
    stdin: "null",
    stdout: "null",
    stderr: "null",
  }).output();
  return success;
}
