import { assertEquals } from "@std/assert";
import { clock, duration, rate } from "../../src/cli/format.ts";

Deno.test("clock() shows minutes, seconds, and hours if there are any", () => {
  assertEquals(
    [0, 499, 500, 7000, 59_999, 60_000, 3_599_000, 3_723_000].map(clock),
    ["0:00", "0:00", "0:01", "0:07", "1:00", "1:00", "59:59", "1:02:03"],
  );
});

Deno.test("duration() shows two or three digits, then a clock", () => {
  assertEquals(
    [0, 4, 40, 1234, 9994, 9996, 99_949, 99_950, 125_000].map(duration),
    [
      "0.00 s",
      "0.00 s",
      "0.04 s",
      "1.23 s",
      "9.99 s",
      "10.0 s",
      "99.9 s",
      "1:40",
      "2:05",
    ],
  );
});

Deno.test("rate() does not divide by no time at all", () => {
  assertEquals(rate(1 << 20, 0), "1000 MiB/s");
  assertEquals(rate(1 << 20, 2000), "512 KiB/s");
});
