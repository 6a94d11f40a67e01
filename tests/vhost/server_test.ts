/**
 * The server's own life, by front ends that send bytes alone: Deno's sockets
 * carry no descriptors.
 */

import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { DiskError, VirtualDisk } from "../../mod.ts";
import { Request } from "../../src/request.ts";
import {
  VhostProtocolError,
  VhostServer,
  type VhostServerOptions,
} from "../../src/vhost/mod.ts";
import { tempDir } from "../helpers.ts";

const ignore = Deno.build.os !== "linux";

/** A server over a disk in memory. */
async function serve(
  options: Partial<Omit<VhostServerOptions, "path">> = {},
) {
  await using stack = new AsyncDisposableStack();
  const dir = stack.use(await tempDir());
  const disk = options.disk ?? VirtualDisk.memory({ sectors: 2048 });
  stack.use(disk);
  const errors: Error[] = [];
  const path = dir.join("disk.sock");
  const server = stack.use(VhostServer.listen({
    onError: (error) => errors.push(error),
    ...options,
    disk,
    path,
  }));
  const kept = stack.move();
  return {
    server,
    path,
    disk,
    errors,
    [Symbol.asyncDispose]: () => kept.disposeAsync(),
  };
}

function connect(path: string): Promise<Deno.UnixConn> {
  return Deno.connect({ transport: "unix", path });
}

function message(request: number, payload = new Uint8Array(0), flags = 1) {
  const bytes = new Uint8Array(12 + payload.length);
  new Uint32Array(bytes.buffer, 0, 3).set([request, flags, payload.length]);
  bytes.set(payload, 12);
  return bytes;
}

function u64(value: bigint): Uint8Array<ArrayBuffer> {
  return new Uint8Array(new BigUint64Array([value]).buffer);
}

/** Reads a whole reply; `null` at the end of the connection. */
async function reply(conn: Deno.Conn): Promise<DataView | null> {
  const bytes = new Uint8Array(1024);
  let have = 0;
  for (let want = 12; have < want;) {
    const count = await conn.read(bytes.subarray(have, want));
    if (count === null) return null;
    have += count;
    if (have === 12) want += new DataView(bytes.buffer).getUint32(8, true);
  }
  return new DataView(bytes.buffer, 0, have);
}

async function ask(
  conn: Deno.Conn,
  request: number,
  payload?: Uint8Array<ArrayBuffer>,
  flags?: number,
): Promise<DataView | null> {
  await conn.write(message(request, payload, flags));
  return await reply(conn);
}

Deno.test("VhostServer takes no disk that is closed", {
  ignore,
}, async () => {
  await using dir = await tempDir();
  const path = dir.join("disk.sock");
  const disk = VirtualDisk.memory({ sectors: 8 });
  await using whole = VirtualDisk.memory({ sectors: 8 });
  const slice = whole.slice(0, 4);
  await disk.close();
  await slice.close();
  for (const closed of [disk, slice]) {
    const error = assertThrows(
      () => VhostServer.listen({ path, disk: closed }),
      DiskError,
    );
    assertEquals(
      [error.kind, error.message],
      ["closed", "Cannot serve the disk as it is closed"],
    );
  }
  assertEquals(await Array.fromAsync(Deno.readDir(dir.path)), []);
});

Deno.test("VhostServer tells its features, in replies that QEMU takes", {
  ignore,
}, async () => {
  await using served = await serve({ queues: 4 });
  using conn = await connect(served.path);
  const features = (await ask(conn, 1))!;
  assertEquals([0, 4, 8].map((at) => features.getUint32(at, true)), [1, 5, 8]);
  const bits = features.getBigUint64(12, true);
  // SEG_MAX, BLK_SIZE, FLUSH, TOPOLOGY, CONFIG_WCE, MQ, DISCARD, WRITE_ZEROES;
  // INDIRECT_DESC, EVENT_IDX, PROTOCOL_FEATURES, VERSION_1.
  for (const bit of [2, 6, 9, 10, 11, 12, 13, 14, 28, 29, 30, 32]) {
    assertEquals(bits >> BigInt(bit) & 1n, 1n, `bit ${bit}`);
  }
  const protocol = (await ask(conn, 15))!.getBigUint64(12, true);
  assertEquals(protocol, 0b11_0010_0010_1001n);
  assertEquals((await ask(conn, 17))!.getBigUint64(12, true), 4n);
  assertEquals(served.errors, []);
  assertEquals(served.server.counters.frontEnds, 1);
  assertEquals(served.server.attached, true);
});

Deno.test("VhostServer tells the configuration space, and zeroes beyond it", {
  ignore,
}, async () => {
  await using served = await serve();
  using conn = await connect(served.path);
  const payload = new Uint8Array(12 + 200);
  new Uint32Array(payload.buffer, 0, 3).set([0, 200, 0]);
  const config = (await ask(conn, 24, payload))!;
  assertEquals(config.byteLength, 12 + 12 + 200);
  assertEquals(config.getBigUint64(24, true), 2048n);
  assertEquals(config.getUint32(24 + 20, true), 512);
  assertEquals(config.getUint8(24 + 32), 1);
  for (let at = 24 + 96; at < config.byteLength; at++) {
    assertEquals(config.getUint8(at), 0);
  }
});

Deno.test("VhostServer offers no writes of a disk that is read-only", {
  ignore,
}, async () => {
  await using served = await serve({ readOnly: true });
  using conn = await connect(served.path);
  const bits = (await ask(conn, 1))!.getBigUint64(12, true);
  assertEquals([5n, 13n, 14n].map((bit) => bits >> bit & 1n), [1n, 0n, 0n]);
});

Deno.test(
  "VhostServer acknowledges what has no answer, if that was agreed on",
  { ignore },
  async () => {
    await using served = await serve();
    using conn = await connect(served.path);
    await conn.write(message(16, u64(1n << 3n)));
    const owner = (await ask(conn, 3, undefined, 9))!;
    assertEquals([owner.getUint32(0, true), owner.getBigUint64(12, true)], [
      3,
      0n,
    ]);
    // A message with an answer of its own has one.
    assertEquals((await ask(conn, 17, undefined, 9))!.byteLength, 20);
  },
);

Deno.test(
  "VhostServer puts together what comes byte by byte",
  { ignore },
  async () => {
    await using served = await serve();
    using conn = await connect(served.path);
    const bytes = [
      ...message(3),
      ...message(16, u64(1n << 3n)),
      ...message(17),
    ];
    for (const byte of bytes) await conn.write(new Uint8Array([byte]));
    assertEquals((await reply(conn))!.getUint32(0, true), 17);
  },
);

Deno.test(
  "VhostServer serves the next front end when one has gone",
  { ignore },
  async () => {
    await using served = await serve();
    for (let i = 1; i <= 3; i++) {
      using conn = await connect(served.path);
      assert(await ask(conn, 1) !== null);
      assertEquals(served.server.counters.frontEnds, i);
    }
  },
);

Deno.test(
  "VhostServer lets a second front end wait until the first one has gone",
  { ignore },
  async () => {
    await using served = await serve();
    const first = await connect(served.path);
    await ask(first, 1);
    using second = await connect(served.path);
    const answer = ask(second, 1);
    await ask(first, 1);
    assertEquals(served.server.counters.frontEnds, 1);
    first.close();
    assert(await answer !== null);
    assertEquals(served.server.counters.frontEnds, 2);
  },
);

const WRONG: [title: string, bytes: Uint8Array<ArrayBuffer>][] = [
  ["a version that there is not", message(1, undefined, 2)],
  ["a reply", message(1, undefined, 5)],
  ["a payload that is too long", message(5, new Uint8Array(2000))],
  ["a message that was not agreed on", message(22)],
  ["a message that there is not", message(1000)],
  ["features that were not offered", message(2, u64(1n << 40n))],
  ["protocol features that were not offered", message(16, u64(1n << 40n))],
  ["a payload of the wrong length", message(2, new Uint8Array(4))],
  ["a ring that there is not", message(8, u64(99n))],
  ["a ring of no power of two", message(8, u64(0x0000_0007_0000_0000n))],
  ["a ring's base of 17 bits", message(10, u64(0x0001_0000_0000_0000n))],
  ["a kick without a descriptor", message(12, u64(0n))],
  ["a ring that is to be polled", message(12, u64(0x100n))],
  ["a table of memory without descriptors", message(5, new Uint8Array(40))],
  ["a configuration that leaves its space", message(24, new Uint8Array(300))],
];

for (const [title, bytes] of WRONG) {
  Deno.test(
    `VhostServer sends a front end away for ${title}`,
    { ignore },
    async () => {
      await using served = await serve();
      using conn = await connect(served.path);
      await conn.write(bytes);
      // What came after the mistake may not have been read.
      await reply(conn).catch(() => null);
      using next = await connect(served.path);
      assert(await ask(next, 1) !== null);
      assertEquals(served.server.counters.dropped, 1);
      assertEquals(served.errors.length, 1);
      assert(served.errors[0] instanceof VhostProtocolError);
    },
  );
}

Deno.test("VhostServer sends a front end away that ends within a message", {
  ignore,
}, async () => {
  await using served = await serve();
  const conn = await connect(served.path);
  await conn.write(message(2, u64(0n)).subarray(0, 15));
  conn.close();
  using next = await connect(served.path);
  assert(await ask(next, 1) !== null);
  assertEquals(served.server.counters.dropped, 1);
});

Deno.test(
  "VhostServer outlives a front end that takes no answers",
  { ignore },
  async () => {
    await using served = await serve();
    const conn = await connect(served.path);
    // Until nothing more goes in, or we are sent away.
    const many = new Uint8Array(12 * 1000);
    for (let i = 0; i < 1000; i++) many.set(message(1), 12 * i);
    const writing = (async () => {
      for (let i = 0; i < 1000; i++) await conn.write(many);
    })();
    await assertRejects(() => writing);
    conn.close();
    using next = await connect(served.path);
    assert(await ask(next, 1) !== null);
    assertEquals(served.server.counters.dropped, 1);
  },
);

Deno.test(
  "VhostServer.listen() refuses a name that is in use, and leaves it alone",
  { ignore },
  async () => {
    await using dir = await tempDir();
    await using disk = VirtualDisk.memory({ sectors: 8 });
    const path = await dir.file("disk.sock", new Uint8Array([1, 2]));
    const error = assertThrows(
      () => VhostServer.listen({ path, disk }),
      DiskError,
      "there is something of that name",
    );
    assertEquals(error.kind, "exists");
    assertEquals(await Deno.readFile(path), new Uint8Array([1, 2]));
  },
);

Deno.test("VhostServer.listen() refuses a path that no socket can have", {
  ignore,
}, async () => {
  await using dir = await tempDir();
  await using disk = VirtualDisk.memory({ sectors: 8 });
  for (const path of [dir.join("x".repeat(108)), "", "a\0b"]) {
    assertThrows(() => VhostServer.listen({ path, disk }), RangeError);
  }
  const path = dir.join("no/folder");
  const error = assertThrows(
    () => VhostServer.listen({ path, disk }),
    DiskError,
  );
  assertEquals([error.kind, error.code], ["not-found", "ENOENT"]);
  for (const queues of [0, 65, 1.5, NaN]) {
    const path = dir.join("s");
    assertThrows(() => VhostServer.listen({ path, disk, queues }), RangeError);
  }
});

Deno.test(
  "VhostServer.close() removes its own name, and no other",
  { ignore },
  async () => {
    await using dir = await tempDir();
    await using disk = VirtualDisk.memory({ sectors: 8 });
    const path = dir.join("disk.sock");
    const first = VhostServer.listen({ path, disk });
    // No timer waits for so long: what is in flight would be left at once.
    await assertRejects(() => first.close(Infinity), RangeError, "graceMs");
    await Deno.lstat(path);
    await first.close();
    await first.close();
    await first.finished;
    await assertRejects(() => Deno.lstat(path), Deno.errors.NotFound);
    const second = VhostServer.listen({ path, disk });
    await Deno.remove(path);
    await Deno.writeTextFile(path, "somebody else's");
    await second.close();
    assertEquals(await Deno.readTextFile(path), "somebody else's");
  },
);

Deno.test(
  "VhostServer stops with its first front end if once",
  { ignore },
  async () => {
    await using served = await serve({ once: true });
    // One that merely knocks is none.
    const other = await connect(served.path);
    await ask(other, 1);
    other.close();
    const conn = await connect(served.path);
    await conn.write(message(3));
    await ask(conn, 1);
    conn.close();
    await served.server.finished;
    await assertRejects(() => connect(served.path));
  },
);

Deno.test(
  "VhostServer.close() sends the front end away",
  { ignore },
  async () => {
    await using served = await serve();
    using conn = await connect(served.path);
    await ask(conn, 1);
    await served.server.close();
    assertEquals(await reply(conn), null);
    // The disk is as it was.
    assertEquals(
      await served.disk.submit(new Request(0, 0, 1, 0, new Uint8Array(512))),
      0,
    );
  },
);

Deno.test("VhostServer.listen() asks for the path as Deno.listen() does", {
  ignore,
}, async () => {
  await using dir = await tempDir();
  const script = `
    import { VirtualDisk } from ${
    JSON.stringify(import.meta.resolve("../../mod.ts"))
  };
    import { VhostServer } from ${
    JSON.stringify(import.meta.resolve("../../src/vhost/mod.ts"))
  };
    const disk = VirtualDisk.memory({ sectors: 8 });
    try {
      const path = ${JSON.stringify(dir.join("disk.sock"))};
      await VhostServer.listen({ path, disk }).close();
      console.log("served");
    } catch (error) {
      console.log(error.name, error.kind);
    }
  `;
  const path = await dir.file("script.ts", new TextEncoder().encode(script));
  const runWith = async (...permissions: string[]) => {
    const { stdout } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "--no-check", "--no-prompt", ...permissions, path],
      stderr: "null",
    }).output();
    return new TextDecoder().decode(stdout).trim();
  };
  assertEquals(await runWith(), "DiskError permission");
  assertEquals(await runWith("--allow-ffi"), "DiskError permission");
  assertEquals(
    await runWith("--allow-ffi", `--allow-read=${dir.path}`),
    "DiskError permission",
  );
  assertEquals(
    await runWith(
      "--allow-ffi",
      `--allow-read=${dir.path}`,
      `--allow-write=${dir.path}`,
    ),
    "served",
  );
});
