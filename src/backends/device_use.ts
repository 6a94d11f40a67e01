/**
 * What Linux does with a block device, or with one that is made of a file:
 * mounted, swapped to, part of another device; and what a device is made of. Read
 * from `/proc` and `/sys`, where Deno's permissions already allow it, so that
 * there is no prompt. (Deno wants `--allow-all` for them, as for paths under
 * `/dev`.)
 *
 * @module
 */

import fs from "node:fs";
import { DiskError } from "../errors.ts";
import { isGranted } from "../platform/permissions.ts";
import { os } from "../platform/system.ts";

/** A device's number: `8:1`. */
type DeviceNumber = string;

/**
 * A device's number as `/sys` has it.
 *
 * @param device The number as `stat` gives it.
 * @returns For example `8:1`.
 */
export function deviceNumber(device: bigint): DeviceNumber {
  // glibc's <sys/sysmacros.h>: both numbers have a low and a high part.
  const major = device >> 8n & 0xfffn | device >> 32n & 0xffff_f000n;
  const minor = device & 0xffn | device >> 12n & 0xffff_ff00n;
  return `${major}:${minor}`;
}

/**
 * Refuses to write to what the system uses: a device, its parts, the whole that
 * it is a part of, or a file that such a device is made of.
 *
 * @param path The image's path, for the error.
 * @param fd Its descriptor.
 * @throws {DiskError} With kind `locked` if the system is known to use it.
 */
export function refuseInUse(path: string, fd: number): void {
  if (!isReadable()) return;
  const stat = fs.fstatSync(fd, { bigint: true });
  const use = (stat.isBlockDevice() ? useOf(deviceNumber(stat.rdev)) : null) ??
    useOfLoops(loopsBeside(stat));
  if (use === null) return;
  throw new DiskError(
    "locked",
    `Cannot open "${path}" for writing as ${use}: release it there, or open with lock: "none" if you know better`,
    { operation: "open", path },
  );
}

/**
 * The loop devices that share their data with an image: they have a cache of
 * their own.
 *
 * @param fd The image's descriptor.
 * @returns Their paths.
 */
export function loopDevicesBeside(fd: number): string[] {
  if (!isReadable()) return [];
  return loopsBeside(fs.fstatSync(fd, { bigint: true }))
    .map((name) => `/dev/${name}`);
}

/** Bytes of something, from one to before another. */
interface Bytes {
  readonly start: number;
  readonly end: number;
  /** Whether it is only some of them, as of a mapped device, and not which. */
  readonly some: boolean;
}

/** Which bytes of a file or a device something has its data in. */
export interface Place {
  /** The file or the device: the same for all names of it. */
  readonly key: string;
  /** The bytes. */
  readonly bytes: Bytes;
}

/** All of a file or a device. */
export const ALL_BYTES: Bytes = { start: 0, end: Infinity, some: false };

/** What a block device has its data in. */
export type BelowDevice =
  & Place
  /** A file, by its path, or a device, by its number as `stat` gives it. */
  & ({ readonly path: string } | { readonly device: number });

/**
 * What a device is known by, whatever node leads to it.
 *
 * @param device Its number as `stat` gives it.
 * @returns A key, as {@linkcode Place} has it.
 */
export function keyOfDevice(device: number): string {
  return `device ${device}`;
}

/**
 * What a file is known by, whatever name leads to it.
 *
 * @param dev Its file system's number as `stat` gives it.
 * @param ino Its own there.
 * @returns A key, as {@linkcode Place} has it.
 */
export function keyOfFile(dev: number, ino: number): string {
  return `file ${dev} ${ino}`;
}

/**
 * Where a block device has its data: on the disk of a partition, in the file of a
 * loop device, on the devices below a mapped one, and where these have it.
 *
 * @param device Its number as `stat` gives it.
 * @returns All of it, as far as it is known.
 */
export function belowDevice(device: number): BelowDevice[] {
  if (!isReadable()) return [];
  const found: BelowDevice[] = [];
  const seen = new Set<DeviceNumber>();
  const look = (number: DeviceNumber, own: Bytes) => {
    if (seen.has(number)) return;
    seen.add(number);
    const directory = `/sys/dev/block/${number}`;
    const add = (next: DeviceNumber | undefined, bytes: Bytes) => {
      if (next === undefined) return;
      const device = numberOf(next);
      found.push({ key: keyOfDevice(device), bytes, device });
      look(next, bytes);
    };
    /** Where its bytes are in what has it from there on. */
    const shifted = (by: number): Bytes => (
      { ...own, start: own.start + by, end: own.end + by }
    );
    const path = read(`${directory}/loop/backing_file`);
    if (path !== undefined) {
      const bytes = shifted(Number(read(`${directory}/loop/offset`) ?? 0));
      const file = statOf(path);
      if (file?.isBlockDevice()) {
        add(deviceNumber(BigInt(file.rdev)), bytes);
      } else if (file !== null) {
        found.push({ key: keyOfFile(file.dev, file.ino), bytes, path });
      }
      return;
    }
    for (const name of list(`${directory}/slaves`)) {
      const below = `${directory}/slaves/${name}`;
      const end = sectorsAt(`${below}/size`);
      add(read(`${below}/dev`), { start: 0, end, some: true });
    }
    if (exists(`${directory}/partition`)) {
      const start = sectorsAt(`${directory}/start`);
      add(read(`${directory}/../dev`), shifted(start));
    }
  };
  const number = deviceNumber(BigInt(device));
  const end = sectorsAt(`/sys/dev/block/${number}/size`);
  look(number, { start: 0, end, some: false });
  return found;
}

/** A number of sectors of 512 bytes in `/sys`, in bytes. */
function sectorsAt(path: string): number {
  return Number(read(path) ?? 0) * 512;
}

/**
 * Whether two have the same data: one is made of the other, or both are made of
 * the same bytes of a third, such as two loop devices of one file.
 *
 * @param a One, with all that it has its data in.
 * @param b The other.
 * @returns Whether they have, as far as it is known.
 */
export function isDataShared(
  a: readonly Place[],
  b: readonly Place[],
): boolean {
  return a.some((x) =>
    b.some((y) =>
      x.key === y.key &&
      x.bytes.start < y.bytes.end && y.bytes.start < x.bytes.end &&
      // Two mapped devices share their disk, and nothing on it.
      !(x.bytes.some && y.bytes.some)
    )
  );
}

/** A device's number as `stat` gives it: {@linkcode deviceNumber} the other way. */
function numberOf(number: DeviceNumber): number {
  const [major, minor] = number.split(":").map(BigInt) as [bigint, bigint];
  return Number(
    (minor & 0xffn) | (major & 0xfffn) << 8n | (minor & ~0xffn) << 12n |
      (major & ~0xfffn) << 32n,
  );
}

/**
 * Whether a block device takes no writes.
 *
 * @param device Its number as `stat` gives it.
 * @returns Whether it is known to take none.
 */
export function isReadOnlyDevice(device: bigint): boolean {
  return isReadable() &&
    read(`/sys/dev/block/${deviceNumber(device)}/ro`) === "1";
}

function isReadable(): boolean {
  return os === "linux" && isGranted({ name: "read" });
}

/** Who uses a device, its parts or its whole, in words; `null` if none. */
function useOf(number: DeviceNumber): string | null {
  const directory = `/sys/dev/block/${number}`;
  // A part lies in the folder of its whole.
  const isPart = exists(`${directory}/partition`);
  const parts = isPart
    ? []
    : list(directory).filter((name) =>
      exists(`${directory}/${name}/partition`)
    );
  const whole = isPart ? read(`${directory}/../dev`) : undefined;
  const users = usersOfDevices();
  const found = useOfOne(number, directory, users);
  if (found !== null) return `it is ${found}`;
  for (const part of parts) {
    const below = `${directory}/${part}`;
    const use = useOfOne(read(`${below}/dev`) ?? "", below, users);
    if (use !== null) return `its part /dev/${part} is ${use}`;
  }
  if (whole !== undefined) {
    const use = useOfOne(whole, `/sys/dev/block/${whole}`, users);
    if (use !== null) return `the disk that it is a part of is ${use}`;
  }
  return null;
}

function useOfOne(
  number: DeviceNumber,
  directory: string,
  users: ReadonlyMap<DeviceNumber, string>,
): string | null {
  const known = users.get(number);
  if (known !== undefined) return known;
  const holder = list(`${directory}/holders`)[0];
  if (holder !== undefined) return `a part of /dev/${holder}`;
  // A file system has a folder with its device's name even where no mount of it
  // is to be seen, such as in another container.
  const name = nameOf(directory);
  for (const type of name === "" ? [] : list("/sys/fs")) {
    if (exists(`/sys/fs/${type}/${name}`)) return `mounted (${type})`;
    if (type !== "btrfs") continue;
    for (const id of list("/sys/fs/btrfs")) {
      if (exists(`/sys/fs/btrfs/${id}/devices/${name}`)) {
        return "mounted (btrfs)";
      }
    }
  }
  return null;
}

/** A device's name in the kernel: that of its folder. */
function nameOf(directory: string): string {
  try {
    return fs.realpathSync(directory).split("/").at(-1)!;
  } catch {
    return "";
  }
}

/** Mounts and swap space by device. */
function usersOfDevices(): Map<DeviceNumber, string> {
  const users = new Map<DeviceNumber, string>();
  const add = (number: DeviceNumber | null, use: string) => {
    if (number !== null && !users.has(number)) users.set(number, use);
  };
  // 36 35 98:0 /mnt1 /mnt2 rw,noatime - ext3 /dev/root rw (proc(5)).
  const line = /^\d+ \d+ (\d+:\d+) \S+ (\S+) .*? - (\S+) (\S+)/gm;
  const mounts = read("/proc/self/mountinfo") ?? "";
  for (const [, number, place, , source] of mounts.matchAll(line)) {
    const use = `mounted on "${unescaped(place!)}"`;
    add(number!, use);
    // btrfs and others show a number that belongs to no device.
    if (number!.startsWith("0:")) add(numberAt(unescaped(source!)), use);
  }
  for (const line of (read("/proc/swaps") ?? "").split("\n").slice(1)) {
    const path = line.split(/\s/)[0]!;
    if (path.startsWith("/")) add(numberAt(unescaped(path)), "swap space");
  }
  return users;
}

/** A blank in a path is \040 there. */
function unescaped(text: string): string {
  return text.replace(
    /\\([0-7]{3})/g,
    (_, octal) => String.fromCharCode(parseInt(octal, 8)),
  );
}

function numberAt(path: string): DeviceNumber | null {
  if (!path.startsWith("/")) return null;
  try {
    const stat = fs.statSync(path, { bigint: true });
    return stat.isBlockDevice() ? deviceNumber(stat.rdev) : null;
  } catch {
    return null;
  }
}

/** Someone who writes to what an image is made of, a part of, or has as a part. */
export interface WriterBeside {
  /** What is written to: a path. */
  readonly path: string;
  /** The number of the process. */
  readonly pid: number;
}

/**
 * Who has open for writing what shares its data with an image and has another
 * name: the disk of a partition, the partitions of a disk, the file of a loop
 * device, the loop devices of a file. They are known by flock(2), which every
 * writer of ours takes.
 *
 * @param fd The image's descriptor.
 * @returns One of them; `null` if none is known.
 */
export function writerBeside(fd: number): WriterBeside | null {
  if (!isReadable()) return null;
  // 1: FLOCK  ADVISORY  WRITE 123 00:06:1234 0 EOF (proc_locks(5)).
  // Who waits for a lock has an arrow there.
  const line = /^\d+: FLOCK\s+ADVISORY\s+WRITE\s+(\d+) (\S+) /gm;
  const writers = new Map<string, number>();
  for (const [, pid, key] of (read("/proc/locks") ?? "").matchAll(line)) {
    writers.set(key!, Number(pid));
  }
  if (writers.size === 0) return null;
  for (const path of beside(fs.fstatSync(fd, { bigint: true }))) {
    const stat = fs.statSync(path, { bigint: true, throwIfNoEntry: false });
    if (stat === undefined) continue;
    const [major, minor] = deviceNumber(stat.dev).split(":")
      .map((part) => Number(part).toString(16).padStart(2, "0"));
    const pid = writers.get(`${major}:${minor}:${stat.ino}`);
    if (pid !== undefined) return { path, pid };
  }
  return null;
}

/** Paths of what shares its data with an image. */
function beside(stat: fs.BigIntStats): string[] {
  const own = placesOf(stat);
  const loops = loopsBeside(stat)
    .flatMap((name) => withParts(`/sys/block/${name}`))
    .filter((directory) => isDataShared(own, belowDirectory(directory)));
  if (!stat.isBlockDevice()) return loops.map(nodeOf);
  const below = belowDevice(Number(stat.rdev)).map((it) =>
    "path" in it
      ? it.path
      : nodeOf(`/sys/dev/block/${deviceNumber(BigInt(it.device))}`)
  );
  const parts = withParts(`/sys/dev/block/${deviceNumber(stat.rdev)}`).slice(1);
  return [...below, ...[...parts, ...loops].map(nodeOf)];
}

/** The folders of a device and its parts. */
function withParts(directory: string): string[] {
  const parts = list(directory).filter((name) =>
    exists(`${directory}/${name}/partition`)
  );
  return [directory, ...parts.map((name) => `${directory}/${name}`)];
}

/** A slash in a name is an exclamation mark there. */
function nodeOf(directory: string): string {
  return `/dev/${nameOf(directory).replaceAll("!", "/")}`;
}

/**
 * The names of the loop devices that share their data with an image, but for
 * those that it is itself made of.
 */
function loopsBeside(stat: fs.BigIntStats): string[] {
  // /sys/block has those that are made of nothing as well, often hundreds.
  const names = (read("/proc/partitions") ?? "").match(/\bloop\d+$/gm) ?? [];
  if (names.length === 0) return [];
  const own = placesOf(stat);
  return names.filter((name) => {
    const number = read(`/sys/block/${name}/dev`);
    if (number === undefined) return false;
    const device = numberOf(number);
    return !own.some(({ key }) => key === keyOfDevice(device)) &&
      isDataShared(own, belowDevice(device));
  });
}

/** An image itself, and what it has its data in. */
function placesOf(stat: fs.BigIntStats): Place[] {
  const [dev, ino, rdev] = [stat.dev, stat.ino, stat.rdev].map(Number);
  return stat.isBlockDevice()
    ? [{ key: keyOfDevice(rdev!), bytes: ALL_BYTES }, ...belowDevice(rdev!)]
    : [{ key: keyOfFile(dev!, ino!), bytes: ALL_BYTES }];
}

/** The same as {@linkcode belowDevice} of the device with a folder in `/sys`. */
function belowDirectory(directory: string): BelowDevice[] {
  const number = read(`${directory}/dev`);
  return number === undefined ? [] : belowDevice(numberOf(number));
}

function useOfLoops(names: readonly string[]): string | null {
  for (const name of names) {
    const number = read(`/sys/block/${name}/dev`);
    const use = number === undefined ? null : useOf(number);
    if (use !== null) return `/dev/${name} shares its data, and ${use}`;
  }
  return null;
}

function statOf(path: string | undefined): fs.Stats | null {
  try {
    return path === undefined ? null : fs.statSync(path);
  } catch {
    return null;
  }
}

function exists(path: string): boolean {
  try {
    return fs.existsSync(path);
  } catch {
    // Deno gives /sys to programs with `--allow-all` alone.
    return false;
  }
}

function list(path: string): string[] {
  try {
    return fs.readdirSync(path);
  } catch {
    return [];
  }
}

function read(path: string): string | undefined {
  try {
    return fs.readFileSync(path, "utf8").trim();
  } catch {
    return undefined;
  }
}
