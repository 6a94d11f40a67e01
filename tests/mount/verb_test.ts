/**
 * `platter mount`, in this process.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { type Conditions, type Outcome, platter } from "../cli/harness.ts";
import { tempDir } from "../helpers.ts";
import { exists, needsFuse, shell } from "./harness.ts";

/** Mounts an image for as long as something is done with it. */
async function mounting(
  args: string[],
  use: (path: string) => Promise<void>,
  conditions: Conditions = {},
): Promise<Outcome> {
  let used: Promise<void> | undefined;
  const outcome = await platter(["mount", ...args], {
    ...conditions,
    onOutput(text, interrupt) {
      if (!text.startsWith("/")) return;
      used = use(text.trim()).finally(interrupt);
      used.catch(() => {});
    },
  });
  await used;
  return outcome;
}

Deno.test({
  name: "mount shows a disk as a file, with layers, and takes it away",
  ...needsFuse("nbdfuse"),
  async fn() {
    await using dir = await tempDir();
    const image = await dir.file("disk.img", 1 << 20);
    const path = dir.join("disk");
    const trace = dir.join("trace");
    const outcome = await mounting(
      [
        ...[image, path, "--overlay", "--trace", trace],
        ...["--fault", "flush nth=2 error=EIO"],
      ],
      async (shown) => {
        assertEquals(shown, path);
        const write = () =>
          shell(
            'printf word | dd of="$1" bs=4 conv=notrunc,fsync && head -c 4 "$1"',
            path,
          );
        assert((await write()).out.includes("word"));
        assertEquals((await write()).code, 1);
      },
    );
    // The flush at its end is refused as well.
    assertEquals(outcome.code, 2, outcome.err);
    assert(outcome.err.includes(`is the file "${path}"`), outcome.err);
    assertEquals([outcome.listening, exists(path)], [false, false]);
    assertEquals(await Deno.readFile(image), new Uint8Array(1 << 20));
    assert((await Deno.readTextFile(trace)).includes('"flush"'));
  },
});

Deno.test({
  name: "mount ends when somebody unmounts it",
  ...needsFuse("nbdfuse"),
  async fn() {
    await using dir = await tempDir();
    const image = await dir.file("disk.img", 1 << 20);
    const args = ["mount", image, dir.join("disk"), "--quiet"];
    let unmounting: Promise<unknown> | null = null;
    const outcome = await platter(args, {
      onOutput(text) {
        if (text.startsWith("/")) {
          unmounting = shell('fusermount3 -u "$1"', text.trim());
        }
      },
    });
    await unmounting;
    const { code, err, listening } = outcome;
    assertEquals([code, err, listening], [0, "", false]);
  },
});

Deno.test({
  name: "mount says what is wrong with its arguments, and opens nothing then",
  ...needsFuse("nbdfuse"),
  async fn() {
    await using dir = await tempDir();
    const image = await dir.file("disk.img", 1 << 20);
    for (
      const [args, words] of [
        [[image], "too few arguments"],
        [[image, image], "there is something of that name"],
        [[image, dir.join("a"), "--tool", "cat"], "--tool"],
        [[image, dir.join("a"), "--fault", "sing"], "--fault"],
        [[image, dir.join("no/a")], "Cannot mount a disk at"],
        [[dir.join("none"), dir.join("a")], "none"],
      ] as const
    ) {
      const outcome = await platter(["mount", ...args]);
      assertEquals(outcome.code, 2);
      assert(outcome.err.includes(words), outcome.err);
      assertEquals(exists(dir.join("a")), false);
    }
  },
});
