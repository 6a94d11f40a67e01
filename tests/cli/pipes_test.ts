/**
 * Pipes with names that nobody opens at their other end: Ctrl-C ends the wait.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { MemoryBackend } from "../../src/backends/memory.ts";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { trace } from "../../src/layers/trace.ts";
import { needs, pause, run } from "../helpers.ts";
import { exists, platter, Scratch } from "./harness.ts";

/** A verb that waits for the other end of a pipe. */
interface Case {
  readonly name: string;
  readonly args: (image: string, pipe: string, other: string) => string[];
  /** What it does with the pipe. */
  readonly opensFor: "reading" | "writing";
}

const CASES: readonly Case[] = [
  {
    name: "copy --bmap",
    args: (image, pipe, other) => ["copy", image, other, "--bmap", pipe],
    opensFor: "reading",
  },
  {
    name: "copy --rescue",
    args: (image, pipe, other) => ["copy", image, other, "--rescue", pipe],
    opensFor: "reading",
  },
  {
    name: "write",
    args: (image, pipe) => ["write", image, pipe, "--sector", "0"],
    opensFor: "reading",
  },
  {
    name: "heat",
    args: (_image, pipe) => ["heat", pipe],
    opensFor: "reading",
  },
  {
    name: "read --output",
    args: (image, pipe) => ["read", image, "--output", pipe],
    opensFor: "writing",
  },
  {
    name: "bmap --output",
    args: (image, pipe) => ["bmap", image, "--output", pipe, "--force"],
    opensFor: "writing",
  },
  {
    name: "heat --output",
    args: (image, pipe) => ["heat", `${image}.trace`, "-o", pipe, "--force"],
    opensFor: "writing",
  },
];

for (const { name, args, opensFor } of CASES) {
  Deno.test(
    `platter ${name} stops while nobody is at the other end of a pipe`,
    needs("mkfifo", "dd"),
    async () => {
      await using scratch = await Scratch.make();
      const image = await scratch.image("disk.img", 4096);
      const [pipe, other] = [scratch.of("pipe"), scratch.of("other.img")];
      await run("mkfifo", [pipe]);
      await using disk = VirtualDisk.over(
        trace(new MemoryBackend({ sectors: 8 }), (line) => {
          Deno.writeTextFileSync(`${image}.trace`, `${line}\n`);
        }),
      );
      assertEquals(disk.sectors, 8);
      for (let ms = 20;; ms *= 2) {
        const { code, out } = await platter(args(image, pipe, other), {
          onListening: (interrupt) => setTimeout(interrupt, ms),
        });
        assertEquals([code, out], [130, ""]);
        // It may have been interrupted before it came to the pipe.
        if (await meets(pipe, opensFor)) break;
        assert(ms < 60_000);
      }
      // What waits for the other end would do so until there is one. It closes the
      // pipe then, and nobody is there any more.
      for (let i = 0; await meets(pipe, opensFor); i++) {
        assert(i < 1000);
        await pause(10);
      }
      assertEquals(await exists(other), false);
    },
  );
}

/**
 * Opens the other end for a moment, and says whether anybody had this one open or
 * waited for that.
 */
async function meets(
  pipe: string,
  opensFor: Case["opensFor"],
): Promise<boolean> {
  const isReader = opensFor === "reading";
  const { success } = await new Deno.Command("dd", {
    args: isReader
      ? ["if=/dev/null", `of=${pipe}`, "oflag=nonblock", "conv=notrunc,nocreat"]
      : [`if=${pipe}`, "of=/dev/null", "iflag=nonblock"],
    stderr: "null",
  }).output();
  // Without a reader it cannot be opened for writing (ENXIO); without a writer it
  // is read to its end, and else there is nothing yet (EAGAIN): fifo(7).
  return isReader ? success : !success;
}
