/**
 * Requests that a layer hands down, collected, each with who answers it.
 *
 * @module
 */

import type { Backend } from "../backend.ts";
import type { DiskError } from "../errors.ts";
import type { Request } from "../request.ts";

/** Takes the answer of one request. */
export type Answer = (error: DiskError | null) => void;

/** Requests for a backend, and who answers each. */
export class Downward {
  readonly #backend: Backend;
  readonly #answers = new Map<Request, Answer>();

  /** @param backend The backend. */
  constructor(backend: Backend) {
    this.#backend = backend;
  }

  /** Takes a request in. */
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
