import {
  assert,
  assertEquals,
  assertLess,
  assertMatch,
  equal,
} from "@std/assert";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { isRoot, needs, run } from "../helpers.ts";
import { concat, exists, processOf, Scratch } from "./harness.ts";

const MIB = 1 << 20;

function text(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes);
}

Deno.test("the program exits with the command's code", async () => {
  const version = await processOf(["--version"]).output();
  assertEquals(version.code, 0);
  assertMatch(text(version.stdout), /^platter \d+\.\d+\.\d+\n$/);
  const wrong = await processOf(["frob"]).output();
  assertEquals(wrong.code, 2);
  assertMatch(text(wrong.stderr), /^platter: Cannot [^\n]+\n$/);
});

Deno.test("the program shows a stack only if PLATTER_DEBUG is set", async () => {
  const env = { PLATTER_DEBUG: "1" };
  const { code, stderr } = await processOf(["info", "/nowhere"], { env })
    .output();
  assertEquals(code, 2);
  assertMatch(text(stderr), /^platter: DiskError: .*\n {4}at /);
});

Deno.test("the program says that Deno permits it too little", async () => {
  const { code, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      ...["run", "--no-check", "--no-prompt"],
      new URL("../../src/cli/main.ts", import.meta.url).pathname,
      ...["crash", "--size", "1MiB", "--run", "true", "--check", "true"],
    ],
    stdin: "null",
  }).output();
  assertEquals(code, 2);
  assertMatch(
    text(stderr),
    /^platter: Cannot run "crash" as it requires \w+ access to .+\n$/,
  );
});

/** Root is permitted everything by two capabilities, which can be dropped. */
function unprivileged(args: string[]): Deno.Command {
  const script = new URL("../../src/cli/main.ts", import.meta.url).pathname;
  const drop = isRoot()
    ? ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
    : [];
  const [command, ...more] = [
    ...drop,
    ...[Deno.execPath(), "run", "--no-check", "-A", script, ...args],
  ];
  return new Deno.Command(command!, { args: more, stdin: "null" });
}

for (const backend of ["direct", "portable"]) {
  Deno.test({
    name: `the program has one word for what is not permitted, ${backend}`,
    ignore: Deno.build.os !== "linux" || isRoot() && needs("setpriv").ignore,
    async fn() {
      await using scratch = await Scratch.make();
      const [none, old] = [
        await scratch.image("none.img", MIB),
        await scratch.image("old.img", MIB),
      ];
      const folder = scratch.of("folder");
      await Deno.mkdir(folder);
      await Deno.chmod(none, 0);
      await Deno.chmod(old, 0o444);
      await Deno.chmod(folder, 0o555);
      const new_ = `${folder}/new.img`;
      const why = "as the operating system does not permit it";
      const cases: [args: string[], err: string][] = [
        [["info", none], `Cannot open "${none}" ${why}`],
        [["flush", old], `Cannot open "${old}" for writing ${why}`],
        [
          ["serve", old],
          `Cannot open "${old}" for writing ${why}: open with --read-only to read it`,
        ],
        [["serve", none], `Cannot open "${none}" ${why}`],
        [["create", new_, "1MiB"], `Cannot create "${new_}" ${why}`],
        [["create", old, "1MiB", "-f"], `Cannot create "${old}" ${why}`],
      ];
      for (const [args, err] of cases) {
        const all = [...args, "--backend", backend];
        const { code, stderr } = await unprivileged(all).output();
        assertEquals([code, text(stderr)], [2, `platter: ${err}\n`]);
      }
      const heat = await unprivileged(["heat", none, "-o", "-"]).output();
      assertEquals(
        text(heat.stderr),
        `platter: Cannot read "${none}" ${why}\n`,
      );
    },
  });
}

Deno.test("the program says of files what keeps it from them, in its own words", async () => {
  await using scratch = await Scratch.make();
  const [image, none] = [await scratch.image("a.img", MIB), scratch.of("none")];
  const missing = "there is no such file or directory";
  const cases: [args: string[], err: string][] = [
    [
      ["create", `${none}/x`, "1MiB"],
      `Cannot create "${none}/x" as ${missing}`,
    ],
    [
      ["create", `${image}/x`, "1MiB"],
      `Cannot create "${image}/x" as a part of its path is no directory`,
    ],
    [
      ["create", scratch.path, "1MiB"],
      `Cannot create "${scratch.path}" as there is something of that name which is no file`,
    ],
    [
      ["create", scratch.of("n".repeat(300)), "1MiB"],
      `Cannot create "${scratch.of("n".repeat(300))}" as its name is too long`,
    ],
    [
      ["heat", scratch.path, "-o", "-"],
      `Cannot read "${scratch.path}" as it is a directory`,
    ],
  ];
  if (!needs("nbdfuse").ignore) {
    cases.push([
      ["mount", image, `${none}/x`],
      `Cannot mount a disk at "${none}/x" as ${missing}`,
    ]);
  }
  if (Deno.build.os !== "windows") {
    const pipe = scratch.of("pipe");
    await run("mkfifo", [pipe]);
    const use = (what: string, sign: string) =>
      `Cannot copy as ${what} must be a disk, or "-" for a pipe: current value is "${pipe}", a pipe (use - ${sign} "${pipe}")`;
    cases.push([["copy", pipe, none], use("SOURCE", "<")]);
    cases.push([["copy", image, pipe], use("TARGET", ">")]);
  }
  for (const [args, err] of cases) {
    const { code, stderr } = await processOf(args).output();
    assertEquals([code, text(stderr)], [2, `platter: ${err}\n`]);
  }
});

Deno.test("the program pipes raw sectors from one to the other", async () => {
  await using scratch = await Scratch.make();
  const content = new Uint8Array(5 * MIB).map((_, i) => i * i >> 8);
  const source = await scratch.image("a.img", content.length, { 0: content });
  const target = await scratch.image("b.img", content.length);
  const reader = processOf(["read", source, "--raw"], { stdout: "piped" })
    .spawn();
  const writer = processOf(["write", target, "--sector", "0"], {
    stdin: "piped",
    stdout: "piped",
  }).spawn();
  await reader.stdout.pipeTo(writer.stdin);
  assertEquals((await reader.status).code, 0);
  const { code, stdout } = await writer.output();
  assertEquals(code, 0);
  assertEquals(text(stdout), "Wrote 5 MiB (10,240 sectors) at sector 0\n");
  assert(equal(await Deno.readFile(target), content));
});

Deno.test("the program ends quietly when nobody reads its output", async () => {
  await using scratch = await Scratch.make();
  const path = await scratch.image("a.img", 64 * MIB);
  const process = processOf(["read", path, "--raw"], {
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const reader = process.stdout.getReader();
  await reader.read();
  await reader.cancel();
  const errors: Uint8Array[] = await Array.fromAsync(process.stderr);
  assertEquals(text(concat(errors)), "");
  assertEquals((await process.status).code, 141);
});

for (const signal of ["SIGINT", "SIGHUP"] as const) {
  Deno.test({
    name: `the program removes an incomplete copy on ${signal}`,
    ignore: Deno.build.os === "windows",
    async fn() {
      await using scratch = await Scratch.make();
      const source = await scratch.image("a.img", 2 ** 40);
      const target = scratch.of("b.img");
      // Nobody waits for a terabyte to be copied byte by byte.
      const process = processOf(["copy", source, target, "--no-sparse"], {
        stdout: "piped",
        stderr: "piped",
      }).spawn();
      while (!await exists(target)) {
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
      await new Promise((resolve) => setTimeout(resolve, 50));
      const sentAt = performance.now();
      process.kill(signal);
      const { code, stdout, stderr } = await process.output();
      // On a machine that may be busy; all of it would take many times as long.
      assertLess(performance.now() - sentAt, 120_000);
      assertEquals(code, 130);
      assertEquals(text(stdout), "");
      assertEquals(
        text(stderr),
        `platter: Interrupted: "${target}" was removed again\n`,
      );
      assertEquals(await exists(target), false);
    },
  });
}

Deno.test({
  name: "the program outlives its terminal if it was told to ignore SIGHUP",
  ...needs("sh"),
  ignore: Deno.build.os !== "linux",
  async fn() {
    await using scratch = await Scratch.make();
    const image = await scratch.image("a.img", MIB);
    const socket = scratch.of("nbd.sock");
    const main = new URL("../../src/cli/main.ts", import.meta.url).pathname;
    const shell = `trap "" HUP; exec "$0" run --no-check -A "$@"`;
    const process = new Deno.Command("sh", {
      args: ["-c", shell, Deno.execPath(), main, "serve", image, "--socket"]
        .concat(socket),
      stdin: "null",
      stdout: "piped",
      stderr: "null",
    }).spawn();
    const reader = process.stdout.getReader();
    await reader.read();
    process.kill("SIGHUP");
    {
      await using disk = await VirtualDisk.open(
        `nbd+unix:///?socket=${socket}`,
      );
      await disk.write(0, new Uint8Array(512).fill(1));
    }
    process.kill("SIGTERM");
    assertEquals((await process.status).code, 0);
    await reader.cancel();
    assertEquals((await Deno.readFile(image))[0], 1);
  },
});
