/**
 * The client over TLS, against nbdkit's server, with certificates that are made
 * for the test.
 *
 * @module
 */

import { assert, assertEquals, assertRejects } from "@std/assert";
import { VirtualDisk } from "../../../src/disk/disk.ts";
import { DiskError } from "../../../src/errors.ts";
import { Option, OptionReply } from "../../../src/protocol/nbd/numbers.ts";
import {
  needs,
  run,
  stopProcess,
  type TempDir,
  tempDir,
  untilListening,
} from "../../helpers.ts";
import { RawPeer } from "./raw_server.ts";

/** Makes an authority, and a certificate of it for `localhost`. */
async function makeCertificates(dir: TempDir): Promise<void> {
  const key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"];
  const openssl = (...args: string[]) => run("openssl", args);
  await openssl(
    ...["req", "-x509", ...key, "-nodes", "-days", "2"],
    ...["-subj", "/CN=authority", "-addext", "keyUsage=critical,keyCertSign"],
    ...["-keyout", dir.join("ca-key.pem"), "-out", dir.join("ca-cert.pem")],
  );
  await openssl(
    ...["req", ...key, "-nodes", "-subj", "/CN=localhost"],
    ...["-keyout", dir.join("server-key.pem"), "-out", dir.join("request")],
  );
  await Deno.writeTextFile(
    dir.join("extensions"),
    "subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth\n",
  );
  await openssl(
    ...["x509", "-req", "-days", "2", "-in", dir.join("request")],
    ...["-CA", dir.join("ca-cert.pem"), "-CAkey", dir.join("ca-key.pem")],
    ...["-CAcreateserial", "-extfile", dir.join("extensions")],
    ...["-out", dir.join("server-cert.pem")],
  );
}

/** A port of the network that leads to a socket, as TLS needs the network. */
function forward(path: string): { port: number } & AsyncDisposable {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const pipes: Promise<unknown>[] = [];
  const serving = (async () => {
    for await (const near of listener) {
      const far = await Deno.connect({ transport: "unix", path });
      pipes.push(
        near.readable.pipeTo(far.writable).catch(() => {}),
        far.readable.pipeTo(near.writable).catch(() => {}),
      );
    }
  })();
  return {
    port: listener.addr.port,
    async [Symbol.asyncDispose]() {
      listener.close();
      await serving;
      await Promise.all(pipes);
    },
  };
}

Deno.test({
  name: "VirtualDisk.open() reaches a server over TLS, and checks who it is",
  ...needs("nbdkit", "openssl"),
  async fn() {
    await using dir = await tempDir();
    await makeCertificates(dir);
    const socket = dir.join("socket");
    const child = new Deno.Command("nbdkit", {
      args: [
        ...["-f", "-U", socket, "--tls=require"],
        ...[`--tls-certificates=${dir.path}`, "memory", "16M"],
      ],
      stdin: "null",
      stderr: "null",
    }).spawn();
    try {
      await untilListening(socket);
      await using port = forward(socket);
      // What is still to be forwarded needs a server that goes on.
      using _goingOn = { [Symbol.dispose]: () => child.kill("SIGCONT") };
      const at = `localhost:${port.port}/`;
      const query = `?tls-certificates=${dir.path}`;
      {
        await using disk = await VirtualDisk.open(`nbds://${at}${query}`);
        const data = new Uint8Array(2 << 20).map((_, i) => i % 251);
        await disk.write(8, data);
        await disk.flush();
        assertEquals(await disk.read(8, data.length / 512), data);
        // What stalls over TLS is bounded as well.
        await stopProcess(child.pid);
        const controller = new AbortController();
        const { signal } = controller;
        const stalled = [
          disk.read(0, 8, { signal }),
          disk.write(0, new Uint8Array(8 << 20), { signal }),
        ];
        setTimeout(() => controller.abort(new Error("Enough")), 50);
        for (const outcome of await Promise.allSettled(stalled)) {
          assert(outcome.status === "rejected");
          assertEquals(outcome.reason.message, "Enough");
        }
      }
      child.kill("SIGCONT");
      const plain = await assertRejects(
        () => VirtualDisk.open(`nbd://${at}`),
        DiskError,
        "NBD_REP_ERR_TLS_REQD",
      );
      assertEquals(plain.kind, "permission");
      for (
        const uri of [
          `nbds://${at}`,
          `nbds://127.0.0.1:${port.port}/${query}`,
          `nbds://${at}?tls-certificates=/nowhere`,
        ]
      ) {
        const error = await assertRejects(
          () => VirtualDisk.open(uri),
          DiskError,
          "there is no TLS with the server",
        );
        assertEquals(error.kind, "permission");
      }
    } finally {
      child.kill("SIGCONT");
      child.kill("SIGTERM");
      await child.status;
    }
  },
});

Deno.test("VirtualDisk.open() ends at a server whose TLS hangs or fails", async () => {
  const cases: [
    script: (peer: RawPeer) => Promise<unknown>,
    message: string,
    timeoutMs: number,
  ][] = [
    [(peer) => peer.rest(), "has not answered for", 300],
    [
      async (peer) => {
        await peer.reply(Option.StartTls, OptionReply.Ack);
        await peer.rest();
      },
      "has not answered for",
      300,
    ],
    [
      async (peer) => {
        await peer.reply(Option.StartTls, OptionReply.Ack);
        await peer.send(new Uint8Array(100).fill(0xee));
        await peer.rest();
      },
      "there is no TLS with the server",
      30_000,
    ],
    [
      async (peer) => {
        await peer.reply(Option.StartTls, OptionReply.Ack);
        await peer.read(1);
        await peer.closeWrite();
      },
      "there is no TLS with the server",
      30_000,
    ],
    [
      (peer) => peer.reply(Option.StartTls, OptionReply.ErrUnsupported),
      "NBD_REP_ERR_UNSUP",
      30_000,
    ],
    [
      (peer) => peer.reply(Option.StartTls, OptionReply.ErrPolicy),
      "NBD_REP_ERR_POLICY",
      30_000,
    ],
  ];
  for (const [script, message, timeoutMs] of cases) {
    // A client that was held up may leave before the server has got that far.
    for (let openTimeoutMs = timeoutMs;; openTimeoutMs *= 10) {
      try {
        await assertEnds(script, message, openTimeoutMs);
        break;
      } catch (error) {
        if (openTimeoutMs >= 30_000) throw error;
      }
    }
  }
});

/** Opening a disk behind such a server fails so. */
async function assertEnds(
  script: (peer: RawPeer) => Promise<unknown>,
  message: string,
  openTimeoutMs: number,
): Promise<void> {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const accepted = listener.accept();
  const serving = accepted.then(async (conn) => {
    const peer = new RawPeer(conn);
    await peer.greet();
    assertEquals(await peer.option(), Option.StartTls);
    await script(peer);
  });
  const served = serving.then(() => null, (error) => ({ error }));
  try {
    await assertRejects(
      () =>
        VirtualDisk.open(`nbds://localhost:${listener.addr.port}/`, {
          openTimeoutMs,
        }),
      DiskError,
      message,
    );
  } finally {
    // A client whose time was over early has not come at all.
    listener.close();
    // Deno lets go of a socket whose TLS is half agreed on only when the other
    // side does.
    (await accepted.catch(() => null))?.close();
  }
  const failed = await served;
  if (failed !== null) throw failed.error;
}
