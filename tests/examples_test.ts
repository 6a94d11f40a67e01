/**
 * Runs the examples as their readers would: as programs of their own, with the
 * permissions that they document and no others.
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertMatch,
  assertStringIncludes,
} from "@std/assert";
import { hasTmpfs, tempDir, tmpfsDir } from "./helpers.ts";

const ROOT = new URL("../", import.meta.url);
const decoder = new TextDecoder();

/** What an example did. */
interface Ran {
  code: number;
  stdout: string;
  stderr: string;
}

/** Runs an example in a folder, which is also where it finds temporary files. */
async function run(
  cwd: string,
  name: string,
  permissions: readonly string[],
  ...args: string[]
): Promise<Ran> {
  const script = new URL(`examples/${name}.ts`, ROOT).href;
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "--no-prompt", "--quiet", ...permissions, script, ...args],
    cwd,
    env: { NO_COLOR: "1", TMPDIR: cwd, TEMP: cwd, TMP: cwd },
    stdin: "null",
  }).output();
  return {
    code,
    stdout: decoder.decode(stdout),
    stderr: decoder.decode(stderr),
  };
}

/** The permissions of `deno task demo`. */
async function demoPermissions(): Promise<string[]> {
  const config = JSON.parse(
    await Deno.readTextFile(new URL("deno.json", ROOT)),
  ) as { tasks: { demo: { command: string } } };
  return config.tasks.demo.command.split(" ").filter((word) =>
    word.startsWith("--")
  );
}

function without(permissions: string[], name: string): string[] {
  return permissions.filter((permission) => permission !== name);
}

function names(path: string): string[] {
  return Array.from(Deno.readDirSync(path), ({ name }) => name).toSorted();
}

/** Bytes that are no others' and the same each time. */
function content(byteLength: number): Uint8Array {
  const bytes = new Uint8Array(byteLength);
  for (let i = 0; i < byteLength; i++) bytes[i] = (i * 31 + (i >> 9)) & 0xff;
  return bytes;
}

const PERMISSIONS = ["--allow-read", "--allow-write", "--allow-ffi"];

Deno.test("demo verifies everything on a scratch image and removes it", async () => {
  await using dir = await tempDir();
  const ran = await run(dir.path, "demo", await demoPermissions());
  assertEquals([ran.code, ran.stderr], [0, ""]);
  assertStringIncludes(ran.stdout, "All 9 checks are right");
  assertStringIncludes(ran.stdout, "byte-identical");
  assertStringIncludes(ran.stdout, "Deno.FsFile");
  assertEquals(names(dir.path), []);
});

Deno.test("demo goes without FFI and says so", async () => {
  await using dir = await tempDir();
  const ran = await run(
    dir.path,
    "demo",
    without(await demoPermissions(), "--allow-ffi"),
    "--no-throughput",
  );
  assertEquals([ran.code, ran.stderr], [0, ""]);
  assertStringIncludes(ran.stdout, "not allowed (--allow-ffi)");
  assertStringIncludes(ran.stdout, "All 9 checks are right");
  assertEquals(names(dir.path), []);
});

Deno.test("demo only reads an image that it is given", async () => {
  await using dir = await tempDir();
  const before = content(3 * 2 ** 20 + 512);
  const path = await dir.file("disk.img", before);
  const ran = await run(
    dir.path,
    "demo",
    await demoPermissions(),
    path,
    "--no-throughput",
  );
  assertEquals([ran.code, ran.stderr], [0, ""]);
  assertStringIncludes(ran.stdout, "writing nothing");
  assertStringIncludes(ran.stdout, "All 2 checks are right");
  assertEquals(await Deno.readFile(path), before);
  assertEquals(names(dir.path), ["disk.img"]);
});

Deno.test("demo with --destructive overwrites whole MiB and no more", async () => {
  await using dir = await tempDir();
  const before = content(3 * 2 ** 20 + 512);
  const path = await dir.file("disk.img", before);
  const ran = await run(
    dir.path,
    "demo",
    await demoPermissions(),
    path,
    "--destructive",
    "--no-throughput",
  );
  assertEquals([ran.code, ran.stderr], [0, ""]);
  assertStringIncludes(ran.stdout, "All 9 checks are right");
  const after = await Deno.readFile(path);
  assert(after.subarray(0, 4096).some((byte, i) => byte !== before[i]));
  assertEquals(after.subarray(3 * 2 ** 20), before.subarray(3 * 2 ** 20));
  assertEquals(names(dir.path), ["disk.img"]);
});

Deno.test("demo refuses what it does not understand", async () => {
  await using dir = await tempDir();
  const permissions = await demoPermissions();
  const wrong = await run(dir.path, "demo", permissions, "--destructive");
  assertEquals(wrong.code, 2);
  assertStringIncludes(wrong.stderr, "Usage: deno task demo");
  const missing = await run(dir.path, "demo", permissions, "missing.img");
  assertEquals(missing.code, 1);
  assertStringIncludes(missing.stderr, 'Cannot open "missing.img"');
  assertEquals(names(dir.path), []);
});

for (const name of ["workers", "direct_io_alignment"]) {
  Deno.test(`${name} shows its usage, and says in one line what is missing`, async () => {
    await using dir = await tempDir();
    const help = await run(dir.path, name, PERMISSIONS, "--help");
    assertEquals([help.code, help.stderr], [0, ""]);
    assertStringIncludes(help.stdout, `examples/${name}.ts [`);
    const wrong = await run(dir.path, name, PERMISSIONS, "--wrong");
    assertEquals([wrong.code, wrong.stdout], [2, ""]);
    assertStringIncludes(wrong.stderr, "Usage: ");
    const missing = await run(dir.path, name, PERMISSIONS, "missing");
    assertEquals(missing.stdout, "");
    assertMatch(
      missing.stderr,
      /^Cannot .*"missing" as there is no such .*\n$/,
    );
    assertEquals(names(dir.path), []);
  });
}

Deno.test("direct_io_alignment finds every step right", async () => {
  await using dir = await tempDir();
  const ran = await run(dir.path, "direct_io_alignment", PERMISSIONS);
  assertEquals([ran.code, ran.stderr], [0, ""]);
  assertStringIncludes(ran.stdout, "Every step did what it must");
  for (const backend of ["direct", "portable", "memory"]) {
    // Where there is no direct backend, the portable one is tested alone.
    if (backend === "direct" && !ran.stdout.includes("System calls:")) continue;
    assertStringIncludes(ran.stdout, `VirtualDisk, ${backend} backend`);
  }
  assertEquals(names(dir.path), []);
});

Deno.test({
  name: "direct_io_alignment finds every step right where nothing is direct",
  ignore: !hasTmpfs(),
  async fn() {
    await using dir = await tmpfsDir();
    // Deno gives paths under /dev to programs with --allow-all alone.
    const ran = await run(dir.path, "direct_io_alignment", ["--allow-all"]);
    assertEquals([ran.code, ran.stderr], [0, ""]);
    assertStringIncludes(ran.stdout, "Every step did what it must");
    assertEquals(names(dir.path), []);
  },
});

Deno.test("direct_io_alignment leaves out what needs FFI", async () => {
  await using dir = await tempDir();
  const ran = await run(
    dir.path,
    "direct_io_alignment",
    without(PERMISSIONS, "--allow-ffi"),
  );
  assertEquals([ran.code, ran.stderr], [0, ""]);
  assertStringIncludes(ran.stdout, "are left out: FFI is not allowed");
  assertStringIncludes(ran.stdout, "Every step did what it must");
});

Deno.test("ten_lines runs, and stands in the README as it is", async () => {
  await using dir = await tempDir();
  const ran = await run(dir.path, "ten_lines", PERMISSIONS);
  assertEquals([ran.code, ran.stderr], [0, ""]);
  assertStringIncludes(ran.stdout, "8192 bytes read, direct I/O: ");
  const code = await Deno.readTextFile(
    new URL("examples/ten_lines.ts", ROOT),
  );
  const readme = await Deno.readTextFile(new URL("README.md", ROOT));
  assertStringIncludes(readme, `\`\`\`ts\n${code}\`\`\`\n`);
});
