import { assertEquals } from "@std/assert";
import { VirtualDisk } from "../../../src/disk/disk.ts";
import {
  ControlDisk,
  speaker,
} from "../../../src/crash/guests/control_disk.ts";

/** The first sector that dd writes to, by its own words. */
function sectorOf(command: string): number {
  const [, bytes, blocks] = /bs=(\d+) seek=(\d+)/.exec(command)!;
  return Number(bytes) * Number(blocks) / 512;
}

/** A block as dd pads it. */
function padded(text: string): Uint8Array<ArrayBuffer> {
  const block = new Uint8Array(4096);
  block.set(new TextEncoder().encode(text));
  return block;
}

Deno.test("ControlDisk tells what is written, by stream and without padding", async () => {
  const control = new ControlDisk();
  await using disk = VirtualDisk.over(control);
  const heard: [string, string][] = [];
  control.listener = (channel, bytes) =>
    heard.push([channel, new TextDecoder().decode(bytes)]);
  for (const channel of ["ack", "output", "errors"] as const) {
    const sector = sectorOf(speaker("/dev/vda", channel));
    await disk.write(sector, padded(`${channel} one\nand`));
    // Two blocks that the kernel has merged.
    const both = new Uint8Array(8192);
    both.set(padded(" two\n"));
    both.set(padded("three\0four"), 4096);
    await disk.write(sector + 8, both);
  }
  assertEquals(
    heard,
    ["ack", "output", "errors"].flatMap((channel) =>
      [
        [channel, `${channel} one\nand`],
        [channel, " two\n"],
        [channel, "three\0four"],
      ] as [string, string][]
    ),
  );
});

Deno.test("ControlDisk keeps nothing, and takes writes that nobody listens to", async () => {
  await using disk = VirtualDisk.over(new ControlDisk());
  await disk.write(0, padded("lost"));
  await disk.flush();
  assertEquals(await disk.read(0, 8), new Uint8Array(4096));
  // A kernel looks for partitions at the end as well.
  assertEquals(await disk.read(disk.sectors - 1, 1), new Uint8Array(512));
});
