import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertRejects,
} from "@std/assert";
import type { Backend } from "../../../src/backend.ts";
import { MemoryBackend } from "../../../src/backends/memory.ts";
import { openNbd } from "../../../src/backends/nbd/mod.ts";
import { VirtualDisk } from "../../../src/disk/disk.ts";
import { DiskError } from "../../../src/errors.ts";
import { NbdServer } from "../../../src/nbd/mod.ts";
import { openBackend } from "../../../src/disk/open.ts";
import { contractSuite } from "../../contract.ts";
import { needs, tempDir, untilListening } from "../../helpers.ts";

/** A server over a disk in memory, and a client of it. */
async function loop(
  options: { blockSize?: number; readOnly?: boolean; maxPayload?: number } = {},
) {
  const { maxPayload, readOnly = false, ...shape } = options;
  const disk = VirtualDisk.over(
    new MemoryBackend({ sectors: 16_384, ...shape }),
  );
  const server = NbdServer.listen({
    port: 0,
    exports: [{ disk, readOnly }],
    ...(maxPayload === undefined ? {} : { maxPayload }),
  });
  const open = () => openNbd(server.uri(), { readOnly: false });
  return {
    backend: await open() as Backend,
    reopen: open,
    cleanup: async () => {
      await server.close();
      await disk.close();
    },
  };
}

for (const blockSize of [512, 4096]) {
  contractSuite(
    `NbdBackend over a server, blocks of ${blockSize}`,
    () => loop({ blockSize }),
    { readOnly: () => loop({ blockSize, readOnly: true }) },
  );
}

contractSuite(
  "NbdBackend over a server that takes 64 KiB at once",
  () => loop({ maxPayload: 65_536 }),
);

Deno.test("openBackend() opens what an NBD URI names", async () => {
  const { backend, cleanup } = await loop();
  await backend.close();
  await cleanup();
  const served = VirtualDisk.memory({ sectors: 64 });
  const server = NbdServer.listen({
    port: 0,
    exports: [{ disk: served, name: "a b/é" }],
  });
  const uri = server.uri();
  const disk = VirtualDisk.over(await openBackend(uri, {}));
  assertEquals(disk.info.backend, "nbd");
  assertEquals(disk.info.path, uri);
  assertEquals(disk.sectors, 64);
  assertEquals(await disk.id(), "a b/_");
  await disk.close();
  const missing = await assertRejects(
    () => openBackend(uri.replace("a%20b", "c"), {}),
    DiskError,
  );
  assertEquals(missing.kind, "not-found");
  for (
    const options of [
      { direct: "require" },
      { backend: "portable" },
      { engine: "sync" },
    ] as const
  ) {
    const error = await assertRejects(
      () => openBackend(uri, options),
      DiskError,
    );
    assertEquals(error.kind, "platform");
  }
  const made = await assertRejects(
    () => VirtualDisk.create(uri, { sectors: 8 }),
    DiskError,
  );
  assertEquals(made.kind, "platform");
  await server.close();
  const gone = await assertRejects(() => openBackend(uri, {}), DiskError);
  assertEquals(gone.code, "ECONNREFUSED");
  await served.close();
});

Deno.test("openNbd() refuses servers that are none", async () => {
  await using dir = await tempDir();
  const path = dir.join("socket");
  const uri = `nbd+unix:///?socket=${path}`;
  const absent = await assertRejects(
    () => openNbd(uri, { readOnly: false }),
    DiskError,
  );
  assertEquals(absent.kind, "not-found");
  for (const greeting of ["HTTP/1.1 400 Bad Request\r\n\r\n", ""]) {
    const listener = Deno.listen({ transport: "unix", path });
    const serving = listener.accept().then(async (conn) => {
      await conn.write(new TextEncoder().encode(greeting));
      conn.close();
    });
    const error = await assertRejects(
      () => openNbd(uri, { readOnly: false }),
      DiskError,
    );
    assertEquals(error.kind, greeting === "" ? "io" : "platform");
    await serving;
    listener.close();
  }
});

Deno.test("openNbd() gives up when its signal fires", async () => {
  const listener = Deno.listen({ port: 0, hostname: "127.0.0.1" });
  const accepted = listener.accept();
  const controller = new AbortController();
  const opening = openNbd(
    `nbd://127.0.0.1:${listener.addr.port}/`,
    { readOnly: false, signal: controller.signal },
  );
  const conn = await accepted;
  controller.abort(new Error("Enough"));
  await assertRejects(() => opening, Error, "Enough");
  conn.close();
  listener.close();
});

Deno.test("a lost connection fails what is in flight and latches", async () => {
  const served = VirtualDisk.memory({ sectors: 1024 });
  const server = NbdServer.detached({ exports: [{ disk: served }] });
  const listener = Deno.listen({ port: 0, hostname: "127.0.0.1" });
  const accepted = listener.accept();
  const opening = openNbd(`nbd://127.0.0.1:${listener.addr.port}/`, {
    readOnly: false,
  });
  const conn = await accepted;
  // It shakes hands, takes a request, and dies.
  let limit = Infinity;
  const attached = server.attach({
    read: async (target) => {
      const count = await conn.read(target);
      if (count !== null && (limit -= count) < 0) conn.close();
      return limit < 0 ? null : count;
    },
    write: (source) => conn.write(source),
    close: () => {
      try {
        conn.close();
      } catch {
        // Closed above.
      }
    },
  });
  const disk = VirtualDisk.over(await opening);
  await disk.write(0, new Uint8Array(512).fill(1));
  limit = 0;
  const [read, flush] = await Promise.allSettled([
    disk.read(0, 8),
    disk.flush(),
  ]);
  for (const outcome of [read, flush]) {
    assert(outcome.status === "rejected");
    assertInstanceOf(outcome.reason, DiskError);
    assertEquals(outcome.reason.kind, "io");
    assertEquals(outcome.reason.code, "ENOTCONN");
  }
  assertEquals(disk.failure?.code, "ENOTCONN");
  const later = await assertRejects(() => disk.read(0, 1), DiskError);
  assertEquals(later.code, "ENOTCONN");
  const latched = await assertRejects(
    () => disk.write(0, new Uint8Array(512)),
    DiskError,
  );
  assertEquals(latched.kind, "latched");
  await disk.close();
  await attached;
  listener.close();
  await server.close();
  await served.close();
});

Deno.test("openNbd() names a socket that nobody listens at", async () => {
  await using dir = await tempDir();
  const path = dir.join("socket");
  // Deno removes the file of a socket as it stops listening, if it finds it.
  const listener = Deno.listen({ transport: "unix", path });
  await Deno.rename(path, dir.join("stale"));
  listener.close();
  for (const name of ["stale", "file"]) {
    if (name === "file") await dir.file(name, 0);
    const error = await assertRejects(
      () => VirtualDisk.open(`nbd+unix:///?socket=${dir.join(name)}`),
      DiskError,
      "nobody listens at its socket",
    );
    assertEquals([error.kind, error.code], ["io", "ECONNREFUSED"]);
  }
});

Deno.test("VirtualDisk.open() checks the bounds of waiting", async () => {
  for (const name of ["openTimeoutMs", "closeTimeoutMs", "requestTimeoutMs"]) {
    for (const value of [0, -1, NaN, Infinity, 2 ** 31]) {
      await assertRejects(
        () => VirtualDisk.open("nbd://127.0.0.1:1/", { [name]: value }),
        RangeError,
        name,
      );
    }
  }
});

for (const [server, start] of SERVERS()) {
  Deno.test({
    name: `NbdBackend works with ${server}`,
    ...needs(server),
    async fn() {
      await using dir = await tempDir();
      const image = await dir.file("disk.img", 4 << 20);
      const socket = dir.join("socket");
      await using _server = await start(image, socket);
      const uri = `nbd+unix:///?socket=${socket}`;
      const data = new Uint8Array(1 << 20).map((_, i) => i % 251);
      await using disk = await VirtualDisk.open(uri);
      await Promise.all([
        disk.write(8, data),
        disk.write(4096, data.subarray(0, 65_536), { fua: true }),
      ]);
      await disk.writeZeroes(16, 16);
      await disk.discard(4096 + 64, 64);
      await disk.flush();
      data.fill(0, 4096, 4096 + 8192);
      assertEquals(await disk.read(8, 2048), data);
      const stored = await Deno.readFile(image);
      assertEquals(stored.subarray(4096, 4096 + data.length), data);
    },
  });
}

/** Servers that nobody here wrote. */
function SERVERS(): [
  string,
  (image: string, socket: string) => Promise<AsyncDisposable>,
][] {
  const started = async (
    command: string,
    args: string[],
    socket: string,
  ): Promise<AsyncDisposable> => {
    const child = new Deno.Command(command, {
      args,
      stdin: "null",
      stdout: "null",
      stderr: "null",
    }).spawn();
    const stop = async () => {
      try {
        child.kill("SIGTERM");
      } catch {
        // It has ended.
      }
      await child.status;
    };
    try {
      await untilListening(socket);
    } catch (error) {
      await stop();
      throw error;
    }
    return { [Symbol.asyncDispose]: stop };
  };
  return [
    [
      "qemu-nbd",
      (image, socket) =>
        started(
          "qemu-nbd",
          ["-k", socket, "-f", "raw", "--discard=unmap", "-t", image],
          socket,
        ),
    ],
    [
      "nbdkit",
      (image, socket) =>
        started("nbdkit", ["-f", "-U", socket, "file", image], socket),
    ],
  ];
}

Deno.test({
  name: "NbdBackend keeps to a server's block size",
  ...needs("nbdkit"),
  async fn() {
    await using dir = await tempDir();
    const socket = dir.join("socket");
    const child = new Deno.Command("nbdkit", {
      args: [
        "-f",
        "-U",
        socket,
        "--filter=blocksize-policy",
        "memory",
        "1M",
        "blocksize-minimum=4096",
        "blocksize-error-policy=error",
      ],
      stdin: "null",
      stderr: "null",
    }).spawn();
    try {
      await untilListening(socket);
      await using disk = await VirtualDisk.open(
        `nbd+unix:///?socket=${socket}`,
      );
      assertEquals(disk.blockSize, 4096);
      const error = await assertRejects(() => disk.read(1, 1), DiskError);
      assertEquals(error.kind, "alignment");
    } finally {
      child.kill("SIGTERM");
      await child.status;
    }
  },
});
