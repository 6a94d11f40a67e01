/**
 * Commands of guests, without a guest: what is acknowledged, and what is kept of
 * what they print.
 *
 * @module
 */

import { assert, assertEquals, assertRejects } from "@std/assert";
import { ControlDisk } from "../../../src/crash/guests/control_disk.ts";
import { Guest } from "../../../src/crash/guests/guest.ts";
import { runInGuest } from "../../../src/crash/guests/guest_command.ts";
import type { Machine } from "../../../src/crash/guests/machine.ts";
import type { RunOptions } from "../../../src/crash/stage.ts";
import { needs, type TempDir, tempDir } from "../../helpers.ts";

/** Runs a command that says this to the descriptor and to standard output. */
async function run(
  dir: TempDir,
  said: { ack?: string; output?: string },
  options: Partial<RunOptions>,
): Promise<void> {
  const control = new ControlDisk();
  const guest = {
    try() {
      for (const channel of ["ack", "output"] as const) {
        const bytes = new TextEncoder().encode(said[channel] ?? "");
        control.listener!(channel, bytes);
      }
      return Promise.resolve({ code: 0, output: "code 0" });
    },
  } as Partial<Guest> as Guest;
  const machine: Partial<Machine> = {
    ...{ guest, control, directory: dir.path, controlDevice: "/dev/none" },
    user: undefined,
  };
  await runInGuest(machine as Machine, {
    ...{ command: "true", device: "/dev/none", fileSystem: null },
    workingDirectory: "/",
  }, { isolated: true, ...options });
}

Deno.test("runInGuest() takes a pattern with any flags", async () => {
  await using dir = await tempDir();
  for (const flags of ["", "g", "y", "gi"]) {
    const lines: string[] = [];
    await run(dir, { output: "OK 1\nOK 2\nno\nOK 3\n" }, {
      ackPattern: new RegExp("^OK (\\d+)$", flags),
      onAcknowledge: (line) => lines.push(line),
    });
    assertEquals(lines, ["1", "2", "3"], flags);
  }
});

Deno.test("runInGuest() promises no line that is cut off", async () => {
  await using dir = await tempDir();
  const lines: string[] = [];
  const onAcknowledge = (line: string) => lines.push(line);
  const long = "x".repeat((1 << 20) + 1);
  await assertRejects(
    () => run(dir, { ack: `${long}\n` }, { onAcknowledge }),
    RangeError,
    "at most 1 MiB",
  );
  await run(dir, { output: `ACK ${long}\nACK 2\n` }, { onAcknowledge });
  assertEquals(lines, ["2"]);
});

Deno.test(
  "Guest.try() keeps both ends of a long output",
  needs("setpriv"),
  async () => {
    // A shell of this machine does for one of a guest's.
    await using guest = await Guest.start({ command: "sh", args: [] });
    const { code, output } = await guest.try(
      "echo begins; head -c 20000000 /dev/zero | tr '\\0' x; echo; echo ends; exit 3",
    );
    assertEquals(code, 3);
    assert(output.startsWith("begins\nxxx"));
    assert(output.endsWith("xxx\nends"));
    assert(output.includes("\n… some is left out here …\n"));
    assert(output.length < 2 << 20);
    assertEquals((await guest.try("echo next")).output, "next");
  },
);

Deno.test(
  "Guest.try() hears a command out, whatever else is said on its terminal",
  needs("setpriv"),
  async () => {
    await using dir = await tempDir();
    const noise = await dir.file("noise", new Uint8Array(100_000).fill(0x2e));
    // Of others: before the second command's output and after it, and within the
    // mark of the third one's beginning.
    const others = [
      ...["-e", `/@@2@@begin/e cat ${noise}; echo`],
      ...["-e", `/@@2@@3end/r ${noise}`],
      ...["-e", "s/@@3@@begin/@@3@[   1.5] usb 1-1\\n@begin/"],
    ];
    await using guest = await Guest.start({
      command: "sh",
      args: ["-c", 'sh 2>&1 | sed -u "$@"', "sh", ...others],
    });
    assertEquals(await guest.try("echo one"), { code: 0, output: "one" });
    const { code, output } = await guest.try(
      "echo begins; yes | head -c 3000000; echo ends; exit 3",
    );
    assertEquals(code, 3);
    assert(output.startsWith("begins\ny\n"), output.slice(0, 100));
    assert(output.endsWith("y\nends"));
    const third = await guest.try("echo three; exit 4");
    assertEquals(third.code, 4);
    assert(third.output.endsWith("\nthree"), third.output);
    assertEquals(await guest.run("echo four"), "four");
  },
);
