/**
 * What both stages with guests must do, as steps of one test: to boot a guest is
 * dear.
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertMatch,
  assertNotEquals,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import type { Backend } from "../../../src/backend.ts";
import { MemoryBackend } from "../../../src/backends/memory.ts";
import type { GuestUser } from "../../../src/crash/guests/guest.ts";
import type { Attached, RunOptions, Stage } from "../../../src/crash/stage.ts";
import { VirtualDisk } from "../../../src/disk/disk.ts";
import { Layer } from "../../../src/layers/layer.ts";
import { RequestType } from "../../../src/request.ts";
import { isRoot } from "../../helpers.ts";

/** Who runs the guests: somebody who may do nothing, where we may choose. */
export const GUEST_USER: GuestUser | undefined = isRoot()
  ? { uid: 65534, gid: 65534 }
  : undefined;

const MIB = 1 << 20;

/**
 * Whether a stage can be tried here; says so if a container forbids ptrace or the
 * processor is too new, which no package mends.
 */
export async function canTry(stage: Stage): Promise<boolean> {
  try {
    await stage.require({ on: "device", fileSystem: null });
    return true;
  } catch (error) {
    if (!/ptrace|AMX/.test(String(error))) throw error;
    console.warn(`A test is skipped: ${error}`);
    return false;
  }
}

/** Logs what a disk has done. */
class Logged extends Layer {
  readonly log: string[] = [];
  flushes = 0;

  constructor(backend: Backend) {
    super("logged", backend, { ownsBase: false });
  }

  protected override carryOut(
    ...[batch, complete]: Parameters<Layer["carryOut"]>
  ): void {
    this.backend.submit(batch, (request, error) => {
      if (request.type === RequestType.Out) {
        this.log.push(`write ${request.sector}`);
      }
      if (request.type === RequestType.Flush) this.flushes++;
      complete(request, error);
    });
  }
}

/** A disk that is as another one. */
async function copyOf(backend: Backend): Promise<MemoryBackend> {
  const { sectors } = backend.geometry;
  const copy = new MemoryBackend({ sectors });
  await VirtualDisk.over(copy).write(
    0,
    await VirtualDisk.over(backend).read(0, sectors),
  );
  return copy;
}

/** The checksum of a whole disk, as sha256sum prints it. */
async function sumOf(backend: Backend): Promise<string> {
  const bytes = await VirtualDisk.over(backend).read(
    0,
    backend.geometry.sectors,
  );
  const sum = await crypto.subtle.digest("SHA-256", bytes);
  return new Uint8Array(sum).toHex();
}

/** A stage that is being tested. */
class Tried {
  constructor(readonly stage: Stage) {}

  /** Attaches a disk, as long as something is done with it. */
  async with<T>(
    backend: Backend,
    on: "mount" | "device",
    use: (attached: Attached) => Promise<T>,
    signal?: AbortSignal,
  ): Promise<T> {
    await using attached = await this.stage.attach({ backend }, {
      on,
      fileSystem: on === "mount" ? "ext4" : null,
      directory: "/nowhere",
      job: 0,
      signal,
    });
    return await use(attached);
  }

  /** Runs a command on a disk that is attached for it. */
  run(
    backend: Backend,
    on: "mount" | "device",
    command: string,
    options: Partial<RunOptions> = {},
  ) {
    return this.with(
      backend,
      on,
      (attached) => attached.run(command, { isolated: true, ...options }),
    );
  }
}

/**
 * Tries a stage. It is ended in the end.
 *
 * @param t The test.
 * @param stage The stage.
 */
export async function tryStage(
  t: Deno.TestContext,
  stage: Stage,
): Promise<void> {
  await using stack = new AsyncDisposableStack();
  stack.defer(() => stage.end!());
  const tried = new Tried(stage);
  const step = async (name: string, fn: () => Promise<void>) => {
    const options = { name, fn, sanitizeOps: false, sanitizeResources: false };
    if (!await t.step(options)) throw new Error(`Failed where ${name}`);
  };
  const disk = new MemoryBackend({ size: 16 * MIB });

  await step("a file system that is not there is an outcome", async () => {
    const { code, output } = await tried.run(disk, "mount", "echo mounted");
    assertEquals(code, 32);
    assertMatch(output, /^mount: .*wrong fs type/);
  });

  await step("what a command prints and exits with comes back", async () => {
    assertEquals(
      await tried.run(
        disk,
        "device",
        `echo "it's"; echo "$WORD" >&2; printf 'a  b\\n\\n%s' "$(pwd)"; exit 7`,
        { environment: { WORD: "a 'quoted'\nword" } },
      ),
      {
        code: 7,
        output: `it's\na 'quoted'\nword\na  b\n\n${Deno.cwd()}`,
        timedOut: false,
      },
    );
    const { code } = await tried.run(disk, "device", "kill -KILL $$");
    assertEquals(code, 137);
  });

  await step("what was mounted is durable once it is detached", async () => {
    const made = await tried.run(
      disk,
      "device",
      "mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0 $PLATTER_DEVICE",
    );
    assertEquals(made.code, 0, made.output);
    const logged = new Logged(disk);
    await tried.run(logged, "mount", "echo kept >$PLATTER_DIR/file");
    assert(logged.flushes > 0);
    assertEquals(
      await tried.run(await copyOf(disk), "mount", "cat $PLATTER_DIR/file"),
      { code: 0, output: "kept\n", timedOut: false },
    );
  });

  await step("a command leaves nothing behind for the next one", async () => {
    await tried.with(disk, "mount", async (attached) => {
      const run = (command: string, acknowledged?: string[]) =>
        attached.run(command, { isolated: true, acknowledged });
      const probe = `/etc/platter-${crypto.randomUUID()}`;
      const first = await run(
        `echo mine >${probe} && cat ${probe} && ipcmk -M 4096 && ` +
          "echo $$ >$PLATTER_DIR/pid; sleep 1000 & setsid sleep 1000 &",
      );
      assertEquals(first.code, 0, first.output);
      assertStringIncludes(first.output, "mine");
      await assertRejects(() => Deno.lstat(probe), Deno.errors.NotFound);
      const second = await run(
        `cat ${probe}; ipcs -m | grep -c 4096; ` +
          'kill -0 "$(cat $PLATTER_DIR/pid)" || echo nobody; ' +
          "[ $$ -lt 50 ] && [ $(cat $PLATTER_DIR/pid) -ge 64 ] && echo apart",
        [],
      );
      assertMatch(second.output, /No such file[^]*\n0\n[^]*nobody\napart\n$/);
    });
  });

  await step("an acknowledgement comes late, never early", async () => {
    const logged = new Logged(disk);
    const write = (at: number) =>
      `dd if=/dev/zero of=$PLATTER_DEVICE bs=4096 count=1 seek=${at} oflag=direct conv=notrunc status=none`;
    const lines: string[] = [];
    const command = [
      ...["echo ACK zero", write(1000), "echo one >&$PLATTER_ACK", write(2000)],
      ...["echo ACK two; echo ACK no >&2; echo 'not ACK'", write(3000)],
      ...["printf 'a b'\"'\"'\\nlast without an end' >&$PLATTER_ACK"],
      // What is printed last counts without an end, after a command that succeeds.
      "printf 'ACK three'",
    ].join(" && ");
    const { code, output } = await tried.run(
      await logged,
      "device",
      command,
      {
        onAcknowledge(line) {
          lines.push(line);
          logged.log.push(line);
        },
      },
    );
    assertEquals(code, 0, output);
    assertEquals(lines.toSorted(), ["a b'", "one", "three", "two", "zero"]);
    assertStringIncludes(output, "ACK two\n");
    assertStringIncludes(output, "ACK no\n");
    for (const [line, at] of [["one", 1000], ["two", 2000], ["a b'", 3000]]) {
      const written = logged.log.indexOf(`write ${Number(at) * 8}`);
      assert(written >= 0);
      assert(written < logged.log.indexOf(String(line)), String(logged.log));
    }
    const failed = await tried.run(disk, "device", "printf 'ACK no'; exit 3", {
      onAcknowledge: (line) => lines.push(line),
    });
    assertEquals([failed.code, failed.output, lines.length], [3, "ACK no", 5]);
  });

  await step("a check reads what had been promised", async () => {
    const acknowledged = ["first", "", "it's the \\last"];
    const { output } = await tried.run(disk, "device", "cat $PLATTER_ACKED", {
      acknowledged,
    });
    assertEquals(output, "first\n\nit's the \\last\n");
  });

  await step("nothing of a disk is found on the next one", async () => {
    const write = (letter: string) =>
      `yes ${letter} | dd of=$PLATTER_DIR/block bs=64k count=16 iflag=fullblock conv=notrunc,fsync`;
    await tried.run(disk, "mount", write("base"));
    // The same blocks of the same file of the same file system.
    const disks = [await copyOf(disk), await copyOf(disk)];
    for (const [i, each] of disks.entries()) {
      const { code, output } = await tried.run(
        each,
        "mount",
        write(`disk${i}`),
      );
      assertEquals(code, 0, output);
    }
    const sums = [await sumOf(disks[0]!), await sumOf(disks[1]!)];
    assertNotEquals(sums[0], sums[1]);
    for (const i of [0, 1, 0]) {
      const whole = await tried.run(
        disks[i]!,
        "device",
        "sha256sum <$PLATTER_DEVICE",
      );
      assertStringIncludes(whole.output, sums[i]!);
      const file = await tried.run(
        await copyOf(disks[i]!),
        "mount",
        "sort -u $PLATTER_DIR/block",
      );
      // The last line is cut off.
      assertMatch(file.output, new RegExp(`^(d[a-z]*\\n?)?disk${i}\\n`));
      assert(!file.output.includes(`disk${1 - i}`), file.output);
    }
  });

  await step("a command that takes too long is ended", async () => {
    // Whether it has begun by then is up to the machine.
    const { code, output, timedOut } = await tried.run(
      disk,
      "mount",
      "sleep 1000",
      { timeoutMs: 3000, acknowledged: [] },
    );
    assert(timedOut);
    assertNotEquals(code, 0);
    assertStringIncludes(output, "The guest does not end");
  });

  let directory = "";
  await step("another guest takes its place", async () => {
    const { output } = await tried.run(
      disk,
      "mount",
      "cat /proc/cmdline /proc/mounts; cat $PLATTER_DIR/file",
    );
    assertStringIncludes(output, "kept\n");
    directory = /\/\S*platter-(uml|qemu)-[^/\s]*/.exec(output)?.[0] ?? "";
  });

  await step("a command that is given up rejects", async () => {
    const reason = new Error("Enough");
    const controller = new AbortController();
    await assertRejects(
      () =>
        tried.with(disk, "device", (attached) => {
          const run = attached.run("echo ACK begun; sleep 1000", {
            isolated: true,
            signal: controller.signal,
            onAcknowledge: () => controller.abort(reason),
          });
          return run;
        }),
      Error,
      "Enough",
    );
  });

  await step("nothing is left in the end", async () => {
    await stage.end!();
    if (directory === "") return;
    assertEquals(await processesOf(directory), []);
    await assertRejects(() => Deno.lstat(directory), Deno.errors.NotFound);
  });
}

/**
 * The processes in whose arguments something stands.
 *
 * @param text What.
 * @returns Their numbers.
 */
export async function processesOf(text: string): Promise<number[]> {
  const found: number[] = [];
  for await (const { name } of Deno.readDir("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    const line = await Deno.readTextFile(`/proc/${name}/cmdline`)
      .catch(() => "");
    if (line.includes(text)) found.push(Number(name));
  }
  return found;
}
