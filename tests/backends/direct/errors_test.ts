/**
 * One request of many fails: the one whose blocks are bad and no other,
 * whichever engine carries them out, and whether they travel together or not.
 *
 * @module
 */

import { assert, assertEquals, assertInstanceOf } from "@std/assert";
import { VirtualDisk } from "../../../src/disk/disk.ts";
import { DiskError } from "../../../src/errors.ts";
import { Random } from "../../../src/random.ts";
import { readRequest, writeRequest } from "../../../src/request.ts";
import { submitAll } from "../../contract.ts";
import { needs, tempDir } from "../../helpers.ts";
import {
  ENGINES,
  failingFile,
  hasEngine,
  openWith,
  program,
  SERVED_TOOLS,
} from "./harness.ts";

const MIB = 1_048_576;
const EIO = 5;

/** Requests at once. */
const COUNT = 64;

/** What each of some promises came to: a value, or an error. */
async function outcomes<T>(promises: Promise<T>[]): Promise<(T | DiskError)[]> {
  const settled = await Promise.allSettled(promises);
  return settled.map((one) => {
    if (one.status === "fulfilled") return one.value;
    assertInstanceOf(one.reason, DiskError);
    return one.reason;
  });
}

function assertBad(
  error: unknown,
  operation: string,
  sector: number,
  path: string,
): void {
  assertInstanceOf(error, DiskError);
  assertEquals(error.kind, "io", error.message);
  assertEquals(error.errno, EIO);
  assertEquals(error.code, "EIO");
  assertEquals(error.operation, operation);
  assertEquals([error.sector, error.count], [sector, 8]);
  assertEquals(error.path, path);
}

const SPACINGS: [string, number][] = [
  ["apart", 16],
  ["adjoining, merged", 8],
];

for (const engine of ENGINES) {
  const ignore = !hasEngine(engine) || needs(...SERVED_TOOLS).ignore;

  for (const [name, spacing] of SPACINGS) {
    for (const badIndexes of [[0], [25], [COUNT - 1], [7, 40]]) {
      const bad = badIndexes.map((index) => index * spacing * 512 + 1024);

      Deno.test({
        name: `${engine} tells reads ${badIndexes} of ${COUNT} of EIO, ${name}`,
        ignore,
        async fn() {
          const content = new Random(spacing).bytes(MIB);
          await using file = await failingFile(content, bad);
          await using disk = await VirtualDisk.open(file.path, {
            backend: "direct",
            engine,
          });
          const memory = Array.from(
            { length: COUNT },
            () => disk.allocate(8).fill(0xee),
          );
          const all = await outcomes(
            memory.map((bytes, i) => disk.readInto(i * spacing, bytes)),
          );
          all.forEach((error, i) => {
            if (badIndexes.includes(i)) {
              assertBad(error, "read", i * spacing, file.path);
            } else {
              assertEquals(error, undefined, `read ${i}`);
              const at = i * spacing * 512;
              assertEquals(memory[i]!, content.slice(at, at + 4096));
            }
          });
          assertEquals(disk.counters.errors, badIndexes.length);
          assertEquals(disk.counters.merged > 0, spacing === 8);
          // What failed once can be read once it is no longer bad, and what
          // is bad fails again.
          const [again] = await outcomes([
            disk.read(badIndexes[0]! * spacing, 8),
          ]);
          assertBad(again, "read", badIndexes[0]! * spacing, file.path);
        },
      });
    }

    Deno.test({
      name: `${engine} tells one write of ${COUNT} of EIO, ${name}`,
      ignore,
      async fn() {
        const badIndex = 33;
        const content = new Random(spacing).bytes(MIB);
        const bad = badIndex * spacing * 512;
        await using file = await failingFile(content, [bad]);
        await using disk = await VirtualDisk.open(file.path, {
          backend: "direct",
          engine,
        });
        const all = await outcomes(
          Array.from(
            { length: COUNT },
            (_, i) => disk.write(i * spacing, disk.allocate(8).fill(i + 1)),
          ),
        );
        all.forEach((error, i) => {
          if (i === badIndex) {
            assertBad(error, "write", i * spacing, file.path);
          } else {
            assertEquals(error, undefined, `write ${i}`);
            content.fill(i + 1, i * spacing * 512, i * spacing * 512 + 4096);
          }
        });
        // It was no flush that failed.
        assertEquals(disk.failure, null);
        await disk.flush();
        assertEquals(await Deno.readFile(file.behind), content);
      },
    });
  }

  Deno.test({
    name:
      `${engine} keeps the failed and the good of one batch apart, 4 at once`,
    ignore,
    async fn() {
      const content = new Random(5).bytes(MIB);
      const bad = [10, 11, 90].map((block) => block * 4096 + 4095);
      await using file = await failingFile(content, bad);
      const backend = await openWith(file.path, engine, 4);
      try {
        const random = new Random(6);
        const blocks = random.shuffle(Array.from({ length: 128 }, (_, i) => i));
        const requests = blocks.map((block) =>
          block % 2 === 0
            ? readRequest(block * 8, backend.allocate(4096))
            : writeRequest(block * 8, backend.allocate(4096).fill(block))
        );
        const errors = await submitAll(backend, requests);
        errors.forEach((error, i) => {
          const block = blocks[i]!;
          if ([10, 11, 90].includes(block)) {
            const operation = block % 2 === 0 ? "read" : "write";
            assertBad(error, operation, block * 8, file.path);
            return;
          }
          assertEquals(error, null);
          if (block % 2 === 0) {
            assertEquals(
              requests[i]!.data,
              content.slice(block * 4096, (block + 1) * 4096),
            );
          }
        });
      } finally {
        await backend.close();
      }
    },
  });
}

// Calls that the kernel does not take

const INTERRUPTIONS: [engine: string, call: string, error: string][] = [
  ["io_uring", "io_uring_enter", "EAGAIN"],
  ["io_uring", "io_uring_enter", "EBUSY"],
  ["io_uring", "io_uring_enter", "EINTR"],
  ["io_uring", "io_uring_enter", "ENOMEM"],
  ["libaio", "io_submit", "EAGAIN"],
  ["libaio", "io_submit", "EINTR"],
  ["libaio", "io_getevents", "EINTR"],
  ["libaio", "io_getevents", "EAGAIN"],
];

for (const [engine, call, error] of INTERRUPTIONS) {
  for (const depth of [4, 64]) {
    Deno.test({
      name:
        `${engine} loses nothing where every other ${call} fails with ${error}, ${depth} at once`,
      ignore: !hasEngine(engine as "io_uring") || needs("strace").ignore,
      async fn() {
        await using dir = await tempDir();
        const path = await dir.file("disk.img", new Random(1).bytes(MIB));
        const found = await program<{ wrong: unknown[]; sum: number }>(
          `
          const { readRequest, writeRequest, flushRequest } = await import(${
            JSON.stringify(import.meta.resolve("../../../src/request.ts"))
          });
          const disk = await openWith(path, ${
            JSON.stringify(engine)
          }, ${depth});
          const wrong = [];
          const submit = (requests) => new Promise((resolve) => {
            let left = requests.length;
            const seen = new Set();
            disk.submit(requests, (request, error) => {
              if (seen.has(request)) wrong.push("twice");
              seen.add(request);
              if (error !== null) wrong.push(tell(error));
              if (--left === 0) resolve();
            });
          });
          let sum = 0;
          for (let round = 0; round < 12; round++) {
            await submit([
              ...Array.from({ length: 100 }, (_, i) =>
                writeRequest(i * 16, disk.allocate(4096).fill(round * 7 + i))),
              flushRequest(),
            ]);
            const back = Array.from({ length: 100 }, () => disk.allocate(4096));
            await submit(back.map((bytes, i) => readRequest(i * 16, bytes)));
            back.forEach((bytes, i) => {
              const value = (round * 7 + i) % 256;
              if (bytes.some((byte) => byte !== value)) wrong.push([round, i]);
              sum += bytes[i];
            });
            // One by one, as well.
            for (let i = 0; i < 5; i++) {
              await submit([readRequest(i * 16, back[0])]);
              if (back[0][9] !== (round * 7 + i) % 256) wrong.push([i]);
            }
          }
          await disk.close();
          return { wrong, sum };
          `,
          { args: [path], inject: [`${call}:error=${error}:when=2+2`] },
        );
        assertEquals(found.wrong, []);
        assert(found.sum > 0);
        const content = await Deno.readFile(path);
        for (let i = 0; i < 100; i++) {
          assertEquals(content[i * 8192], (11 * 7 + i) % 256);
        }
      },
    });
  }
}
