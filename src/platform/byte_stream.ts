/**
 * What an NBD server and its client need of a socket.
 *
 * On Deno its own sockets are used, not `node:net`: they read into and write from
 * memory that the caller has, in whatever size, and nothing is read that nobody
 * asked for, which is all that backpressure takes. `node:net` makes a buffer of
 * its own for each read. A stub server that only moves bytes gave, with
 * `fio --ioengine=nbd` over a Unix socket on two cores (Deno 2.9, medians of
 * two on a busy machine; nbdkit's memory plugin in the same rounds, for scale):
 *
 * | | Deno.Conn | node:net | nbdkit |
 * | --- | --- | --- | --- |
 * | 4 KiB random read, depth 1 | 38k/s | 30k/s | 23k/s |
 * | 4 KiB random read, depth 32 | 70k/s | 69k/s | 51k/s |
 * | 4 KiB random write, depth 32 | 64k/s | 68k/s | 49k/s |
 * | 256 KiB write, depth 8 | 3,060 MiB/s | 530 MiB/s | 1,490 MiB/s |
 *
 * recv(2) and send(2) by FFI on the descriptors of Deno's sockets, tried first
 * and Deno's own calls where they would wait, make no difference: 0.92 to 0.97 of
 * the processor time of a server for writes of 256 KiB, 1.0 to 1.2 for reads of
 * 4 KiB, depth 32.
 *
 * @module
 */

/** What is needed of a socket; a `Deno.Conn` is one. */
export interface ByteStream {
  /**
   * Reads what there is.
   *
   * @param target Where to.
   * @returns Bytes read; `null` at the end.
   */
  read(target: Uint8Array): Promise<number | null>;
  /**
   * Writes what fits.
   *
   * @param source The bytes.
   * @returns Bytes written.
   */
  write(source: Uint8Array): Promise<number>;
  /** Gives it up, with whatever is in flight. */
  close(): void;
}
