import {
  assert,
  assertEquals,
  assertMatch,
  assertStringIncludes,
} from "@std/assert";
import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import { gzipSync } from "node:zlib";
import { MemoryBackend } from "../../src/backends/memory.ts";
import { VirtualDisk } from "../../src/disk/disk.ts";
import { formatBmap, makeBmap } from "../../src/image/mod.ts";
import { faults } from "../../src/layers/mod.ts";
import { NbdServer } from "../../src/nbd/mod.ts";
import { Random } from "../../src/random.ts";
import { needs, run } from "../helpers.ts";
import { concat, exists, platter, processOf, Scratch } from "./harness.ts";

const MIB = 1 << 20;

/** 3 MiB: noise, zeroes, and noise that ends within a block of 4 KiB. */
const CONTENT = concat([
  new Random(1).bytes(MIB),
  new Uint8Array(MIB),
  new Random(2).bytes(MIB - 512),
]);

/** The same, packed once. */
const PACKED = gzipSync(CONTENT, { level: 1 });

/** Pieces of odd lengths, as pipes give them. */
function piecesOf(bytes: Uint8Array, size = 65_537): Uint8Array[] {
  const pieces: Uint8Array[] = [];
  for (let at = 0; at < bytes.length; at += size) {
    pieces.push(bytes.slice(at, at + size));
  }
  return pieces;
}

/** Compares without the difference, which takes more memory than there is. */
function assertSame(actual: Uint8Array, expected: Uint8Array): void {
  assertEquals(actual.length, expected.length);
  if (Buffer.compare(actual, expected) === 0) return;
  const at = actual.findIndex((byte, index) => byte !== expected[index]);
  assertEquals(at, -1, `byte ${at} differs`);
}

Deno.test("platter copy - takes standard input, raw or compressed, and knows which", async () => {
  await using scratch = await Scratch.make();
  const inputs = [
    CONTENT,
    PACKED,
    concat([
      gzipSync(CONTENT.subarray(0, MIB), { level: 1 }),
      gzipSync(CONTENT.subarray(MIB), { level: 1 }),
    ]),
  ];
  for (const [i, input] of inputs.entries()) {
    const path = scratch.of(`${i}.img`);
    const { code, out, err } = await platter(
      ["copy", "-", path, "--size", "4MiB", "--verify"],
      { stdin: piecesOf(input) },
    );
    assertEquals([code, err], [0, ""]);
    assertMatch(
      out,
      /^Copied and verified 3 MiB in .*: 2 MiB of data, 1 MiB of holes\n/,
    );
    const read = await Deno.readFile(path);
    assertSame(read.subarray(0, CONTENT.length), CONTENT);
    assertSame(read.subarray(CONTENT.length), new Uint8Array(MIB + 512));
  }
});

for (const tool of ["gzip", "xz", "zstd"]) {
  Deno.test(
    `platter copy decompresses what ${tool} made, and refuses it damaged or cut`,
    needs(tool),
    async () => {
      await using scratch = await Scratch.make();
      const image = await scratch.image("a.img", CONTENT.length, {
        0: CONTENT,
      });
      await run(tool, ["-k", "-1", image]);
      const suffix = { gzip: "gz", xz: "xz", zstd: "zst" }[tool];
      const packed = await Deno.readFile(`${image}.${suffix}`);
      const target = scratch.of("b.img");
      const args = ["copy", `${image}.${suffix}`, target];
      assertMatch(
        (await platter(args)).err,
        /nothing says how large: give --size/,
      );
      const { code } = await platter([...args, "--size", "6143s"]);
      assertEquals(code, 0);
      assertSame(await Deno.readFile(target), CONTENT);
      // Two of them in one file are one image.
      const twice = concat([packed, packed]);
      const two = await platter([
        "copy",
        "-",
        scratch.of("c.img"),
        "--size",
        "6MiB",
      ], {
        stdin: piecesOf(twice),
      });
      assertEquals([two.code, two.err], [0, ""]);

      const damaged = packed.slice();
      damaged[damaged.length - 5]! ^= 0x55;
      for (
        const bad of [packed.slice(0, -1), packed.slice(0, 100_000), damaged]
      ) {
        const path = scratch.of("bad");
        await Deno.writeFile(path, bad);
        const { code, out, err } = await platter([
          "copy",
          path,
          target,
          "--force",
        ]);
        assertEquals([code, out], [2, ""]);
        assertMatch(
          err,
          new RegExp(
            `Cannot read ".*bad" as its ${tool} data is damaged or ends early: [^:]+: ".*b.img" is ${
              bad.length > 200_000
                ? "now partly old and partly new"
                : "as it was"
            }`,
          ),
        );
        const made = await platter([
          "copy",
          path,
          scratch.of("new.img"),
          "--size",
          "4MiB",
        ]);
        assertMatch(made.err, /"[^"]*new.img" was removed again\n$/);
        assertEquals(await exists(scratch.of("new.img")), false);
      }
    },
  );
}

/** The first bytes of a qcow2: QEMU docs/interop/qcow2.rst. */
const QCOW2 = concat([
  new Uint8Array([0x51, 0x46, 0x49, 0xfb, 0, 0, 0, 3]),
  new Uint8Array(MIB - 8),
]);

Deno.test("platter copy refuses what is compressed and no raw image, and leaves the target", async () => {
  await using scratch = await Scratch.make();
  const target = await scratch.image("t.img", 4 * MIB, { 0: "before" });
  const before = await Deno.readFile(target);
  const cases: [inside: Uint8Array, format: string][] = [
    [QCOW2, "qcow2"],
    [PACKED, "gzip"],
    // Less than is looked at.
    [QCOW2.subarray(0, 6), "qcow2"],
  ];
  for (const [inside, format] of cases) {
    const file = scratch.of("x.gz");
    const packed = gzipSync(inside, { level: 1 });
    await Deno.writeFile(file, packed);
    for (
      const args of [[file, target, "-f"], ["-", target, "-f"], [file, "-"]]
    ) {
      const { code, out, err, listening } = await platter(
        ["copy", ...args],
        { stdin: piecesOf(packed, 11) },
      );
      assertEquals([code, out, listening], [2, "", false]);
      assertMatch(
        err,
        new RegExp(
          `Cannot copy .* as what is in its gzip data must be a raw image: ` +
            `current value looks like ${format} `,
        ),
      );
    }
    assertSame(await Deno.readFile(target), before);
  }
  // Decompressed elsewhere it is taken as it is, if that is said.
  const [made, size] = [scratch.of("n.img"), `${QCOW2.length}`];
  const { code, err } = await platter(
    ["copy", "-", made, "--size", size, "--format", "raw"],
    { stdin: piecesOf(QCOW2) },
  );
  assertEquals([code, err], [0, ""]);
  assertSame(await Deno.readFile(made), QCOW2);
});

Deno.test("platter copy decompresses an encrypted volume", async () => {
  await using scratch = await Scratch.make();
  const volume = CONTENT.slice();
  volume.set([0x4c, 0x55, 0x4b, 0x53, 0xba, 0xbe, 0, 2]);
  const target = scratch.of("t.img");
  const { code, err } = await platter(
    ["copy", "-", target, "--size", `${CONTENT.length}`],
    { stdin: piecesOf(gzipSync(volume, { level: 1 })) },
  );
  assertEquals([code, err], [0, ""]);
  assertSame(await Deno.readFile(target), volume);
});

Deno.test("platter copy - says how far it came if the target ends, the input fails, or a block is not whole", async () => {
  await using scratch = await Scratch.make();
  const target = await scratch.image("t.img", 2 * MIB);
  const long = await platter(["copy", "-", target, "--force"], {
    stdin: piecesOf(CONTENT),
  });
  assertEquals(long.code, 2);
  assertMatch(
    long.err,
    new RegExp(
      'Cannot write all of standard input as ".*" ends after 2 MiB of it: ' +
        '".*" is now partly old and partly new \\(the first 2 MiB of it are ' +
        "new\\)\n$",
    ),
  );
  const ragged = ["copy", "-", scratch.of("n.img"), "--size", "1MiB"];
  const stdin = [new Uint8Array(513).fill(7)];
  const refused = await platter(ragged, { stdin });
  assertMatch(
    refused.err,
    /last 1 byte of standard input as it is no whole block: fill it with --pad: ".*" was removed again/,
  );
  assertEquals((await platter([...ragged, "--pad"], { stdin })).code, 0);
  const empty = await platter(["copy", "-", target, "--force"]);
  assertMatch(
    empty.err,
    /Cannot copy standard input as it is empty: ".*" is as it was/,
  );
  const short = await platter(
    ["copy", "-", target, "--force", "--count", "3"],
    {
      stdin,
    },
  );
  assertMatch(short.err, /ends early: 1023 B are missing after 513 B/);
  const head = new Uint8Array(1024);
  head.set([0x51, 0x46, 0x49, 0xfb]);
  const qcow2 = await platter(["copy", "-", target, "--force"], {
    stdin: [head],
  });
  assertMatch(qcow2.err, /raw or compressed image: .* looks like qcow2\n$/);
});

Deno.test("platter copy - stops while its input says nothing, and removes what it made", async () => {
  await using scratch = await Scratch.make();
  const path = scratch.of("n.img");
  const { code, err, listening } = await platter(
    ["copy", "-", path, "--size", "1MiB"],
    { stdin: [new Uint8Array(100_000), "wait"] },
  );
  assertEquals([code, listening], [130, false]);
  assertMatch(err, /^platter: Interrupted: ".*n.img" was removed again\n$/);
});

Deno.test("platter copy --from, --to and --count move a range, in either numbers", async () => {
  await using scratch = await Scratch.make();
  const image = await scratch.image("a.img", CONTENT.length, { 0: CONTENT });
  const target = scratch.of("b.img");
  const range = ["--from", "0x10", "--count", "1MiB", "--to", "8"];
  const made = await platter(["copy", image, target, ...range, "--verify"]);
  assertEquals([made.code, made.err], [0, ""]);
  const read = await Deno.readFile(target);
  assertEquals(read.length, MIB + 4096);
  assertSame(read.subarray(4096), CONTENT.subarray(8192, 8192 + MIB));
  // Onto what exists, everything around stays.
  const before = new Random(9).bytes(2 * MIB);
  await Deno.writeFile(target, before);
  const [from, to, count] = [4, 100, 50];
  for (
    const [name, stdin] of [[image, []], ["-", piecesOf(CONTENT)]] as const
  ) {
    const { code, err } = await platter([
      ...["copy", name, target, "--force", `--from=${from}`, `--to=${to}`],
      `--count=${count}`,
    ], { stdin: [...stdin] });
    assertEquals([code, err], [0, ""]);
    const after = before.slice();
    after.set(CONTENT.subarray(from * 512, (from + count) * 512), to * 512);
    assertSame(await Deno.readFile(target), after);
  }
  for (
    const [range, words] of [
      [
        ["--from", "6143"],
        /Cannot copy from sector 6143 of ".*" as it has 6,143/,
      ],
      [["--from", "1", "--count", "6143"], /6,143 sectors from sector 1/],
      [
        ["--to", "4000"],
        /to sector 4000 of ".*" as the target has only 4096: ".*" is as it was/,
      ],
      [["--count", "0"], /--count as it must be one sector at least/],
    ] as const
  ) {
    const { code, err } = await platter([
      "copy",
      image,
      target,
      "-f",
      ...range,
    ]);
    assertEquals(code, 2);
    assertMatch(err, words);
  }
});

Deno.test("platter copy to standard output writes bytes and nothing else, decompressed too", async () => {
  await using scratch = await Scratch.make();
  const image = await scratch.image("a.img", CONTENT.length, { 0: CONTENT });
  const packed = scratch.of("a.gz");
  await Deno.writeFile(packed, PACKED);
  for (const name of [image, packed]) {
    const all = await platter(["copy", name, "-"]);
    assertEquals([all.code, all.err], [0, ""]);
    assertSame(all.bytes, CONTENT);
    const part = await platter([
      "copy",
      name,
      "-",
      "--from",
      "1",
      "--count",
      "3",
    ]);
    assertSame(part.bytes, CONTENT.subarray(512, 2048));
  }
  const terminal = await platter(["copy", image, "-"], { terminal: true });
  assertEquals([terminal.code, terminal.out], [2, ""]);
  const gone = await platter(["copy", image, "-"], {
    failing: { stdout: new Deno.errors.BrokenPipe("EPIPE") },
  });
  assertEquals([gone.code, gone.err], [141, ""]);
});

Deno.test(
  "platter copy into a pipe whose reader goes away ends by itself",
  needs("head"),
  async () => {
    await using scratch = await Scratch.make();
    const image = await scratch.image("a.img", 64 * MIB, { 0: CONTENT });
    const child = processOf(["copy", image, "-"], {
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const reader = child.stdout.getReader();
    await reader.read();
    await reader.cancel();
    const text = await new Response(child.stderr).text();
    assertEquals([(await child.status).code, text], [141, ""]);
  },
);

Deno.test("platter copy --bmap writes what is mapped and checks it, from disks and streams", async () => {
  await using scratch = await Scratch.make();
  const image = await scratch.image("a.img", 4 * MIB, {
    [MIB]: CONTENT.subarray(0, 200_000),
    [4 * MIB - 512]: "end",
  });
  const content = await Deno.readFile(image);
  const map = scratch.of("a.bmap");
  {
    await using disk = await VirtualDisk.open(image, { readOnly: true });
    await Deno.writeTextFile(map, await makeBmap(disk));
  }
  const packed = scratch.of("a.gz");
  await Deno.writeFile(packed, gzipSync(content));
  for (const [i, name] of [image, packed].entries()) {
    const target = scratch.of(`${i}.img`);
    const { code, out, err } = await platter([
      ...["copy", name, target, "--bmap", map, "--verify", "--json"],
    ]);
    assertEquals([code, err], [0, ""]);
    const json = JSON.parse(out);
    assertEquals(json.bytes, 4 * MIB);
    assertEquals(
      json.bytes,
      json.written + json.zeroed + json.skipped + json.unmapped,
    );
    assertSame(await Deno.readFile(target), content);
    // What is not mapped stays as it was.
    const old = await scratch.image(`${i}.old`, 5 * MIB, {
      0: new Uint8Array(5 * MIB).fill(0xee),
    });
    await platter(["copy", name, old, "--force", "--bmap", map]);
    const after = await Deno.readFile(old);
    assertEquals([after[0], after[5 * MIB - 1]], [0xee, 0xee]);
    assertSame(
      after.subarray(MIB, MIB + 200_000),
      CONTENT.subarray(0, 200_000),
    );
  }

  content[MIB + 100_000]! ^= 1;
  await Deno.writeFile(scratch.of("bad.img"), content);
  const bad = await platter([
    "copy",
    scratch.of("bad.img"),
    scratch.of("n.img"),
    "--bmap",
    map,
  ]);
  assertEquals([bad.code, bad.out], [2, ""]);
  assertMatch(
    bad.err,
    /Cannot confirm blocks 256 to \d+ of ".*" as their sha256 must be [0-9a-f]{64}, as the bmap says: .*: ".*n.img" was removed again\n$/,
  );
  const cut = gzipSync(content.subarray(0, 2 * MIB));
  const short = await platter(
    ["copy", "-", scratch.of("n.img"), "--bmap", map],
    { stdin: [cut] },
  );
  assertEquals(short.code, 2);
  assertEquals(await exists(scratch.of("n.img")), false);
  const more = await platter(
    ["copy", "-", scratch.of("n.img"), "--bmap", map],
    {
      stdin: [await Deno.readFile(image), new Uint8Array(1)],
    },
  );
  assertStringIncludes(more.err, "it goes on after its end");
  await Deno.writeTextFile(map, "<bmap>");
  const none = await platter([
    "copy",
    image,
    scratch.of("n.img"),
    "--bmap",
    map,
  ]);
  assertMatch(none.err, /Cannot use ".*a.bmap": Cannot read a bmap as/);
});

Deno.test("platter copy --bmap goes by the map of an image that is all holes", async () => {
  await using scratch = await Scratch.make();
  const image = await scratch.image("a.img", MIB);
  const map = scratch.of("a.bmap");
  assertEquals((await platter(["bmap", image, "-o", map])).code, 0);
  const old = new Uint8Array(MIB).fill(0xee);
  for (const name of [image, "-"]) {
    const stdin = () => [new Uint8Array(MIB)];
    const target = scratch.of(`${name === "-"}.img`);
    const args = ["copy", name, target, "--bmap", map, "--verify"];
    const made = await platter(args, { stdin: stdin() });
    assertEquals([made.code, made.err], [0, ""]);
    assertSame(await Deno.readFile(target), new Uint8Array(MIB));
    await Deno.writeFile(target, old);
    const over = await platter([...args, "--force", "--json"], {
      stdin: stdin(),
    });
    assertEquals([over.code, over.err], [0, ""]);
    assertEquals(JSON.parse(over.out).unmapped, MIB);
    assertSame(await Deno.readFile(target), old);
  }
});

Deno.test("platter copy --bmap refuses the map of a shorter image, before it writes", async () => {
  await using scratch = await Scratch.make();
  const short = await scratch.image("a.img", MIB, { 0: "a" });
  const long = await scratch.image("b.img", MIB + 512, { 0: "a" });
  const map = scratch.of("a.bmap");
  assertEquals((await platter(["bmap", short, "-o", map])).code, 0);
  const target = scratch.of("t.img");
  const { code, err } = await platter(["copy", long, target, "--bmap", map]);
  assertEquals(code, 2);
  assertMatch(
    err,
    /by that bmap as the image must have 1,048,576 bytes, .* is 1,049,088 bytes\n$/,
  );
  assertEquals(await exists(target), false);
});

Deno.test("platter copy --bmap takes an image that is no whole sectors", async () => {
  await using scratch = await Scratch.make();
  const bytes = new Random(4).bytes(5000);
  const sum = async (data: Uint8Array<ArrayBuffer>) =>
    new Uint8Array(await crypto.subtle.digest("SHA-256", data)).toHex();
  const map = scratch.of("map");
  await Deno.writeTextFile(
    map,
    formatBmap({
      imageBytes: 5000,
      blockBytes: 4096,
      ranges: [{ first: 0, last: 1, checksum: await sum(bytes) }],
    }),
  );
  const target = scratch.of("t.img");
  const { code, err } = await platter(["copy", "-", target, "--bmap", map], {
    stdin: [bytes],
  });
  assertEquals([code, err], [0, ""]);
  assertSame(
    await Deno.readFile(target),
    concat([bytes, new Uint8Array(5120 - 5000)]),
  );
});

Deno.test("platter copy --bmap refuses ranges that cut through the target's blocks, before it writes", async () => {
  await using scratch = await Scratch.make();
  const bytes = new Random(4).bytes(16_384);
  const map = scratch.of("map");
  const target = await scratch.image("t.img", 65_536, {
    0: new Uint8Array(65_536).fill(0xee),
  });
  // Begins within a block, ends within one, ends with the image, does neither.
  for (
    const [imageBytes, second, isRefused] of [
      [16_384, { first: 5, last: 7 }, true],
      [16_384, { first: 4, last: 4 }, true],
      [9_000, { first: 4, last: 4 }, false],
      [16_384, { first: 4, last: 7 }, false],
    ] as const
  ) {
    const ranges = [{ first: 0, last: 1 }, second].map((range) => {
      const end = Math.min((range.last + 1) * 2048, imageBytes);
      const part = bytes.subarray(range.first * 2048, end);
      const checksum = createHash("sha256").update(part).digest("hex");
      return { ...range, checksum };
    });
    const text = formatBmap({ imageBytes, blockBytes: 2048, ranges });
    await Deno.writeTextFile(map, text);
    const { code, err } = await platter([
      ...["copy", "-", target, "--force", "--bmap", map],
      ...["--block-size", "4096"],
    ], { stdin: [bytes.slice(0, imageBytes)] });
    assertEquals(code, isRefused ? 2 : 0, err);
    if (!isRefused) continue;
    assertMatch(
      err,
      /Cannot write blocks [45] to [47] .* whole blocks of 4096 bytes: .* is as it was\n$/,
    );
    assertSame(await Deno.readFile(target), new Uint8Array(65_536).fill(0xee));
  }
});

Deno.test(
  "platter copy and bmaptool flash the same by a map of either",
  needs("bmaptool"),
  async () => {
    await using scratch = await Scratch.make();
    const image = await scratch.image("a.img", 3 * MIB, {
      [MIB]: CONTENT.subarray(0, 99),
    });
    const [ours, theirs] = [scratch.of("ours.bmap"), scratch.of("theirs.bmap")];
    const { code, out } = await platter(["bmap", image, "-o", ours]);
    assertEquals([code, out], [0, `Saved the block map to ${ours}\n`]);
    assertEquals(
      (await platter(["bmap", image])).out,
      await Deno.readTextFile(ours),
    );
    assertMatch(
      (await platter(["bmap", image, "-o", ours])).err,
      /as it exists/,
    );
    await run("bmaptool", ["create", "-o", theirs, image]);
    await run("bmaptool", ["copy", "--bmap", ours, image, scratch.of("b.img")]);
    const copied = await platter([
      "copy",
      image,
      scratch.of("c.img"),
      "--bmap",
      theirs,
    ]);
    assertEquals([copied.code, copied.err], [0, ""]);
    assertSame(
      await Deno.readFile(scratch.of("b.img")),
      await Deno.readFile(image),
    );
    assertSame(
      await Deno.readFile(scratch.of("c.img")),
      await Deno.readFile(image),
    );
  },
);

Deno.test("platter copy --verify says if it read a cache, and finds what a target lost", async () => {
  await using scratch = await Scratch.make();
  const image = await scratch.image("a.img", CONTENT.length, { 0: CONTENT });
  const cached = await platter([
    ...["copy", image, scratch.of("b.img"), "--verify", "--direct", "never"],
  ]);
  assertMatch(
    cached.out,
    /\nIt was read back through a cache, not from the medium: .*--direct never/,
  );
  const json = await platter([
    ...["copy", image, scratch.of("c.img"), "--verify", "--json"],
  ]);
  await using disk = await VirtualDisk.open(image, { readOnly: true });
  assertEquals(
    JSON.parse(json.out).verified,
    disk.info.direct.active ? "medium" : "cache",
  );

  const backend = new MemoryBackend({ sectors: 8192 });
  await using lossy = VirtualDisk.over(
    faults(backend, ["write sector=3000 lost"]),
  );
  const socket = scratch.of("socket");
  await using _server = NbdServer.listen({
    path: socket,
    exports: [{ disk: lossy }],
  });
  const uri = `nbd+unix:///?socket=${socket}`;
  const lost = await platter(["copy", "-", uri, "--force", "--verify"], {
    stdin: piecesOf(CONTENT.slice(0, 2 * MIB).fill(5)),
  });
  assertEquals([lost.code, lost.out], [2, ""]);
  assertMatch(
    lost.err,
    /Cannot confirm .* do not read back as they were written: .* overwritten\n$/,
  );
});

Deno.test("platter write and copy from a stream complete on a disk that cannot flush", async () => {
  await using scratch = await Scratch.make();
  const memory = new MemoryBackend({ size: "4MiB" });
  Object.assign(memory, {
    abilities: { ...memory.abilities, flush: "none", fua: "none" },
  });
  await using disk = VirtualDisk.over(memory);
  const socket = scratch.of("socket");
  await using _server = NbdServer.listen({
    path: socket,
    exports: [{ disk }],
  });
  const uri = `nbd+unix:///?socket=${socket}`;
  for (
    const args of [
      ["copy", "-", uri, "--force", "--verify"],
      ["write", uri, "--sector", "0"],
    ]
  ) {
    await disk.writeZeroes(0, disk.sectors);
    const { code, err } = await platter(args, { stdin: piecesOf(CONTENT) });
    assertEquals([code, err], [0, ""], args[0]);
    assertSame(await disk.read(0, CONTENT.length / 512), CONTENT);
  }
});

Deno.test("platter copy --quiet says nothing, and --json says it for programs", async () => {
  await using scratch = await Scratch.make();
  const image = await scratch.image("a.img", MIB, { 0: "x" });
  const quiet = await platter(["copy", image, scratch.of("b"), "-q"], {
    terminal: true,
    tickMs: 1000,
  });
  assertEquals([quiet.code, quiet.out, quiet.err], [0, "", ""]);
  const { out } = await platter(["copy", image, scratch.of("c"), "--json"]);
  const json = JSON.parse(out);
  assertEquals([json.bytes, json.verified], [MIB, null]);
  assertEquals(json.written + json.zeroed + json.skipped, MIB);
});

Deno.test("platter copy leaves out nothing that follows the padding of gzip data", async () => {
  await using scratch = await Scratch.make();
  const target = await scratch.image("t.img", 8 * MIB);
  const one = gzipSync(CONTENT.subarray(0, MIB), { level: 1 });
  // Tapes and the like pad with zeroes: these mean nothing.
  for (
    const [padding, follows, isWhole] of [
      [10, new Uint8Array(), true],
      [300_000, new Uint8Array(), true],
      [10, one, false],
      [300_000, one, false],
      [300_000, new Uint8Array([1]), false],
    ] as const
  ) {
    const input = concat([one, new Uint8Array(padding), follows]);
    const { code, err } = await platter(["copy", "-", target, "--force"], {
      stdin: piecesOf(input),
    });
    if (isWhole) assertEquals([code, err], [0, ""]);
    else assertMatch(err, /gzip data is damaged .*: more follows after zeroes/);
  }
});

Deno.test("platter copy - ends at damage, though its input goes on", async () => {
  await using scratch = await Scratch.make();
  const garbage = new TextEncoder().encode("garbage ".repeat(100));
  // Nothing comes any more, and no end either.
  const stdin = new ReadableStream<Uint8Array>({
    start: (controller) => controller.enqueue(concat([PACKED, garbage])),
  });
  const args = ["copy", "-", scratch.of("a"), "--size", "4MiB"];
  const { code, err } = await platter(args, { stdin });
  assertEquals(code, 2);
  assertMatch(err, /its gzip data is damaged .*: ".*a" was removed again\n$/);
});

const MISTAKES: [args: string[], err: RegExp][] = [
  [
    ["a", "b", "--rescue", "m", "--count", "1"],
    /--rescue and --count together/,
  ],
  [["a", "b", "--rescue", "m", "--verify"], /--rescue and --verify together/],
  [["a", "b", "--bmap", "m", "--from", "1"], /--bmap and --from together/],
  [["-", "b", "--partition", "1"], /Cannot use --partition as standard input/],
  [["a", "b", "--retries", "1"], /--retries as it needs --rescue FILE/],
  [["a", "-", "--verify"], /Cannot use --verify as TARGET must be the name/],
  [["a", "-", "--bmap", "m"], /Cannot use --bmap as TARGET must be the name/],
  [["-", "b", "--rescue", "m"], /source of a rescue must be the name/],
  [["a", "b", "--from", "1000B"], /Cannot use --from as .* multiple of 512/],
  [["a", "b", "--depth", "1025"], /Cannot use --depth as it must be at most/],
];

for (const [args, words] of MISTAKES) {
  Deno.test(`platter copy ${args.join(" ")} is wrong usage`, async () => {
    const { code, out, err } = await platter(["copy", ...args]);
    assertEquals([code, out], [2, ""]);
    assertMatch(err, words);
  });
}

Deno.test("platter copy shows how far a stream is without an end in sight", async () => {
  await using scratch = await Scratch.make();
  const { err } = await platter([
    "copy",
    "-",
    scratch.of("a"),
    "--size",
    "4MiB",
  ], {
    stdin: piecesOf(CONTENT),
    terminal: true,
    tickMs: 500,
  });
  assert(/Copying {2}[\d.]+ [KM]iB {2}[\d.]+ .?i?B\/s/.test(err), err);
});

Deno.test("platter copy --bmap refuses a map that has no end", {
  ignore: Deno.build.os === "windows",
}, async () => {
  await using scratch = await Scratch.make();
  const source = await scratch.image("s.img", 4096, { 0: "source" });
  const target = scratch.of("t.img");
  const args = ["copy", source, target, "--bmap", "/dev/zero"];
  const { code, err } = await platter(args);
  assertEquals(code, 2);
  assertMatch(err, /Cannot read "\/dev\/zero" as it must have 64 MiB at most/);
  assertEquals(await exists(target), false);
});
