/**
 * The disk inside a container, read and written, with QEMU's own tools as the
 * judges of what is there afterwards.
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { lookInside } from "../../../src/backends/container/mod.ts";
import { VirtualDisk } from "../../../src/disk/disk.ts";
import type { OpenOptions } from "../../../src/disk/open.ts";
import { DiskError } from "../../../src/errors.ts";
import { Random } from "../../../src/random.ts";
import { isSame } from "../../../src/bytes.ts";
import {
  childrenOver,
  hasTmpfs,
  LONG,
  needs,
  pause,
  run,
  stopProcess,
  type TempDir,
  tempDir,
  tmpfsDir,
} from "../../helpers.ts";
import { dmgOf } from "./dmg.ts";

const TOOLS = needs("qemu-img", "qemu-nbd");
const MIB = 1_048_576;
const SECTORS = (LONG ? 64 : 4) * MIB / 512;
const OPERATIONS = LONG ? 400 : 40;

/** How an image is made of a raw one, and what is to be seen of it. */
interface Kind {
  /** Its name for qemu-img, and its ending. */
  readonly format: string;
  /** What its name ends in, if not in that. */
  readonly ending?: string;
  readonly options?: string;
  readonly args?: string[];
  /** Whether QEMU cannot write to it. */
  readonly readOnly?: boolean;
  /** Whether qemu-img cannot check it. */
  readonly unchecked?: boolean;
  /** Whether it stands on a backing file. */
  readonly backed?: boolean;
  /** Whether it is for the long form: another one is much like it. */
  readonly isLong?: boolean;
}

const KINDS: Record<string, Kind> = {
  "qcow2 v2": { format: "qcow2", options: "compat=0.10" },
  "qcow2 v3": { isLong: true, format: "qcow2" },
  "qcow2 in clusters of 4 KiB": {
    format: "qcow2",
    options: "cluster_size=4096",
  },
  "qcow2 in clusters of 2 MiB": {
    format: "qcow2",
    options: "cluster_size=2M",
  },
  "qcow2, compressed": { format: "qcow2", args: ["-c"] },
  "qcow2, compressed by zstd": {
    isLong: true,
    format: "qcow2",
    args: ["-c"],
    options: "compression_type=zstd",
  },
  "qcow2 with subclusters": {
    isLong: true,
    format: "qcow2",
    options: "extended_l2=on",
  },
  "qcow2 on a backing file": { format: "qcow2", backed: true },
  "VMDK": { format: "vmdk" },
  "VMDK, streamOptimized": {
    format: "vmdk",
    options: "subformat=streamOptimized",
    readOnly: true,
  },
  "VDI": { format: "vdi" },
  "VDI, fixed": { isLong: true, format: "vdi", options: "static=on" },
  "VHD": {
    format: "vpc",
    ending: "vhd",
    options: "force_size=on",
    unchecked: true,
  },
  "VHD, fixed": {
    isLong: true,
    format: "vpc",
    ending: "vhd",
    options: "subformat=fixed,force_size=on",
    unchecked: true,
  },
  "VHDX": { format: "vhdx" },
  "QED": { isLong: true, format: "qed" },
  "Parallels": { isLong: true, format: "parallels", ending: "hds" },
  "qcow": { isLong: true, format: "qcow", unchecked: true },
};

/** Content with holes, zeroes that are stored, and data. */
function content(random: Random): Uint8Array {
  const bytes = new Uint8Array(SECTORS * 512);
  for (let i = 0; i < 12; i++) {
    const at = random.below(SECTORS - 256) * 512;
    bytes.set(random.bytes((1 + random.below(255)) * 512), at);
  }
  return bytes;
}

/** Makes an image of some content; returns its path. */
async function make(
  dir: TempDir,
  kind: Kind,
  bytes: Uint8Array,
): Promise<string> {
  const path = dir.join(`disk.${kind.ending ?? kind.format}`);
  const raw = await dir.file("disk.raw", bytes);
  const options = kind.options === undefined ? [] : ["-o", kind.options];
  if (kind.backed) {
    await run("qemu-img", [
      ...["create", "-q", "-f", "qcow2", "-b", raw, "-F", "raw", path],
    ]);
    return path;
  }
  await run("qemu-img", [
    ...["convert", "-f", "raw", "-O", kind.format, ...kind.args ?? []],
    ...[...options, raw, path],
  ]);
  return path;
}

for (const [name, kind] of Object.entries(KINDS)) {
  Deno.test({
    name: `VirtualDisk.open() reads and writes ${name} as QEMU does`,
    ignore: TOOLS.ignore || (kind.isLong === true && !LONG),
    async fn() {
      const seed = crypto.getRandomValues(new Uint32Array(1))[0]!;
      const random = new Random(seed);
      await using dir = await tempDir();
      const model = content(random);
      const path = await make(dir, kind, model);
      const options: OpenOptions = {
        readOnly: kind.readOnly ?? false,
        backingFiles: kind.backed ? "allow" : "refuse",
      };
      const facts = lookInside(path);
      const isTold = kind.format !== "vhdx";
      assertEquals(facts?.virtualBytes, isTold ? SECTORS * 512 : null);
      assertEquals(facts?.otherFiles.length, kind.backed ? 1 : 0);
      if (kind.readOnly) {
        const error = await assertRejects(
          () => VirtualDisk.open(path),
          DiskError,
          "for writing as QEMU only reads vmdk that is compressed",
        );
        assertEquals(error.kind, "read-only");
      }
      {
        await using disk = await VirtualDisk.open(path, options);
        assertEquals(disk.sectors, SECTORS, `seed ${seed}`);
        for (let i = 0; i < OPERATIONS; i++) {
          const count = 1 + random.below(random.pick([8, 300]));
          const sector = random.below(SECTORS - count);
          const [from, to] = [sector * 512, (sector + count) * 512];
          const what = kind.readOnly ? 0 : random.below(4);
          if (what === 0) {
            assertEquals(
              await disk.read(sector, count),
              model.slice(from, to),
              `seed ${seed}, operation ${i}`,
            );
          } else if (what === 1) {
            await disk.writeZeroes(sector, count, {
              unmap: random.below(2) > 0,
            });
            model.fill(0, from, to);
          } else {
            const data = random.bytes(count * 512);
            await disk.write(sector, data, { fua: random.below(8) === 0 });
            model.set(data, from);
          }
        }
        if (!kind.readOnly) await disk.flush();
      }
      await using again = await VirtualDisk.open(path, {
        ...options,
        readOnly: true,
      });
      assertEquals(await again.read(0, SECTORS), model, `seed ${seed}`);
      const raw = await dir.file("expected.raw", model);
      await run("qemu-img", [
        ...["compare", "-q", "-f", kind.format, "-F", "raw", path, raw],
      ]);
      if (kind.unchecked) return;
      await run("qemu-img", ["check", "-q", "-f", kind.format, path]);
    },
  });
}

Deno.test({
  name:
    "VirtualDisk.open() leaves nothing of qemu-nbd behind, closed or refused",
  ...TOOLS,
  async fn() {
    await using dir = await tempDir();
    const path = dir.join("disk.qcow2");
    await run("qemu-img", ["create", "-q", "-f", "qcow2", path, "1M"]);
    {
      await using disk = await VirtualDisk.open(path);
      await disk.write(0, new Uint8Array(512));
      assertEquals((await childrenOver(path)).length, 1);
    }
    assertEquals(await childrenOver(path), []);
    const header = await Deno.readFile(path);
    header[23] = 60; // Clusters of 2^60 bytes.
    await Deno.writeFile(path, header);
    const error = await assertRejects(
      () => VirtualDisk.open(path),
      DiskError,
      `Cannot open "${path}" as qcow2 as qemu-nbd does not: `,
    );
    assertEquals(error.kind, "format");
    assertEquals(error.message.includes("json:"), false, error.message);
    assertEquals(await childrenOver(path), []);
    await run("qemu-img", ["create", "-q", "-f", "qcow2", path, "1M"]);
    await assertRejects(
      () => VirtualDisk.open(path, { signal: AbortSignal.abort("enough") }),
    );
    const controller = new AbortController();
    const opening = VirtualDisk.open(path, { signal: controller.signal });
    setTimeout(() => controller.abort(new Error("enough")), 3);
    await opening.then((disk) => disk.close(), () => {});
    assertEquals(await childrenOver(path), []);
  },
});

for (const signal of ["SIGKILL", "SIGTERM"] as const) {
  Deno.test({
    name: `qemu-nbd ends in good order when this process is ended by ${signal}`,
    ...TOOLS,
    ignore: TOOLS.ignore || Deno.build.os !== "linux",
    async fn() {
      await using dir = await tempDir();
      const path = dir.join("disk.qcow2");
      await run("qemu-img", ["create", "-q", "-f", "qcow2", path, "1M"]);
      const script = dir.join("script.ts");
      const mod = import.meta.resolve("../../../mod.ts");
      await Deno.writeTextFile(
        script,
        `import { VirtualDisk } from ${JSON.stringify(mod)};
        const disk = await VirtualDisk.open(${JSON.stringify(path)});
        await disk.write(8, new Uint8Array(512).fill(7));
        await disk.flush();
        console.log("ready");
        setInterval(() => disk.read(0, 8), 1000);`,
      );
      const child = new Deno.Command(Deno.execPath(), {
        args: ["run", "-A", "--no-check", script],
        ...{ stdin: "null", stdout: "piped", stderr: "inherit" },
      }).spawn();
      const reader = child.stdout.getReader();
      assertEquals((await reader.read()).done, false);
      assertEquals((await childrenOver(path)).length, 1);
      child.kill(signal);
      await reader.cancel();
      await child.status;
      while ((await childrenOver(path)).length > 0) await pause(10);
      await run("qemu-img", ["check", "-q", path]);
      await using disk = await VirtualDisk.open(path);
      assertEquals((await disk.read(8, 1))[0], 7);
    },
  });
}

Deno.test({
  name: "a disk whose qemu-nbd is killed fails and says so, and closes",
  ...TOOLS,
  ignore: TOOLS.ignore || Deno.build.os !== "linux",
  async fn() {
    await using dir = await tempDir();
    const path = dir.join("disk.qcow2");
    await run("qemu-img", ["create", "-q", "-f", "qcow2", path, "1M"]);
    const disk = await VirtualDisk.open(path);
    const [pid] = await childrenOver(path);
    Deno.kill(pid!, "SIGKILL");
    while ((await childrenOver(path)).length > 0) await pause(10);
    const error = await assertRejects(() => disk.read(0, 8), DiskError);
    assertEquals(error.kind, "io");
    assertStringIncludes(error.message, `"${path}"`);
    assertStringIncludes(error.message, "(qemu-nbd has ended)");
    await assertRejects(
      () => disk.close(),
      DiskError,
      "in good order as qemu-nbd was ended by SIGKILL",
    );
    await using again = await VirtualDisk.open(path);
    assertEquals(again.sectors, 2048);
  },
});

Deno.test({
  name:
    "VirtualDisk.open() locks a container against QEMU and itself, and names who holds it",
  ...TOOLS,
  async fn() {
    await using dir = await tempDir();
    const path = dir.join("disk.qcow2");
    await run("qemu-img", ["create", "-q", "-f", "qcow2", path, "1M"]);
    {
      await using disk = await VirtualDisk.open(path);
      assertEquals(disk.info.lock, { method: "OFD", reason: null });
      for (const options of [{}, { format: "raw" }] as const) {
        const error = await assertRejects(
          () => VirtualDisk.open(path, options),
          DiskError,
          "this process, deno",
        );
        assertEquals(error.kind, "locked");
      }
      await assertRejects(
        () => run("qemu-io", ["-f", "qcow2", "-c", "write 0 512", path]),
        Error,
        "lock",
      );
      await using beside = await VirtualDisk.open(path, {
        ...{ readOnly: true, lock: "none" },
      });
      assertEquals(beside.sectors, 2048);
    }
    {
      await Deno.truncate(path, MIB);
      await using _raw = await VirtualDisk.open(path, {
        ...{ format: "raw", backend: "direct" },
      });
      const error = await assertRejects(
        () => VirtualDisk.open(path, { readOnly: true }),
        DiskError,
      );
      assertEquals(error.kind, "locked");
      assertMatch(error.message, /for reading as this process, deno/);
    }
  },
});

Deno.test({
  name:
    "VirtualDisk.open() follows no name in a container unless it is allowed, and then for reading",
  ...TOOLS,
  async fn() {
    await using dir = await tempDir();
    const secret = await dir.file("secret", new Uint8Array(MIB).fill(7));
    const cases: [path: string, role: string, ...args: string[]][] = [
      ["b.qcow2", "a backing file", "-f", "qcow2", "-F", "raw", "-b", secret],
      ["b.qed", "a backing file", "-f", "qed", "-F", "raw", "-b", secret],
      [
        ...["d.qcow2", "a data file", "-f", "qcow2", "-o"] as const,
        `data_file=${secret},data_file_raw=on`,
      ],
      ["e.vmdk", "an extent", "-f", "vmdk", "-o", "subformat=monolithicFlat"],
    ];
    for (const [name, role, ...args] of cases) {
      const path = dir.join(name);
      const size = args.includes("-b") ? [] : ["1M"];
      await run("qemu-img", ["create", "-q", ...args, path, ...size]);
      await Deno.writeFile(secret, new Uint8Array(MIB).fill(7));
      const error = await assertRejects(
        () => VirtualDisk.open(path, { readOnly: true }),
        DiskError,
        `as it names ${role}, `,
      );
      assertEquals(error.kind, "format");
      assertStringIncludes(error.message, 'backingFiles: "allow"');
      await using disk = await VirtualDisk.open(path, {
        backingFiles: "allow",
      });
      assertEquals(disk.info.otherFiles?.length, 1);
      await disk.write(8, new Uint8Array(512).fill(1));
      assertEquals((await disk.read(8, 1))[0], 1);
      if (role === "an extent") continue;
      assertEquals((await disk.read(0, 1))[0], 7);
      if (role === "a backing file") {
        assertEquals((await Deno.readFile(secret))[8 * 512], 7);
      }
    }
  },
});

Deno.test({
  name:
    "VirtualDisk.open() refuses backing files without a format, that are no files, and in a circle",
  ...TOOLS,
  async fn() {
    await using dir = await tempDir();
    const path = dir.join("top.qcow2");
    const base = await dir.file("base.img", MIB);
    const rebase = (name: string, ...format: string[]) =>
      run("qemu-img", ["rebase", "-u", ...format, "-b", name, path]);
    await run("qemu-img", ["create", "-q", "-f", "qcow2", path, "1M"]);
    await rebase(base, "-F", "raw");
    // The name of the format, which is padded with zeroes to 8 bytes.
    const header = await Deno.readFile(path);
    const at = new TextDecoder("latin1").decode(header)
      .indexOf("\xe2\x79\x2a\xca\0\0\0\x03raw");
    assert(at > 0);
    const unknown = header.slice();
    unknown.set(new TextEncoder().encode("xyz"), at + 8);
    const missing = header.slice();
    missing.set([0x11, 0x22, 0x33, 0x44], at);
    const open = () => VirtualDisk.open(path, { backingFiles: "allow" });
    for (
      const [bytes, words] of [
        [unknown, "of a format that is not known here"],
        [missing, "without its format"],
      ] as const
    ) {
      await Deno.writeFile(path, bytes);
      await assertRejects(open, DiskError, words);
    }
    await Deno.writeFile(path, header);
    for (
      const [name, format, words] of [
        ["nbd://localhost/x", "raw", "which is no file"],
        ["json:{}", "raw", "which is no file"],
        ["fat:rw:/etc", "raw", "which is no file"],
        ["/dev/null", "raw", "neither a file nor a block device"],
        [dir.join("missing"), "raw", "no such file"],
        ["top.qcow2", "qcow2", "have each of them once"],
        ["base.img", "qcow2", "no signature of that format"],
      ] as const
    ) {
      await rebase(name, "-F", format);
      const error = await assertRejects(open, DiskError, words);
      assert(["format", "not-found"].includes(error.kind), error.message);
    }
  },
});

Deno.test({
  name:
    "VirtualDisk.open() without qemu-nbd names its package, without permission the flag",
  ...TOOLS,
  ignore: TOOLS.ignore || Deno.build.os !== "linux",
  async fn() {
    await using dir = await tempDir();
    const path = dir.join("disk.qcow2");
    await run("qemu-img", ["create", "-q", "-f", "qcow2", path, "1M"]);
    const script = dir.join("script.ts");
    const mod = import.meta.resolve("../../../mod.ts");
    await Deno.writeTextFile(
      script,
      `import { VirtualDisk } from ${JSON.stringify(mod)};
      try {
        await using disk = await VirtualDisk.open(${JSON.stringify(path)});
        console.log("opened", disk.sectors);
      } catch (error) {
        console.log(error.kind, error.message);
      }`,
    );
    const files = ["--allow-read", "--allow-write", "--allow-net"];
    for (
      const [flags, PATH, words] of [
        [["-A"], dir.path, /^platform .*Debian's package qemu-utils/],
        [files, undefined, /^permission .* --allow-run=qemu-nbd/],
        [[...files, "--allow-run=qemu-nbd"], undefined, /^opened 2048/],
      ] as const
    ) {
      const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
        args: ["run", "--no-check", "--no-prompt", ...flags, script],
        ...(PATH === undefined ? {} : { env: { PATH } }),
        ...{ stdin: "null", stdout: "piped", stderr: "piped" },
      }).output();
      const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
      assertMatch(text(stdout), words, text(stderr));
    }
  },
});

Deno.test({
  name: "VirtualDisk.open() refuses a container what only files can have",
  ...TOOLS,
  async fn() {
    await using dir = await tempDir();
    const path = dir.join("disk.qcow2");
    await run("qemu-img", ["create", "-q", "-f", "qcow2", path, "1M"]);
    for (
      const options of [
        { backend: "portable" },
        { backend: "direct" },
        { direct: "require" },
        { engine: "sync" },
      ] as const
    ) {
      const error = await assertRejects(
        () => VirtualDisk.open(path, options),
        DiskError,
        "as a disk inside qcow2, which qemu-nbd reads and writes, cannot",
      );
      assertEquals(error.kind, "platform");
    }
    await assertRejects(
      () => VirtualDisk.open(path, { format: "floppy" as "raw" }),
      TypeError,
      "format must be one of",
    );
    const disk = await VirtualDisk.open(path, { readOnly: true });
    const refused = await assertRejects(
      () => disk.write(0, new Uint8Array(512)),
      DiskError,
    );
    assertEquals(refused.kind, "read-only");
    await disk.close();
  },
});

Deno.test({
  name: "VirtualDisk.open() reads a DMG, and refuses to write to one",
  ...TOOLS,
  async fn() {
    await using dir = await tempDir();
    const model = content(new Random(7));
    const path = await dir.file("disk.dmg", dmgOf(model));
    const error = await assertRejects(() => VirtualDisk.open(path), DiskError);
    assertEquals(error.kind, "read-only");
    await using disk = await VirtualDisk.open(path, { readOnly: true });
    assertEquals([disk.info.format, disk.sectors], ["dmg", SECTORS]);
    assertEquals(isSame(await disk.read(0, SECTORS), model), true);
  },
});

Deno.test({
  name:
    "VirtualDisk.open() of a container waits for no qemu-nbd that is stopped",
  ...TOOLS,
  ignore: TOOLS.ignore || Deno.build.os !== "linux",
  async fn() {
    // Where no flush takes long.
    await using dir = await (hasTmpfs() ? tmpfsDir() : tempDir());
    const path = dir.join("disk.qcow2");
    await run("qemu-img", ["create", "-q", "-f", "qcow2", path, "1M"]);
    const disk = await VirtualDisk.open(path, {
      ...{ requestTimeoutMs: 2500, closeTimeoutMs: 100 },
    });
    // Whoever owes nothing may be silent.
    if (LONG) await pause(4000);
    await disk.write(0, new Uint8Array(512).fill(1));
    await disk.flush();
    const [child] = await childrenOver(path);
    await stopProcess(child!);
    for (const work of [() => disk.read(0, 1), () => disk.flush()]) {
      const error = await assertRejects(work, DiskError);
      assertEquals([error.kind, error.code], ["io", "ENOTCONN"]);
      assertStringIncludes(error.message, "answered nothing for 2500 ms");
    }
    await assertRejects(() => disk.close(), DiskError, "was made to");
    assertEquals(await childrenOver(path), []);
    await using again = await VirtualDisk.open(path);
    assertEquals((await again.read(0, 1))[0], 1);
  },
});
