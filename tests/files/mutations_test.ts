import { assertEquals } from "@std/assert";
import { LONG, needs } from "../helpers.ts";
import { mutations, TOOLS } from "./mutations.ts";

Deno.test(
  "listFiles(), readFile() and extractFiles() answer or refuse 3,000 mutated file systems",
  LONG ? needs(...TOOLS) : { ignore: true },
  async () => {
    const seed = Number(Deno.env.get("PLATTER_SEED") ?? Date.now() % 2 ** 31);
    console.log(`PLATTER_SEED=${seed}`);
    const { rounds, counts, failures } = await mutations(3000, seed);
    console.log(counts);
    assertEquals([rounds, failures], [3000, []]);
  },
);
