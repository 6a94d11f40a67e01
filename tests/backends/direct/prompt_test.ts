/**
 * Nobody is asked for a permission in the midst of I/O: on a terminal, where
 * Deno could ask, permissions are revoked with the disk open, and whatever a
 * disk does afterwards is done, or fails with a typed error.
 *
 * @module
 */

import { assert, assertEquals, assertFalse } from "@std/assert";
import { Random } from "../../../src/random.ts";
import { needs, tempDir } from "../../helpers.ts";
import {
  ENGINES,
  hasDirect,
  hasEngine,
  SERVED_TOOLS,
  slowFile,
} from "./harness.ts";

const MIB = 1_048_576;

/** The longest that a program may take; one that asks waits for ever. */
const PATIENCE_MS = 60_000;

/**
 * Runs a program on a terminal of its own. To whatever is asked there is no
 * answer.
 *
 * @returns What it returned, and all that was shown.
 */
async function onTerminal(
  body: string,
  path: string,
): Promise<{ result: unknown; shown: string }> {
  await using dir = await tempDir();
  const script = dir.join("script.ts");
  const answer = dir.join("answer.json");
  await Deno.writeTextFile(
    script,
    `
    import { DiskError, VirtualDisk } from ${
      JSON.stringify(import.meta.resolve("../../../mod.ts"))
    };
    const [path, answer] = ${JSON.stringify([path, answer])};
    const kind = (error) => error instanceof DiskError
      ? error.kind
      : "thrown: " + (error?.stack ?? error);
    const attempt = (make) => new Promise((resolve) => resolve(make()))
      .then(() => null, kind);
    const file = Deno.openSync(answer, { write: true, create: true });
    if (!Deno.stdin.isTerminal() || !Deno.stderr.isTerminal()) {
      throw new Error("This is no terminal");
    }
    const result = await (async () => {${body}})();
    file.writeSync(new TextEncoder().encode(JSON.stringify(result)));
    `,
  );
  const command = [Deno.execPath(), "run", "--no-check", "-A", script];
  const process = new Deno.Command("script", {
    args: ["-qefc", command.join(" "), "/dev/null"],
    stdin: "piped",
    stdout: "piped",
    stderr: "null",
  }).spawn();
  const timer = setTimeout(() => process.kill("SIGKILL"), PATIENCE_MS);
  const shown = await new Response(process.stdout).text();
  clearTimeout(timer);
  await process.stdin.close();
  await process.status;
  let text: string;
  try {
    text = await Deno.readTextFile(answer);
  } catch {
    text = "";
  }
  assert(text !== "", `It did not end: ${shown}`);
  return { result: JSON.parse(text), shown };
}

function assertUnasked(shown: string): void {
  assertFalse(/requests? .* access|permission/i.test(shown), shown);
}

/** Everything that a disk does, once FFI has been given up. */
const EVERYTHING = `
  const lent = disk.allocate(8).fill(9);
  await Deno.permissions.revoke({ name: "ffi" });
  const kinds = {
    write: await attempt(() => disk.write(128, lent)),
    read: await attempt(() => disk.readInto(128, lent)),
    allocate: await attempt(() => disk.allocate(8)),
    other: await attempt(() => disk.read(8, 8)),
    many: await attempt(() => Promise.all(Array.from({ length: 200 },
      (_, i) => disk.readInto(i % 64 * 8, lent)))),
    large: await attempt(() => disk.read(0, 1024)),
    bounced: await attempt(
      () => disk.write(8, new Uint8Array(4097).subarray(1))),
    durable: await attempt(() => disk.write(128, lent, { fua: true })),
    zeroes: await attempt(() => disk.writeZeroes(256, 8)),
    discard: await attempt(() => disk.discard(512, 8)),
    flush: await attempt(() => disk.flush()),
    id: await attempt(() => disk.id()),
    extents: await attempt(() => disk.extents(0, 1024)),
  };
  // Turns of the loop of every kind, and long waits.
  const until = performance.now() + 300;
  while (performance.now() < until) {
    await Promise.all([disk.readInto(0, lent), disk.readInto(64, lent)]);
  }
  const reopened = await attempt(() => VirtualDisk.open(path, {
    readOnly: true, lock: "none",
  }).then((other) => other.close()));
  await disk.close();
  return { ...kinds, reopened };
`;

const noDirect = Deno.build.os !== "linux" || !await hasDirect();

for (const engine of ENGINES) {
  for (const slow of engine === "libaio" ? [false, true] : [false]) {
    Deno.test({
      name: `${engine} has nobody asked once FFI is revoked${
        slow ? ", and waits on no other thread" : ""
      }`,
      ignore: !hasEngine(engine) || needs("script").ignore ||
        slow && needs(...SERVED_TOOLS).ignore,
      async fn() {
        await using stack = new AsyncDisposableStack();
        const content = new Random(1).bytes(MIB);
        let path: string;
        if (slow) path = stack.use(await slowFile(content, 60)).path;
        else path = await stack.use(await tempDir()).file("d.img", content);
        const { result, shown } = await onTerminal(
          `
          const disk = await VirtualDisk.open(path, {
            backend: "direct", engine: ${JSON.stringify(engine)},
          });
          ${slow ? EVERYTHING.replace("length: 200", "length: 8") : EVERYTHING}
          `,
          path,
        );
        assertUnasked(shown);
        const kinds = result as Record<string, string | null>;
        for (const [name, kind] of Object.entries(kinds)) {
          // Through FUSE, and on tmpfs, zeroes are written from memory of the
          // kernel's.
          const mapped = ["other", "large", "bounced", "durable"]
            .concat(slow || noDirect ? ["zeroes"] : []);
          const allowed = mapped.includes(name)
            ? [null, "io"]
            // A failed durable write is latched.
            : ["zeroes", "discard", "flush"].includes(name)
            ? [null, "latched", "unsupported"]
            // Deno gives what is below /dev to --allow-all alone.
            : name === "reopened" && path.startsWith("/dev/")
            ? ["permission"]
            : [null];
          assert(allowed.includes(kind), `${name}: ${kind}`);
        }
      },
    });
  }
}

Deno.test({
  name: "PortableBackend has nobody asked once its permissions are revoked",
  ignore: Deno.build.os !== "linux" || needs("script").ignore,
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", new Random(1).bytes(MIB));
    const { result, shown } = await onTerminal(
      `
      const disk = await VirtualDisk.open(path, { backend: "portable" });
      for (const name of ["read", "write", "sys", "ffi"]) {
        await Deno.permissions.revoke({ name });
      }
      const kinds = [
        // As many as there could be descriptors.
        await attempt(() => Promise.all(Array.from({ length: 64 },
          (_, i) => disk.read(i * 16, 8)))),
        await attempt(() => Promise.all(Array.from({ length: 64 },
          (_, i) => disk.write(i * 16, new Uint8Array(4096).fill(i))))),
        await attempt(() => disk.writeZeroes(8, 8)),
        await attempt(() => disk.flush()),
        await attempt(() => disk.allocate(8)),
        (await disk.read(63 * 16, 1))[0],
      ];
      await disk.close();
      return kinds;
      `,
      path,
    );
    assertUnasked(shown);
    assertEquals(result, [null, null, null, null, null, 63]);
  },
});
