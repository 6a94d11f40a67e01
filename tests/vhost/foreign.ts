/**
 * QEMU's storage daemon as a vhost-user device: somebody else's, to try the
 * driver and the guests on.
 *
 * @module
 */

import { pause } from "../helpers.ts";

/** How long it may take to listen, in ms. */
const START_MS = 60_000;

/** A device that is served. */
export interface ServedDevice extends AsyncDisposable {
  /** Its socket. */
  readonly socket: string;
}

/**
 * Serves an image by qemu-storage-daemon.
 *
 * @param image A raw image.
 * @param socket Where to.
 * @param queues How many queues it has.
 * @returns The device, once it listens.
 */
export async function foreignDevice(
  image: string,
  socket: string,
  queues = 2,
): Promise<ServedDevice> {
  const child = new Deno.Command("qemu-storage-daemon", {
    args: [
      "--blockdev",
      `file,node-name=file,filename=${image},discard=unmap`,
      "--export",
      `vhost-user-blk,id=export,node-name=file,addr.type=unix,addr.path=${socket},writable=on,num-queues=${queues}`,
    ],
    stdin: "null",
    stdout: "null",
    stderr: "piped",
  }).spawn();
  const said = new Response(child.stderr).text();
  let ended = false;
  const status = child.status.finally(() => ended = true);
  const stop = async () => {
    if (!ended) child.kill("SIGTERM");
    await status;
    await said;
  };
  for (const start = performance.now();;) {
    if (await listens(socket)) break;
    if (ended || performance.now() - start > START_MS) {
      await stop();
      throw new Error(`qemu-storage-daemon does not start: ${await said}`);
    }
    await pause(20);
  }
  return { socket, [Symbol.asyncDispose]: stop };
}

/**
 * Whether a Unix socket takes connections, which its file being there does not
 * say: __SO_ACCEPTCON in /proc/net/unix (net/unix/af_unix.c).
 */
async function listens(path: string): Promise<boolean> {
  // Num, RefCount, Protocol, Flags, Type, St, Inode, Path.
  return (await Deno.readTextFile("/proc/net/unix")).split("\n").some((line) =>
    line.endsWith(` ${path}`) && line.split(/ +/)[3] === "00010000"
  );
}
