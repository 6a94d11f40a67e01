/**
 * Hashes of what recordings hold: of bytes, and of numbers. They tell apart what
 * a test makes; they are no defence against who looks for collisions.
 *
 * @module
 */

/**
 * A hash of 64 bits of some bytes.
 *
 * @param bytes The bytes, a multiple of 8 of them, at a multiple of 4 of their
 * buffer.
 * @returns Its halves, integers of 32 bits.
 */
export function hashBytes(bytes: Uint8Array): [high: number, low: number] {
  const words = new Int32Array(
    bytes.buffer,
    bytes.byteOffset,
    bytes.length >> 2,
  );
  // Two chains for each half, as one would wait for its own multiplications.
  let [evenHigh, oddHigh] = [0x9e3779b9 | 0, 0x243f6a88];
  let [evenLow, oddLow] = [0x85ebca6b | 0, 0xb7e15162 | 0];
  for (let i = 0; i < words.length; i += 2) {
    const even = words[i]!;
    const odd = words[i + 1]!;
    evenHigh = Math.imul((evenHigh << 13 | evenHigh >>> 19) ^ even, 0xcc9e2d51);
    oddHigh = Math.imul((oddHigh << 13 | oddHigh >>> 19) ^ odd, 0xcc9e2d51);
    evenLow = Math.imul(
      (evenLow << 17 | evenLow >>> 15) + even | 0,
      0x1b873593,
    );
    oddLow = Math.imul((oddLow << 17 | oddLow >>> 15) + odd | 0, 0x1b873593);
  }
  const high = scramble(scramble(evenHigh, oddHigh), evenLow);
  return [high, scramble(scramble(oddLow, evenLow), high)];
}

/**
 * Mixes two integers of 32 bits (the finalizer of Austin Appleby's MurmurHash3
 * over their sum).
 *
 * @param a One.
 * @param b The other.
 * @returns An integer of 32 bits.
 */
export function scramble(a: number, b: number): number {
  let h = a + Math.imul(b, 0x9e3779b1) | 0;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return h ^ (h >>> 16);
}
