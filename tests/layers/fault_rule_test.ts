import { assert, assertEquals, assertThrows } from "@std/assert";
import { checkFaultRule, type FaultRule } from "../../src/layers/fault_rule.ts";
import {
  formatFaultRule,
  parseFaultRule,
} from "../../src/layers/fault_rule_text.ts";
import { FAULT_WORDS } from "../../src/layers/fault_words.ts";

const RULES: [text: string, rule: FaultRule][] = [
  ["error=EIO", { effect: { kind: "error", code: "EIO" } }],
  [
    "write sector=100..200 nth=3 error=ENOSPC",
    {
      operation: "write",
      sector: 100,
      count: 101,
      nth: 3,
      effect: { kind: "error", code: "ENOSPC" },
    },
  ],
  [
    "read,write-zeroes sector=7 times=2 delay=20ms",
    {
      operation: ["read", "write zeroes"],
      sector: 7,
      count: 1,
      times: 2,
      effect: { kind: "delay", ms: 20 },
    },
  ],
  [
    "flush ratio=1/100 name=liar off lost",
    {
      operation: "flush",
      ratio: { numerator: 1, denominator: 100 },
      name: "liar",
      enabled: false,
      effect: { kind: "lost" },
    },
  ],
  ["get-id delay=300us", {
    operation: "get id",
    effect: { kind: "delay", ms: 0.3 },
  }],
  ["sector=9.. torn", { sector: 9, effect: { kind: "torn" } }],
  ["torn=3", { effect: { kind: "torn", keep: 3 } }],
  ["torn=0,2,5", { effect: { kind: "torn", keep: [0, 2, 5] } }],
  ["torn=2,", { effect: { kind: "torn", keep: [2] } }],
  ["misdirected", { effect: { kind: "misdirected" } }],
  ["misdirected=+8", { effect: { kind: "misdirected", offset: 8 } }],
  ["write misdirected=-8", {
    operation: "write",
    effect: { kind: "misdirected", offset: -8 },
  }],
  ["corrupt", { effect: { kind: "corrupt" } }],
  ["read corrupt=5", {
    operation: "read",
    effect: { kind: "corrupt", bits: 5 },
  }],
  ["bad", { effect: { kind: "bad" } }],
  ["flush=kept", { effect: { kind: "flush", pages: "kept" } }],
  ["flush nth=2 flush=reverted", {
    operation: "flush",
    nth: 2,
    effect: { kind: "flush", pages: "reverted" },
  }],
  ["sector=5 flush=late", {
    sector: 5,
    count: 1,
    effect: { kind: "flush", pages: "late" },
  }],
];

for (const [text, rule] of RULES) {
  Deno.test(`parseFaultRule() and formatFaultRule(): "${text}"`, () => {
    assertEquals(parseFaultRule(text), rule);
    assertEquals(parseFaultRule(formatFaultRule(rule)), rule);
  });
}

Deno.test("parseFaultRule() takes words in any order, and other forms", () => {
  const expected = parseFaultRule("write sector=100..107 nth=3 error=EIO");
  for (
    const text of [
      "error=EIO nth=3 sector=100..107 write",
      "  write\tsector=100+8  nth=3 error=EIO ",
    ]
  ) assertEquals(parseFaultRule(text), expected);
  assertEquals(
    parseFaultRule("delay=1.5s").effect,
    { kind: "delay", ms: 1500 },
  );
});

const SPELLINGS: [text: string, same: string][] = [
  ["delay=50ms", "delay=0.05s"],
  ["delay=50MS", "delay=50ms"],
  ["delay=5µs", "delay=5us"],
  ["delay=2min", "delay=120s"],
  ["sector=100-200 lost", "sector=100..200 lost"],
  ["sectors=100+8 lost", "sector=100..107 lost"],
  ["offset=1MiB lost", "sector=2048 lost"],
  ["offset=1000 lost", "sector=1 lost"],
  ["offset=1MiB..2MiB lost", "sector=2048..4095 lost"],
  ["offset=1.5MiB-2MiB lost", "sector=3072..4095 lost"],
  ["offset=1MiB+4KiB lost", "sector=2048+8 lost"],
  ["offset=100+512 lost", "sector=0..1 lost"],
  ["offset=2048s.. lost", "sector=2048.. lost"],
  ["ratio=10% lost", "ratio=10/100 lost"],
  ["ratio=100.0% lost", "ratio=1000/1000 lost"],
  ["ratio=2.5% lost", "ratio=25/1000 lost"],
  ["probability=1% lost", "ratio=1/100 lost"],
  ["once lost", "times=1 lost"],
  ["write error=eio", "write error=EIO"],
  ["write errno=5", "write error=EIO"],
  ["write EIO", "write error=EIO"],
  ["WRITE enospc", "write error=ENOSPC"],
  ["reads,writes EIO", "read,write error=EIO"],
  ["read|write EIO", "read,write error=EIO"],
  ["op=write EIO", "write error=EIO"],
  ["operation=read,trim EIO", "read,discard error=EIO"],
  ["fsync EIO", "flush error=EIO"],
  ["write_zeroes EIO", "write-zeroes error=EIO"],
  ["disabled lost", "off lost"],
];

Deno.test("parseFaultRule() takes other spellings for the same", () => {
  for (const [text, same] of SPELLINGS) {
    assertEquals(parseFaultRule(text), parseFaultRule(same), text);
  }
});

Deno.test("FAULT_WORDS has forms that all can be read, and their names", () => {
  const effects: Record<string, string> = { "write": "lost", "flush": "lost" };
  for (const { name, group, also, forms } of FAULT_WORDS) {
    for (const [form, meaning] of forms) {
      assert(form.toLowerCase().startsWith(name) && meaning !== "");
      const rest = group === "effect"
        ? ""
        : group === "condition"
        ? "lost"
        : effects[form] ?? "error=EIO";
      const rule = parseFaultRule(`${form} ${rest}`);
      assertEquals(parseFaultRule(formatFaultRule(rule)), rule);
      for (const other of also) {
        assertEquals(
          parseFaultRule(`${other}${form.slice(name.length)} ${rest}`),
          rule,
        );
      }
    }
  }
});

Deno.test("parseFaultRule() lists every word to who writes none of them", () => {
  const { message } = assertThrows(
    () => parseFaultRule("write latency=5"),
    TypeError,
  );
  for (const { name } of FAULT_WORDS) {
    assert(message.includes(name), `${name} is not in ${message}`);
  }
});

Deno.test("the manual lists the words of FAULT_WORDS", async () => {
  const rows = [
    ["word", "meaning"],
    null,
    ...FAULT_WORDS.flatMap(({ forms, also }) =>
      forms.map(([text, meaning], index) => [
        `\`${text}\``,
        index === 0 && also.length > 0
          ? `${meaning} (or ${also.map((name) => `\`${name}\``).join(", ")})`
          : meaning,
      ])
    ),
  ];
  const cells = (row: string) =>
    row.slice(1, -1).split(/ (?<!\\)\| /).map((cell) => cell.trim());
  const url = new URL("../../docs/layers_and_faults.md", import.meta.url);
  const text = (await Deno.readTextFile(url)).split("| word ")[1]!;
  const table = `| word ${text.split("\n\n")[0]!}`.trim().split("\n")
    .map((row) => row.includes("---") ? null : cells(row));
  assertEquals(table, rows);
});

const BAD: [text: string, message: string][] = [
  ["", `it must have an effect, one of error, delay, torn`],
  ["write", `it must have an effect`],
  ["wirte error=EIO", `a word must be one of read, write, flush`],
  ["toString", `a word must be one of read`],
  [
    "write error",
    `error must be the name of an error number as in "error=EIO"`,
  ],
  ["write error=EOOPS", `error must be the name`],
  ["error=toString", `error must be the name`],
  ["write nth=x lost", `nth must be an integer ≥ 1`],
  ["nth=0 lost", "nth must be a safe integer ≥ 1: current value is 0"],
  ["nth=1 nth=2 lost", "it must have one nth only"],
  ["lost bad", "it must have one effect only"],
  ["read write bad", "it must have one operation only"],
  ["sector=9..3 lost", "sector must not end before it starts"],
  ["sector=1.5 lost", `sector must be as in "sector=8"`],
  ["sector=8+0 lost", "count must be a safe integer ≥ 1"],
  ["ratio=0.1 lost", `ratio must be two integers as in "1/100"`],
  ["ratio=3/2 lost", "0 ≤ numerator ≤ denominator"],
  ["delay=20 read", `delay must be a time as in "delay=20ms"`],
  ["torn=x", `torn must be "torn", a number of blocks`],
  ["corrupt=4097", "bits must be at most 4096"],
  ["corrupt=0", `corrupt must be "corrupt" or a number of bits`],
  ["misdirected=0", `misdirected must be`],
  ["lost=3", `lost must be "lost"`],
  ["bad=", `bad must be "bad"`],
  ["flush=gone", `flush must be "flush=kept"`],
  ["read lost", `the effect "lost" must be on "write"`],
  ["read flush=kept", `the effect "flush" must be on "flush"`],
  ["flush sector=8 error=EIO", `"flush" has no sectors`],
  ["name= lost", "a word must be one of"],
  ["sector=100- lost", `sector must be as in "sector=8"`],
  ["sector=200-100 lost", "sector must not end before it starts"],
  ["offset=2MiB..1MiB lost", "offset must not end before it starts"],
  ["offset=1MiB- lost", "offset must be sizes as in"],
  ["offset=far lost", "offset must be sizes as in"],
  ["offset=1MiB sector=8 lost", "it must have one sector only"],
  ["ratio=101% lost", "ratio must be 100% at most"],
  ["once times=2 lost", "it must have one times only"],
  ["write op=read lost", "it must have one operation only"],
  ["error=12345 read", "error must be the name"],
];

for (const [text, message] of BAD) {
  Deno.test(`parseFaultRule() throws on "${text}"`, () => {
    const error = assertThrows(() => parseFaultRule(text), Error, message);
    assertEquals(/^Cannot (parse the|use a) /.test(error.message), true);
  });
}

Deno.test("checkFaultRule() throws on what text cannot say", () => {
  const rules: [FaultRule, string][] = [
    [
      { effect: { kind: "boom" } as unknown as FaultRule["effect"] },
      "its effect must be one of",
    ],
    [{ count: 3, effect: { kind: "lost" } }, "count must be with sector"],
    [{ effect: { kind: "delay", ms: -1 } }, "ms must be from 0"],
    [
      { effect: { kind: "flush", pages: "x" as "kept" } },
      "pages must be one of",
    ],
    [
      { effect: { kind: "torn", code: "EOOPS" } },
      "the error must be the name of an error number",
    ],
  ];
  for (const [rule, message] of rules) {
    assertThrows(() => checkFaultRule(rule), Error, message);
  }
});
