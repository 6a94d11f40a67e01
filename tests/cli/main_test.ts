import {
  assert,
  assertEquals,
  assertLess,
  assertMatch,
  assertStringIncludes,
} from "@std/assert";
import config from "../../deno.json" with { type: "json" };
import { childrenOver, needs, pause, run } from "../helpers.ts";
import { platter, Scratch } from "./harness.ts";

const VERBS = [
  "info",
  "partitions",
  "create",
  "read",
  "write",
  "copy",
  "compare",
  "map",
  ...["fill", "zero", "discard", "flush", "bmap"],
];

/** The others, whose lines of help are held as well. */
const MORE_VERBS = [
  ...["resize", "ls", "cat", "extract", "serve", "commit", "mount", "heat"],
  ...["completions", "crash", "doctor"],
];

Deno.test("every verb's help is held here", async () => {
  const { out } = await platter(["--help"]);
  const [, verbs = ""] = /^Verbs:\n((?: {2}.+\n)+)/m.exec(out) ?? [];
  assertEquals(
    verbs.split("\n").flatMap((line) => /^ {2}(\S+)/.exec(line)?.[1] ?? [])
      .toSorted(),
    [...VERBS, ...MORE_VERBS].toSorted(),
  );
});

for (const args of [["--help"], ["-h"], ["help"]]) {
  Deno.test(`platter ${args} lists every verb and the exit codes`, async () => {
    const { code, out, err } = await platter(args);
    assertEquals([code, err], [0, ""]);
    for (const verb of VERBS) assertMatch(out, new RegExp(`^  ${verb} `, "m"));
    assertMatch(out, /Exit codes:\n {2}0 {2}/);
  });
}

Deno.test("platter without arguments shows its help, but as an error", async () => {
  const { code, out, err } = await platter([]);
  assertEquals([code, out], [2, ""]);
  assertMatch(err, /^Usage: platter VERB/m);
});

for (const verb of VERBS) {
  Deno.test(`platter ${verb} --help fits a terminal and has examples`, async () => {
    const { code, out, err } = await platter([verb, "--help"]);
    assertEquals([code, err], [0, ""]);
    assertMatch(out, new RegExp(`^Usage: platter ${verb} `, "m"));
    assertMatch(out, new RegExp(`Examples:\n  # [^\n]+\n  .*platter ${verb} `));
    assertMatch(out, /^Exit codes:\n {2}0 {2}/m);
    for (const line of out.split("\n")) assertLess(line.length, 80, line);
    assertEquals((await platter(["help", verb])).out, out);
    assertEquals((await platter([verb, "-h", "--bogus", "a", "b"])).out, out);
  });

  Deno.test(`platter ${verb} takes the options that its help tells, and no other`, async () => {
    const { out } = await platter([verb, "--help"]);
    const options = [
      ...out.matchAll(/^ {2}(?:-., | {4})(--[a-z-]+)( [A-Z]+)?/gm),
    ];
    assert(options.length >= 4);
    const words = options.flatMap(([, name, value]) =>
      value === undefined ? [name!] : [`${name}=512`]
    ).filter((word) => word !== "--help");
    // Too many operands is the complaint that is left.
    const operands = ["a", "b", "c", "d"];
    const all = await platter([verb, ...words, ...operands]);
    assertEquals(all.code, 2);
    assertMatch(all.err, /too many arguments for "platter/);
    const bogus = await platter([verb, ...operands, "--bogus"]);
    assertEquals(bogus.code, 2);
    assertEquals(
      bogus.err,
      `platter: Cannot run "${verb}" as there is no option "--bogus": ` +
        `see "platter ${verb} --help"\n`,
    );
  });

  Deno.test(`platter ${verb} without operands tells its usage`, async () => {
    const { code, out, err } = await platter([verb]);
    assertEquals([code, out], [2, ""]);
    assertMatch(
      err,
      /^platter: Cannot .* too few arguments for "platter .*\n$/,
    );
  });

  Deno.test(`platter ${verb} says in one line that there is no image`, async () => {
    const operands = {
      create: ["1MiB"],
      copy: ["b"],
      compare: ["b"],
      write: [],
    };
    const more = operands[verb as keyof typeof operands] ?? [];
    const place = verb === "write"
      ? ["--sector", "0"]
      : ["fill", "zero", "discard"].includes(verb)
      ? ["--all"]
      : [];
    const path = "/nowhere/at/all.img";
    const { code, out, err } = await platter([verb, path, ...more, ...place]);
    assertEquals([code, out], [2, ""]);
    assertMatch(
      err,
      /^platter: Cannot [^\n]*"\/nowhere\/at\/all.img"[^\n]*\n$/,
    );
  });
}

for (const verb of [...VERBS, ...MORE_VERBS]) {
  Deno.test(`platter ${verb} --help has short lines, and its options in order`, async () => {
    const { code, out, err } = await platter([verb, "--help"]);
    assertEquals([code, err], [0, ""]);
    assertMatch(out, new RegExp(`Examples:\n(.*\n)+  .*platter ${verb} `));
    for (const line of out.split("\n")) assertLess(line.length, 80, line);
    // What a verb has of its own comes first, what opens images last.
    const order = ["quiet", "json", "partition", "direct", "no-lock"]
      .map((name) => out.search(new RegExp(`^ .*--${name}\\b(?!-)`, "m")))
      .filter((at) => at >= 0);
    assertEquals(order, order.toSorted((a, b) => a - b));
  });
}

for (const verb of [...VERBS, ...MORE_VERBS]) {
  Deno.test(`platter ${verb} takes no value with a switch`, async () => {
    const { out } = await platter([verb, "--help"]);
    const switches = [...out.matchAll(/^ {2}(?:-., | {4})(--[a-z-]+) {2}/gm)];
    for (const [, name] of switches) {
      for (const value of ["", "no", "0", "False", "false", "true", "yes"]) {
        const { code, err } = await platter([verb, `${name}=${value}`]);
        assertEquals(code, 2, err);
        assertStringIncludes(
          err,
          `as ${name} takes no value: current value is "${value}": see`,
        );
      }
    }
  });
}

for (const verb of [...VERBS, ...MORE_VERBS]) {
  Deno.test(`platter ${verb} says of a negative number that it is one`, async () => {
    const { out } = await platter([verb, "--help"]);
    const cases = [
      ...out.matchAll(
        /^ {2}(?:-(.), | {4})--([a-z-]+) (?:N|NUMBER|SIZE|TIME|BYTES) /gm,
      ),
    ].flatMap(([, letter, name]) => [
      [name!, `--${name}`, "-1"],
      [name!, `--${name}`, "-0x10s"],
      [name!, `--${name}=-.5`],
      ...(letter === undefined ? [] : [[name!, `-${letter}`, "-1"]]),
    ]);
    for (const [name, ...args] of cases) {
      const { code, err } = await platter([verb, ...args]);
      assertEquals(code, 2);
      const value = args.at(-1)!.replace(/^.*=/, "");
      assertEquals(
        err,
        `platter: Cannot use --${name} as it must not be negative: current ` +
          `value is "${value}"\n`,
      );
    }
    if (/^Usage: .* SIZE /m.test(out)) {
      const { err } = await platter([verb, "x", "-1MiB"]);
      assertMatch(err, /use SIZE as it must not be negative: .* is "-1MiB"/);
    }
  });
}

Deno.test("the docs name every verb with --partition", async () => {
  const docs = new URL("../../docs/", import.meta.url);
  for (const name of ["cli.md", "image.md"]) {
    const text = await Deno.readTextFile(new URL(name, docs));
    const [words = ""] = /^`--partition N` .*?\n\n/ms.exec(text) ?? [];
    for (const verb of [...VERBS, ...MORE_VERBS]) {
      const { out } = await platter([verb, "--help"]);
      assertEquals(
        words.includes(`\`${verb}\``),
        / --partition /.test(out),
        `${name}: ${verb}`,
      );
    }
  }
});

Deno.test("platter create takes every size that its help shows", async () => {
  await using scratch = await Scratch.make();
  const { out } = await platter(["--help"]);
  const [, shown = ""] = /has a unit: (.*?)\. [A-Z]/s.exec(out) ?? [];
  const sizes = shown.replace(/\(.*?\)/gs, "").split(",").map((it) =>
    it.trim()
  );
  for (const size of sizes) {
    const path = scratch.of(`${size}.img`);
    const { err } = await platter(["create", path, size]);
    assertEquals(err, "");
  }
  assert(sizes.length >= 5, shown);
});

Deno.test("platter help faults lists the words of a fault rule", async () => {
  const { code, out, err } = await platter(["help", "faults"]);
  assertEquals([code, err], [0, ""]);
  for (const word of ["nth=3", "error=EIO", "torn=0,2,5", "flush=late"]) {
    assertMatch(out, new RegExp(`^  ${word} `, "m"));
  }
});

Deno.test("platter --version prints the version of the package", async () => {
  const { code, out } = await platter(["--version"]);
  assertEquals([code, out], [0, `platter ${config.version}\n`]);
});

Deno.test("platter takes an option's value in each form", async () => {
  await using scratch = await Scratch.make();
  const image = await scratch.image("a.img", 1024, { 512: "ab" });
  const forms = [
    ["-P0x41"],
    ["-P=0x41"],
    ["-P", "0x41"],
    ["--pattern=0x41"],
    ["--pattern", "0x41"],
    ["-qP0x41", "-q", "--quiet", "--pattern=0x41"],
  ];
  for (const form of forms) {
    await Deno.writeFile(image, new Uint8Array(1024));
    const { code, err } = await platter([
      "fill",
      "--all",
      ...form,
      "--",
      image,
    ]);
    assertEquals([code, err], [0, ""]);
    assertEquals(await Deno.readFile(image), new Uint8Array(1024).fill(0x41));
  }
});

const MISTAKES: [args: string[], err: RegExp][] = [
  [["frob"], /there is no verb "frob": see "platter --help"/],
  [["--frob"], /there is no option "--frob": see "platter --help"/],
  [["help", "frob"], /there is no verb "frob"/],
  [["read", "x", "--sector"], /--sector needs its N/],
  [["read", "x", "--sector="], /--sector needs its N/],
  [
    ["read", "x", "--sector", "12q"],
    /Cannot use --sector as it must be a number/,
  ],
  [["read", "x", "-1"], /there is no option "-1"/],
  [["read", "x", "--offset", "0.3"], /Cannot use --offset as .* whole bytes/],
  [
    ["read", "x", "--sector", "1KB"],
    /Cannot use --sector as .* multiple of 512/,
  ],
  [
    ["read", "x", "--sector", "1", "--offset", "512"],
    /Cannot use --sector and --offset together/,
  ],
  [
    ["info", "x", "--direct", "maybe"],
    /--direct as it must be "never", "prefer" or "require": current value is "maybe"/,
  ],
  [["copy", "x", "y", "--depth", "0"], /Cannot use --depth as .* above 0/],
  [["copy", "x", "y", "--depth", "0x"], /Cannot use --depth as .* above 0/],
  [["write", "x"], /nothing says where to: give --sector or --offset/],
  [["create", "x", "lots"], /Cannot use SIZE as it must be a number/],
  [["create", "x", "1000"], /whole blocks of 512 bytes: current value is 1000/],
  [["create", "x", "0"], /one block at least: current value is 0/],
  [["info", "x", "--block-size", "1000"], /power of two .* value is 1000/],
  [["read", "x", "--no-force"], /there is no option "--no-force"/],
  [["read", "x", "-fno"], /there is no option "-n"/],
  [["read", "x", "-f=no"], /-f takes no value: current value is "no"/],
  [["info", "x", "--help=no"], /--help takes no value: current value is "no"/],
  [
    ["info", "x", "--json", "false"],
    /too many arguments/,
  ],
  [
    ["read", "x", "--count", "1", "--count=2"],
    /--count must not be given twice with different values/,
  ],
  [
    ["read", "x", "-o", "y", "--output=z"],
    /--output must not be given twice with different values/,
  ],
];

for (const [args, expected] of MISTAKES) {
  Deno.test(`platter ${args.join(" ")} is wrong usage`, async () => {
    const { code, out, err } = await platter(args);
    assertEquals([code, out], [2, ""]);
    assertMatch(err, expected);
    assertMatch(err, /^platter: Cannot [^\n]*\n$/);
  });
}

for (const isInterrupted of [false, true]) {
  Deno.test({
    name: `platter says what failed ${
      isInterrupted ? "after Ctrl-C" : "first"
    }, and then what did while it closed a container`,
    ignore: needs("qemu-img", "qemu-nbd").ignore || Deno.build.os !== "linux",
    async fn() {
      await using scratch = await Scratch.make();
      const path = scratch.of("disk.qcow2");
      await run("qemu-img", ["create", "-q", "-f", "qcow2", path, "8M"]);
      let interrupt = () => {};
      // Asked for its bytes when the container is open.
      const stdin = new ReadableStream<Uint8Array>({
        async pull(controller) {
          for (const pid of await childrenOver(path)) Deno.kill(pid, "SIGKILL");
          while ((await childrenOver(path)).length > 0) await pause(10);
          if (isInterrupted) interrupt();
          controller.enqueue(new Uint8Array(4 << 20).fill(1));
          controller.close();
        },
      }, { highWaterMark: 0 });
      const { code, out, err } = await platter(
        ["write", path, "--sector", "0"],
        { stdin, onListening: (stop) => void (interrupt = stop) },
      );
      assertEquals([code, out], [isInterrupted ? 130 : 2, ""]);
      assertMatch(
        err,
        isInterrupted
          ? /^platter: Interrupted: [^\n]*; and then: Cannot close [^\n]*\n$/
          : /^platter: Cannot write .*qemu-nbd has ended.*; and then: Cannot close .* SIGKILL\n$/,
      );
    },
  });
}
