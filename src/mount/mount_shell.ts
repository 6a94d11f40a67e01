/**
 * The shell that watches over a mount: it starts the tool that mounts, and it
 * alone unmounts and removes the mount point, whatever ended the mount:
 *
 * | what ends | who sees it | what is done |
 * | --- | --- | --- |
 * | the mount is closed, or this process ends | the shell: its standard input ends, or it is sent SIGUSR1 | it unmounts; the tool ends; mount point and private folder are removed |
 * | the tool ends, or somebody unmounts | the shell: it waits for its child | the same |
 * | the shell | the tool, by its parent-death signal; this process | fusermount3 or the tool unmounts, and the script runs once more, to clean up |
 *
 * @module
 */

import { Supervisor, type SupervisorOutcome } from "./supervisor.ts";

/** What a shell watches over. */
export interface WatchedMount {
  /** The file that is mounted over, as an absolute path without links. */
  readonly point: string;
  /** Device and inode of that file, to know it again. */
  readonly below: string;
  /** The private folder: `nbd.sock` and `pid` in it, and nothing else. */
  readonly dir: string;
  /** The signal that the tool ends by with the shell. */
  readonly endSignal: "KILL" | "TERM";
  /** The tool's command line. */
  readonly command: readonly string[];
}

/** How a mount ended. */
export interface MountOutcome {
  /** Whether it was in use still, and only its name was taken away. */
  readonly busy: boolean;
  /** Whether it could not be unmounted. */
  readonly stuck: boolean;
  /** The code that the tool ended with; `null` if nobody knows it. */
  readonly code: number | null;
  /** The last words of the tool and of fusermount3. */
  readonly said: string;
}

/**
 * The longest that the shell may take to unmount, in ms: 2 s of patience with
 * who has the file open, 4 s for two calls of fusermount3 that hang, 5 s for a
 * tool that does not end, and as much again for a machine that is busy.
 */
const END_MS = 25_000;

/**
 * $1 the mount point, $2 the same as /proc/self/mountinfo writes it, $3 device
 * and inode of the file below, $4 the private folder, $5 the signal that the
 * tool ends by with this shell; the rest is the tool's command line, or nothing
 * to clean up only.
 *
 * fusermount3 exits by SIGKILL (137) if it hung; then there is no use in more
 * tries. A file that is in use stays mounted for those who have it open until
 * the tool is killed, which is what ends their waiting for it. If the shell's
 * own waiting ends and not the tool, it was sent SIGUSR1: who serves is no more,
 * and there is nobody to be patient with.
 *
 * A process that is ending and has the file open closes it, which is a request
 * to QEMU's tool, before it closes the socket that is the answer's way, and
 * before its children are told: it would never end. So with that tool the shell
 * looks once a second whether its parent is ending: PF_EXITING (4) of
 * include/linux/sched.h in the flags of proc_pid_stat(5), the seventh field
 * after the name.
 */
const SCRIPT = `
point=$1 entry=$2 below=$3 dir=$4 signal=$5 child=
shift 5

mounted() {
  while read -r _ _ _ _ at _; do
    if [ "$at" = "$entry" ]; then return 0; fi
  done < /proc/self/mountinfo
  return 1
}

lazily() {
  echo busy
  timeout -s KILL 2 fusermount3 -u -z "$point"
  if [ -n "$child" ]; then kill -KILL "$child"; fi
}

exiting() {
  read -r stat < "/proc/$PPID/stat" || return 0
  set -- \${stat##*) }
  [ $(($7 & 4)) -ne 0 ]
}

unmount() {
  tries=0
  while mounted; do
    timeout -s KILL 2 fusermount3 -u "$point" 2> /dev/null
    case $? in 0) continue ;; 137) tries=20 ;; esac
    tries=$((tries + 1))
    if [ "$tries" -le 20 ]; then sleep 0.1; continue; fi
    lazily
    return
  done
}

code=0
if [ $# -gt 0 ]; then
  exec 3<&0 < /dev/null
  if command -v setpriv > /dev/null; then
    set -- setpriv --pdeathsig "$signal" "$@"
  fi
  "$@" 3<&- >&2 &
  child=$!
  {
    read -r _ <&3
    waited=0
    while [ "$waited" -lt 50 ] && kill -0 "$child" 2> /dev/null; do
      unmount
      if [ "$signal" = TERM ]; then kill -TERM "$child"; fi
      waited=$((waited + 1))
      sleep 0.1
    done
    kill -KILL "$child"
  } &
  helpers=$!
  exec 3<&-
  if [ "$signal" = TERM ]; then
    {
      while kill -0 $$ && ! exiting; do sleep 1; done
      kill -USR1 $$
    } > /dev/null 2>&1 &
    helpers="$helpers $!"
  fi
  wait "$child"
  code=$?
  if kill -0 "$child" 2> /dev/null; then
    lazily
  fi
  child=
  kill -KILL $helpers 2> /dev/null
fi
unmount
if mounted; then echo stuck; fi
if [ "$(stat -c %d:%i "$point")" = "$below" ] && [ ! -s "$point" ]; then
  rm -f "$point"
fi
rm -f "$dir/nbd.sock" "$dir/pid"
rmdir "$dir"
echo "gone $code"
`;

/** A mount, as the shell has it. */
export class MountShell {
  readonly #words: readonly string[];
  readonly #supervisor: Supervisor;
  /** How it ended. Never rejects. */
  readonly ended: Promise<MountOutcome>;

  /**
   * Starts the tool.
   *
   * @param mount What to watch over; the shell removes it from now on.
   * @throws {Deno.errors.NotCapable} Without `--allow-run=sh`.
   */
  constructor(mount: WatchedMount) {
    const { point, below, dir, endSignal, command } = mount;
    this.#words = [point, escaped(point), below, dir, endSignal];
    this.#supervisor = new Supervisor(SCRIPT, [...this.#words, ...command]);
    this.ended = this.#follow();
  }

  /** Unmounts; {@linkcode MountShell.ended} tells when it is done. Idempotent. */
  end(): void {
    this.#supervisor.end(END_MS);
  }

  async #follow(): Promise<MountOutcome> {
    const first = await this.#supervisor.ended;
    if (isWhole(first)) return outcomeOf(first);
    // It was killed, and left its work.
    const second = new Supervisor(SCRIPT, this.#words);
    const { lines, said } = await second.end(END_MS);
    return {
      ...outcomeOf({
        lines: [...first.lines, ...lines],
        said: [first.said, said].filter((text) => text !== "").join("\n"),
      }),
      code: null,
    };
  }
}

function isWhole({ lines }: SupervisorOutcome): boolean {
  return lines.some((line) => line.startsWith("gone "));
}

function outcomeOf({ lines, said }: SupervisorOutcome): MountOutcome {
  const gone = lines.find((line) => line.startsWith("gone "));
  return {
    busy: lines.includes("busy"),
    stuck: lines.includes("stuck"),
    code: gone === undefined ? null : Number(gone.slice("gone ".length)),
    said,
  };
}

/**
 * A mount point as /proc/self/mountinfo writes it: proc_pid_mountinfo(5). A `#`
 * stays as it is there, though not in the field of the source.
 *
 * @param path The path.
 * @returns The word in its place.
 */
export function escaped(path: string): string {
  return path.replace(
    /[ \t\n\\]/g,
    (sign) => `\\${sign.charCodeAt(0).toString(8).padStart(3, "0")}`,
  );
}
