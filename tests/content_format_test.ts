/**
 * What is no raw disk is told from one.
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
import { contentFormatOf } from "../src/content_format.ts";
import { VirtualDisk } from "../src/disk/disk.ts";
import { openBackend } from "../src/disk/open.ts";
import { overlay } from "../src/disk/overlay.ts";
import { DiskError } from "../src/errors.ts";
import { Random } from "../src/random.ts";
import { fixtureImage, temporaryImage } from "../src/testing/test_images.ts";
import { platter } from "./cli/harness.ts";
import { isRoot, loopDevice, needs, run, tempDir } from "./helpers.ts";

const BACKENDS = Deno.build.os === "linux"
  ? ["direct", "portable"] as const
  : ["portable"] as const;
const MIB = 1_048_576;

Deno.test("contentFormatOf() takes what is raw for raw", () => {
  const random = new Random(8);
  for (let i = 0; i < 1000; i++) {
    const length = random.pick([0, 1, 63, 511, 512]);
    assertEquals(
      contentFormatOf(random.bytes(length), random.bytes(length)),
      null,
    );
  }
  assertEquals(contentFormatOf(new Uint8Array(512), new Uint8Array(512)), null);
});

/** Makes an image, and says what is to be found. */
const TOOLS: Record<string, [tool: string, args: string[], found: string]> = {};
for (
  const [format, found, ...options] of [
    ["raw", ""],
    ["qcow2", "qcow2"],
    ["qed", "QED"],
    ["vmdk", "VMDK"],
    ["vmdk", "VMDK", "-o", "subformat=monolithicFlat"],
    ["vdi", "VDI"],
    ["vpc", "VHD"],
    ["vpc", "VHD", "-o", "subformat=fixed"],
    ["vhdx", "VHDX"],
    ["parallels", "Parallels"],
    [
      "luks",
      "LUKS",
      "--object",
      "secret,id=s,data=x",
      "-o",
      "key-secret=s,iter-time=10",
    ],
  ] as const
) {
  const args = ["create", "-q", "-f", format, ...options, "IMAGE", "8M"];
  TOOLS[[format, ...options].join(" ")] = ["qemu-img", args, found];
}

/**
 * Runs what makes an image. qemu-img measures how fast it derives keys, and gives
 * up where it gets too little of the processor.
 */
async function make(tool: string, args: string[]): Promise<void> {
  for (let tries = 0;; tries++) {
    try {
      await run(tool, args);
      return;
    } catch (error) {
      const text = `${error}`;
      if (tries === 50 || !text.includes("accurate CPU usage")) throw error;
    }
  }
}

for (const [name, [tool, args, found]] of Object.entries(TOOLS)) {
  Deno.test({
    name: `VirtualDisk.open() warns of ${name} opened raw`,
    ...needs(tool),
    async fn() {
      await using dir = await tempDir();
      const path = dir.join("disk.img");
      await make(tool, args.map((text) => text === "IMAGE" ? path : text));
      // Such as VMDK's descriptor, which is a text.
      const { size } = await Deno.stat(path);
      if (size % 512 !== 0) {
        for (const backend of BACKENDS) {
          const error = await assertRejects(
            () => VirtualDisk.open(path, { backend, format: "raw" }),
            DiskError,
            `as its content looks like ${found}, and only raw images`,
          );
          assertEquals(error.kind, "geometry");
        }
      }
      await Deno.truncate(path, Math.ceil(size / 512) * 512);
      for (const backend of BACKENDS) {
        for (const direct of ["never", "prefer"] as const) {
          await using disk = await VirtualDisk.open(path, {
            backend,
            direct,
            readOnly: true,
            format: "raw",
          });
          assertEquals(disk.info.contentFormat, found === "" ? null : found);
          assertEquals(disk.info.warnings?.length, found === "" ? 0 : 1);
          assertEquals(disk.counters.systemCalls, 0);
        }
      }
      const { code, err, out } = await platter([
        ...["info", path, "--json", "--format", "raw"],
      ]);
      assertEquals(code, 0);
      assertEquals(JSON.parse(out).contentFormat, found === "" ? null : found);
      if (found === "") assertEquals(err, "");
      else {
        assertMatch(
          err,
          new RegExp(
            `^platter: "${path}": Its content looks like ${found} .*\\n$`,
          ),
        );
      }
    },
  });
}

Deno.test("every verb that opens an image warns of what is no raw one, on standard error", async () => {
  await using dir = await tempDir();
  const content = new Uint8Array(65_536);
  content.set(new TextEncoder().encode("vhdxfile"));
  const path = await dir.file("a.img", content);
  const other = await dir.file("b.img", 65_536);
  const raw = await dir.file("bytes", 512);
  const warning = `platter: "${path}": Its content looks like VHDX `;
  const verbs = [
    ["info", path, "--format", "raw"],
    ["map", path, "--format", "raw"],
    ["read", path, "--sector", "0", "--count", "1", "--format", "raw"],
    ["compare", path, path, "--format", "raw"],
    ["copy", path, dir.join("new.img"), "--format", "raw"],
    ["copy", other, path, "--force", "--to-format", "raw"],
    ["write", path, "--sector", "9", raw, "--format", "raw"],
  ];
  for (const verb of verbs) {
    await Deno.writeFile(path, content);
    const { err, out } = await platter(verb);
    assertEquals(err.includes(warning), true, `${verb}: ${err}`);
    assertEquals(out.includes(warning), false, `${verb}`);
  }
});

/** What is written into a raw disk to make it look like something else. */
const HEADERS: Record<string, Uint8Array> = {
  nothing: new Uint8Array(),
  qcow2: Uint8Array.of(0x51, 0x46, 0x49, 0xfb, 0, 0, 0, 3),
  VHDX: new TextEncoder().encode("vhdxfile"),
  gzip: Uint8Array.of(0x1f, 0x8b, 8),
  LUKS: Uint8Array.of(0x4c, 0x55, 0x4b, 0x53, 0xba, 0xbe),
};

const RULES: [
  name: string,
  header: string,
  reading: string,
  writing: string,
][] = [
  ["disk.img", "nothing", "raw", "raw"],
  ["disk.img", "LUKS", "raw", "raw"],
  ["disk.img", "gzip", "raw", "what is written into compressed data"],
  ["disk.img", "qcow2", 'format: "qcow2", and', 'format: "raw"'],
  ["disk.vmdk", "qcow2", "which its name does not say", 'format: "qcow2"'],
  ["disk.qcow2", "nothing", "its name says qcow2", 'format: "raw"'],
  ["disk.qcow2", "LUKS", "its name says qcow2", 'format: "raw"'],
  ["disk-flat.vmdk", "nothing", "raw", "raw"],
];

Deno.test("VirtualDisk.open() takes a container for one only where content and name agree", async () => {
  await using dir = await tempDir();
  for (const [name, header, ...outcomes] of RULES) {
    const content = new Uint8Array(65_536);
    content.set(HEADERS[header]!);
    const path = await dir.file(name, content);
    for (const backend of BACKENDS) {
      for (const [i, outcome] of outcomes.entries()) {
        const options = { backend, readOnly: i === 0 };
        if (outcome !== "raw") {
          const error = await assertRejects(
            () => VirtualDisk.open(path, options),
            DiskError,
            outcome,
          );
          assertEquals(error.kind, "format", `${name}, ${header}`);
        }
        await using disk = await VirtualDisk.open(path, {
          ...options,
          ...(outcome === "raw" ? {} : { format: "raw" }),
        });
        assertEquals(disk.info.format, "raw");
        assertEquals(disk.sectors, 128);
        assertEquals(await disk.read(0, 1), content.slice(0, 512));
      }
    }
    assertEquals(await Deno.readFile(path), content);
  }
});

Deno.test("VirtualDisk.open() advises nobody to open raw what is no whole blocks", async () => {
  await using dir = await tempDir();
  let refused = 0;
  for (const [name, header, ...outcomes] of RULES) {
    const content = new Uint8Array(65_537);
    content.set(HEADERS[header]!);
    const path = await dir.file(name, content);
    for (const backend of BACKENDS) {
      for (const [i, outcome] of outcomes.entries()) {
        if (outcome === "raw") continue;
        const open = { backend, readOnly: i === 0 };
        const { kind, message } = await assertRejects(
          () => VirtualDisk.open(path, open),
          DiskError,
        );
        assertEquals(kind, "format", message);
        assert(!message.includes('format: "raw"'), message);
        assertMatch(message, /[^,:]$/);
        refused++;
        const raw = await assertRejects(
          () => VirtualDisk.open(path, { ...open, format: "raw" }),
          DiskError,
        );
        assertEquals(raw.kind, "geometry");
      }
    }
  }
  assert(refused > 0);
});

Deno.test("what is written to an open raw disk never makes it another one", async () => {
  await using dir = await tempDir();
  const path = await dir.file("disk.img", MIB);
  for (const backend of BACKENDS) {
    const disk = await VirtualDisk.open(path, { backend });
    const block = disk.allocate(8);
    block.set(HEADERS.qcow2!);
    await disk.write(0, block);
    await disk.flush();
    assertEquals(disk.info.format, "raw");
    assertEquals(disk.info.contentFormat, null);
    assertEquals(await disk.read(0, 8), block);
    assertEquals(disk.sectors, 2048);
    await disk.close();
    // Who opens it next is told, or insists.
    await assertRejects(
      () => VirtualDisk.open(path, { backend }),
      DiskError,
      "whoever wrote to the disk may have made it look so",
    );
    await using again = await VirtualDisk.open(path, {
      ...{ backend, format: "raw" },
    });
    assertEquals(await again.read(0, 8), block);
    await again.write(0, new Uint8Array(4096));
  }
});

Deno.test("temporaryImage() is raw, whatever is written into it", async () => {
  const content = new Uint8Array(4096);
  content.set(HEADERS.qcow2!);
  await using image = await temporaryImage({ content });
  await image.reopen();
  assertEquals(await image.disk.read(0, 8), content);
  await using copy = await fixtureImage(image.path!, { format: "raw" });
  assertEquals(await copy.disk.read(0, 8), content);
});

Deno.test("VirtualDisk.create() makes no raw image under a container's name", async () => {
  await using dir = await tempDir();
  const path = dir.join("disk.qcow2");
  for (const format of ["auto", "qcow2"] as const) {
    const error = await assertRejects(
      () => VirtualDisk.create(path, { size: MIB, format }),
      DiskError,
      `Cannot create "${path}"`,
    );
    assertEquals(error.kind, "format");
    await assertRejects(() => Deno.lstat(path), Deno.errors.NotFound);
  }
  const image = dir.join("disk.img");
  await assertRejects(
    () => VirtualDisk.create(image, { size: MIB, format: "vdi" }),
    DiskError,
    "only raw images are made here",
  );
  await assertRejects(() => Deno.lstat(image), Deno.errors.NotFound);
  {
    await using disk = await VirtualDisk.create(path, {
      ...{ size: MIB, format: "raw" },
    });
    assertEquals(disk.sectors, 2048);
  }
  await assertRejects(() => VirtualDisk.open(path), DiskError, "its name says");
});

Deno.test({
  name:
    "platter reads, writes, copies and compares the disk inside a container",
  ...needs("qemu-img", "qemu-nbd"),
  async fn() {
    await using dir = await tempDir();
    const [inside, raw] = [dir.join("disk.qcow2"), dir.join("disk.img")];
    const bytes = await dir.file("bytes", new Uint8Array(512).fill(7));
    await run("qemu-img", ["create", "-q", "-f", "qcow2", inside, "1M"]);
    const ok = async (...args: string[]) => {
      const { code, out, err } = await platter(args);
      assertEquals([code, err], [0, ""], args.join(" "));
      return out;
    };
    const fails = async (words: string, ...args: string[]) => {
      const { code, err } = await platter(args);
      assertEquals(code, 2);
      assertStringIncludes(err, words);
    };
    await ok("write", inside, "--sector", "9", bytes);
    await ok("copy", inside, raw);
    await run("qemu-img", [
      ...["compare", "-q", "-f", "qcow2", "-F", "raw", inside, raw],
    ]);
    await ok("compare", inside, raw);
    await ok("write", raw, "--sector", "20", bytes);
    assertEquals((await platter(["compare", inside, raw])).code, 1);
    await fails("as it exists", "copy", raw, inside);
    await ok("copy", raw, inside, "--force", "--verify");
    await ok("compare", inside, raw);
    await run("qemu-img", ["check", "-q", inside]);
    const { format, sectors, backend } = JSON.parse(
      await ok("info", inside, "--json"),
    );
    assertEquals([format, sectors, backend], ["qcow2", 2048, "qemu-nbd"]);

    await Deno.copyFile(inside, raw);
    await fails("open it with --format qcow2", "map", raw);
    await fails("--to-format raw", "copy", inside, raw, "--force");
    await ok("copy", inside, raw, "--force", "--to-format", "qcow2");
    await ok("compare", inside, raw, "--with-format", "qcow2");
    await fails(
      "--to-format raw insists",
      "copy",
      inside,
      dir.join("a.vdi"),
    );
    await fails("--format raw insists", "create", dir.join("a.vdi"), "1MiB");
    await ok("create", dir.join("a.vdi"), "1MiB", "--format", "raw");

    const over = dir.join("over.qcow2");
    await run("qemu-img", [
      ...["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", inside, over],
    ]);
    await fails("allow it with --backing-files", "read", over);
    const facts = await platter(["info", over]);
    assertEquals(facts.code, 2);
    assertMatch(
      facts.out,
      /^ {2}size +1 MiB .*\n {2}backing file +\/.* \(qcow2\)$/m,
    );
    const about = await ok("info", over, "--backing-files");
    assertMatch(about, /^ {2}format +qcow2$/m);
    assertStringIncludes(about, `${inside} (qcow2)`);
  },
});

Deno.test({
  name: "VirtualDisk.open() warns of a file that a loop device is made of",
  ignore: !isRoot() || needs("losetup").ignore,
  async fn() {
    await using dir = await tempDir();
    const path = await dir.file("disk.img", MIB);
    await using device = await loopDevice(path);
    for (const backend of BACKENDS) {
      await using disk = await VirtualDisk.open(path, { backend });
      assertEquals(disk.info.warnings?.length, 1);
      assertMatch(disk.info.warnings![0]!, new RegExp(device.path));
    }
  },
});

Deno.test("contentFormatOf() knows zstd by a frame that is skipped, as parallel compressors begin", () => {
  const head = Uint8Array.of(0x5a, 0x2a, 0x4d, 0x18, 4, 0, 0, 0);
  assertEquals(contentFormatOf(head, new Uint8Array()), "zstd");
  assertEquals(contentFormatOf(head.subarray(0, 3), new Uint8Array()), null);
  head[0] = 0x6a;
  assertEquals(contentFormatOf(head, new Uint8Array()), null);
});

Deno.test("an overlay's file is no disk, and is said to be one", async () => {
  await using dir = await tempDir();
  const base = await dir.file("disk.img", MIB);
  const file = dir.join("changes");
  await (await overlay(await openBackend(base), { file })).close();
  for (const backend of BACKENDS) {
    const error = await assertRejects(
      () => VirtualDisk.open(file, { backend }),
      DiskError,
      "looks like an overlay's file",
    );
    assertEquals(error.kind, "format");
    await using raw = await VirtualDisk.open(file, { backend, format: "raw" });
    assertStringIncludes(raw.info.warnings![0]!, "destroys its changes");
  }
  for (const args of [["info"], ["copy", dir.join("new.img")], ["serve"]]) {
    const { code, err } = await platter([args[0]!, file, ...args.slice(1)]);
    assertEquals(code, 2);
    assertMatch(err, /platter serve IMAGE --overlay=FILE.*--format raw/);
  }
});
