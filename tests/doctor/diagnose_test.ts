import { VirtualDisk } from "@platter/disk";
import { diagnose } from "@platter/disk/doctor";
import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { DiskError } from "../../src/errors.ts";
import { tryDevice } from "../../src/doctor/tools.ts";
import { needs, run, tempDir } from "../helpers.ts";

const LINUX = Deno.build.os === "linux";
const MAIN = new URL("../../src/cli/main.ts", import.meta.url).pathname;

/** What is in a folder. */
function namesIn(path: string): string[] {
  return [...Deno.readDirSync(path)].map(({ name }) => name).sort();
}

Deno.test("diagnose() tells what disk.info tells there, tries it, and leaves nothing", async () => {
  await using dir = await tempDir();
  const { of, disk, findings, form } = await diagnose(dir.path);
  assertEquals([form, of], [1, "scratch file"]);
  assertEquals(namesIn(dir.path), []);
  await using other = await VirtualDisk.create(dir.join("disk.img"), {
    sectors: disk!.sectors,
  });
  await other.write(0, other.allocate(64).fill(1));
  await other.flush();
  const { abilities, backend, direct, durability, fileSystem, lock } =
    other.info;
  assertEquals(
    [disk!.abilities, disk!.backend, disk!.durability, disk!.fileSystem],
    [abilities, backend, durability, fileSystem],
  );
  assertEquals([disk!.direct.active, disk!.lock], [direct.active, lock]);
  assertEquals(findings.scratch!.verdict, "good");
  assertEquals(findings.lock!.basis, "trial: a second writer");
  const wrong = Object.entries(findings).filter(([, { verdict }]) =>
    verdict === "wrong"
  );
  assertEquals(wrong, []);
});

Deno.test("diagnose() makes its scratch file beside an image, which it does not touch", async () => {
  await using dir = await tempDir();
  const path = await dir.file("disk.img", new Uint8Array(8192).fill(7));
  // Neither its lock nor its name is of any concern.
  await using held = await VirtualDisk.open(path);
  const before = await Deno.stat(path);
  const { findings } = await diagnose(new URL(`file://${path}`));
  assertEquals(findings.scratch!.answer.endsWith(dir.path), true);
  assertEquals(namesIn(dir.path), ["disk.img"]);
  assertEquals(await held.read(0, 16), new Uint8Array(8192).fill(7));
  assertEquals((await Deno.stat(path)).mtime, before.mtime);
});

Deno.test("diagnose() refuses what is no place of disks", async () => {
  await using dir = await tempDir();
  const missing = await assertRejects(
    () => diagnose(dir.join("none")),
    DiskError,
    "as there is no such file or directory",
  );
  assertEquals(missing.kind, "not-found");
  await assertRejects(() => diagnose("nbd://localhost/x"), TypeError);
});

Deno.test("diagnose() that is aborted leaves nothing", async () => {
  await using dir = await tempDir();
  const reason = new Error("stopped");
  for (const ms of [0, 5, 20]) {
    const controller = new AbortController();
    const found = diagnose(dir.path, { signal: controller.signal });
    setTimeout(() => controller.abort(reason), ms);
    // It may have been faster.
    await found.catch((error) => assertEquals(error, reason));
    assertEquals(namesIn(dir.path), []);
  }
  await assertRejects(
    () => diagnose(dir.path, { signal: AbortSignal.abort(reason) }),
    Error,
    "stopped",
  );
});

Deno.test({
  name:
    "diagnose() goes on where no file can be made, and only looks at devices",
  ignore: !LINUX,
  async fn() {
    const folder = await diagnose("/sys/kernel");
    assertEquals([folder.of, folder.disk], [null, null]);
    assertEquals(folder.findings.scratch!.verdict, "missing");
    assert(folder.findings.scratch!.remedy !== null);
    assertEquals(folder.findings.tcp!.verdict, "good");
    assert(folder.tools!.length > 10);
    const device = await diagnose("/dev/null");
    assertEquals(device.of, null);
    assert(device.findings.scratch!.reason!.includes("nothing is written"));
  },
});

Deno.test(
  "diagnose() asks for no permission, and names the flag that would help",
  { ...needs("script"), ...(LINUX ? {} : { ignore: true }) },
  async () => {
    await using dir = await tempDir();
    /** With a terminal, so that Deno would ask. */
    const json = async (...flags: string[]) => {
      const text = await run("script", [
        ...["-q", "-e", "-c"],
        // On a terminal Deno would also tell of its next version.
        ["env", "DENO_NO_UPDATE_CHECK=1", Deno.execPath(), "run", "--no-check"]
          .concat([...flags, MAIN, "doctor", "--json", dir.path]).join(" "),
        "/dev/null",
      ]);
      return JSON.parse(text);
    };
    const [none, named, portable] = await Promise.all([
      json("--allow-read"),
      json("--allow-read", "--allow-env=PATH"),
      json(`--allow-read=${dir.path}`, `--allow-write=${dir.path}`),
    ]);
    assertEquals(none.permissions.read, "granted");
    assertEquals(none.permissions.ffi, "prompt");
    assertEquals(none.findings.scratch.verdict, "missing");
    assertEquals(none.findings.scratch.remedy, `--allow-write=${dir.path}`);
    assertEquals([none.disk, none.tools], [null, null]);
    // deno-lint-ignore no-explicit-any
    const fuse = named.tools.find(({ name }: any) => name === "/dev/fuse");
    assertEquals(
      [fuse.verdict, fuse.path, fuse.remedy],
      ["unknown", null, "--allow-all"],
    );
    const { backend, lock, tcp, zero } = portable.findings;
    assertEquals([backend.answer, backend.remedy], ["portable", "--allow-ffi"]);
    assertEquals([lock.verdict, lock.answer], ["limited", "flock"]);
    assertEquals([zero.verdict, zero.answer], ["limited", "emulated"]);
    assertEquals(tcp.remedy, "--allow-net=127.0.0.1");
    assertEquals(namesIn(dir.path), []);
  },
);

Deno.test(
  "diagnose() calls no User Mode Linux good that does not run here",
  { ignore: !LINUX },
  async () => {
    await using dir = await tempDir();
    const toldWhere = async (said: string) => {
      await Deno.writeTextFile(
        dir.join("linux.uml"),
        `#!/bin/sh\necho '${said}' >&2\n`,
        { mode: 0o755 },
      );
      const { stdout } = await new Deno.Command(Deno.execPath(), {
        args: ["run", "--no-check", "-A", MAIN, "doctor", "--json", dir.path],
        env: { PATH: `${dir.path}:${Deno.env.get("PATH")}` },
        stderr: "inherit",
      }).output();
      const { tools } = JSON.parse(new TextDecoder().decode(stdout));
      // deno-lint-ignore no-explicit-any
      return tools.find(({ name }: any) => name === "linux.uml");
    };
    const path = dir.join("linux.uml");
    const traces = "ptrace can change system call numbers...OK";
    const good = await toldWhere(`${traces} Linux version 6.1`);
    assertEquals([good.verdict, good.path, good.reason], ["good", path, null]);
    const amx = await toldWhere(
      `${traces} Linux version 6.1 ptrace set fp regs failed`,
    );
    assertEquals([amx.verdict, amx.path], ["limited", path]);
    assertMatch(amx.reason, /it needs a processor .* without AMX/);
    const noexec = await toldWhere(
      `${traces} /dev/shm must be not mounted noexec`,
    );
    assertEquals([noexec.verdict, noexec.path], ["limited", path]);
    assertMatch(noexec.reason, /it needs a \/dev\/shm .* not mounted noexec/);
    const noRoom = await toldWhere(`${traces} Aborted`);
    assertEquals(noRoom.verdict, "limited");
    assertMatch(noRoom.reason, /it needs room for its memory in \/dev\/shm/);
    const untraced = await toldWhere("no");
    assertEquals(untraced.verdict, "limited");
    assertMatch(untraced.reason, /it needs the right to trace a process/);
  },
);

Deno.test(
  "diagnose() ends User Mode Linux when it is given up, and leaves nothing",
  { ignore: !LINUX },
  async () => {
    await using dir = await tempDir();
    const [folder, temporary] = [dir.join("folder"), dir.join("temporary")];
    for (const path of [folder, temporary]) await Deno.mkdir(path);
    await Deno.writeTextFile(
      dir.join("linux.uml"),
      `#!/bin/sh\necho > '${dir.join("started")}'\nexec sleep 60\n`,
      { mode: 0o755 },
    );
    const doctor = new Deno.Command(Deno.execPath(), {
      args: ["run", "--no-check", "-A", MAIN, "doctor", "--json", folder],
      env: {
        PATH: `${dir.path}:${Deno.env.get("PATH")}`,
        TMPDIR: temporary,
      },
      stdout: "null",
      stderr: "null",
    }).spawn();
    let isOver = false;
    const ended = doctor.status.finally(() => isOver = true);
    while (!isOver && !namesIn(dir.path).includes("started")) {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    if (!isOver) doctor.kill("SIGINT");
    assertEquals((await ended).code, 130);
    assertEquals([...namesIn(folder), ...namesIn(temporary)], []);
  },
);

Deno.test("diagnose() tells a device that is not permitted from one that is missing", () => {
  const told = (code: string) =>
    tryDevice(["/dev/kvm", "guests", "a processor"], () => {
      throw Object.assign(new Error(code), { code });
    });
  for (const code of ["ENOENT", "ENODEV", "ENXIO"]) {
    const { verdict, path, remedy } = told(code);
    assertEquals([verdict, path, remedy], ["missing", null, "a processor"]);
  }
  for (const code of ["EACCES", "EPERM"]) {
    const { verdict, path, reason, remedy } = told(code);
    assertEquals([verdict, path], ["limited", "/dev/kvm"]);
    assertMatch(reason!, /is there, and this user is not permitted/);
    assertMatch(remedy!, /ls -l \/dev\/kvm/);
  }
});
