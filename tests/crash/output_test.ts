/**
 * What commands print: what is kept of it, and its lines.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { printedAcknowledgements } from "../../src/crash/acknowledgement_pipe.ts";
import { BoundedOutput } from "../../src/crash/bounded_output.ts";
import { Lines } from "../../src/crash/lines.ts";

/** Hands on bytes one by one, each in a buffer that is overwritten after it. */
function piecemeal(text: string, add: (chunk: Uint8Array) => void): void {
  const buffer = new Uint8Array(64);
  for (const byte of new TextEncoder().encode(text)) {
    buffer[7] = byte;
    add(buffer.subarray(7, 8));
    // Who has kept the chunk and not its bytes has these.
    buffer.fill(0x21);
  }
}

Deno.test("BoundedOutput and Lines keep bytes, and no memory of others", () => {
  const long = "x".repeat(5000);
  const output = new BoundedOutput();
  piecemeal(`one\n${long}`, (chunk) => output.add(chunk));
  assertEquals(output.text(), `one\n${long}`);
  const heard: string[] = [];
  const lines = new Lines((line) => heard.push(line));
  piecemeal(`one\n${long}\n\nlast`, (chunk) => lines.add(chunk));
  lines.end();
  assertEquals(heard, ["one", long, "", "last"]);
});

Deno.test("BoundedOutput keeps both ends, in whatever pieces they come", () => {
  const total = 1_000_003;
  const all = new Uint8Array(total).map((_, i) => 0x30 + i % 71 % 10);
  const text = new TextDecoder().decode(all);
  for (const piece of [1000, 65_536, total]) {
    const output = new BoundedOutput();
    for (let at = 0; at < total; at += piece) {
      output.add(all.subarray(at, at + piece));
    }
    const [, head, dropped, tail] =
      /^(\d+)\n… (\d+) bytes are left out here …\n(\d+)$/.exec(output.text())!;
    assertEquals(head!.length + Number(dropped) + tail!.length, total);
    assert(text.startsWith(head!) && text.endsWith(tail!));
    assert(tail!.length >= 49_152 && tail!.length <= 2 * 49_152);
  }
});

Deno.test("Lines and BoundedOutput keep a mark of byte order", () => {
  const heard: string[] = [];
  const lines = new Lines((line) => heard.push(line));
  const output = new BoundedOutput();
  const bytes = new TextEncoder().encode("\ufeffone\n\ufefftwo\n");
  lines.add(bytes);
  output.add(bytes);
  assertEquals(heard, ["\ufeffone", "\ufefftwo"]);
  assertEquals(output.text(), "\ufeffone\n\ufefftwo\n");
});

Deno.test("a mark of byte order at the start of the output takes no promise away, unless a pattern is given", () => {
  const heardOf = (text: string, pattern?: RegExp) => {
    const heard: string[] = [];
    const lines = printedAcknowledgements((line) => heard.push(line), pattern);
    piecemeal(text, (chunk) => lines.add(chunk));
    lines.end();
    return heard;
  };
  assertEquals(heardOf("\ufeffACK one\nACK two"), ["one", "two"]);
  assertEquals(heardOf("\ufeffACK"), ["ACK"]);
  // Later it is a character like others, and so is a second one.
  assertEquals(heardOf("ACK one\n\ufeffACK two\n"), ["one"]);
  assertEquals(heardOf("\ufeff\ufeffACK one\n"), []);
  assertEquals(heardOf("\ufeffACK one\n", /^ACK (.*)/), []);
  assertEquals(heardOf("\ufeffACK one\n", /^\ufeffACK (.*)/), ["one"]);
});
