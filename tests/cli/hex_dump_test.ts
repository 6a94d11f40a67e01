import { assertEquals } from "@std/assert";
import { HexDump } from "../../src/cli/hex_dump.ts";
import { needs, run } from "../helpers.ts";
import { Scratch } from "./harness.ts";

function dumpOf(bytes: Uint8Array, offset = 0): string {
  const dump = new HexDump(offset + bytes.length);
  return dump.data(offset, bytes) + dump.end();
}

const A =
  "41 41 41 41 41 41 41 41  41 41 41 41 41 41 41 41  |AAAAAAAAAAAAAAAA|";
const Z =
  "00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00  |................|";

Deno.test("HexDump heads every sector and squeezes like lines", () => {
  const bytes = new Uint8Array(1024).fill(0x41, 0, 512);
  assertEquals(
    dumpOf(bytes, 512),
    `sector 1\n00000200  ${A}\n*\nsector 2\n00000400  ${Z}\n*\n00000600\n`,
  );
});

Deno.test("HexDump squeezes across sectors, and heads the one that it goes on in", () => {
  const bytes = new Uint8Array(2048).fill(0x41, 1552, 1568);
  assertEquals(
    dumpOf(bytes),
    `sector 0\n00000000  ${Z}\n*\nsector 3\n00000610  ${A}\n` +
      `00000620  ${Z}\n*\n00000800\n`,
  );
});

Deno.test("HexDump keeps columns in lines that begin or end half-way", () => {
  const bytes = new TextEncoder().encode("hello, world and more");
  assertEquals(
    dumpOf(bytes, 5),
    "sector 0\n" +
      "00000000                 68 65 6c  6c 6f 2c 20 77 6f 72 6c  |     hello, worl|\n" +
      "00000010  64 20 61 6e 64 20 6d 6f  72 65                    |d and more|\n" +
      "0000001a\n",
  );
});

Deno.test("HexDump writes offsets as wide as the last one", () => {
  const dump = new HexDump(2 ** 40);
  assertEquals(
    dump.zeroes(2 ** 40 - 16, 16) + dump.end(),
    `sector ${2 ** 31 - 1}\n0fffffffff0  ${Z}\n10000000000\n`,
  );
});

Deno.test("HexDump squeezes zeroes as it squeezes anything, for any start and length", () => {
  for (const offset of [0, 16, 5, 500, 512]) {
    for (const length of [1, 15, 16, 17, 48, 64, 65, 512, 1025, 5000]) {
      const dumpWith = (byte: number) => {
        const dump = new HexDump(offset + length);
        return dump.data(0, new Uint8Array(offset).fill(byte)) +
          dump.data(offset, new Uint8Array(length).fill(byte)) + dump.end();
      };
      // Ones take no short cut.
      const fast = dumpWith(0);
      const slow = dumpWith(1).replaceAll(/(?<= )01(?= )/g, "00");
      assertEquals(slow, fast, `${length} bytes at ${offset}`);
    }
  }
});

Deno.test("HexDump.zeroes() costs the same for any length", () => {
  const dump = new HexDump(2 ** 52);
  const text = dump.zeroes(0, 2 ** 52) + dump.end();
  assertEquals(text, `sector 0\n00000000000000  ${Z}\n*\n10000000000000\n`);
});

Deno.test(
  "HexDump without its headings is what hexdump -C prints",
  needs("hexdump"),
  async (t) => {
    await using scratch = await Scratch.make();
    const bytes = new Uint8Array(5000);
    // Some noise, some repeated lines, some zeroes, a ragged end.
    for (let i = 0; i < 700; i++) bytes[i] = i * i >> 3;
    bytes.fill(0x20, 1024, 1536);
    for (let i = 3000; i < 3100; i++) bytes[i] = i;
    bytes[4999] = 0x7e;
    const path = await scratch.image("noise.img", bytes.length, { 0: bytes });
    const headings = /^sector \d+\n/gm;
    await t.step("in one piece", async () => {
      const out = await run("hexdump", ["-C", path]);
      assertEquals(dumpOf(bytes).replace(headings, ""), out);
    });
    await t.step("in many pieces", async () => {
      const out = await run("hexdump", ["-C", path]);
      const dump = new HexDump(bytes.length);
      let text = "";
      for (let at = 0; at < bytes.length; at += 48) {
        text += dump.data(at, bytes.subarray(at, at + 48));
      }
      assertEquals((text + dump.end()).replace(headings, ""), out);
    });
  },
);
