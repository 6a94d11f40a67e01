/**
 * Requests of a layer to its base, collected into one batch, each with a
 * callback of its own.
 *
 * @module
 */

import type { Backend } from "../backend.ts";
import type { DiskError } from "../errors.ts";
import type { Request } from "../request.ts";

/** Called with the completion of one request. */
export type Answer = (error: DiskError | null) => void;

/** A batch for a backend, with a callback for each request. */
export class Downward {
  readonly #backend: Backend;
  readonly #answers = new Map<Request, Answer>();

  /** @param backend The backend. */
  constructor(backend: Backend) {
    this.#backend = backend;
  }

  /** Adds a request. */
  add(request: Request, answer: Answer): void {
    this.#answers.set(request, answer);
  }

  /** Submits them all as one batch. */
  submit(): void {
    if (this.#answers.size === 0) return;
    this.#backend.submit(
      [...this.#answers.keys()],
      (request, error) => this.#answers.get(request)!(error),
    );
  }
}
