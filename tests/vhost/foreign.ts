/**
 * QEMU's storage daemon as a vhost-user device: somebody else's, to try the
 * driver and the guests on.
 *
 * @module
 */

/** How long it may take to listen, in ms. */
const START_MS = 20_000;

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
    try {
      await Deno.lstat(socket);
      break;
    } catch {
      if (ended || performance.now() - start > START_MS) {
        await stop();
        throw new Error(`qemu-storage-daemon does not start: ${await said}`);
      }
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
  return { socket, [Symbol.asyncDispose]: stop };
}
