import { assertEquals } from "@std/assert";
import {
  failedError,
  openError,
  timeoutError,
} from "../../../src/backends/rbd/errors.ts";
import { readRequest, writeRequest } from "../../../src/request.ts";

const URI = "rbd:pool/img";

Deno.test("failedError() says what librbd's numbers mean to a disk", () => {
  const request = writeRequest(8, new Uint8Array(1024));
  const found = [-5, -28, -108, -30, -22, -9999].map((result) => {
    const { kind, code, message } = failedError(request, result, URI);
    return [kind, code, message.slice(message.indexOf(" as ") + 4)];
  });
  assertEquals(found, [
    ["io", "EIO", "the cluster says EIO: Input/output error"],
    ["no-space", "ENOSPC", "the cluster says ENOSPC: No space left on device"],
    [
      "io",
      "ESHUTDOWN",
      "the cluster says ESHUTDOWN: the cluster has shut this client out (it is on its block list): another one has broken its lock, open the disk anew",
    ],
    ["read-only", "EROFS", "the cluster says EROFS: Read-only file system"],
    [
      "io",
      undefined,
      "the image ends before the disk does: it was cut while open",
    ],
    ["io", "errno 9999", "the cluster says errno 9999"],
  ]);
});

Deno.test("timeoutError() says that a request may still be carried out", () => {
  const error = timeoutError(readRequest(8, new Uint8Array(512)), 1500, URI);
  assertEquals([error.kind, error.code, error.sector], ["io", "ETIMEDOUT", 8]);
  // So the queue tells it from what a device says.
  assertEquals(error.errno, undefined);
  const { message } = error;
  assertEquals(
    message,
    `Cannot read 1 sector at sector 8 of "${URI}" as the cluster has not answered for 1500 ms; it may still carry it out`,
  );
});

Deno.test("openError() has the number, its name and its kind", () => {
  const { kind, code, errno, message } = openError(URI, "it is gone", -2);
  assertEquals([kind, code, errno], ["not-found", "ENOENT", 2]);
  assertEquals(message, 'Cannot open "rbd:pool/img" as it is gone');
});
