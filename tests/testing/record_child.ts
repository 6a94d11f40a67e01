/**
 * Records into a file until it is killed: prints each number a turn of the event
 * loop after it acknowledged it.
 *
 * @module
 */

import { VirtualDisk } from "../../mod.ts";
import { CrashRecorder } from "../../src/testing/mod.ts";

const recorder = await CrashRecorder.create({
  device: { sectors: 1024 },
  path: Deno.args[0]!,
});
const disk = VirtualDisk.over(recorder.open());
for (let i = 1;; i++) {
  await disk.write(i % 1024, new Uint8Array(512).fill(i));
  recorder.acknowledge(i);
  await new Promise((resolve) => setTimeout(resolve, 1));
  Deno.stdout.writeSync(new TextEncoder().encode(`${i}\n`));
}
