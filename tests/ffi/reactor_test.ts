import { assert, assertEquals, assertNotEquals } from "@std/assert";
import { Socket } from "node:net";
import { openLibc } from "../../ffi/libc.ts";
import { findReactor } from "../../ffi/reactor.ts";
import { SocketPair } from "../../ffi/socket_pair.ts";

const ignore = Deno.build.os !== "linux";

function openPair(): SocketPair {
  const pair = SocketPair.open(openLibc());
  assert(typeof pair !== "number");
  return pair;
}

/** Has Deno wait for one end of a pair until it has read a byte and waits again. */
async function waitedFor(pair: SocketPair): Promise<Socket> {
  const socket = new Socket({ fd: pair.otherFd, readable: true });
  const came = new Promise((resolve) => socket.once("data", resolve));
  pair.send();
  await came;
  await new Promise((resolve) => setTimeout(resolve, 1));
  return socket;
}

async function leave(socket: Socket, pair: SocketPair): Promise<void> {
  const closed = new Promise((resolve) => socket.once("close", resolve));
  socket.destroy();
  await closed;
  pair.close();
}

Deno.test({
  name: "findReactor() finds the epoll that waits for a socket",
  ignore,
  fn: async () => {
    const pair = openPair();
    const socket = await waitedFor(pair);
    const fd = findReactor(openLibc(), pair.otherFd, pair.fd);
    assert(fd !== null);
    assertEquals(
      await Deno.readLink(`/proc/self/fd/${fd}`),
      "anon_inode:[eventpoll]",
    );
    await leave(socket, pair);
  },
});

Deno.test({
  name: "findReactor() is null where nobody waits for the socket",
  ignore,
  fn: () => {
    const libc = openLibc();
    const pair = openPair();
    assertEquals(findReactor(libc, pair.otherFd, pair.fd), null);
    pair.close();
    libc.close(pair.otherFd);
  },
});

Deno.test({
  name: "findReactor() tells the event loops of Workers apart",
  ignore,
  fn: async () => {
    const url = (path: string) => new URL(path, import.meta.url).href;
    const source = `
      import { Socket } from "node:net";
      import { openLibc } from "${url("../../ffi/libc.ts")}";
      import { findReactor } from "${url("../../ffi/reactor.ts")}";
      import { SocketPair } from "${url("../../ffi/socket_pair.ts")}";
      const pair = SocketPair.open(openLibc());
      const socket = new Socket({ fd: pair.otherFd, readable: true });
      socket.once("data", () => setTimeout(() => {
        postMessage(findReactor(openLibc(), pair.otherFd, pair.fd));
        socket.destroy();
        pair.close();
      }, 1));
      pair.send();
    `;
    const worker = new Worker(
      `data:application/javascript,${encodeURIComponent(source)}`,
      { type: "module" },
    );
    const theirs = await new Promise<unknown>((resolve, reject) => {
      worker.onmessage = ({ data }) => resolve(data);
      worker.onerror = (event) => reject(new Error(event.message));
    });
    const pair = openPair();
    const socket = await waitedFor(pair);
    const ours = findReactor(openLibc(), pair.otherFd, pair.fd);
    worker.terminate();
    await leave(socket, pair);
    assert(typeof theirs === "number", `the Worker found ${theirs}`);
    assertNotEquals(ours, theirs);
  },
});
