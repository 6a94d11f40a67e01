/**
 * The error of a request reads the same wherever it comes from: the same error
 * number is injected below every backend, and the errors are compared.
 *
 * @module
 */

import { assert, assertEquals, assertRejects } from "@std/assert";
import { MemoryBackend } from "../src/backends/memory.ts";
import { VirtualDisk } from "../src/disk/disk.ts";
import { errnoOf, errnoText } from "../src/errno.ts";
import { DiskError, type DiskErrorKind } from "../src/errors.ts";
import { faults } from "../src/layers/mod.ts";
import { NbdServer } from "../src/nbd/mod.ts";
import { openBackend } from "../src/disk/open.ts";
import {
  discardRequest,
  flushRequest,
  readRequest,
  Request,
  RequestType,
  writeRequest,
} from "../src/request.ts";
import {
  abortedError,
  changedError,
  closedError,
  cutError,
  errnoError,
  latchedError,
  requestError,
} from "../src/request_error.ts";
import { program } from "./backends/direct/harness.ts";
import { needs, tempDir } from "./helpers.ts";

const bytes = (sectors: number) => new Uint8Array(sectors * 512);

const getId = () => new Request(RequestType.GetId, 0, 0, 0, new Uint8Array(20));

Deno.test("requestError() names the place of a request that has one", () => {
  const path = "a.img";
  const said = (request: Request, path?: string) =>
    requestError("io", request, "it is so", { path }).message;
  assertEquals(
    [
      said(readRequest(8, bytes(1))),
      said(writeRequest(16, bytes(4), bytes(4)), path),
      said(discardRequest(0, 8), path),
      said(flushRequest()),
      said(flushRequest(), path),
      said(getId(), path),
      said(new Request(99 as RequestType, 3, 1)),
    ],
    [
      "Cannot read 1 sector at sector 8 as it is so",
      'Cannot write 8 sectors at sector 16 of "a.img" as it is so',
      'Cannot discard 8 sectors at sector 0 of "a.img" as it is so',
      "Cannot flush as it is so",
      'Cannot flush "a.img" as it is so',
      'Cannot get id "a.img" as it is so',
      "Cannot carry out 1 sector at sector 3 as it is so",
    ],
  );
});

Deno.test("requestError() has the fields of its request, and nothing made up", () => {
  const cause = new Error("Below");
  const path = "a.img";
  const full = requestError("no-space", writeRequest(8, bytes(2)), "it is so", {
    path,
    code: "ENOSPC",
    cause,
  });
  assertEquals({ ...full }, {
    name: "DiskError",
    kind: "no-space",
    operation: "write",
    path,
    sector: 8,
    count: 2,
    errno: errnoOf("ENOSPC"),
    code: "ENOSPC",
  });
  assertEquals(full.cause, cause);
  const bare = requestError("closed", flushRequest(), "it is so", {
    path: null,
  });
  assertEquals({ ...bare }, {
    name: "DiskError",
    kind: "closed",
    operation: "flush",
    path: undefined,
    sector: undefined,
    count: undefined,
    errno: undefined,
    code: undefined,
  });
  assert(!Object.hasOwn(bare, "cause"));
});

Deno.test("errnoError() takes kind and words from the number's name", () => {
  const request = readRequest(8, bytes(1));
  const say = (code: string, text?: string) => {
    const options = text === undefined ? {} : { text };
    const error = errnoError(request, code, "the system", options);
    return [error.kind, error.code, error.message.split(" as ")[1]];
  };
  assertEquals(say("EIO"), [
    "io",
    "EIO",
    "the system says EIO: Input/output error",
  ]);
  assertEquals(say("EIO", "the arm fell off"), [
    "io",
    "EIO",
    "the system says EIO: the arm fell off",
  ]);
  assertEquals(say("EWOULDBLOCK"), [
    "io",
    "EAGAIN",
    "the system says EAGAIN: Resource temporarily unavailable",
  ]);
  assertEquals(say("EWHATEVER"), [
    "io",
    "EWHATEVER",
    "the system says EWHATEVER",
  ]);
  const strange = errnoError(request, "error 77777", "the server", {
    errno: 77_777,
  });
  assertEquals([strange.code, strange.errno], ["error 77777", 77_777]);
});

Deno.test("the errors that have no number have one wording each", () => {
  const path = "a.img";
  const request = readRequest(8, bytes(1));
  const reason = new Error("Enough");
  const failed = errnoError(flushRequest(), "EIO", "the system", { path });
  const latched = latchedError(request, failed, path);
  const aborted = abortedError(request, { path, cause: reason });
  assertEquals(
    [
      aborted,
      closedError(request, path),
      changedError(request, path),
      cutError(request, path),
      latched,
      latchedError(request, new DiskError("io", "Cannot do it"), path),
    ].map(({ kind, message }) => {
      const begin = 'Cannot read 1 sector at sector 8 of "a.img" as ';
      assert(message.startsWith(begin), message);
      return [kind, message.slice(begin.length)];
    }),
    [
      ["aborted", "it was aborted"],
      ["closed", "the disk is closed"],
      [
        "argument",
        "its memory was detached or resized while it was in flight",
      ],
      [
        "io",
        "the image ends before the disk does: it was cut while open",
      ],
      [
        "latched",
        "an earlier flush failed (EIO) and what is durable is no longer known: reopen the disk",
      ],
      [
        "latched",
        "an earlier flush failed (Cannot do it) and what is durable is no longer known: reopen the disk",
      ],
    ],
  );
  assertEquals(aborted.cause, reason);
  assertEquals(latched.cause, failed);
});

// The same number from every backend

/** A number, its kind, and what NBD, which knows eight, makes of it. */
const CODES: [code: string, kind: DiskErrorKind, wire: string][] = [
  ["EIO", "io", "EIO"],
  ["ENXIO", "io", "EIO"],
  ["ENOMEM", "io", "EIO"],
  ["EINVAL", "io", "EIO"],
  ["ENODATA", "io", "EIO"],
  ["EBADMSG", "io", "EIO"],
  ["EILSEQ", "io", "EIO"],
  ["EUCLEAN", "io", "EIO"],
  ["EREMOTEIO", "io", "EIO"],
  ["ETIMEDOUT", "io", "EIO"],
  ["ESHUTDOWN", "io", "EIO"],
  ["ESTALE", "io", "EIO"],
  ["ENOSPC", "no-space", "ENOSPC"],
  ["EDQUOT", "no-space", "ENOSPC"],
  ["EACCES", "permission", "EPERM"],
  ["EPERM", "permission", "EPERM"],
  ["EROFS", "read-only", "EPERM"],
  ["EOPNOTSUPP", "unsupported", "EINVAL"],
];

const WIRE_KINDS: Readonly<Record<string, DiskErrorKind>> = {
  EIO: "io",
  EINVAL: "io",
  ENOSPC: "no-space",
  EPERM: "permission",
};

/** Where the write is that fails with the i-th of them. */
const sectorOf = (index: number) => 2048 + index * 8;

/** An error as it is compared: with the path as a word. */
interface Told {
  readonly kind: string;
  readonly operation: string;
  readonly path?: string;
  readonly sector: number;
  readonly count: number;
  readonly errno: number;
  readonly code: string;
  readonly message: string;
}

function told(error: DiskError | Told, path: string | undefined): Told {
  const { kind, operation, sector, count, errno, code, message } = error;
  assertEquals(error.path, path);
  const at = path === undefined ? "" : ` of "${path}"`;
  const [before, after, ...more] = message.split(`${at} as `);
  assert(after !== undefined && more.length === 0, message);
  return {
    kind,
    operation: operation!,
    sector: sector!,
    count: count!,
    errno: errno!,
    code: code!,
    message: `${before} as ${after}`,
  };
}

/** What the i-th write fails with, from a source. */
function expected(index: number, source: string): Told {
  const [code, kind] = CODES[index]!;
  const sector = sectorOf(index);
  return {
    kind,
    operation: "write",
    sector,
    count: 8,
    errno: errnoOf(code)!,
    code,
    message:
      `Cannot write 8 sectors at sector ${sector} as ${source} says ${code}: ${
        errnoText(code)
      }`,
  };
}

/** A layer whose writes fail, each with a number of its own. */
function failing() {
  return faults(
    new MemoryBackend({ sectors: 4096 }),
    CODES.map(([code], i) => rule(code, i)),
  );
}

const rule = (code: string, index: number) =>
  `write sector=${sectorOf(index)}..${sectorOf(index) + 7} error=${code}`;

Deno.test("an error number reads the same from a fault rule", async () => {
  await using disk = VirtualDisk.over(failing());
  for (const [index, [code]] of CODES.entries()) {
    const error = await assertRejects(
      () => disk.write(sectorOf(index), bytes(8)),
      DiskError,
    );
    const source = `the fault rule "${rule(code, index)}"`;
    assertEquals(told(error, undefined), expected(index, source));
  }
});

Deno.test("an error number reads the same from a server, as far as NBD has it", async () => {
  await using served = VirtualDisk.over(failing());
  await using server = NbdServer.listen({
    port: 0,
    exports: [{ disk: served }],
  });
  const uri = server.uri();
  await using disk = VirtualDisk.over(await openBackend(uri));
  for (const [index, [code, , wire]] of CODES.entries()) {
    const sector = sectorOf(index);
    const write = (disk: VirtualDisk) =>
      assertRejects(() => disk.write(sector, bytes(8)), DiskError);
    const below = await write(served);
    assertEquals(below.code, code);
    const error = await write(disk);
    assertEquals(
      { ...error },
      {
        name: "DiskError",
        kind: WIRE_KINDS[wire]!,
        operation: "write",
        path: uri,
        sector,
        count: 8,
        errno: errnoOf(wire)!,
        code: wire,
      },
    );
    assertEquals(
      error.message,
      `Cannot write 8 sectors at sector ${sector} of "${uri}" as the server says ${wire}: ${below.message}`,
    );
  }
});

Deno.test({
  name:
    "an error number reads the same from the direct and the portable backend",
  ignore: Deno.build.os !== "linux",
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", bytes(4096));
    const calls = CODES.map(([code], i) => ({
      call: "pwrite64",
      code,
      argument: [3, sectorOf(i) * 512],
    }));
    const found = await program<Record<string, Told[]>>(
      `
      const { deny } = await import(${
        JSON.stringify(import.meta.resolve("./backends/direct/seccomp.ts"))
      });
      const results = {};
      const filtered = () => deny(...${JSON.stringify(calls)});
      let ready = false;
      for (const options of [
        { backend: "direct", engine: "sync", direct: "never" },
        { backend: "portable", direct: "never" },
      ]) {
        await using disk = await VirtualDisk.open(path, options);
        if (!ready) filtered();
        ready = true;
        const errors = results[disk.info.backend] = [];
        for (let i = 0; i < ${CODES.length}; i++) {
          const data = disk.allocate(8);
          errors.push(await attempt(disk.write(${sectorOf(0)} + i * 8, data)));
        }
      }
      return results;
      `,
      { args: [path] },
    );
    assertEquals(Object.keys(found), ["direct", "portable"]);
    for (const errors of Object.values(found)) {
      for (const index of CODES.keys()) {
        assertEquals(
          told(errors[index]!, path),
          expected(index, "the system"),
        );
      }
    }
  },
});

Deno.test({
  name:
    "a failed flush reads the same from the direct and the portable backend",
  ignore: Deno.build.os !== "linux" || needs("strace").ignore,
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", bytes(64));
    const found = await program<Told[][]>(
      `
      const results = [];
      for (const backend of ["direct", "portable"]) {
        const engine = backend === "direct" ? { engine: "sync" } : {};
        await using disk = await VirtualDisk.open(path, { backend, ...engine });
        await disk.write(0, disk.allocate(8));
        results.push([
          await attempt(disk.flush()),
          await attempt(disk.write(8, disk.allocate(8))),
        ]);
      }
      return results;
      `,
      { args: [path], inject: ["fdatasync:error=EIO"] },
    );
    assertEquals(found[0], found[1]);
    assertEquals(found[0]!.map(({ kind, message }) => [kind, message]), [
      [
        "io",
        `Cannot flush "${path}" as the system says EIO: Input/output error`,
      ],
      [
        "latched",
        `Cannot write 8 sectors at sector 8 of "${path}" as an earlier flush failed (EIO) and what is durable is no longer known: reopen the disk`,
      ],
    ]);
  },
});
