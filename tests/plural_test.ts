import { assertEquals } from "@std/assert";
import { VirtualDisk } from "../src/disk/disk.ts";
import { plural } from "../src/plural.ts";

Deno.test("plural() agrees with its count", () => {
  assertEquals(
    [0, 1, 2, 1.5, NaN].map((count) => plural(count, "sector")),
    ["0 sectors", "1 sector", "2 sectors", "1.5 sectors", "NaN sectors"],
  );
});

Deno.test("every message agrees with a count of one", async () => {
  await using disk = VirtualDisk.memory({ sectors: 1 });
  const slice = disk.slice(0, 1);
  const works: (() => unknown)[] = [
    () => disk.read(1, 1),
    () => disk.write(1, new Uint8Array(512)),
    () => disk.discard(1, 1),
    () => disk.extents(1, 1),
    () => disk.slice(1, 1),
    () => slice.read(1, 1),
    () => disk.readable({ sector: 1, count: 1 }),
    () => VirtualDisk.memory({ sectors: 1, blockSize: 1024 }),
  ];
  for (const work of works) {
    let message = "";
    try {
      await work();
    } catch (error) {
      message = (error as Error).message;
    }
    assertEquals(/\b1 sector\b/.test(message), true, message);
    assertEquals(
      /\b1 \w+s\b/.test(message.replace("1 as", "")),
      false,
      message,
    );
  }
});

Deno.test("no message of the library writes its plurals by hand", async () => {
  // What is never one is left: sizes of blocks and of sectors.
  const constants = /\$\{[^{}]*(?:SECTOR_BYTES|lockSize|_BYTES)[^{}]*\}$/;
  const faults: string[] = [];
  const visit = async (folder: URL): Promise<void> => {
    for await (const entry of Deno.readDir(folder)) {
      const url = new URL(entry.name, folder);
      if (entry.isDirectory) await visit(new URL(`${url}/`));
      else {
        const source = await Deno.readTextFile(url);
        for (
          const [text, hole] of source.matchAll(/(\$\{[^{}]*\}) sectors\b/g)
        ) {
          if (!constants.test(hole!)) faults.push(`${entry.name}: ${text}`);
        }
      }
    }
  };
  await visit(new URL("../src/", import.meta.url));
  assertEquals(faults, []);
});
