/**
 * Records into a file that may not grow above 256 KiB, and prints the kinds of the
 * errors: of a write, and of the end.
 *
 * @module
 */

import { DiskError, VirtualDisk } from "../../mod.ts";
import { CrashRecorder, Random } from "../../src/testing/mod.ts";

const kindOf = (error: unknown) =>
  error instanceof DiskError ? error.kind : `${error}`;

// What the runtime keeps of modules is written by then.
await new Deno.Command("prlimit", {
  args: ["--pid", String(Deno.pid), "--fsize=262144"],
}).output();

await using recorder = await CrashRecorder.create({
  device: { sectors: 65_536 },
  path: Deno.args[0]!,
});
const disk = VirtualDisk.over(recorder.open());
const random = new Random(1);
let failed = "none";
for (let i = 0; i < 1000 && failed === "none"; i++) {
  await disk.write(i * 16, random.bytes(8192)).catch((error) => {
    failed = kindOf(error);
  });
  // A turn, at the end of which records are written.
  await new Promise((resolve) => setTimeout(resolve, 0));
}
const end = await recorder.end().then(() => "none", kindOf);
console.log(failed, end);
