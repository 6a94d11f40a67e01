import { assert, assertEquals, assertMatch } from "@std/assert";
import { platter, Scratch } from "./harness.ts";

Deno.test("platter doctor says what there is, and what would mend a lack", async () => {
  await using scratch = await Scratch.make();
  const { code, out, err } = await platter(["doctor", scratch.path]);
  assertEquals([code, err], [0, ""]);
  assertMatch(out, /^Platter \S+ on Deno \S+, /);
  for (const name of ["scratch file", "engine", "flush", "lock", "Programs"]) {
    assert(out.includes(name), name);
  }
  for (const line of out.split("\n")) {
    // A path is not broken.
    assert(line.length <= 80 || line.includes(scratch.path), line);
  }
  assertEquals(await Array.fromAsync(Deno.readDir(scratch.path)), []);
  const missing = await platter(["doctor", scratch.of("none")]);
  assertEquals([missing.code, missing.out], [2, ""]);
  assertMatch(missing.err, /no such file or directory/);
});

Deno.test("platter doctor --json prints the form that docs/doctor.md has", async () => {
  await using scratch = await Scratch.make();
  const { code, out } = await platter(["doctor", scratch.path, "--json"]);
  assertEquals(code, 0);
  const found = JSON.parse(out);
  const page = await Deno.readTextFile(
    new URL("../../docs/doctor.md", import.meta.url),
  );
  const documented = (keys: string[]) =>
    keys.filter((key) => !page.includes(`\`${key}\``));
  assertEquals(documented(Object.keys(found)), []);
  assertEquals(documented(Object.keys(found.findings)), []);
  assertEquals(documented(Object.keys(found.findings.engine)), []);
  assertEquals(documented(Object.keys(found.tools?.[0] ?? {})), []);
});

Deno.test("platter doctor that is interrupted removes what it made", async () => {
  await using scratch = await Scratch.make();
  const { code, out } = await platter(["doctor", scratch.path], {
    onListening: (interrupt) => setTimeout(interrupt, 0),
  });
  assertEquals([code, out], [130, ""]);
  assertEquals(await Array.fromAsync(Deno.readDir(scratch.path)), []);
});
