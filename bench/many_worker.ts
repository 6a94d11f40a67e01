/**
 * A disk in a Worker of `many.ts`, which is named after its image: it reads for a
 * while whenever it is told to.
 *
 * @module
 */

/// <reference no-default-lib="true" />
/// <reference lib="deno.worker" />

import { VirtualDisk } from "@platter/disk";
import { readFor } from "./many_reads.ts";

const disk = await VirtualDisk.open(self.name, {
  readOnly: true,
  lock: "none",
});

self.onmessage = async ({ data: { depth, ms } }) =>
  self.postMessage(await readFor([disk], depth, ms));
