/** @module */

import {
  fixtureImage,
  memoryImage,
  temporaryImage,
} from "@platter/disk/testing";
import { assert, assertEquals, assertRejects } from "@std/assert";
import { tempDir } from "../helpers.ts";

async function names(path: string): Promise<string[]> {
  return (await Array.fromAsync(Deno.readDir(path))).map(({ name }) => name);
}

const CONTENT = new Uint8Array(4 * 512).map((_, i) => i % 251);

Deno.test("memoryImage() keeps its content when it is opened again", async () => {
  await using image = await memoryImage({ sectors: 8, content: CONTENT });
  await image.disk.write(7, new Uint8Array(512).fill(9));
  const before = image.disk;
  await image.reopen();
  assert(image.disk !== before);
  await assertRejects(() => before.read(0, 1), Error, "closed");
  assertEquals(await image.disk.read(0, 4), CONTENT);
  assertEquals((await image.disk.read(7, 1))[0], 9);
});

Deno.test("temporaryImage() leaves nothing behind", async () => {
  await using dir = await tempDir();
  {
    await using image = await temporaryImage({
      dir: dir.path,
      content: CONTENT,
    });
    assertEquals(image.disk.sectors, 4);
    assertEquals(await image.disk.read(0, 4), CONTENT);
    assert((await Deno.stat(image.path!)).isFile);
    await image.reopen({ readOnly: true, backend: "portable" });
    assertEquals(image.disk.readOnly, true);
  }
  assertEquals(await names(dir.path), []);
  await assertRejects(() => temporaryImage({ dir: dir.path, sectors: -1 }));
  assertEquals(await names(dir.path), []);
});

Deno.test("fixtureImage() changes a copy", async () => {
  await using dir = await tempDir();
  const path = await dir.file("fixture.img", CONTENT);
  {
    await using image = await fixtureImage(path, { dir: dir.path });
    assertEquals(await image.disk.read(0, 4), CONTENT);
    await image.disk.write(0, new Uint8Array(512));
    await image.disk.flush();
  }
  assertEquals(await Deno.readFile(path), CONTENT);
  assertEquals(await names(dir.path), ["fixture.img"]);
});
