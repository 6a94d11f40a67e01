import { assert, assertEquals, assertRejects } from "@std/assert";
import { ForkServers } from "../../src/crash/fork_server.ts";
import { findIsolation } from "../../src/crash/isolation.ts";
import { runShell } from "../../src/crash/run_shell.ts";
import { needs, tempDir } from "../helpers.ts";

const linux = { ignore: Deno.build.os !== "linux" };

/** Whether a process is there. */
async function lives(pid: string): Promise<boolean> {
  try {
    const stat = await Deno.readTextFile(`/proc/${pid}/stat`);
    // A zombie has ended.
    return !/\) Z /.test(stat);
  } catch {
    return false;
  }
}

Deno.test(
  "runShell() tells the code and both streams in order",
  linux,
  async () => {
    await using dir = await tempDir();
    const ran = await runShell(
      "echo one; echo two >&2; echo three; exit 7",
      { directory: dir.path, isolated: false },
    );
    assertEquals(ran, {
      code: 7,
      output: "one\ntwo\nthree\n",
      timedOut: false,
    });
  },
);

Deno.test(
  "runShell() tells a signal as 128 and its number",
  linux,
  async () => {
    await using dir = await tempDir();
    await using servers = new ForkServers();
    for (
      const how of [{ isolated: false }, { isolated: true }, {
        isolated: true,
        servers,
      }]
    ) {
      const { code } = await runShell("kill -SEGV $$", {
        directory: dir.path,
        ...how,
      });
      assertEquals(code, 128 + 11);
    }
  },
);

Deno.test(
  "runShell() keeps the beginning and the end of a long output",
  linux,
  async () => {
    await using dir = await tempDir();
    const { output } = await runShell(
      "echo begins; yes 0123456789 | head -c 3000000; echo; echo ends",
      { directory: dir.path, isolated: false },
    );
    assert(output.startsWith("begins\n"));
    assert(output.endsWith("\nends\n"));
    assert(/… \d+ bytes are left out here …/.test(output));
    assert(output.length < 200_000);
  },
);

Deno.test(
  "runShell() tells lines of descriptor and output as acknowledgements",
  linux,
  async () => {
    await using dir = await tempDir();
    const lines: string[] = [];
    const ran = await runShell(
      `echo one >&$PLATTER_ACK; sleep 0.05; echo "ACK two"; echo ACK; echo ACKTUNG; echo noise; echo ACK err >&2
     sleep 0.05; printf 'three\\nnever ended' >&"$PLATTER_ACK"`,
      {
        directory: dir.path,
        isolated: true,
        onAcknowledge: (line) => lines.push(line),
      },
    );
    assertEquals(lines.toSorted(), ["ACK", "one", "three", "two"]);
    assertEquals(ran.code, 0);
    assert(ran.output.includes("noise\n") && ran.output.includes("ACK err\n"));
  },
);

Deno.test(
  "runShell() counts a last line without an end if the command exits with 0",
  linux,
  async () => {
    await using dir = await tempDir();
    for (const [code, expected] of [[0, "1 2"], [1, "1"]] as const) {
      const lines: string[] = [];
      await runShell(`echo ACK 1; printf 'ACK 2'; exit ${code}`, {
        directory: dir.path,
        isolated: false,
        onAcknowledge: (line) => lines.push(line),
      });
      assertEquals(lines.join(" "), expected);
    }
  },
);

Deno.test(
  "runShell() takes another pattern of acknowledgements",
  linux,
  async () => {
    await using dir = await tempDir();
    const lines: string[] = [];
    await runShell("echo COMMIT 1; echo ACK 2; echo COMMIT 3", {
      directory: dir.path,
      isolated: false,
      ackPattern: /^COMMIT \d+/g,
      onAcknowledge: (line) => lines.push(line),
    });
    assertEquals(lines, ["COMMIT 1", "COMMIT 3"]);
  },
);

Deno.test(
  "runShell() reads more acknowledgements than a pipe holds",
  linux,
  async () => {
    await using dir = await tempDir();
    const lines: string[] = [];
    await runShell("seq 1 50000 >&9", {
      directory: dir.path,
      isolated: false,
      onAcknowledge: (line) => lines.push(line),
    });
    assertEquals(lines.length, 50_000);
    assertEquals(lines.at(-1), "50000");
  },
);

Deno.test(
  "runShell() hears a command that removes the pipe it acknowledges by",
  linux,
  async () => {
    await using dir = await tempDir();
    const lines: string[] = [];
    const { code } = await runShell(
      `echo one >&9; rm -rf "$AT"; echo two >&9; echo ACK three`,
      {
        ...{ directory: dir.path, isolated: false },
        environment: { AT: dir.path },
        onAcknowledge: (line) => lines.push(line),
      },
    );
    assertEquals(code, 0);
    assertEquals(lines.toSorted(), ["one", "three", "two"]);
    // It is removed again.
    await Deno.mkdir(dir.path);
  },
);

Deno.test(
  "runShell() fails with what onAcknowledge throws",
  linux,
  async () => {
    await using dir = await tempDir();
    for (
      const command of ["echo x >&9; seq 1 90000 >&9", "echo ACK x; sleep 60"]
    ) {
      await assertRejects(
        () =>
          runShell(command, {
            directory: dir.path,
            isolated: false,
            onAcknowledge() {
              throw new RangeError("no room");
            },
          }),
        RangeError,
        "no room",
      );
    }
  },
);

Deno.test(
  "runShell() hands on what was acknowledged before",
  linux,
  async () => {
    await using dir = await tempDir();
    const { output } = await runShell('cat "$PLATTER_ACKED"; echo $WHO', {
      directory: dir.path,
      isolated: true,
      acknowledged: ["a", "b c"],
      environment: { WHO: "me" },
    });
    assertEquals(output, "a\nb c\nme\n");
  },
);

/** Variables that this process has, as a command of another test would. */
function withVariables(variables: Record<string, string>): Disposable {
  const before = Object.keys(variables).map((name) =>
    [name, Deno.env.get(name)] as const
  );
  for (const name in variables) Deno.env.set(name, variables[name]!);
  return {
    [Symbol.dispose]() {
      for (const [name, value] of before) {
        if (value === undefined) Deno.env.delete(name);
        else Deno.env.set(name, value);
      }
    },
  };
}

Deno.test(
  "runShell() hands on no variable of another test's that surrounds this one",
  linux,
  async () => {
    await using dir = await tempDir();
    await using servers = new ForkServers();
    using _others = withVariables({
      ...{ PLATTER_DIR: "no", PLATTER_IMAGE: "no", PLATTER_DEVICE: "no" },
      ...{ PLATTER_NBD: "no", PLATTER_ACK: "no", PLATTER_ACKED: "no" },
      ...{ PLATTER_STATE: "no", PLATTER_OWN: "kept" },
    });
    for (
      const how of [
        { isolated: false },
        { isolated: true },
        { isolated: true, servers },
      ]
    ) {
      const { output } = await runShell(
        "env | grep -E '^PLATTER_.*=(no|given|kept)$' | sort",
        {
          ...{ directory: dir.path, ...how },
          environment: { PLATTER_DIR: "given" },
        },
      );
      assertEquals(output, "PLATTER_DIR=given\nPLATTER_OWN=kept\n");
    }
  },
);

for (const how of ["by session", "isolated", "by a shell that stays"]) {
  const isolated = how !== "by session";
  const serversOf = () =>
    how === "by a shell that stays" ? new ForkServers() : undefined;
  Deno.test(
    `runShell() kills children when the time is over, ${how}`,
    linux,
    async () => {
      await using dir = await tempDir();
      await using servers = serversOf();
      const ran = await runShell(
        "sleep 600 & sleep 600",
        { directory: dir.path, isolated, servers, timeoutMs: 300 },
      );
      assertEquals([ran.timedOut, ran.code], [true, 137]);
    },
  );

  Deno.test(
    `runShell() kills what a command leaves running, ${how}`,
    linux,
    async () => {
      await using dir = await tempDir();
      await using servers = serversOf();
      // The shell's own number of it may be one within a namespace.
      const { output } = await runShell(
        "sleep 600 & readlink /proc/self/ns/pid; echo $!",
        { directory: dir.path, isolated, servers },
      );
      const [space, pid] = output.split("\n");
      const own = await Deno.readLink("/proc/self/ns/pid");
      if (space === own) {
        for (let i = 0; i < 3000 && await lives(pid!); i++) {
          await new Promise((resolve) => setTimeout(resolve, 20));
        }
        assertEquals(await lives(pid!), false);
      } else assertEquals((await findIsolation()).namespaces, true);
    },
  );

  Deno.test(
    `runShell() gives up with the reason of its signal, ${how}`,
    linux,
    async () => {
      await using dir = await tempDir();
      await using servers = serversOf();
      const controller = new AbortController();
      setTimeout(() => controller.abort(new Error("enough")), 100);
      await assertRejects(
        () =>
          runShell("sleep 600 & sleep 600", {
            directory: dir.path,
            ...{ isolated, servers },
            signal: controller.signal,
            ...(servers === undefined ? { onAcknowledge() {} } : {}),
          }),
        Error,
        "enough",
      );
      if (servers !== undefined) return;
      assertEquals(await Array.fromAsync(Deno.readDir(dir.path)), []);
    },
  );
}

Deno.test(
  "runShell() gives up what was given up before it was started",
  linux,
  async () => {
    await using dir = await tempDir();
    const controller = new AbortController();
    const running = runShell("sleep 600", {
      ...{ directory: dir.path, isolated: false, onAcknowledge() {} },
      signal: controller.signal,
    });
    // The pipe is not made yet.
    controller.abort(new Error("enough"));
    await assertRejects(() => running, Error, "enough");
  },
);

Deno.test(
  "runShell() isolates processes and System V objects",
  needs("unshare", "ipcmk"),
  async () => {
    await using dir = await tempDir();
    const { namespaces } = await findIsolation();
    const { output } = await runShell(
      "ipcmk -M 4096 >/dev/null; ipcs -m | grep -c 0x; echo $PPID",
      { directory: dir.path, isolated: true },
    );
    // One object, its own; its parent is process 1.
    if (namespaces) assertEquals(output, "1\n1\n");
  },
);

Deno.test(
  "runShell() gives a check no process number of what it checks",
  linux,
  async () => {
    await using dir = await tempDir();
    if (!(await findIsolation()).namespaces) return;
    const number = async (acknowledged?: string[]) => {
      const { output } = await runShell('sh -c "echo \\$\\$"', {
        ...{ directory: dir.path, isolated: true, acknowledged },
      });
      return Number(output);
    };
    // Processes that it starts begin after its own two.
    assert(await number() > 64);
    assert(await number([]) < 10);
  },
);

Deno.test(
  "runShell() gives no outcome of what was not run, as it cannot be isolated",
  linux,
  async () => {
    await using dir = await tempDir();
    // It can when it is tried, and then no more: there are limits.
    await Deno.writeTextFile(
      dir.join("unshare"),
      `#!/bin/sh
       for last; do :; done
       if [ "$last" = true ]; then exit 0; fi
       echo "unshare: fork failed: Cannot allocate memory" >&2
       exit 1`,
      { mode: 0o755 },
    );
    const module = import.meta.resolve("../../src/crash/run_shell.ts");
    const { stdout } = await new Deno.Command(Deno.execPath(), {
      args: [
        "eval",
        `import { runShell } from ${JSON.stringify(module)};
         const options = { directory: Deno.args[0], isolated: true };
         console.log(await runShell("exit 0", options).catch(String));`,
        dir.path,
      ],
      env: { PATH: `${dir.path}:${Deno.env.get("PATH")}` },
      stderr: "inherit",
    }).output();
    assertEquals(
      new TextDecoder().decode(stdout).trim(),
      "ProgramError: Cannot run a command in namespaces of its own as it says: unshare: fork failed: Cannot allocate memory",
    );
  },
);

Deno.test(
  "runShell() does not wait for what no signal ends",
  needs("root", "mkfs.ext4", "mount", "fsfreeze"),
  async () => {
    await using dir = await tempDir();
    const mounted = `${dir.path}/mnt`;
    await Deno.mkdir(mounted);
    const sh = async (script: string) => {
      const { success } = await new Deno.Command("sh", {
        args: ["-ec", script, "sh", `${dir.path}/disk.img`, mounted],
      }).output();
      assert(success, script);
    };
    await sh('truncate -s 8M "$1"; mkfs.ext4 -q "$1"; mount -o loop "$1" "$2"');
    try {
      // Who writes to a frozen file system sleeps until it is thawed.
      await sh('fsfreeze --freeze "$2"');
      await using stays = new ForkServers();
      for (
        const [isolated, servers] of [[false], [true], [true, stays]] as const
      ) {
        const { timedOut } = await runShell(`touch "$AT/file"`, {
          ...{ directory: dir.path, isolated, servers, timeoutMs: 200 },
          environment: { AT: mounted },
        });
        assert(timedOut);
      }
    } finally {
      await sh('fsfreeze --unfreeze "$2"; umount --lazy "$2"');
    }
  },
);
