import { assert, assertEquals } from "@std/assert";
import { InFlight } from "../src/in_flight.ts";
import { flushRequest } from "../src/request.ts";
import { catchThrown, Thrown } from "./contract.ts";

Deno.test("InFlight.close() waits for every answer, and lets go once", async () => {
  const inFlight = new InFlight();
  const log: string[] = [];
  inFlight.enter(2);
  assertEquals([inFlight.count, inFlight.closed], [2, false]);
  const closing = inFlight.close(() => {
    log.push("released");
    return Promise.resolve();
  });
  assertEquals(inFlight.close(() => Promise.reject()), closing);
  assert(inFlight.closed);
  const request = flushRequest();
  const tell = () => log.push(`answered, ${inFlight.count} left`);
  inFlight.answer(request, null, tell);
  await Promise.resolve();
  inFlight.answer(request, null, tell);
  await closing;
  assertEquals(log, ["answered, 1 left", "answered, 0 left", "released"]);
});

Deno.test("InFlight.close() ends if whoever is answered throws", async () => {
  using uncaught = catchThrown();
  const inFlight = new InFlight();
  inFlight.enter(1);
  const closing = inFlight.close(() => Promise.resolve());
  inFlight.answer(flushRequest(), null, () => {
    throw new Thrown();
  });
  await closing;
  assertEquals(uncaught.count, 1);
});
