/**
 * What belongs to the thread that opened it. `postMessage` and
 * `structuredClone` copy the data of an object and leave out what it can do:
 * the other thread would get something that looks like a disk and is none.
 *
 * @module
 */

/** What is found under `thread`, by name: made once, as disks are made often. */
const threads = new Map<string, symbol>();

/**
 * Lets every attempt to clone an object fail with a `DataCloneError`. The
 * structured clone algorithm visits own enumerable properties and throws on a
 * symbol (HTML standard, StructuredSerializeInternal); V8 prints the symbol's
 * description in the error.
 *
 * @param object The object.
 * @param name What it is, with its article.
 */
export function keepOnThread(object: object, name: string): void {
  let thread = threads.get(name);
  if (thread === undefined) {
    thread = Symbol(`${name} belongs to its thread: open another one there`);
    threads.set(name, thread);
  }
  // Assigned, as to define a property takes 0.5 µs.
  (object as { thread?: symbol }).thread = thread;
}
