/**
 * Backends that do what they are told to, over one that does it right.
 *
 * @module
 */

import type { Backend } from "../src/backend.ts";
import type { Request } from "../src/request.ts";

/**
 * A backend of which a test changes what it likes. What a backend need not have
 * it has only if it is given.
 */
export function altered(below: Backend, changes: Partial<Backend>): Backend {
  return {
    geometry: below.geometry,
    abilities: below.abilities,
    limits: below.limits,
    info: below.info,
    counters: below.counters,
    submit: (batch, complete) => below.submit(batch, complete),
    allocate: (byteLength) => below.allocate(byteLength),
    close: () => below.close(),
    ...changes,
  };
}

/** A backend that keeps some requests until they are let go. */
export interface HoldingBackend {
  readonly backend: Backend;
  /** Each carries out one request, in the order of their coming. */
  readonly held: (() => void)[];
}

/** Makes a backend that holds the requests that it is told to. */
export function holding(
  below: Backend,
  holds: (request: Request) => boolean = () => true,
): HoldingBackend {
  const held: (() => void)[] = [];
  const backend = altered(below, {
    // Merged requests would be held together.
    limits: { ...below.limits, maxSegments: 1 },
    submit(batch, complete) {
      for (const request of batch) {
        const submit = () => below.submit([request], complete);
        if (holds(request)) held.push(submit);
        else submit();
      }
    },
  });
  return { backend, held };
}
