import { assertEquals, assertThrows } from "@std/assert";
import {
  formatCount,
  formatSize,
  parseSectors,
  parseSize,
} from "../src/units.ts";

Deno.test("parseSize() reads every unit", () => {
  const cases: [string, number][] = [
    ["0", 0],
    ["512", 512],
    ["512B", 512],
    ["1s", 512],
    ["2048s", 1_048_576],
    ["1KiB", 1024],
    ["64MiB", 67_108_864],
    ["1GiB", 1_073_741_824],
    ["1TiB", 1_099_511_627_776],
    ["1PiB", 1_125_899_906_842_624],
    ["1k", 1024],
    ["1K", 1024],
    ["1M", 1_048_576],
    ["1G", 1_073_741_824],
    ["1T", 1_099_511_627_776],
    ["1kB", 1000],
    ["1KB", 1000],
    ["1MB", 1_000_000],
    ["1GB", 1_000_000_000],
    ["1TB", 1_000_000_000_000],
    ["1PB", 1_000_000_000_000_000],
  ];
  for (const [text, bytes] of cases) assertEquals(parseSize(text), bytes, text);
});

Deno.test("parseSize() takes spaces, any case and exact fractions", () => {
  assertEquals(parseSize(" 64 mib "), 67_108_864);
  assertEquals(parseSize("1.5KiB"), 1536);
  assertEquals(parseSize("0.1kB"), 100);
  assertEquals(parseSize("2.0"), 2);
  assertEquals(parseSize("9007199254740991"), Number.MAX_SAFE_INTEGER);
});

Deno.test("parseSize() throws on what is no size", () => {
  const texts = [
    "",
    " ",
    "MiB",
    "-1",
    "+1",
    "1e3",
    "0x",
    "0xg",
    "0x1.8",
    "1,000",
    "1 XiB",
  ];
  for (
    const text of [...texts, "1MiB 2", ".5", "5.", "1ss", "NaN"]
  ) {
    assertThrows(() => parseSize(text), TypeError, JSON.stringify(text));
  }
  assertThrows(() => parseSize("1 constructor"), TypeError);
  assertThrows(() => parseSize(512 as unknown as string), TypeError, "512");
  assertThrows(
    () => parseSize("many"),
    TypeError,
    'Cannot parse a size as it must be a number with a unit such as "64MiB", "2048s" or "512": current value is "many"',
  );
});

Deno.test("parseSize() throws on parts of bytes and on too many", () => {
  assertThrows(
    () => parseSize("1.1KiB"),
    RangeError,
    'must be whole bytes: current value is "1.1KiB"',
  );
  assertThrows(
    () => parseSize("8PiB"),
    RangeError,
    'must be less than 8 PiB: current value is "8PiB"',
  );
});

Deno.test("parseSectors() reads whole sectors alone", () => {
  assertEquals(parseSectors("2048s"), 2048);
  assertEquals(parseSectors("1MiB"), 2048);
  assertEquals(parseSectors("1024"), 2);
  assertEquals(parseSectors("0"), 0);
  assertThrows(
    () => parseSectors("100"),
    RangeError,
    'must be a multiple of 512 bytes: current value is "100"',
  );
  assertThrows(() => parseSectors("sector"), TypeError);
});

Deno.test("formatSize() prints the largest unit", () => {
  const cases: [number, string][] = [
    [0, "0 B"],
    [1, "1 B"],
    [512, "512 B"],
    [1023, "1023 B"],
    [1024, "1 KiB"],
    [1536, "1.5 KiB"],
    [1_048_575, "1 MiB"],
    [67_108_864, "64 MiB"],
    [1_610_612_736, "1.5 GiB"],
    [2 ** 40, "1 TiB"],
    [Number.MAX_SAFE_INTEGER, "8 PiB"],
    [1_234_567, "1.18 MiB"],
  ];
  for (const [bytes, text] of cases) assertEquals(formatSize(bytes), text);
});

Deno.test("formatSize() is read back by parseSize()", () => {
  for (let bit = 0; bit < 53; bit++) {
    assertEquals(parseSize(formatSize(2 ** bit)), 2 ** bit);
  }
});

Deno.test("formatSize() throws on what is no size", () => {
  for (const bytes of [-1, NaN, Infinity]) {
    assertThrows(() => formatSize(bytes), RangeError, `is ${bytes}`);
  }
});

Deno.test("formatCount() puts commas and a plural", () => {
  assertEquals(formatCount(0), "0");
  assertEquals(formatCount(999), "999");
  assertEquals(formatCount(1000), "1,000");
  assertEquals(formatCount(131_072), "131,072");
  assertEquals(formatCount(-1_234_567), "-1,234,567");
  assertEquals(formatCount(1, "sector"), "1 sector");
  assertEquals(formatCount(0, "sector"), "0 sectors");
  assertEquals(formatCount(2048, "sector"), "2,048 sectors");
  assertThrows(() => formatCount(1.5), RangeError, "is 1.5");
});
