/**
 * A filter denies one system call: the image opens and reads and writes right
 * all the same, or what was asked for fails with a typed error. Nothing hangs,
 * nothing is thrown that is none, nothing says that it did what it did not.
 *
 * @module
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { Random } from "../../../src/random.ts";
import { STATX } from "../../../ffi/abi.ts";
import { LONG, loopDevice, needs, tempDir } from "../../helpers.ts";
import { hasDirect, hasEngine } from "./harness.ts";
import { type Denied, inThreads } from "./seccomp.ts";

const MIB = 1_048_576;

const noDirect = Deno.build.os !== "linux" || !await hasDirect();

/** What opening, and each operation, came to: `null`, or an error's kind. */
interface Found {
  open: string | null;
  operations?: Record<string, string | null>;
  /** Places whose content is not what it has to be. */
  wrong?: string[];
  engine?: { name: string; reason: string | null };
  flush?: { flush: string; reason: string | null };
  alignment?: string;
  message?: string;
  kind?: string;
}

const BODY = `
  deny(given.denied);
  let disk;
  try {
    disk = await VirtualDisk.open(path, {
      backend: "direct", engine: given.engine, queueSize: 32,
    });
  } catch (error) {
    return { open: tell(error).kind, message: String(error) };
  }
  const operations = {};
  const wrong = [];
  const attemptTo = async (name, promise) => {
    const error = await attempt(promise);
    operations[name] = error?.kind ?? null;
    return error === null;
  };
  const expect = async (name, sector, value) => {
    const bytes = new Uint8Array(4096 * 2);
    const read = await attemptTo("read of " + name, disk.readInto(sector, bytes));
    if (read && bytes.some((byte) => byte !== value)) wrong.push(name);
  };
  if (await attemptTo("write", disk.write(64, disk.allocate(16).fill(1)))) {
    await expect("write", 64, 1);
  }
  if (
    await attemptTo("bounced write",
      disk.write(128, new Uint8Array(8193).fill(2).subarray(1)))
  ) await expect("bounced write", 128, 2);
  if (
    await attemptTo("many writes", Promise.all(Array.from({ length: 64 },
      (_, i) => disk.write(512 + i * 32, disk.allocate(16).fill(i + 3)))))
  ) for (const i of [0, 31, 63]) await expect("many writes", 512 + i * 32, i + 3);
  if (
    await attemptTo("durable write",
      disk.write(192, disk.allocate(16).fill(4), { fua: true }))
  ) await expect("durable write", 192, 4);
  if (await attemptTo("write zeroes", disk.writeZeroes(64, 16))) {
    await expect("write zeroes", 64, 0);
  }
  await attemptTo("discard", disk.discard(128, 16));
  await attemptTo("extents", Promise.resolve(disk.extents?.(0, 64)));
  await attemptTo("flush", disk.flush());
  const { engine, durability, direct } = disk.info;
  await disk.close();
  return {
    open: null, operations, wrong, engine, flush: durability,
    alignment: direct.alignmentSource,
  };
`;

/** Deno's own calls of statx ask for less, and it finds out once how to call. */
const STATX_MASK = STATX.BASIC_STATS | STATX.DIOALIGN | STATX.WRITE_ATOMIC |
  STATX.DIO_READ_ALIGN;

/** EPOLL_CTL_DEL, by which the event loop's descriptor is looked for. */
const DELETE = 2;

/** F_OFD_SETLK and F_OFD_GETLK of fcntl(2), BLKGETSIZE64 and BLKSSZGET. */
const [OFD_SETLK, OFD_GETLK] = [37, 36];
const [GET_SIZE, GET_BLOCK_SIZE] = [0x8008_1272, 0x1268];

interface Case {
  /** What is denied. */
  readonly denied: Omit<Denied, "code">;
  /** Operations that may fail, and how. */
  readonly fails?: Readonly<Record<string, readonly string[]>>;
  /** What else must be so. */
  readonly check?: (found: Found) => void;
  readonly engine?: string;
}

const CASES: Case[] = [
  {
    denied: { call: "statx", argument: [3, STATX_MASK] },
    check: ({ alignment }) => assertMatch(alignment!, /trial reads|ioctl/),
  },
  { denied: { call: "cachestat" } },
  {
    denied: { call: "fstatfs" },
    // Of a file system that is not known, no range is given up.
    fails: { discard: ["unsupported"] },
    check: ({ flush }) => {
      assertEquals(flush!.flush, "unknown");
      assertMatch(flush!.reason!, /fstatfs failed with E/);
    },
  },
  { denied: { call: "ioctl" } },
  { denied: { call: "fcntl", argument: [1, OFD_SETLK] } },
  { denied: { call: "fcntl", argument: [1, OFD_GETLK] } },
  { denied: { call: "lseek" } },
  {
    denied: { call: "fallocate" },
    fails: { discard: ["unsupported", "permission"] },
  },
  { denied: { call: "pwritev2" }, engine: "sync" },
  { denied: { call: "preadv2" }, engine: "libaio" },
  { denied: { call: "pwritev2" }, engine: "libaio" },
  {
    denied: { call: "fdatasync" },
    engine: "sync",
    fails: { flush: ["unsupported", "permission"] },
  },
  { denied: { call: "eventfd2" } },
  { denied: { call: "socketpair" } },
  { denied: { call: "epoll_ctl", argument: [1, DELETE] } },
  ...([
    ["io_uring_setup", "io_uring_setup"],
    ["io_uring_enter", "io_uring_enter"],
    ["io_uring_register", "io_uring lacks operations"],
  ] as const).map(([call, reason]): Case => ({
    denied: { call },
    check: ({ engine }) => {
      assert(engine!.name !== "io_uring");
      assert(
        engine!.reason!.includes(reason) ||
          engine!.reason!.includes("filter hides it"),
        engine!.reason!,
      );
    },
  })),
];

/** Calls that engine "libaio" needs: who asks for it is told. */
const NEEDED = ["io_setup", "io_submit", "io_getevents", "eventfd2"];

const CODES = ["EPERM", "ENOSYS"] as const;

/** Both for each of some; one and the other by turns where that will do. */
function withCodes<T>(
  all: readonly T[],
  make: (one: T, code: string) => unknown,
) {
  return all.flatMap((one, i) =>
    (LONG ? CODES : [CODES[i % 2]!]).map((code) => ({
      one,
      given: make(one, code),
    }))
  );
}

async function assertCases(path: string, cases: readonly Case[]) {
  const runs = withCodes(cases, ({ denied, engine = "auto" }, code) => ({
    denied: { ...denied, code },
    engine,
  }));
  const given = runs.map((run) => run.given);
  const all = await inThreads<unknown, Found>(BODY, path, given);
  all.forEach((found, i) => {
    const { fails = {}, check } = runs[i]!.one;
    const name = JSON.stringify(given[i]);
    assertEquals(found.open, null, `${name}: ${found.message}`);
    assertEquals(found.wrong, [], name);
    for (const [operation, kind] of Object.entries(found.operations!)) {
      assert(
        kind === null || fails[operation]?.includes(kind) === true,
        `${name}: ${operation} fails with ${kind}`,
      );
    }
    check?.(found);
  });
}

Deno.test({
  name: "VirtualDisk.open() makes do without a system call, on a file",
  ignore: noDirect || !hasEngine("io_uring") || !hasEngine("libaio"),
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", new Random(1).bytes(2 * MIB));
    await assertCases(path, CASES);
  },
});

Deno.test({
  name: "VirtualDisk.open() makes do without a system call, on a device",
  ignore: !hasEngine("io_uring") || needs("root", "losetup").ignore,
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", new Random(1).bytes(2 * MIB));
    await using device = await loopDevice(path, 4096);
    const discard = ["unsupported", "permission"];
    const some: Case[] = [
      { denied: { call: "statx", argument: [3, STATX_MASK] } },
      { denied: { call: "ioctl" }, fails: { discard } },
      { denied: { call: "ioctl", argument: [1, GET_SIZE] } },
      { denied: { call: "ioctl", argument: [1, GET_BLOCK_SIZE] } },
      { denied: { call: "fallocate" } },
    ];
    await assertCases(device.path, LONG ? [...CASES, ...some] : some);
  },
});

Deno.test({
  name:
    'VirtualDisk.open() refuses engine "libaio" where a call of it is denied',
  ignore: !hasEngine("libaio"),
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", MIB);
    const given = withCodes(NEEDED, (call, code) => ({
      denied: { call, code },
      engine: "libaio",
    })).map((run) => run.given);
    const all = await inThreads<unknown, Found>(BODY, path, given);
    all.forEach(({ open, message }, i) => {
      assertEquals(open, "platform", `${JSON.stringify(given[i])}: ${message}`);
      assertMatch(message!, /engine "libaio" as /);
    });
  },
});
