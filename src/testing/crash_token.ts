/**
 * A crash state as a short text that finds it again: which recording, which
 * crash point, and what is not as it was written last; then, if the power
 * failed again while recovering, the same for the recovery.
 *
 * @module
 */

/** A state after one crash. */
export interface CrashStep {
  /** The crash point: how many events came before it. */
  readonly point: number;
  /** Variables in which not everything reached the medium, and their options. */
  readonly options: ReadonlyMap<number, number>;
}

/** A state after one crash, or several. */
export interface CrashPath {
  /** Which recording it belongs to. */
  readonly fingerprint: string;
  /** The crashes, in order. */
  readonly steps: readonly CrashStep[];
}

const PREFIX = "crash1";

/**
 * Writes a token.
 *
 * @param path The state.
 * @returns The token.
 */
export function encodeToken({ fingerprint, steps }: CrashPath): string {
  const parts = steps.map(({ point, options }) => {
    let text = `${point}`;
    const sorted = [...options].sort(([a], [b]) => a - b);
    for (let i = 0; i < sorted.length;) {
      const [first, option] = sorted[i]!;
      let run = 1;
      while (
        sorted[i + run]?.[0] === first + run && sorted[i + run]![1] === option
      ) run++;
      const indexes = run === 1 ? `${first}` : `${first}-${first + run - 1}`;
      text += `.${indexes}x${option}`;
      i += run;
    }
    return text;
  });
  return [PREFIX, fingerprint, ...parts].join(":");
}

/**
 * Reads a token.
 *
 * @param token The token.
 * @returns The state.
 * @throws {SyntaxError} If it is none.
 */
export function decodeToken(token: string): CrashPath {
  const [prefix, fingerprint, ...parts] = token.trim().split(":");
  if (
    prefix !== PREFIX || !/^[0-9a-f]{10}$/.test(fingerprint ?? "") ||
    parts.length === 0
  ) throw invalid(token);
  const steps = parts.map((part) => {
    const [point, ...groups] = part.split(".");
    if (!/^\d+$/.test(point!)) throw invalid(token);
    const options = new Map<number, number>();
    for (const group of groups) {
      const match = /^(\d+)(?:-(\d+))?x(\d+)$/.exec(group);
      if (match === null) throw invalid(token);
      const first = Number(match[1]);
      const last = Number(match[2] ?? first);
      if (!(last >= first && last - first <= 2 ** 24)) throw invalid(token);
      for (let i = first; i <= last; i++) options.set(i, Number(match[3]));
    }
    return { point: Number(point), options };
  });
  return { fingerprint: fingerprint!, steps };
}

function invalid(token: string): SyntaxError {
  return new SyntaxError(
    `Cannot read a crash token as it must be one that a failure printed: current value is ${
      JSON.stringify(token)
    }`,
  );
}
