import { assert, assertEquals, assertRejects } from "@std/assert";
import { ForkServers } from "../../src/crash/fork_server.ts";
import { findIsolation } from "../../src/crash/isolation.ts";
import { ProgramError } from "../../src/crash/programs.ts";
import { runShell } from "../../src/crash/run_shell.ts";
import { tempDir } from "../helpers.ts";

/** Where there are no namespaces within others, no such shells are used. */
const nested = { ignore: (await findIsolation()).nested === null };

Deno.test("ForkServers run commands one after the other", nested, async () => {
  await using dir = await tempDir();
  await using servers = new ForkServers();
  const run = (command: string, environment = {}) =>
    runShell(command, {
      ...{ directory: dir.path, isolated: true, servers, environment },
      acknowledged: [],
    });
  // No new session is begun for the second one: it is the same shell.
  const parent = 'cut -d " " -f 6 /proc/1/stat; echo "$$"';
  const [first, second] = [await run(parent), await run(parent)];
  assertEquals(first.code, 0);
  assertEquals(first, second);
  // Words that shells would read otherwise, and names of the user's own.
  const odd = `it's "$HOME" \\ \`id\` *\n$(false) \t`;
  const ran = await run(
    'printf "%s|" "$PLATTER_ODD" "$uid"; exit 9',
    {
      PLATTER_ODD: odd,
      uid: "c d",
    },
  );
  assertEquals(ran, { code: 9, output: `${odd}|c d|`, timedOut: false });
  // Nothing of the one before is left.
  assertEquals((await run('echo "$PLATTER_ODD"')).output, "\n");
  assertEquals((await run("cat; exit 3")).code, 3);
  await assertRejects(() => run("echo \0"), TypeError, "byte of zero");
});

Deno.test(
  "ForkServers hand on all bytes, in bounded memory",
  nested,
  async () => {
    await using dir = await tempDir();
    await using servers = new ForkServers();
    const { server, command } = (await findIsolation()).nested!;
    for (const length of [0, 1, 36, 37, 40, 41, 65_536, 200_001]) {
      let bytes: number[] = [];
      const { ended } = servers.run(server, {
        // What a mark begins with.
        args: [
          ...command,
          ...["sh", "-c", `head -c ${length} /dev/zero | tr '\\0' '\\4'`],
        ],
        environment: {},
        complaint: dir.join("complaint"),
        onOutput: (chunk) => {
          bytes = bytes.concat([...chunk]);
        },
      });
      assertEquals(await ended, { code: 0, complaint: "" });
      assertEquals(bytes.length, length);
      assert(bytes.every((byte) => byte === 4));
    }
  },
);

Deno.test(
  "ForkServers go on after a command ended their shell",
  nested,
  async () => {
    await using dir = await tempDir();
    await using servers = new ForkServers();
    const run = (command: string) =>
      runShell(command, { directory: dir.path, isolated: true, servers });
    const { code, timedOut } = await run("kill -KILL 0; sleep 600");
    assertEquals([code, timedOut], [137, false]);
    assertEquals(await run("echo still"), {
      ...{ code: 0, output: "still\n", timedOut: false },
    });
  },
);

Deno.test("ForkServers tell why a command was not run", nested, async () => {
  await using dir = await tempDir();
  await using servers = new ForkServers();
  const { server } = (await findIsolation()).nested!;
  const command = { args: ["true"], environment: {}, onOutput() {} };
  const complaint = dir.join("complaint");
  const outcome = async (prefix: readonly string[], at = complaint) =>
    await servers.run(prefix, { ...command, complaint: at }).ended;
  const failing = ["sh", "-c", "echo no shell >&2; exit 4"];
  assertEquals(await outcome(failing), { code: 4, complaint: "no shell" });
  const missing = await outcome(server, dir.join("none/complaint"));
  assert(missing.code !== 0);
  assert(missing.complaint.includes("none/complaint"), missing.complaint);
  await assertRejects(
    () =>
      runShell("true", {
        ...{ directory: dir.join("none"), isolated: true, servers },
      }),
    ProgramError,
    "Cannot run a command in namespaces of its own",
  );
});
