/**
 * Limits on what a process may have: each is a typed error with the system's own
 * word, or something else is used; none ends the program.
 *
 * @module
 */

import { assert, assertEquals, assertLess, assertMatch } from "@std/assert";
import { Random } from "../../src/random.ts";
import { needs, tempDir } from "../helpers.ts";
import { hasEngine, program } from "./direct/harness.ts";

const MIB = 1_048_576;
const GIB = 1_073_741_824;

/**
 * The limit on the size of files, in bytes: far beyond what the runtime keeps for
 * itself, as its caches grow to hundreds of MiB, and their write is what ends the
 * program then. The images are sparse.
 */
const FILE_LIMIT = 8 * GIB;
const LIMIT_SECTOR = FILE_LIMIT / 512;

const ignore = !hasEngine("sync");

/** Ways to open an image. */
const WAYS = [
  { backend: "portable" },
  { backend: "portable", direct: "never" },
  { engine: "sync" },
  ...(hasEngine("io_uring")
    ? [{ engine: "io_uring" }, { engine: "io_uring", direct: "never" }]
    : []),
  ...(hasEngine("libaio") ? [{ engine: "libaio" }] : []),
] as const;

/** Sets limits of the program itself, once it runs. */
const SET_LIMIT = `
  const { openLibc } = await import(${
  JSON.stringify(import.meta.resolve("../../ffi/libc.ts"))
});
  const { addressOf, alignedMemory, writeU64 } = await import(${
  JSON.stringify(import.meta.resolve("../../ffi/memory.ts"))
});
  // include/uapi/asm-generic/resource.h.
  const limits = { FSIZE: 1, NPROC: 6, NOFILE: 7, MEMLOCK: 8, AS: 9 };
  const memory = alignedMemory(16);
  const view = new DataView(memory.buffer, memory.byteOffset, 16);
  const limit = (name, soft) => {
    const libc = openLibc();
    const { prlimit64 } = libc.abi.syscalls;
    libc.syscall(prlimit64, 0, limits[name], 0, addressOf(memory));
    writeU64(view, 0, soft);
    const result = libc.syscall(
      prlimit64, 0, limits[name], addressOf(memory), 0);
    if (result !== 0) throw new Error("Cannot set a limit: " + result);
  };
  const descriptors = () =>
    Array.from(Deno.readDirSync("/proc/self/fd"), ({ name }) => Number(name))
      .sort((a, b) => a - b);
  const brief = (error) => error === null
    ? null
    : [error.kind, error.code ?? error.message, error.errno];
`;

const TOO_LARGE = ["no-space", "EFBIG", 27];

Deno.test({
  name: "A limit on the size of files is an error of kind no-space, EFBIG",
  ignore,
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", 2 * FILE_LIMIT);
    const found = await program<unknown[]>(
      `
      ${SET_LIMIT}
      const found = [];
      limit("FSIZE", ${FILE_LIMIT});
      for (const way of ${JSON.stringify(WAYS)}) {
        const disk = await VirtualDisk.open(path, way);
        const far = ${LIMIT_SECTOR + 1_000_000};
        const all = [
          disk.write(0, disk.allocate(8).fill(1)),
          disk.write(far, disk.allocate(8).fill(2)),
          disk.write(far + 64, new Uint8Array(4097).subarray(1)),
          disk.write(${LIMIT_SECTOR - 8}, disk.allocate(16).fill(3)),
          disk.flush(),
        ];
        const errors = await Promise.all(all.map(async (one) =>
          brief(await attempt(one))));
        errors.push((await disk.read(0, 1))[0], disk.failure);
        await disk.close();
        const name = path + found.length;
        errors.push(brief(await attempt(
          VirtualDisk.create(name, { ...way, sectors: ${2 * LIMIT_SECTOR} }))));
        let made = true;
        try {
          Deno.statSync(name);
        } catch {
          made = false;
        }
        found.push([errors, made]);
      }
      return found;
      `,
      { args: [path] },
    );
    WAYS.forEach((way, i) =>
      assertEquals(found[i], [
        [null, TOO_LARGE, TOO_LARGE, TOO_LARGE, null, 1, null, TOO_LARGE],
        false,
      ], JSON.stringify(way))
    );
  },
});

Deno.test({
  name: "A limit on open files is an error with EMFILE, and nothing leaks",
  ignore,
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", new Random(1).bytes(MIB));
    const found = await program<
      [way: unknown, spare: number, error: unknown[] | null, more: number][]
    >(
      `
      ${SET_LIMIT}
      const use = async (way) => {
        const disk = await VirtualDisk.open(path, way);
        try {
          await disk.write(8, disk.allocate(8).fill(7));
          await Promise.all(Array.from(
            { length: 8 }, (_, i) => disk.read(i * 64, 8)));
          await disk.flush();
        } finally {
          await disk.close();
        }
      };
      const found = [];
      for (const way of ${JSON.stringify(WAYS)}) {
        await use(way);
        // Every place in opening at which there is none left.
        for (let spare = 0; spare < 14; spare++) {
          const before = descriptors();
          // So many numbers below are not taken; the listing had one of them.
          let most = 0;
          for (let free = 1; free < spare; most++) {
            if (!before.includes(most)) free++;
          }
          limit("NOFILE", most);
          const error = brief(await attempt(use(way)));
          limit("NOFILE", 1024);
          const more = descriptors().length - before.length;
          found.push([way, spare, error, more]);
        }
      }
      return found;
      `,
      { args: [path] },
    );
    let refused = 0;
    let grown = 0;
    for (const [way, spare, error, more] of found) {
      const name = JSON.stringify([way, spare]);
      if (error !== null) {
        refused++;
        const [kind, code, errno] = error;
        if (kind === "platform") assertMatch(String(code), /EMFILE/, name);
        else assertEquals([code, errno], ["EMFILE", 24], name);
      }
      grown += more;
    }
    // One a time would be a leak; the runtime has a few of its own now and then,
    // to look for its updates.
    assertLess(grown, found.length / 8);
    assert(
      refused >= WAYS.length,
      `${refused} of ${found.length} were refused`,
    );
    assertLess(refused, found.length);
  },
});

Deno.test({
  name: "A limit on memory is an error, and the disk goes on",
  ignore,
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", 4096 * MIB);
    const found = await program<unknown[][]>(
      `
      ${SET_LIMIT}
      const used = () => Number(Deno.readTextFileSync("/proc/self/statm")
        .split(" ")[0]) * 4096;
      const found = [];
      for (const way of ${JSON.stringify(WAYS)}) {
        await using disk = await VirtualDisk.open(path, way);
        await disk.read(0, 8);
        limit("MEMLOCK", 0);
        // What the runtime needs; it ends where it has none.
        limit("AS", used() + 1.75 * 2 ** 30);
        const kinds = [(await attempt(disk.read(0, 2 ** 22)))?.kind];
        try {
          disk.allocate(2 ** 22);
        } catch (error) {
          kinds.push(error.name);
        }
        kinds.push(
          brief(await attempt(disk.write(0, new Uint8Array(1048577).subarray(1)))),
          brief(await attempt(disk.readInto(0, new Uint8Array(1048577).subarray(1)))),
        );
        const other = await VirtualDisk.open(path, {
          ...way, readOnly: true, lock: "none",
        });
        kinds.push(brief(await attempt(other.read(0, 8))));
        await other.close();
        limit("AS", 2 ** 53 - 1);
        found.push(kinds);
      }
      return found;
      `,
      { args: [path] },
    );
    WAYS.forEach((way, i) => {
      assertEquals(
        found[i]!.filter((kind) => kind !== "RangeError"),
        ["argument", null, null, null],
        JSON.stringify(way),
      );
    });
  },
});

Deno.test({
  name:
    "A limit on processes is another engine than io_uring, which needs some",
  ignore: ignore || !hasEngine("io_uring") || needs("root").ignore,
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", new Random(1).bytes(MIB));
    const found = await program<unknown[][]>(
      `
      ${SET_LIMIT}
      Deno.chmodSync(path.slice(0, path.lastIndexOf("/")), 0o755);
      Deno.chmodSync(path, 0o666);
      const libc = openLibc();
      // The limit does not apply to root. This is for this thread alone, and it
      // is a thread that the kernel asks about.
      const setresuid = libc.abi.arch === "x86_64" ? 117 : 147;
      if (libc.syscall(setresuid, 65534, 65534, 65534) !== 0) {
        throw new Error("Cannot be somebody else");
      }
      limit("NPROC", 0);
      const found = [];
      for (const options of [{ engine: "io_uring" }, {}]) {
        try {
          await using disk = await VirtualDisk.open(
            path, { backend: "direct", ...options });
          const { name, reason } = disk.info.engine;
          found.push([
            name,
            reason,
            brief(await attempt(disk.write(0, disk.allocate(8)))),
            brief(await attempt(disk.flush())),
          ]);
        } catch (error) {
          found.push([tell(error).kind, error.message]);
        }
      }
      return found;
      `,
      { args: [path] },
    );
    const [refused, other] = found;
    assertEquals(refused![0], "platform");
    const thread = /no thread of the kernel \(RLIMIT_NPROC\)/;
    assertMatch(String(refused![1]), thread);
    assertMatch(String(other![1]), thread);
    assert(other![0] !== "io_uring");
    assertEquals([other![2], other![3]], [null, null]);
  },
});
