/**
 * A disk that a test leaves open is a leak that `deno test` tells of.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { tempDir } from "./helpers.ts";

const CASES: Record<string, string> = {
  "direct writer": '{ backend: "direct" }',
  "direct reader": '{ backend: "direct", readOnly: true }',
  "direct without a lock": '{ backend: "direct", lock: "none" }',
  "portable writer": '{ backend: "portable" }',
  "portable reader": '{ backend: "portable", readOnly: true }',
  "portable without a lock": '{ backend: "portable", lock: "none" }',
};

Deno.test({
  name: "Deno.test() sees a disk that was not closed, and no other",
  ignore: Deno.build.os !== "linux",
  async fn() {
    await using dir = await tempDir();
    const program = `
      import { VirtualDisk } from ${
      JSON.stringify(import.meta.resolve("../mod.ts"))
    };
      const sanitizeResources = true;
      let images = 0;
      const open = async (options, closes, path = "disk" + images++) => {
        const disk = await VirtualDisk.open(path, options);
        await disk.read(0, 1);
        if (closes) await disk.close();
      };
      for (const closes of [true, false]) {
        const word = closes ? "closed" : "open";
        ${
      Object.entries(CASES).map(([name, options]) =>
        `Deno.test({ name: "${name}, " + word, sanitizeResources,
          fn: () => open(${options}, closes) });`
      ).join("\n")
    }
        Deno.test({ name: "NBD, " + word, sanitizeResources, fn: () =>
          open({}, closes, Deno.env.get("SERVER")) });
      }`;
    await Deno.writeTextFile(dir.join("some_test.ts"), program);
    for (let i = 0; i < 2 * Object.keys(CASES).length; i++) {
      await dir.file(`disk${i}`, 65_536);
    }
    const socket = dir.join("nbd.sock");
    const image = await dir.file("served.img", 65_536);
    const server = new Deno.Command(Deno.execPath(), {
      args: [
        "run",
        "-A",
        "--no-check",
        new URL("../src/cli/main.ts", import.meta.url).pathname,
        "serve",
        image,
        "--socket",
        socket,
      ],
      stdout: "piped",
      stderr: "null",
    }).spawn();
    try {
      const reader = server.stdout.getReader();
      await reader.read();
      const { stdout } = await new Deno.Command(Deno.execPath(), {
        args: ["test", "-A", "--no-check", dir.join("some_test.ts")],
        cwd: dir.path,
        env: { SERVER: `nbd+unix:///?socket=${socket}`, NO_COLOR: "1" },
      }).output();
      const said = new TextDecoder().decode(stdout);
      const outcomes = [...said.matchAll(/^(.*), (open|closed) \.\.\. (\w+)/gm)]
        .map(([, name, word, outcome]) => `${name}, ${word}: ${outcome}`);
      const names = [...Object.keys(CASES), "NBD"];
      assertEquals(outcomes, [
        ...names.map((name) => `${name}, closed: ok`),
        ...names.map((name) => `${name}, open: FAILED`),
      ]);
      assertEquals(said.match(/Leaks detected/g)?.length, names.length);
      await reader.cancel();
    } finally {
      server.kill();
      await server.status;
    }
  },
});
