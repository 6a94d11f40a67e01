/**
 * Servers that answer a write before they have its data: to refuse it at its
 * header is allowed, and the rest of the connection goes on, whatever the caller
 * does with its memory then; to say that it is done is a lie.
 *
 * @module
 */

import { assertEquals, assertRejects } from "@std/assert";
import { VirtualDisk } from "../../../src/disk/disk.ts";
import { DiskError } from "../../../src/errors.ts";
import { viewOf } from "../../../src/bytes.ts";
import { Command, REQUEST_BYTES } from "../../../src/protocol/nbd/numbers.ts";
import { type RawPeer, RawServer, simpleReply } from "./raw_server.ts";

const ENOSPC = 28;
/** More than any socket takes at once. */
const LARGE = 8 << 20;
const SIZE = 16 << 20;

/** The header of a request, without the data that follows. */
async function header(peer: RawPeer) {
  const bytes = await peer.read(REQUEST_BYTES);
  const view = viewOf(bytes);
  return {
    type: view.getUint16(6),
    length: view.getUint32(24),
    cookie: bytes.slice(8, 16),
  };
}

/** Answers each request, and large writes as `early` does at their header. */
function server(
  early: (peer: RawPeer, cookie: Uint8Array) => Promise<void>,
  goOn: Promise<void> = Promise.resolve(),
  onData: (data: Uint8Array) => void = () => {},
): Promise<RawServer> {
  return RawServer.start(async (peer) => {
    await peer.attach({ size: SIZE });
    for (;;) {
      const { type, length, cookie } = await header(peer);
      if (type === Command.Disconnect) return;
      if (type === Command.Write && length > 65_536) {
        await early(peer, cookie);
        await goOn;
        onData(await peer.read(length));
        continue;
      }
      if (type === Command.Write) await peer.read(length);
      await peer.send(simpleReply(cookie));
    }
  });
}

const refuse = (peer: RawPeer, cookie: Uint8Array) =>
  peer.send(simpleReply(cookie, ENOSPC));

const open = (uri: string) => VirtualDisk.open(uri, { closeTimeoutMs: 300 });

Deno.test("NbdBackend gives the memory of a write back that is refused at its header, and goes on", async () => {
  const goOn = Promise.withResolvers<void>();
  let sent: Uint8Array | null = null;
  await using raw = await server(refuse, goOn.promise, (data) => sent = data);
  await using disk = await open(raw.uri);
  const data = new Uint8Array(LARGE).fill(1);
  const write = assertRejects(() => disk.write(0, data), DiskError, "ENOSPC");
  const next = disk.write(0, new Uint8Array(512));
  // While the system has the memory it may not be given back.
  await new Promise((resolve) => setTimeout(resolve, 20));
  goOn.resolve();
  await write;
  // The caller's again: whatever is done with it harms nobody.
  new Uint8Array(data.buffer.transfer()).fill(0xee);
  await next;
  assertEquals(sent!.indexOf(0xee), -1);
});

Deno.test("NbdBackend leaves a server that says that a write is done before it has the data", async () => {
  const never = Promise.withResolvers<void>();
  await using raw = await server(
    (peer, cookie) => peer.send(simpleReply(cookie)),
    never.promise,
  );
  await using disk = await open(raw.uri);
  const write = () => disk.write(0, new Uint8Array(LARGE).fill(1));
  // Nothing is said of it while the system still has some to send.
  const timer = setTimeout(never.resolve, 20);
  await assertRejects(write, DiskError, "before its data was sent");
  clearTimeout(timer);
  never.resolve();
});

Deno.test("NbdBackend leaves a server that refuses a write twice", async () => {
  const goOn = Promise.withResolvers<void>();
  await using raw = await server(async (peer, cookie) => {
    await refuse(peer, cookie);
    await refuse(peer, cookie);
  }, goOn.promise);
  await using disk = await open(raw.uri);
  const write = () => disk.write(0, new Uint8Array(LARGE).fill(1));
  await assertRejects(write, DiskError, "a reply is to no request");
  goOn.resolve();
});

Deno.test("NbdBackend closes, and aborts, though a server that refused a write takes no more of it", async () => {
  for (const aborts of [true, false]) {
    const never = Promise.withResolvers<void>();
    const refused = Promise.withResolvers<void>();
    await using raw = await server(async (peer, cookie) => {
      await refuse(peer, cookie);
      refused.resolve();
    }, never.promise);
    const disk = await open(raw.uri);
    const abort = new AbortController();
    const data = new Uint8Array(LARGE).fill(1);
    const write = disk.write(0, data, { signal: abort.signal })
      .then(() => "done", (error) => String(error));
    await refused.promise;
    if (aborts) abort.abort("enough");
    await disk.close();
    assertEquals((await write) === "enough", aborts);
    never.resolve();
  }
});
