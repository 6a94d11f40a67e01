import { assertEquals, assertRejects } from "@std/assert";
import { replaceFile } from "../../src/backends/replace_file.ts";

/** The names in a folder, and what is in the files. */
async function contentsOf(folder: string): Promise<Record<string, string>> {
  const found: Record<string, string> = {};
  for await (const { name, isFile } of Deno.readDir(folder)) {
    if (isFile) found[name] = await Deno.readTextFile(`${folder}/${name}`);
  }
  return found;
}

Deno.test("replaceFile() makes a file, replaces it, and follows a link", async () => {
  const folder = await Deno.makeTempDir();
  try {
    await replaceFile(`${folder}/a`, "one", { durable: true });
    assertEquals(await contentsOf(folder), { a: "one" });
    await Deno.symlink(`${folder}/a`, `${folder}/link`);
    await replaceFile(`${folder}/link`, "two");
    assertEquals(await contentsOf(folder), { a: "two" });
    assertEquals(await Deno.readLink(`${folder}/link`), `${folder}/a`);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("replaceFile() leaves the old file, and nothing beside it, if a check throws or it has no folder", async () => {
  const folder = await Deno.makeTempDir();
  try {
    await Deno.writeTextFile(`${folder}/a`, "old");
    await assertRejects(
      () =>
        replaceFile(`${folder}/a`, "new", {
          check: ({ size }) => Promise.reject(new Error(`no, of ${size}`)),
        }),
      Error,
      "no, of 3",
    );
    await assertRejects(
      () => replaceFile(`${folder}/none/a`, "new"),
      Deno.errors.NotFound,
    );
    assertEquals(await contentsOf(folder), { a: "old" });
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
