/**
 * What reading files asks of a process: its permissions, and that it ends.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { tempDir } from "../helpers.ts";
import { cpioOf } from "./trees.ts";

const ROOT = new URL("../../", import.meta.url);

const PROGRAM = `
import { VirtualDisk } from ${JSON.stringify(new URL("mod.ts", ROOT).href)};
import { listFiles, readFile } from ${
  JSON.stringify(new URL("src/files/mod.ts", ROOT).href)
};
const disk = await VirtualDisk.open(Deno.args[0], { readOnly: true });
console.log((await readFile(disk, "a")).length);
// Workers that sleep, as nobody takes what they have, and as they are aborted.
for await (const { path } of listFiles(disk)) {
  console.log(path);
  break;
}
try {
  await Array.fromAsync(listFiles(disk, { timeoutMs: 0.01 }));
} catch ({ kind }) {
  console.log(kind);
}
await disk.close();
`;

Deno.test("readFile() needs no permission but to read the image, and leaves nothing that runs", async () => {
  await using dir = await tempDir();
  const image = await dir.file("image", cpioOf([{ name: "a", content: "12" }]));
  const program = dir.join("program.ts");
  await Deno.writeTextFile(program, PROGRAM);
  const folder = new URL("src/files", ROOT).pathname;
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      ...["run", "--no-check", "--no-prompt"],
      ...["--config", new URL("deno.json", ROOT).pathname],
      ...[`--allow-read=${image},${folder}`, program, image],
    ],
  }).output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  assertEquals([code, text(stdout), text(stderr)], [0, "2\na\ntimeout\n", ""]);
});

Deno.test("what reads file systems is of one version wherever it is named", async () => {
  const read = (path: string) => Deno.readTextFile(new URL(path, ROOT));
  const sources = await Promise.all(
    ["seven_zip.ts", "seven_zip_worker.ts"].map((it) =>
      read(`src/files/${it}`)
    ),
  );
  const versions = [...sources.join().matchAll(/npm:7z-wasm@([\d.]+)\//g)];
  assertEquals(versions.length, 2);
  const page = (await read("docs/files.md")).replace(/\s+/g, " ");
  for (const [, version] of versions) {
    assertEquals(page.includes(`pinned to ${version}.`), true);
    const lock = JSON.parse(await read("deno.lock"));
    assertEquals(lock.specifiers[`npm:7z-wasm@${version}`], version);
  }
});
