/**
 * A file as a block device of the kernel's, by a loop device: attached here,
 * and detached when it is closed or this process is no more.
 *
 * A loop device lets go of its file a moment after it was told to, and after
 * the call that told it. A file that is used again meanwhile has two users, one
 * of which still has what it had read. So detaching is waiting until the kernel
 * has taken `/sys/block/loopN/loop` away, which it does last. The number N may be
 * somebody else's right after that: which attachment it is, its `diskseq` tells
 * (Documentation/ABI/stable/sysfs-block; Linux 5.15).
 *
 * @module
 */

import { asDiskError } from "../backends/image_options.ts";
import { DiskError } from "../errors.ts";
import { keepOnThread } from "../one_thread.ts";
import { Supervisor } from "./supervisor.ts";

/** How a file becomes a block device. */
export interface LoopOptions {
  /**
   * Logical block size of the device in bytes: a power of two from 512 to the
   * size of a page of memory.
   *
   * @default {512}
   */
  blockSize?: number | undefined;
  /**
   * Whether writes are refused.
   *
   * @default {false}
   */
  readOnly?: boolean | undefined;
}

/**
 * The longest that the kernel may take to let go of a file, in ms: the shell
 * looks 200 times, every 0.05 s, and the machine may be busy.
 */
const END_MS = 30_000;

/** $1 the file, $2 its block size; the rest is options of losetup. */
const SCRIPT = `
file=$1 size=$2
shift 2
attach() {
  losetup --find --show --sector-size "$size" "$@" "$file"
}
device=$(attach --direct-io=on "$@" 2> /dev/null) ||
  device=$(attach "$@") || exit 1
name=\${device##*/}
sequence() { cat "/sys/block/$name/diskseq" 2> /dev/null; }
ours=$(sequence)
echo "direct $(cat "/sys/block/$name/loop/dio")"
echo "sequence $ours"
echo "device $device"
read -r _
attached() { [ -e "/sys/block/$name/loop" ] && [ "$(sequence)" = "$ours" ]; }
if attached; then losetup --detach "$device"; fi
tries=0
while attached; do
  tries=$((tries + 1))
  if [ "$tries" -gt 200 ]; then echo busy; exit; fi
  sleep 0.05
done
echo detached
`;

/** What a shell of the loop device does that another one has left. */
const DETACH = `
at=/sys/block/\${1##*/}
if [ "$(cat "$at/loop/backing_file")" = "$2" ] &&
  [ "$(cat "$at/diskseq" 2> /dev/null)" = "$3" ]; then
  losetup --detach "$1"
fi
echo detached
`;

/** A file that is a block device: see {@linkcode attachLoop}. */
export class LoopDevice implements AsyncDisposable {
  readonly #supervisor: Supervisor;
  readonly #file: string;
  readonly #sequence: string;
  /** Its path, such as `/dev/loop0`. */
  readonly device: string;
  /** Whether it passes by the cache of what the file is on. */
  readonly direct: boolean;

  /**
   * Takes over what was attached; {@linkcode attachLoop} is for everybody else.
   *
   * @param supervisor The shell that detaches it.
   * @param file The file.
   * @param sequence Its `diskseq`; empty if the kernel has none.
   * @param device The device's path.
   * @param direct Whether it does direct I/O.
   */
  constructor(
    supervisor: Supervisor,
    file: string,
    sequence: string,
    device: string,
    direct: boolean,
  ) {
    keepOnThread(this, "a LoopDevice");
    this.#supervisor = supervisor;
    this.#file = file;
    this.#sequence = sequence;
    this.device = device;
    this.direct = direct;
  }

  /**
   * Detaches the device, and waits until the kernel is done with the file. One
   * that somebody else has detached is left to who has its number now.
   * Idempotent.
   *
   * @returns When it is done.
   * @throws {DiskError} With kind `io` if it is in use after 10 s: then the kernel
   * detaches it with its last user.
   */
  async detach(): Promise<void> {
    const outcome = await this.#supervisor.end(END_MS);
    if (outcome.lines.includes("detached")) return;
    if (!outcome.lines.includes("busy")) {
      // The shell was killed.
      const { lines } = await new Supervisor(DETACH, [
        this.device,
        this.#file,
        this.#sequence,
      ]).end(END_MS);
      if (lines.includes("detached")) return;
    }
    throw new DiskError(
      "io",
      `Cannot detach ${this.device} from "${this.#file}" as it is in use: it is detached with its last user`,
      { operation: "detach", path: this.device },
    );
  }

  /** Detaches the device, for `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.detach();
  }
}

/**
 * Makes a block device of a file, by a loop device; with direct I/O where the
 * file can. As root, on Linux, with `losetup` (Debian's package `mount`) and
 * `--allow-run=sh`, and `--allow-read` of the file.
 *
 * @param file The file; whole blocks of it are the device.
 * @param options How.
 * @returns The device, until it is detached.
 * @throws {RangeError} If the block size is none.
 * @throws {DiskError} With kind `not-found` if there is no such file, `permission`
 * or `io` if its path leads nowhere else, `platform` if losetup cannot do it.
 */
export async function attachLoop(
  file: string,
  options: LoopOptions = {},
): Promise<LoopDevice> {
  const { blockSize = 512, readOnly = false } = options;
  if (!Number.isInteger(Math.log2(blockSize)) || blockSize < 512) {
    throw new RangeError(
      `Cannot attach a file as its blockSize must be a power of two from 512 on: current value is ${blockSize}`,
    );
  }
  let path: string;
  try {
    path = await Deno.realPath(file);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) {
      throw asDiskError(error, file, "attach");
    }
    throw new DiskError(
      "not-found",
      `Cannot attach "${file}" as there is no such file`,
      { operation: "attach", path: file, cause: error },
    );
  }
  const supervisor = new Supervisor(SCRIPT, [
    path,
    String(blockSize),
    ...(readOnly ? ["--read-only"] : []),
  ]);
  const device = await supervisor.line("device");
  if (device === null) {
    const { said } = await supervisor.ended;
    throw new DiskError(
      "platform",
      `Cannot attach "${file}" as losetup (Debian's package mount; as root) fails: ${said}`,
      { operation: "attach", path: file },
    );
  }
  const direct = await supervisor.line("direct") === "1";
  const sequence = await supervisor.line("sequence") ?? "";
  return new LoopDevice(supervisor, path, sequence, device, direct);
}
