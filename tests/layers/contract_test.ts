/**
 * Every layer by the contract: switched off, and where it has an effect that
 * changes no answer, switched on.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { faults } from "../../src/layers/faults.ts";
import { latency } from "../../src/layers/latency.ts";
import { observe } from "../../src/layers/observe.ts";
import { overlay } from "../../src/layers/overlay.ts";
import { protect } from "../../src/layers/protect.ts";
import { readahead } from "../../src/layers/readahead.ts";
import { trace } from "../../src/layers/trace.ts";
import { verify } from "../../src/layers/verify.ts";
import { altered } from "../fake_backend.ts";
import { layerContract, memory } from "./stacks.ts";

layerContract(
  "overlay()",
  (backend) =>
    overlay(backend, {
      ownsBase: true,
      readOnly: backend.abilities.readOnly,
    }),
  { forgets: true },
);
layerContract("trace()", (backend) => trace(backend, () => {}));
layerContract("faults() without rules", (backend) => faults(backend));
layerContract(
  "faults() with rules switched off",
  (backend) => faults(backend, ["error=EIO off", "write lost off"]),
);
// It holds writes until the next flush, but none of them is lost.
layerContract(
  "faults() with a cache",
  (backend) => faults(backend, ["flush=kept off"]),
);
layerContract("latency() of nothing", (backend) => latency(backend));
layerContract(
  "latency()",
  (backend) =>
    latency(backend, {
      fixedMs: 0.02,
      spikes: [{ ratio: { numerator: 1, denominator: 50 }, ms: 0.5 }],
    }),
);
layerContract("readahead()", (backend) => readahead(backend));
layerContract(
  "readahead() with little memory",
  (backend) =>
    readahead(backend, {
      pieceBytes: 8192,
      windowBytes: 16_384,
      memoryBytes: 32_768,
    }),
);
layerContract(
  "verify()",
  (backend) =>
    verify(
      backend,
      memory({ readOnly: backend.abilities.readOnly, blockSize: 512 }),
    ),
  { forgets: true },
);
layerContract(
  "a stack of layers",
  (backend) =>
    readahead(
      latency(trace(faults(verify(backend, memory())), () => {})),
    ),
  {
    forgets: true,
    readOnly: () =>
      Promise.resolve({
        backend: readahead(latency(faults(memory({ readOnly: true })))),
      }),
  },
);

Deno.test("Layers say in info.backend what they lie over", () => {
  const stack = faults(overlay(trace(memory(), () => {})));
  assertEquals(
    stack.info.backend,
    "faults over overlay over trace over memory",
  );
  assertEquals(
    verify(memory(), memory()).info.backend,
    "verify over memory and memory",
  );
});

Deno.test("Layers say of what they lie over what it says now", () => {
  const { info } = memory();
  let name = "io_uring";
  const base = altered(memory(), {});
  Object.defineProperty(base, "info", {
    get: () => ({ ...info, engine: { name, reason: null } }),
  });
  const layers = [
    trace(base, () => {}),
    faults(base),
    latency(base),
    observe(base),
    protect(base, []),
    readahead(base),
  ];
  const names = () => layers.map((layer) => layer.info.engine.name);
  assertEquals(new Set(names()), new Set(["io_uring"]));
  name = "sync";
  assertEquals(new Set(names()), new Set(["sync"]));
});
