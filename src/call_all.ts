/**
 * Answers everybody who is to be answered, though some of them throw.
 *
 * @module
 */

/**
 * Calls a function for each item, also for those after one for which it throws.
 *
 * @param items The items.
 * @param call The function.
 * @throws What the function threw first, after all calls.
 */
export function callAll<T>(
  items: Iterable<T>,
  call: (item: T) => void,
): void {
  let failed = false;
  let first: unknown;
  for (const item of items) {
    try {
      call(item);
    } catch (error) {
      if (!failed) first = error;
      failed = true;
    }
  }
  if (failed) throw first;
}
