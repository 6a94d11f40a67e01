/**
 * The error that says why FFI cannot be used here. No I/O, no addresses.
 *
 * @module
 */

/**
 * Why FFI cannot be used:
 *
 * - `"permission"`: the runtime does not allow it, or only for certain paths;
 * - `"library"`: the C library could not be opened, or there is nothing to call it by;
 * - `"unusable"`: what calls it is there, and does not work: nobody meant to do
 *   without it, and with it without locks;
 * - `"platform"`: there is no table of constants for this system.
 */
export type FfiErrorKind = "permission" | "library" | "unusable" | "platform";

/** FFI cannot be used here; the message says why and what to do. */
export class FfiError extends Error {
  /** Why, in one word. */
  readonly kind: FfiErrorKind;

  /**
   * Makes the error.
   *
   * @param kind Why, in one word.
   * @param message Why, and what to do.
   * @param options The error behind it.
   */
  constructor(kind: FfiErrorKind, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "FfiError";
    this.kind = kind;
  }
}
