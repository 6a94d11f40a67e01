/**
 * The server over TLS, before clients that nobody here wrote, and before those
 * that mean ill.
 *
 * @module
 */

import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { DiskError } from "../../src/errors.ts";
import { NbdServer, type NbdTlsOptions } from "../../src/nbd/mod.ts";
import {
  Command,
  Option,
  OptionReply,
} from "../../src/protocol/nbd/numbers.ts";
import { Random } from "../../src/random.ts";
import { type Outcome, platter } from "../cli/harness.ts";
import { needs, run, type TempDir, tempDir } from "../helpers.ts";
import {
  goData,
  optionMessage,
  patiently,
  RawClient,
  requestMessage,
} from "./harness.ts";
import { joined } from "./wire.ts";

const { Read, Write, Disconnect } = Command;

const MIB = 1 << 20;

let made: Promise<Map<string, string>> | undefined;

/** Puts certificates into a folder; they are made once for all tests. */
async function certificates(dir: TempDir): Promise<{
  tls: NbdTlsOptions;
  ca: string;
}> {
  const files = await (made ??= makeCertificates());
  for (const [name, text] of files) {
    await Deno.writeTextFile(dir.join(name), text);
  }
  const read = (name: string) => files.get(name)!;
  return {
    tls: { cert: read("server-cert.pem"), key: read("server-key.pem") },
    ca: read("ca-cert.pem"),
  };
}

/** Makes who signs, and a certificate of a server and two of clients. */
async function makeCertificates(): Promise<Map<string, string>> {
  await using dir = await tempDir();
  const request = (name: string, subject: string, ...more: string[]) =>
    run("openssl", [
      "req",
      "-newkey",
      "ec",
      "-pkeyopt",
      "ec_paramgen_curve:P-256",
      "-nodes",
      "-keyout",
      dir.join(`${name}-key.pem`),
      "-subj",
      `/CN=${subject}`,
      ...more,
    ]);
  const authority = (name: string) =>
    request(
      name,
      name,
      "-x509",
      "-days",
      "30",
      "-out",
      dir.join(`${name}-cert.pem`),
    );
  await authority("ca");
  await authority("other");
  for (
    const [name, signer, extension] of [
      ["server", "ca", "subjectAltName=DNS:localhost"],
      ["client", "ca", "extendedKeyUsage=clientAuth"],
      ["stranger", "other", "extendedKeyUsage=clientAuth"],
    ] as const
  ) {
    await request(name, name, "-out", dir.join("request"));
    await Deno.writeTextFile(dir.join("extension"), extension);
    await run("openssl", [
      "x509",
      "-req",
      "-in",
      dir.join("request"),
      "-CA",
      dir.join(`${signer}-cert.pem`),
      "-CAkey",
      dir.join(`${signer}-key.pem`),
      "-CAcreateserial",
      "-days",
      "30",
      "-extfile",
      dir.join("extension"),
      "-out",
      dir.join(`${name}-cert.pem`),
    ]);
  }
  const files = new Map<string, string>();
  for await (const { name } of Deno.readDir(dir.path)) {
    if (!name.endsWith(".pem")) continue;
    files.set(name, await Deno.readTextFile(dir.join(name)));
  }
  return files;
}

interface Secured extends AsyncDisposable {
  readonly dir: TempDir;
  readonly disk: VirtualDisk;
  readonly server: NbdServer;
  readonly port: number;
  readonly ca: string;
  readonly faults: Error[];
}

async function serveSecurely(
  options: { mutual?: boolean; handshakeMs?: number; maxBytes?: number } = {},
): Promise<Secured> {
  const { mutual = false, ...more } = options;
  const dir = await tempDir();
  const { tls, ca } = await certificates(dir);
  const disk = VirtualDisk.memory({ sectors: 16 * MIB / 512 });
  const faults: Error[] = [];
  const server = NbdServer.listen({
    port: 0,
    exports: [{ disk }],
    tls: mutual ? { ...tls, clientCa: ca } : tls,
    onError: (error) => faults.push(error),
    ...more,
  });
  const { port } = server.address as { port: number };
  return {
    dir,
    disk,
    server,
    port,
    ca,
    faults,
    async [Symbol.asyncDispose]() {
      await server.close(500);
      await disk.close();
      await dir[Symbol.asyncDispose]();
    },
  };
}

/** Connects and comes to terms about TLS. */
async function connect({ port, ca }: Secured): Promise<RawClient> {
  const conn = await Deno.connect({ port });
  const clear = new RawClient(conn);
  let secure: Deno.TlsConn | undefined;
  try {
    await clear.read(18);
    await clear.send(new Uint8Array([0, 0, 0, 3]));
    await clear.send(optionMessage(Option.StartTls));
    assertEquals((await clear.answer()).type, OptionReply.Ack);
    secure = await Deno.startTls(conn, {
      hostname: "localhost",
      caCerts: [ca],
    });
    await secure.handshake();
    return new RawClient(secure);
  } catch (error) {
    (secure === undefined ? clear : new RawClient(secure)).close();
    throw error;
  }
}

/** The same, and comes to an agreement on the export. */
async function attach(served: Secured): Promise<RawClient> {
  const client = await connect(served);
  try {
    await client.send(optionMessage(Option.ExportName));
    await client.read(10);
    return client;
  } catch (error) {
    client.close();
    throw error;
  }
}

/** The same without a word of TLS. */
async function connectClear({ port }: Secured): Promise<RawClient> {
  const client = new RawClient(await Deno.connect({ port }));
  try {
    await client.read(18);
    await client.send(new Uint8Array([0, 0, 0, 3]));
    return client;
  } catch (error) {
    client.close();
    throw error;
  }
}

async function waitFor(condition: () => boolean): Promise<void> {
  for (let i = 0; !condition(); i++) {
    if (i === 3000) throw new Error("Cannot wait any longer");
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

for (const mutual of [false, true]) {
  Deno.test({
    name: `nbdinfo, nbdcopy and qemu-img come by TLS${
      mutual ? ", with certificates of their own" : ""
    }`,
    ...needs("openssl", "nbdinfo", "nbdcopy", "qemu-img"),
    async fn() {
      await using served = await serveSecurely({ mutual });
      const { dir, server, port, disk } = served;
      assert(server.uri().startsWith("nbds://"), server.uri());
      const uri = `nbds://localhost:${port}/?tls-certificates=${dir.path}`;
      assertEquals(
        (await run("nbdinfo", ["--size", uri])).trim(),
        `${16 * MIB}`,
      );
      const bytes = new Random(1).bytes(16 * MIB);
      const image = await dir.file("image", bytes);
      await run("nbdcopy", [image, uri, "--flush"]);
      assertEquals(
        (await disk.read(0, disk.sectors)).findIndex((b, i) => b !== bytes[i]),
        -1,
      );
      await run("qemu-img", [
        "compare",
        "--object",
        `tls-creds-x509,id=tls,endpoint=client,dir=${dir.path}`,
        "--image-opts",
        "driver=raw,file.driver=nbd,file.host=localhost," +
        `file.port=${port},file.tls-creds=tls`,
        `driver=raw,file.driver=file,file.filename=${image}`,
      ]);
      if (!mutual) {
        // Platter's own client has no certificates to show.
        await using own = await VirtualDisk.open(uri);
        assertEquals(await own.read(3, 5), bytes.slice(3 * 512, 8 * 512));
      }
      // Without TLS, nobody learns anything.
      await assertRejects(() => run("nbdinfo", [`nbd://localhost:${port}/`]));
      assertEquals(served.faults, []);
      assertEquals(server.counters.errors, 0);
    },
  });
}

Deno.test({
  name: "NbdServer with TLS tells nothing to whoever comes without",
  ...needs("openssl"),
  async fn() {
    await using served = await serveSecurely();
    using client = await connectClear(served);
    for (
      const option of [Option.List, Option.Info, Option.Go, 99, 8, 9, 10]
    ) {
      await client.send(optionMessage(option, goData("")));
      const { type, data } = await client.answer();
      assertEquals([type, data.length], [OptionReply.ErrTlsRequired, 0]);
    }
    await client.send(optionMessage(Option.StartTls, new Uint8Array(1)));
    assertEquals((await client.answer()).type, OptionReply.ErrInvalid);
    await client.send(optionMessage(Option.ExportName));
    assertEquals(await client.drain(), 0);
    await waitFor(() => served.faults.length === 1);
    using polite = await connectClear(served);
    await polite.send(optionMessage(Option.Abort));
    assertEquals((await polite.answer()).type, OptionReply.Ack);
    assertEquals(await polite.drain(), 0);
    // With TLS there is all of it, but no more TLS in it.
    using secure = await connect(served);
    await secure.send(optionMessage(Option.StartTls));
    assertEquals((await secure.answer()).type, OptionReply.ErrInvalid);
    await secure.send(optionMessage(Option.List));
    assertEquals((await secure.answer()).type, OptionReply.Server);
  },
});

Deno.test({
  name: "NbdServer takes nothing for the client's that came before TLS",
  ...needs("openssl"),
  async fn() {
    await using served = await serveSecurely();
    using client = await connectClear(served);
    await client.send(joined([
      optionMessage(Option.StartTls),
      optionMessage(Option.Go, goData("")),
    ]));
    await client.drain();
    await waitFor(() => served.faults.length === 1);
    assert(served.faults[0]!.message.includes("before TLS"));
    assertEquals(served.server.counters.dropped, 1);
  },
});

Deno.test({
  name: "NbdServer with TLS lives with hostile clients, and others with it",
  ...needs("openssl"),
  async fn() {
    await using served = await serveSecurely({
      mutual: false,
      handshakeMs: 1500,
      maxBytes: 2 * MIB,
    });
    const { server, disk } = served;
    using honest = await patiently(() => attach(served));
    const serves = async () => {
      const data = new Random(2).bytes(100_000);
      assertEquals((await honest.ask(Write, 1, 100_000, data)).error, 0);
      const { data: back } = await honest.ask(Read, 1, 100_000);
      assertEquals(back.findIndex((byte, i) => byte !== data[i]), -1);
    };
    await serves();
    const begun = (...parts: Uint8Array[]) =>
      patiently(async () => {
        const client = await connectClear(served);
        try {
          await client.send(optionMessage(Option.StartTls));
          assertEquals((await client.answer()).type, OptionReply.Ack);
        } catch (error) {
          client.close();
          throw error;
        }
        client.sendAll(...parts);
        return client;
      });
    const gone = (client: RawClient) => {
      client[Symbol.dispose]();
      return client;
    };
    // What is no TLS; a record that never ends; nothing; and who is gone.
    const clients = [
      await begun(new Uint8Array(100).fill(0x55)),
      await begun(new Uint8Array([0x16, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc])),
      await begun(),
      gone(await begun()),
      gone(await patiently(() => connect(served))),
    ];
    await serves();
    await waitFor(() => server.connectionCount === 1);
    for (const client of clients) client[Symbol.dispose]();
    assertEquals(served.faults.length, server.counters.dropped);
    await serves();
    // Who takes no answers is not read from, and holds nobody up.
    using greedy = await patiently(() => attach(served));
    const before = disk.counters.bytesRead;
    greedy.sendAll(...Array.from(
      { length: 500 },
      (_, i) => requestMessage(Read, 0, MIB, 0, i),
    ));
    await waitFor(() => disk.counters.bytesRead > before);
    for (let i = 0; i < 10; i++) await serves();
    const read = disk.counters.bytesRead - before;
    assert(read < 64 * MIB, `${read}`);
    // A client that leaves takes nothing along.
    await honest.send(requestMessage(Disconnect, 0, 0));
    assertEquals(await honest.drain().catch(() => 0), 0);
  },
});

Deno.test({
  name: "NbdServer sends clients away that cannot prove who they are",
  ...needs("openssl", "nbdinfo"),
  async fn() {
    await using served = await serveSecurely({ mutual: true });
    const { dir, port, faults } = served;
    const uri = (folder: string) =>
      `nbds://localhost:${port}/?tls-certificates=${folder}`;
    assertEquals(
      (await run("nbdinfo", ["--size", uri(dir.path)])).trim(),
      `${16 * MIB}`,
    );
    assertEquals(faults, []);
    // None, and one from somebody else.
    for (const name of ["none", "stranger"]) {
      const folder = dir.join(name);
      await Deno.mkdir(folder);
      await Deno.copyFile(dir.join("ca-cert.pem"), `${folder}/ca-cert.pem`);
      if (name !== "none") {
        for (const part of ["cert", "key"]) {
          await Deno.copyFile(
            dir.join(`${name}-${part}.pem`),
            `${folder}/client-${part}.pem`,
          );
        }
      }
      const before = faults.length;
      await assertRejects(() => run("nbdinfo", ["--size", uri(folder)]));
      await waitFor(() => faults.length > before);
      assertEquals(faults.at(-1)!.name, "ProtocolError");
    }
  },
});

Deno.test({
  name: "serve --tls-cert serves with TLS only",
  ...needs("openssl", "nbdinfo"),
  async fn() {
    await using dir = await tempDir();
    await certificates(dir);
    const image = await dir.file("disk.img", MIB);
    let used: Promise<string> | undefined;
    const outcome = await platter([
      "serve",
      image,
      "--port",
      "0",
      "--host",
      "localhost",
      "--tls-cert",
      dir.join("server-cert.pem"),
      "--tls-key",
      dir.join("server-key.pem"),
      "--tls-client-ca",
      dir.join("ca-cert.pem"),
    ], {
      onOutput(text, interrupt) {
        if (!text.startsWith("nbds://")) return;
        const uri = `${text.trim()}?tls-certificates=${dir.path}`;
        used = run("nbdinfo", ["--size", uri]).finally(interrupt);
        used.catch(() => {});
      },
    });
    assertEquals((await used!).trim(), `${MIB}`);
    assertEquals(outcome.code, 0, outcome.err);
    for (
      const [args, words] of [
        [["--tls-cert", image], "--tls-key"],
        [["--tls-key", image], "--tls-cert"],
        [["--tls-client-ca", image], "--tls-cert"],
        [["--tls-cert", image, "--tls-key", image], "certificate in PEM"],
        [["--tls-cert", dir.join("no"), "--tls-key", image], "no such file"],
      ] as const
    ) {
      const wrong = await platter(["serve", image, "--port", "0", ...args]);
      assertEquals(wrong.code, 2);
      assert(wrong.err.includes(words), wrong.err);
    }
  },
});

Deno.test("NbdServer throws on TLS without a certificate", async () => {
  await using disk = VirtualDisk.memory({ sectors: 8 });
  for (const tls of [{ cert: "", key: "" }, { cert: "a", key: "b" }]) {
    assertThrows(
      () => NbdServer.detached({ exports: [{ disk }], tls }),
      TypeError,
      "certificate in PEM",
    );
  }
});

Deno.test({
  name: "NbdServer refuses certificates and keys that no client would take",
  ...needs("openssl"),
  async fn() {
    await using dir = await tempDir();
    const { tls, ca } = await certificates(dir);
    const other = await Deno.readTextFile(dir.join("other-key.pem"));
    await using disk = VirtualDisk.memory({ sectors: 8 });
    const { cert, key } = tls;
    const junk = cert.replace(/-\n[^]*\n-/, "-\nAAAA\n-");
    const junkKey = key.replace(/-\n[^]*\n-/, "-\nAAAA\n-");
    const cut = cert.slice(0, 200);
    for (
      const [wrong, reason] of [
        [{ cert, key: other }, "as the private key must be the one of the"],
        // What clients are shown is the first.
        [{ cert: ca + cert, key }, "as the private key must be the one of the"],
        [{ cert, key: junkKey }, "as the private key must be one, without a"],
        [{ cert, key: cert }, "as there must be a private key in PEM"],
        [{ cert: junk, key }, "as the certificate must be whole and valid"],
        [{ cert: cut, key }, "as the certificate must be whole and valid"],
        [{ cert: cert + cut, key }, "valid, which number 2 is not"],
        [{ ...tls, clientCa: "" }, "must be a client CA's certificate in PEM"],
        [{ ...tls, clientCa: key }, "must be a client CA's certificate in PEM"],
        [{ ...tls, clientCa: junk }, "client CA's certificate must be whole"],
        [{ ...tls, clientCa: ca + cut }, "valid, which number 2 is not"],
      ] as const
    ) {
      assertThrows(
        () => NbdServer.listen({ port: 0, exports: [{ disk }], tls: wrong }),
        TypeError,
        reason,
      );
    }
    const both = cert + key;
    for (
      const right of [
        { cert: both, key: both },
        { cert: cert + ca, key, clientCa: `A text\n${ca}${ca}` },
      ]
    ) {
      await using _server = NbdServer.listen({
        port: 0,
        exports: [{ disk }],
        tls: right,
      });
    }
    const image = await dir.file("disk.img", MIB);
    const { code, out, err } = await platter([
      ...["serve", image, "--port", "0"],
      ...["--tls-cert", dir.join("server-cert.pem")],
      ...["--tls-key", dir.join("other-key.pem")],
    ]);
    assertEquals([code, out], [2, ""]);
    assert(err.includes("must be the one of the (first) certificate"), err);
  },
});

Deno.test({
  name: "VirtualDisk tells of a TLS server that is gone without a link",
  ...needs("openssl"),
  async fn() {
    await using served = await serveSecurely();
    const { dir, port, server } = served;
    await using disk = await VirtualDisk.open(
      `nbds://localhost:${port}/?tls-certificates=${dir.path}`,
    );
    await server.close(0);
    const error = await assertRejects(() => disk.read(0, 8), DiskError);
    assert(!error.message.includes("http"), error.message);
  },
});

Deno.test({
  name: "VirtualDisk.open() says that a server may want a client certificate",
  ...needs("openssl"),
  async fn() {
    await using served = await serveSecurely({ mutual: true });
    const { dir, port } = served;
    const error = await assertRejects(
      () =>
        VirtualDisk.open(
          `nbds://localhost:${port}/?tls-certificates=${dir.path}`,
        ),
      DiskError,
      "it may want a client certificate, which this client cannot show",
    );
    assertEquals(error.kind, "permission");
    assert(!error.message.includes("http"), error.message);
  },
});

for (const name of ["server", "ca"] as const) {
  const title = name === "server"
    ? "serve says by which URIs to come by TLS"
    : "VirtualDisk.open() tells an authority's certificate from a server's";
  Deno.test({
    name: title,
    ...needs("openssl"),
    async fn() {
      await using dir = await tempDir();
      await certificates(dir);
      const image = await dir.file("disk.img", 4096);
      let used: Promise<unknown> | undefined;
      const { code, err } = await platter([
        ...["serve", image, "--host", "localhost", "--port", "0"],
        ...["--tls-cert", dir.join(`${name}-cert.pem`)],
        ...["--tls-key", dir.join(`${name}-key.pem`)],
      ], {
        onOutput(text, interrupt) {
          if (!text.startsWith("nbds://")) return;
          const uri = `${text.trim()}?tls-certificates=${dir.path}`;
          used = platter(["info", uri]).finally(interrupt);
        },
      });
      assertEquals(code, 0);
      const info = await used as Outcome;
      if (name === "ca") {
        assertEquals(info.code, 2);
        assert(info.err.includes("an authority's certificate"), info.err);
        return;
      }
      assertEquals([info.code, info.err], [0, ""]);
      assert(err.includes('/?tls-certificates=DIR" copy.img\n'), err);
      // QEMU has no URI for it.
      assert(!err.includes("qemu"), err);
    },
  });
}
