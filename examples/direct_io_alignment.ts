/**
 * The classic test of direct I/O: what the kernel says to memory and lengths
 * that are not aligned, and what a disk does that stands in between.
 *
 * The same four steps, first with bare system calls, then on every backend:
 *
 * - (a) two segments from memory that is not aligned;
 * - (b) a length that is not aligned;
 * - (c) two aligned segments;
 * - (d) reading them back.
 *
 * ```sh
 * deno run --allow-read --allow-write --allow-ffi \
 *   examples/direct_io_alignment.ts [FOLDER]
 * ```
 *
 * The test file is made in FOLDER (by default the current one), so that any
 * file system can be tested, and removed again. Exits with 0 if every step did
 * what it must, with 1 if one did not, with 2 if there can be no file.
 *
 * @module
 */

import {
  DiskError,
  type DiskInfo,
  readRequest,
  Status,
  VirtualDisk,
  writeRequest,
} from "@platter/disk";
import { errnoName } from "../ffi/abi.ts";
import { FfiError } from "../ffi/ffi_error.ts";
import { type Libc, openLibc } from "../ffi/libc.ts";
import { addressOf, alignedMemory, IoVector } from "../ffi/memory.ts";

const USAGE =
  `Usage: deno run --allow-read --allow-write --allow-ffi examples/direct_io_alignment.ts [FOLDER]

What the kernel and each backend say to memory and lengths that are not aligned,
tried on a file that is made in FOLDER (default: here) and removed again.`;

const SECTOR_BYTES = 512;
const IMAGE_BYTES = 65_536;

/** How far off the memory of step (a) is: odd, so that no host can want it. */
const OFF_BY = 1;

/** Bytes by which the length of step (b) misses whole sectors. */
const ODD_BYTES = 100;

let failures = 0;

function report(ok: boolean | null, step: string, outcome: string): void {
  if (ok === false) failures++;
  const mark = ok === null ? " -- " : ok ? " ok " : "FAIL";
  console.log(` ${mark} ${step.padEnd(45)} ${outcome}`);
}

function pattern(bytes: Uint8Array, seed: number): void {
  for (let i = 0; i < bytes.length; i++) bytes[i] = (i * 7 + seed) & 0xff;
}

function equal(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}

/** FFI is not asked for: without it, the disks without it are tested. */
function libcIfAllowed(): Libc | string {
  if (Deno.permissions.querySync({ name: "ffi" }).state !== "granted") {
    return "FFI is not allowed: run with --allow-ffi";
  }
  try {
    return openLibc();
  } catch (error) {
    if (error instanceof FfiError) return error.message;
    throw error;
  }
}

/** Steps (a) to (d) as system calls, with nothing in between. */
function askTheKernel(libc: Libc, path: string, host: DiskInfo): void {
  const { O_RDWR, O_DIRECT } = libc.abi.open;
  const { F_NOCACHE } = libc.abi.fcntl;
  let fd = libc.open(path, O_RDWR | (O_DIRECT ?? 0));
  if (fd === -libc.abi.errno.EINVAL) {
    report(null, "open", "EINVAL: the file system refuses O_DIRECT; buffered");
    fd = libc.open(path, O_RDWR);
  }
  if (fd < 0) {
    return report(false, "open", errnoName(libc.abi, fd));
  }
  if (F_NOCACHE !== undefined) libc.fcntl(fd, F_NOCACHE, 1);
  try {
    const { active, offsetAlignment, alignmentSource } = host.direct;
    // Where direct I/O is a hint, or ignored, nothing need be refused; nor
    // where the host did not say what it wants, as it may buffer the rest.
    const strict = active && offsetAlignment > 1 &&
      alignmentSource !== "assumed";
    const unit = Math.max(SECTOR_BYTES, offsetAlignment);
    if (unit > SECTOR_BYTES) {
      report(
        null,
        "unit",
        `this host takes ${unit} bytes, not ${SECTOR_BYTES}`,
      );
    }
    const say = (result: number) =>
      result < 0 ? errnoName(libc.abi, result) : `${result} bytes written`;
    const vector = new IoVector(2);
    const writev = (view: Uint8Array, second: number, offset: number) => {
      const address = addressOf(view);
      vector.set(0, address, unit);
      vector.set(1, address + unit, second);
      return libc.pwritev(fd, vector.address, 2, offset);
    };
    const memory = alignedMemory(3 * unit);
    const readBack = alignedMemory(2 * unit);

    const off = memory.subarray(OFF_BY, OFF_BY + 2 * unit);
    pattern(off, 1);
    const a = writev(off, unit, 0);
    let outcome = say(a);
    if (a === 2 * unit) {
      libc.pread(fd, addressOf(readBack), 2 * unit, 0);
      outcome += equal(readBack, off)
        ? ": the host takes it"
        : ": BUT NOT THESE BYTES (some drivers do that)";
    }
    report(
      a === -libc.abi.errno.EINVAL || a === 2 * unit,
      `(a) 2 × ${unit} bytes, memory off by ${OFF_BY}`,
      outcome,
    );

    const aligned = memory.subarray(0, 2 * unit);
    pattern(aligned, 2);
    const b = writev(aligned, ODD_BYTES, 2 * unit);
    report(
      b === -libc.abi.errno.EINVAL || !strict && b === unit + ODD_BYTES,
      `(b) ${unit} + ${ODD_BYTES} bytes`,
      b < 0 ? say(b) : `${say(b)}: buffered, so any length goes`,
    );

    const c = writev(aligned, unit, 4 * unit);
    report(c === 2 * unit, `(c) 2 × ${unit} bytes, aligned`, say(c));

    const d = libc.pread(fd, addressOf(readBack), 2 * unit, 4 * unit);
    const same = equal(readBack, aligned);
    report(
      d === 2 * unit && same,
      `(d) ${2 * unit} bytes read back`,
      d < 0 ? say(d) : `${d} bytes, ${same ? "equal" : "DIFFERENT"}`,
    );
  } finally {
    libc.close(fd);
  }
}

/** Steps (a) to (d) on a disk, whose sectors are 512 bytes on any host. */
async function askTheDisk(disk: VirtualDisk): Promise<void> {
  let before = disk.counters;
  const counted = () => {
    const now = disk.counters;
    const calls = now.systemCalls - before.systemCalls;
    const bounced = now.bounced - before.bounced;
    const modified = now.readModifyWrites - before.readModifyWrites;
    before = now;
    return { calls, bounced, modified };
  };
  const say = ({ calls, bounced, modified }: ReturnType<typeof counted>) =>
    `${calls} system call${calls === 1 ? "" : "s"}, ${bounced} bounced` +
    (modified > 0 ? `, ${modified} read-modify-write` : "");

  const memory = new Uint8Array(OFF_BY + 2 * SECTOR_BYTES);
  const off = memory.subarray(OFF_BY);
  pattern(off, 3);
  const a = await disk.submit(
    writeRequest(
      16,
      off.subarray(0, SECTOR_BYTES),
      off.subarray(SECTOR_BYTES),
    ),
  );
  const cost = counted();
  const kept = equal(await disk.read(16, 2), off);
  // The kernel must not see such memory: a copy, or a whole block of the host
  // that was read to be modified, stands in. A disk in memory has no kernel.
  const bounces = disk.info.backend === "memory" || cost.bounced === 1 ||
    cost.modified === 1;
  report(
    a === Status.Ok && kept && bounces,
    `(a) 2 × ${SECTOR_BYTES} bytes, memory off by ${OFF_BY}`,
    `written${kept ? "" : " WRONG"}; ${say(cost)}`,
  );

  counted();
  const request = writeRequest(
    24,
    off.subarray(0, SECTOR_BYTES),
    off.subarray(0, ODD_BYTES),
  );
  const b = await disk.submit(request);
  const refusal = counted();
  report(
    b === Status.IoErr && request.error?.kind === "alignment" &&
      refusal.calls === 0,
    `(b) ${SECTOR_BYTES} + ${ODD_BYTES} bytes`,
    b === Status.Ok
      ? "TAKEN"
      : `refused, kind "${request.error?.kind}"; ${say(refusal)}`,
  );

  const [first, second] = [disk.allocate(1), disk.allocate(1)];
  pattern(first, 4);
  pattern(second, 5);
  const c = await disk.submit(writeRequest(8, first, second));
  report(
    c === Status.Ok,
    `(c) 2 × ${SECTOR_BYTES} bytes, aligned`,
    c === Status.Ok ? `written; ${say(counted())}` : "FAILED",
  );

  const back = disk.allocate(2);
  const d = await disk.submit(readRequest(8, back));
  const same = equal(back.subarray(0, SECTOR_BYTES), first) &&
    equal(back.subarray(SECTOR_BYTES), second);
  report(
    d === Status.Ok && same,
    `(d) ${2 * SECTOR_BYTES} bytes read back`,
    `${same ? "equal" : "DIFFERENT"}; ${say(counted())}`,
  );
}

function heading(title: string, { direct, fileSystem }: DiskInfo): void {
  const where = fileSystem === null ? "" : ` on ${fileSystem}`;
  console.log(`\n${title}: ${direct.method ?? "not direct"}${where}`);
  if (direct.method !== null) {
    console.log(
      `      wanted of memory: multiples of ${direct.memoryAlignment}; of offset ` +
        `and length: ${direct.offsetAlignment} (${direct.alignmentSource})`,
    );
  }
  if (direct.reason !== null) console.log(`      ${direct.reason}`);
}

async function main(args: readonly string[]): Promise<number> {
  const [dir = "."] = args;
  if (args.length > 1 || dir.startsWith("-")) {
    const isHelp = dir === "--help" || dir === "-h";
    (isHelp ? console.log : console.error)(USAGE);
    return isHelp ? 0 : 2;
  }
  let folder: string;
  try {
    folder = await Deno.makeTempDir({ dir, prefix: "platter_alignment_" });
  } catch (error) {
    const reason = error instanceof Deno.errors.NotFound
      ? "there is no such folder"
      : (error as Error).message;
    console.error(`Cannot make a file in "${dir}" as ${reason}`);
    return 2;
  }
  const path = `${folder}/alignment.img`;
  try {
    // Written and synced, as holes take requests of any alignment.
    const file = await Deno.create(path);
    await file.write(new Uint8Array(IMAGE_BYTES).fill(0xff));
    await file.sync();
    file.close();

    const libc = libcIfAllowed();
    if (typeof libc === "string") {
      console.log(`System calls and the direct backend are left out: ${libc}`);
    } else {
      const disk = await VirtualDisk.open(path, { backend: "direct" });
      const host = disk.info;
      await disk.close();
      heading("System calls", host);
      askTheKernel(libc, path, host);
      await using direct = await VirtualDisk.open(path, { backend: "direct" });
      heading("VirtualDisk, direct backend", direct.info);
      await askTheDisk(direct);
    }
    {
      await using disk = await VirtualDisk.open(path, { backend: "portable" });
      heading("VirtualDisk, portable backend", disk.info);
      await askTheDisk(disk);
    }
    {
      const sectors = IMAGE_BYTES / SECTOR_BYTES;
      await using disk = VirtualDisk.memory({ sectors });
      heading("VirtualDisk, memory backend", disk.info);
      await askTheDisk(disk);
    }
  } catch (error) {
    if (!(error instanceof DiskError)) throw error;
    console.error(error.message);
    return 2;
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
  console.log(
    failures === 0
      ? "\nEvery step did what it must"
      : `\n${failures} of the steps did NOT do what they must`,
  );
  return failures === 0 ? 0 : 1;
}

Deno.exitCode = await main(Deno.args);
