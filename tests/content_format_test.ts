/**
 * What is no raw disk is told from one.
 *
 * @module
 */

import { assertEquals, assertMatch, assertRejects } from "@std/assert";
import { contentFormatOf } from "../src/content_format.ts";
import { VirtualDisk } from "../src/disk/disk.ts";
import { DiskError } from "../src/errors.ts";
import { Random } from "../src/random.ts";
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
    ["copy", other, path, "--force", "--target-format", "raw"],
    ["write", path, "--sector", "9", raw, "--format", "raw"],
  ];
  for (const verb of verbs) {
    await Deno.writeFile(path, content);
    const { err, out } = await platter(verb);
    assertEquals(err.includes(warning), true, `${verb}: ${err}`);
    assertEquals(out.includes(warning), false, `${verb}`);
  }
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
