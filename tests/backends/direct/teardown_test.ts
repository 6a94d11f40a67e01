/**
 * How it ends: closed, terminated or forgotten with requests in flight, the
 * kernel never writes where it must not, and nothing is left behind.
 *
 * @module
 */

import { assert, assertEquals, assertLess, assertMatch } from "@std/assert";
import { VirtualDisk } from "../../../src/disk/disk.ts";
import type { DiskError } from "../../../src/errors.ts";
import { Random } from "../../../src/random.ts";
import { LONG, needs, tempDir } from "../../helpers.ts";
import {
  ASYNC_ENGINES,
  ENGINES,
  hasEngine,
  pause,
  program,
  SERVED_TOOLS,
  slowFile,
} from "./harness.ts";

const MIB = 1_048_576;
const SLOW_MS = 200;

/** Disks that are opened and closed, to see what stays. */
const ROUNDS = 24;

for (const engine of ENGINES) {
  Deno.test({
    name: `${engine} is closed once what is in flight has been answered`,
    ignore: !hasEngine(engine) || needs(...SERVED_TOOLS).ignore,
    async fn() {
      const content = new Random(1).bytes(MIB);
      await using file = await slowFile(content, 60);
      const disk = await VirtualDisk.open(file.path, {
        backend: "direct",
        engine,
        queueSize: 8,
      });
      let answered = 0;
      const reads = Array.from({ length: 20 }, async (_, i) => {
        const bytes = await disk.read(i * 64, 8);
        answered++;
        return bytes;
      });
      const write = disk.write(2000, disk.allocate(8).fill(3));
      await pause(10);
      const closing = disk.close();
      const late = disk.read(0, 8).catch((error) => error);
      await Promise.all([closing, disk.close()]);
      assertEquals(answered, 20);
      await write;
      assertEquals((await late as DiskError).kind, "closed");
      for (const [i, read] of reads.entries()) {
        const at = i * 64 * 512;
        assertEquals(await read, content.slice(at, at + 4096));
      }
      const now = await Deno.readFile(file.behind);
      assertEquals(now[2000 * 512 + 4095], 3);
    },
  });

  Deno.test({
    name: `${engine} leaves no descriptor and no mapping behind`,
    ignore: !hasEngine(engine),
    async fn() {
      await using dir = await tempDir();
      const path = await dir.file("disk.img", new Random(1).bytes(MIB));
      // A program of its own: what other tests left comes and goes.
      const grown = await program<Record<string, number>>(
        `
        const count = () => {
          const found = { image: 0, engine: 0, mappings: 0, sockets: 0 };
          for (const { name } of Deno.readDirSync("/proc/self/fd")) {
            let link = "";
            try {
              link = Deno.readLinkSync("/proc/self/fd/" + name);
            } catch {
              // The listing's own.
            }
            if (link === path) found.image++;
            else if (/io_uring|eventfd/.test(link)) found.engine++;
            else if (/^socket:/.test(link)) found.sockets++;
          }
          found.mappings = Deno.readTextFileSync("/proc/self/maps").split("\\n")
            .filter((line) => /io_uring|aio/.test(line)).length;
          return found;
        };
        const once = async (waits) => {
          const disk = await VirtualDisk.open(path, {
            backend: "direct", engine: ${JSON.stringify(engine)}, queueSize: 16,
          });
          const all = Array.from({ length: 40 }, (_, i) => disk.read(i * 8, 8));
          // Some are closed while much is in flight, some while nothing is.
          if (waits) await Promise.all(all);
          await disk.close();
          await Promise.all(all);
        };
        await once(true);
        await once(false);
        const before = count();
        for (let i = 0; i < ${ROUNDS}; i++) await once(i % 2 === 0);
        const after = count();
        return Object.fromEntries(
          Object.keys(after).map((name) => [name, after[name] - before[name]]));
        `,
        { args: [path] },
      );
      // Each round would leave one at least, or every other. A ring goes away a
      // little after it is closed, and the runtime has sockets and events of its
      // own now and then.
      for (const [name, more] of Object.entries(grown)) {
        assertLess(more, ROUNDS / 4, name);
      }
      assertEquals(grown.image, 0);
    },
  });

  Deno.test({
    name: `${engine} moves the bytes of promises that nobody kept`,
    ignore: !hasEngine(engine) || !LONG && engine !== "io_uring" ||
      needs(...SERVED_TOOLS).ignore,
    async fn() {
      const content = new Random(7).bytes(MIB);
      await using file = await slowFile(content, 60);
      const found = await program<{ wrong: number; read: number[] }>(
        `
        const disk = await VirtualDisk.open(path, {
          backend: "direct", engine: ${JSON.stringify(engine)},
        });
        const junk = [];
        const press = async (times) => {
          for (let i = 0; i < times; i++) {
            globalThis.gc();
            // The next owner of the memory must keep its content.
            for (let k = 0; k < 40; k++) {
              junk.push(new Uint8Array(8191).fill(0xaa), disk.allocate(8).fill(0xaa));
            }
            await pause(5);
          }
        };
        // Nothing but the disk knows of these.
        const forget = (round) => {
          for (let i = 0; i < 6; i++) {
            disk.write(i * 64, disk.allocate(8).fill(round * 16 + i + 1));
            disk.write(512 + i * 64, disk.allocate(4).fill(round * 16 + i + 1));
            disk.write(
              1024 + i * 64, new Uint8Array(4097).fill(round * 16 + i + 1).subarray(1));
            disk.read(i * 64 + 8, 8);
            disk.readInto(i * 64 + 16, disk.allocate(8));
          }
        };
        const read = [];
        for (let round = 0; round < 2; round++) {
          forget(round);
          await press(12);
          await disk.flush();
          await press(2);
          for (let i = 0; i < 6; i++) {
            for (const at of [0, 512, 1024]) {
              const bytes = await disk.read(at + i * 64, 4);
              const value = round * 16 + i + 1;
              read.push(bytes.every((byte) => byte === value) ? 1 : 0);
            }
          }
        }
        await disk.close();
        const wrong = junk.filter((bytes) => bytes.some((byte) => byte !== 0xaa));
        return { wrong: wrong.length, read };
        `,
        { args: [file.path], flags: ["--v8-flags=--expose-gc"] },
      );
      assertEquals(found.wrong, 0);
      assertEquals(found.read, found.read.map(() => 1));
    },
  });
}

for (const engine of ASYNC_ENGINES) {
  Deno.test({
    name: `${engine} ends with a program that waits for nothing in flight`,
    ignore: !hasEngine(engine) || needs(...SERVED_TOOLS).ignore,
    async fn() {
      await using file = await slowFile(new Random(1).bytes(MIB), SLOW_MS);
      // Neither awaited nor closed: the program ends, and so do its requests.
      const result = await program(
        `
        const disk = await VirtualDisk.open(path, {
          backend: "direct", engine: ${JSON.stringify(engine)},
        });
        for (let i = 0; i < 16; i++) disk.readInto(i * 64, disk.allocate(8));
        disk.write(1600, disk.allocate(8).fill(9));
        await pause(20);
        return "ended";
        `,
        { args: [file.path] },
      );
      assertEquals(result, "ended");
      const content = await Deno.readFile(file.behind);
      const [first] = content.subarray(1600 * 512);
      const written = content.subarray(1600 * 512, 1608 * 512);
      assert(written.every((byte) => byte === 9) || first !== 9);
    },
  });

  for (const how of ["terminated", "closed by itself"]) {
    Deno.test({
      name: `${engine} harms nobody when its Worker is ${how}`,
      ignore: !hasEngine(engine) || !LONG && engine !== "io_uring" ||
        needs(...SERVED_TOOLS).ignore,
      async fn() {
        const content = new Random(2).bytes(MIB);
        await using file = await slowFile(content, SLOW_MS);
        // A program of its own: what a Worker leaves behind stays until the end.
        const found = await program<{
          rounds: number;
          wrong: number;
          byte: number;
          grown: number;
        }>(
          `
          const source = ${
            JSON.stringify(`
            import { VirtualDisk } from ${
              JSON.stringify(import.meta.resolve("../../../mod.ts"))
            };
            const disk = await VirtualDisk.open(PATH, {
              backend: "direct", engine: ${
              JSON.stringify(engine)
            }, lock: "none",
            });
            // Lent memory, memory of others' making, and new memory.
            for (let i = 0; i < 32; i++) {
              if (i % 3 === 0) disk.readInto(i * 32, disk.allocate(8));
              else if (i % 3 === 1) disk.readInto(i * 32, new Uint8Array(4096));
              else disk.read(i * 32, 24);
            }
            disk.write(1800, disk.allocate(8).fill(9));
            setTimeout(() => postMessage("in flight"), 30);
            ${how === "terminated" ? "" : "setTimeout(() => close(), 60);"}
          `)
          }.replace("PATH", JSON.stringify(path));
          const { memoryUsage } = await import("node:process");
          let wrong = 0;
          let first = 0;
          const rounds = 3;
          for (let round = 0; round < rounds; round++) {
            const url = URL.createObjectURL(
              new Blob([source], { type: "text/javascript" }));
            const worker = new Worker(url, { type: "module" });
            await new Promise((resolve, reject) => {
              worker.onmessage = resolve;
              worker.onerror = reject;
            });
            ${how === "terminated" ? "worker.terminate();" : "await pause(60);"}
            // The Worker's memory goes to others while the disk still answers.
            const others = [];
            for (let i = 0; i < 16; i++) {
              for (let k = 0; k < 40; k++) {
                others.push(
                  new Uint8Array(4096).fill(0xaa),
                  new Uint8Array(12_288).fill(0xaa),
                );
              }
              await pause(20);
            }
            wrong += others.filter((bytes) =>
              bytes.some((byte) => byte !== 0xaa)).length;
            if (round === 0) first = memoryUsage().rss;
          }
          const grown = memoryUsage().rss - first;
          // Life goes on, with the same image.
          const disk = await VirtualDisk.open(path, {
            backend: "direct", engine: ${JSON.stringify(engine)}, lock: "none",
          });
          const all = await Promise.all(
            Array.from({ length: 16 }, (_, i) => disk.read(i * 64, 8)));
          await disk.close();
          return { rounds, wrong, byte: all[0][0], grown };
          `,
          { args: [file.path] },
        );
        assertEquals([found.rounds, found.wrong], [3, 0]);
        assertEquals(found.byte, content[0]);
        console.log(
          `${engine}, ${how}: ${
            Math.round(found.grown / MIB)
          } MiB more after 2 Workers`,
        );
        assertLess(found.grown, 256 * MIB);
      },
    });
  }

  Deno.test({
    name: `${engine} lets go of the image when its Worker is terminated`,
    ignore: !hasEngine(engine),
    async fn() {
      await using dir = await tempDir();
      const path = await dir.file("disk.img", new Random(2).bytes(MIB));
      const found = await program<{ locked: string | null; later: unknown }>(
        `
        const source = ${
          JSON.stringify(`
          import { VirtualDisk } from ${
            JSON.stringify(import.meta.resolve("../../../mod.ts"))
          };
          const disk = await VirtualDisk.open(PATH, {
            backend: "direct", engine: ${JSON.stringify(engine)},
          });
          await disk.read(0, 8);
          postMessage("open");
        `)
        }.replace("PATH", JSON.stringify(path));
        const url = URL.createObjectURL(
          new Blob([source], { type: "text/javascript" }));
        const worker = new Worker(url, { type: "module" });
        await new Promise((resolve, reject) => {
          worker.onmessage = resolve;
          worker.onerror = reject;
        });
        const open = () => VirtualDisk.open(path, {
          backend: "direct", engine: ${JSON.stringify(engine)},
        }).then((disk) => disk.close());
        const locked = await attempt(open());
        worker.terminate();
        let later = null;
        // Deno ends it when it gets to it.
        for (let i = 0; i < 3000; i++) {
          await pause(20);
          later = await attempt(open());
          if (later === null) break;
        }
        return { locked: locked?.kind ?? null, later };
        `,
        { args: [path] },
      );
      assertEquals(found, { locked: "locked", later: null });
    },
  });
}

for (const engine of ENGINES) {
  Deno.test({
    name: `${engine} goes on when FFI is given up with the disk open`,
    ignore: !hasEngine(engine) || needs(...SERVED_TOOLS).ignore,
    async fn() {
      await using file = await slowFile(new Uint8Array(MIB).fill(7), 100);
      const found = await program<unknown[]>(
        `
        const disk = await VirtualDisk.open(path, {
          backend: "direct", engine: ${JSON.stringify(engine)},
        });
        const lent = disk.allocate(8);
        const other = disk.allocate(8).fill(9);
        await Deno.permissions.revoke({ name: "ffi" });
        const all = [
          await attempt(disk.readInto(64, lent)),
          await attempt(disk.write(128, other)),
          lent[4095],
        ];
        // There is no memory to copy through now; nothing else suffers.
        const errors = await Promise.all([
          attempt(disk.readInto(0, lent)),
          attempt(disk.read(8, 8)),
          attempt(disk.read(1024, 1024)),
          attempt(disk.readInto(128, other)),
        ]);
        all.push(...errors.map((error) => error?.kind ?? null), other[0]);
        for (let i = 0; i < 20; i++) {
          all[8] = (await attempt(disk.read(i * 64, 64)))?.kind;
        }
        await disk.close();
        return all;
        `,
        { args: [file.path] },
      );
      assertEquals(
        found,
        [null, null, 7, null, "io", "io", null, 9, "io"],
      );
      const content = await Deno.readFile(file.behind);
      assertEquals(content[128 * 512], 9);
    },
  });
}

Deno.test({
  name: "openDirect() refuses an option before there is a ring",
  ignore: !hasEngine("io_uring"),
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", new Random(1).bytes(MIB));
    const found = await program<unknown>(
      `
      const rings = () =>
        Array.from(Deno.readDirSync("/proc/self/fd"), ({ name }) => {
          try {
            return Deno.readLinkSync("/proc/self/fd/" + name);
          } catch {
            return "";
          }
        }).filter((link) => /io_uring/.test(link) || link === path).length;
      const before = rings();
      const said = [];
      for (const options of [{ id: "größe" }, { blockSize: 513 }]) {
        said.push((await attempt(openWith(path, "io_uring", 8, options))).message);
      }
      return [said, rings() - before];
      `,
      { args: [path] },
    );
    assertMatch(
      String(found),
      /^RangeError: Cannot use an identity .*RangeError: .*513,0$/,
    );
  },
});

Deno.test({
  name:
    "VirtualDisk.close() leaves no ring where disks are opened side by side",
  ignore: !hasEngine("io_uring") || !hasEngine("libaio"),
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", new Random(1).bytes(MIB));
    // A program of its own: what other tests left comes and goes.
    const found = await program<Record<string, unknown>>(
      `
      const links = () =>
        Array.from(Deno.readDirSync("/proc/self/fd"), ({ name }) => {
          try {
            return Deno.readLinkSync("/proc/self/fd/" + name);
          } catch {
            return "";
          }
        });
      const rings = () => links().filter((link) => /io_uring/.test(link)).length;
      const images = () => links().filter((link) => link === path).length;
      const before = rings();
      const disks = await Promise.all(Array.from({ length: 12 }, (_, i) =>
        VirtualDisk.open(path, {
          backend: "direct",
          engine: ["io_uring", "libaio"][i % 2],
          readOnly: true,
        })));
      const open = [rings() - before, images()];
      const all = await Promise.all(
        disks.flatMap((disk) => [disk.read(0, 8), disk.read(64, 8)]));
      await Promise.all(disks.map((disk) => disk.close()));
      // A ring goes away a little after it is closed.
      for (let i = 0; i < 500 && rings() > before; i++) await pause(10);
      return {
        open,
        whole: all.every((bytes) => bytes.length === 4096),
        closed: [rings() - before, images()],
      };
      `,
      { args: [path] },
    );
    // Each disk has a descriptor, and a file by which a leak is seen.
    assertEquals(found, { open: [6, 24], whole: true, closed: [0, 0] });
  },
});
