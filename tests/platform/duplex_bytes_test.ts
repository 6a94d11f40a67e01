import { assertEquals } from "@std/assert";
import { PassThrough } from "node:stream";
import { DuplexBytes } from "../../src/platform/duplex_bytes.ts";

Deno.test("DuplexBytes reads nothing into memory that was detached, and loses nothing", async () => {
  const stream = new PassThrough();
  const bytes = new DuplexBytes(stream);
  const gone = new Uint8Array(8);
  const read = bytes.read(gone);
  gone.buffer.transfer();
  stream.write(new Uint8Array([1, 2, 3]));
  assertEquals(await read, 0);
  const memory = new Uint8Array(2);
  assertEquals(await bytes.read(memory), 2);
  assertEquals(memory, new Uint8Array([1, 2]));
  assertEquals(await bytes.read(memory), 1);
  bytes.close();
});
