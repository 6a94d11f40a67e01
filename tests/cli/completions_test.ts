import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { didYouMean, nearest } from "../../src/cli/suggestion.ts";
import { needs, run } from "../helpers.ts";
import { platter, Scratch } from "./harness.ts";

/** The script for a shell, in a file. */
async function scriptOf(shell: string, scratch: Scratch): Promise<string> {
  const { code, out } = await platter(["completions", shell]);
  assertEquals(code, 0);
  await Deno.writeTextFile(scratch.of(shell), out);
  return scratch.of(shell);
}

Deno.test(
  "platter completions makes bash complete verbs, options and words",
  needs("bash"),
  async () => {
    await using scratch = await Scratch.make();
    const script = await scriptOf("bash", scratch);
    const complete = async (...words: string[]) => {
      const list = ["platter", ...words].map((it) => `'${it}'`).join(" ");
      const text = await run("bash", [
        "-c",
        `source ${script}; COMP_WORDS=(${list}); COMP_CWORD=${words.length}; ` +
        "_platter 2>/dev/null; echo ${COMPREPLY[@]}",
      ]);
      return text.trim();
    };
    assertEquals(await complete("comp"), "compare completions");
    assertEquals(await complete("copy", "--ver"), "--verify");
    assertEquals(await complete("copy", "--direct", "p"), "prefer");
    assertEquals(await complete("completions", ""), "bash zsh fish");
    assertEquals(await complete("help", "zer"), "zero");
    assertEquals(await complete("copy", "--depth", ""), "");
  },
);

Deno.test(
  "platter completions makes fish complete verbs, options and words",
  needs("fish"),
  async () => {
    await using scratch = await Scratch.make();
    const script = await scriptOf("fish", scratch);
    const complete = async (line: string) => {
      const text = await run("fish", [
        ...["--no-config", "-c", `source ${script}; complete -C '${line}'`],
      ]);
      return text.trim().split("\n").map((it) => it.split("\t")[0]!);
    };
    assertEquals(await complete("platter compl"), ["completions"]);
    assertEquals(await complete("platter copy --veri"), ["--verify"]);
    assertEquals(await complete("platter copy --direct r"), ["require"]);
  },
);

Deno.test(
  "platter completions makes zsh complete verbs, options and words",
  needs("zsh"),
  async () => {
    await using scratch = await Scratch.make();
    const script = await scriptOf("zsh", scratch);
    // Its own completion needs a terminal; what is handed to it does not.
    const given = async (...words: string[]) =>
      await run("zsh", [
        "-f",
        "-c",
        "_describe() { print -rl -- $verbs; }; " +
        '_arguments() { print -rl -- $words[1] "$@"; }; compdef() { :; }; ' +
        `source ${script}; words=(platter ${words.join(" ")} ''); ` +
        `CURRENT=${words.length + 2}; _platter`,
      ]);
    assertMatch(await given(), /^copy:Copy a disk/m);
    const copy = await given("copy");
    assertMatch(copy, /^copy$/m);
    assertMatch(
      copy,
      /^--direct=\[Direct I\/O\\: .*\]:WHEN:\(never prefer require\)$/m,
    );
    assertMatch(copy, /^--verify\[/m);
    assertMatch(copy, /^--bmap=\[.*\]:FILE:_files$/m);
    assertMatch(copy, /^-f\[/m);
  },
);

Deno.test("platter completions knows its three shells", async () => {
  const { code, out, err } = await platter(["completions", "fsih"]);
  assertEquals([code, out], [2, ""]);
  assertStringIncludes(err, '"bash", "zsh" or "fish"');
  assertStringIncludes(err, '(did you mean "fish"?)');
});

Deno.test("nearest() finds what was meant, and nothing if it is far", () => {
  const words = ["copy", "compare", "create", "crash", "--verify", "--force"];
  for (
    const [typed, meant] of [
      ["coyp", "copy"],
      ["cpy", "copy"],
      ["compair", "compare"],
      ["creat", "create"],
      ["--verfiy", "--verify"],
      ["--froce", "--force"],
      ["", undefined],
      ["xyz", undefined],
      ["mount", undefined],
    ]
  ) assertEquals(nearest(typed!, words), meant, typed);
  assertEquals(didYouMean("c".repeat(100_000), words), "");
});

Deno.test("platter says what a mistyped verb or option may have meant", async () => {
  for (
    const [args, words] of [
      [
        ["wirte", "x"],
        /no verb "wirte" \(did you mean "write"\?\): see "platter/,
      ],
      [["--versoin"], /no option "--versoin" \(did you mean "--version"\?\)/],
      [
        ["copy", "a", "b", "--forse"],
        /"--forse" \(did you mean "--force"\?\): see/,
      ],
      [["read", "a", "--ofset=1"], /"--ofset" \(did you mean "--offset"\?\)/],
      [["frobnicate"], /no verb "frobnicate": see/],
    ] as const
  ) {
    const { code, err } = await platter([...args]);
    assertEquals(code, 2);
    assertMatch(err, words);
  }
});
